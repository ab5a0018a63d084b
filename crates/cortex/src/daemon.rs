//! The daemon: its parts, started in order and stopped in order.

use crate::{
    env, logging,
    settings::{Live, Overrides, Settings, SettingsError, SettingsOwner},
};
use cortex_engine::{Engines, KeepAlive, LoadSettings, Shutdown, Tasks, tasks};
use cortex_hardware::Monitor;
use cortex_models::{Homes, Migrations, ModelStore, Outbound, Pulls, Sources, write_atomically};
use cortex_packages::{ModuleHost, PackageStore, Packages, PackagesConfig};
use cortex_remote::Remotes;
use cortex_server::{App, SettingsHandle};
use cortex_threads::Conversations;
use futures::future::BoxFuture;
use std::{
    fs::{File, TryLockError},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

/// What running streams get before they end with an error.
const STREAM_BUDGET: Duration = Duration::from_millis(500);
/// When workers that still run are killed.
const WORKER_BUDGET: Duration = Duration::from_millis(1500);
/// What is left of two seconds for the rest.
const TASK_BUDGET: Duration = Duration::from_millis(300);
/// How often the parent is looked for.
const PARENT_CHECK: Duration = Duration::from_millis(250);
/// How long the data folder may stay locked by one that is gone.
const LOCK_PATIENCE: Duration = Duration::from_millis(400);

/// Whose end is also ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Parent {
    /// Nobody's.
    #[default]
    Ignored,
    /// The process that started us.
    Starter,
    /// The process with this id.
    Pid(u32),
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the data folder {} is in use by another cortex daemon", folder.display())]
    FolderInUse { folder: PathBuf },
    #[error("the address {address} is in use by another program")]
    AddressInUse { address: SocketAddr },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{action}: {source}")]
    System { action: &'static str, source: io::Error },
}

/// Runs the daemon until it is told to stop.
pub(crate) fn run(settings: Settings, overrides: &Overrides, parent: Parent) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One thread carries all tokens: waking a second one for each of them takes time from the
        // cores that compute. What blocks has threads of its own.
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| DaemonError::System { action: "cannot start", source })?;
    let result = runtime.block_on(async {
        let daemon = Daemon::start(settings, overrides).await?;
        let stop = daemon.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = signal() => tracing::info!("a signal asks to stop"),
            () = end_of(parent) => tracing::info!("the parent is gone"),
        }
        tokio::select! {
            () = daemon.shut_down() => {}
            () = signal() => tracing::warn!("a second signal: ending now"),
        }
        Ok(())
    });
    // What still blocks, blocks alone.
    runtime.shutdown_timeout(Duration::from_millis(50));
    result
}

/// A running daemon.
struct Daemon {
    models: ModelStore,
    engines: Engines,
    accepting: Tasks,
    shutdown: Shutdown,
    stop: CancellationToken,
    /// `<data>/daemon.json`, removed at the end.
    note: PathBuf,
    grace: Duration,
    /// Held as long as we live; nobody else gets the data folder.
    _lock: File,
}

