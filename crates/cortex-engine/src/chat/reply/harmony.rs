//! Replies of gpt-oss: messages in channels.

use super::{
    input::{Input, Search, Stands},
    json::{Progress, ValueReader},
    pieces::Output,
};

/// A longer header that never ended was none.
const LONGEST_HEADER: usize = 256;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
/// Markers that end the text of a message; the last two begin another.
const ENDS: &[&str] = &["<|end|>", "<|call|>", "<|return|>", START, CHANNEL];
/// How many of them belong to the message that they end.
const OWN_ENDS: usize = 3;

/// Takes the messages of a reply apart.
#[derive(Debug)]
pub(super) struct Harmony {
    has_tools: bool,
    single: bool,
    input: Input,
    state: State,
    /// White space between messages.
    blank: String,
    has_messages: bool,
    is_done: bool,
}

/// What is read now.
#[derive(Debug)]
enum State {
    /// Between messages.
    Between,
    /// The header of a message, as far as it is there.
    Header(String),
    Text,
    Reasoning,
    Call(ValueReader),
    /// A call whose arguments are no JSON object.
    RawCall,
    /// A call without arguments so far.
    CallOpened,
}

impl Harmony {
    /// A reader behind `<|start|>assistant`, or inside of an analysis.
    pub(super) fn new(has_tools: bool, starts_inside: bool, single: bool) -> Self {
        Self {
            has_tools,
            single,
            input: Input::default(),
            state: if starts_inside { State::Reasoning } else { State::Between },
            blank: String::new(),
            has_messages: starts_inside,
            is_done: false,
        }
    }

    /// Whether the only call that is allowed is complete.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Takes a chunk.
    pub(super) fn push(&mut self, text: &str, output: &mut Output) {
        if !self.is_done {
            self.input.push(text);
            while self.step(output) {}
        }
    }

    /// The reply ends.
    pub(super) fn finish(&mut self, output: &mut Output) {
        self.input.end();
        while self.step(output) {}
        match std::mem::replace(&mut self.state, State::Between) {
            // What ends in its header has nothing to say, unless it is no header at all.
            State::Header(header) if self.has_tools && has_whole_recipient(&header) => {
                self.open(&header, output);
                output.end();
            }
            State::Header(header) if !header.starts_with('<') || header.len() > LONGEST_HEADER => output.text(&header),
            State::Call(_) | State::RawCall | State::CallOpened => output.end(),
            State::Between if !self.has_messages => output.text(&self.blank),
            State::Header(_) | State::Between | State::Text | State::Reasoning => {}
        }
        self.blank.clear();
    }

    /// Reads on; whether there was something to do.
    fn step(&mut self, output: &mut Output) -> bool {
        if self.is_done || self.input.is_empty() {
            return false;
        }
        match std::mem::replace(&mut self.state, State::Between) {
            State::Between => self.between(output),
            State::Header(header) => self.header(header, output),
            State::CallOpened => {
                output.arguments(self.input.take_while(char::is_whitespace));
                let first = self.input.rest().chars().next();
                self.state = match first {
                    None => State::CallOpened,
                    Some('{') => State::Call(ValueReader::default()),
                    Some(_) => State::RawCall,
                };
                first.is_some()
            }
            State::Call(mut reader) => {
                let mut arguments = String::new();
                let progress = reader.read(&mut self.input, &mut arguments);
                output.arguments(&arguments);
                if progress == Progress::More {
                    self.state = State::Call(reader);
                    return false;
                }
                self.end_call(output);
                true
            }
            state @ (State::Text | State::Reasoning | State::RawCall) => {
                let (bytes, end) = match self.input.search(&ENDS.iter().copied()) {
                    Search::Found { at, index } => (at, Some(index)),
                    Search::None { safe } => (safe, None),
                };
                let text = self.input.take(bytes);
                match state {
                    State::Reasoning => output.reasoning(text),
                    State::RawCall => output.arguments(text),
                    _ => output.text(text),
                }
                let Some(index) = end else {
                    self.state = state;
                    return false;
                };
                if index < OWN_ENDS {
                    self.input.take(ENDS[index].len());
                }
                if matches!(state, State::RawCall) {
                    self.end_call(output);
                }
                true
            }
        }
    }

