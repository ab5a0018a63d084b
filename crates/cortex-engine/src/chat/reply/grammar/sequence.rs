//! One thing behind the other, in a rule of a grammar.

use cortex_api::worker::control_token_name;
use serde_json::Value;

/// What stands one behind the other.
pub(super) struct Sequence<'controls> {
    controls: &'controls [String],
    parts: Vec<String>,
    /// Ordinary text that is not yet a part.
    text: String,
}

impl<'controls> Sequence<'controls> {
    /// Nothing yet.
    pub(super) fn new(controls: &'controls [String]) -> Self {
        Self { controls, parts: Vec::new(), text: String::new() }
    }

    /// Ordinary text.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// A text in which control tokens are these, and not their spelling.
    pub(super) fn marker(mut self, text: &str) -> Self {
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let here = self.controls.iter().filter(|control| !control.is_empty() && rest.starts_with(control.as_str()));
            if let Some(control) = here.max_by_key(|control| control.len()) {
                rest = &rest[control.len()..];
                self.end_text();
                self.parts.push(control_token_name(control));
            } else {
                self.text.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
        self
    }

    /// Something that is grammar already.
    pub(super) fn rule(mut self, rule: &str) -> Self {
        self.end_text();
        self.parts.push(rule.to_owned());
        self
    }

    /// As grammar.
    pub(super) fn build(mut self) -> String {
        self.end_text();
        if self.parts.is_empty() { "\"\"".to_owned() } else { self.parts.join(" ") }
    }

    fn end_text(&mut self) {
        if !self.text.is_empty() {
            self.parts.push(quoted(&self.text));
            self.text.clear();
        }
    }
}

/// A text as string of the grammar.
fn quoted(text: &str) -> String {
    // JSON leaves this one as it is, and the grammar does not.
    Value::from(text).to_string().replace('\x7f', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_string() {
        let controls = ["<a>".to_owned(), "<a><b>".to_owned(), String::new()];
        let built = Sequence::new(&controls).text("x\"").marker("<a>y\n<a><b>").text("<a>").rule("r").build();
        assert_eq!(built, "\"x\\\"\" <a> \"y\\n\" <|_a__b_|> \"<a>\" r");
    }
}
