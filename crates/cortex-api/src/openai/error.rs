//! The body of every answer that is not a success.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `{"error":{…},"message":…}`: OpenAI's shape, with the text again where cortex.cpp clients look for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// OpenAI's object.
    pub error: ErrorObject,
    /// The same text as `error.message`.
    #[serde(default)]
    pub message: String,
    /// Fields that a route's contract has besides, such as `modelHandle`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// OpenAI's error object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorObject {
    /// One sentence for a person, the hint included.
    pub message: String,
    /// The family, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// A stable word for programs, such as `model_not_found`.
    #[serde(default)]
    pub code: Option<String>,
}

impl ErrorBody {
    /// Both places filled from one text.
    pub fn new(kind: &str, code: &str, message: impl Into<String>, param: Option<String>) -> Self {
        let message = message.into();
        Self {
            error: ErrorObject { message: message.clone(), kind: kind.into(), param, code: Some(code.into()) },
            message,
            more: Map::new(),
        }
    }
}
