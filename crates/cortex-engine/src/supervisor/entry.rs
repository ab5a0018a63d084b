//! What the supervisor holds for one model.

use super::{Waiter, Wanted};
use crate::{
    ContextOrigin, LoadSettings, LoadedModel, Phase,
    admission::{Demand, Hold, Model},
    ledger::Holding,
    need::{Need, Size},
    slot_state::State,
    worker::{End, Session},
};
use cortex_api::worker::BufferKind;
use cortex_hardware::process_anonymous_bytes;
use cortex_models::{KeepAlive, ModelFiles, ModelId};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::oneshot, time::Instant};

/// What is known of the memory that a model needs.
pub(super) enum Measure {
    /// Nothing.
    Unknown,
    /// Its header is being read.
    Asked(u64),
    Known(Need),
}

/// What is held for one model.
pub(super) struct Entry {
    pub(super) state: State,
    pub(super) files: ModelFiles,
    pub(super) load: LoadSettings,
    pub(super) measure: Measure,
    /// The room that its worker gets.
    pub(super) size: Option<Size>,
    /// Bytes of memory that are set aside for it.
    pub(super) reserved: u64,
    /// Bytes of the memory that graphics processors have of their own.
    pub(super) graphics: u64,
    /// The graphics processors that its worker was told to use.
    pub(super) devices: Vec<String>,
    /// Why not all of it is on graphics processors.
    pub(super) why_not_graphics: Option<String>,
    /// Requests that wait, each with the moment it came.
    pub(super) waiters: Vec<(Instant, Waiter)>,
    /// Requests that say how it should be loaded, and came while it was loading.
    pub(super) later: Vec<(Wanted, Waiter)>,
    /// The worker's process; 0 before it has one.
    pub(super) pid: u32,
    pub(super) session: Option<Arc<Session>>,
    /// Dropping it ends the worker.
    pub(super) stop: Option<oneshot::Sender<End>>,
    /// It leaves to make room, and may be wanted again soon.
    pub(super) makes_room: bool,
    /// What the last request said about how long it stays.
    pub(super) keep_alive: Option<KeepAlive>,
    /// What an order said about it.
    pub(super) ordered_keep_alive: Option<KeepAlive>,
    pub(super) pinned: bool,
    pub(super) since: SystemTime,
    pub(super) load_began: Instant,
    /// How long the load took.
    pub(super) load_time: Duration,
    last_used: Instant,
    last_used_at: SystemTime,
    pub(super) demand: Demand,
    /// Told when the worker is gone.
    pub(super) unloaded: Vec<oneshot::Sender<bool>>,
}

impl Entry {
    pub(super) fn new(files: ModelFiles, load: LoadSettings) -> Self {
        let now = Instant::now();
        Self {
            state: State::Idle,
            files,
            load,
            measure: Measure::Unknown,
            size: None,
            reserved: 0,
            graphics: 0,
            devices: vec![],
            why_not_graphics: None,
            waiters: vec![],
            later: vec![],
            pid: 0,
            session: None,
            stop: None,
            makes_room: false,
            keep_alive: None,
            ordered_keep_alive: None,
            pinned: false,
            since: SystemTime::now(),
            load_began: now,
            load_time: Duration::ZERO,
            last_used: now,
            last_used_at: SystemTime::now(),
            demand: Demand::default(),
            unloaded: vec![],
        }
    }

    /// Somebody uses it, or did until now.
    pub(super) fn used(&mut self) {
        (self.last_used, self.last_used_at) = (Instant::now(), SystemTime::now());
    }

    /// Nothing is left of the last worker.
    pub(super) fn worker_is_gone(&mut self) {
        (self.reserved, self.graphics, self.pid, self.size) = (0, 0, 0, None);
        (self.session, self.stop, self.makes_room) = (None, None, false);
    }

    /// How its worker ends: one that makes room rests when all that it would keep is small, or mapped from the file.
    pub(super) fn end(&self) -> End {
        let keeps_little = self.session.as_ref().is_some_and(|session| {
            let weights = session.facts.buffers.iter().filter(|it| it.kind == BufferKind::Weights);
            weights.clone().count() > 0 && weights.into_iter().all(|it| it.device == "CPU")
        });
        if self.makes_room && keeps_little { End::Rest } else { End::Stop }
    }

    /// How long it stays when nobody uses it.
    fn stays(&self, usual: KeepAlive) -> KeepAlive {
        self.keep_alive.or(self.ordered_keep_alive).or(self.load.keep_alive).unwrap_or(usual)
    }

    /// When it leaves, if nobody uses it until then.
    pub(super) fn leaves_at(&self, usual: KeepAlive) -> Option<Instant> {
        match (self.state, self.stays(usual)) {
            (State::Ready { leases: 0, .. }, KeepAlive::For(time)) if !self.pinned => self.last_used.checked_add(time),
            _ => None,
        }
    }

    /// Whether it has a worker, or will have one.
    pub(super) fn is_held(&self) -> bool {
        !matches!(self.state, State::Idle | State::Queued { .. })
    }

