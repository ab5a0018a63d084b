//! A real worker, spoken to directly.

use crate::dist;
use cortex_api::worker::{FromWorker, Generate, Load, Loaded, Sampling, Segment, ToWorker, TokenProbabilities, encode};
use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::{Duration, Instant},
};

/// A running worker; dropping it closes its input, which ends it.
#[derive(Debug)]
pub struct TestWorker {
    /// The process.
    pub child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// Always the most likely token.
pub fn greedy() -> Sampling {
    Sampling::default()
}

/// A request with this text as its prompt.
pub fn generate(id: u64, text: &str, max_tokens: u32) -> Generate {
    Generate {
        id,
        prompt: vec![Segment::Text { text: text.into(), special: true }],
        sampling: greedy(),
        stop: vec![],
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        deterministic: false,
        cache_scope: Some(0),
        prediction: None,
        most_guesses: None,
        constraint: None,
        probabilities: None,
        shows_control: false,
        next_turn: String::new(),
        adapters: vec![],
    }
}

/// What a worker is told that shall load a file.
pub fn load_of(model: &Path, context_length: u32, parallel: u32) -> Load {
    Load {
        model: model.display().to_string(),
        backends: vec![module()],
        context_length,
        parallel,
        // Tests run beside each other: threads that wait for one another would wait for other tests.
        threads: 1,
        threads_batch: 1,
        batch: 512,
        is_exact: true,
        // Whether other tests run must not matter.
        idle_cores: Some(1),
        ..Load::default()
    }
}

impl TestWorker {
    /// Starts a worker and takes its greeting.
    ///
    /// # Panics
    /// When it does not greet.
    pub fn start() -> Self {
        Self::start_in(&[])
    }

    /// The same, begun by a program and arguments that end with becoming it.
    ///
    /// # Panics
    /// When it does not greet.
    pub fn start_in(wrapper: &[OsString]) -> Self {
        let mut child = dist::wrapped(wrapper, &dist::program("worker/cortex-llamacpp"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the worker starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut worker = Self { child, stdin, stdout };
        assert!(matches!(worker.receive(), Some(FromWorker::Hello { .. })), "the worker greets first");
        worker
    }

    /// Starts a worker and loads the small model.
    ///
    /// # Panics
    /// When it does not load.
    pub fn loaded(context_length: u32, parallel: u32) -> (Self, Loaded) {
        Self::loaded_as(load_of(&dist::model(), context_length, parallel))
    }

    /// Starts a worker and has it load.
    ///
    /// # Panics
    /// When it does not.
    pub fn loaded_as(load: Load) -> (Self, Loaded) {
        let mut worker = Self::start();
        worker.send(&ToWorker::Load(Box::new(load)));
        match worker.until_loaded() {
            FromWorker::Loaded(facts) => (worker, *facts),
            other => panic!("not loaded: {other:?}"),
        }
    }

    /// Loads a file; the message that ends the load.
    ///
    /// # Panics
    /// When the worker dies instead.
    pub fn load(&mut self, model: &Path, context_length: u32, parallel: u32) -> FromWorker {
        self.order_load(model, context_length, parallel);
        self.until_loaded()
    }

    fn until_loaded(&mut self) -> FromWorker {
        loop {
            match self.receive().expect("the worker is alive") {
                FromWorker::Loading { .. } => {}
                other => return other,
            }
        }
    }

    /// Waits until it has computed so many steps, answering nobody.
    ///
    /// # Panics
    /// When it has not after a minute.
    pub fn until_steps(&mut self, wanted: u64) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while self.steps() < wanted {
            assert!(Instant::now() < deadline, "{wanted} steps are wanted");
        }
    }

    /// How many steps it has computed. To be asked when it answers nobody.
    ///
    /// # Panics
    /// When it does not say.
    pub fn steps(&mut self) -> u64 {
        self.send(&ToWorker::Stats);
        loop {
            if let FromWorker::Stats(stats) = self.receive().expect("the worker is alive") {
                return stats.steps;
            }
        }
    }

    /// Asks for the load of a file.
    pub fn order_load(&mut self, model: &Path, context_length: u32, parallel: u32) {
        self.send(&ToWorker::Load(Box::new(load_of(model, context_length, parallel))));
    }

    /// Has the process end by itself, and waits for it.
    ///
    /// # Panics
    /// When it fails.
    pub fn shut_down(mut self) {
        self.send(&ToWorker::Shutdown);
        assert!(self.child.wait().expect("it ends").success());
    }

    /// Sends a message.
    ///
    /// # Panics
    /// When the worker is gone.
    pub fn send(&mut self, message: &ToWorker) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(encode(message).as_bytes()).expect("the worker reads");
    }

