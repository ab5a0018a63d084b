//! How each family of models writes calls, as tables of steps.

use super::{
    ToolFormat,
    parameters::{GLM_TAGS, QWEN_TAGS, Tags},
};

/// One step on the way from the beginning of a call to its arguments.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Any white space.
    Blank,
    /// This text.
    Text(&'static str),
    /// This text, or nothing.
    Maybe(&'static str),
    /// The name of the tool.
    Name,
    /// A word that says nothing.
    Word,
    /// From here on it is a call, also when the reply ends.
    Sure,
    /// Goes on with the first branch whose text stands here.
    Branch(&'static [(&'static str, &'static [Step])]),
    /// No call, but visible text follows.
    Prose,
    /// The arguments, perhaps together with the name.
    Body(BodyKind, Tail),
}

/// How arguments are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// A JSON object with the name and the arguments.
    Object,
    /// The same, but it is a call only if the tool is known: nothing else marks it.
    KnownObject,
    /// The arguments as a JSON object.
    Arguments,
    /// Tags around the name and the value of each parameter.
    Parameters(&'static Tags),
    /// Google's notation, with this text around strings and this one at the end of a call.
    Gemma { quote: &'static str, end: &'static str },
}

/// What may stand behind a call; a closing text once and in this order. White space between is skipped.
#[derive(Debug, Clone, Copy)]
pub(super) enum After {
    /// Belongs to the call before it.
    Close(&'static str),
    /// Another call begins with this text.
    Again(&'static str, &'static [Step]),
}

/// Which things may stand behind a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    Nothing,
    /// Another object, or the end of a `<tool_call>` block.
    Block,
    /// The end of a `<function=…>` tag and of a block around it.
    Tag,
    /// Another object.
    Llama,
    /// Another element, or the end of the array.
    Array,
    /// The end of the fence, of the call, and of all calls.
    DeepSeek,
    /// The end of the call, and the beginning of its result.
    FunctionGemma,
    /// The same with other markers.
    Gemma4,
}

/// How one family of models writes calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Syntax {
    /// A call at the very beginning of the reply, without a marker.
    pub(super) start: &'static [Step],
    /// Markers that begin a call, and the steps from there, the marker among them.
    pub(super) openers: &'static [(&'static str, &'static [Step])],
}

/// For a reply without calls.
pub(super) const NONE: Syntax = Syntax { start: &[], openers: &[] };

/// How this family of models writes calls.
pub(super) fn syntax_of(format: ToolFormat) -> Syntax {
    match format {
        ToolFormat::Hermes => Syntax { start: &[], openers: &[(TOOL_CALL, BLOCK)] },
        ToolFormat::QwenCoder => Syntax { start: &[], openers: &[(TOOL_CALL, BLOCK), (FUNCTION, TAG)] },
        ToolFormat::Glm => Syntax { start: &[], openers: &[(TOOL_CALL, GLM)] },
        ToolFormat::Granite => Syntax { start: &[], openers: &[(BAR_TOOL_CALL, GRANITE)] },
        ToolFormat::FunctionTags => Syntax { start: &[], openers: &[(FUNCTION, TAG)] },
        ToolFormat::Llama3 => Syntax { start: LLAMA_START, openers: &[(PYTHON_TAG, LLAMA)] },
        ToolFormat::Mistral => Syntax { start: &[], openers: &[(TOOL_CALLS, MISTRAL)] },
        ToolFormat::DeepSeekR1 => {
            Syntax { start: &[], openers: &[(CALLS_BEGIN, DEEPSEEK_R1), (CALL_BEGIN, DEEPSEEK_R1_CALL)] }
        }
        ToolFormat::DeepSeekV3_1 => {
            Syntax { start: &[], openers: &[(CALLS_BEGIN, DEEPSEEK_V3_1), (CALL_BEGIN, DEEPSEEK_V3_1_CALL)] }
        }
        ToolFormat::FunctionGemma => Syntax { start: &[], openers: &[(START_CALL, FUNCTION_GEMMA)] },
        ToolFormat::Gemma4 => Syntax { start: &[], openers: &[(GEMMA_CALL, GEMMA4)] },
        ToolFormat::Functionary => Syntax { start: &[RECIPIENT], openers: &[(">>>", FUNCTIONARY)] },
        // Its channels are read elsewhere.
        ToolFormat::Harmony => NONE,
    }
}

// The markers themselves; the names say what they are.
pub(super) const TOOL_CALL: &str = "<tool_call>";
pub(super) const BAR_TOOL_CALL: &str = "<|tool_call|>";
pub(super) const FUNCTION: &str = "<function=";
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";
pub(super) const TOOL_CALLS: &str = "[TOOL_CALLS]";
pub(super) const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(super) const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";
pub(super) const CALL_END: &str = "<｜tool▁call▁end｜>";
pub(super) const CALLS_END: &str = "<｜tool▁calls▁end｜>";
pub(super) const START_CALL: &str = "<start_function_call>";
pub(super) const END_CALL: &str = "<end_function_call>";
pub(super) const ESCAPE: &str = "<escape>";
pub(super) const GEMMA_CALL: &str = "<|tool_call>";
pub(super) const GEMMA_CALL_END: &str = "<tool_call|>";
pub(super) const GEMMA_QUOTE: &str = "<|\"|>";

impl Tail {
    /// What may stand behind the call.
    pub(super) fn after(self) -> &'static [After] {
        match self {
            Self::Nothing => &[],
            Self::Block => &[After::Again("{", &[Step::Body(BodyKind::Object, Self::Block)]), CLOSE_BLOCK],
            Self::Tag => &[CLOSE_TAG, CLOSE_BLOCK],
            Self::Llama => &[
                After::Again(";", LLAMA_NEXT),
                After::Again(",", LLAMA_NEXT),
                After::Again("{", LLAMA_NEXT),
                After::Again(PYTHON_TAG, LLAMA),
            ],
            Self::Array => &[
                After::Again(",", &[Step::Text(","), Step::Blank, Step::Body(BodyKind::Object, Self::Array)]),
                After::Close("]"),
            ],
            Self::DeepSeek => &[After::Close("```"), After::Close(CALL_END), After::Close(CALLS_END)],
            // Both models then ask for the result by themselves.
            Self::FunctionGemma => &[After::Close(END_CALL), After::Close("<start_function_response>")],
            Self::Gemma4 => &[After::Close(GEMMA_CALL_END), After::Close("<|tool_response>")],
        }
    }
}