    /// What it has of the memory; nothing while it only waits.
    pub(super) fn holding(&self) -> Option<Holding> {
        let taken = if self.pid == 0 { 0 } else { process_anonymous_bytes(self.pid) };
        match self.state {
            State::Idle | State::Queued { .. } => None,
            State::Loading { .. } | State::Ready { .. } | State::Draining { .. } => {
                Some(Holding { reserved: self.reserved, taken, graphics: self.graphics })
            }
        }
    }

    /// How admission sees it; nothing while it is not known what it needs.
    pub(super) fn for_admission(&self, holding: Option<Holding>, now: Instant, began: Instant) -> Option<Model<'_>> {
        let hold = match (self.state, &self.measure) {
            (State::Idle, _) | (State::Queued { .. }, Measure::Unknown | Measure::Asked(_)) => return None,
            (State::Queued { .. }, Measure::Known(need)) => {
                let oldest = self.waiters.iter().map(|(came, _)| *came).min()?;
                return Some(Model::Waiting { need, since: now - oldest });
            }
            (State::Loading { .. }, _) => Hold::Loading,
            (State::Ready { leases: 0, .. }, _) => {
                Hold::Idle { expected: self.demand.expected(now - began, self.load_time) }
            }
            (State::Ready { .. }, _) => Hold::Busy,
            (State::Draining { .. }, _) => Hold::Leaving,
        };
        let (bytes, graphics) = holding.map_or((0, 0), |it| (it.bytes(), it.graphics));
        Some(Model::Held { bytes, graphics, hold, pinned: self.pinned, unused: now - self.last_used })
    }

    /// Requests that wait: for the model, or for a place in it.
    pub(super) fn waiting(&self) -> usize {
        let parallel = self.session.as_ref().map_or(0, |session| session.facts.parallel as usize);
        let for_a_place = match self.state {
            State::Ready { leases, .. } | State::Draining { leases, .. } => leases.saturating_sub(parallel),
            State::Idle | State::Queued { .. } | State::Loading { .. } => 0,
        };
        self.waiters.len() + self.later.len() + for_a_place
    }

    /// Whether a further request would be answered at once.
    pub(super) fn has_a_place(&self) -> bool {
        let parallel = self.session.as_ref().map_or(0, |session| session.facts.parallel as usize);
        matches!(self.state, State::Ready { leases, .. } if leases < parallel)
    }

    /// Where the length of its context comes from.
    fn context_origin(&self) -> ContextOrigin {
        let Measure::Known(need) = &self.measure else { return ContextOrigin::Unknown };
        let whole = need.whole().0;
        if self.size.is_some_and(|size| size.context < whole) {
            return ContextOrigin::Memory;
        }
        let trained = need.architecture().map_or(0, |it| it.trained_context);
        match self.load {
            load if load.fixed_context => ContextOrigin::Order,
            load if load.stored_context == Some(whole) && whole != trained => ContextOrigin::Model,
            _ if whole == trained => ContextOrigin::Trained,
            load if load.context_length == whole => ContextOrigin::Settings,
            _ => ContextOrigin::Comfortable,
        }
    }

    /// What others see of it.
    pub(super) fn view(&self, id: &ModelId, usual: KeepAlive) -> Option<LoadedModel> {
        let (requests, phase) = match self.state {
            State::Ready { leases, .. } => (leases, Phase::Ready),
            State::Draining { leases, .. } => (leases, Phase::Leaving),
            State::Loading { .. } => (0, Phase::Loading),
            State::Queued { .. } => (0, Phase::Waiting),
            State::Idle => return None,
        };
        let facts = self.session.as_ref().map(|session| &session.facts);
        let size = self.size;
        let leaves_at = self.leaves_at(usual).and_then(|moment| self.last_used_at.checked_add(moment - self.last_used));
        Some(LoadedModel {
            id: id.clone(),
            since: self.since,
            requests,
            waiting: self.waiting(),
            context_length: facts.map_or(size.map_or(0, |size| size.context), |facts| facts.context_length),
            requested_context: match &self.measure {
                Measure::Known(need) => need.whole().0,
                Measure::Unknown | Measure::Asked(_) => self.load.context_length,
            },
            context_origin: self.context_origin(),
            cache_type: self.load.cache_type,
            parallel: facts.map_or(size.map_or(0, |size| size.parallel), |facts| facts.parallel),
            requested_parallel: self.load.parallel,
            threads: facts.map_or((0, 0), |facts| (facts.threads, facts.threads_batch)),
            model_bytes: facts.map_or(0, |facts| facts.model_bytes),
            buffers: facts.map(|facts| facts.buffers.clone()).unwrap_or_default(),
            reserved: self.reserved,
            graphics: self.graphics,
            placement: facts.map(|facts| facts.placement.clone()).unwrap_or_default(),
            why_not_graphics: self.why_not_graphics.clone(),
            pid: self.pid,
            pinned: self.pinned,
            leaves_at,
            phase,
        })
    }
}
