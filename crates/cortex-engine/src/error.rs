//! What can go wrong between a request and its answer.

use cortex_models::ErrorKind;
use std::path::PathBuf;

/// Who ended a process that was killed (`SIGKILL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killer {
    /// The kernel, because memory ran out: it has counted more of these since a moment before.
    Memory,
    /// A person or a program, and not the kernel for want of memory.
    Somebody,
    /// The kernel does not count.
    Unknown,
}

/// Why a request was not answered, or only in part. Cheap to clone: all who wait for one load get the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The worker program is not where it should be.
    #[error("the worker program {} is missing", program.display())]
    WorkerMissing {
        /// Where it should be.
        program: PathBuf,
    },
    /// The worker program could not be started.
    #[error("the worker program {} could not be started: {reason}", program.display())]
    WorkerNotStarted {
        /// Which program.
        program: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The worker speaks another version of the protocol.
    #[error("the worker is of another build: it speaks protocol {theirs}, the daemon {ours}")]
    WorkerMismatch {
        /// Version of the worker.
        theirs: u32,
        /// Version of the daemon.
        ours: u32,
    },
    /// No compute module works on this processor.
    #[error("no compute module works on this processor")]
    NoVariant,
    /// The model could not be loaded.
    #[error("the model `{model}` could not be loaded: {reason}")]
    LoadFailed {
        /// Which model.
        model: String,
        /// The worker's reason.
        reason: String,
    },
    /// Its settings ask for what is not possible with its files.
    #[error("the model `{model}` cannot be loaded as its settings say: {reason}")]
    UnusableSettings {
        /// Which model.
        model: String,
        /// What is wrong, with the name of the setting.
        reason: String,
    },
    /// The worker ended by itself.
    #[error("the worker of `{model}` died ({how}){}", last_lines(stderr))]
    WorkerDied {
        /// Which model.
        model: String,
        /// Exit code or signal.
        how: String,
        /// Who killed it, if it was killed.
        killer: Option<Killer>,
        /// The last lines it wrote to standard error.
        stderr: String,
    },
    /// The worker gave no sign of life and was ended.
    #[error("the worker of `{model}` gave no sign of life for {seconds} s and was ended")]
    WorkerStuck {
        /// Which model.
        model: String,
        /// How long it was silent.
        seconds: u64,
    },
    /// The computation of this request failed; the model is still loaded.
    #[error("the model `{model}` could not compute this request")]
    ComputeFailed {
        /// Which model.
        model: String,
    },
    /// Somebody stopped the model while the request waited for it or was answered.
    #[error("the model `{model}` was stopped")]
    Stopped {
        /// Which model.
        model: String,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {needed} tokens, the context of the model holds {available}")]
    ContextExceeded {
        /// Tokens of the prompt.
        needed: u32,
        /// Tokens that one request may use.
        available: u32,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A value of the request is out of its range.
    #[error("{message}")]
    InvalidRequest {
        /// What and why.
        message: String,
    },
    /// The answer cannot be what the request says that it must be.
    #[error("the answer cannot be what the request asks for: {message}")]
    Constraint {
        /// What is wrong, or why it could not go on.
        message: String,
    },
    /// The model was not trained to fill gaps.
    #[error("the model has no tokens for a gap in a text")]
    NoInfill,
    /// The model takes no images.
    #[error("the model takes no images: it has no projector (mmproj)")]
    NoImages,
    /// The chat template of the model refused the messages.
    #[error("the chat template of the model cannot render these messages: {message}")]
    Template {
        /// The template's words.
        message: String,
    },
    /// Every place for a loaded model is taken by a pinned one.
    #[error("{loaded} models are loaded and pinned, and no more are allowed at a time")]
    Overloaded {
        /// How many.
        loaded: usize,
    },
    /// Too many requests wait already.
    #[error("{waiting} requests wait already, and no more may")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// A worker has too much of one kind under way.
    #[error("{message}")]
    TooMany {
        /// Of what.
        message: String,
    },
    /// There is no room for the model, and there will be none.
    #[error(
        "the model `{model}` does not fit into memory: {parallel} × {context} tokens need {}, and it can have {}{}",
        mebibytes(needed.div_ceil(1 << 20)), mebibytes(*available >> 20), pinned_models(pinned)
    )]
    DoesNotFit {
        /// Which model.
        model: String,
        /// Tokens that one request may use, the least that would do.
        context: u32,
        /// Requests at the same time, the least that would do.
        parallel: u32,
        /// Bytes that it needs for that.
        needed: u64,
        /// Bytes that it can have when all leave that may.
        available: u64,
        /// Models that are pinned.
        pinned: Vec<String>,
    },
    /// It could not be loaded a moment ago, and is not tried yet again.
    #[error("{error}; it is tried again in {seconds} s")]
    FailedBefore {
        /// The failure.
        error: Box<EngineError>,
        /// When a request is worth another try.
        seconds: u32,
    },
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    ShuttingDown,
}

fn last_lines(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; its last words: {stderr}") }
}

fn mebibytes(count: u64) -> String {
    format!("{count} MiB")
}

fn pinned_models(pinned: &[String]) -> String {
    if pinned.is_empty() { String::new() } else { format!(" beside what is pinned ({})", pinned.join(", ")) }
}

