//! The shapes of cortex's own routes.

use serde::{Deserialize, Serialize};

/// `{"object":"list","data":[…]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// `list`.
    pub object: String,
    /// The entries.
    pub data: Vec<T>,
    /// `OK`, as cortex.cpp clients expect on the model list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

/// One loaded model, as `GET /inferences/server/models` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// The model id.
    pub id: String,
    /// `llama-cpp`.
    pub engine: String,
    /// Unix milliseconds at which it became ready.
    pub start_time: i64,
    /// Bytes of weights.
    pub model_size: u64,
    /// Bytes of video memory; 0 on a machine without a GPU.
    pub vram: u64,
    /// Bytes of memory that the worker process holds.
    pub ram: u64,
    /// `model`.
    pub object: String,
    /// Requests that hold it now.
    pub requests: usize,
    /// Tokens that one request may use.
    pub context_length: u32,
    /// The worker's process id.
    pub pid: u32,
}

/// `POST /v1/models/import`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportRequest {
    /// The id that the model gets.
    pub model: Option<String>,
    /// Absolute path of the GGUF on the daemon's machine.
    pub model_path: Option<String>,
    /// The display name.
    pub name: Option<String>,
    /// How the file is taken over; only by reference so far.
    pub option: Option<String>,
}

/// The answer to a successful import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportResponse {
    /// `OK`.
    pub result: String,
    /// The id of the model.
    pub model_handle: String,
    /// For a person.
    pub message: String,
}

/// `POST /v1/models/start` and `/v1/models/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelRequest {
    /// The model id.
    pub model: Option<String>,
    /// Tokens that one request may use; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctx_len: Option<i64>,
    /// Requests that run at the same time; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_parallel: Option<i64>,
    /// Threads for single tokens; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_threads: Option<i64>,
}

/// An answer that is only a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// For a person.
    pub message: String,
}

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// The data folder it serves.
    pub data_folder: String,
    /// Models in the list.
    pub models: usize,
    /// Models loaded now.
    pub loaded: usize,
}

/// One line of `cortex doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// Whether all is well.
    pub ok: bool,
    /// What was seen, and what to do about it.
    pub text: String,
}
