//! The shapes of cortex's own routes.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

/// `{"object":"list","data":[…]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct LoadedModel {
    /// The model id.
    pub id: String,
    /// `llama-cpp`.
    pub engine: String,
    /// Unix milliseconds at which it became ready.
    pub start_time: i64,
    /// Bytes of weights.
    pub model_size: u64,
    /// Bytes that it has of the memory of graphics processors; 0 on a machine without one.
    pub vram: u64,
    /// Bytes of memory that the worker process holds.
    pub ram: u64,
    /// `model`.
    pub object: String,
    /// Requests that hold it now.
    pub requests: usize,
    /// Requests that wait: until it is loaded, or for a place among those that run at the same time.
    #[serde(default)]
    pub waiting: usize,
    /// `loaded`; with `?all=true` also `waiting` (for room), `loading` and `leaving`.
    #[serde(default)]
    pub state: String,
    /// Tokens that one request may use.
    pub context_length: u32,
    /// Tokens that were asked for; more than `context_length` when memory is short or the model was trained with less.
    #[serde(default)]
    pub requested_context_length: u32,
    /// Where `context_length` comes from, for a person.
    #[serde(default)]
    pub context_origin: String,
    /// How keys and values are stored: `f16`, `q8_0`, `q4_0`.
    #[serde(default)]
    pub cache_type: String,
    /// Requests that it answers at the same time.
    #[serde(default)]
    pub parallel: u32,
    /// Requests at the same time that were asked for.
    #[serde(default)]
    pub requested_parallel: u32,
    /// Threads that compute single tokens.
    #[serde(default)]
    pub threads: u32,
    /// Threads that compute prompts.
    #[serde(default)]
    pub prompt_threads: u32,
    /// The worker's process id.
    pub pid: u32,
    /// What the worker has allocated, in bytes.
    #[serde(default)]
    pub memory: MemoryUse,
    /// Bytes of memory that are set aside for it: predicted while it loads, then what it has reported.
    #[serde(default)]
    pub reserved: u64,
    /// Where it runs.
    #[serde(default)]
    pub placement: Placement,
    /// It never leaves to make room for another.
    #[serde(default)]
    pub pinned: bool,
    /// Unix milliseconds at which it leaves if nobody uses it; `null` while it is used, or when it stays.
    #[serde(default)]
    pub leaves_at: Option<i64>,
}

/// `GET /inferences/server/models`: the loaded models, and the memory that they have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadedModels {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<LoadedModel>,
    /// Memory for models.
    #[serde(default)]
    pub memory: MemoryLedger,
}

/// Memory for models, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct MemoryLedger {
    /// Of the machine, or of the container.
    pub total: u64,
    /// Not in use now; what models have mapped from their files counts as not in use.
    pub available: u64,
    /// Never given to models: it is for what else runs.
    pub kept_free: u64,
    /// Set aside for models.
    pub reserved: u64,
    /// What a further model could have without any other leaving.
    pub free: u64,
}

/// Where a model runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Placement {
    /// Layers that are on graphics processors, the output among them.
    pub device_layers: u32,
    /// All of its layers; 0 before it is loaded.
    pub layers: u32,
    /// What is on each device, the processor (`CPU`) among them.
    pub devices: Vec<PlacedOn>,
    /// Why not all of it is on graphics processors; `null` when it is.
    pub reason: Option<String>,
}

/// What of a model is on one device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PlacedOn {
    /// The engine's name for it: `CPU`, `Vulkan0`.
    pub device: String,
    /// Layers, the output among them.
    pub layers: u32,
    /// Bytes of memory.
    pub bytes: u64,
}

/// Memory of a model by what it is for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct MemoryUse {
    /// Its weights.
    pub weights: u64,
    /// Keys and values of the context, and the states of recurrent layers.
    pub cache: u64,
    /// What a step computes with.
    pub compute: u64,
    /// The results of a step.
    pub output: u64,
}

/// `POST /v1/models/fit`: whether a model fits this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FitRequest {
    /// Id of the model.
    pub model: Option<String>,
    /// Tokens that one request may use; what a load would take when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctx_len: Option<i64>,
    /// Requests at the same time; what a load would take when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_parallel: Option<i64>,
    /// How keys and values are stored: `f16`, `q8_0`, `q4_0`; what a load would take when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_type: Option<String>,
    /// Layers on graphics processors at most; as many as fit when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ngl: Option<i64>,
    /// `ctx_len` and `n_parallel` are meant, also where they equal the stored settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
}

