//! `POST /v1/completions`.

use super::{
    LoraScale, OneOrMany, SharedFields, StreamOptions, TextLogprobs, Timings, Usage, shared::with_shared_fields,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

with_shared_fields! {
    /// The request.
    pub struct CompletionRequest {
        /// What to go on with.
        pub prompt: Option<Prompt>,
        /// Of so many answers, the best are told.
        pub best_of: Option<i64>,
        /// Put the prompt in front of the answer.
        pub echo: Option<bool>,
        /// What comes behind the answer.
        pub suffix: Option<String>,
        /// Tell so many of the most probable tokens in the place of each.
        pub logprobs: Option<i64>,
    }
}

/// A prompt: a text, a list of texts, token ids, or lists of these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "it must be a text, a list of texts, a list of token ids, or a list of such lists")]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts, each with its answer.
    Texts(Vec<String>),
    /// Token ids of the model.
    Tokens(Vec<i32>),
    /// Token ids of several prompts, each with its answer.
    TokenLists(Vec<Vec<i32>>),
}

/// The answer, whole or as a chunk of a stream (`object` is `text_completion` for both).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Completion {
    /// `cmpl-…`.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Unix seconds.
    pub created: i64,
    /// The model id of the request.
    pub model: String,
    /// The build that answered.
    pub system_fingerprint: String,
    /// One choice; none in the usage chunk.
    pub choices: Vec<CompletionChoice>,
    /// Tokens counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// llama-server's timings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// What of the request had no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One choice of a [`Completion`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompletionChoice {
    /// Which of the answers.
    pub index: u32,
    /// The text, or what a chunk adds.
    pub text: String,
    /// When asked for.
    pub logprobs: Option<TextLogprobs>,
    /// `stop` or `length`; `null` in a chunk that is not the last.
    pub finish_reason: Option<String>,
}
