//! Starts a worker process, loads its model, and watches it until it ends.

use super::{
    lines::{Tail, read_line},
    session::{Connection, Requests, Session},
};
use crate::{EngineError, Killer, Tasks};
use cortex_api::worker::{FromWorker, Load, LoadFault, Loaded, PROTOCOL, ToWorker, encode};
use cortex_hardware::out_of_memory_kills;
use cortex_models::ModelId;
use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot, watch},
};

/// How long a worker that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_millis(1500);

/// How old the count of what the kernel has ended may become while a worker speaks.
const COUNTED: Duration = Duration::from_secs(5);

/// How long the last words of a worker that is gone may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What each worker finds in its environment.
pub(crate) const ENVIRONMENT: [(&str, &str); 3] = [
    // Threads that wait for each other spin for a while and then sleep. Spinning for milliseconds,
    // the default, makes two workers on the same cores several times slower.
    ("GOMP_SPINCOUNT", "100000"),
    // Without it ggml starts a debugger before it aborts, whose output buries the reason.
    ("GGML_NO_BACKTRACE", "1"),
    // Each token reads all weights. Where the kernel gives huge pages to those who ask, glibc asks
    // for what it allocates: fewer pages have to be looked up (docs/performance.md).
    ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
];

/// What to start.
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) model: ModelId,
    pub(crate) load: Load,
    /// What drivers of graphics processors read.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) silence_limit: Duration,
}

/// How a worker should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its process ends.
    Stop,
    /// It frees what it can, and its process waits to be used again.
    Rest,
}

/// A process that has a model's vocabulary and maps its file, and could load it again at once.
pub(crate) struct Resting {
    process: Process,
    /// What it was started with: another module or device needs another process.
    pub(crate) backends: Vec<String>,
}

impl Resting {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Ends the process, and returns when its memory is free.
    pub(crate) async fn end(mut self) {
        // Fails only when it is gone already.
        let _ = self.process.child.kill().await;
    }
}

/// What is told while a worker lives.
pub(crate) struct Callbacks<Start, Rest, Exit> {
    /// Its process id, at once.
    pub(crate) started: Start,
    /// It rests; comes before its exit.
    pub(crate) rested: Rest,
    /// A worker that became ready is gone, or rests.
    pub(crate) gone: Exit,
}

/// Loads the model: in the process that rests with it, or else in a new one. The receiver ends the worker as its sender says, or stops it
/// when that is dropped.
pub(crate) async fn load(
    launch: Launch,
    resting: Option<Resting>,
    tasks: &Tasks,
    stop: oneshot::Receiver<End>,
    callbacks: Callbacks<
        impl Fn(u32) + Send,
        impl FnOnce(Resting) + Send + 'static,
        impl FnOnce(Option<EngineError>) + Send + 'static,
    >,
) -> Result<Arc<Session>, EngineError> {
    let Callbacks { started: on_start, rested: on_rest, gone: on_exit } = callbacks;
    let rested = resting.is_some();
    let process = match resting {
        Some(resting) => resting.process,
        None => Process::start(&launch, tasks)?,
    };
    let mut watched = Watched { process, stop, launch };
    on_start(watched.process.pid);
    let facts = match watched.until_loaded(rested).await {
        // It may have died while it rested: that is no failure of this load.
        Err(error) if rested && !matches!(error, EngineError::Stopped { .. }) => {
            tracing::info!(model = %watched.launch.model, %error, "a resting worker could not be used");
            watched.kill().await;
            watched.process = Process::start(&watched.launch, tasks)?;
            on_start(watched.process.pid);
            watched.until_loaded(false).await
        }
        other => other,
    };
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            watched.kill().await;
            return Err(error);
        }
    };
    let requests = Requests::default();
    let (gone_sender, gone) = watch::channel(false);
    let model = watched.launch.model.clone();
    let to_worker = watched.process.to_worker.clone();
    let connection = Connection { pid: watched.process.pid, to_worker, requests: requests.clone(), gone };
    let (session, warning) = Session::new(model, facts, connection);
    if let Some(warning) = warning {
        tracing::warn!(model = %session.model, "{warning}");
    }
    tasks.spawn(async move {
        let over = watched.until_over(&requests).await;
        let error = if let Over::Gone(error) = &over { error.clone() } else { None };
        let reason = error.clone().unwrap_or_else(|| EngineError::Stopped { model: watched.launch.model.to_string() });
        if let Over::Rests = over {
            on_rest(Resting { process: watched.process, backends: watched.launch.load.backends });
        }
        // First: who is told that its request is lost may ask again at once, and must not get this worker.
        on_exit(error);
        requests.end_all(&reason);
        let _ = gone_sender.send(true);
    });
    Ok(Arc::new(session))
}

