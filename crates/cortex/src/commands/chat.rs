//! A conversation: pure, but for the one function that asks the daemon.

use super::Context;
use crate::{client::Events, error::CliError};
use cortex_api::openai::{ChatCompletionChunk, ChatMessage, ErrorBody};
use serde_json::{Map, Value, json};

/// The messages of a chat.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    system: Option<String>,
    messages: Vec<ChatMessage>,
}

impl Conversation {
    pub(crate) fn new(system: Option<String>) -> Self {
        Self { system, messages: vec![] }
    }

    pub(crate) fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// Forgets what was said, not the system message.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
    }

    pub(crate) fn push(&mut self, role: &str, text: &str) {
        self.messages.push(ChatMessage::text(role, text));
    }

    /// Takes the last message back.
    pub(crate) fn pop(&mut self) {
        self.messages.pop();
    }

    /// Leaves out the oldest turn: everything up to the next message of the user. Returns how many
    /// messages those are; none when only the last message is left.
    pub(crate) fn drop_oldest(&mut self) -> usize {
        let next = self.messages.iter().skip(1).position(|message| message.role == "user").map(|at| at + 1);
        match next {
            Some(next) => self.messages.drain(..next).count(),
            None => 0,
        }
    }

    fn messages(&self) -> Vec<ChatMessage> {
        let system = self.system.iter().map(|text| ChatMessage::text("system", text));
        system.chain(self.messages.iter().cloned()).collect()
    }
}

/// What to ask with.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) model: String,
    pub(crate) options: Map<String, Value>,
}

/// How an answer ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Whole,
    /// The user pressed ctrl-C.
    Cancelled,
}

/// Asks for the next message and prints it as it comes. When the chat outgrows the context, the oldest
/// turns are left out and a line says so.
pub(crate) async fn ask(
    context: &Context<'_>,
    asking: &Asking,
    conversation: &mut Conversation,
) -> Result<(String, Ended), CliError> {
    let mut left_out = 0;
    let answer = loop {
        let mut body = asking.options.clone();
        body.insert("model".into(), json!(asking.model));
        body.insert("messages".into(), json!(conversation.messages()));
        body.insert("stream".into(), json!(true));
        let sent = tokio::select! {
            sent = context.client.stream("/v1/chat/completions", &body) => sent,
            _ = tokio::signal::ctrl_c() => return Ok((String::new(), Ended::Cancelled)),
        };
        match sent {
            Err(CliError::Refused { body }) if is_too_long(&body) => match conversation.drop_oldest() {
                0 => return Err(CliError::Refused { body }),
                dropped => left_out += dropped,
            },
            other => break other?,
        }
    };
    if left_out > 0 {
        context
            .printer
            .note(&format!("(the chat is longer than the context: the oldest {left_out} messages are left out)"));
    }
    receive(context, answer).await
}

fn is_too_long(body: &ErrorBody) -> bool {
    body.error.code.as_deref() == Some("context_length_exceeded")
}

async fn receive(context: &Context<'_>, mut answer: reqwest::Response) -> Result<(String, Ended), CliError> {
    let mut events = Events::default();
    let mut text = String::new();
    loop {
        let piece = tokio::select! {
            piece = answer.chunk() => piece.map_err(|error| CliError::Connection(error.to_string()))?,
            // Dropping the connection cancels the answer.
            _ = tokio::signal::ctrl_c() => return Ok((text, Ended::Cancelled)),
        };
        let Some(piece) = piece else {
            return Err(CliError::Connection("the answer ended early".into()));
        };
        for event in events.push(&piece) {
            if event == "[DONE]" {
                return Ok((text, Ended::Whole));
            }
            if let Ok(body) = serde_json::from_str::<ErrorBody>(&event) {
                return Err(CliError::Refused { body: Box::new(body) });
            }
            let chunk: ChatCompletionChunk =
                serde_json::from_str(&event).map_err(|error| CliError::Connection(error.to_string()))?;
            for choice in chunk.choices {
                if let Some(content) = choice.delta.content {
                    text.push_str(&content);
                    context.printer.answer(&content)?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(conversation: &Conversation) -> Vec<String> {
        conversation.messages().into_iter().map(|message| message.role).collect()
    }

    #[test]
    fn the_oldest_turn_goes_first_and_the_system_message_stays() {
        let mut conversation = Conversation::new(Some("be kind".into()));
        for (role, text) in [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")] {
            conversation.push(role, text);
        }
        assert_eq!(conversation.drop_oldest(), 2);
        assert_eq!(roles(&conversation), ["system", "user", "assistant", "user"]);
        assert_eq!(conversation.drop_oldest(), 2);
        assert_eq!(conversation.drop_oldest(), 0);
        assert_eq!(roles(&conversation), ["system", "user"]);
    }

    #[test]
    fn clearing_keeps_the_system_message() {
        let mut conversation = Conversation::new(Some("s".into()));
        conversation.push("user", "x");
        conversation.clear();
        assert_eq!(roles(&conversation), ["system"]);
        conversation.set_system(None);
        assert_eq!(roles(&conversation), Vec::<String>::new());
    }
}
