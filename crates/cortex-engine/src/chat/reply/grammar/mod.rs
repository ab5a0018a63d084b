//! Grammars of calls, for a model that has to call a tool.

#[cfg(test)]
mod accepted;
mod beside;
mod gemma;
mod sequence;

use super::{
    Tool, ToolFormat,
    formats::{
        CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, END_CALL, ESCAPE, GEMMA_CALL, GEMMA_CALL_END, GEMMA_QUOTE,
        SEPARATOR, START_CALL, TOOL_CALL, TOOL_CALLS,
    },
    tool::Kind,
};
use beside::Boundary;
use cortex_api::worker::{Constraint, JSON_WHITE_SPACE};
use gemma::GemmaRules;
use sequence::Sequence;
use serde_json::{Value, json};

/// What a reply may be beside calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Nothing: something has to be called.
    Nothing,
    /// Text, also before, between and behind calls.
    Text,
    /// Something that this rule describes, in the place of calls.
    Answer(String),
}

/// A grammar in llguidance's Lark dialect for calls in this format: one or more (exactly one when `single`), of these
/// tools only, with arguments that match their schemas, and what may stand beside them. `controls` are the texts of the control
/// tokens of the vocabulary: where a marker is one of them, that token has to stand, by [`cortex_api::worker::control_token_name`].
/// `None` when the vocabulary does not have the tokens that tell calls from text.
///
/// Keywords of a schema that llguidance does not know are ignored.
pub(crate) fn grammar(
    format: ToolFormat,
    tools: &[Tool],
    single: bool,
    controls: &[String],
    beside: &Beside,
) -> Option<String> {
    if tools.is_empty() {
        return Some("start: \"\"\n".to_owned());
    }
    let boundary = (*beside == Beside::Text).then(|| beside::boundary(format));
    let opener = match boundary {
        Some(Boundary::Opener(opener)) => Some(opener),
        _ => None,
    };
    // Where the beginning of a call is text, it ends the text before it.
    let skipped = opener.filter(|opener| !controls.iter().any(|control| control == opener)).unwrap_or_default();
    let mut writer = Writer { controls, rules: Vec::new(), has_text: false, skipped };
    let calls: Vec<String> = tools.iter().enumerate().map(|(index, tool)| writer.call(format, index, tool)).collect();
    let Frame { before, between, behind } = frame(format, writer.has_control("[ARGS]"));
    let marked = |text| Sequence::new(controls).marker(text).build();
    // With text between them, each call begins anew.
    let is_single = single || opener.is_some() && before.is_empty();
    let more = if is_single { String::new() } else { format!(" ({} call)*", marked(between)) };
    // A token that ends the reply may take the place of the last marker, or be it.
    let optional = if format == ToolFormat::Harmony { "?" } else { "" };
    let before = before.strip_prefix(skipped).unwrap_or(before);
    let all = format!("{} call{more} ({}){optional}", marked(before), marked(behind));
    let start = match (beside, boundary) {
        (Beside::Text, Some(_)) => beside::start(format, &all, single, controls)?,
        (Beside::Nothing | Beside::Text, _) => vec![format!("start: {all}")],
        (Beside::Answer(rule), _) => {
            let before = match format {
                ToolFormat::Harmony => "<|channel|>final<|message|>",
                ToolFormat::Functionary => "all\n",
                _ => "",
            };
            let answer = Sequence::new(controls).marker(before).rule("answer").build();
            vec![format!("start: {all} | {answer}"), format!("answer: {rule}")]
        }
    };
    let call = format!("call: {}", calls.join(" | "));
    let rules = start.into_iter().chain([call]).chain(writer.rules);
    Some(rules.map(|rule| rule + "\n").collect())
}

