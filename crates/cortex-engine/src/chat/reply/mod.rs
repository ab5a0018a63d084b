//! From the raw text of a model to reasoning, visible text and tool calls. Pure.
//!
//! The text arrives in any chunks. First the reasoning is cut off, then what is left is searched for calls in the way
//! that the family of the model writes them. Whatever the chunks, the pieces say the same.

mod calls;
mod detect;
mod formats;
mod gemma;
mod grammar;
mod harmony;
mod input;
mod instructions;
mod json;
mod parameters;
mod pieces;
#[cfg(test)]
mod tests;
mod think;
mod tool;

pub(crate) use grammar::{Beside, answer_rule, grammar};
pub(crate) use instructions::hermes_instructions;
pub(crate) use pieces::Piece;
pub(crate) use tool::Tool;

use calls::Calls;
use harmony::Harmony;
use pieces::Output;
use think::ThinkSplitter;

/// How a family of models writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolFormat {
    /// `<tool_call>` blocks with JSON: Hermes, Qwen 2.5 and 3, and what we teach models without a format of their own.
    Hermes,
    /// `<tool_call>` blocks with one tag for each parameter: Qwen3-Coder and Qwen 3.5.
    QwenCoder,
    /// The whole reply is JSON, perhaps behind `<|python_tag|>`: Llama 3.1 to 3.3.
    Llama3,
    /// Behind `[TOOL_CALLS]`: a JSON array, or a name and its arguments.
    Mistral,
    /// `DeepSeek`'s tool tokens with a fenced block of JSON: R1 and V3.
    DeepSeekR1,
    /// `DeepSeek`'s tool tokens with bare JSON: V3.1.
    DeepSeekV3_1,
    /// Messages in channels: gpt-oss.
    Harmony,
    /// `call:f{…}` between `<start_function_call>` and `<end_function_call>`, with a notation of its own.
    FunctionGemma,
    /// The same notation between `<|tool_call>` and `<tool_call|>`.
    Gemma4,
    /// `<function=f>{…}</function>`: Functionary 3.1 and tools that a user defines for Llama 3.1.
    FunctionTags,
    /// `>>>f` on a line, then JSON: Functionary 3.2.
    Functionary,
    /// `<tool_call>f` blocks with a tag for the name and one for the value of each parameter: GLM 4.5 and later.
    Glm,
    /// A JSON array behind `<|tool_call|>`: Granite 3.
    Granite,
}

/// How a model marks its reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReasoningStyle {
    /// `<think>`…`</think>`.
    Think,
    /// `[THINK]`…`[/THINK]`: Magistral and Ministral 3.
    BracketThink,
    /// `<|channel>thought`…`<channel|>`: Gemma 4.
    GemmaChannel,
    /// The `analysis` channel of Harmony.
    Harmony,
}

/// That a model may reason, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reasoning {
    /// How it is marked.
    pub(crate) style: ReasoningStyle,
    /// The prompt ends inside of it: the reply begins with reasoning, without a mark.
    pub(crate) starts_inside: bool,
}

/// What may stand in a reply besides text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyFormat {
    /// Tool calls; `None` when no tools were given.
    pub(crate) tools: Option<ToolFormat>,
    /// Reasoning.
    pub(crate) reasoning: Option<Reasoning>,
}

/// Texts that formats are made of and that are control tokens of some vocabularies.
const MARKERS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<start_function_call>",
    "<end_function_call>",
    "<escape>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_call|>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|\"|>",
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
    "<|constrain|>",
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<|channel>",
    "<channel|>",
];

impl ReplyFormat {
    /// What ends the thoughts that a prompt may have begun, for a reply that has to begin with something else; where it is
    /// text, what begins that.
    pub(crate) fn end_of_thoughts(self, is_text: bool) -> &'static str {
        match self.reasoning {
            Some(Reasoning { style: ReasoningStyle::Harmony, .. }) if is_text => "<|channel|>final<|message|>",
            Some(Reasoning { style: ReasoningStyle::Think, starts_inside: true }) => "\n</think>\n\n",
            Some(Reasoning { style: ReasoningStyle::BracketThink, starts_inside: true }) => "[/THINK]",
            Some(Reasoning { style: ReasoningStyle::GemmaChannel, starts_inside: true }) => "<channel|>",
            _ => "",
        }
    }

    /// Whether thoughts stand before what tells a call from text by its place, so that no grammar of the whole reply does.
    pub(crate) fn is_led_by_thoughts(self) -> bool {
        match self.tools {
            Some(ToolFormat::Llama3 | ToolFormat::Functionary) => self.reasoning.is_some(),
            Some(ToolFormat::Harmony) => self.reasoning.is_some_and(|it| it.starts_inside),
            _ => false,
        }
    }

    /// Whether a reply cannot be taken apart without the text of this control token.
    pub(crate) fn is_marker(control: &str) -> bool {
        MARKERS.contains(&control)
    }
}

/// Takes a reply apart while it arrives.
#[derive(Debug)]
pub(crate) struct ReplyParser {
    think: Option<ThinkSplitter>,
    body: Body,
    output: Output,
}

/// What reads the text behind the reasoning.
#[derive(Debug)]
enum Body {
    Calls(Box<Calls>),
    Harmony(Harmony),
}

impl ReplyParser {
    /// A parser for one reply. `tools` are those that were given to the model. With `single_call` the reply ends
    /// behind its first call: what a model writes after it is dropped.
    pub(crate) fn new(format: ReplyFormat, tools: Vec<Tool>, single_call: bool) -> Self {
        let style = format.reasoning.map(|reasoning| reasoning.style);
        let starts_inside = format.reasoning.is_some_and(|reasoning| reasoning.starts_inside);
        let is_harmony = style == Some(ReasoningStyle::Harmony) || format.tools == Some(ToolFormat::Harmony);
        let body = if is_harmony {
            Body::Harmony(Harmony::new(format.tools.is_some(), starts_inside, single_call))
        } else {
            Body::Calls(Box::new(Calls::new(format.tools, tools, single_call)))
        };
        let think = style.filter(|_| !is_harmony).and_then(|style| ThinkSplitter::new(style, starts_inside));
        Self { think, body, output: Output::default() }
    }

    /// Takes a chunk of the reply, and gives what is certain now.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        match &mut self.think {
            Some(think) => {
                let text = think.push(text, &mut self.output);
                self.body.push(&text, &mut self.output);
            }
            None => self.body.push(text, &mut self.output),
        }
        self.output.take()
    }

    /// The reply ends: gives what was held back.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        if let Some(think) = &mut self.think {
            let text = think.finish(&mut self.output);
            self.body.push(&text, &mut self.output);
        }
        self.body.finish(&mut self.output);
        self.output.take()
    }

    /// Whether all that follows is dropped: the one call that was allowed is complete, generation may stop.
    pub(crate) fn is_done(&self) -> bool {
        match &self.body {
            Body::Calls(calls) => calls.is_done(),
            Body::Harmony(harmony) => harmony.is_done(),
        }
    }
}

impl Body {
    fn push(&mut self, text: &str, output: &mut Output) {
        match self {
            Self::Calls(calls) => calls.push(text, output),
            Self::Harmony(harmony) => harmony.push(text, output),
        }
    }

    fn finish(&mut self, output: &mut Output) {
        match self {
            Self::Calls(calls) => calls.finish(output),
            Self::Harmony(harmony) => harmony.finish(output),
        }
    }
}
