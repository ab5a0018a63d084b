//! What a model may call, as a request says it.

use super::constraint::check_schema;
use crate::error::ApiError;
use cortex_api::openai::{ChatCompletionRequest, Function};
use cortex_engine::{ToolChoice, ToolUse};
use serde_json::Value;

/// More tools than this are a mistake.
const MOST_TOOLS: usize = 256;

/// What the model may call.
pub(super) fn tools(request: &ChatCompletionRequest) -> Result<Option<ToolUse>, ApiError> {
    let given = request.tools.as_deref().unwrap_or_default();
    let wrong = |message: String| Err(ApiError::field("tool_choice", message));
    let choice = match &request.tool_choice {
        None | Some(Value::Null) => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(None),
            "auto" => ToolChoice::Auto,
            "required" | "any" => ToolChoice::Required,
            other => return wrong(format!("tool_choice is `{other}`; it must be none, auto, required or a function")),
        },
        Some(choice) => match choice.pointer("/function/name").and_then(Value::as_str) {
            Some(name) => ToolChoice::Named(name.to_owned()),
            None => return wrong("tool_choice must be none, auto, required, or name a function".into()),
        },
    };
    if given.is_empty() {
        return match choice {
            ToolChoice::Auto => Ok(None),
            _ => wrong("tool_choice asks for a call, and there are no tools".into()),
        };
    }
    if given.len() > MOST_TOOLS {
        let message = format!("tools has {} entries; at most {MOST_TOOLS} are possible", given.len());
        return Err(ApiError::field("tools", message));
    }
    let mut functions: Vec<Function> = Vec::new();
    for (index, tool) in given.iter().enumerate() {
        let field = format!("tools[{index}]");
        let Some(function) = tool.function.clone().filter(|_| tool.kind == "function") else {
            let message =
                format!("{field} is of type `{}`; only functions are supported, with their `function`", tool.kind);
            return Err(ApiError::field(&field, message));
        };
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        if function.name.is_empty() || function.name.len() > 128 || !function.name.chars().all(is_name) {
            let message = format!(
                "{field}.function.name is `{}`; it must be of 1 to 128 letters, digits, `_`, `-` and `.`",
                function.name
            );
            return Err(ApiError::field(&format!("{field}.function.name"), message));
        }
        if let Some(other) = functions.iter().position(|other| other.name == function.name) {
            let message = format!(
                "{field}.function.name is `{}`, as that of tools[{other}]: calls could not be told apart",
                function.name
            );
            return Err(ApiError::field(&format!("{field}.function.name"), message));
        }
        if let Some(parameters) = &function.parameters {
            let field = format!("{field}.function.parameters");
            check_schema(&field, parameters)?;
            if let Some(kind) = parameters.get("type").filter(|kind| *kind != "object") {
                let message = format!("{field}.type is {kind}; the arguments of a function are an object");
                return Err(ApiError::field(&field, message));
            }
        }
        functions.push(function);
    }
    if let ToolChoice::Named(name) = &choice
        && !functions.iter().any(|function| function.name == *name)
    {
        return wrong(format!("tool_choice names `{name}`, which is not among the tools"));
    }
    Ok(Some(ToolUse { functions, choice, parallel: request.parallel_tool_calls.unwrap_or(true) }))
}
