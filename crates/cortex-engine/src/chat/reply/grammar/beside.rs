//! What stands beside calls when the model is free to call something or not: text, in which every call is one of the grammar.

use super::{
    super::{
        ToolFormat,
        formats::{CALLS_BEGIN, FUNCTION, GEMMA_CALL, PYTHON_TAG, START_CALL, TOOL_CALL, TOOL_CALLS},
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
        ToolFormat::Hermes | ToolFormat::QwenCoder => Boundary::Opener(TOOL_CALL),
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

/// Markers of Harmony that stand in no text.
const CHANNEL: [&str; 6] = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>"];
/// What stands between two messages of Harmony.
const NEXT_MESSAGE: &str = "<|end|><|start|>assistant";
/// What begins another part of Functionary.
const NEXT_PART: &str = ">>>";
/// Who gets text, in Functionary.
const TO_ALL: &str = "all\n";

/// The rule `start` and what it needs, for text with calls in it. `all` is a rule for calls and what stands around them, as far as the text
/// before them has not had it. `None` where the vocabulary does not have the tokens that tell them apart.
pub(super) fn start(boundary: Boundary, all: &str, is_single: bool, controls: &[String]) -> Option<Vec<String>> {
    let is_control = |text: &str| controls.iter().any(|control| control == text);
    let marked = |text: &str| Sequence::new(controls).marker(text).build();
    let often = if is_single { "?" } else { "*" };
    Some(match boundary {
        Boundary::Opener(opener) if is_control(opener) => {
            vec![format!("start: text ({all} text){often}"), any_text("text", &[opener], controls)]
        }
        Boundary::Opener(opener) => {
            let start = format!("start: (before {all}){often} REST?");
            std::iter::once(start).chain(suffixed(opener)).collect()
        }
        Boundary::Object if is_control(PYTHON_TAG) => {
            let tag = marked(PYTHON_TAG);
            vec![
                format!("start: {all} | BLANK? {tag} {all} | BLANK? | TEXT more ({tag} {all})?"),
                "BLANK: /\\s+/".to_owned(),
                "TEXT: /\\s*[^\\s{](?s:.*)/".to_owned(),
                any_text("more", &[PYTHON_TAG], controls),
            ]
        }
        Boundary::Object => vec![
            format!("start: {all} | TEXT?"),
            format!("TEXT: /(?s:\\s*[^\\s{{].*|\\s+)/ & ~/(?s:.*){}(?s:.*)/", escaped(PYTHON_TAG)),
        ],
        Boundary::Channel if CHANNEL.iter().all(|marker| is_control(marker)) => {
            let next = marked(NEXT_MESSAGE);
            vec![
                format!("start: (message {next})* ({all} | message ({})?)?", marked("<|end|>")),
                format!(
                    "message: {} (\"analysis\" | \"commentary\" | \"final\") {} text",
                    marked("<|channel|>"),
                    marked("<|message|>")
                ),
                any_text("text", &CHANNEL, controls),
            ]
        }
        Boundary::Channel => return None,
        Boundary::Recipient => {
            let (next, to_all) = (marked(NEXT_PART), marked(TO_ALL));
            let before = if is_control(NEXT_PART) {
                vec![format!("before: REST? {next}"), "REST: /(?s:.+)/".to_owned()]
            } else {
                suffixed(NEXT_PART)
            };
            let earlier = if is_single { String::new() } else { format!(" | call {next}") };
            let start = format!("start: ({to_all} before{earlier})* (call | {to_all} REST?)");
            std::iter::once(start).chain(before).collect()
        }
    })
}

/// Rules for text up to this, and for text that has it nowhere.
fn suffixed(text: &str) -> Vec<String> {
    vec![
        format!("before[suffix={}]: /(?s:.*)/", Value::from(text)),
        // The longest word is taken: this one must end where the other begins.
        format!("REST: /(?s:.+)/ & ~/(?s:.*){}(?s:.*)/", escaped(text)),
    ]
}

/// A rule for any text with any control tokens but some; one that ends the reply ends it here too.
fn any_text(name: &str, but: &[&str], controls: &[String]) -> String {
    let others = controls.iter().filter(|control| !control.is_empty() && !but.contains(&control.as_str()));
    let parts: Vec<String> =
        std::iter::once("/(?s:.)+/".to_owned()).chain(others.map(|it| control_token_name(it))).collect();
    format!("{name}: ({})*", parts.join(" | "))
}