/// How a model fits this machine. Amounts are bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FitResponse {
    /// `fit`.
    pub object: String,
    /// Id of the model; of one on the hub, the name by which it is pulled.
    pub model: String,
    /// Of a model on the hub: its quantisation, as its name has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Tokens that one request may use.
    pub context_length: u32,
    /// Requests at the same time, each with a context of its own.
    pub parallel: u32,
    /// How keys and values are stored: `f16`, `q8_0`, `q4_0`.
    #[serde(default)]
    pub cache_type: String,
    /// Memory by what it is for, wherever it is.
    pub memory: MemoryUse,
    /// What the worker process takes besides.
    pub process: u64,
    /// What it needs of the machine's memory.
    pub needed: u64,
    /// What it would have on graphics processors; `null` when none is used.
    #[serde(default)]
    pub graphics: Option<GraphicsFit>,
    /// How fast it is expected to be on the processor; `null` before this machine was measured, and when that cannot be said.
    #[serde(default)]
    pub speed: Option<ExpectedSpeed>,
    /// This machine is being measured, which the first question begins and takes some seconds, or will be when no model answers:
    /// ask again for the speed.
    #[serde(default)]
    pub speed_pending: bool,
    /// What is free now; of a model that is loaded, with what it has.
    pub available: u64,
    /// What a model may have of that: the rest is for what else runs.
    pub budget: u64,
    /// Whether it fits.
    pub fits: bool,
    /// Whether it can be loaded, with fewer requests at the same time or a shorter context if need be; what the request
    /// says is not cut.
    #[serde(default)]
    pub loads: bool,
    /// The largest context that fits with as many requests at the same time; `null` when none does.
    pub largest_context: Option<u32>,
    /// Context that the model was trained with; `null` when it does not say.
    pub trained_context: Option<u32>,
    /// For a person: whether it fits, and by how much it does not.
    pub verdict: String,
}

/// How fast a model is expected to be on the processor, after a prompt of [`ExpectedSpeed::prompt_tokens`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ExpectedSpeed {
    /// Tokens of the prompt for which it holds.
    pub prompt_tokens: u32,
    /// Tokens of a prompt in a second.
    pub prompt_per_second: f64,
    /// Tokens of an answer in a second.
    pub predicted_per_second: f64,
    /// What decides about the answer: `computation` or `memory bandwidth`.
    pub bound: String,
    /// `measured` when answers of this model on this machine have corrected it, else `estimated`.
    pub source: String,
}

/// What a model would have on graphics processors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct GraphicsFit {
    /// Layers there, the output among them.
    pub device_layers: u32,
    /// All of its layers; 0 when its file does not tell.
    pub layers: u32,
    /// Bytes there.
    pub needed: u64,
    /// Bytes that it may have there; `null` when they compute in the machine's memory, where `needed` counts.
    pub budget: Option<u64>,
}

/// The answer to [`FitRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FitAnswer {
    /// Of a repository.
    Models(FitList),
    /// Of one model.
    Model(Box<FitResponse>),
}

/// How the models of a repository fit this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FitList {
    /// `list`.
    pub object: String,
    /// What was asked for.
    pub model: String,
    /// The models, in the order of their names.
    pub data: Vec<FitResponse>,
    /// The one to take; `null` when none can be loaded.
    pub recommended: Option<String>,
    /// Why that one.
    pub reason: String,
}

/// `POST /v1/models/import`: one model, or many in `models`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportRequest {
    /// Many at once, by reference; the other fields are not used then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<ImportEntry>>,
    /// Of many: only say what would be done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// The id that the model gets.
    pub model: Option<String>,
    /// Absolute path of the GGUF on the daemon's machine.
    pub model_path: Option<String>,
    /// The display name.
    pub name: Option<String>,
    /// How the files are taken over: by reference (`symlink`, the default), `copy`, `move` or `hardlink`.
    pub option: Option<String>,
}

/// One of many.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportEntry {
    /// The id that the model gets; made from the file's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Absolute path of the GGUF on the daemon's machine.
    pub model_path: Option<String>,
}

/// What came of many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchResponse {
    /// `list`.
    pub object: String,
    /// One for each entry, in order.
    pub data: Vec<BatchResult>,
    /// Models that are on the list now and were not before; of a dry run, that would be.
    pub imported: usize,
    /// Entries that were refused.
    pub failed: usize,
}

/// What came of one of many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchResult {
    /// `OK` or `Import failed!`.
    pub result: String,
    /// The id, when it got that far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_handle: Option<String>,
    /// The path as it was given.
    pub model_path: String,
    /// Whether it was on the list before.
    pub already_there: bool,
    /// For a person.
    pub message: String,
}

