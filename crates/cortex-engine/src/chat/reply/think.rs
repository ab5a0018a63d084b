//! Cuts off the reasoning at the beginning of a reply.

use super::{
    ReasoningStyle,
    input::{Input, Search, Stands},
    pieces::Output,
};

/// Splits a reply in reasoning and the rest.
#[derive(Debug)]
pub(super) struct ThinkSplitter {
    open: &'static str,
    close: &'static str,
    place: Place,
    input: Input,
    /// White space of which it is not known yet where it belongs.
    held: String,
}

/// Where in the reply the splitter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but white space so far.
    Before,
    /// Directly behind the opening mark.
    Opened,
    Inside,
    /// Directly behind the closing mark.
    Closed,
    Rest,
}

impl ThinkSplitter {
    /// A splitter at the beginning of a reply; `None` for a style that is no pair of marks.
    pub(super) fn new(style: ReasoningStyle, starts_inside: bool) -> Option<Self> {
        let (open, close) = marks(style)?;
        let place = if starts_inside { Place::Opened } else { Place::Before };
        Some(Self { open, close, place, input: Input::default(), held: String::new() })
    }

    /// Takes a chunk, and gives what of it is no reasoning.
    pub(super) fn push(&mut self, text: &str, output: &mut Output) -> String {
        self.input.push(text);
        self.read(output)
    }

    /// The reply ends: gives what was held back and is no reasoning.
    pub(super) fn finish(&mut self, output: &mut Output) -> String {
        self.input.end();
        let mut plain = self.read(output);
        match self.place {
            Place::Before => plain.push_str(&self.held),
            Place::Inside => output.reasoning(&self.held),
            Place::Opened | Place::Closed | Place::Rest => {}
        }
        self.held.clear();
        plain
    }

    fn read(&mut self, output: &mut Output) -> String {
        let mut plain = String::new();
        while !self.input.is_empty() {
            match self.place {
                Place::Before => {
                    self.held.push_str(self.input.take_while(char::is_whitespace));
                    if self.input.is_empty() {
                        break;
                    }
                    match self.input.stands(self.open) {
                        Stands::Yes => {
                            self.input.take(self.open.len());
                            self.held.clear();
                            self.place = Place::Opened;
                        }
                        Stands::No => {
                            plain.push_str(&self.held);
                            self.held.clear();
                            self.place = Place::Rest;
                        }
                        Stands::Unknown => break,
                    }
                }
                Place::Opened | Place::Closed => {
                    self.input.take_while(is_newline);
                    if !self.input.is_empty() {
                        self.place = if self.place == Place::Opened { Place::Inside } else { Place::Rest };
                    }
                }
                Place::Inside => match self.input.search(&std::iter::once(self.close)) {
                    Search::Found { at, .. } => {
                        self.think(at, output);
                        self.input.take(self.close.len());
                        self.held.clear();
                        self.place = Place::Closed;
                    }
                    Search::None { safe: 0 } => break,
                    Search::None { safe } => self.think(safe, output),
                },
                Place::Rest => plain.push_str(self.input.take(self.input.rest().len())),
            }
        }
        plain
    }

    /// Gives so many bytes as reasoning, but for newlines at the end: the closing mark may follow.
    fn think(&mut self, bytes: usize, output: &mut Output) {
        let text = self.input.take(bytes);
        let kept = text.trim_end_matches(is_newline);
        if !kept.is_empty() {
            output.reasoning(&self.held);
            output.reasoning(kept);
            self.held.clear();
        }
        self.held.push_str(&text[kept.len()..]);
    }
}

/// The marks around reasoning.
fn marks(style: ReasoningStyle) -> Option<(&'static str, &'static str)> {
    match style {
        ReasoningStyle::Think => Some(("<think>", "</think>")),
        ReasoningStyle::BracketThink => Some(("[THINK]", "[/THINK]")),
        ReasoningStyle::GemmaChannel => Some(("<|channel>thought", "<channel|>")),
        ReasoningStyle::Harmony => None,
    }
}

/// Whether the letter ends a line.
fn is_newline(letter: char) -> bool {
    matches!(letter, '\n' | '\r')
}
