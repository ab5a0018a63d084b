//! Rules for arguments in the notation of Google's models.

use super::{super::tool::properties, Tool, sequence::Sequence};
use serde_json::Value;

/// How deep schemas are followed; below, any value is allowed.
const DEPTH: usize = 12;

/// Writes the rules for the arguments of one tool.
pub(super) struct GemmaRules<'tool> {
    tool: &'tool Tool,
    quote: &'static str,
    controls: &'tool [String],
    rules: &'tool mut Vec<String>,
    /// Tells the rules of this tool from those of others.
    index: usize,
    objects: usize,
}

impl<'tool> GemmaRules<'tool> {
    /// For one tool, with this text around strings.
    pub(super) fn new(
        tool: &'tool Tool,
        quote: &'static str,
        controls: &'tool [String],
        rules: &'tool mut Vec<String>,
        index: usize,
    ) -> Self {
        if index == 0 {
            rules.extend(shared_rules(quote, controls));
        }
        Self { tool, quote, controls, rules, index, objects: 0 }
    }

    /// The arguments, with their braces.
    pub(super) fn arguments(mut self) -> String {
        self.object(&self.tool.parameters, DEPTH)
    }

    fn value(&mut self, schema: &Value, depth: usize) -> String {
        let schema = self.tool.resolve(schema);
        if depth == 0 {
            return "any".to_owned();
        }
        if let Some(value) = schema.get("const") {
            return self.fixed(value);
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return either(values.iter().map(|value| self.fixed(value)).collect());
        }
        if let Some(all) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array()) {
            return either(all.iter().map(|schema| self.value(schema, depth - 1)).collect());
        }
        match schema.get("type") {
            Some(Value::String(kind)) => self.of_type(kind, schema, depth),
            Some(Value::Array(kinds)) => {
                either(kinds.iter().filter_map(Value::as_str).map(|kind| self.of_type(kind, schema, depth)).collect())
            }
            _ if schema.get("properties").is_some() => self.of_type("object", schema, depth),
            _ => "any".to_owned(),
        }
    }

    fn of_type(&mut self, kind: &str, schema: &Value, depth: usize) -> String {
        match kind {
            "string" => "quoted".to_owned(),
            "integer" => "INTEGER".to_owned(),
            "number" => "NUMBER".to_owned(),
            "boolean" => "(\"true\" | \"false\")".to_owned(),
            "null" => "\"null\"".to_owned(),
            "array" => match schema.get("items") {
                Some(items) => {
                    let item = self.value(items, depth - 1);
                    format!("\"[\" ({item} (\",\" {item})*)? \"]\"")
                }
                None => "any_array".to_owned(),
            },
            "object" => self.object(schema, depth),
            _ => "any".to_owned(),
        }
    }

    /// An object: its properties in the order of the schema, with commas between those that are there.
    fn object(&mut self, schema: &Value, depth: usize) -> String {
        if schema.get("properties").is_none() {
            return "any_object".to_owned();
        }
        let name = format!("object_{}_{}", self.index, self.objects);
        self.objects += 1;
        let properties = properties(schema);
        let mut pairs = Vec::new();
        for (key, schema, is_required) in &properties {
            let value = self.value(schema, depth - 1);
            pairs.push((Sequence::new(&[]).text(&format!("{key}:")).rule(&value).build(), *is_required));
        }
        for (at, (pair, is_required)) in pairs.iter().enumerate() {
            let next = at + 1;
            self.rules.push(if *is_required {
                format!("{name}_first_{at}: {pair} {name}_after_{next}")
            } else {
                format!("{name}_first_{at}: {pair} {name}_after_{next} | {name}_first_{next}")
            });
            let optional = if *is_required { "" } else { "?" };
            self.rules.push(format!("{name}_after_{at}: (\",\" {pair}){optional} {name}_after_{next}"));
        }
        let last = pairs.len();
        self.rules.push(format!("{name}_first_{last}: \"\""));
        self.rules.push(format!("{name}_after_{last}: \"\""));
        format!("\"{{\" {name}_first_0 \"}}\"")
    }

    /// Exactly this value.
    fn fixed(&self, value: &Value) -> String {
        let sequence = Sequence::new(self.controls);
        match value {
            Value::String(text) => sequence.marker(self.quote).text(text).marker(self.quote).build(),
            Value::Array(_) | Value::Object(_) => "any".to_owned(),
            other => sequence.text(&other.to_string()).build(),
        }
    }
}

