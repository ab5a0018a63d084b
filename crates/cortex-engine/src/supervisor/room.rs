//! Who is loaded and who has to leave, by the memory that there is.

use super::{
    Command, Supervisor,
    entry::{Entry, Measure},
    loading::{shape, why_not_graphics},
    resting::Rested,
};
use crate::{
    EngineError, LoadSettings,
    admission::{self, Room, Shortage},
    ledger::{self, Holding},
    need::Size,
    slot_state::{Event, State, step},
};
use cortex_hardware::{Budget, Graphics, Memory};
use cortex_models::ModelId;
use tokio::time::Instant;

impl Supervisor {
    /// Takes requests whose client has left out of the queue.
    pub(super) fn forget_who_left(&mut self) {
        for entry in self.entries.values_mut() {
            if !matches!(entry.state, State::Queued { .. }) {
                continue;
            }
            let before = entry.waiters.len();
            entry.waiters.retain(|(_, waiter)| !waiter.is_closed());
            for _ in entry.waiters.len()..before {
                entry.state = step(entry.state, Event::Left).0;
            }
        }
        self.entries.retain(|_, entry| entry.state != State::Idle || !entry.unloaded.is_empty());
    }

    /// Loads what there is room for, and lets go what has to make room.
    pub(super) fn admit(&mut self) {
        self.look_again = None;
        if !self.entries.values().any(|entry| matches!(entry.state, State::Queued { .. })) {
            return;
        }
        let accelerators = self.accelerators.report();
        if accelerators.is_pending {
            // They answer soon, or are given up; a command says so.
            return;
        }
        self.forget_who_left();
        self.measure();
        let now = Instant::now();
        let (mut ids, mut models, mut holdings) = (Vec::new(), Vec::new(), Vec::new());
        for (id, entry) in &self.entries {
            let holding = entry.holding();
            holdings.extend(holding);
            if let Some(model) = entry.for_admission(holding, now, self.began) {
                ids.push(id.clone());
                models.push(model);
            }
        }
        if !models.iter().any(|model| matches!(model, admission::Model::Waiting { .. })) {
            return;
        }
        let memory = Memory::probe();
        let room = |available: u64, holdings: &[Holding]| Room {
            free: ledger::free(Memory { available, ..memory }, self.config.memory_limit, holdings),
            graphics: ledger::free_graphics(accelerators.graphics(), holdings),
            places: self.config.max_loaded.map_or(usize::MAX, |most| {
                most.saturating_sub(self.entries.values().filter(|it| it.is_held()).count())
            }),
            patience: self.config.patience,
        };
        let waiting: Vec<&ModelId> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Queued { .. }))
            .map(|(id, _)| id)
            .collect();
        let (of_others, of_resting) = self.resting.holdings(&waiting);
        let without = room(memory.available.saturating_add(of_resting), &holdings);
        let plan = admission::plan(&models, without);
        if !of_others.is_empty() {
            let of_others_taken = of_others.iter().map(|it| it.taken).fold(0, u64::saturating_add);
            let kept: Vec<Holding> = holdings.iter().copied().chain(of_others).collect();
            let available = memory.available.saturating_add(of_resting.saturating_sub(of_others_taken));
            // They rest in what nobody needs: no model is refused, made smaller or sent away for them.
            if admission::plan(&models, room(available, &kept)) != plan {
                let others = self.resting.take_others(&waiting);
                self.end_rest(others);
                return;
            }
        }
        let room = without;
        tracing::debug!(?room, ?plan, "room for models");
        self.look_again = plan.again.map(|wait| now + wait);
        for at in plan.leave {
            tracing::info!(model = %ids[at], "leaves to make room");
            self.counts.evictions.add();
            if let Some(entry) = self.entries.get_mut(&ids[at]) {
                entry.makes_room = true;
            }
            self.apply(&ids[at], Event::Unload, None);
        }
        for (at, size) in plan.load {
            self.generation += 1;
            if let Some(entry) = self.entries.get_mut(&ids[at]) {
                (entry.reserved, entry.graphics) = (size.bytes, size.graphics);
                entry.size = Some(size);
                entry.why_not_graphics = why_not_graphics(&accelerators, entry, size);
                entry.load_began = now;
            }
            self.apply(&ids[at], Event::Admitted(self.generation), None);
        }
        for (at, shortage) in plan.refuse {
            let error = self.shortage(&ids[at], shortage);
            self.refuse(&ids[at], &error);
        }
    }

    /// A model that waits to be loaded will not be.
    pub(super) fn refuse(&mut self, id: &ModelId, error: &EngineError) {
        tracing::warn!(model = %id, %error, "cannot be loaded");
        self.forget_order(id);
        self.apply_with(id, Event::Refused, None, error);
        self.entries.remove(id);
    }

    /// An order that could never be followed would be in the way of the next; one that was holds: it may be possible again.
    pub(super) fn forget_order(&mut self, id: &ModelId) {
        if self.orders.get(id).is_some_and(|order| !order.was_followed) {
            self.orders.remove(id);
        }
    }

    /// Has the headers of the models read that are wanted and not known.
    fn measure(&mut self) {
        for (id, entry) in &mut self.entries {
            if !matches!((entry.state, &entry.measure), (State::Queued { .. }, Measure::Unknown)) {
                continue;
            }
            self.generation += 1;
            let number = self.generation;
            entry.measure = Measure::Asked(number);
            let (id, files, commands) = (id.clone(), entry.files.clone(), self.commands.clone());
            self.tasks.spawn(async move {
                // A task that panicked has said so; the size alone must do then.
                let shape = tokio::task::spawn_blocking(move || shape(&files)).await.unwrap_or_default();
                let _ = commands.send(Command::Measured { id, number, shape });
            });
        }
    }

    /// Ends workers that rest; admission is asked again when they are gone.
    fn end_rest(&self, rested: Vec<Rested>) {
        let commands = self.commands.clone();
        self.tasks.spawn(async move {
            for it in rested {
                it.worker.end().await;
            }
            let _ = commands.send(Command::RestIsOver);
        });
    }

    /// Whether a loaded model would be loaded in another way now: what is ordered differs, or its settings are others than they were.
    pub(super) fn is_loaded_otherwise(&self, id: &ModelId, load: LoadSettings) -> bool {
        let Some(entry) = self.entries.get(id) else { return false };
        let (Some(session), Measure::Known(need), Some(size)) = (&entry.session, &entry.measure, entry.size) else {
            return false;
        };
        let most_layers = |load: LoadSettings| load.device_layers.unwrap_or(u32::MAX).min(need.layers());
        let is_stored_otherwise = entry.load.cache_type != load.cache_type
            || entry.load.threads != load.threads
            || most_layers(entry.load) != most_layers(load) && self.accelerators.report().graphics() != Graphics::None;
        let is_elsewhere = size.layers > 0 && entry.devices != self.accelerators.report().names();
        let before = need.whole();
        let need = need.with(load);
        let (context, parallel) = need.whole();
        let facts = (session.facts.context_length, session.facts.parallel);
        is_stored_otherwise
            // Its settings are others now.
            || before != (context, parallel) && facts != (context, parallel)
            || is_elsewhere
            || load.fixed_context && facts.0 != context
            || load.fixed_parallel && facts.1 != parallel
    }

    /// Whether a loaded model would get more now than it has.
    pub(super) fn is_larger_now(&self, id: &ModelId, load: LoadSettings) -> bool {
        let Some(entry) = self.entries.get(id) else { return false };
        let (Some(session), Measure::Known(need), Some(size)) = (&entry.session, &entry.measure, entry.size) else {
            return false;
        };
        let need = need.with(load);
        let (context, parallel) = need.whole();
        let facts = (session.facts.context_length, session.facts.parallel);
        // Nobody has to leave for it.
        let is_more = |larger: Size| {
            facts != (context, parallel) && (larger.context, larger.parallel) > (size.context, size.parallel)
                || (larger.context, larger.parallel) >= facts && larger.layers > size.layers
        };
        need.within(self.room_beside(id, |_| true)).is_some_and(is_more)
    }

    /// Whether a model that is loaded could be loaded in another way.
    pub(super) fn could_be(&self, id: &ModelId, load: LoadSettings) -> Result<(), EngineError> {
        let Some(Measure::Known(need)) = self.entries.get(id).map(|entry| &entry.measure) else { return Ok(()) };
        let most = self.room_beside(id, |entry| entry.pinned);
        let need = need.with(load);
        if let Some(reason) = need.unusable() {
            return Err(EngineError::UnusableSettings { model: id.to_string(), reason });
        }
        match need.within(most) {
            Some(_) => Ok(()),
            None => Err(self.does_not_fit(id, need.least(most.graphics), most)),
        }
    }

    /// What a model could have beside those others that stay.
    fn room_beside(&self, id: &ModelId, stays: impl Fn(&Entry) -> bool) -> Budget {
        let mut memory = Memory::probe();
        let mut staying = Vec::new();
        for (other, entry) in &self.entries {
            let Some(holding) = entry.holding() else { continue };
            if other != id && stays(entry) {
                staying.push(holding);
            } else {
                memory.available = memory.available.saturating_add(holding.taken).min(memory.total);
            }
        }
        let free = ledger::free(memory, self.config.memory_limit, &staying);
        Budget {
            memory: u64::try_from(free).unwrap_or(0),
            graphics: ledger::free_graphics(self.accelerators.report().graphics(), &staying),
        }
    }

    pub(super) fn shortage(&self, id: &ModelId, shortage: Shortage) -> EngineError {
        let pinned = || self.entries.iter().filter(|(_, entry)| entry.pinned && entry.holding().is_some());
        match shortage {
            Shortage::Places => EngineError::Overloaded { loaded: pinned().count() },
            Shortage::Memory(available) => {
                let least = match self.entries.get(id).map(|entry| &entry.measure) {
                    Some(Measure::Known(need)) => need.least(available.graphics),
                    _ => Size::default(),
                };
                self.does_not_fit(id, least, available)
            }
        }
    }

    fn does_not_fit(&self, id: &ModelId, least: Size, available: Budget) -> EngineError {
        let is_pinned = |(other, entry): &(&ModelId, &Entry)| *other != id && entry.pinned && entry.holding().is_some();
        EngineError::DoesNotFit {
            model: id.to_string(),
            context: least.context,
            parallel: least.parallel,
            needed: least.bytes,
            available: available.memory,
            pinned: self.entries.iter().filter(is_pinned).map(|(id, _)| id.to_string()).collect(),
        }
    }
}
