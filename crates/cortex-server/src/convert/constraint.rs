//! What an answer must be, as a request says it.

use super::gbnf;
use crate::error::ApiError;
use cortex_api::{
    openai::{ResponseFormat, SharedFields},
    worker::Constraint,
};
use serde_json::Value;

/// Bytes of a schema, a regular expression or a grammar: they are compiled before the first token.
const LARGEST_CONSTRAINT: usize = 256 * 1024;

/// What the answer must be, in OpenAI's words.
pub(super) fn response_format(format: Option<ResponseFormat>) -> Result<Option<Constraint>, ApiError> {
    let Some(format) = format else { return Ok(None) };
    let schema = match format.kind.as_str() {
        "text" => return Ok(None),
        // llama-server takes a schema here too.
        "json_object" => format.schema.unwrap_or_else(|| serde_json::json!({"type": "object"})),
        "json_schema" => {
            let given = format.json_schema.as_ref().and_then(|given| given.get("schema")).cloned();
            given.or(format.schema).ok_or_else(|| {
                ApiError::field("response_format.json_schema.schema", "response_format.json_schema.schema is missing")
            })?
        }
        other => {
            let message = format!("response_format.type is `{other}`; it must be text, json_object or json_schema");
            return Err(ApiError::field("response_format.type", message));
        }
    };
    check_schema("response_format", &schema)?;
    Ok(Some(Constraint::JsonSchema { schema }))
}

pub(super) fn check_schema(field: &str, schema: &Value) -> Result<(), ApiError> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err(ApiError::field(field, format!("{field} is not a JSON schema: it must be an object")));
    }
    check_size(field, schema.to_string().len())
}

pub(super) fn check_size(field: &str, bytes: usize) -> Result<(), ApiError> {
    if bytes > LARGEST_CONSTRAINT {
        let message = format!("{field} has {bytes} bytes; at most {LARGEST_CONSTRAINT} are possible");
        return Err(ApiError::field(field, message));
    }
    Ok(())
}

/// What the answer must be, in llama-server's words and ours.
pub(super) fn constraint(fields: &SharedFields) -> Result<Option<Constraint>, ApiError> {
    let mut found = Vec::new();
    if let Some(schema) = &fields.json_schema {
        check_schema("json_schema", schema)?;
        found.push(Constraint::JsonSchema { schema: schema.clone() });
    }
    if let Some(pattern) = fields.regex.clone() {
        check_size("regex", pattern.len())?;
        found.push(Constraint::Regex { pattern });
    }
    if let Some(grammar) = fields.lark.clone() {
        check_size("lark", grammar.len())?;
        found.push(Constraint::Lark { grammar });
    }
    // Some clients always send one.
    if let Some(grammar) = fields.grammar.as_ref().filter(|grammar| !grammar.is_empty()) {
        check_size("grammar", grammar.len())?;
        let made = gbnf::constraint(grammar);
        found.push(
            made.map_err(|why| ApiError::field("grammar", format!("grammar is no GBNF that can be followed: {why}")))?,
        );
    }
    if found.len() > 1 {
        return Err(ApiError::field("json_schema", "only one of json_schema, regex, lark and grammar is possible"));
    }
    Ok(found.pop())
}

/// Its field, when there is one.
pub(super) fn constraint_field(fields: &SharedFields) -> Option<&'static str> {
    let given = [
        ("json_schema", fields.json_schema.is_some()),
        ("regex", fields.regex.is_some()),
        ("lark", fields.lark.is_some()),
        ("grammar", fields.grammar.as_ref().is_some_and(|grammar| !grammar.is_empty())),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(field, _)| field)
}