/// A running process, and the ways to talk with it.
struct Process {
    child: Child,
    pid: u32,
    reader: BufReader<ChildStdout>,
    to_worker: mpsc::UnboundedSender<String>,
    tail: Arc<Mutex<Tail>>,
    /// Told when standard error is closed.
    last_words: oneshot::Receiver<()>,
    /// What the kernel had ended for want of memory a moment ago, and when that was.
    kills_before: (Option<u64>, Instant),
}

impl Process {
    fn start(launch: &Launch, tasks: &Tasks) -> Result<Self, EngineError> {
        let kills_before = (out_of_memory_kills(), Instant::now());
        let mut child = spawn(launch)?;
        let pid = child.id().unwrap_or(0);
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            let (program, reason) = (launch.program.clone(), "it has no pipes".into());
            return Err(EngineError::WorkerNotStarted { program, reason });
        };
        let tail = Arc::new(Mutex::new(Tail::default()));
        let last_words = collect_stderr(tasks, stderr, Arc::clone(&tail), launch.model.clone());
        let (to_worker, lines) = mpsc::unbounded_channel();
        write_lines(tasks, stdin, lines);
        Ok(Self { child, pid, reader: BufReader::new(stdout), to_worker, tail, last_words, kills_before })
    }

    fn tell(&self, message: &ToWorker) {
        // When the line cannot be taken the worker is going, which its watch sees.
        let _ = self.to_worker.send(encode(message));
    }
}

