//! The way to the settings of a running daemon. Their owner, who alone reads and writes the file, is elsewhere.

use crate::Config;
use serde_json::{Map, Value};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// What stands for a secret wherever settings are shown, too. Sent back, it leaves the secret as it is.
pub use cortex_remote::HIDDEN;

/// What somebody wants of the owner of the settings.
#[derive(Debug)]
pub struct SettingsRequest {
    /// New values, by the names of `/v1/configs`; none only shows the settings.
    pub changes: Option<Map<String, Value>>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<ShownSettings, SettingsRefusal>>,
}

/// The settings, by the names of `/v1/configs`.
#[derive(Debug, Clone, Default)]
pub struct ShownSettings {
    /// Their values; secrets are [`HIDDEN`].
    pub values: Map<String, Value>,
    /// What was asked for and not done, or has no effect, and why.
    pub warnings: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsRefusal {
    /// Nothing that was sent is a setting with a value of its kind.
    #[error("No configuration updated{}", said(.0))]
    Nothing(Vec<String>),
    /// A value cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The file cannot be read or written.
    #[error("{0}")]
    File(String),
}

fn said(why: &[String]) -> String {
    if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) }
}

/// The settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SettingsHandle {
    config: watch::Receiver<Arc<Config>>,
    owner: mpsc::Sender<SettingsRequest>,
}

impl SettingsHandle {
    /// What the edge goes by, as it changes, and the owner's letter box.
    pub fn new(config: watch::Receiver<Arc<Config>>, owner: mpsc::Sender<SettingsRequest>) -> Self {
        Self { config, owner }
    }

    /// What the edge goes by now.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Shows the settings, after changing them where there are changes.
    pub(crate) async fn ask(&self, changes: Option<Map<String, Value>>) -> Result<ShownSettings, SettingsRefusal> {
        let gone = || SettingsRefusal::File("the daemon is stopping".into());
        let (answer, answered) = oneshot::channel();
        self.owner.send(SettingsRequest { changes, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}