impl EngineError {
    /// The family, which decides the HTTP status and the exit code.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ContextExceeded { .. }
            | Self::UnusableSettings { .. }
            | Self::EmptyPrompt
            | Self::InvalidRequest { .. }
            | Self::Constraint { .. }
            | Self::NoInfill
            | Self::NoImages
            | Self::Template { .. } => ErrorKind::Invalid,
            Self::Overloaded { .. } | Self::QueueFull { .. } | Self::TooMany { .. } => ErrorKind::Busy,
            Self::DoesNotFit { .. } => ErrorKind::DoesNotFit,
            Self::FailedBefore { error, .. } => error.kind(),
            Self::WorkerMissing { .. }
            | Self::WorkerNotStarted { .. }
            | Self::WorkerMismatch { .. }
            | Self::NoVariant
            | Self::LoadFailed { .. }
            | Self::WorkerDied { .. }
            | Self::WorkerStuck { .. }
            | Self::ComputeFailed { .. }
            | Self::Stopped { .. }
            | Self::ShuttingDown => ErrorKind::Unavailable,
        }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::WorkerMissing { .. } => "worker_missing",
            Self::WorkerNotStarted { .. } => "worker_not_started",
            Self::WorkerMismatch { .. } => "worker_mismatch",
            Self::NoVariant => "no_compute_module",
            Self::LoadFailed { .. } => "model_load_failed",
            Self::UnusableSettings { .. } => "unusable_settings",
            Self::WorkerDied { .. } => "worker_died",
            Self::WorkerStuck { .. } => "worker_stuck",
            Self::ComputeFailed { .. } => "compute_failed",
            Self::Stopped { .. } => "model_stopped",
            Self::ContextExceeded { .. } => "context_length_exceeded",
            Self::EmptyPrompt => "empty_prompt",
            Self::InvalidRequest { .. } => "invalid_value",
            Self::Constraint { .. } => "constraint_failed",
            Self::NoInfill => "infill_not_supported",
            Self::NoImages => "images_not_supported",
            Self::Template { .. } => "template_failed",
            Self::Overloaded { .. } => "overloaded",
            Self::QueueFull { .. } | Self::TooMany { .. } => "queue_full",
            Self::DoesNotFit { .. } => "does_not_fit",
            Self::FailedBefore { error, .. } => error.code(),
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::WorkerMissing { .. } => {
                Some("install cortex again, or set `workerPath` in the settings to the program".into())
            }
            Self::WorkerMismatch { .. } => Some("install the daemon and the worker from one build".into()),
            Self::NoVariant => Some("run `cortex doctor`: it lists what was tried and why each was dropped".into()),
            Self::ContextExceeded { .. } => {
                Some("shorten the prompt, or start the model with a larger `ctx_len` if it was trained with one".into())
            }
            Self::NoImages => Some(
                "take a model that sees, or add the path of its projector as `mmproj` to its model.yaml".into(),
            ),
            Self::NoInfill => Some("take a model that was trained to fill gaps, or ask for a completion without `suffix`".into()),
            Self::Overloaded { .. } => Some("stop a model with `cortex models stop ID`, or try again later".into()),
            Self::QueueFull { .. } => {
                Some("try again later; `maxQueuedRequests` in the settings is how many may wait".into())
            }
            Self::TooMany { .. } => Some("try again later".into()),
            Self::DoesNotFit { pinned, .. } => Some(format!(
                "{}choose a smaller quantisation or context (`cortex fit` says what fits), or close other programs, for which some memory is kept free",
                if pinned.is_empty() { "" } else { "stop a pinned model with `cortex models stop ID`, or " }
            )),
            Self::FailedBefore { error, .. } if error.kind() == ErrorKind::Invalid => error.hint(),
            Self::FailedBefore { .. } => Some("`cortex models start ID` tries at once; `cortex logs` shows more".into()),
            Self::WorkerDied { killer: Some(killer @ (Killer::Memory | Killer::Unknown)), .. } => Some(format!(
                "the system has killed it{} because memory ran out: close other programs, or take a shorter context or a smaller model (`cortex fit` says what fits); the next request loads it again",
                if *killer == Killer::Unknown { ", most likely" } else { "" }
            )),
            Self::WorkerDied { killer: Some(Killer::Somebody), .. } => Some(
                "a person or a program has killed it, and not the kernel for want of memory; programs such as systemd-oomd or earlyoom do that before memory runs out (`cortex fit` says what fits). The next request loads it again".into(),
            ),
            Self::UnusableSettings { model, .. } => {
                Some(format!("change them with `cortex models update {model}`, or in its model.yaml"))
            }
            Self::WorkerDied { .. } | Self::WorkerStuck { .. } => {
                Some("the next request loads the model again; `cortex logs` shows more".into())
            }
            Self::LoadFailed { .. } => Some("`cortex logs` shows what the engine said".into()),
            Self::WorkerNotStarted { .. }
            | Self::ComputeFailed { .. }
            | Self::Stopped { .. }
            | Self::EmptyPrompt
            | Self::InvalidRequest { .. }
            | Self::Constraint { .. }
            | Self::Template { .. }
            | Self::ShuttingDown => None,
        }
    }

    /// After how many seconds it may be different; `None` when waiting is no use.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::FailedBefore { seconds, error } if error.kind() != ErrorKind::Invalid => Some(*seconds),
            _ => matches!(self.kind(), ErrorKind::Busy | ErrorKind::Unavailable).then_some(1),
        }
    }

    /// Whether the worker is gone, so that a request that has shown nothing yet can be sent again.
    pub(crate) fn lost_the_worker(&self) -> bool {
        matches!(self, Self::WorkerDied { .. } | Self::WorkerStuck { .. })
    }
}
