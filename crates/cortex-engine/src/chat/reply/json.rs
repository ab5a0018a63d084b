//! Reads JSON as it arrives, without building values: where one ends, and what a call says about itself.

use super::input::Input;

/// How far a reader came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All that is there was read, and there is more to come.
    More,
    /// What was to be read is complete.
    Done,
    /// What comes next does not belong here; it was not read.
    Broken,
}

/// Finds the end of one JSON value.
#[derive(Debug, Default)]
pub(super) struct ValueReader {
    begun: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ValueReader {
    /// Reads as much of the value as is there. White space before it is not part of it.
    pub(super) fn read(&mut self, input: &mut Input, value: &mut String) -> Progress {
        let mut progress = Progress::More;
        let mut bytes = input.rest().len();
        for (at, letter) in input.rest().bytes().enumerate() {
            match self.step(letter) {
                Step::Inside => {}
                Step::Last => (bytes, progress) = (at + 1, Progress::Done),
                Step::Behind => (bytes, progress) = (at, Progress::Done),
                Step::Wrong => (bytes, progress) = (at, Progress::Broken),
            }
            if progress != Progress::More {
                break;
            }
        }
        value.push_str(input.take(bytes));
        progress
    }

    fn step(&mut self, letter: u8) -> Step {
        if self.in_string {
            match letter {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    return if self.depth == 0 { Step::Last } else { Step::Inside };
                }
                _ => {}
            }
            return Step::Inside;
        }
        if self.depth == 0 {
            let is_scalar = letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'+' | b'.');
            return match letter {
                b'{' | b'[' if !self.begun => {
                    (self.begun, self.depth) = (true, 1);
                    Step::Inside
                }
                b'"' if !self.begun => {
                    (self.begun, self.in_string) = (true, true);
                    Step::Inside
                }
                _ if is_scalar => {
                    self.begun = true;
                    Step::Inside
                }
                b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' if self.begun => Step::Behind,
                _ => Step::Wrong,
            };
        }
        match letter {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                return if self.depth == 0 { Step::Last } else { Step::Inside };
            }
            // No JSON has this outside of strings: the marker of an end, and a brace is missing.
            b'<' => return Step::Wrong,
            _ => {}
        }
        Step::Inside
    }
}

/// What a byte is to a value.
enum Step {
    Inside,
    /// Its last byte.
    Last,
    /// The first byte that is no longer part of it.
    Behind,
    Wrong,
}

/// Reads a call that is one JSON object: `{"name": …, "arguments": …}`, in any order.
#[derive(Debug, Default)]
pub(super) struct ObjectReader {
    place: Place,
    /// The key of the value that is read, with its quotes while it is not complete.
    key: String,
    value: ValueReader,
    /// The name as it is written.
    written_name: String,
    name: Option<String>,
    has_arguments: bool,
    /// Only keys that calls have are allowed.
    is_strict: bool,
}

/// Where in the object the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Open,
    /// Behind the opening brace.
    FirstKey,
    /// Behind a comma.
    Key,
    InKey,
    Colon,
    BeforeValue,
    InValue,
    BehindValue,
}

/// Keys that calls have.
const KEYS: &[&str] = &["name", "arguments", "parameters", "type", "id"];

/// What a value is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Name,
    Arguments,
    Nothing,
}

impl ObjectReader {
    /// A reader at the opening brace. A strict one knows the keys that calls have, and no other.
    pub(super) fn new(is_strict: bool) -> Self {
        Self { is_strict, ..Self::default() }
    }