    /// The next message; `None` at the end.
    ///
    /// # Panics
    /// When it is not of the protocol.
    pub fn receive(&mut self) -> Option<FromWorker> {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line).expect("its output");
        (length > 0).then(|| serde_json::from_str(&line).expect("a message"))
    }

    /// Closes its input.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// All messages until the request with this id has ended, its last one included.
    ///
    /// # Panics
    /// When the worker dies before.
    pub fn until_finished(&mut self, wanted: u64) -> Vec<FromWorker> {
        self.until_all_finished(&[wanted])
    }

    /// The same of several requests.
    ///
    /// # Panics
    /// When the worker dies before.
    pub fn until_all_finished(&mut self, wanted: &[u64]) -> Vec<FromWorker> {
        let (mut messages, mut open) = (Vec::new(), wanted.to_vec());
        while !open.is_empty() {
            let message = self.receive().expect("the worker is alive");
            if let FromWorker::Finished { id, .. } | FromWorker::Rejected { id, .. } = &message {
                open.retain(|it| it != id);
            }
            messages.push(message);
        }
        messages
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        self.close();
        let _ = self.child.wait();
    }
}

/// The text of one request in a list of messages.
pub fn text_of(messages: &[FromWorker], wanted: u64) -> String {
    messages
        .iter()
        .filter_map(|message| match message {
            FromWorker::Text { id, text, .. } if *id == wanted => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// A module that runs here, chosen without a trial.
fn module() -> String {
    #[cfg(target_arch = "x86_64")]
    let name = if std::arch::is_x86_feature_detected!("avx2") { "haswell" } else { "sse42" };
    #[cfg(not(target_arch = "x86_64"))]
    let name = "armv8.0_1";
    dist::program("worker/backends").join(format!("libggml-cpu-{name}.so")).display().to_string()
}

/// Tokens of an answer with the most probable ones in the place of each.
pub fn told(messages: &[FromWorker], of: u64) -> Vec<TokenProbabilities> {
    let tokens = messages.iter().filter_map(|it| match it {
        FromWorker::Text { id, probabilities, .. } if *id == of => Some(probabilities.clone()),
        _ => None,
    });
    tokens.flatten().collect()
}

/// How far apart two tokens may be in the reference, in logarithms of probabilities, where another answer takes the other one: the
/// kernels for batches of other sizes sum in another order. Of the small model of the tests, the logarithms of the first token's probabilities
/// differed by 0.14 in the median and 0.45 at most between two computations of one prompt alone, in chunks of other sizes, which
/// none of the things that are tested with it takes part in.
const HESITATION: f32 = 0.5;

/// Whether two answers are the same, or part where the reference hesitated.
pub fn agree(reference: &[TokenProbabilities], other: &[TokenProbabilities]) -> bool {
    let parted = reference.iter().zip(other).find(|(left, right)| left.chosen.token != right.chosen.token);
    parted.is_none_or(|(reference, other)| {
        let theirs = reference.top.iter().find(|it| it.token == other.chosen.token);
        theirs.is_some_and(|theirs| reference.chosen.logprob - theirs.logprob < HESITATION)
    })
}
