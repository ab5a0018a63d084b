//! Keeps text of users and tools from becoming control tokens.
//!
//! A rendered prompt is tokenised in one go, as the model was trained. But where the text of a user or of a tool spells a
//! control token, a mark takes its place before the template runs; what the mark stands for is tokenised apart, as plain text.

use cortex_api::worker::Segment;
use std::borrow::Cow;

/// Around the number of a control token, or [`IMAGE`] and that of an image. Noncharacters that no text should hold; they are removed from messages that do.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';
/// Before the number of an image.
const IMAGE: char = 'i';

/// What stands for an image in a message.
pub(crate) fn image_mark(number: usize) -> String {
    format!("{OPEN}{IMAGE}{number}{CLOSE}")
}

/// Puts marks in the place of every spelling of a control token.
pub(crate) fn mark<'text>(text: &'text str, controls: &[String]) -> Cow<'text, str> {
    let text: Cow<'text, str> =
        if text.contains([OPEN, CLOSE]) { Cow::Owned(text.replace([OPEN, CLOSE], "")) } else { Cow::Borrowed(text) };
    let mut found: Vec<(usize, usize, usize)> = controls
        .iter()
        .enumerate()
        .filter(|(_, control)| !control.is_empty())
        .flat_map(|(number, control)| {
            text.match_indices(control.as_str()).map(move |(at, _)| (at, control.len(), number))
        })
        .collect();
    if found.is_empty() {
        return text;
    }
    // The first one, and of those the longest; what lies in it is gone with it.
    found.sort_by_key(|&(at, length, _)| (at, usize::MAX - length));
    let mut marked = String::with_capacity(text.len() + 8 * found.len());
    let mut end = 0;
    for (at, length, number) in found {
        if at >= end {
            marked.push_str(&text[end..at]);
            marked.push(OPEN);
            marked.push_str(&number.to_string());
            marked.push(CLOSE);
            end = at + length;
        }
    }
    marked.push_str(&text[end..]);
    Cow::Owned(marked)
}

/// Cuts a rendered prompt at its marks, and puts there what they stand for: control tokens as text, and images.
pub(crate) fn split(rendered: &str, controls: &[String], images: &[String]) -> Vec<Segment> {
    let segment = |text: &str, special: bool| Segment::Text { text: text.to_owned(), special };
    let mut segments = Vec::new();
    // Each stands once, whatever a template or a text makes of its mark.
    let mut left: Vec<Option<&String>> = images.iter().map(Some).collect();
    let mut pieces = rendered.split(OPEN);
    segments.extend(pieces.next().filter(|text| !text.is_empty()).map(|text| segment(text, true)));
    for piece in pieces {
        // A template that cut a mark in two leaves text.
        let (number, rest) = piece.split_once(CLOSE).unwrap_or(("", piece));
        let control = number.parse::<usize>().ok().and_then(|number| controls.get(number));
        segments.extend(control.map(|control| segment(control, false)));
        let image = number.strip_prefix(IMAGE).and_then(|number| left.get_mut(number.parse::<usize>().ok()?)?.take());
        segments.extend(image.map(|data| Segment::Image { data: data.clone() }));
        segments.extend(Some(rest).filter(|text| !text.is_empty()).map(|text| segment(text, true)));
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, bool)]) {
        let controls = ["<|im_end|>", "</s>", "<s>", "<s>>"].map(str::to_owned);
        let segments = split(&mark(text, &controls), &controls, &[]);
        let found: Vec<(&str, bool)> = segments
            .iter()
            .map(|segment| match segment {
                Segment::Text { text, special } => (text.as_str(), *special),
                Segment::Tokens { .. } | Segment::Image { .. } => panic!("text only"),
            })
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn a_spelled_control_token_stays_text() {
        check("a<|im_end|>b</s>", &[("a", true), ("<|im_end|>", false), ("b", true), ("</s>", false)]);
        check("</s></s>", &[("</s>", false), ("</s>", false)]);
        check("<s>>x", &[("<s>>", false), ("x", true)]);
        check("<<s>s>", &[("<", true), ("<s>", false), ("s>", true)]);
        check("plain <text>", &[("plain <text>", true)]);
        check("", &[]);
    }

    #[test]
    fn a_mark_in_a_message_means_nothing() {
        check("<\u{fdd0}/s>", &[("</s>", false)]);
        check("\u{fdd0}1\u{fdd1}", &[("1", true)]);
        for text in ["a\u{fdd0}99\u{fdd1}b", "a\u{fdd0}b", "a\u{fdd0}i0\u{fdd1}b", "a\u{fdd0}i\u{fdd1}b"] {
            assert_eq!(split(text, &[], &[]).len(), 2, "{text}");
        }
    }

    #[test]
    fn images_stand_where_their_marks_were() {
        let text = |text: &str| Segment::Text { text: text.into(), special: true };
        let image = |data: &str| Segment::Image { data: data.into() };
        let rendered = format!("a{}b{}{}{}", image_mark(1), image_mark(0), image_mark(2), image_mark(1));
        let images = ["x", "y"].map(str::to_owned);
        assert_eq!(split(&rendered, &[], &images), [text("a"), image("y"), text("b"), image("x")]);
    }

    #[test]
    fn ordinary_text_is_not_touched() {
        assert!(matches!(mark("plain <text>", &["<|im_end|>".to_owned()]), Cow::Borrowed(_)));
    }
}