/// Rules that all tools use.
fn shared_rules(quote: &str, controls: &[String]) -> Vec<String> {
    let mark = Sequence::new(controls).marker(quote).build();
    let quoted = if controls.iter().any(|control| control == quote) {
        vec![format!("quoted: {mark} /(?s:.)+/? {mark}")]
    } else {
        vec![format!("quoted: {mark} quoted_rest"), format!("quoted_rest[suffix={mark}]: /(?s:.*)/")]
    };
    let other = [
        "INTEGER: /-?(0|[1-9][0-9]*)/",
        "NUMBER: /-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?/",
        "KEY: /[A-Za-z_][A-Za-z0-9_\\-]*/",
        "any: quoted | NUMBER | \"true\" | \"false\" | \"null\" | any_array | any_object",
        "any_array: \"[\" (any (\",\" any)*)? \"]\"",
        "any_object: \"{\" (any_pair (\",\" any_pair)*)? \"}\"",
        "any_pair: KEY \":\" any",
    ];
    quoted.into_iter().chain(other.map(str::to_owned)).collect()
}

/// One of these.
fn either(mut all: Vec<String>) -> String {
    match all.len() {
        0 => "any".to_owned(),
        1 => all.remove(0),
        _ => format!("({})", all.join(" | ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(schema: &Value, expected: &str) {
        let tool = Tool {
            name: "f".into(),
            parameters: json!({"$defs": {"Loop": {"items": {"$ref": "#/$defs/Loop"}, "type": "array"}}}),
            is_strict: false,
        };
        let controls = ["<escape>".to_owned()];
        let mut rules = Vec::new();
        let value = GemmaRules::new(&tool, "<escape>", &controls, &mut rules, 1).value(schema, DEPTH);
        let text = rules.iter().fold(value, |text, rule| text + "\n" + rule);
        assert_eq!(text, expected, "{schema}");
    }

    #[test]
    fn a_schema_becomes_rules() {
        check(&json!({"type": "string"}), "quoted");
        check(&json!({"type": ["integer", "null"]}), "(INTEGER | \"null\")");
        check(&json!({"enum": ["a", 1]}), "(<escape> \"a\" <escape> | \"1\")");
        check(&json!({"type": "array", "items": {"type": "number"}}), "\"[\" (NUMBER (\",\" NUMBER)*)? \"]\"");
        check(&json!({"type": "object"}), "any_object");
        check(&json!({}), "any");
        check(
            &json!({"properties": {"a": {"type": "integer"}, "b": {"type": "null"}}, "required": ["b"]}),
            "\"{\" object_1_0_first_0 \"}\"\n\
             object_1_0_first_0: \"a:\" INTEGER object_1_0_after_1 | object_1_0_first_1\n\
             object_1_0_after_0: (\",\" \"a:\" INTEGER)? object_1_0_after_1\n\
             object_1_0_first_1: \"b:\" \"null\" object_1_0_after_2\n\
             object_1_0_after_1: (\",\" \"b:\" \"null\") object_1_0_after_2\n\
             object_1_0_first_2: \"\"\n\
             object_1_0_after_2: \"\"",
        );
    }

    #[test]
    fn a_schema_that_holds_itself_ends() {
        let schema = json!({"$ref": "#/$defs/Loop"});
        let parameters = json!({"$defs": {"Loop": {"type": "array", "items": schema}}});
        let tool = Tool { name: "f".into(), parameters, is_strict: false };
        let mut rules = Vec::new();
        assert!(GemmaRules::new(&tool, "<escape>", &[], &mut rules, 1).value(&schema, DEPTH).contains("any"));
    }
}
