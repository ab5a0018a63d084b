//! What others see of a pull.

use super::{error::PullError, plan::PullPlan};
use crate::ModelId;
use std::sync::Arc;

/// How a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullState {
    /// Bytes come, or are waited for.
    Downloading,
    /// All bytes are there and are checked.
    Verifying,
    /// It waits: for a person, or for room on the disk.
    Paused,
    /// The model is on the list.
    Succeeded,
    /// It was given up. What came is kept for another try, unless it was wrong.
    Failed,
    /// A person stopped it. What came is kept for a while.
    Cancelled,
}

impl PullState {
    /// Its word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen by itself.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// One pull at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct PullSnapshot {
    /// What is pulled.
    pub plan: Arc<PullPlan>,
    /// How it is doing.
    pub state: PullState,
    /// Bytes of each file that are written and journalled. They never become fewer.
    pub downloaded: Vec<u64>,
    /// Bytes a second, over the last seconds; 0 when nothing comes.
    pub rate: f64,
    /// Why it waits, or why it failed.
    pub message: Option<String>,
    /// The same for programs.
    pub code: Option<&'static str>,
}

impl PullSnapshot {
    pub(crate) fn new(plan: Arc<PullPlan>, state: PullState, downloaded: Vec<u64>) -> Self {
        Self { plan, state, downloaded, rate: 0.0, message: None, code: None }
    }

    /// The id of the task and of the model.
    pub fn id(&self) -> &ModelId {
        &self.plan.id
    }

    /// Bytes of all files that are there.
    pub fn downloaded_bytes(&self) -> u64 {
        self.downloaded.iter().fold(0, |sum, &bytes| sum.saturating_add(bytes))
    }

    /// Seconds until the end at this rate.
    pub fn seconds_left(&self) -> Option<u64> {
        let left = self.plan.bytes().saturating_sub(self.downloaded_bytes());
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a guess"
        )]
        let seconds = (self.rate >= 1.0).then(|| (left as f64 / self.rate).ceil() as u64);
        seconds.filter(|_| self.state == PullState::Downloading)
    }

    pub(crate) fn told(&mut self, state: PullState, error: &PullError) {
        self.state = state;
        self.code = Some(error.code());
        self.rate = 0.0;
        self.message = Some(match error.hint() {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        });
    }
}

/// What happened to a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullEventKind {
    /// It begins.
    Started,
    /// More of it is there.
    Updated,
    /// The model is on the list.
    Succeeded,
    /// It was given up.
    Failed,
    /// A person stopped it.
    Stopped,
}

/// Something happened to a pull.
#[derive(Debug, Clone)]
pub struct PullEvent {
    /// What.
    pub kind: PullEventKind,
    /// The pull, right then.
    pub pull: Arc<PullSnapshot>,
}
