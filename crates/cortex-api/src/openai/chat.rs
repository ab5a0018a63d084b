//! `POST /v1/chat/completions`.

use super::{
    ChatLogprobs, LoraScale, OneOrMany, SharedFields, StreamOptions, Timings, Usage, shared::with_shared_fields,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

with_shared_fields! {
    /// The request.
    pub struct ChatCompletionRequest {
        /// What was said so far.
        pub messages: Vec<ChatMessage>,
        /// The newer name of `max_tokens`.
        pub max_completion_tokens: Option<i64>,
        /// Tell how probable each token was.
        pub logprobs: Option<bool>,
        /// And so many of the most probable ones in its place.
        pub top_logprobs: Option<i64>,
        /// What the model may call.
        pub tools: Option<Vec<Tool>>,
        /// `none`, `auto`, `required`, or the one tool to call.
        pub tool_choice: Option<Value>,
        /// Whether it may call several.
        pub parallel_tool_calls: Option<bool>,
        /// What the answer must be.
        pub response_format: Option<ResponseFormat>,
        /// How much the model thinks, where its template knows that.
        pub reasoning_effort: Option<String>,
        /// `none` leaves what the model thinks in the text; else it comes as `reasoning_content`.
        pub reasoning_format: Option<String>,
        /// More values for the chat template.
        pub chat_template_kwargs: Option<serde_json::Map<String, Value>>,
        /// Text of users and tools that spells a control token is that token.
        pub allow_special: Option<bool>,
    }
}

/// Something that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<Function>,
    /// What is none of these.
    #[serde(flatten, skip_serializing)]
    pub rest: serde_json::Map<String, Value>,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// The arguments must follow the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// What is none of these.
    #[serde(flatten, skip_serializing)]
    pub rest: serde_json::Map<String, Value>,
}

/// `response_format`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// OpenAI's place of the schema: `{"name": …, "schema": …}`.
    #[serde(default)]
    pub json_schema: Option<Value>,
    /// llama-server's place of it.
    #[serde(default)]
    pub schema: Option<Value>,
}

/// One message of a chat, as it came.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said; `null` in an assistant's message that only calls tools.
    #[serde(default)]
    pub content: Option<Content>,
    /// Who said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the assistant thought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls that the assistant made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Which call a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What is none of these.
    #[serde(flatten, skip_serializing)]
    pub rest: serde_json::Map<String, Value>,
}

impl ChatMessage {
    /// A message with text only.
    pub fn text(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Content::Text(content.into())), ..Self::default() }
    }
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// Names the call; a `tool` message answers it by that.
    #[serde(default)]
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// Which function, and with what.
    pub function: FunctionCall,
}

fn function() -> String {
    "function".into()
}

/// Which function is called, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// A JSON object, as text.
    #[serde(default)]
    pub arguments: String,
}

/// What a chunk adds to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCallDelta {
    /// Which call of the message.
    pub index: u32,
    /// In the first chunk of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in the first chunk of a call.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is new of the function.
    pub function: FunctionDelta,
}

/// What a chunk adds to the function of a call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FunctionDelta {
    /// Its name, in the first chunk of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Text to append to the arguments.
    #[serde(default)]
    pub arguments: String,
}

/// A text, or parts of several kinds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "it must be a text, or a list of parts")]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts in order.
    Parts(Vec<ContentPart>),
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContentPart {
    /// `text`, `image_url`, `input_audio`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a `text` part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The image of an `image_url` part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<ImageUrl>,
    /// What is none of these.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

/// Where an image is: an object, or, as some clients send it, the address alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "GivenImageUrl")]
pub struct ImageUrl {
    /// `data:image/png;base64,…`.
    pub url: String,
    /// OpenAI's word for how closely it is looked at; the model decides that here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What is none of these.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

/// The two forms of it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "an address, or an object with the address as `url`")]
enum GivenImageUrl {
    Address(String),
    Object {
        url: String,
        #[serde(default)]
        detail: Option<String>,
        #[serde(flatten)]
        rest: serde_json::Map<String, Value>,
    },
}

impl From<GivenImageUrl> for ImageUrl {
    fn from(given: GivenImageUrl) -> Self {
        match given {
            GivenImageUrl::Address(url) => Self { url, detail: None, rest: serde_json::Map::new() },
            GivenImageUrl::Object { url, detail, rest } => Self { url, detail, rest },
        }
    }
}

/// The answer in one piece.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// What of the request had no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One choice of a [`ChatCompletion`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatChoice {
    /// Which of the answers.
    pub index: u32,
    /// The assistant's message.
    pub message: ChatMessage,
    /// When asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: String,
}

/// One piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// In the first chunk: what of the request had no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One choice of a [`ChatCompletionChunk`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChunkChoice {
    /// Which of the answers.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// When asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the last chunk of the answer.
    pub finish_reason: Option<String>,
}

/// What a chunk adds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Delta {
    /// In the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Text to append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Text to append to what the assistant thought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What is new of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}
