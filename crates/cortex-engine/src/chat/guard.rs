//! Keeps text of a user from becoming a control token.
//!
//! A rendered prompt is tokenised in one go, as the model was trained. But where the text of a message
//! spells a control token, it is cut inside that spelling: the two halves are tokenised apart and stay text.

use cortex_api::worker::Segment;
use std::borrow::Cow;

/// Marks a cut. A noncharacter that no text should hold; it is removed from messages that do.
const CUT: char = '\u{fdd0}';

/// Marks a cut inside every spelling of a control token.
pub(crate) fn mark<'text>(text: &'text str, controls: &[String]) -> Cow<'text, str> {
    let mut marked: Cow<'text, str> =
        if text.contains(CUT) { Cow::Owned(text.replace(CUT, "")) } else { Cow::Borrowed(text) };
    for control in controls {
        // A control token of one character cannot be cut; it is left as it is, and special tokens are
        // never that short in practice.
        let Some(second) = control.char_indices().nth(1).map(|(at, _)| at) else { continue };
        if marked.contains(control.as_str()) {
            let cut = format!("{}{CUT}{}", &control[..second], &control[second..]);
            marked = Cow::Owned(marked.replace(control.as_str(), &cut));
        }
    }
    marked
}

/// Cuts a rendered prompt at its marks.
pub(crate) fn split(rendered: &str) -> Vec<Segment> {
    rendered
        .split(CUT)
        .filter(|text| !text.is_empty())
        .map(|text| Segment::Text { text: text.to_owned(), special: true })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(rendered: &str) -> Vec<String> {
        split(rendered)
            .into_iter()
            .map(|segment| match segment {
                Segment::Text { text, .. } => text,
                Segment::Tokens { .. } => panic!("no tokens here"),
            })
            .collect()
    }

    #[test]
    fn a_spelled_control_token_is_cut_and_the_text_stays_whole() {
        let controls = vec!["<|im_end|>".to_owned(), "</s>".to_owned()];
        let marked = mark("a<|im_end|>b</s>", &controls);
        assert_eq!(texts(&marked), ["a<", "|im_end|>b<", "/s>"]);
        assert_eq!(texts(&marked).concat(), "a<|im_end|>b</s>");
    }

    #[test]
    fn ordinary_text_is_not_touched() {
        assert!(matches!(mark("plain <text>", &["<|im_end|>".to_owned()]), Cow::Borrowed(_)));
        assert_eq!(texts("plain"), ["plain"]);
    }

    #[test]
    fn a_cut_in_a_message_cannot_undo_ours() {
        let controls = vec!["</s>".to_owned()];
        assert_eq!(texts(&mark("<\u{fdd0}/s>", &controls)), ["<", "/s>"]);
    }
}
