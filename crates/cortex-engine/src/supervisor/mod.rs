//! The one owner of loaded models. Its loop takes a command, asks [`step`] what follows for the model and
//! [`admission::plan`] what follows for memory, and starts the actions in tasks of their own; it never awaits IO.

mod entry;
mod loading;
mod resting;
mod room;
mod view;

pub use view::{ContextOrigin, Count, Counts, LoadedModel, Phase};

use crate::{
    Config, EngineError, LoadOrder, LoadSettings, Tasks,
    accelerators::Accelerators,
    failures::{Attempt, Failures},
    fits::KnownShapes,
    lease::Lease,
    ledger,
    modules::Modules,
    need::Need,
    slot_state::{Action, Event, Generation, State, step},
    speeds::Speeds,
    variants::{ModuleChoice, VariantReport},
    worker::{Session, clear_scratch},
};
use cortex_api::worker::Timings;
use cortex_hardware::{Cpu, Memory, ModelShape, Topology};
use cortex_models::{KeepAlive, ModelFiles, ModelId};
use entry::{Entry, Measure};
use loading::reported;
use resting::{Rested, RestingWorkers};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// A request for a loaded model.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) id: ModelId,
    pub(crate) files: ModelFiles,
    pub(crate) load: LoadSettings,
    /// How long it stays after this request.
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) purpose: Purpose,
}

/// What a loaded model is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To answer, as it is loaded.
    Answer,
    /// To answer once more what a worker has died of or beside. Who came since may want it loaded otherwise, and comes first.
    Again,
    /// To answer, with more room than it has if there is more now.
    MoreRoom,
    /// A person or a program ordered this load: it is tried whatever happened before, made anew when it is loaded
    /// otherwise, and kept in mind until the model is stopped. What it does not name is as in an order before it.
    Order { order: LoadOrder, pin: Option<bool> },
}

/// What was ordered for a model.
#[derive(Debug, Clone, Copy)]
struct Order {
    load: LoadOrder,
    keep_alive: Option<KeepAlive>,
    pin: Option<bool>,
    /// The model was loaded like that.
    was_followed: bool,
}

/// What the supervisor is told.
pub(crate) enum Command {
    /// A request wants a model.
    Acquire(Box<Wanted>, Waiter),
    /// What the header of a model says.
    Measured { id: ModelId, number: u64, shape: ModelShape },
    /// A worker has begun to load.
    Started { id: ModelId, generation: Generation, pid: u32 },
    /// A worker is ready, or could not be.
    Loaded { id: ModelId, generation: Generation, result: Result<Arc<Session>, EngineError> },
    /// A worker that was ready is gone; the reason when nobody asked for it.
    Exited { id: ModelId, generation: Generation, error: Option<EngineError> },
    /// An answer is complete.
    Answered { id: ModelId, generation: Generation, timings: Timings },
    /// Somebody asks how fast models are.
    MeasureSpeed,
    /// A worker has freed what it can.
    Rests(Box<Rested>),
    /// Workers that rested are gone, and with them what they had.
    RestIsOver,
    /// A lease came back.
    Released { id: ModelId, generation: Generation },
    /// The settings of a model are others now.
    Settings { id: ModelId, load: LoadSettings },
    /// A model should leave.
    Unload { id: ModelId, reply: oneshot::Sender<bool> },
    /// What there is of graphics processors is known, or which of them are on is another.
    Accelerators,
    /// A compute module should be chosen now.
    ChooseVariant { reply: oneshot::Sender<()> },
    /// There may be other compute modules than before.
    OtherModules,
    /// The daemon is stopping.
    ShutDown { streams: Duration, workers: Duration, reply: oneshot::Sender<()> },
}

/// Where a request waits for its model.
pub(crate) type Waiter = oneshot::Sender<Result<Lease, EngineError>>;