    /// Between messages: another one begins, or there is text without a header.
    fn between(&mut self, output: &mut Output) -> bool {
        let blank = self.input.take_while(char::is_whitespace);
        self.blank.push_str(blank);
        if self.input.is_empty() {
            return false;
        }
        // Behind `<|start|>assistant` the recipient may come first.
        let openings = [START, CHANNEL, MESSAGE, "to="];
        let openings = if self.has_messages { &openings[..3] } else { &openings[..] };
        let stands = |text: &&str| self.input.stands(text);
        if openings.iter().any(|text| stands(text) == Stands::Yes) {
            self.blank.clear();
            self.has_messages = true;
            self.state = State::Header(String::new());
            return true;
        }
        if ENDS[..OWN_ENDS].iter().any(|text| stands(text) == Stands::Yes) {
            // The end of a call whose arguments were complete.
            let bytes = self.input.rest().find('>').map_or(0, |at| at + 1);
            self.input.take(bytes);
            return true;
        }
        if openings.iter().chain(&ENDS[..OWN_ENDS]).any(|text| stands(text) == Stands::Unknown) {
            return false;
        }
        output.text(&std::mem::take(&mut self.blank));
        self.has_messages = true;
        self.state = State::Text;
        true
    }

    /// In a header: its end, or a sign that it is none.
    fn header(&mut self, mut header: String, output: &mut Output) -> bool {
        // Its own first marker is not a sign of another message.
        if header.is_empty() && self.input.stands(START) == Stands::Yes {
            header.push_str(self.input.take(START.len()));
        }
        let signs = [MESSAGE, ENDS[0], ENDS[1], ENDS[2], START];
        match self.input.search(&signs.into_iter()) {
            Search::Found { at, index: 0 } => {
                header.push_str(self.input.take(at));
                self.input.take(MESSAGE.len());
                self.open(&header, output);
                true
            }
            Search::Found { at, .. } => {
                header.push_str(self.input.take(at));
                output.text(&header);
                true
            }
            Search::None { safe } => {
                header.push_str(self.input.take(safe));
                self.state = State::Header(header);
                false
            }
        }
    }

    /// Begins the message that the header tells of.
    fn open(&mut self, header: &str, output: &mut Output) {
        self.state = match recipient(header).filter(|_| self.has_tools) {
            Some(name) => {
                output.begin(name);
                State::CallOpened
            }
            None if channel(header) == Some("analysis") => State::Reasoning,
            None => State::Text,
        };
    }

    fn end_call(&mut self, output: &mut Output) {
        output.end();
        self.is_done = self.single;
    }
}

/// The name of the tool that a message is for.
fn recipient(header: &str) -> Option<&str> {
    let (_, behind) = header.split_once("to=")?;
    let name = word(behind);
    let name = name.strip_prefix("functions.").unwrap_or(name);
    // Not tools, but the two that talk with each other.
    (!matches!(name, "" | "user" | "assistant" | "all")).then_some(name)
}

/// Whether the name of the tool is there, and something behind it.
fn has_whole_recipient(header: &str) -> bool {
    recipient(header).is_some_and(|name| !header.ends_with(name))
}

/// The channel of a message.
fn channel(header: &str) -> Option<&str> {
    header.split_once(CHANNEL).map(|(_, behind)| word(behind))
}

/// The first word of a text; a marker ends it too.
fn word(text: &str) -> &str {
    let text = text.trim_start();
    text.find(|letter: char| letter.is_whitespace() || letter == '<').map_or(text, |end| &text[..end])
}
