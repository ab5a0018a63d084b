//! What stands beside calls when the model is free to call something or not: text, in which every call is one of the grammar.

use super::{
    super::{
        ToolFormat,
        formats::{
            BAR_TOOL_CALL, CALLS_BEGIN, FUNCTION, GEMMA_CALL, PYTHON_TAG, START_CALL, TOOL_CALL, TOOL_CALLS, syntax_of,
        },
    },
    Sequence, escaped,
};
use cortex_api::worker::control_token_name;
use serde_json::Value;

/// What tells a call from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boundary {
    /// A call begins with this, wherever in the text it stands.
    Opener(&'static str),
    /// A reply that begins like an object is a call; another one stands behind `<|python_tag|>` only.
    Object,
    /// Each message says for whom it is, in its header.
    Channel,
    /// Each part says for whom it is, on a line of its own.
    Recipient,
}

/// What tells a call from text in this format.
pub(super) fn boundary(format: ToolFormat) -> Boundary {
    match format {
        ToolFormat::Hermes | ToolFormat::QwenCoder | ToolFormat::Glm => Boundary::Opener(TOOL_CALL),
        ToolFormat::Granite => Boundary::Opener(BAR_TOOL_CALL),
        ToolFormat::Mistral => Boundary::Opener(TOOL_CALLS),
        ToolFormat::DeepSeekR1 | ToolFormat::DeepSeekV3_1 => Boundary::Opener(CALLS_BEGIN),
        ToolFormat::FunctionGemma => Boundary::Opener(START_CALL),
        ToolFormat::Gemma4 => Boundary::Opener(GEMMA_CALL),
        ToolFormat::FunctionTags => Boundary::Opener(FUNCTION),
        ToolFormat::Llama3 => Boundary::Object,
        ToolFormat::Harmony => Boundary::Channel,
        ToolFormat::Functionary => Boundary::Recipient,
    }
}

/// Markers of Harmony, which stand in no text.
const CHANNEL: [&str; 7] =
    ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"];
/// Those of them that end a reply, and may be missing in a vocabulary.
const RETURN: &str = "<|return|>";
/// What stands between two messages of Harmony.
const NEXT_MESSAGE: &str = "<|end|><|start|>assistant";
/// What begins another part of Functionary.
const NEXT_PART: &str = ">>>";
/// Who gets text, in Functionary.
const TO_ALL: &str = "all\n";

