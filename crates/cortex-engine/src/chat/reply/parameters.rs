//! Arguments as one tag for each parameter, and how they become JSON. What a value is, the schema of the tool says.

use super::{
    input::{Input, Search, Stands},
    json::Progress,
    tool::{Kind, Tool},
};
use serde_json::Value;

/// What stands around the names and values of parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tags {
    /// Before a name.
    pub(super) name: &'static str,
    /// Behind it.
    pub(super) name_end: &'static str,
    /// Before a value, perhaps behind white space. Where it is nothing, a newline before the value is no part of it.
    pub(super) value: &'static str,
    /// Ends of a value.
    pub(super) value_ends: &'static [&'static str],
    /// The end of the call.
    pub(super) end: &'static str,
}

/// Qwen's; the newline before the end of a value is not part of it.
pub(super) const QWEN_TAGS: Tags = Tags {
    name: "<parameter=",
    name_end: ">",
    value: "",
    value_ends: &["\n</parameter>", "</parameter>"],
    end: "</function>",
};

/// GLM's.
pub(super) const GLM_TAGS: Tags = Tags {
    name: "<arg_key>",
    name_end: "</arg_key>",
    value: "<arg_value>",
    value_ends: &["</arg_value>"],
    end: "</tool_call>",
};

/// Reads parameters up to the end of the function.
#[derive(Debug)]
pub(super) struct ParameterReader {
    tags: &'static Tags,
    tool: Option<Tool>,
    place: Place,
    count: usize,
    name: String,
    /// A value that is no string, as far as it is there.
    value: String,
}

/// Where the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a parameter or the end.
    Between,
    /// In the name of a parameter.
    Name,
    /// Directly behind the tag: a newline is not part of the value.
    Opened(Kind),
    /// In a string, which is given out as it comes.
    Text,
    /// In another value, which is given out when it is complete.
    Value(Kind),
}

impl ParameterReader {
    /// A reader behind the name of the function.
    pub(super) fn new(tags: &'static Tags, tool: Option<Tool>) -> Self {
        Self { tags, tool, place: Place::Between, count: 0, name: String::new(), value: String::new() }
    }

    /// Reads what is there, and adds it to the arguments.
    pub(super) fn read(&mut self, input: &mut Input, arguments: &mut String) -> Progress {
        while !input.is_empty() {
            match self.place {
                Place::Between => {
                    input.take_while(char::is_whitespace);
                    if input.is_empty() {
                        break;
                    }
                    match (input.stands(self.tags.name), input.stands(self.tags.end)) {
                        (Stands::Yes, _) => {
                            input.take(self.tags.name.len());
                            self.name.clear();
                            self.place = Place::Name;
                        }
                        (_, Stands::Yes) => {
                            input.take(self.tags.end.len());
                            self.close(arguments);
                            return Progress::Done;
                        }
                        (Stands::No, Stands::No) => {
                            self.close(arguments);
                            return Progress::Broken;
                        }
                        _ => break,
                    }
                }
                Place::Name => {
                    let (bytes, end) = match input.search(&std::iter::once(self.tags.name_end)) {
                        Search::Found { at, .. } => (at, self.tags.name_end.len()),
                        Search::None { safe: 0 } => break,
                        Search::None { safe } => (safe, 0),
                    };
                    self.name.push_str(input.take(bytes));
                    if end > 0 {
                        input.take(end);
                        let kind = self.tool.as_ref().map_or(Kind::Other, |tool| tool.kind_of(self.name.trim()));
                        self.place = Place::Opened(kind);
                    }
                }
                Place::Opened(kind) if self.tags.value.is_empty() => {
                    if input.rest().starts_with('\n') {
                        input.take(1);
                    }
                    self.open(kind, arguments);
                }
                Place::Opened(kind) => {
                    input.take_while(char::is_whitespace);
                    match input.stands(self.tags.value) {
                        Stands::Yes => {
                            input.take(self.tags.value.len());
                            self.open(kind, arguments);
                        }
                        Stands::Unknown => break,
                        Stands::No if input.is_empty() => break,
                        Stands::No => {
                            self.close(arguments);
                            return Progress::Broken;
                        }
                    }
                }
                Place::Text | Place::Value(_) => {
                    let (bytes, end) = match input.search(&self.tags.value_ends.iter().copied()) {
                        Search::Found { at, index } => (at, self.tags.value_ends[index].len()),
                        Search::None { safe: 0 } => break,
                        Search::None { safe } => (safe, 0),
                    };
                    let text = input.take(bytes);
                    if self.place == Place::Text {
                        arguments.push_str(&escaped(text));
                    } else {
                        self.value.push_str(text);
                    }
                    input.take(end);
                    if end > 0 {
                        self.end_value(arguments);
                    }
                }
            }
        }
        Progress::More
    }

