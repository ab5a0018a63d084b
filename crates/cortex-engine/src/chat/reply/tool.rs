//! The tools that a model may call, as far as replies need to know them.

use serde_json::Value;

/// How many references are followed from one schema to another.
const REFERENCES: usize = 8;

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    /// Its name.
    pub(crate) name: String,
    /// JSON schema of its arguments.
    pub(crate) parameters: Value,
    /// What of the schema cannot be followed is an error, and not left out.
    pub(crate) is_strict: bool,
}

/// What the schema of a parameter says about its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A string and nothing else.
    Text,
    /// A string, or null.
    TextOrNull,
    /// Something else, or nothing is said.
    Other,
}

impl Tool {
    /// What the schema says about the value of a parameter.
    pub(super) fn kind_of(&self, parameter: &str) -> Kind {
        self.parameters.get("properties").and_then(|all| all.get(parameter)).map_or(Kind::Other, |schema| {
            let (mut text, mut null) = (false, false);
            self.look(schema, &mut text, &mut null);
            match (text, null) {
                (true, false) => Kind::Text,
                (true, true) => Kind::TextOrNull,
                (false, _) => Kind::Other,
            }
        })
    }

    /// The parameters: name, schema, and whether they have to be there.
    pub(super) fn properties(&self) -> Vec<(String, &Value, bool)> {
        properties(&self.parameters)
    }

    /// The schema that a reference inside of this one stands for.
    pub(super) fn resolve<'schema>(&'schema self, mut schema: &'schema Value) -> &'schema Value {
        for _ in 0..REFERENCES {
            let target = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
            match target.and_then(|pointer| self.parameters.pointer(pointer)) {
                Some(found) => schema = found,
                None => break,
            }
        }
        schema
    }

    /// Notes whether the schema allows a string, and null. Alternatives count one level deep.
    fn look(&self, schema: &Value, text: &mut bool, null: &mut bool) {
        let schema = self.resolve(schema);
        let alternatives = ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
        for schema in std::iter::once(schema).chain(alternatives.map(|schema| self.resolve(schema))) {
            let types = match schema.get("type") {
                Some(Value::Array(types)) => types.as_slice(),
                Some(single) => std::slice::from_ref(single),
                None => &[],
            };
            *text |= types.iter().any(|kind| kind == "string");
            *null |= types.iter().any(|kind| kind == "null") || schema.get("nullable") == Some(&Value::Bool(true));
            if types.is_empty()
                && let Some(values) = schema.get("enum").and_then(Value::as_array)
            {
                *text |= values.iter().any(Value::is_string);
                *null |= values.iter().any(Value::is_null);
            }
        }
    }
}

/// The properties of an object's schema: name, schema, and whether they have to be there.
pub(super) fn properties(schema: &Value) -> Vec<(String, &Value, bool)> {
    let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let all = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    all.map(|(name, schema)| (name.clone(), schema, required.iter().any(|other| other == name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(schema: &Value, expected: Kind) {
        let parameters = json!({"properties": {"a": schema}, "$defs": {"Text": {"type": "string"}}});
        assert_eq!(Tool { name: "f".into(), parameters, is_strict: false }.kind_of("a"), expected, "{schema}");
    }

    #[test]
    fn a_schema_says_whether_a_value_is_a_string() {
        check(&json!({"type": "string"}), Kind::Text);
        check(&json!({"enum": ["a", "b"]}), Kind::Text);
        check(&json!({"$ref": "#/$defs/Text"}), Kind::Text);
        check(&json!({"type": ["string", "null"]}), Kind::TextOrNull);
        check(&json!({"anyOf": [{"$ref": "#/$defs/Text"}, {"type": "null"}]}), Kind::TextOrNull);
        check(&json!({"type": "integer"}), Kind::Other);
        check(&json!({"enum": [1, 2]}), Kind::Other);
        check(&json!({}), Kind::Other);
        check(&json!(true), Kind::Other);
    }
}
