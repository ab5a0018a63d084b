//! Grammars of calls, for a model that has to call a tool.

mod gemma;
mod sequence;

use super::{
    Tool, ToolFormat,
    formats::{
        CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, END_CALL, ESCAPE, GEMMA_CALL, GEMMA_CALL_END, GEMMA_QUOTE,
        SEPARATOR, START_CALL, TOOL_CALLS,
    },
    tool::Kind,
};
use cortex_api::worker::JSON_WHITE_SPACE;
use gemma::GemmaRules;
use sequence::Sequence;
use serde_json::{Value, json};

/// A grammar in llguidance's Lark dialect for calls in this format: one or more (exactly one when `single`), of these
/// tools only, with arguments that match their schemas, and no other text. `controls` are the texts of the control
/// tokens of the vocabulary: where a marker is one of them, that token has to stand, by [`cortex_api::worker::control_token_name`].
///
/// Keywords of a schema that llguidance does not know are ignored.
pub(crate) fn grammar(format: ToolFormat, tools: &[Tool], single: bool, controls: &[String]) -> String {
    if tools.is_empty() {
        return "start: \"\"\n".to_owned();
    }
    let mut writer = Writer { controls, rules: Vec::new(), has_text: false };
    let calls: Vec<String> = tools.iter().enumerate().map(|(index, tool)| writer.call(format, index, tool)).collect();
    let Frame { before, between, behind } = frame(format, writer.has_control("[ARGS]"));
    let marked = |text| Sequence::new(controls).marker(text).build();
    let more = if single { String::new() } else { format!(" ({} call)*", marked(between)) };
    // A token that ends the reply may take the place of the last marker, or be it.
    let optional = if format == ToolFormat::Harmony { "?" } else { "" };
    let start = format!("start: {} call{more} ({}){optional}", marked(before), marked(behind));
    let call = format!("call: {}", calls.join(" | "));
    let rules = [start, call].into_iter().chain(writer.rules);
    rules.map(|rule| rule + "\n").collect()
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
        ToolFormat::Hermes | ToolFormat::QwenCoder => ("", "\n", ""),
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
}

impl<'controls> Writer<'controls> {
    fn has_control(&self, text: &str) -> bool {
        self.controls.iter().any(|control| control == text)
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
            ToolFormat::Hermes => object(sequence.marker("<tool_call>\n"), tool, "arguments").marker("\n</tool_call>"),
            ToolFormat::Llama3 => object(sequence, tool, "parameters"),
            ToolFormat::Mistral if self.has_control("[ARGS]") => {
                sequence.marker(TOOL_CALLS).text(name).marker("[ARGS]").rule(&arguments(tool))
            }
            ToolFormat::Mistral => object(sequence, tool, "arguments"),
            ToolFormat::QwenCoder => {
                let parameters = self.parameters(tool);
                sequence
                    .marker("<tool_call>\n<function=")
                    .text(name)
                    .marker(">\n")
                    .rule(&parameters)
                    .marker("</function>\n</tool_call>")
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
                sequence.marker(START_CALL).text("call:").text(name).rule(&arguments).marker(END_CALL)
            }
            ToolFormat::Gemma4 => {
                let arguments = GemmaRules::new(tool, GEMMA_QUOTE, self.controls, &mut self.rules, index).arguments();
                sequence.marker(GEMMA_CALL).text("call:").text(name).rule(&arguments).marker(GEMMA_CALL_END)
            }
            ToolFormat::FunctionTags => {
                sequence.marker("<function=").text(name).text(">").rule(&arguments(tool)).marker("</function>")
            }
            ToolFormat::Functionary => sequence.text(name).text("\n").rule(&arguments(tool)),
        };
        self.rules.push(format!("{rule}: {}", sequence.build()));
        rule
    }

    /// One tag for each parameter, in the order of the schema.
    fn parameters(&mut self, tool: &Tool) -> String {
        let properties = tool.properties();
        if properties.is_empty() && tool.parameters.get("properties").is_none() {
            return format!("({} {})*", self.sequence().text("<parameter=").rule("/[^<>\\n]+/").text(">\n").build(), {
                self.text_value()
            });
        }
        let mut all = Vec::new();
        for (name, schema, is_required) in properties {
            let value = self.value(tool, &name, schema);
            let parameter = self.sequence().text(&format!("<parameter={name}>\n")).rule(&value).build();
            all.push(if is_required { parameter } else { format!("({parameter})?") });
        }
        all.join(" ")
    }

    /// A value and the end of its parameter.
    fn value(&mut self, tool: &Tool, name: &str, schema: &Value) -> String {
        let end = |sequence: Sequence| sequence.text(PARAMETER_END).build();
        let choices = tool.resolve(schema).get("enum").and_then(Value::as_array);
        match (tool.kind_of(name), choices) {
            (Kind::Text, Some(choices)) => {
                let choices = choices.iter().filter_map(Value::as_str);
                let choices: Vec<String> = choices.map(|choice| end(self.sequence().text(choice))).collect();
                format!("({})", choices.join(" | "))
            }
            (Kind::Text | Kind::TextOrNull, _) => self.text_value(),
            (Kind::Other, _) => {
                let mut schema = schema.clone();
                for key in ["$defs", "definitions"] {
                    if let (Some(object), Some(shared)) = (schema.as_object_mut(), tool.parameters.get(key)) {
                        object.insert(key.to_owned(), shared.clone());
                    }
                }
                end(self.sequence().rule(&json_rule(schema)))
            }
        }
    }

    /// Any text, and the end of its parameter.
    fn text_value(&mut self) -> String {
        if !std::mem::replace(&mut self.has_text, true) {
            let end = self.sequence().text(PARAMETER_END).build();
            self.rules.push(format!("text_value[suffix={end}]: /(?s:.*)/"));
        }
        "text_value".to_owned()
    }
}

const PARAMETER_END: &str = "\n</parameter>\n";

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
    json_rule(schema)
}

/// JSON that matches a schema.
fn json_rule(mut schema: Value) -> String {
    if let Some(object) = schema.as_object_mut() {
        object.insert("x-guidance".into(), json!({"lenient": true, "whitespace_pattern": JSON_WHITE_SPACE}));
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
        vec![Tool { name: "f".into(), parameters }, Tool { name: "g".into(), parameters: Value::Null }]
    }

    const F: &str = r#"%json {"properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["a"],"type":"object","x-guidance":{"lenient":true,"whitespace_pattern":"( |\\n[ \\t]{0,20})?"}}"#;
    const G: &str =
        r#"%json {"type":"object","x-guidance":{"lenient":true,"whitespace_pattern":"( |\\n[ \\t]{0,20})?"}}"#;

    #[track_caller]
    fn check(format: ToolFormat, single: bool, controls: &[&str], expected: &str) {
        let controls: Vec<String> = controls.iter().map(ToString::to_string).collect();
        let expected = expected.replace("$F", F).replace("$G", G);
        assert_eq!(grammar(format, &tools(), single, &controls), expected);
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
        assert_eq!(grammar(ToolFormat::Hermes, &[], true, &[]), "start: \"\"\n");
    }
}
