//! Arguments in the notation of Google's models, `{key:<escape>text<escape>,other:3}`, and how they become JSON.

use super::{
    input::{Input, Search, Stands},
    json::{Progress, ValueReader},
    parameters::{escaped, quoted, scalar},
};

/// Reads arguments from their opening brace to the brace that closes it.
#[derive(Debug)]
pub(super) struct GemmaReader {
    /// Stands around strings.
    quote: &'static str,
    /// Ends the call.
    end: &'static str,
    /// The objects and arrays around the place.
    stack: Vec<Container>,
    place: Place,
    /// Something stands before in the innermost of them.
    has_before: bool,
    /// A key or value without quotes, as far as it is there.
    bare: String,
    string: ValueReader,
}

/// Something with elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// Where the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the opening brace.
    Open,
    /// Before a key, or the end of an object.
    Key,
    /// In a key without quotes.
    BareKey,
    /// Behind a key.
    Colon,
    /// Before a value, or the end of an array.
    Value,
    /// In a value without quotes.
    BareValue,
    /// In a string, and whether it is a key.
    Text { is_key: bool },
    /// In a string as JSON has it, and whether it is a key.
    JsonText { is_key: bool },
    /// Behind a value.
    Behind,
}

impl GemmaReader {
    /// A reader before the opening brace.
    pub(super) fn new(quote: &'static str, end: &'static str) -> Self {
        Self {
            quote,
            end,
            stack: Vec::new(),
            place: Place::Open,
            has_before: false,
            bare: String::new(),
            string: ValueReader::default(),
        }
    }

    /// Reads what is there, and adds it to the arguments.
    pub(super) fn read(&mut self, input: &mut Input, arguments: &mut String) -> Progress {
        loop {
            if !matches!(self.place, Place::Text { .. } | Place::JsonText { .. }) {
                let blank = input.take_while(char::is_whitespace);
                if matches!(self.place, Place::BareKey | Place::BareValue) {
                    self.bare.push_str(blank);
                }
            }
            let Some(letter) = input.rest().chars().next() else { return Progress::More };
            match self.place {
                Place::Open if letter == '{' => self.open(letter, input, arguments),
                Place::Key | Place::Value => {
                    let is_key = self.place == Place::Key;
                    let closes = if is_key { '}' } else { ']' };
                    match (letter, input.stands(self.quote), input.stands(self.end)) {
                        (_, Stands::Unknown, _) | (_, _, Stands::Unknown) => return Progress::More,
                        (_, _, Stands::Yes) => return Progress::Broken,
                        (_, Stands::Yes, _) => {
                            input.take(self.quote.len());
                            self.separate(arguments);
                            arguments.push('"');
                            self.place = Place::Text { is_key };
                        }
                        ('"', ..) => {
                            self.separate(arguments);
                            self.string = ValueReader::default();
                            self.place = Place::JsonText { is_key };
                        }
                        _ if letter == closes && self.stack.last() == Some(&container(is_key)) => {
                            if self.close(input, arguments) {
                                return Progress::Done;
                            }
                        }
                        ('{' | '[', ..) if !is_key => self.open(letter, input, arguments),
                        (',' | ':' | '{' | '}' | '[' | ']', ..) => return Progress::Broken,
                        _ => {
                            self.bare.clear();
                            self.place = if is_key { Place::BareKey } else { Place::BareValue };
                        }
                    }
                }
                Place::BareKey | Place::BareValue => {
                    let is_key = self.place == Place::BareKey;
                    match input.stands(self.end) {
                        Stands::Unknown => return Progress::More,
                        Stands::Yes => {
                            self.end_bare(is_key, arguments);
                            return Progress::Broken;
                        }
                        Stands::No if ends_bare(letter, is_key) => self.end_bare(is_key, arguments),
                        Stands::No => {
                            self.bare.push_str(input.take(letter.len_utf8()));
                            let more = input.take_while(|next| next != '<' && !ends_bare(next, is_key));
                            self.bare.push_str(more);
                        }
                    }
                }
                Place::Colon if letter == ':' => {
                    input.take(1);
                    arguments.push_str(": ");
                    self.has_before = false;
                    self.place = Place::Value;
                }
                Place::Text { is_key } => match input.search(&std::iter::once(self.quote)) {
                    Search::Found { at, .. } => {
                        arguments.push_str(&escaped(input.take(at)));
                        input.take(self.quote.len());
                        arguments.push('"');
                        self.place = behind(is_key);
                    }
                    Search::None { safe: 0 } => return Progress::More,
                    Search::None { safe } => arguments.push_str(&escaped(input.take(safe))),
                },
                Place::JsonText { is_key } => {
                    if self.string.read(input, arguments) == Progress::Done {
                        self.place = behind(is_key);
                    }
                }
                Place::Behind if letter == ',' => {
                    input.take(1);
                    self.has_before = true;
                    self.place = if self.stack.last() == Some(&Container::Array) { Place::Value } else { Place::Key };
                }
                Place::Behind if matches!(letter, '}' | ']') => {
                    if self.close(input, arguments) {
                        return Progress::Done;
                    }
                }
                Place::Open | Place::Colon | Place::Behind => return Progress::Broken,
            }
        }
    }

    /// The reply ends here: gives what is not complete, with what of it was not read.
    pub(super) fn finish(mut self, rest: &str, arguments: &mut String) {
        match self.place {
            Place::Text { .. } => arguments.push_str(&escaped(rest)),
            Place::BareValue => self.end_bare(false, arguments),
            Place::BareKey => {
                self.separate(arguments);
                arguments.push('"');
                arguments.push_str(&escaped(&self.bare));
            }
            _ => {}
        }
    }

    /// Writes the comma before a key or value.
    fn separate(&mut self, arguments: &mut String) {
        if std::mem::take(&mut self.has_before) {
            arguments.push_str(", ");
        }
    }

    fn open(&mut self, letter: char, input: &mut Input, arguments: &mut String) {
        input.take(1);
        self.separate(arguments);
        arguments.push(letter);
        let opened = container(letter == '{');
        self.stack.push(opened);
        self.place = if opened == Container::Object { Place::Key } else { Place::Value };
    }

    /// Closes the innermost object or array; whether it was the last.
    fn close(&mut self, input: &mut Input, arguments: &mut String) -> bool {
        input.take(1);
        arguments.push(if self.stack.pop() == Some(Container::Array) { ']' } else { '}' });
        self.has_before = false;
        self.place = Place::Behind;
        self.stack.is_empty()
    }

    fn end_bare(&mut self, is_key: bool, arguments: &mut String) {
        self.separate(arguments);
        let text = self.bare.trim();
        match scalar(text) {
            Some(json) if !is_key => arguments.push_str(json),
            _ => arguments.push_str(&quoted(text)),
        }
        self.place = behind(is_key);
    }
}

/// What holds keys, and what holds none.
fn container(has_keys: bool) -> Container {
    if has_keys { Container::Object } else { Container::Array }
}

/// The place behind a key or a value.
fn behind(is_key: bool) -> Place {
    if is_key { Place::Colon } else { Place::Behind }
}

/// Whether the letter ends a key or value without quotes.
fn ends_bare(letter: char, is_key: bool) -> bool {
    if is_key { letter == ':' } else { matches!(letter, ',' | '}' | ']') }
}
