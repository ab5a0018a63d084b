//! The one owner of loaded models. Its loop takes a command, asks [`step`] what follows, and starts the
//! actions in tasks of their own; it never awaits IO.

use crate::{
    Config, EngineError, LoadSettings, Tasks,
    lease::Lease,
    slot_state::{Action, Event, Generation, State, step},
    variants::{VariantReport, Variants},
    worker::{Launch, Session, load},
};
use cortex_api::worker::{Buffer, Load};
use cortex_hardware::{Cpu, Memory};
use cortex_models::ModelId;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    time::Instant,
};

/// Memory that a load leaves alone: the worker's buffers, and what else the machine does.
const KEPT_FREE: u64 = 512 * 1024 * 1024;

/// What the supervisor is told.
pub(crate) enum Command {
    /// A request wants a model.
    Acquire {
        id: ModelId,
        weights: PathBuf,
        load: LoadSettings,
        /// The model stays until it is stopped.
        keep: bool,
        reply: oneshot::Sender<Result<Lease, EngineError>>,
    },
    /// A worker is ready, or could not be.
    Loaded { id: ModelId, generation: Generation, result: Result<Arc<Session>, EngineError> },
    /// A worker that was ready is gone; the reason when nobody asked for it.
    Exited { id: ModelId, generation: Generation, error: Option<EngineError> },
    /// A lease came back.
    Released { id: ModelId, generation: Generation },
    /// A model should leave.
    Unload { id: ModelId, reply: oneshot::Sender<bool> },
    /// A compute module should be chosen now.
    ChooseVariant { reply: oneshot::Sender<()> },
    /// The daemon is stopping.
    ShutDown { streams: Duration, workers: Duration, reply: oneshot::Sender<()> },
}

/// A loaded model, for those who look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    /// Which.
    pub id: ModelId,
    /// When it became ready.
    pub since: SystemTime,
    /// Requests that it answers.
    pub requests: usize,
    /// Tokens that one request may use.
    pub context_length: u32,
    /// Requests that it answers at the same time.
    pub parallel: u32,
    /// Bytes of weights.
    pub model_bytes: u64,
    /// What its worker has allocated.
    pub buffers: Vec<Buffer>,
    /// The worker's process id.
    pub pid: u32,
    /// Whether it stays until it is stopped.
    pub kept: bool,
    /// Where it is in its life.
    pub phase: Phase,
}

/// Where a model is in its life, for those who look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its worker is not ready yet; nothing else is known of it.
    Loading,
    /// It answers.
    Ready,
    /// It leaves once its last answer has ended.
    Leaving,
}

type Waiter = oneshot::Sender<Result<Lease, EngineError>>;

/// What is held for one model.
struct Entry {
    state: State,
    weights: PathBuf,
    load: LoadSettings,
    waiters: Vec<Waiter>,
    session: Option<Arc<Session>>,
    /// Dropping it ends the worker.
    stop: Option<oneshot::Sender<()>>,
    kept: bool,
    since: SystemTime,
    last_used: Instant,
    /// Told when the worker is gone.
    unloaded: Vec<oneshot::Sender<bool>>,
}

/// The owner of everything that is loaded.
pub(crate) struct Supervisor {
    config: Config,
    tasks: Tasks,
    cores: usize,
    commands: mpsc::UnboundedSender<Command>,
    entries: HashMap<ModelId, Entry>,
    generation: Generation,
    /// Shared with the loads, which choose a module before they start a worker.
    variants: Arc<Mutex<Variants>>,
    loaded: watch::Sender<Arc<Vec<LoadedModel>>>,
    report: watch::Sender<Arc<VariantReport>>,
    /// Why the module in use must not be used again; the next choice is told.
    variant_died: Option<String>,
    closing: bool,
}

type Views =
    (mpsc::UnboundedSender<Command>, watch::Receiver<Arc<Vec<LoadedModel>>>, watch::Receiver<Arc<VariantReport>>);

