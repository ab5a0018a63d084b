//! The shapes of downloads: cortex.cpp's frames, key for key, and cortex's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/models/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PullRequest {
    /// The model, in any of its forms.
    pub model: Option<String>,
    /// The id that it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Get a newer revision of a model that is there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub update: bool,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PullResponse {
    /// For a person.
    pub message: String,
    /// What will come.
    pub task: DownloadTask,
    /// Why this file was chosen, when the request left it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One download as cortex.cpp shows it. Keys in the order of the alphabet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DownloadTask {
    /// The id of the model.
    pub id: String,
    /// Its files.
    pub items: Vec<DownloadItem>,
    /// `Model`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One file of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DownloadItem {
    /// Its length.
    pub bytes: u64,
    /// The SHA-256 that it must have; `N/A` when the source promises none.
    pub checksum: String,
    /// Where it comes from.
    pub download_url: String,
    /// How much of it is there.
    pub downloaded_bytes: u64,
    /// Its name.
    pub id: String,
    /// Where it will lie.
    pub local_path: String,
}

/// A frame of the WebSocket `/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DownloadFrame {
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Which.
    pub task: DownloadTask,
    /// `DownloadStarted`, `DownloadUpdated`, `DownloadSuccess`, `DownloadError` or `DownloadStopped`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// `DELETE /v1/models/pull`, and the bodies of pause and resume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskRequest {
    /// The id of the model.
    pub task_id: Option<String>,
    /// Of a cancelled download: also throw away what came.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub discard: bool,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskResponse {
    /// For a person.
    pub message: String,
    /// The id of the model.
    pub task_id: String,
}

/// One download as cortex shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pull {
    /// The id of the model.
    pub id: String,
    /// `pull`.
    pub object: String,
    /// What was asked for.
    pub model: String,
    /// `downloading`, `verifying`, `paused`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that are there.
    pub downloaded_bytes: u64,
    /// Bytes a second over the last seconds.
    pub bytes_per_second: u64,
    /// Seconds until the end at that rate.
    pub seconds_left: Option<u64>,
    /// `author/repo`, or the host of a URL.
    pub repository: String,
    /// The branch that was asked for.
    pub revision: String,
    /// What that branch was at the time.
    pub commit: Option<String>,
    /// Other names that the model gets.
    pub aliases: Vec<String>,
    /// Why this file was chosen, when the request left it open.
    pub reason: Option<String>,
    /// Why it waits or failed.
    pub message: Option<String>,
    /// The same for programs.
    pub code: Option<String>,
    /// Its files.
    pub items: Vec<DownloadItem>,
}

/// `POST /v1/models/pull/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullInfo {
    /// The id without the file or branch.
    pub id: String,
    /// `cortexso` for short names.
    pub model_source: String,
    /// What is taken when nobody chooses.
    pub default_branch: String,
    /// For a person.
    pub message: String,
    /// Those that are there already.
    pub downloaded_models: Vec<String>,
    /// Those that could be downloaded.
    pub available_models: Vec<String>,
    /// What to put before the name of a file.
    pub download_url: String,
    /// The same with sizes, and what to ask for; not of cortex.cpp.
    #[serde(default)]
    pub choices: Vec<PullChoice>,
    /// The number of the choice that is taken when nobody chooses.
    #[serde(default)]
    pub recommended: Option<usize>,
    /// Why that one.
    #[serde(default)]
    pub reason: Option<String>,
}

/// One model that could be downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PullChoice {
    /// What to ask for.
    pub model: String,
    /// For a person.
    pub name: String,
    /// Its bytes; 0 when that is not known.
    pub bytes: u64,
    /// Whether it fits this machine.
    pub fits: bool,
}
