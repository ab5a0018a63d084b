//! `POST /v1/embeddings` and `/v1/rerank`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The request for vectors.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EmbeddingRequest {
    /// The model id.
    pub model: String,
    /// What to make vectors of.
    pub input: Option<EmbeddingInput>,
    /// `float` or `base64`.
    pub encoding_format: Option<String>,
    /// Only so many of the numbers of each vector.
    pub dimensions: Option<i64>,
}

/// A text, several, the token ids of one, or those of several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "it must be a text, a list of texts, a list of token ids, or a list of such lists")]
pub enum EmbeddingInput {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// Token ids of one text.
    Tokens(Vec<i32>),
    /// Token ids of several texts.
    TokenLists(Vec<Vec<i32>>),
}

/// The vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Embeddings {
    /// `list`.
    pub object: String,
    /// One for each text, in order.
    pub data: Vec<Embedding>,
    /// The model id of the request.
    pub model: String,
    /// Tokens counted.
    pub usage: EmbeddingUsage,
}

/// One vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Embedding {
    /// `embedding`.
    pub object: String,
    /// Which text.
    pub index: usize,
    /// A list of numbers, or their little-endian 32-bit floats in base64.
    pub embedding: Value,
}

/// Tokens counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingUsage {
    /// Of all texts.
    pub prompt_tokens: u32,
    /// The same.
    pub total_tokens: u32,
}

/// The request to order documents.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RerankRequest {
    /// The model id.
    pub model: String,
    /// The question.
    pub query: Option<String>,
    /// Texts, or objects with a `text`.
    pub documents: Option<Vec<Document>>,
    /// Tell only so many of the best.
    pub top_n: Option<i64>,
    /// Tell the texts again.
    pub return_documents: Option<bool>,
}

/// A text that may answer a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "it must be a text, or an object with a `text`")]
pub enum Document {
    /// The text.
    Plain(String),
    /// The same in an object.
    Object {
        /// The text.
        text: String,
    },
}

impl Document {
    /// The text.
    pub fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Object { text } => text,
        }
    }
}

/// The documents in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ranking {
    /// `list`.
    pub object: String,
    /// The model id of the request.
    pub model: String,
    /// The best first.
    pub results: Vec<Ranked>,
    /// Tokens counted.
    pub usage: EmbeddingUsage,
}

/// How well one document answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ranked {
    /// Which document.
    pub index: usize,
    /// The model's number: larger is better.
    pub relevance_score: f32,
    /// The text again, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Document>,
}
