//! `POST /v1/chat/completions`.

use super::{OneOrMany, SamplingFields, StreamOptions, Timings, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The request. Unknown fields are ignored, as OpenAI's server does.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are OpenAI's and llama-server's; SamplingFields says what they mean")]
pub struct ChatCompletionRequest {
    pub model: String,
    pub messages: Vec<ChatMessage>,
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
    pub max_completion_tokens: Option<i64>,
    pub ignore_eos: Option<bool>,
    pub deterministic: Option<bool>,
    /// How long the model stays in memory after the answer: seconds, a duration such as `5m`, 0, or -1 for ever.
    pub keep_alive: Option<Value>,
    pub n: Option<i64>,
    pub logprobs: Option<bool>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    pub response_format: Option<Value>,
    /// More values for the chat template.
    pub chat_template_kwargs: Option<serde_json::Map<String, Value>>,
}

impl ChatCompletionRequest {
    /// The sampling fields in one struct; `max_completion_tokens` is the newer name of `max_tokens`.
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
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            ignore_eos: self.ignore_eos,
            deterministic: self.deterministic,
            keep_alive: self.keep_alive.clone(),
        }
    }
}

/// One message of a chat, as it came.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said; absent for an assistant message that only calls tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Who said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that the assistant made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A message with text only.
    pub fn text(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Content::Text(content.into())), ..Self::default() }
    }
}

/// A text, or parts of several kinds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "it must be a text, or a list of parts")]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts in order.
    Parts(Vec<ContentPart>),
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContentPart {
    /// `text`, `image_url`, `input_audio`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a `text` part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The answer in one piece.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// `chatcmpl-…`.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Unix seconds.
    pub created: i64,
    /// The model id of the request.
    pub model: String,
    /// The build that answered.
    pub system_fingerprint: String,
    /// One choice.
    pub choices: Vec<ChatChoice>,
    /// Tokens counted.
    pub usage: Usage,
    /// llama-server's timings.
    pub timings: Timings,
}

/// One choice of a [`ChatCompletion`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// 0.
    pub index: u32,
    /// The assistant's message.
    pub message: ChatMessage,
    /// Always `null` so far.
    pub logprobs: Option<Value>,
    /// `stop` or `length`.
    pub finish_reason: String,
}

/// One piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletionChunk {
    /// The same in every chunk.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// Unix seconds, the same in every chunk.
    pub created: i64,
    /// The model id of the request.
    pub model: String,
    /// The build that answers.
    pub system_fingerprint: String,
    /// One choice; none in the usage chunk.
    pub choices: Vec<ChunkChoice>,
    /// In the last chunk, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// In the chunk with the finish reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// One choice of a [`ChatCompletionChunk`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// 0.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Always `null` so far.
    pub logprobs: Option<Value>,
    /// In the last chunk of the answer.
    pub finish_reason: Option<String>,
}

/// What a chunk adds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Delta {
    /// In the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Text to append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}