impl Daemon {
    async fn start(settings: Settings, overrides: &Overrides) -> Result<Self, DaemonError> {
        let system = |action: &'static str| move |source: io::Error| DaemonError::System { action, source };
        settings.check_exposure()?;
        let tls = settings.tls()?;
        fs_err::create_dir_all(&settings.data_folder).map_err(system("cannot make the data folder"))?;
        let lock = lock_folder(&settings)?;
        let listener = TcpListener::bind(settings.address).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => DaemonError::AddressInUse { address: settings.address },
            _ => DaemonError::Listen { address: settings.address, source },
        })?;
        let address = listener.local_addr().map_err(system("cannot listen"))?;
        settings.write_first_file()?;
        logging::start(&settings).map_err(system("cannot write the log"))?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, data = %settings.data_folder.display(), "started");
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }

        let (tasks, shutdown) = tasks();
        let models = ModelStore::open(cortex_models::Config::new(&settings.data_folder));
        let outbound = Outbound::new(settings.outbound.clone());
        let images = (!settings.allowed_image_hosts.is_empty()).then(|| Outbound::new(settings.outbound_for_images()));
        let migrations = Migrations::start(models.clone(), homes(), &tasks);
        let sources = Sources::new(&models, outbound.clone(), &tasks, settings.pulls.resolve_limit);
        let pulls = Pulls::start(settings.pulls.clone(), models.clone(), outbound.clone(), &tasks);
        let remotes = Remotes::open(&settings.data_folder, settings.outbound.clone());
        let packages_outbound = Outbound::new(settings.outbound_for_packages());
        let store = PackageStore::open(&settings.data_folder, &cortex_server::platform());
        let engines = Engines::start(engine_config(&settings, store.folders()), &tasks);
        let packages = Packages::new(
            store,
            package_config(packages_outbound.clone(), settings.engine_index.clone()),
            Arc::new(Host(engines.clone())),
            &tasks,
        );
        let stop = CancellationToken::new();
        let conversations = Conversations::new(&settings.data_folder);
        let token = local_token(&settings).map_err(system("cannot write the token of the command line"))?;
        let (edge, _) = watch::channel(Arc::new(settings.edge(address, token)));
        let (owner, requests) = mpsc::channel(16);
        let app = App {
            models: models.clone(),
            pulls,
            migrations,
            sources,
            packages,
            remotes: remotes.clone(),
            engines: engines.clone(),
            images: images.clone(),
            hardware: Monitor::start(&settings.data_folder),
            conversations: conversations.clone(),
            metrics: cortex_server::Metrics::default(),
            settings: SettingsHandle::new(edge.subscribe(), owner),
            stop: stop.clone(),
        };
        let note = settings.data_folder.join("daemon.json");
        let text = serde_json::json!({"pid": std::process::id(), "addr": address.to_string()}).to_string();
        write_atomically(&note, text.as_bytes()).map_err(system("cannot write daemon.json"))?;
        let accepting = tasks.child();
        // An app asks for its threads as soon as it has started, and reading thousands for the first time takes a while.
        accepting.spawn(async move {
            let _ = tokio::task::spawn_blocking(move || conversations.threads.look()).await;
        });
        let (engines_elsewhere, folder, here) = (remotes.clone(), settings.data_folder.clone(), models.clone());
        accepting.spawn(async move {
            // The daemon may end meanwhile.
            let _ = tokio::task::spawn_blocking(move || take_over_remotes(&engines_elsewhere, &folder, &here)).await;
        });
        accepting.spawn(cortex_server::preload(app.clone(), settings.preload.clone()));
        accepting.spawn(cortex_server::serve(listener, tls, cortex_server::router(app), tasks.child()));

        let grace = settings.shutdown_grace;
        let settings = SettingsOwner::new(
            overrides.clone(),
            settings,
            Some(Live { edge, outbound, images, packages: packages_outbound, remotes }),
        );
        accepting.spawn(settings.run(requests));
        crate::output::server_is_up(address);
        Ok(Self { models, engines, accepting, shutdown, stop, note, grace, _lock: lock })
    }

    async fn shut_down(self) {
        self.accepting.cancel();
        // The next start is quick with it, and does without.
        let saving = tokio::task::spawn_blocking(move || self.models.save_cache());
        self.engines.shut_down(STREAM_BUDGET + self.grace, WORKER_BUDGET + self.grace).await;
        if !self.shutdown.now(TASK_BUDGET).await {
            tracing::warn!("some tasks did not end in time");
        }
        if tokio::time::timeout(TASK_BUDGET, saving).await.is_err() {
            tracing::warn!("what is known of the models was not saved in time");
        }
        // Left behind by a crash it does no harm: the lock says who is alive.
        let _ = fs_err::remove_file(&self.note);
        tracing::info!("stopped");
    }
}

/// Takes over the remote engines of an older program in the same folder, the first time.
fn take_over_remotes(remotes: &Remotes, folder: &std::path::Path, models: &ModelStore) {
    match remotes.take_over_once(folder, &|id| models.resolve(id).is_ok()) {
        Ok(found) => {
            if !found.engines.is_empty() {
                let models = found.models.len();
                tracing::info!(engines = ?found.engines, models, "remote engines of an older program were taken over");
            }
            for problem in found.problems {
                tracing::warn!(%problem, "of the remote engines of an older program");
            }
        }
        Err(error) => tracing::error!(%error, "the remote engines of an older program cannot be taken over"),
    }
}

