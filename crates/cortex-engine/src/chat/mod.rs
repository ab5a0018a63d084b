//! From messages to a prompt: pure.

mod guard;
mod legacy;
mod template;

pub(crate) use template::ChatTemplate;
pub use template::{ChatTurn, PromptTemplateUse, legacy_prompt_template, prompt_template_use};

use cortex_api::worker::Segment;
use serde_json::{Map, Value};

/// What a request wants answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Messages that the model's chat template turns into a prompt.
    Chat {
        /// In order.
        turns: Vec<ChatTurn>,
        /// More values for the template.
        extra: Map<String, Value>,
        /// The prompt template of the model's settings, from the time before chat templates.
        legacy: Option<String>,
    },
    /// A text, as it is; control tokens in it count.
    Text(String),
    /// Token ids of the model.
    Tokens(Vec<i32>),
}

impl Prompt {
    /// The segments that a worker gets.
    pub(crate) fn render(&self, template: &ChatTemplate) -> Result<Vec<Segment>, crate::EngineError> {
        match self {
            Self::Chat { turns, extra, legacy } => template.render(turns, extra, legacy.as_deref()),
            Self::Text(text) => Ok(vec![Segment::Text { text: text.clone(), special: true }]),
            Self::Tokens(tokens) => Ok(vec![Segment::Tokens { tokens: tokens.clone() }]),
        }
    }
}