impl Supervisor {
    pub(crate) fn start(config: Config, tasks: &Tasks) -> Views {
        let (commands, mut inbox) = mpsc::unbounded_channel();
        let (loaded, loaded_view) = watch::channel(Arc::default());
        let (report, report_view) = watch::channel(Arc::default());
        let mut supervisor = Self {
            variants: Arc::new(Mutex::new(Variants::new(&config))),
            cores: Cpu::probe().cores,
            config,
            tasks: tasks.child(),
            commands: commands.clone(),
            entries: HashMap::new(),
            generation: 0,
            loaded,
            report,
            variant_died: None,
            closing: false,
        };
        tasks.spawn(async move {
            loop {
                let idle = supervisor.next_idle();
                tokio::select! {
                    command = inbox.recv() => match command {
                        Some(command) => supervisor.take(command),
                        None => return,
                    },
                    () = sleep_until(idle) => supervisor.unload_idle(),
                }
                supervisor.publish();
            }
        });
        (commands, loaded_view, report_view)
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Acquire { id, weights, load, keep, reply } => self.acquire(&id, (weights, load), keep, reply),
            Command::Loaded { id, generation, result } => self.loaded(&id, generation, result),
            Command::Exited { id, generation, error } => self.exited(&id, generation, error),
            Command::Released { id, generation } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.last_used = Instant::now();
                }
                self.apply(&id, Event::Released(generation), None);
            }
            Command::Unload { id, reply } => self.unload(&id, reply),
            Command::ChooseVariant { reply } => {
                let (variants, report) = (Arc::clone(&self.variants), self.report.clone());
                let died = self.variant_died.take();
                self.tasks.spawn(async move {
                    let mut variants = variants.lock().await;
                    variants.choose(died.as_deref()).await;
                    report.send_replace(Arc::new(variants.report().clone()));
                    let _ = reply.send(());
                });
            }
            Command::ShutDown { streams, workers, reply } => self.shut_down(streams, workers, reply),
        }
    }

    fn acquire(&mut self, id: &ModelId, (weights, load): (PathBuf, LoadSettings), keep: bool, reply: Waiter) {
        if self.closing {
            let _ = reply.send(Err(EngineError::ShuttingDown));
            return;
        }
        if !self.entries.contains_key(id)
            && let Err(error) = self.make_room()
        {
            let _ = reply.send(Err(error));
            return;
        }
        let entry = self.entries.entry(id.clone()).or_insert_with(|| Entry {
            state: State::Idle,
            weights: weights.clone(),
            load,
            waiters: vec![],
            session: None,
            stop: None,
            kept: false,
            since: SystemTime::now(),
            last_used: Instant::now(),
            unloaded: vec![],
        });
        entry.kept |= keep;
        if entry.state == State::Idle {
            (entry.weights, entry.load) = (weights, load);
        }
        self.generation += 1;
        let next = self.generation;
        self.apply(id, Event::Acquire { next }, Some(reply));
    }

    /// Lets the least recently used idle model leave when there is no place for another.
    fn make_room(&mut self) -> Result<(), EngineError> {
        if self.entries.len() < self.config.max_loaded {
            return Ok(());
        }
        let leaving = self.entries.values().filter(|entry| matches!(entry.state, State::Draining { .. })).count();
        if self.entries.len() - leaving < self.config.max_loaded {
            return Ok(());
        }
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Ready { leases: 0, .. }) && !entry.kept)
            .min_by_key(|(_, entry)| entry.last_used)
            .map(|(id, _)| id.clone());
        let Some(oldest) = oldest else { return Err(EngineError::Overloaded { loaded: self.entries.len() }) };
        tracing::info!(model = %oldest, "leaves to make room");
        self.apply(&oldest, Event::Unload, None);
        Ok(())
    }

    fn loaded(&mut self, id: &ModelId, generation: Generation, result: Result<Arc<Session>, EngineError>) {
        match result {
            Ok(session) => {
                let Some(entry) = self.entries.get_mut(id) else { return };
                if matches!(entry.state, State::Loading { generation: current, .. } if current == generation) {
                    tracing::info!(model = %id, pid = session.pid, context = session.facts.context_length, parallel = session.facts.parallel, "loaded");
                    entry.session = Some(session);
                    entry.since = SystemTime::now();
                    entry.last_used = Instant::now();
                }
                self.apply(id, Event::Loaded(generation), None);
            }
            Err(error) => {
                tracing::warn!(model = %id, %error, "could not be loaded");
                self.exited(id, generation, Some(error));
            }
        }
    }

    fn exited(&mut self, id: &ModelId, generation: Generation, error: Option<EngineError>) {
        if let Some(error) = &error {
            tracing::error!(model = %id, %error, "the worker is gone");
            if matches!(error, EngineError::WorkerDied { how, .. } if how.contains("SIGILL")) {
                self.variant_died = Some(error.to_string());
            }
        } else {
            tracing::info!(model = %id, "unloaded");
        }
        self.generation += 1;
        let next = self.generation;
        let error = error.unwrap_or_else(|| EngineError::Stopped { model: id.to_string() });
        self.apply_with(id, Event::Exited(generation, next), None, &error);
        let Some(entry) = self.entries.get_mut(id) else { return };
        for reply in entry.unloaded.drain(..) {
            let _ = reply.send(true);
        }
        if entry.state == State::Idle {
            self.entries.remove(id);
        }
    }

    fn unload(&mut self, id: &ModelId, reply: oneshot::Sender<bool>) {
        let Some(entry) = self.entries.get_mut(id) else {
            let _ = reply.send(false);
            return;
        };
        entry.kept = false;
        entry.unloaded.push(reply);
        self.apply(id, Event::Unload, None);
        // Somebody asked for it, and waits: what runs is told and does not hold the model.
        if let Some(entry) = self.entries.get_mut(id)
            && let State::Draining { leases: 1.., .. } = entry.state
        {
            if let Some(session) = &entry.session {
                session.end_requests(&EngineError::Stopped { model: id.to_string() });
            }
            entry.stop = None;
        }
    }

    fn apply(&mut self, id: &ModelId, event: Event, waiter: Option<Waiter>) {
        let error = EngineError::Stopped { model: id.to_string() };
        self.apply_with(id, event, waiter, &error);
    }

    /// Does what [`step`] says. `error` is what those who wait are told when there will be no worker.
    fn apply_with(&mut self, id: &ModelId, event: Event, waiter: Option<Waiter>, error: &EngineError) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.waiters.extend(waiter);
        let (state, actions) = step(entry.state, event);
        entry.state = state;
        for action in actions {
            match action {
                Action::Start(generation) => self.start_worker(id, generation),
                Action::Stop(_) => {
                    // Using the sender or dropping it is the same to the worker's watch.
                    if let Some(entry) = self.entries.get_mut(id) {
                        entry.stop = None;
                    }
                }
                Action::GrantOne => {
                    let waiter = self.entries.get_mut(id).and_then(|entry| entry.waiters.pop());
                    self.grant(id, waiter);
                }
                Action::GrantWaiting => {
                    let waiters = self.entries.get_mut(id).map(|entry| std::mem::take(&mut entry.waiters));
                    self.grant(id, waiters.into_iter().flatten());
                }
                Action::FailWaiting => {
                    for waiter in
                        self.entries.get_mut(id).map(|entry| std::mem::take(&mut entry.waiters)).unwrap_or_default()
                    {
                        let _ = waiter.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    fn grant(&self, id: &ModelId, waiters: impl IntoIterator<Item = Waiter>) {
        let Some(entry) = self.entries.get(id) else { return };
        let (State::Ready { generation, .. }, Some(session)) = (entry.state, &entry.session) else { return };
        for waiter in waiters {
            let lease = Lease::new(Arc::clone(session), id.clone(), generation, self.commands.clone());
            // A client that left drops the lease here, which gives it back.
            let _ = waiter.send(Ok(lease));
        }
    }

    fn start_worker(&mut self, id: &ModelId, generation: Generation) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let (stop_sender, stop) = oneshot::channel();
        entry.stop = Some(stop_sender);
        entry.session = None;
        let load_settings = entry.load;
        let weights = entry.weights.clone();
        // A model that is leaving must have left before the next takes its memory.
        let leaving: Vec<Arc<Session>> = self
            .entries
            .values()
            .filter(|entry| matches!(entry.state, State::Draining { .. }))
            .filter_map(|entry| entry.session.clone())
            .collect();
        let (config, commands, id) = (self.config.clone(), self.commands.clone(), id.clone());
        let (variants, report, tasks) = (Arc::clone(&self.variants), self.report.clone(), self.tasks.clone());
        let cores = u32::try_from(self.cores).unwrap_or(1);
        let died = self.variant_died.take();
        tracing::info!(model = %id, "loading");
        self.tasks.spawn(async move {
            for session in leaving {
                session.gone().await;
            }
            let backend = {
                let mut variants = variants.lock().await;
                let backend =
                    if config.worker_program.is_file() { variants.choose(died.as_deref()).await } else { None };
                report.send_replace(Arc::new(variants.report().clone()));
                backend
            };
            // Measured now, after those that leave have left.
            let memory = memory_for_context(Memory::probe(), &weights);
            let result = match backend {
                None if config.worker_program.is_file() => Err(EngineError::NoVariant),
                None => Err(EngineError::WorkerMissing { program: config.worker_program.clone() }),
                Some(backend) => {
                    let threads = if load_settings.threads == 0 { cores } else { load_settings.threads };
                    let launch = Launch {
                        program: config.worker_program,
                        model: id.clone(),
                        load: Load {
                            model: text(&weights),
                            backends: vec![text(&backend)],
                            context_length: load_settings.context_length,
                            parallel: load_settings.parallel,
                            threads,
                            threads_batch: threads,
                            batch: config.batch,
                            memory,
                        },
                        silence_limit: config.silence_limit,
                    };
                    let exits = (commands.clone(), id.clone());
                    load(launch, &tasks, stop, move |error| {
                        let _ = exits.0.send(Command::Exited { id: exits.1, generation, error });
                    })
                    .await
                }
            };
            // A supervisor that is gone has ended its workers.
            let _ = commands.send(Command::Loaded { id, generation, result });
        });
    }

    /// When the next model has been unused for long enough.
    fn next_idle(&self) -> Option<Instant> {
        self.entries
            .values()
            .filter(|entry| matches!(entry.state, State::Ready { leases: 0, .. }) && !entry.kept)
            .map(|entry| entry.last_used + self.config.idle_unload)
            .min()
    }

    fn unload_idle(&mut self) {
        let now = Instant::now();
        let idle: Vec<ModelId> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                matches!(entry.state, State::Ready { leases: 0, .. })
                    && !entry.kept
                    && entry.last_used + self.config.idle_unload <= now
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in idle {
            tracing::info!(model = %id, "was not used for a while and leaves");
            self.apply(&id, Event::Unload, None);
        }
    }

    fn shut_down(&mut self, streams: Duration, workers: Duration, reply: oneshot::Sender<()>) {
        self.closing = true;
        let sessions: Vec<Arc<Session>> = self.entries.values().filter_map(|entry| entry.session.clone()).collect();
        let stops: Vec<_> = self.entries.values_mut().filter_map(|entry| entry.stop.take()).collect();
        let busy = self.entries.values().any(|entry| matches!(entry.state, State::Ready { leases: 1.., .. }));
        for entry in self.entries.values_mut() {
            for waiter in entry.waiters.drain(..) {
                let _ = waiter.send(Err(EngineError::ShuttingDown));
            }
        }
        let loaded = self.loaded.subscribe();
        let tasks = self.tasks.clone();
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
            // What is still there is killed: its watch holds the process with kill-on-drop.
            drop(stops);
            let _ = reply.send(());
            tasks.cancel();
        });
    }

    fn publish(&self) {
        let now: Vec<LoadedModel> = self
            .entries
            .iter()
            .filter_map(|(id, entry)| {
                let (requests, phase) = match entry.state {
                    State::Ready { leases, .. } => (leases, Phase::Ready),
                    State::Draining { leases, .. } => (leases, Phase::Leaving),
                    State::Loading { .. } => (0, Phase::Loading),
                    State::Idle => return None,
                };
                let session = entry.session.as_ref();
                let facts = session.map(|session| &session.facts);
                Some(LoadedModel {
                    id: id.clone(),
                    since: entry.since,
                    requests,
                    context_length: facts.map_or(0, |facts| facts.context_length),
                    parallel: facts.map_or(0, |facts| facts.parallel),
                    model_bytes: facts.map_or(0, |facts| facts.model_bytes),
                    buffers: facts.map(|facts| facts.buffers.clone()).unwrap_or_default(),
                    pid: session.map_or(0, |session| session.pid),
                    kept: entry.kept,
                    phase,
                })
            })
            .collect();
        self.loaded.send_if_modified(|known| {
            let changed = **known != now;
            if changed {
                *known = Arc::new(now);
            }
            changed
        });
    }
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

/// Bytes that are left for a context beside the weights; `None` when the system does not say.
fn memory_for_context(memory: Memory, weights: &Path) -> Option<u64> {
    let weights = fs_err::metadata(weights).map_or(0, |metadata| metadata.len());
    (memory.available > 0).then(|| memory.available.saturating_sub(weights).saturating_sub(KEPT_FREE))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
