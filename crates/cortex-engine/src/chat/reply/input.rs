//! Text that arrived and is not read yet, and the search for markers in it.

/// Text that is not read yet.
#[derive(Debug, Default)]
pub(super) struct Input {
    text: String,
    /// Where the unread part begins.
    at: usize,
    ended: bool,
}

/// Whether a text stands at the beginning of the unread part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    Yes,
    No,
    /// What is there so far is the beginning of it.
    Unknown,
}

/// Result of a search for markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// The marker of this index begins here.
    Found { at: usize, index: usize },
    /// None, but from here on one may begin.
    None { safe: usize },
}

impl Input {
    /// Adds text to the end.
    pub(super) fn push(&mut self, text: &str) {
        self.text.drain(..self.at);
        self.at = 0;
        self.text.push_str(text);
    }

    /// Nothing comes after what is there.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether nothing comes after what is there.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The unread part.
    pub(super) fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Reads all and forgets it.
    pub(super) fn skip(&mut self) {
        self.at = self.text.len();
    }

    /// Whether all was read.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.text.len()
    }

    /// Reads so many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> &str {
        let from = self.at;
        self.at += bytes;
        &self.text[from..self.at]
    }

    /// Reads as long as the characters are such.
    pub(super) fn take_while(&mut self, is_such: impl Fn(char) -> bool) -> &str {
        let bytes = self.rest().find(|letter| !is_such(letter)).unwrap_or(self.rest().len());
        self.take(bytes)
    }

    /// Whether `text` stands at the beginning of the unread part.
    pub(super) fn stands(&self, text: &str) -> Stands {
        let rest = self.rest();
        if rest.starts_with(text) {
            Stands::Yes
        } else if !self.ended && text.starts_with(rest) {
            Stands::Unknown
        } else {
            Stands::No
        }
    }

    /// The first of the markers in the unread part. None of them may be the beginning of another.
    // One pass for all of them: a search for each could run to the end of the text again and again.
    pub(super) fn search<'text>(&self, markers: &(impl Iterator<Item = &'text str> + Clone)) -> Search {
        let rest = self.rest();
        for (at, _) in rest.char_indices() {
            let here = &rest[at..];
            for (index, marker) in markers.clone().enumerate() {
                if here.starts_with(marker) {
                    return Search::Found { at, index };
                }
                if !self.ended && marker.starts_with(here) {
                    return Search::None { safe: at };
                }
            }
        }
        Search::None { safe: rest.len() }
    }
}
