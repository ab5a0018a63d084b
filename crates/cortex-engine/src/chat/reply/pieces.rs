//! The pieces of a reply, and where they are collected.

/// A piece of a reply, in order. Texts are never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// What the user sees.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A call of this tool begins.
    CallBegins {
        /// The name of the tool, as the model wrote it.
        name: String,
    },
    /// Raw JSON text to append to the arguments of the call that began last.
    Arguments(String),
    /// The call that began last ends.
    CallEnds,
}

/// Collects pieces; neighbours of the same kind become one.
#[derive(Debug, Default)]
pub(super) struct Output {
    pieces: Vec<Piece>,
}

impl Output {
    /// Adds visible text.
    pub(super) fn text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    /// Adds reasoning.
    pub(super) fn reasoning(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Reasoning(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Reasoning(text.to_owned())),
        }
    }

    /// Begins a call.
    pub(super) fn begin(&mut self, name: &str) {
        self.pieces.push(Piece::CallBegins { name: name.to_owned() });
    }

    /// Adds text to the arguments of the call.
    pub(super) fn arguments(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Arguments(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Arguments(text.to_owned())),
        }
    }

    /// Ends the call.
    pub(super) fn end(&mut self) {
        self.pieces.push(Piece::CallEnds);
    }

    /// Gives away what was collected.
    pub(super) fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }
}
