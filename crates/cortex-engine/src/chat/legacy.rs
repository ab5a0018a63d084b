//! Prompt templates of the time before chat templates: a text with `{system_message}` and `{prompt}` in it.
//! Source: how Nitro and cortex.cpp split and filled them. Pure.

use super::ChatTurn;

/// The texts before what somebody says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LegacyTemplate {
    /// Before the system message; `None` when the template has no place for one.
    system: Option<String>,
    /// Before what the user says.
    user: String,
    /// Before what the model says.
    assistant: String,
}

/// The places of a system message: one version of the app wrote the second.
const SYSTEM: &[&str] = &["{system_message}", "{system_prompt}"];
const PROMPT: &str = "{prompt}";

impl LegacyTemplate {
    /// Splits a template; `None` when it has no place for what the user says.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let system = SYSTEM.iter().find_map(|place| text.split_once(place));
        let (system, rest) = system.map_or((None, text), |(before, rest)| (Some(before.to_owned()), rest));
        let (user, assistant) = rest.split_once(PROMPT)?;
        Some(Self { system, user: user.to_owned(), assistant: assistant.to_owned() })
    }

    /// Whether it has a place for a system message.
    pub(crate) fn has_system(&self) -> bool {
        self.system.is_some()
    }

    /// The prompt for the model's next message: each message behind the text of its role, a system message at the
    /// front. Without a place for it, it is left out.
    pub(crate) fn render(&self, turns: &[ChatTurn]) -> String {
        let (mut front, mut text) = (String::new(), String::new());
        for turn in turns {
            match turn.role.as_str() {
                "system" => {
                    if let Some(before) = &self.system {
                        front = format!("{before}{}{front}", turn.content);
                    }
                }
                "assistant" => {
                    text.push_str(&self.assistant);
                    text.push_str(&turn.content);
                }
                _ => {
                    text.push_str(&self.user);
                    text.push_str(&turn.content);
                }
            }
        }
        // The text between the two places closes the system message, and stands there also without one.
        front + &text + &self.assistant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(role: &str, content: &str) -> ChatTurn {
        ChatTurn { role: role.into(), content: content.into(), ..ChatTurn::default() }
    }

    #[track_caller]
    fn check(template: &str, turns: &[(&str, &str)], expected: &str) {
        let turns: Vec<ChatTurn> = turns.iter().map(|(role, content)| turn(role, content)).collect();
        assert_eq!(LegacyTemplate::parse(template).unwrap().render(&turns), expected);
    }

    #[test]
    fn messages_stand_behind_the_text_of_their_role() {
        let both = "<s>{system_message}</s><u>{prompt}</u><a>";
        check(both, &[("system", "S"), ("user", "U")], "<s>S</s><u>U</u><a>");
        check(
            both,
            &[("system", "S"), ("user", "1"), ("assistant", "2"), ("user", "3")],
            "<s>S</s><u>1</u><a>2</s><u>3</u><a>",
        );
        check("<s>{system_prompt}<u>{prompt}<a>", &[("system", "S"), ("user", "U")], "<s>S<u>U<a>");
    }

    #[test]
    fn without_a_place_the_system_message_is_left_out() {
        check("[INST] {prompt} [/INST]", &[("system", "S"), ("user", "U")], "[INST] U [/INST]");
        assert!(!LegacyTemplate::parse("[INST] {prompt} [/INST]").unwrap().has_system());
    }

    #[test]
    fn a_template_without_a_prompt_is_none() {
        for text in ["", "plain", "{system_message} only", "{prompt", "{PROMPT}"] {
            assert_eq!(LegacyTemplate::parse(text), None, "{text}");
        }
    }
}
