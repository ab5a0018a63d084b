//! What chat and text completions have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct StreamOptions {
    /// Send a last chunk with `usage`.
    #[serde(default)]
    pub include_usage: bool,
}

/// Tokens counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
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
    /// More about the answer.
    #[serde(default)]
    pub completion_tokens_details: CompletionTokensDetails,
}

/// `completion_tokens_details`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CompletionTokensDetails {
    /// Tokens of the answer that were guessed, from a `prediction` or what was there, and right.
    pub accepted_prediction_tokens: u32,
    /// Guesses that were wrong. They are not part of the answer.
    pub rejected_prediction_tokens: u32,
}

/// `prompt_tokens_details`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PromptTokensDetails {
    /// Prompt tokens that did not have to be computed.
    pub cached_tokens: u32,
}

/// Timings with the names that llama-server gives them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// Prompt tokens taken from the cache.
    pub cache_n: u32,
    /// Those of them that were read from disk.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restored_n: u32,
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
    /// Tokens of the answer that were guessed and computed before they were known to be right.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub draft_n: u32,
    /// Those of them that were right.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub draft_n_accepted: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's way to ask")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The fields that both requests accept: OpenAI's, and those of llama-server. `None` means that the model's own setting counts.
///
/// A macro and not a flattened struct: with one, an error in a field would not know the field's name.
macro_rules! with_shared_fields {
    ($(#[$attribute:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
        #[serde(default)]
        pub struct $name {
            /// The model id.
            pub model: String,
            /// Send the answer in pieces.
            pub stream: Option<bool>,
            /// More about that.
            pub stream_options: Option<StreamOptions>,
            /// How many answers.
            pub n: Option<i64>,
            /// Randomness; 0 takes the most likely token.
            pub temperature: Option<f32>,
            /// How far the temperature moves with the entropy.
            pub dynatemp_range: Option<f32>,
            /// How the entropy maps to that.
            pub dynatemp_exponent: Option<f32>,
            /// Nucleus sampling.
            pub top_p: Option<f32>,
            /// Keep the k most likely tokens.
            pub top_k: Option<i32>,
            /// Keep tokens this fraction as likely as the best.
            pub min_p: Option<f32>,
            /// Locally typical sampling.
            #[serde(alias = "typ_p")]
            pub typical_p: Option<f32>,
            /// Keep tokens within so many standard deviations.
            pub top_n_sigma: Option<f32>,
            /// How often the most likely tokens are left out.
            pub xtc_probability: Option<f32>,
            /// How likely others must be for it.
            pub xtc_threshold: Option<f32>,
            /// Multiplicative penalty.
            #[serde(alias = "repetition_penalty")]
            pub repeat_penalty: Option<f32>,
            /// Window of the penalties.
            pub repeat_last_n: Option<i32>,
            /// Additive penalty, once.
            pub presence_penalty: Option<f32>,
            /// Additive penalty, per occurrence.
            pub frequency_penalty: Option<f32>,
            /// Penalty for going on with a repetition.
            pub dry_multiplier: Option<f32>,
            /// How it grows.
            pub dry_base: Option<f32>,
            /// Repetitions up to this length are free.
            pub dry_allowed_length: Option<i32>,
            /// How far it looks back.
            pub dry_penalty_last_n: Option<i32>,
            /// Texts at which repetitions end.
            pub dry_sequence_breakers: Option<Vec<String>>,
            /// 1 or 2: keep the surprise of each token at the same height.
            pub mirostat: Option<i32>,
            /// The surprise that is aimed at.
            pub mirostat_tau: Option<f32>,
            /// How fast it gets there.
            pub mirostat_eta: Option<f32>,
            /// The steps of the sampling in their order, by llama-server's names.
            pub samplers: Option<Vec<String>>,
            /// Start of the random numbers.
            pub seed: Option<i64>,
            /// Added to the logits of tokens, by their ids: `{"42": -5}`, or llama-server's `[[42, -5]]`.
            pub logit_bias: Option<Value>,
            /// Texts that end the answer.
            pub stop: Option<OneOrMany>,
            /// Most tokens of the answer.
            pub max_tokens: Option<i64>,
            /// llama-server's name of the same.
            pub n_predict: Option<i64>,
            /// Go on after the end token.
            pub ignore_eos: Option<bool>,
            /// Bit-identical on repetition.
            pub deterministic: Option<bool>,
            /// How long the model stays in memory after the answer: seconds, a duration such as `5m`, 0, or -1 for ever.
            pub keep_alive: Option<Value>,
            /// A JSON schema that the answer must follow.
            pub json_schema: Option<Value>,
            /// A regular expression that the answer must match.
            pub regex: Option<String>,
            /// A grammar in llguidance's dialect of Lark that the answer must follow.
            pub lark: Option<String>,
            /// A grammar in llama.cpp's GBNF.
            pub grammar: Option<String>,
            /// Tell the most probable tokens in place of each; llama-server's name.
            pub n_probs: Option<i64>,
            /// Take what was computed before and leave what is computed now to others: unless this is false.
            pub cache_prompt: Option<bool>,
            /// A text that the answer is expected to be like: `{"type": "content", "content": "…"}`.
            pub prediction: Option<Value>,
            /// Tokens that are guessed ahead at most, which 0 switches off; llama-server's name.
            #[serde(rename = "speculative.n_max")]
            pub speculative_n_max: Option<i64>,
            /// The LoRA adapters that count: `[{"id": 0, "scale": 0.5}]`, by their numbers in the model's settings; llama-server's name.
            pub lora: Option<Vec<LoraScale>>,
            /// Refuse what has no effect in place of a warning.
            pub strict_parameters: Option<bool>,
            $($own)*
            /// Fields that are none of these.
            #[serde(flatten)]
            pub rest: serde_json::Map<String, Value>,
        }

        impl $name {
            /// The fields of the sampling, which chats and texts share.
            pub fn shared(&self) -> SharedFields {
                SharedFields {
                    n: self.n,
                    temperature: self.temperature,
                    dynatemp_range: self.dynatemp_range,
                    dynatemp_exponent: self.dynatemp_exponent,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    typical_p: self.typical_p,
                    top_n_sigma: self.top_n_sigma,
                    xtc_probability: self.xtc_probability,
                    xtc_threshold: self.xtc_threshold,
                    repeat_penalty: self.repeat_penalty,
                    repeat_last_n: self.repeat_last_n,
                    presence_penalty: self.presence_penalty,
                    frequency_penalty: self.frequency_penalty,
                    dry_multiplier: self.dry_multiplier,
                    dry_base: self.dry_base,
                    dry_allowed_length: self.dry_allowed_length,
                    dry_penalty_last_n: self.dry_penalty_last_n,
                    dry_sequence_breakers: self.dry_sequence_breakers.clone(),
                    mirostat: self.mirostat,
                    mirostat_tau: self.mirostat_tau,
                    mirostat_eta: self.mirostat_eta,
                    samplers: self.samplers.clone(),
                    seed: self.seed,
                    logit_bias: self.logit_bias.clone(),
                    stop: self.stop.clone(),
                    max_tokens: self.max_tokens.or(self.n_predict),
                    max_tokens_field: self.max_tokens.is_none().then_some("n_predict"),
                    ignore_eos: self.ignore_eos,
                    deterministic: self.deterministic,
                    keep_alive: self.keep_alive.clone(),
                    json_schema: self.json_schema.clone(),
                    regex: self.regex.clone(),
                    lark: self.lark.clone(),
                    grammar: self.grammar.clone(),
                    n_probs: self.n_probs,
                    cache_prompt: self.cache_prompt,
                    prediction: self.prediction.clone(),
                    speculative_n_max: self.speculative_n_max,
                    lora: self.lora.clone(),
                }
            }
        }
    };
}
pub(super) use with_shared_fields;

/// What chats and texts have in common; the fields are those of the requests.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "the requests say what they mean")]
pub struct SharedFields {
    pub n: Option<i64>,
    pub temperature: Option<f32>,
    pub dynatemp_range: Option<f32>,
    pub dynatemp_exponent: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i32>,
    pub min_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub top_n_sigma: Option<f32>,
    pub xtc_probability: Option<f32>,
    pub xtc_threshold: Option<f32>,
    pub repeat_penalty: Option<f32>,
    pub repeat_last_n: Option<i32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub dry_multiplier: Option<f32>,
    pub dry_base: Option<f32>,
    pub dry_allowed_length: Option<i32>,
    pub dry_penalty_last_n: Option<i32>,
    pub dry_sequence_breakers: Option<Vec<String>>,
    pub mirostat: Option<i32>,
    pub mirostat_tau: Option<f32>,
    pub mirostat_eta: Option<f32>,
    pub samplers: Option<Vec<String>>,
    pub seed: Option<i64>,
    pub logit_bias: Option<Value>,
    pub stop: Option<OneOrMany>,
    pub max_tokens: Option<i64>,
    /// Its name in the request, where that is not `max_tokens`.
    pub max_tokens_field: Option<&'static str>,
    pub ignore_eos: Option<bool>,
    pub deterministic: Option<bool>,
    pub keep_alive: Option<Value>,
    pub json_schema: Option<Value>,
    pub regex: Option<String>,
    pub lark: Option<String>,
    pub grammar: Option<String>,
    pub n_probs: Option<i64>,
    pub cache_prompt: Option<bool>,
    pub prediction: Option<Value>,
    pub speculative_n_max: Option<i64>,
    pub lora: Option<Vec<LoraScale>>,
}

/// How much a LoRA adapter counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraScale {
    /// Its number in the model's settings, from 0.
    pub id: i64,
    /// 1 is as it was made.
    pub scale: f32,
}

/// `logprobs` of a chat: the tokens of a piece of the answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ChatLogprobs {
    /// In order.
    pub content: Vec<TokenLogprob>,
}

/// A token of a chat and how probable it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenLogprob {
    /// Its text; what is no whole character is replaced.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most probable tokens in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<TokenLogprob>>,
}

/// `logprobs` of a text completion.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct TextLogprobs {
    /// The tokens.
    pub tokens: Vec<String>,
    /// How probable each was.
    pub token_logprobs: Vec<f32>,
    /// The most probable ones in the place of each.
    pub top_logprobs: Vec<serde_json::Map<String, Value>>,
    /// Where each begins in the text, in characters.
    pub text_offset: Vec<usize>,
}
