//! `POST /infill`, as llama-server has it.

use super::{LoraScale, OneOrMany, SharedFields, StreamOptions, Timings, shared::with_shared_fields};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

with_shared_fields! {
    /// The request: the text of a gap is wanted.
    pub struct InfillRequest {
        /// What stands before the gap.
        pub input_prefix: Option<String>,
        /// What stands behind it.
        pub input_suffix: Option<String>,
        /// Other files that may help.
        pub input_extra: Option<Vec<InfillFile>>,
        /// What of the gap is there already.
        pub prompt: Option<String>,
    }
}

/// A file that may help to fill a gap.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct InfillFile {
    /// Its name.
    #[serde(default)]
    pub filename: Option<String>,
    /// Its text.
    pub text: String,
}

/// The answer, or a piece of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct InfillAnswer {
    /// Which of the answers.
    pub index: u32,
    /// The text, or what is new of it.
    pub content: String,
    /// Nothing else follows.
    pub stop: bool,
    /// The model id of the request.
    pub model: String,
    /// Tokens of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_predicted: Option<u32>,
    /// Tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_evaluated: Option<u32>,
    /// Those of them that did not have to be computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_cached: Option<u32>,
    /// Why it ended: `eos` or `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_type: Option<String>,
    /// What was cut of the prompt: nothing ever is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<bool>,
    /// What it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// What of the request had no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
