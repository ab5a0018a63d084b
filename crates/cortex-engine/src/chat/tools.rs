//! Tools in a chat: how templates get them, and how they are written out for a template that knows none. Pure.

use super::{
    ChatTurn, ToolUse,
    reply::{Tool, hermes_instructions},
};
use cortex_api::openai::Function;
use serde_json::{Map, Value, json};

/// What a template does with tools, found out by rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// It shows the tools to the model.
    pub(crate) shows_tools: bool,
    /// It wants the arguments of earlier calls as text and not as an object.
    pub(crate) wants_text: bool,
}

/// The tools as answers are read and constrained by them.
pub(crate) fn callable(tools: &ToolUse) -> Vec<Tool> {
    let one = |function: &Function| Tool {
        name: function.name.clone(),
        parameters: parameters(function),
        is_strict: function.strict == Some(true),
    };
    tools.functions.iter().map(one).collect()
}

/// The schema of a function's arguments. Without one it has none, as OpenAI says.
fn parameters(function: &Function) -> Value {
    let given = function.parameters.clone().filter(|given| given.as_object().is_none_or(|given| !given.is_empty()));
    given.unwrap_or_else(|| json!({"type": "object", "properties": {}, "additionalProperties": false}))
}

/// The tools as templates know them.
pub(crate) fn listed(tools: &ToolUse) -> Vec<Value> {
    let one = |function: &Function| {
        let given = parameters(function);
        let mut function = serde_json::to_value(function).unwrap_or_default();
        if let Some(function) = function.as_object_mut() {
            // Nothing that a model was trained on.
            function.remove("strict");
            function.insert("parameters".into(), given);
        }
        json!({"type": "function", "function": function})
    };
    tools.functions.iter().map(one).collect()
}

/// A message as templates see it.
pub(crate) fn message(turn: &ChatTurn, wants_text: bool) -> Value {
    let mut message = Map::new();
    message.insert("role".into(), turn.role.clone().into());
    message.insert("content".into(), turn.content.clone().into());
    for (key, value) in
        [("name", &turn.name), ("reasoning_content", &turn.reasoning_content), ("tool_call_id", &turn.tool_call_id)]
    {
        if let Some(value) = value {
            message.insert(key.into(), value.clone().into());
        }
    }
    if !turn.tool_calls.is_empty() {
        let calls = turn.tool_calls.iter().map(|call| {
            let given = &call.function.arguments;
            let arguments = if wants_text { given.clone().into() } else { arguments(given) };
            json!({"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}})
        });
        message.insert("tool_calls".into(), calls.collect());
    }
    Value::Object(message)
}

/// The arguments of a call as the object that they should be.
fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(arguments @ Value::Object(_)) => arguments,
        _ if text.trim().is_empty() => json!({}),
        _ => Value::String(text.to_owned()),
    }
}

/// The messages without anything of tools but text, for a template that knows none: what there is stands in the system
/// message, calls and results in the text of the messages.
pub(crate) fn written_out(turns: &[ChatTurn], tools: Option<&ToolUse>) -> Vec<ChatTurn> {
    let mut written: Vec<ChatTurn> = Vec::new();
    if let Some(tools) = tools {
        let instructions = hermes_instructions(&listed(tools));
        let mut system = match turns.first() {
            Some(first) if first.role == "system" => first.clone(),
            _ => ChatTurn { role: "system".into(), ..ChatTurn::default() },
        };
        if !system.content.is_empty() {
            system.content.push_str("\n\n");
        }
        system.content.push_str(&instructions);
        written.push(system);
    }
    let rest = usize::from(tools.is_some() && turns.first().is_some_and(|first| first.role == "system"));
    for turn in &turns[rest..] {
        match turn.role.as_str() {
            "tool" => {
                let response = format!("<tool_response>\n{}\n</tool_response>", turn.content);
                match written.last_mut() {
                    // Several results are one message of the user's side.
                    Some(last) if last.role == "user" && last.content.ends_with("</tool_response>") => {
                        last.content.push('\n');
                        last.content.push_str(&response);
                    }
                    _ => written.push(ChatTurn { role: "user".into(), content: response, ..ChatTurn::default() }),
                }
            }
            _ if turn.tool_calls.is_empty() => written.push(turn.clone()),
            _ => {
                let mut content = turn.content.clone();
                for call in &turn.tool_calls {
                    let call = json!({"name": call.function.name, "arguments": arguments(&call.function.arguments)});
                    if !content.is_empty() {
                        content.push('\n');
                    }
                    content.extend(["<tool_call>\n", &call.to_string(), "\n</tool_call>"]);
                }
                written.push(ChatTurn { content, tool_calls: vec![], ..turn.clone() });
            }
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::ToolChoice;
    use cortex_api::openai::{FunctionCall, ToolCall};

    fn turn(role: &str, content: &str) -> ChatTurn {
        ChatTurn { role: role.into(), content: content.into(), ..ChatTurn::default() }
    }

    fn calls(arguments: &str) -> ChatTurn {
        let function = FunctionCall { name: "f".into(), arguments: arguments.into() };
        let call = ToolCall { id: "1".into(), kind: "function".into(), function };
        ChatTurn { tool_calls: vec![call.clone(), call], ..turn("assistant", "") }
    }

    #[test]
    fn calls_and_results_are_text_where_a_template_knows_none() {
        let function = Function { name: "f".into(), strict: Some(true), ..Function::default() };
        let tools = ToolUse { functions: vec![function], choice: ToolChoice::Auto, parallel: true };
        let turns = [turn("system", "S"), turn("user", "U"), calls(r#"{"a":1}"#), turn("tool", "R"), turn("tool", "Q")];
        let written = written_out(&turns, Some(&tools));
        assert_eq!(
            written.iter().map(|it| it.role.as_str()).collect::<Vec<_>>(),
            ["system", "user", "assistant", "user"]
        );
        assert!(written[0].content.starts_with("S\n\n") && written[0].content.contains(r#""name":"f""#), "{written:?}");
        let call = "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>";
        assert_eq!(written[2].content, format!("{call}\n{call}"));
        assert_eq!(written[3].content, "<tool_response>\nR\n</tool_response>\n<tool_response>\nQ\n</tool_response>");
        assert_eq!(written_out(&turns[..2], None), turns[..2]);
        assert_eq!(written_out(&turns[1..2], Some(&tools))[0].role, "system");
    }

    #[test]
    fn arguments_are_an_object_or_text_as_the_template_wants_them() {
        let of = |given: &str, wants_text| {
            message(&calls(given), wants_text).pointer("/tool_calls/0/function/arguments").cloned().expect("arguments")
        };
        assert_eq!(of(r#"{"a":1}"#, false), json!({"a": 1}));
        assert_eq!(of(r#"{"a":1}"#, true), json!(r#"{"a":1}"#));
        assert_eq!(of("", false), json!({}));
        assert_eq!(of("not json", false), json!("not json"));
    }
}
