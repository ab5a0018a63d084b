//! From token bytes to text that may be shown: whole characters only, and nothing of a stop text.
//! Pure.

/// Joins the bytes of tokens to text and watches for stop texts.
#[derive(Debug, Default)]
pub(crate) struct TextStream {
    /// Bytes of a character that is not complete yet.
    partial: Vec<u8>,
    /// Text that may still turn out to be the beginning of a stop text.
    held: String,
    stops: Vec<String>,
}

/// What may be shown now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// New text; may be empty.
    pub(crate) text: String,
    /// Whether a stop text was met: the answer ends here.
    pub(crate) stopped: bool,
}

impl TextStream {
    /// A stream that ends before any of `stops`. Empty ones are ignored.
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), ..Self::default() }
    }

    /// Takes the bytes of one token.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Shown {
        self.partial.extend_from_slice(bytes);
        self.take_whole_characters();
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Shown { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.length_of_possible_stop();
        let rest = self.held.split_off(self.held.len() - keep);
        Shown { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What was held back, when the answer ends for another reason than a stop text.
    pub(crate) fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        if !self.partial.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.partial.clear();
        }
        text
    }

    fn take_whole_characters(&mut self) {
        loop {
            match std::str::from_utf8(&self.partial) {
                Ok(text) => {
                    self.held.push_str(text);
                    self.partial.clear();
                    return;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    let text = String::from_utf8_lossy(&self.partial[..valid]);
                    self.held.push_str(&text);
                    match error.error_len() {
                        // An unfinished character: wait for its other bytes.
                        None => {
                            self.partial.drain(..valid);
                            return;
                        }
                        Some(wrong) => {
                            self.held.push(char::REPLACEMENT_CHARACTER);
                            self.partial.drain(..valid + wrong);
                        }
                    }
                }
            }
        }
    }

    /// Length of the longest end of the held text that begins a stop text.
    fn length_of_possible_stop(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])))
            .map_or(0, |at| self.held.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pushes the pieces and returns all shown text, and whether a stop text ended it.
    fn show(stops: &[&str], pieces: &[&[u8]]) -> (String, bool) {
        let mut stream = TextStream::new(&stops.iter().map(ToString::to_string).collect::<Vec<_>>());
        let mut all = String::new();
        for piece in pieces {
            let shown = stream.push(piece);
            all.push_str(&shown.text);
            if shown.stopped {
                return (all, true);
            }
        }
        all.push_str(&stream.finish());
        (all, false)
    }

    #[test]
    fn a_character_is_never_split() {
        let mut stream = TextStream::new(&[]);
        assert_eq!(stream.push(&"é".as_bytes()[..1]).text, "");
        assert_eq!(stream.push(&"é".as_bytes()[1..]).text, "é");
    }

    #[test]
    fn a_stop_text_across_tokens_is_never_shown() {
        assert_eq!(show(&["STOP"], &[b"one S", b"T", b"OP two"]), ("one ".into(), true));
        assert_eq!(show(&["STOP"], &[b"one ST", b"ART"]), ("one START".into(), false));
        assert_eq!(show(&["b", "ab"], &[b"xa", b"b"]), ("x".into(), true));
        assert_eq!(show(&["\n\n"], &[b"a\n", b"b\n", b"\nc"]), ("a\nb".into(), true));
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        assert_eq!(show(&[], &[b"a\xffb"]), ("a\u{fffd}b".into(), false));
        assert_eq!(show(&[], &[b"a\xe2\x82"]), ("a\u{fffd}".into(), false));
    }

    proptest! {
        #[test]
        fn any_cutting_shows_the_same(text in "[ab\u{e9}\u{1f600}]{0,24}", stop in "[ab]{1,3}", cuts in prop::collection::vec(0usize..64, 0..6)) {
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (shown, stopped) = show(&[&stop], &pieces);
            // Up to the first place where the stop text stands whole.
            let expected = text.find(&stop).map_or(text.as_str(), |end| &text[..end]);
            prop_assert_eq!(shown.as_str(), expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }
}