const CLOSE_BLOCK: After = After::Close("</tool_call>");
const CLOSE_TAG: After = After::Close("</function>");

const BLOCK: &[Step] = &[
    Step::Text(TOOL_CALL),
    Step::Blank,
    // Some models mix up the two ways.
    Step::Branch(&[("{", &[Step::Body(BodyKind::Object, Tail::Block)]), (FUNCTION, TAG)]),
];
const TAG: &[Step] = &[
    Step::Text(FUNCTION),
    Step::Name,
    Step::Text(">"),
    Step::Sure,
    Step::Blank,
    Step::Branch(&[
        ("{", &[Step::Body(BodyKind::Arguments, Tail::Tag)]),
        ("<parameter=", &[Step::Body(BodyKind::Parameters(&QWEN_TAGS), Tail::Tag)]),
        ("</function>", &[Step::Body(BodyKind::Parameters(&QWEN_TAGS), Tail::Tag)]),
    ]),
];

const GLM: &[Step] = &[
    Step::Text(TOOL_CALL),
    Step::Blank,
    Step::Branch(&[("{", &[Step::Body(BodyKind::Object, Tail::Block)]), ("", GLM_NAME)]),
];
const GLM_NAME: &[Step] = &[
    Step::Name,
    Step::Blank,
    Step::Branch(&[
        ("<arg_key>", &[Step::Body(BodyKind::Parameters(&GLM_TAGS), Tail::Nothing)]),
        ("</tool_call>", &[Step::Body(BodyKind::Parameters(&GLM_TAGS), Tail::Nothing)]),
    ]),
];
const GRANITE: &[Step] = &[
    Step::Text(BAR_TOOL_CALL),
    Step::Blank,
    Step::Branch(&[
        ("[", &[Step::Text("["), Step::Blank, Step::Body(BodyKind::Object, Tail::Array)]),
        ("{", &[Step::Body(BodyKind::Object, Tail::Nothing)]),
    ]),
];