fn spawn(launch: &Launch) -> Result<Child, EngineError> {
    let program = launch.program.clone();
    if !program.is_file() {
        return Err(EngineError::WorkerMissing { program });
    }
    let mut command = Command::new(&program);
    command
        // A worker gets what it needs by its pipe, and no secret of the user's environment.
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .envs(ENVIRONMENT.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // A ctrl-C at the terminal is for the daemon, which then ends its workers in order.
    #[cfg(unix)]
    command.process_group(0);
    command.spawn().map_err(|why| EngineError::WorkerNotStarted { program, reason: why.to_string() })
}

/// Keeps the end of what the worker writes to standard error. The receiver is told when that is over.
fn collect_stderr(
    tasks: &Tasks,
    stderr: tokio::process::ChildStderr,
    tail: Arc<Mutex<Tail>>,
    model: ModelId,
) -> oneshot::Receiver<()> {
    let (over, last_words) = oneshot::channel();
    tasks.spawn(async move {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while matches!(read_line(&mut reader, &mut line).await, Ok(true)) {
            let text = String::from_utf8_lossy(&line);
            tracing::debug!(target: "cortex_worker", model = %model, "{}", text.trim_end());
            tail.lock().unwrap_or_else(PoisonError::into_inner).push(text.trim_end());
        }
        let _ = over.send(());
    });
    last_words
}

fn write_lines(tasks: &Tasks, mut stdin: ChildStdin, mut lines: mpsc::UnboundedReceiver<String>) {
    tasks.spawn(async move {
        while let Some(mut line) = lines.recv().await {
            // What has gathered meanwhile goes out in one write.
            while let Ok(more) = lines.try_recv() {
                line.push_str(&more);
            }
            if stdin.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
    });
}

/// A process under watch.
struct Watched {
    process: Process,
    stop: oneshot::Receiver<End>,
    launch: Launch,
}

/// How the watch ended.
enum Over {
    /// The process has ended; the reason when nobody asked for it.
    Gone(Option<EngineError>),
    /// It rests.
    Rests,
}

/// What the watch saw.
enum Seen {
    Message(FromWorker),
    /// Its output has ended.
    Closed,
    /// Its output is not of the protocol; what is wrong with it.
    Nonsense(String),
    /// It was told to end.
    Stop(End),
    Silence,
}

impl Watched {
    async fn see(&mut self) -> Seen {
        let mut line = Vec::new();
        tokio::select! {
            read = tokio::time::timeout(self.launch.silence_limit, read_line(&mut self.process.reader, &mut line)) => match read {
                Err(_) => Seen::Silence,
                Ok(Ok(true)) => match serde_json::from_slice(&line) {
                    Ok(message) => Seen::Message(message),
                    Err(error) => Seen::Nonsense(error.to_string()),
                },
                Ok(Ok(false)) => Seen::Closed,
                Ok(Err(error)) => Seen::Nonsense(error.to_string()),
            },
            end = &mut self.stop => Seen::Stop(end.unwrap_or(End::Stop)),
        }
    }

    async fn until_loaded(&mut self, mut greeted: bool) -> Result<Loaded, EngineError> {
        let model = self.launch.model.to_string();
        self.process.tell(&ToWorker::Load(Box::new(self.launch.load.clone())));
        loop {
            match self.see().await {
                Seen::Message(FromWorker::Hello { protocol, build }) => {
                    if protocol != PROTOCOL {
                        return Err(EngineError::WorkerMismatch { theirs: protocol, ours: PROTOCOL });
                    }
                    greeted = true;
                    tracing::debug!(%model, %build, "the worker is there");
                }
                Seen::Message(_) if !greeted => {
                    return Err(EngineError::WorkerMismatch { theirs: 0, ours: PROTOCOL });
                }
                Seen::Message(FromWorker::Loaded(facts)) => return Ok(*facts),
                Seen::Message(FromWorker::LoadFailed { message: reason, fault }) => {
                    return Err(match fault {
                        LoadFault::Settings => EngineError::UnusableSettings { model, reason },
                        LoadFault::Model => EngineError::LoadFailed { model, reason },
                        LoadFault::Engine => EngineError::LoadFailed { model, reason: self.with_what_was_said(reason) },
                    });
                }
                // Progress: a sign of life.
                Seen::Message(_) => {}
                Seen::Closed => return Err(self.died(None).await),
                Seen::Nonsense(what) => return Err(self.died(Some(what)).await),
                Seen::Stop(_) => return Err(EngineError::Stopped { model }),
                Seen::Silence => return Err(self.stuck()),
            }
        }
    }

    /// A reason that the engine knows better, with what it said.
    fn with_what_was_said(&self, reason: String) -> String {
        let said = self.process.tail.lock().unwrap_or_else(PoisonError::into_inner).failures();
        if said.is_empty() { reason } else { format!("{reason}; the engine said: {said}") }
    }

    /// Delivers lines until the process ends or rests.
    async fn until_over(&mut self, requests: &Requests) -> Over {
        let mut asked = false;
        loop {
            let seen = self.see().await;
            if matches!(seen, Seen::Message(_) | Seen::Silence) && self.process.kills_before.1.elapsed() > COUNTED {
                self.process.kills_before = (out_of_memory_kills(), Instant::now());
            }
            match seen {
                Seen::Message(message) => {
                    asked = false;
                    requests.deliver(message, &self.launch.model);
                }
                Seen::Closed => return Over::Gone(Some(self.died(None).await)),
                Seen::Nonsense(what) => return Over::Gone(Some(self.died(Some(what)).await)),
                Seen::Stop(End::Rest) if self.rests().await => return Over::Rests,
                Seen::Stop(_) => {
                    self.process.tell(&ToWorker::Shutdown);
                    if tokio::time::timeout(GRACE, self.process.child.wait()).await.is_err() {
                        self.kill().await;
                    }
                    return Over::Gone(None);
                }
                // An idle worker has nothing to say. A busy one speaks every two seconds.
                Seen::Silence if !requests.any() => asked = false,
                // The request may have come just now: ask, and give it one more period.
                Seen::Silence if !asked => {
                    asked = true;
                    self.process.tell(&ToWorker::Stats);
                }
                Seen::Silence => {
                    self.kill().await;
                    return Over::Gone(Some(self.stuck()));
                }
            }
        }
    }

    /// Has it free what it can; false when it does not within the time that a worker has to end.
    async fn rests(&mut self) -> bool {
        self.process.tell(&ToWorker::Rest);
        let rested = async {
            let mut line = Vec::new();
            while matches!(read_line(&mut self.process.reader, &mut line).await, Ok(true)) {
                if matches!(serde_json::from_slice(&line), Ok(FromWorker::Rested)) {
                    return true;
                }
                line.clear();
            }
            false
        };
        tokio::time::timeout(GRACE, rested).await.unwrap_or(false)
    }

    fn stuck(&self) -> EngineError {
        EngineError::WorkerStuck { model: self.launch.model.to_string(), seconds: self.launch.silence_limit.as_secs() }
    }

    /// The error of a worker that ended by itself, or has to be ended because it talks nonsense.
    async fn died(&mut self, nonsense: Option<String>) -> EngineError {
        let (how, killer) = match nonsense {
            Some(what) => {
                self.kill().await;
                (format!("its output is not of the protocol: {what}"), None)
            }
            None => self.how_it_ended().await,
        };
        // What it wrote last may still be on its way. A process of its own may hold the pipe open, so not for long.
        let _ = tokio::time::timeout(LAST_WORDS, &mut self.process.last_words).await;
        let tail = self.process.tail.lock().unwrap_or_else(PoisonError::into_inner);
        // Who was killed from outside had no last words about it.
        let stderr = if killer.is_some() { String::new() } else { tail.shown() };
        EngineError::WorkerDied { model: self.launch.model.to_string(), how, killer, stderr }
    }

    /// In words; and who killed it, if it was killed.
    async fn how_it_ended(&mut self) -> (String, Option<Killer>) {
        // Its output is closed: it is ending, or it is broken and has to be ended.
        match tokio::time::timeout(GRACE, self.process.child.wait()).await {
            Ok(Ok(status)) => (exit_reason(status), is_killed(status).then(|| self.killer())),
            Ok(Err(error)) => (error.to_string(), None),
            Err(_) => {
                self.kill().await;
                ("it closed its output".into(), None)
            }
        }
    }

    fn killer(&self) -> Killer {
        match (self.process.kills_before.0, out_of_memory_kills()) {
            (Some(before), Some(now)) if now > before => Killer::Memory,
            (Some(_), Some(_)) => Killer::Somebody,
            _ => Killer::Unknown,
        }
    }

    async fn kill(&mut self) {
        // Fails only when it is gone already.
        let _ = self.process.child.kill().await;
    }
}

/// Whether a process was ended by a signal that it cannot see.
fn is_killed(status: ExitStatus) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        status.signal() == Some(9)
    }
    #[cfg(not(unix))]
    {
        let _ = status;
        false
    }
}

/// An exit code or a signal in words.
pub(super) fn exit_reason(status: ExitStatus) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        if let Some(signal) = status.signal() {
            let name = match signal {
                4 => " SIGILL: an instruction that this processor does not have",
                6 => " SIGABRT",
                7 => " SIGBUS",
                9 => " SIGKILL",
                11 => " SIGSEGV",
                15 => " SIGTERM",
                _ => "",
            };
            return format!("signal {signal}{name}");
        }
    }
    status.code().map_or_else(|| "no exit code".into(), |code| format!("exit code {code}"))
}
