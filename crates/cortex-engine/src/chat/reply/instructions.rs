//! What a model is told that has no way of its own to call tools.

use serde_json::Value;

/// A system text that says which functions there are, one a line, and how to call them. It teaches
/// [`super::ToolFormat::Hermes`].
pub(crate) fn hermes_instructions(tools: &[Value]) -> String {
    let mut text =
        String::from("You can call functions to help the user. These are the functions, one a line:\n<tools>\n");
    for tool in tools {
        text.push_str(&tool.to_string());
        text.push('\n');
    }
    text.push_str(
        "</tools>\n\
         To call a function, write a block with its name and its arguments as JSON, one block for each call:\n\
         <tool_call>\n\
         {\"name\": \"the name of the function\", \"arguments\": {\"parameter\": \"value\"}}\n\
         </tool_call>\n\
         When no function is needed, answer without such a block.",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_function_stands_on_its_line() {
        let text = hermes_instructions(&[json!({"name": "f"}), json!({"name": "g"})]);
        assert!(text.contains("<tools>\n{\"name\":\"f\"}\n{\"name\":\"g\"}\n</tools>\n"), "{text}");
        assert!(text.contains("<tool_call>\n{\"name\": "), "{text}");
    }
}