    /// The name of the tool, once it is known.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Reads as much of the object as is there. Adds what was read to `raw`, and of it what belongs to the arguments
    /// to `arguments`. Stops where the name becomes known, with [`Progress::More`].
    pub(super) fn read(&mut self, input: &mut Input, raw: &mut String, arguments: &mut String) -> Progress {
        while let Some(letter) = input.rest().bytes().next() {
            match self.place {
                Place::InKey => {
                    let from = self.key.len();
                    let progress = self.value.read(input, &mut self.key);
                    raw.push_str(&self.key[from..]);
                    if progress == Progress::Done {
                        let Ok(key) = serde_json::from_str(&self.key) else { return Progress::Broken };
                        self.key = key;
                        if self.is_strict && !KEYS.contains(&self.key.as_str()) {
                            return Progress::Broken;
                        }
                        self.place = Place::Colon;
                    }
                }
                Place::InValue => {
                    let mut text = String::new();
                    let progress = self.value.read(input, &mut text);
                    raw.push_str(&text);
                    let role = self.role();
                    match role {
                        Role::Name => self.written_name.push_str(&text),
                        Role::Arguments => arguments.push_str(&text),
                        Role::Nothing => {}
                    }
                    match progress {
                        Progress::More => {}
                        Progress::Broken => return Progress::Broken,
                        Progress::Done => {
                            self.place = Place::BehindValue;
                            self.has_arguments |= role == Role::Arguments;
                            if role == Role::Name {
                                self.name = serde_json::from_str(&self.written_name)
                                    .ok()
                                    .filter(|name: &String| !name.is_empty());
                                return if self.name.is_some() { Progress::More } else { Progress::Broken };
                            }
                        }
                    }
                }
                _ if letter.is_ascii_whitespace() => raw.push_str(input.take(1)),
                Place::BeforeValue => {
                    self.value = ValueReader::default();
                    self.place = Place::InValue;
                }
                Place::FirstKey | Place::Key if letter == b'"' => {
                    self.key.clear();
                    self.value = ValueReader::default();
                    self.place = Place::InKey;
                }
                place => {
                    self.place = match (place, letter) {
                        (Place::Open, b'{') => Place::FirstKey,
                        (Place::Colon, b':') => Place::BeforeValue,
                        (Place::BehindValue, b',') => Place::Key,
                        (Place::BehindValue, b'}') if self.name.is_some() => {
                            raw.push_str(input.take(1));
                            if !self.has_arguments {
                                arguments.push_str("{}");
                            }
                            return Progress::Done;
                        }
                        _ => return Progress::Broken,
                    };
                    raw.push_str(input.take(1));
                }
            }
        }
        Progress::More
    }

    /// What the value of the key is good for; of two that say the same, the first counts.
    fn role(&self) -> Role {
        match self.key.as_str() {
            "name" if self.name.is_none() => Role::Name,
            "arguments" | "parameters" if !self.has_arguments => Role::Arguments,
            _ => Role::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_value(text: &str, expected: &str, progress: Progress) {
        let (mut input, mut value) = (Input::default(), String::new());
        input.push(text);
        assert_eq!(ValueReader::default().read(&mut input, &mut value), progress, "{text}");
        assert_eq!((value.as_str(), input.rest()), (expected, &text[expected.len()..]), "{text}");
    }

    #[test]
    fn a_value_ends_where_its_last_brace_is() {
        check_value(r#"{"a":{"b":[1,2]}} tail"#, r#"{"a":{"b":[1,2]}}"#, Progress::Done);
        check_value(r#"{"a":"}]\""}x"#, r#"{"a":"}]\""}"#, Progress::Done);
        check_value(r#"{"a":"\\"}x"#, r#"{"a":"\\"}"#, Progress::Done);
        check_value(r#""a" ,"#, r#""a""#, Progress::Done);
        check_value("12,", "12", Progress::Done);
        check_value("null}", "null", Progress::Done);
        check_value("12", "12", Progress::More);
        check_value(r#"{"a":1</tool_call>"#, r#"{"a":1"#, Progress::Broken);
        check_value("x=", "x", Progress::Broken);
        check_value(",", "", Progress::Broken);
    }

    #[track_caller]
    fn check_object(text: &str, expected: Option<(&str, &str)>) {
        let (mut input, mut raw, mut arguments) = (Input::default(), String::new(), String::new());
        input.push(text);
        let mut reader = ObjectReader::new(true);
        let mut progress = Progress::More;
        while progress == Progress::More && !input.is_empty() {
            progress = reader.read(&mut input, &mut raw, &mut arguments);
        }
        let found = (progress == Progress::Done).then(|| (reader.name().unwrap(), arguments.as_str()));
        assert_eq!(found, expected, "{text}");
        assert_eq!(raw + input.rest(), text);
    }

    #[test]
    fn a_call_is_an_object_with_a_name() {
        check_object(r#"{"name": "f", "arguments": {"a": 1}}"#, Some(("f", r#"{"a": 1}"#)));
        check_object(r#"{"parameters":{"a": 1},"name":"f"}"#, Some(("f", r#"{"a": 1}"#)));
        check_object(r#"{"type": "function", "name": "f"}"#, Some(("f", "{}")));
        check_object(r#"{"n\u0061me": "\u0066", "arguments": null}"#, Some(("f", "null")));
        check_object(r#"{"name": "f", "arguments": 1, "parameters": 2}"#, Some(("f", "1")));
        check_object(r#"{"arguments": {}}"#, None);
        check_object(r#"{"name": 1, "arguments": {}}"#, None);
        check_object(r#"{"name": "", "arguments": {}}"#, None);
        check_object(r#"{"answer": 1, "name": "f"}"#, None);
        check_object(r#"{name: "f"}"#, None);
        check_object("[]", None);
    }
}