/// The owner of everything that is loaded.
pub(crate) struct Supervisor {
    config: Config,
    tasks: Tasks,
    /// Numbers of threads that may be the best ones.
    thread_choices: Vec<u32>,
    commands: mpsc::UnboundedSender<Command>,
    entries: HashMap<ModelId, Entry>,
    /// Outlive the worker: they hold until the model is stopped, or was not used for long enough.
    orders: HashMap<ModelId, Order>,
    failures: Failures,
    resting: RestingWorkers,
    /// The last number that was given to a worker or a measurement.
    generation: Generation,
    /// When admission has to be asked again, if nothing happens before.
    look_again: Option<Instant>,
    began: Instant,
    counts: Arc<Counts>,
    modules: Arc<Modules>,
    /// Shared with the loads, which choose a module before they start a worker.
    choice: Arc<ModuleChoice>,
    accelerators: Arc<Accelerators>,
    speeds: Arc<Speeds>,
    shapes: Arc<KnownShapes>,
    loaded: watch::Sender<Arc<Vec<LoadedModel>>>,
    /// Why the module in use must not be used again; the next choice is told.
    variant_died: Option<String>,
    closing: bool,
}

/// What others may look at.
pub(crate) struct Views {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) loaded: watch::Receiver<Arc<Vec<LoadedModel>>>,
    pub(crate) report: watch::Receiver<Arc<VariantReport>>,
    pub(crate) modules: Arc<Modules>,
    pub(crate) choice: Arc<ModuleChoice>,
    pub(crate) accelerators: Arc<Accelerators>,
    pub(crate) speeds: Arc<Speeds>,
    pub(crate) shapes: Arc<KnownShapes>,
    pub(crate) counts: Arc<Counts>,
}

