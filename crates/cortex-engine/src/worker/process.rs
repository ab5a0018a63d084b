//! Starts a worker process, loads its model, and watches it until it ends.

use super::{
    lines::{Tail, read_line},
    session::{Connection, Requests, Session, died},
};
use crate::{EngineError, Tasks};
use cortex_api::worker::{FromWorker, Load, Loaded, PROTOCOL, ToWorker, encode};
use cortex_models::ModelId;
use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot, watch},
};

/// How long a worker that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_millis(1500);

/// How long the last words of a worker that is gone may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What each worker finds in its environment.
pub(crate) const ENVIRONMENT: [(&str, &str); 2] = [
    // Threads that wait for each other spin for a while and then sleep. Spinning for milliseconds,
    // the default, makes two workers on the same cores several times slower.
    ("GOMP_SPINCOUNT", "100000"),
    // Without it ggml starts a debugger before it aborts, whose output buries the reason.
    ("GGML_NO_BACKTRACE", "1"),
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

/// Starts the worker and loads the model. `on_start` is told its process id at once. `on_exit` is called once when a worker that became ready is
/// gone; the receiver ends the worker when its sender is used or dropped.
pub(crate) async fn load(
    launch: Launch,
    tasks: &Tasks,
    stop: oneshot::Receiver<()>,
    on_start: impl FnOnce(u32) + Send,
    on_exit: impl FnOnce(Option<EngineError>) + Send + 'static,
) -> Result<Arc<Session>, EngineError> {
    let mut child = spawn(&launch)?;
    let pid = child.id().unwrap_or(0);
    on_start(pid);
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(EngineError::WorkerNotStarted { program: launch.program, reason: "it has no pipes".into() });
    };
    let tail = Arc::new(Mutex::new(Tail::default()));
    let last_words = collect_stderr(tasks, stderr, Arc::clone(&tail), launch.model.clone());
    let (to_worker, lines) = mpsc::unbounded_channel();
    write_lines(tasks, stdin, lines);
    let _ = to_worker.send(encode(&ToWorker::Load(launch.load.clone())));

    let requests = Requests::default();
    let (gone_sender, gone) = watch::channel(false);
    let mut watched = Watched { child, reader: BufReader::new(stdout), tail, last_words, stop, launch };
    let facts = match watched.until_loaded().await {
        Ok(facts) => facts,
        Err(error) => {
            watched.kill().await;
            return Err(error);
        }
    };
    let model = watched.launch.model.clone();
    let connection = Connection { pid, to_worker: to_worker.clone(), requests: requests.clone(), gone };
    let (session, warning) = Session::new(model, facts, connection);
    if let Some(warning) = warning {
        tracing::warn!(model = %session.model, "{warning}");
    }
    tasks.spawn(async move {
        let error = watched.until_gone(&requests, &to_worker).await;
        let reason = error.clone().unwrap_or_else(|| EngineError::Stopped { model: watched.launch.model.to_string() });
        requests.end_all(&reason);
        let _ = gone_sender.send(true);
        on_exit(error);
    });
    Ok(Arc::new(session))
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
    child: Child,
    reader: BufReader<ChildStdout>,
    tail: Arc<Mutex<Tail>>,
    /// Told when standard error is closed.
    last_words: oneshot::Receiver<()>,
    stop: oneshot::Receiver<()>,
    launch: Launch,
}

/// What the watch saw.
enum Seen {
    Message(FromWorker),
    /// Its output has ended.
    Closed,
    /// Its output is not of the protocol; what is wrong with it.
    Nonsense(String),
    /// It was told to stop.
    Stop,
    Silence,
}

impl Watched {
    async fn see(&mut self) -> Seen {
        let mut line = Vec::new();
        tokio::select! {
            read = tokio::time::timeout(self.launch.silence_limit, read_line(&mut self.reader, &mut line)) => match read {
                Err(_) => Seen::Silence,
                Ok(Ok(true)) => match serde_json::from_slice(&line) {
                    Ok(message) => Seen::Message(message),
                    Err(error) => Seen::Nonsense(error.to_string()),
                },
                Ok(Ok(false)) => Seen::Closed,
                Ok(Err(error)) => Seen::Nonsense(error.to_string()),
            },
            _ = &mut self.stop => Seen::Stop,
        }
    }

    async fn until_loaded(&mut self) -> Result<Loaded, EngineError> {
        let model = self.launch.model.to_string();
        let mut greeted = false;
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
                Seen::Message(FromWorker::LoadFailed { message }) => {
                    let said = self.last_words();
                    let reason = if said.is_empty() { message } else { format!("{message}; the engine said: {said}") };
                    return Err(EngineError::LoadFailed { model, reason });
                }
                // Progress: a sign of life.
                Seen::Message(_) => {}
                Seen::Closed => return Err(self.died(None).await),
                Seen::Nonsense(what) => return Err(self.died(Some(what)).await),
                Seen::Stop => return Err(EngineError::Stopped { model }),
                Seen::Silence => return Err(self.stuck()),
            }
        }
    }

    /// Delivers lines until the process ends. `None` when it ended because it was told to.
    async fn until_gone(
        &mut self,
        requests: &Requests,
        to_worker: &mpsc::UnboundedSender<String>,
    ) -> Option<EngineError> {
        let mut asked = false;
        loop {
            match self.see().await {
                Seen::Message(message) => {
                    asked = false;
                    requests.deliver(message, &self.launch.model);
                }
                Seen::Closed => return Some(self.died(None).await),
                Seen::Nonsense(what) => return Some(self.died(Some(what)).await),
                Seen::Stop => {
                    let _ = to_worker.send(encode(&ToWorker::Shutdown));
                    if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
                        self.kill().await;
                    }
                    return None;
                }
                // An idle worker has nothing to say. A busy one speaks every two seconds.
                Seen::Silence if !requests.any() => asked = false,
                // The request may have come just now: ask, and give it one more period.
                Seen::Silence if !asked => {
                    asked = true;
                    let _ = to_worker.send(encode(&ToWorker::Stats));
                }
                Seen::Silence => {
                    self.kill().await;
                    return Some(self.stuck());
                }
            }
        }
    }

    fn stuck(&self) -> EngineError {
        EngineError::WorkerStuck { model: self.launch.model.to_string(), seconds: self.launch.silence_limit.as_secs() }
    }

    fn last_words(&self) -> String {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).shown()
    }

    /// The error of a worker that ended by itself, or has to be ended because it talks nonsense.
    async fn died(&mut self, nonsense: Option<String>) -> EngineError {
        let how = match nonsense {
            Some(what) => {
                self.kill().await;
                format!("its output is not of the protocol: {what}")
            }
            None => self.how_it_ended().await,
        };
        // What it wrote last may still be on its way. A process of its own may hold the pipe open, so not for long.
        let _ = tokio::time::timeout(LAST_WORDS, &mut self.last_words).await;
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        // Who was killed from outside had no last words about it.
        let is_killed = how.contains("SIGKILL");
        died(&self.launch.model, how, if is_killed { String::new() } else { tail.shown() })
    }

    async fn how_it_ended(&mut self) -> String {
        // Its output is closed: it is ending, or it is broken and has to be ended.
        match tokio::time::timeout(GRACE, self.child.wait()).await {
            Ok(Ok(status)) => exit_reason(status),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                self.kill().await;
                "it closed its output".into()
            }
        }
    }

    async fn kill(&mut self) {
        // Fails only when it is gone already.
        let _ = self.child.kill().await;
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