const LLAMA_START: &[Step] = &[Step::Blank, Step::Body(BodyKind::KnownObject, Tail::Llama)];
const LLAMA: &[Step] = &[Step::Text(PYTHON_TAG), Step::Blank, Step::Body(BodyKind::Object, Tail::Llama)];
const LLAMA_NEXT: &[Step] =
    &[Step::Maybe(";"), Step::Maybe(","), Step::Blank, Step::Body(BodyKind::KnownObject, Tail::Llama)];

const MISTRAL: &[Step] = &[
    Step::Text(TOOL_CALLS),
    Step::Blank,
    Step::Branch(&[
        ("[", &[Step::Text("["), Step::Blank, Step::Body(BodyKind::Object, Tail::Array)]),
        ("{", &[Step::Body(BodyKind::Object, Tail::Nothing)]),
        ("", MISTRAL_NAME),
    ]),
];
const MISTRAL_NAME: &[Step] = &[
    Step::Name,
    Step::Blank,
    Step::Branch(&[
        ("[CALL_ID]", &[Step::Text("[CALL_ID]"), Step::Blank, Step::Word, Step::Blank, MISTRAL_ARGUMENTS]),
        ("", &[MISTRAL_ARGUMENTS]),
    ]),
];
const MISTRAL_ARGUMENTS: Step =
    Step::Branch(&[("[ARGS]", &[Step::Text("[ARGS]"), Step::Sure, Step::Blank, MISTRAL_BODY]), ("", &[MISTRAL_BODY])]);
const MISTRAL_BODY: Step = Step::Body(BodyKind::Arguments, Tail::Nothing);

const DEEPSEEK_R1: &[Step] = &[Step::Text(CALLS_BEGIN), Step::Blank, Step::Branch(&[(CALL_BEGIN, DEEPSEEK_R1_CALL)])];
const DEEPSEEK_R1_CALL: &[Step] = &[
    Step::Text(CALL_BEGIN),
    Step::Blank,
    // The type of the call; the name that follows takes its place.
    Step::Name,
    Step::Blank,
    Step::Text(SEPARATOR),
    Step::Blank,
    DEEPSEEK_REST,
];
const DEEPSEEK_V3_1: &[Step] =
    &[Step::Text(CALLS_BEGIN), Step::Blank, Step::Branch(&[(CALL_BEGIN, DEEPSEEK_V3_1_CALL)])];
const DEEPSEEK_V3_1_CALL: &[Step] = &[
    Step::Text(CALL_BEGIN),
    Step::Blank,
    Step::Name,
    Step::Blank,
    Step::Text(SEPARATOR),
    Step::Sure,
    Step::Blank,
    DEEPSEEK_REST,
];
// The two are told apart by what is there: fine-tunes mix them up.
const DEEPSEEK_REST: Step = Step::Branch(&[("{", &[DEEPSEEK_BODY]), ("", DEEPSEEK_NAME)]);
const DEEPSEEK_NAME: &[Step] =
    &[Step::Name, Step::Text("\n"), Step::Sure, Step::Blank, Step::Maybe("```json"), Step::Blank, DEEPSEEK_BODY];
const DEEPSEEK_BODY: Step = Step::Body(BodyKind::Arguments, Tail::DeepSeek);

const FUNCTION_GEMMA: &[Step] = &[
    Step::Text(START_CALL),
    Step::Blank,
    Step::Text("call:"),
    Step::Blank,
    Step::Name,
    Step::Blank,
    Step::Body(BodyKind::Gemma { quote: ESCAPE, end: END_CALL }, Tail::FunctionGemma),
];
const GEMMA4: &[Step] = &[
    Step::Text(GEMMA_CALL),
    Step::Blank,
    Step::Text("call:"),
    Step::Blank,
    Step::Name,
    Step::Blank,
    Step::Body(BodyKind::Gemma { quote: GEMMA_QUOTE, end: GEMMA_CALL_END }, Tail::Gemma4),
];

const FUNCTIONARY: &[Step] = &[Step::Text(">>>"), RECIPIENT];
const RECIPIENT: Step = Step::Branch(&[
    ("all\n", &[Step::Text("all\n"), Step::Prose]),
    ("", &[Step::Name, Step::Text("\n"), Step::Blank, Step::Body(BodyKind::Arguments, Tail::Nothing)]),
]);
