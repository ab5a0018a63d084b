//! What chat and text completions have in common.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "it must be a text, or a list of texts")]
pub enum OneOrMany {
    /// A single text.
    One(String),
    /// A list of texts.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts in order.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamOptions {
    /// Send a last chunk with `usage`.
    #[serde(default)]
    pub include_usage: bool,
}

/// Tokens counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Both together.
    pub total_tokens: u32,
    /// More about the prompt.
    #[serde(default)]
    pub prompt_tokens_details: PromptTokensDetails,
}

/// `prompt_tokens_details`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens that did not have to be computed.
    pub cached_tokens: u32,
}

/// Timings with the names that llama-server gives them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Prompt tokens taken from the cache.
    pub cache_n: u32,
    /// Prompt tokens computed.
    pub prompt_n: u32,
    /// Milliseconds for them.
    pub prompt_ms: f64,
    /// Milliseconds for each.
    pub prompt_per_token_ms: f64,
    /// Prompt tokens per second.
    pub prompt_per_second: f64,
    /// Tokens of the answer.
    pub predicted_n: u32,
    /// Milliseconds for them.
    pub predicted_ms: f64,
    /// Milliseconds for each.
    pub predicted_per_token_ms: f64,
    /// Tokens of the answer per second.
    pub predicted_per_second: f64,
}

/// The sampling fields that both requests accept: OpenAI's, and those of llama-server.
/// `None` means that the model's own setting counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplingFields {
    /// Randomness; 0 takes the most likely token.
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    pub top_p: Option<f32>,
    /// Keep the k most likely tokens.
    pub top_k: Option<i32>,
    /// Keep tokens this fraction as likely as the best.
    pub min_p: Option<f32>,
    /// Locally typical sampling.
    pub typical_p: Option<f32>,
    /// Multiplicative penalty.
    pub repeat_penalty: Option<f32>,
    /// Window of the penalties.
    pub repeat_last_n: Option<i32>,
    /// Additive penalty, once.
    pub presence_penalty: Option<f32>,
    /// Additive penalty, per occurrence.
    pub frequency_penalty: Option<f32>,
    /// Start of the random numbers.
    pub seed: Option<i64>,
    /// Texts that end the answer.
    pub stop: Option<OneOrMany>,
    /// Most tokens of the answer.
    pub max_tokens: Option<i64>,
    /// Go on after the end token.
    pub ignore_eos: Option<bool>,
    /// Bit-identical on repetition.
    pub deterministic: Option<bool>,
    /// How long the model stays in memory after the answer, as Ollama's clients say it.
    pub keep_alive: Option<Value>,
}
