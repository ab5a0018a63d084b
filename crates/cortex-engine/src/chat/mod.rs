//! From messages to a prompt, and from what a model writes to a message: pure.

#[cfg(test)]
mod forging;
mod guard;
mod legacy;
mod reply;
mod template;
mod tools;

pub(crate) use reply::{Piece, ReplyParser};
pub(crate) use template::ChatTemplate;
pub use template::{PromptTemplateUse, legacy_prompt_template, prompt_template_use};

use crate::EngineError;
use cortex_api::{
    openai::{Function, ToolCall},
    worker::{Constraint, InfillTokens, Segment},
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// What a request wants answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Messages that the model's chat template turns into a prompt.
    Chat(Box<Chat>),
    /// A text, as it is; control tokens in it count.
    Text(String),
    /// Token ids of the model.
    Tokens(Vec<i32>),
    /// What stands before and behind a gap that the answer fills.
    Infill(Infill),
}

/// What stands around a gap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Infill {
    /// Before it.
    pub before: String,
    /// Behind it.
    pub behind: String,
    /// Other files that may help, each with its name and its text.
    pub others: Vec<(String, String)>,
}

impl Infill {
    /// The prompt, by the tokens of the model. Other files come first, as llama-server has them.
    fn segments(&self, tokens: InfillTokens) -> Vec<Segment> {
        let token = |token| Segment::Tokens { tokens: vec![token] };
        // Text of a file is no place for control tokens.
        let text = |text: &str| Segment::Text { text: text.to_owned(), special: false };
        let mut segments = Vec::new();
        if !self.others.is_empty() {
            segments.extend(tokens.repository.map(token));
            segments.extend(tokens.repository.map(|_| text("repository\n")));
            for (name, content) in &self.others {
                match tokens.separator {
                    Some(separator) => segments.extend([token(separator), text(&format!("{name}\n"))]),
                    None => segments.push(text("\n\n--- snippet ---\n\n")),
                }
                segments.push(text(content));
            }
            if let Some(separator) = tokens.separator {
                segments.extend([token(separator), text("filename\n")]);
            }
        }
        let InfillTokens { prefix, suffix, middle, .. } = tokens;
        segments.extend([token(prefix), text(&self.before), token(suffix), text(&self.behind), token(middle)]);
        segments
    }
}

/// Messages, and how they are to be answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chat {
    /// In order.
    pub turns: Vec<ChatTurn>,
    /// More values for the template.
    pub extra: Map<String, Value>,
    /// The prompt template of the model's settings, from the time before chat templates.
    pub legacy: Option<String>,
    /// What the model may call.
    pub tools: Option<ToolUse>,
    /// What the model thinks is told apart from what it says.
    pub splits_reasoning: bool,
    /// Text of users and tools that spells a control token is that token.
    pub allows_control: bool,
    /// The images of all messages: files of usual formats, in base64.
    pub images: Arc<Vec<String>>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChatTurn {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Who said it.
    pub name: Option<String>,
    /// What the assistant thought before.
    pub reasoning_content: Option<String>,
    /// Calls that the assistant made.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a `tool` message answers.
    pub tool_call_id: Option<String>,
    /// Where in the content images stand, in bytes, and their numbers in [`Chat::images`]; in order.
    pub images: Vec<(usize, usize)>,
}

/// What a model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    /// Not empty.
    pub functions: Vec<Function>,
    /// Whether it has to.
    pub choice: ToolChoice,
    /// Whether it may call several.
    pub parallel: bool,
}

/// Whether a model has to call something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    Auto,
    /// Something.
    Required,
    /// This function.
    Named(String),
}

/// A prompt for a worker, and how to read what comes back.
pub(crate) struct Rendered {
    pub(crate) segments: Vec<Segment>,
    /// What the answer must be by what the request says of tools.
    pub(crate) constraint: Option<Constraint>,
    /// Takes the answer apart; `None` when it is text as it comes.
    pub(crate) parser: Option<ReplyParser>,
    /// The answer consists of calls: text is what was cut of one.
    pub(crate) has_calls_only: bool,
    /// The parser needs to see control tokens.
    pub(crate) shows_control: bool,
    /// What stands behind the answer in the prompt of the next turn, up to what is said then; empty when that is not known.
    pub(crate) next_turn: String,
}

impl Rendered {
    fn plain(segments: Vec<Segment>) -> Self {
        Self {
            segments,
            constraint: None,
            parser: None,
            has_calls_only: false,
            shows_control: false,
            next_turn: String::new(),
        }
    }
}

impl Prompt {
    /// Whether it holds images.
    pub fn has_images(&self) -> bool {
        matches!(self, Self::Chat(chat) if !chat.images.is_empty())
    }

    /// What a worker gets; `own` is what the answer must be by the request.
    pub(crate) fn render(
        &self,
        template: &ChatTemplate,
        infill: Option<InfillTokens>,
        own: Option<&Constraint>,
    ) -> Result<Rendered, EngineError> {
        match self {
            Self::Chat(chat) => template.render(chat, own),
            Self::Text(text) => Ok(Rendered::plain(vec![Segment::Text { text: text.clone(), special: true }])),
            Self::Tokens(tokens) => Ok(Rendered::plain(vec![Segment::Tokens { tokens: tokens.clone() }])),
            Self::Infill(gap) => Ok(Rendered::plain(gap.segments(infill.ok_or(EngineError::NoInfill)?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_stands_between_the_tokens_of_the_model() {
        let (template, _) = ChatTemplate::new(&cortex_api::worker::Loaded::default());
        let gap = Infill { before: "fn main() {".into(), behind: "}".into(), others: vec![] };
        let prompt = Prompt::Infill(gap.clone());
        let tokens = InfillTokens { prefix: 7, suffix: 8, middle: 9, repository: None, separator: None };
        let token = |token| Segment::Tokens { tokens: vec![token] };
        let text = |text: &str| Segment::Text { text: text.into(), special: false };
        assert_eq!(
            prompt.render(&template, Some(tokens), None).expect("renders").segments,
            [token(7), text("fn main() {"), token(8), text("}"), token(9)]
        );
        assert_eq!(prompt.render(&template, None, None).err(), Some(EngineError::NoInfill));
        // Other files come first, as the model was trained with them.
        let gap = Infill { others: vec![("a.rs".into(), "fn a() {}".into())], ..gap };
        let first = |tokens| gap.segments(tokens).into_iter().take(6).collect::<Vec<_>>();
        let known = InfillTokens { repository: Some(5), separator: Some(6), ..tokens };
        let files = [token(5), text("repository\n"), token(6), text("a.rs\n"), text("fn a() {}"), token(6)];
        assert_eq!(first(known), files);
        assert_eq!(first(tokens)[..2], [text("\n\n--- snippet ---\n\n"), text("fn a() {}")]);
    }
}