/// `DELETE /v1/models/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct DeleteResponse {
    /// `Deleted successfully!`
    pub message: String,
    /// OpenAI's fields: the id, `model.deleted`, true.
    pub id: String,
    /// `model`.
    pub object: String,
    /// True.
    pub deleted: bool,
    /// Files that were removed.
    pub removed: Vec<String>,
    /// Files inside of the data folder that stay.
    pub left: Vec<LeftFile>,
}

/// A file that a deletion left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftFile {
    /// Where it is.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Why it stays.
    pub reason: String,
}

/// `PATCH /v1/models/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateResponse {
    /// `Updated successfully!`
    pub result: String,
    /// The id.
    pub model_handle: String,
    /// For a person.
    pub message: String,
    /// Fields that are no settings; they changed nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// Settings that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WrongSettings {
    /// The id.
    pub id: String,
    /// Which, and what they must be.
    pub reason: String,
}

/// `GET /v1/models/health`: what is wrong with the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistryHealth {
    /// `health`.
    pub object: String,
    /// Settings in model.yaml files that cannot be, and are left out.
    #[serde(default)]
    pub settings: Vec<WrongSettings>,
    /// model.yaml files that nothing on the list belongs to, when the list was lost; else 0.
    #[serde(default)]
    pub lost: usize,
    /// Models on the list.
    pub models: usize,
    /// Models of which nothing is known yet.
    pub pending: usize,
    /// Lines of `models.list` that make no sense. They are kept as they are.
    pub lines: Vec<BadLine>,
    /// Models that cannot be used, and why.
    pub unusable: Vec<UnusableModel>,
}

/// A line of `models.list` that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What it says.
    pub text: String,
    /// What is wrong.
    pub reason: String,
}

/// A model that cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnusableModel {
    /// Its id.
    pub id: String,
    /// `missing` or `broken`.
    pub state: String,
    /// Why, and what to do.
    pub reason: String,
}

/// `POST /v1/models/reindex`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReindexRequest {
    /// Also what a person deleted.
    pub include_deleted: bool,
}

/// What a reindex found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReindexResponse {
    /// Models that are on the list again.
    pub added: Vec<String>,
    /// Files that were left out, and why.
    pub left_out: Vec<LeftOut>,
}

/// A file that a reindex left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    /// Where it is.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// The answer to a successful import.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportResponse {
    /// `OK`.
    pub result: String,
    /// The id of the model.
    pub model_handle: String,
    /// For a person.
    pub message: String,
    /// It was in the list with this file already; nothing was changed.
    #[serde(default)]
    pub already_there: bool,
}

/// `POST /v1/models/start` and `/v1/models/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelRequest {
    /// The model id.
    pub model: Option<String>,
    /// Tokens that one request may use; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "lenient_integer")]
    pub ctx_len: Option<i64>,
    /// Requests that run at the same time; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "lenient_integer")]
    pub n_parallel: Option<i64>,
    /// Threads for single tokens; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "lenient_integer")]
    pub cpu_threads: Option<i64>,
    /// How keys and values are stored: `f16`, `q8_0`, `q4_0`; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_type: Option<String>,
    /// Layers on graphics processors at most, 0 for none, -1 for as many as fit; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "lenient_integer")]
    pub ngl: Option<i64>,
    /// `ctx_len` and `n_parallel` are meant, also where they equal the stored settings, which clients send back as they read them;
    /// `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// How long it stays when nobody uses it: seconds, a duration such as `5m`, 0, or -1 for ever, the default;
    /// `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<Value>,
    /// It never leaves to make room for another; `models/start` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
}

/// Clients of other languages send `4096.0` or `"4096"` where a whole number is meant.
fn lenient_integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let wrong = |value: &Value| D::Error::custom(format!("{value} is not a whole number"));
    let value = Value::deserialize(deserializer)?;
    match &value {
        Value::Null => Ok(None),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => text.trim().parse().map(Some).map_err(|_| wrong(&value)),
        Value::Number(number) => {
            #[expect(clippy::cast_possible_truncation, reason = "only whole numbers pass, and a cast saturates")]
            let whole = number.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i64);
            number.as_i64().or(whole).map(Some).ok_or_else(|| wrong(&value))
        }
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(wrong(&value)),
    }
}

/// The answer to a successful start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct StartResponse {
    /// For a person.
    pub message: String,
    /// Tokens that one request may use.
    pub context_length: u32,
    /// Requests that run at the same time.
    pub parallel: u32,
    /// Tokens that were asked for.
    pub requested_context_length: u32,
    /// Requests at the same time that were asked for.
    pub requested_parallel: u32,
}

/// An answer that is only a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// For a person.
    pub message: String,
}

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// Whether all is well.
    pub ok: bool,
    /// What was seen, and what to do about it.
    pub text: String,
}