/// The folders of the person, in which older programs kept theirs.
fn homes() -> Homes {
    let home = env::path(env::HOME);
    let settings = if cfg!(target_os = "macos") {
        home.as_ref().map(|home| home.join("Library/Application Support"))
    } else {
        env::path(env::XDG_CONFIG_HOME).or_else(|| home.as_ref().map(|home| home.join(".config")))
    };
    let data = env::path(env::XDG_DATA_HOME).or_else(|| home.as_ref().map(|home| home.join(".local/share")));
    let hub_cache = env::path(env::HF_HUB_CACHE).or_else(|| env::path(env::HF_HOME).map(|home| home.join("hub")));
    Homes { home, settings, data, ollama: env::path(env::OLLAMA_MODELS), hub_cache }
}

/// Makes what the command line of the same user may send instead of a key: nobody else can read the file.
fn local_token(settings: &Settings) -> io::Result<String> {
    let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    write_atomically(&settings.token_file(), token.as_bytes())?;
    Ok(token)
}

fn lock_folder(settings: &Settings) -> Result<File, DaemonError> {
    let failed = |source| DaemonError::System { action: "cannot lock the data folder", source };
    let state = settings.data_folder.join("state");
    fs_err::create_dir_all(&state).map_err(failed)?;
    let file = fs_err::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(state.join("daemon.lock"))
        .map_err(failed)?
        .into_file();
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // One that was killed a moment ago may have left a child that has not become its program yet, and holds what it held.
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_PATIENCE / 20),
            Err(TryLockError::WouldBlock) => {
                return Err(DaemonError::FolderInUse { folder: settings.data_folder.clone() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

fn package_config(outbound: Outbound, index: Option<String>) -> PackagesConfig {
    PackagesConfig { index, outbound, platform: cortex_server::platform(), version: env!("CARGO_PKG_VERSION").into() }
}

/// The engine, as those see it who bring modules.
struct Host(Engines);

impl ModuleHost for Host {
    fn try_module(&self, module: PathBuf) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.0.try_module(&module).await })
    }

    fn is_of_build(&self, module: &str) -> bool {
        self.0.modules_of_build().iter().any(|it| it.name == module)
    }

    fn use_folders(&self, folders: Vec<PathBuf>) -> BoxFuture<'_, ()> {
        Box::pin(async { self.0.use_module_folders(folders) })
    }
}

fn engine_config(settings: &Settings, module_folders: Vec<PathBuf>) -> cortex_engine::Config {
    cortex_engine::Config {
        worker_program: settings.worker_program.clone(),
        module_folders,
        cache_folder: settings.data_folder.join("cache"),
        graphics_choice: settings.data_folder.join("state/graphics.json"),
        variant_choice: settings.data_folder.join("state/variant"),
        driver_environment: env::DRIVERS.iter().filter_map(|&name| Some((name.to_owned(), env::text(name)?))).collect(),
        max_loaded: Some(settings.max_loaded).filter(|&most| most > 0),
        memory_limit: settings.memory_limit,
        max_queued: settings.max_queued,
        patience: settings.patience,
        keep_alive: KeepAlive::For(settings.idle_unload),
        silence_limit: settings.worker_silence,
        load: LoadSettings {
            context_length: settings.context_length,
            parallel: settings.parallel,
            threads: settings.threads,
            cache_type: settings.cache_type,
            ..LoadSettings::default()
        },
        prompt_cache_bytes: settings.prompt_cache_bytes,
        locks_memory: settings.memory_lock,
        batch: 512,
        entry_cost: settings.entry_cost,
        variant_trial: settings.variant_trial,
    }
}

/// Resolves at ctrl-C or a request to terminate.
async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Resolves when the parent is gone.
async fn end_of(parent: Parent) {
    #[cfg(unix)]
    {
        let starter = std::os::unix::process::parent_id();
        loop {
            let there = match parent {
                Parent::Ignored => break,
                // Process 1 adopts orphans; as a starter, in a container, it is for ever.
                Parent::Starter => std::os::unix::process::parent_id() == starter,
                Parent::Pid(pid) => std::path::Path::new(&format!("/proc/{pid}")).exists(),
            };
            if !there {
                return;
            }
            tokio::time::sleep(PARENT_CHECK).await;
        }
    }
    let _ = (parent, PARENT_CHECK);
    std::future::pending::<()>().await;
}
