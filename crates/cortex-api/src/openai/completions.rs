//! `POST /v1/completions`.

use super::{OneOrMany, SamplingFields, StreamOptions, Timings, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The request. Unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are OpenAI's and llama-server's; SamplingFields says what they mean")]
pub struct CompletionRequest {
    pub model: String,
    pub prompt: Option<Prompt>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i32>,
    pub min_p: Option<f32>,
    #[serde(alias = "typ_p")]
    pub typical_p: Option<f32>,
    #[serde(alias = "repetition_penalty")]
    pub repeat_penalty: Option<f32>,
    pub repeat_last_n: Option<i32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub seed: Option<i64>,
    pub stop: Option<OneOrMany>,
    pub max_tokens: Option<i64>,
    pub ignore_eos: Option<bool>,
    pub deterministic: Option<bool>,
    /// How long the model stays in memory after the answer: seconds, a duration such as `5m`, 0, or -1 for ever.
    pub keep_alive: Option<Value>,
    pub n: Option<i64>,
    pub best_of: Option<i64>,
    pub echo: Option<bool>,
    pub suffix: Option<String>,
    pub logprobs: Option<Value>,
}

impl CompletionRequest {
    /// The sampling fields in one struct.
    pub fn sampling(&self) -> SamplingFields {
        SamplingFields {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
            max_tokens: self.max_tokens,
            ignore_eos: self.ignore_eos,
            deterministic: self.deterministic,
            keep_alive: self.keep_alive.clone(),
        }
    }
}

/// A prompt: a text, a list of texts, or token ids.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "it must be a text, a list of texts, or a list of token ids")]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts; one is supported.
    Texts(Vec<String>),
    /// Token ids of the model.
    Tokens(Vec<i32>),
}

/// The answer, whole or as a chunk of a stream (`object` is `text_completion` for both).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

/// One choice of a [`Completion`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// 0.
    pub index: u32,
    /// The text, or what a chunk adds.
    pub text: String,
    /// Always `null` so far.
    pub logprobs: Option<Value>,
    /// `stop` or `length`; `null` in a chunk that is not the last.
    pub finish_reason: Option<String>,
}