impl Supervisor {
    pub(crate) fn start(config: Config, tasks: &Tasks) -> Views {
        let (commands, mut inbox) = mpsc::unbounded_channel();
        let (loaded, loaded_view) = watch::channel(Arc::default());
        let cores = Cpu::probe().cores;
        let topology = Topology::probe();
        let mut thread_choices: Vec<u32> = Vec::new();
        // One for each core is what is taken where nothing else is clearly faster.
        for count in [cores, topology.threads, topology.performance_cores] {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            if count > 0 && !thread_choices.contains(&count) {
                thread_choices.push(count);
            }
        }
        clear_scratch(&config.cache_folder);
        let modules = Arc::new(Modules::new(&config));
        let mut supervisor = Self {
            choice: Arc::new(ModuleChoice::new(&config, Arc::clone(&modules))),
            accelerators: Arc::new(Accelerators::new(&config, Arc::clone(&modules))),
            modules,
            speeds: Arc::new(Speeds::new(&config, cores)),
            shapes: Arc::default(),
            thread_choices,
            config,
            tasks: tasks.child(),
            commands: commands.clone(),
            entries: HashMap::new(),
            orders: HashMap::new(),
            failures: Failures::default(),
            resting: RestingWorkers::default(),
            generation: 0,
            look_again: None,
            began: Instant::now(),
            counts: Arc::default(),
            loaded,
            variant_died: None,
            closing: false,
        };
        let counts = Arc::clone(&supervisor.counts);
        let (accelerators, speeds) = (Arc::clone(&supervisor.accelerators), Arc::clone(&supervisor.speeds));
        let (modules, choice) = (Arc::clone(&supervisor.modules), Arc::clone(&supervisor.choice));
        let (shapes, report) = (Arc::clone(&supervisor.shapes), supervisor.choice.watch());
        if accelerators.has_modules() {
            supervisor.look_for_accelerators();
        }
        tasks.spawn(async move {
            loop {
                let wake = supervisor.next_idle().into_iter().chain(supervisor.look_again).min();
                tokio::select! {
                    command = inbox.recv() => match command {
                        Some(command) => supervisor.take(command),
                        None => return,
                    },
                    () = sleep_until(wake) => supervisor.unload_idle(),
                }
                supervisor.admit();
                supervisor.publish();
            }
        });
        Views { commands, loaded: loaded_view, report, modules, choice, accelerators, speeds, shapes, counts }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Acquire(wanted, reply) => self.acquire(*wanted, reply),
            Command::Measured { id, number, shape } => self.measured(&id, number, shape),
            Command::Started { id, generation, pid } => {
                if let Some(entry) = self.entries.get_mut(&id)
                    && matches!(entry.state, State::Loading { generation: current, .. } if current == generation)
                {
                    entry.pid = pid;
                }
            }
            Command::Loaded { id, generation, result } => self.loaded(&id, generation, result),
            Command::Exited { id, generation, error } => {
                if error.is_some() {
                    self.counts.lost_workers.add();
                }
                self.exited(&id, generation, error);
            }
            Command::Answered { id, generation, timings } => self.answered(&id, generation, timings),
            Command::MeasureSpeed => self.measure_speed(),
            Command::Released { id, generation } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.used();
                }
                self.apply(&id, Event::Released(generation), None);
            }
            Command::Settings { id, load } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    (entry.load.keep_alive, entry.load.pin) = (load.keep_alive, load.pin);
                    self.settle(&id);
                }
            }
            // The loop asks for room after each command.
            Command::Accelerators | Command::RestIsOver => {}
            Command::Rests(rested) => {
                if !self.closing {
                    self.resting.add(*rested);
                }
            }
            Command::Unload { id, reply } => self.unload(&id, reply),
            Command::ChooseVariant { reply } => {
                let (choice, died) = (Arc::clone(&self.choice), self.variant_died.take());
                self.tasks.spawn(async move {
                    choice.choose(died.as_deref()).await;
                    let _ = reply.send(());
                });
            }
            Command::OtherModules => self.look_for_accelerators(),
            Command::ShutDown { streams, workers, reply } => self.shut_down(streams, workers, reply),
        }
    }

    fn acquire(&mut self, wanted: Wanted, reply: Waiter) {
        if let Err(error) = self.may_wait(&wanted) {
            let _ = reply.send(Err(error));
            return;
        }
        let Wanted { id, files, load, keep_alive, purpose } = wanted.clone();
        if let Purpose::Order { order, pin } = purpose {
            let before = self.orders.get(&id);
            let order = before.map_or(order, |before| order.after(before.load));
            let pin = pin.or(before.and_then(|before| before.pin));
            // What cannot be is refused before anything leaves for it.
            if let Err(error) = self.could_be(&id, order.over(load)) {
                let _ = reply.send(Err(error));
                return;
            }
            self.orders.insert(id.clone(), Order { load: order, keep_alive, pin, was_followed: false });
        }
        let load = self.as_ordered(&id, load);
        // Its adapters are numbers of files.
        if purpose == Purpose::Again && self.entries.get(&id).is_some_and(|it| it.files.adapters != files.adapters) {
            let _ = reply.send(Err(EngineError::Stopped { model: id.to_string() }));
            return;
        }
        let is_again = purpose == Purpose::Again && self.entries.contains_key(&id);
        let entry = self.entries.entry(id.clone()).or_insert_with(|| Entry::new(files.clone(), load));
        (entry.load.keep_alive, entry.load.pin) = (load.keep_alive, load.pin);
        // An order's is in mind by itself.
        entry.keep_alive = if matches!(purpose, Purpose::Order { .. }) { None } else { keep_alive };
        entry.demand.asked(self.began.elapsed());
        self.settle(&id);
        // A request names adapters by their numbers among those that it knows; and who sets another model to guess means it.
        let has_other_files = !is_again
            && self.entries.get(&id).is_some_and(|entry| {
                entry.files.adapters != files.adapters
                    || entry.files.draft_model != files.draft_model
                    || entry.files.mtp != files.mtp
            });
        match self.entries.get(&id).map(|entry| entry.state) {
            // What loads now may be another size: that is seen when it is there.
            Some(State::Loading { .. }) if may_be_larger(purpose) || has_other_files => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.later.push((wanted, reply));
                }
                return;
            }
            Some(State::Ready { .. })
                if has_other_files
                    || may_be_larger(purpose) && self.is_larger_now(&id, load)
                    || matches!(purpose, Purpose::Order { .. }) && self.is_loaded_otherwise(&id, load) =>
            {
                // What runs ends as it began, and then it is loaded anew.
                self.apply(&id, Event::Unload, None);
            }
            _ => {}
        }
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let is_loaded_later = matches!(entry.state, State::Idle | State::Queued { .. } | State::Draining { .. });
        if is_loaded_later && !is_again && (entry.load != load || entry.files != files) {
            (entry.files, entry.load, entry.measure) = (files, load, Measure::Unknown);
        }
        self.apply(&id, Event::Acquire, Some(reply));
    }

    fn measured(&mut self, id: &ModelId, number: u64, shape: ModelShape) {
        let all = ledger::all(Memory::probe(), self.config.memory_limit, self.accelerators.report().graphics());
        let Some(entry) = self.entries.get_mut(id) else { return };
        if !matches!(entry.measure, Measure::Asked(asked) if asked == number) {
            return;
        }
        let guesser = entry.files.check_guesser(&shape).err().map(|why| why.to_string());
        self.shapes.remember(id, &entry.files.weights, shape.clone());
        let need = Need::new(shape, entry.load, all);
        let wrong = guesser.or_else(|| need.unusable());
        entry.measure = Measure::Known(need);
        // Before others leave for it.
        if let Some(reason) = wrong {
            self.refuse(id, &EngineError::UnusableSettings { model: id.to_string(), reason });
        }
    }

    /// How a model is loaded whose settings say this: what was ordered comes first.
    fn as_ordered(&self, id: &ModelId, stored: LoadSettings) -> LoadSettings {
        self.orders.get(id).map_or(stored, |order| order.load.over(stored))
    }

    /// How long a model stays, and whether it is pinned, from what was ordered and what its settings say.
    fn settle(&mut self, id: &ModelId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let order = self.orders.get(id);
        entry.pinned = order.and_then(|order| order.pin).unwrap_or(entry.load.pin);
        entry.ordered_keep_alive = order.and_then(|order| order.keep_alive);
    }

    /// Whether a request may join those that wait.
    fn may_wait(&mut self, wanted: &Wanted) -> Result<(), EngineError> {
        if self.closing {
            return Err(EngineError::ShuttingDown);
        }
        let entry = self.entries.get(&wanted.id);
        if matches!(wanted.purpose, Purpose::Order { .. }) {
            self.failures.forget(&wanted.id);
        } else if entry.is_none() {
            let load = self.as_ordered(&wanted.id, wanted.load);
            if let Some(error) = self.failures.refusal(&wanted.id, &wanted.files, load, Instant::now()) {
                return Err(error);
            }
        }
        if !entry.is_some_and(Entry::has_a_place) {
            self.forget_who_left();
            let waiting = self.entries.values().map(Entry::waiting).sum();
            if waiting >= self.config.max_queued {
                self.counts.refused_requests.add();
                return Err(EngineError::QueueFull { waiting });
            }
        }
        Ok(())
    }

    fn loaded(&mut self, id: &ModelId, generation: Generation, result: Result<Arc<Session>, EngineError>) {
        match result {
            Ok(session) => {
                let Some(entry) = self.entries.get_mut(id) else { return };
                if matches!(entry.state, State::Loading { generation: current, .. } if current == generation) {
                    tracing::info!(model = %id, pid = session.pid, context = session.facts.context_length, parallel = session.facts.parallel, "loaded");
                    self.counts.loads.add();
                    self.failures.forget(id);
                    if let Some(order) = self.orders.get_mut(id) {
                        order.was_followed = true;
                    }
                    if let Some(reported) =
                        reported(&session, &entry.measure, (!entry.devices.is_empty(), entry.graphics > 0))
                    {
                        (entry.reserved, entry.graphics) = reported;
                    }
                    entry.pid = session.pid;
                    entry.session = Some(session);
                    entry.since = SystemTime::now();
                    entry.load_time = entry.load_began.elapsed();
                    entry.used();
                }
                self.apply(id, Event::Loaded(generation), None);
                let later = self.entries.get_mut(id).map(|entry| std::mem::take(&mut entry.later));
                for (wanted, reply) in later.into_iter().flatten() {
                    self.acquire(wanted, reply);
                }
            }
            Err(error) => {
                tracing::warn!(model = %id, %error, "could not be loaded");
                let is_ours = matches!(error, EngineError::Stopped { .. } | EngineError::ShuttingDown);
                let is_of_settings = matches!(error, EngineError::UnusableSettings { .. });
                // Their module, or a driver, may be another than it was: what works is found out anew, and the next load goes by it.
                let has_devices = self.entries.get(id).is_some_and(|entry| !entry.devices.is_empty());
                if !is_ours && !is_of_settings && has_devices {
                    self.accelerators.expect_others();
                    self.look_for_accelerators();
                }
                if !is_ours {
                    self.forget_order(id);
                }
                if !is_ours && let Some(entry) = self.entries.get(id) {
                    self.counts.failed_loads.add();
                    self.failures.failed(id, Attempt::now(&entry.files, entry.load), &error, Instant::now());
                }
                self.exited(id, generation, Some(error));
            }
        }
    }

    fn exited(&mut self, id: &ModelId, generation: Generation, error: Option<EngineError>) {
        // At the end of the daemon workers are asked to end, and do.
        if let Some(error) = error.as_ref().filter(|_| !self.closing) {
            tracing::error!(model = %id, %error, "the worker is gone");
            if matches!(error, EngineError::WorkerDied { how, .. } if how.contains("SIGILL")) {
                self.variant_died = Some(error.to_string());
            }
        } else {
            tracing::info!(model = %id, "unloaded");
        }
        let error = error.unwrap_or_else(|| EngineError::Stopped { model: id.to_string() });
        self.apply_with(id, Event::Exited(generation), None, &error);
        if let Some(entry) = self.entries.get_mut(id) {
            for (_, reply) in entry.later.drain(..) {
                let _ = reply.send(Err(error.clone()));
            }
        }
        let Some(entry) = self.entries.get_mut(id) else { return };
        if matches!(entry.state, State::Idle | State::Queued { .. }) {
            entry.worker_is_gone();
            for reply in entry.unloaded.drain(..) {
                let _ = reply.send(true);
            }
        }
        if entry.state == State::Idle {
            self.entries.remove(id);
        }
    }

    fn unload(&mut self, id: &ModelId, reply: oneshot::Sender<bool>) {
        self.orders.remove(id);
        self.resting.forget(id);
        let Some(entry) = self.entries.get_mut(id) else {
            let _ = reply.send(false);
            return;
        };
        entry.unloaded.push(reply);
        self.apply(id, Event::Unload, None);
        let Some(entry) = self.entries.get_mut(id) else { return };
        match entry.state {
            // Somebody asked for it, and waits: what runs is told and does not hold the model.
            State::Draining { leases: 1.., .. } => {
                if let Some(session) = &entry.session {
                    session.end_requests(&EngineError::Stopped { model: id.to_string() });
                }
                entry.stop = None;
            }
            // It only waited.
            State::Idle => {
                for reply in entry.unloaded.drain(..) {
                    let _ = reply.send(true);
                }
                self.entries.remove(id);
            }
            State::Queued { .. } | State::Loading { .. } | State::Ready { .. } | State::Draining { .. } => {}
        }
    }

    fn apply(&mut self, id: &ModelId, event: Event, waiter: Option<Waiter>) {
        let error = EngineError::Stopped { model: id.to_string() };
        self.apply_with(id, event, waiter, &error);
    }

    /// Does what [`step`] says. `error` is what those who wait are told when there will be no worker.
    fn apply_with(&mut self, id: &ModelId, event: Event, waiter: Option<Waiter>, error: &EngineError) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.waiters.extend(waiter.map(|waiter| (Instant::now(), waiter)));
        let (state, actions) = step(entry.state, event);
        entry.state = state;
        for action in actions {
            let Some(entry) = self.entries.get_mut(id) else { return };
            match action {
                Action::Start(generation) => self.start_worker(id, generation),
                Action::Stop(_) => {
                    let end = entry.end();
                    if let Some(stop) = entry.stop.take() {
                        // A worker that is gone needs no telling.
                        let _ = stop.send(end);
                    }
                }
                Action::GrantOne => {
                    let waiter = entry.waiters.pop();
                    self.grant(id, waiter);
                }
                Action::GrantWaiting => {
                    let waiters = std::mem::take(&mut entry.waiters);
                    self.grant(id, waiters);
                }
                Action::FailWaiting => {
                    for (_, waiter) in entry.waiters.drain(..) {
                        let _ = waiter.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    fn grant(&self, id: &ModelId, waiters: impl IntoIterator<Item = (Instant, Waiter)>) {
        let Some(entry) = self.entries.get(id) else { return };
        let (State::Ready { generation, .. }, Some(session)) = (entry.state, &entry.session) else { return };
        for (_, waiter) in waiters {
            let lease = Lease::new(Arc::clone(session), id.clone(), generation, self.commands.clone());
            // A client that left drops the lease here, which gives it back.
            let _ = waiter.send(Ok(lease));
        }
    }

    /// When the next model has been unused for long enough, or a worker has rested for as long.
    fn next_idle(&self) -> Option<Instant> {
        let models = self.entries.values().filter_map(|entry| entry.leaves_at(self.config.keep_alive));
        models.chain(self.rest_limit().and_then(|time| self.resting.next_older(time))).min()
    }

    fn rest_limit(&self) -> Option<Duration> {
        match self.config.keep_alive {
            KeepAlive::For(time) => Some(time),
            KeepAlive::Forever => None,
        }
    }

    fn unload_idle(&mut self) {
        let now = Instant::now();
        if let Some(time) = self.rest_limit() {
            self.resting.forget_older(time);
        }
        let is_over = |entry: &Entry| entry.leaves_at(self.config.keep_alive).is_some_and(|moment| moment <= now);
        let idle: Vec<ModelId> =
            self.entries.iter().filter(|(_, entry)| is_over(entry)).map(|(id, _)| id.clone()).collect();
        for id in idle {
            tracing::info!(model = %id, "was not used for a while and leaves");
            self.counts.idle_unloads.add();
            self.orders.remove(&id);
            self.apply(&id, Event::Unload, None);
        }
    }

    fn shut_down(&mut self, streams: Duration, workers: Duration, reply: oneshot::Sender<()>) {
        self.closing = true;
        self.resting.take_others(&[]);
        let sessions: Vec<Arc<Session>> = self.entries.values().filter_map(|entry| entry.session.clone()).collect();
        let stops: Vec<_> = self.entries.values_mut().filter_map(|entry| entry.stop.take()).collect();
        let busy = self.entries.values().any(|entry| matches!(entry.state, State::Ready { leases: 1.., .. }));
        for entry in self.entries.values_mut() {
            let later = entry.later.drain(..).map(|(_, waiter)| waiter);
            for waiter in entry.waiters.drain(..).map(|(_, waiter)| waiter).chain(later) {
                let _ = waiter.send(Err(EngineError::ShuttingDown));
            }
        }
        let loaded = self.loaded.subscribe();
        let (tasks, speeds) = (self.tasks.clone(), Arc::clone(&self.speeds));
        self.tasks.spawn(async move {
            if busy {
                let _ = tokio::time::timeout(streams, all_returned(loaded)).await;
            }
            for session in &sessions {
                session.end_requests(&EngineError::ShuttingDown);
                session.shut_down();
            }
            let everyone = async {
                for session in &sessions {
                    session.gone().await;
                }
            };
            let _ = tokio::time::timeout(workers.saturating_sub(streams), everyone).await;
            speeds.keep();
            // What is still there is killed: its watch holds the process with kill-on-drop.
            drop(stops);
            let _ = reply.send(());
            tasks.cancel();
        });
    }

    fn publish(&self) {
        let now: Vec<LoadedModel> =
            self.entries.iter().filter_map(|(id, entry)| entry.view(id, self.config.keep_alive)).collect();
        self.loaded.send_if_modified(|known| {
            let changed = **known != now;
            if changed {
                *known = Arc::new(now);
            }
            changed
        });
    }
}

/// Whether a model is loaded anew for this when more fits than it has.
fn may_be_larger(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::MoreRoom | Purpose::Order { .. })
}

async fn all_returned(mut loaded: watch::Receiver<Arc<Vec<LoadedModel>>>) {
    let _ = loaded.wait_for(|models| models.iter().all(|model| model.requests == 0)).await;
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