    /// The reply ends here: gives a value that is not complete, with what of it was not read.
    pub(super) fn finish(mut self, rest: &str, arguments: &mut String) {
        match self.place {
            Place::Text => arguments.push_str(&escaped(rest)),
            Place::Value(_) => {
                self.value.push_str(rest);
                let text = self.value.trim();
                if let Some(json) = scalar(text) {
                    arguments.push_str(json);
                } else {
                    arguments.push('"');
                    arguments.push_str(&escaped(text));
                }
            }
            Place::Between | Place::Name | Place::Opened(_) => {}
        }
    }

    /// Begins a value: its name is known.
    fn open(&mut self, kind: Kind, arguments: &mut String) {
        arguments.push_str(if self.count == 0 { "{" } else { ", " });
        self.count += 1;
        arguments.push_str(&quoted(self.name.trim()));
        arguments.push_str(": ");
        if kind == Kind::Text {
            arguments.push('"');
            self.place = Place::Text;
        } else {
            self.value.clear();
            self.place = Place::Value(kind);
        }
    }

    fn end_value(&mut self, arguments: &mut String) {
        match self.place {
            Place::Value(kind) => arguments.push_str(&as_json(&self.value, kind)),
            _ => arguments.push('"'),
        }
        self.place = Place::Between;
    }

    fn close(&self, arguments: &mut String) {
        arguments.push_str(if self.count == 0 { "{}" } else { "}" });
    }
}

/// A value as JSON text.
fn as_json(text: &str, kind: Kind) -> String {
    let trimmed = text.trim();
    match kind {
        Kind::TextOrNull if matches!(trimmed, "null" | "None") => "null".to_owned(),
        Kind::Text | Kind::TextOrNull => quoted(text),
        Kind::Other => match scalar(trimmed) {
            Some(json) => json.to_owned(),
            None if serde_json::from_str::<Value>(trimmed).is_ok() => trimmed.to_owned(),
            None => quoted(text),
        },
    }
}

/// A number, truth value or null as JSON text; templates write some of them as Python does.
pub(super) fn scalar(text: &str) -> Option<&str> {
    match text {
        "True" => Some("true"),
        "False" => Some("false"),
        "None" => Some("null"),
        _ if text.starts_with(['{', '[', '"']) => None,
        _ => serde_json::from_str::<Value>(text).ok().map(|_| text),
    }
}

/// A text as JSON string.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A part of a text, as it stands inside of a JSON string.
pub(super) fn escaped(text: &str) -> String {
    let quoted = quoted(text);
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, kind: Kind, expected: &str) {
        assert_eq!(as_json(text, kind), expected, "{text}");
    }

    #[test]
    fn values_become_json_as_the_schema_says() {
        check("42", Kind::Text, r#""42""#);
        check("42", Kind::Other, "42");
        check(" [1, 2.50]\n", Kind::Other, "[1, 2.50]");
        check("True", Kind::Other, "true");
        check("None", Kind::TextOrNull, "null");
        check("Nobody", Kind::TextOrNull, r#""Nobody""#);
        check("a \"b\"\n", Kind::Other, r#""a \"b\"\n""#);
        check("", Kind::Other, r#""""#);
    }

    #[test]
    fn deep_nesting_is_only_text() {
        let deep = "[".repeat(100_000);
        assert!(as_json(&deep, Kind::Other).starts_with('"'));
    }
}