/// An expression as it stands between slashes: one of its own would end it.
fn between_slashes(pattern: &str) -> String {
    let (mut text, mut is_escaped) = (String::new(), false);
    for letter in pattern.chars() {
        match letter {
            '/' if is_escaped => {
                text.pop();
                text.push_str("\\x2f");
            }
            '/' => text.push_str("\\x2f"),
            '\n' => text.push_str(if is_escaped { "n" } else { "\\n" }),
            other => text.push(other),
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    text
}

/// A text as it stands in an expression.
fn escaped(text: &str) -> String {
    let one = |letter: char| {
        if letter.is_ascii_alphanumeric() { letter.to_string() } else { format!("\\x{{{:x}}}", u32::from(letter)) }
    };
    text.chars().map(one).collect()
}

/// A rule for an answer that has to be something; `None` for what is a grammar itself.
pub(crate) fn answer_rule(constraint: &Constraint) -> Option<String> {
    match constraint {
        Constraint::JsonSchema { schema } => {
            let mut schema = if schema.is_object() { schema.clone() } else { json!({}) };
            if let Some(schema) = schema.as_object_mut() {
                schema.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": JSON_WHITE_SPACE}));
            }
            Some(format!("%json {schema}"))
        }
        Constraint::Regex { pattern } => Some(format!("/{}/", between_slashes(pattern))),
        Constraint::Lark { .. } => None,
    }
}

/// What stands around calls.
struct Frame {
    before: &'static str,
    between: &'static str,
    behind: &'static str,
}

/// What stands around calls of this format.
fn frame(format: ToolFormat, has_args: bool) -> Frame {
    let (before, between, behind) = match format {
        ToolFormat::Hermes | ToolFormat::QwenCoder | ToolFormat::Glm => ("", "\n", ""),
        ToolFormat::Granite => ("<|tool_call|>[", ", ", "]"),
        ToolFormat::Llama3 => ("", "; ", ""),
        ToolFormat::Mistral if has_args => ("", "", ""),
        ToolFormat::Mistral => ("[TOOL_CALLS][", ", ", "]"),
        ToolFormat::DeepSeekR1 => (CALLS_BEGIN, "\n", CALLS_END),
        ToolFormat::DeepSeekV3_1 => (CALLS_BEGIN, "", CALLS_END),
        ToolFormat::Harmony => ("", "<|call|><|start|>assistant", "<|call|>"),
        ToolFormat::FunctionGemma | ToolFormat::Gemma4 | ToolFormat::FunctionTags => ("", "", ""),
        ToolFormat::Functionary => ("", ">>>", ""),
    };
    Frame { before, between, behind }
}

/// Writes the rules of a grammar.
struct Writer<'controls> {
    controls: &'controls [String],
    rules: Vec<String>,
    /// There is a rule for text up to the end of a parameter.
    has_text: bool,
    /// What the first marker of a call begins with and is there already.
    skipped: &'static str,
}

impl<'controls> Writer<'controls> {
    fn has_control(&self, text: &str) -> bool {
        self.controls.iter().any(|control| control == text)
    }

    /// A marker that a call begins with, without what is there already.
    fn begun(&self, marker: &'static str) -> &'static str {
        marker.strip_prefix(self.skipped).unwrap_or(marker)
    }

    fn sequence(&self) -> Sequence<'controls> {
        Sequence::new(self.controls)
    }

    /// The name of a rule for calls of this tool.
    fn call(&mut self, format: ToolFormat, index: usize, tool: &Tool) -> String {
        let rule = format!("call_{index}");
        let name = tool.name.as_str();
        let sequence = self.sequence();
        let sequence = match format {
            ToolFormat::Hermes => {
                object(sequence.marker(self.begun("<tool_call>\n")), tool, "arguments").marker("\n</tool_call>")
            }
            ToolFormat::Llama3 => object(sequence, tool, "parameters"),
            ToolFormat::Mistral if self.has_control("[ARGS]") => {
                sequence.marker(self.begun(TOOL_CALLS)).text(name).marker("[ARGS]").rule(&arguments(tool))
            }
            ToolFormat::Mistral | ToolFormat::Granite => object(sequence, tool, "arguments"),
            ToolFormat::QwenCoder => {
                let parameters = self.parameters(tool, &QWEN);
                sequence
                    .marker(self.begun("<tool_call>\n<function="))
                    .text(name)
                    .marker(">\n")
                    .rule(&parameters)
                    .marker("</function>\n</tool_call>")
            }
            ToolFormat::Glm => {
                let parameters = self.parameters(tool, &GLM);
                sequence.marker(self.begun(TOOL_CALL)).text(name).text("\n").rule(&parameters).marker("</tool_call>")
            }
            ToolFormat::DeepSeekR1 => sequence
                .marker(CALL_BEGIN)
                .text("function")
                .marker(SEPARATOR)
                .text(name)
                .text("\n```json\n")
                .rule(&arguments(tool))
                .text("\n```")
                .marker(CALL_END),
            ToolFormat::DeepSeekV3_1 => {
                sequence.marker(CALL_BEGIN).text(name).marker(SEPARATOR).rule(&arguments(tool)).marker(CALL_END)
            }
            ToolFormat::Harmony => sequence
                .marker("<|channel|>commentary to=functions.")
                .text(name)
                .marker(" <|constrain|>json<|message|>")
                .rule(&arguments(tool)),
            ToolFormat::FunctionGemma => {
                let arguments = GemmaRules::new(tool, ESCAPE, self.controls, &mut self.rules, index).arguments();
                sequence.marker(self.begun(START_CALL)).text("call:").text(name).rule(&arguments).marker(END_CALL)
            }
            ToolFormat::Gemma4 => {
                let arguments = GemmaRules::new(tool, GEMMA_QUOTE, self.controls, &mut self.rules, index).arguments();
                sequence.marker(self.begun(GEMMA_CALL)).text("call:").text(name).rule(&arguments).marker(GEMMA_CALL_END)
            }
            ToolFormat::FunctionTags => sequence
                .marker(self.begun("<function="))
                .text(name)
                .text(">")
                .rule(&arguments(tool))
                .marker("</function>"),
            ToolFormat::Functionary => sequence.text(name).text("\n").rule(&arguments(tool)),
        };
        self.rules.push(format!("{rule}: {}", sequence.build()));
        rule
    }

    /// Each parameter between its tags, in the order of the schema.
    fn parameters(&mut self, tool: &Tool, tags: &Written) -> String {
        let properties = tool.properties();
        if properties.is_empty() && tool.parameters.get("properties").is_none() {
            let name = self.sequence().marker(tags.name).rule("/[^<>\\n]+/").marker(tags.value).build();
            return format!("({name} {})*", self.text_value(tags));
        }
        let mut all = Vec::new();
        for (name, schema, is_required) in properties {
            let value = self.value((tool, tags), &name, schema);
            let parameter = self.sequence().marker(tags.name).text(&name).marker(tags.value).rule(&value).build();
            all.push(if is_required { parameter } else { format!("({parameter})?") });
        }
        all.join(" ")
    }

    /// A value and the end of its parameter.
    fn value(&mut self, (tool, tags): (&Tool, &Written), name: &str, schema: &Value) -> String {
        let end = |sequence: Sequence| sequence.marker(tags.end).build();
        let choices = tool.resolve(schema).get("enum").and_then(Value::as_array);
        match (tool.kind_of(name), choices) {
            (Kind::Text, Some(choices)) => {
                let choices = choices.iter().filter_map(Value::as_str);
                let choices: Vec<String> = choices.map(|choice| end(self.sequence().text(choice))).collect();
                format!("({})", choices.join(" | "))
            }
            (Kind::Text | Kind::TextOrNull, _) => self.text_value(tags),
            (Kind::Other, _) => {
                let mut schema = schema.clone();
                for key in ["$defs", "definitions"] {
                    if let (Some(object), Some(shared)) = (schema.as_object_mut(), tool.parameters.get(key)) {
                        object.insert(key.to_owned(), shared.clone());
                    }
                }
                end(self.sequence().rule(&json_rule(schema, tool.is_strict)))
            }
        }
    }

    /// Any text, and the end of its parameter.
    fn text_value(&mut self, tags: &Written) -> String {
        if !std::mem::replace(&mut self.has_text, true) {
            let end = self.sequence().marker(tags.end).build();
            let has_control = self.controls.iter().any(|control| !control.is_empty() && tags.end.contains(control));
            self.rules.push(if has_control {
                format!("text_value: /(?s:.)+/? {end}")
            } else {
                format!("text_value[suffix={end}]: /(?s:.*)/")
            });
        }
        "text_value".to_owned()
    }
}

/// What is written around parameters.
struct Written {
    name: &'static str,
    value: &'static str,
    end: &'static str,
}

const QWEN: Written = Written { name: "<parameter=", value: ">\n", end: "\n</parameter>\n" };
const GLM: Written = Written { name: "<arg_key>", value: "</arg_key>\n<arg_value>", end: "</arg_value>\n" };

/// A call as one JSON object.
fn object<'controls>(sequence: Sequence<'controls>, tool: &Tool, key: &str) -> Sequence<'controls> {
    let name = Value::from(tool.name.as_str());
    sequence.text(&format!("{{\"name\": {name}, \"{key}\": ")).rule(&arguments(tool)).text("}")
}