/// The rule `start` and what it needs, for text with calls in it. `all` is a rule for calls and what stands around them, as far as the text
/// before them has not had it. Text has nothing in it that is read as the beginning of another call. `None` where the vocabulary does not
/// have the tokens that tell them apart.
pub(super) fn start(format: ToolFormat, all: &str, is_single: bool, controls: &[String]) -> Option<Vec<String>> {
    let is_control = |text: &str| controls.iter().any(|control| control == text);
    let marked = |text: &str| Sequence::new(controls).marker(text).build();
    let often = if is_single { "?" } else { "*" };
    let openers: Vec<&str> = syntax_of(format).openers.iter().map(|(opener, _)| *opener).collect();
    Some(match boundary(format) {
        Boundary::Opener(opener) if is_control(opener) => {
            let start = format!("start: text ({all} text){often}");
            std::iter::once(start).chain(any_text(&openers, controls)).collect()
        }
        Boundary::Opener(opener) => {
            let others: Vec<&str> = openers.iter().copied().filter(|other| *other != opener).collect();
            let start = format!("start: (before {all}){often} REST?");
            std::iter::once(start).chain(suffixed(opener, &others)).collect()
        }
        Boundary::Object if is_control(PYTHON_TAG) => {
            let tag = marked(PYTHON_TAG);
            vec![
                format!("start: {all} | BLANK? {tag} {all} | BLANK? | FIRST more ({tag} {all})?"),
                "BLANK: /\\s+/".to_owned(),
                format!("FIRST: /\\s*[^\\s{{](?s:.*)/{}", without(&openers)),
                others(&openers, controls).map_or_else(|| "more: \"\"".into(), |it| format!("more: ({it} TEXT?)*")),
                text(&openers),
            ]
        }
        Boundary::Object => {
            vec![format!("start: {all} | TEXT?"), format!("TEXT: /(?s:\\s*[^\\s{{].*|\\s+)/{}", without(&openers))]
        }
        Boundary::Channel if CHANNEL.iter().all(|marker| *marker == RETURN || is_control(marker)) => {
            let next = marked(NEXT_MESSAGE);
            let start = vec![
                format!("start: (message {next})* ({all} | message ({})?)?", marked("<|end|>")),
                format!(
                    "message: {} (\"analysis\" | \"commentary\" | \"final\") {} text",
                    marked("<|channel|>"),
                    marked("<|message|>")
                ),
            ];
            start.into_iter().chain(any_text(&CHANNEL, controls)).collect()
        }
        Boundary::Channel => return None,
        Boundary::Recipient => {
            let (next, to_all) = (marked(NEXT_PART), marked(TO_ALL));
            // Behind the mark, what cannot be a name is text that goes on.
            let nobody = "[^\\p{Alphabetic}\\p{N}_.:\\x2d\\x2f]";
            let parts = if is_control(NEXT_PART) {
                vec![
                    format!("before: TEXT? {next}"),
                    format!("again: NOBODY? {next}"),
                    format!("NOBODY: /{nobody}(?s:.*)/"),
                    "TEXT: /(?s:.+)/".to_owned(),
                    "REST: /(?s:.+)/".to_owned(),
                ]
            } else {
                let mut parts = suffixed(NEXT_PART, &[]);
                parts.push(format!("again[suffix={}]: /{nobody}(?s:.*)/", Value::from(NEXT_PART)));
                parts.push(format!("NOBODY: /{nobody}(?s:.*)/{}", without(&[NEXT_PART])));
                parts
            };
            let earlier = if is_single { String::new() } else { format!(" | call {next}") };
            let start = format!(
                "start: ({to_all} before again*{earlier})* (call | {to_all} REST? | {to_all} before again* NOBODY?)"
            );
            std::iter::once(start).chain(parts).collect()
        }
    })
}

/// Rules for text up to this, and for text that has it nowhere; neither has the others.
fn suffixed(opener: &str, others: &[&str]) -> Vec<String> {
    let all: Vec<&str> = std::iter::once(opener).chain(others.iter().copied()).collect();
    vec![
        format!("before[suffix={}]: /(?s:.*)/{}", Value::from(opener), without(others)),
        // The longest word is taken: this one must end where the other begins.
        format!("REST: /(?s:.+)/{}", without(&all)),
    ]
}

/// Rules for any text with any control tokens but these, which are not spelled either; one that ends the reply ends it here too.
fn any_text(but: &[&str], controls: &[String]) -> [String; 2] {
    // Between two control tokens it is one word: in two, one of these could be spelled.
    let rule = match others(but, controls) {
        Some(others) => format!("text: TEXT? ({others} TEXT?)*"),
        None => "text: TEXT?".to_owned(),
    };
    [rule, text(but)]
}

/// A word that spells none of these.
fn text(but: &[&str]) -> String {
    format!("TEXT: /(?s:.+)/{}", without(but))
}

/// Control tokens but these.
fn others(but: &[&str], controls: &[String]) -> Option<String> {
    let others = controls.iter().filter(|control| !control.is_empty() && !but.contains(&control.as_str()));
    let names: Vec<String> = others.map(|it| control_token_name(it)).collect();
    (!names.is_empty()).then(|| format!("({})", names.join(" | ")))
}

/// Cuts from an expression what has one of these in it.
fn without(texts: &[&str]) -> String {
    if texts.is_empty() {
        return String::new();
    }
    let texts: Vec<String> = texts.iter().map(|text| escaped(text)).collect();
    format!(" & ~/(?s:.*)({})(?s:.*)/", texts.join("|"))
}