/// The arguments of a tool as JSON.
fn arguments(tool: &Tool) -> String {
    let mut schema = tool.parameters.clone();
    match schema.as_object_mut() {
        Some(object) => {
            if !["type", "$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| object.contains_key(*key)) {
                object.insert("type".into(), "object".into());
            }
        }
        None => schema = json!({"type": "object"}),
    }
    json_rule(schema, tool.is_strict)
}

/// JSON that matches a schema; unless it is strict, what of the schema cannot be followed is left out.
fn json_rule(mut schema: Value, is_strict: bool) -> String {
    if let Some(object) = schema.as_object_mut() {
        object.insert("x-guidance".into(), json!({"lenient": !is_strict, "whitespace_pattern": JSON_WHITE_SPACE}));
    }
    format!("%json {schema}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Vec<Tool> {
        let parameters = json!({
            "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
            "required": ["a"],
        });
        let tool = |name: &str, parameters| Tool { name: name.into(), parameters, is_strict: false };
        vec![tool("f", parameters), tool("g", Value::Null)]
    }

    const F: &str = r#"%json {"properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["a"],"type":"object","x-guidance":{"lenient":true,"whitespace_pattern":"( |\\n[ \\t]{0,20})?"}}"#;
    const G: &str =
        r#"%json {"type":"object","x-guidance":{"lenient":true,"whitespace_pattern":"( |\\n[ \\t]{0,20})?"}}"#;

    #[track_caller]
    fn check(format: ToolFormat, single: bool, controls: &[&str], expected: &str) {
        let controls: Vec<String> = controls.iter().map(ToString::to_string).collect();
        let expected = expected.replace("$F", F).replace("$G", G);
        assert_eq!(grammar(format, &tools(), single, &controls, &Beside::Nothing), Some(expected));
    }

    #[test]
    fn calls_of_all_tools_are_allowed() {
        check(
            ToolFormat::Hermes,
            false,
            &[],
            r#"start: "" call ("\n" call)* ("")
call: call_0 | call_1
call_0: "<tool_call>\n{\"name\": \"f\", \"arguments\": " $F "}\n</tool_call>"
call_1: "<tool_call>\n{\"name\": \"g\", \"arguments\": " $G "}\n</tool_call>"
"#,
        );
    }

    #[test]
    fn control_tokens_are_not_spelled() {
        check(
            ToolFormat::Harmony,
            true,
            &["<|channel|>", "<|message|>", "<|constrain|>", "<|call|>"],
            r#"start: "" call (<|call|>)?
call: call_0 | call_1
call_0: <|channel|> "commentary to=functions.f " <|constrain|> "json" <|message|> $F
call_1: <|channel|> "commentary to=functions.g " <|constrain|> "json" <|message|> $G
"#,
        );
        check(
            ToolFormat::Mistral,
            true,
            &["[TOOL_CALLS]", "[ARGS]"],
            r#"start: "" call ("")
call: call_0 | call_1
call_0: <|[TOOL_CALLS]|> "f" <|[ARGS]|> $F
call_1: <|[TOOL_CALLS]|> "g" <|[ARGS]|> $G
"#,
        );
    }

    #[test]
    fn parameters_are_written_as_their_schema_says() {
        check(
            ToolFormat::QwenCoder,
            true,
            &[],
            r#"start: "" call ("")
call: call_0 | call_1
text_value[suffix="\n</parameter>\n"]: /(?s:.*)/
call_0: "<tool_call>\n<function=f>\n" "<parameter=a>\n" text_value ("<parameter=b>\n" %json {"type":"integer","x-guidance":{"lenient":true,"whitespace_pattern":"( |\\n[ \\t]{0,20})?"}} "\n</parameter>\n")? "</function>\n</tool_call>"
call_1: "<tool_call>\n<function=g>\n" ("<parameter=" /[^<>\n]+/ ">\n" text_value)* "</function>\n</tool_call>"
"#,
        );
    }

    #[test]
    fn without_tools_there_is_nothing_to_write() {
        let nothing = grammar(ToolFormat::Hermes, &[], true, &[], &Beside::Nothing);
        assert_eq!(nothing.as_deref(), Some("start: \"\"\n"));
    }

    /// The first rules of a grammar for calls of one tool beside something else.
    #[track_caller]
    fn check_beside(format: ToolFormat, single: bool, controls: &[&str], beside: &Beside, expected: &[&str]) {
        let controls: Vec<String> = controls.iter().map(ToString::to_string).collect();
        let written = grammar(format, &tools()[1..], single, &controls, beside).expect("possible");
        assert_eq!(written.lines().take(expected.len()).collect::<Vec<_>>(), expected, "{written}");
    }

    #[test]
    fn an_answer_stands_in_the_place_of_calls() {
        let schema = Constraint::JsonSchema { schema: json!({"type": "array"}) };
        let rule = answer_rule(&schema).expect("a rule");
        let answer = r#"answer: %json {"type":"array","x-guidance":{"whitespace_pattern":"( |\\n[ \\t]{0,20})?"}}"#;
        let beside = Beside::Answer(rule);
        check_beside(ToolFormat::Llama3, true, &[], &beside, &[r#"start: "" call ("") | answer"#, answer]);
        let controls = ["<|channel|>", "<|message|>", "<|call|>"];
        check_beside(
            ToolFormat::Harmony,
            true,
            &controls,
            &beside,
            &[r#"start: "" call (<|call|>)? | <|channel|> "final" <|message|> answer"#],
        );
        for (pattern, expected) in [("a/b", r"/a\x2fb/"), (r"a\/b", r"/a\x2fb/"), (r"a\\/b", r"/a\\\x2fb/")] {
            assert_eq!(answer_rule(&Constraint::Regex { pattern: pattern.into() }).as_deref(), Some(expected));
        }
        assert_eq!(answer_rule(&Constraint::Lark { grammar: "start: \"a\"".into() }), None);
    }
}
