//! Templates that say a request or an answer in other words, as cortex.cpp stored them, rendered in a sandbox.
//!
//! They were written for inja, whose language is nearly Jinja's. What differs is translated: `else if`, `a.0.b`, `loop.is_first`,
//! `for key, value in object`, and `set`, whose variables live on outside of a loop.

use minijinja::{
    Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value as JinjaValue, filters, functions,
    value::Serde,
};
use serde_json::Value;
use std::{
    collections::HashSet,
    io::{self, Write},
};

/// Instructions that one rendering may take.
const FUEL: u64 = 5_000_000;
/// Bytes that a rendering may give.
const OUTPUT_CAP: usize = 64 << 20;
/// Nesting of loops and macros.
const RECURSION: usize = 64;
/// What holds the variables of `set`.
const VARIABLES: &str = "variables_of_set";
/// What makes that.
const NAMESPACE: &str = "namespace_of_set";
/// Statements that templates may have. With others, values could grow from one to the next without an instruction that is counted.
const STATEMENTS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor", "set"];

/// A template that compiles.
pub(crate) struct Template(Environment<'static>);

impl Template {
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        // Nothing is there but what is added here: no ranges, no macros, no files.
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_formatter(write_value);
        let json = |value: JinjaValue| json_of(&value);
        environment.add_function("tojson", json);
        environment.add_filter("tojson", json);
        environment.add_function("length", |value: JinjaValue| value.len().map_or(0, |length| length));
        environment.add_function("upper", |text: String| text.to_uppercase());
        environment.add_function("lower", |text: String| text.to_lowercase());
        environment.add_function(
            "default",
            |value: JinjaValue, other: JinjaValue| {
                if value.is_undefined() || value.is_none() { other } else { value }
            },
        );
        environment.add_function("exists", |state: &State<'_, '_>, name: String| state.lookup(&name).is_some());
        environment.add_function("existsIn", |value: JinjaValue, key: JinjaValue| {
            value.get_item(&key).is_ok_and(|found| !found.is_undefined())
        });
        environment.add_function("at", |value: JinjaValue, key: JinjaValue| value.get_item(&key));
        environment.add_function("first", |value: JinjaValue| value.get_item_by_index(0));
        environment.add_function("last", |value: JinjaValue| {
            value.get_item_by_index(value.len().unwrap_or(1).saturating_sub(1))
        });
        environment.add_function("isString", |value: JinjaValue| value.as_str().is_some());
        environment.add_function("isArray", |value: JinjaValue| value.kind() == minijinja::value::ValueKind::Seq);
        environment.add_function("isObject", |value: JinjaValue| value.kind() == minijinja::value::ValueKind::Map);
        environment.add_function("isNumber", |value: JinjaValue| value.kind() == minijinja::value::ValueKind::Number);
        environment.add_function("isBoolean", |value: JinjaValue| value.kind() == minijinja::value::ValueKind::Bool);
        environment.add_function(NAMESPACE, functions::namespace);
        environment.add_filter("items", filters::items);
        environment.add_filter("length", filters::length);
        environment.add_filter("default", filters::default);
        environment.add_filter("upper", filters::upper);
        environment.add_filter("lower", filters::lower);
        environment.add_filter("trim", filters::trim);
        environment.add_test("defined", minijinja::tests::is_defined);
        environment.add_test("undefined", minijinja::tests::is_undefined);
        environment.add_test("none", minijinja::tests::is_none);
        environment.add_test("string", minijinja::tests::is_string);
        environment.add_template_owned("it", translated(source)?).map_err(|error| words(&error))?;
        Ok(Self(environment))
    }

    /// The JSON that it gives for a request or an answer.
    pub(crate) fn render(&self, value: &Value) -> Result<Value, String> {
        let template = self.0.get_template("it").map_err(|error| words(&error))?;
        let mut output = Capped(Vec::new());
        let mut values = value.as_object().cloned().unwrap_or_default();
        values.insert("input_request".to_owned(), value.clone());
        template.render_captured_to(JinjaValue::from(Serde(&values)), &mut output).map_err(|error| words(&error))?;
        serde_json::from_slice(&output.0).map_err(|why| format!("what it gives is no JSON: {why}"))
    }
}

/// An error without what was rendered.
fn words(error: &Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{detail}{line}", error.kind())
}

/// JSON of bounded length: what is in a value several times is written several times.
fn json_of(value: &JinjaValue) -> Result<String, Error> {
    let mut output = Capped(Vec::new());
    serde_json::to_writer(&mut output, value)
        .map_err(|why| Error::new(ErrorKind::BadSerialization, why.to_string()))?;
    String::from_utf8(output.0).map_err(|why| Error::new(ErrorKind::BadSerialization, why.to_string()))
}

/// Texts as they are, everything else as JSON.
fn write_value(output: &mut Output<'_>, _: &mut State<'_, '_>, value: &JinjaValue) -> Result<(), Error> {
    let written = match value.as_str() {
        _ if value.is_undefined() => Ok(()),
        Some(text) => output.write_str(text),
        None => output.write_str(&json_of(value)?),
    };
    written.map_err(|_| Error::new(ErrorKind::WriteFailure, "it gives too much"))
}

struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_CAP {
            return Err(io::Error::other("it gives too much"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The template in Jinja's words.
fn translated(source: &str) -> Result<String, String> {
    let pieces = pieces(source);
    for piece in &pieces {
        if let Piece::Code(mark, code) = piece {
            check(mark, code)?;
        }
    }
    let names: HashSet<String> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Code("%", code) => set_name(code),
            _ => None,
        })
        .collect();
    let mut text = String::with_capacity(source.len() + 64);
    if !names.is_empty() {
        text.push_str("{% set ");
        text.push_str(VARIABLES);
        text.push_str(" = ");
        text.push_str(NAMESPACE);
        text.push_str("() %}");
    }
    for piece in pieces {
        match piece {
            Piece::Text(plain) => text.push_str(plain),
            Piece::Code(mark, code) => {
                let (open, close) = if mark == "%" { ("{%", "%}") } else { ("{{", "}}") };
                text.push_str(open);
                text.push_str(&statement(mark, code, &names));
                text.push_str(close);
            }
        }
    }
    Ok(text)
}

/// Whether a statement, or an expression, can only take as much as it is long: nothing that is kept is put together of itself.
fn check(mark: &str, code: &str) -> Result<(), String> {
    let inner = code.trim_start_matches('-').trim_start();
    if mark == "%" {
        let end = inner.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(inner.len());
        let word = &inner[..end];
        if !STATEMENTS.contains(&word) {
            return Err(format!("`{{% {word}` is not taken; {} are", STATEMENTS.join(", ")));
        }
        if word == "set" && set_name(code).is_none() {
            return Err("`{% set` must be of the form {% set name = value %}".into());
        }
    }
    let keeps = mark == "%" && (inner.starts_with("set") || inner.starts_with("for"));
    let forbidden = if mark == "%" { "+*~%" } else { "*~%" };
    let (mut rest, mut last) = (inner, ' ');
    while let Some(letter) = rest.chars().next() {
        if letter == '"' || letter == '\'' {
            rest = &rest[end_of_text(rest)..];
            last = letter;
            continue;
        }
        // A list or an object that is written out, and not the place in one.
        let is_literal = letter == '{' || letter == '[' && !(last.is_ascii_alphanumeric() || "_])\"'".contains(last));
        if forbidden.contains(letter) || keeps && is_literal {
            return Err(format!("`{letter}` is not taken here"));
        }
        last = letter;
        rest = &rest[letter.len_utf8()..];
    }
    Ok(())
}

/// Where a text in quotes ends, at whose beginning the code is.
fn end_of_text(code: &str) -> usize {
    let Some(quote) = code.chars().next() else { return 0 };
    let mut escaped = false;
    let close = code.char_indices().skip(1).find(|&(_, it)| {
        let ends = !escaped && it == quote;
        escaped = !escaped && it == '\\';
        ends
    });
    close.map_or(code.len(), |(at, _)| at + 1)
}

enum Piece<'source> {
    Text(&'source str),
    /// `%` or `{`, and what stands between the marks.
    Code(&'static str, &'source str),
}

fn pieces(source: &str) -> Vec<Piece<'_>> {
    let (mut found, mut rest) = (Vec::new(), source);
    while let Some((at, mark)) = ["{{", "{%"].iter().filter_map(|&mark| Some((rest.find(mark)?, mark))).min() {
        let (before, code) = rest.split_at(at);
        let (name, close) = if mark == "{%" { ("%", "%}") } else { ("{", "}}") };
        let Some(end) = end_of_code(&code[2..], close) else { break };
        found.push(Piece::Text(before));
        found.push(Piece::Code(name, &code[2..2 + end]));
        rest = &code[2 + end + close.len()..];
    }
    found.push(Piece::Text(rest));
    found
}

/// Where code ends: not inside of a text.
fn end_of_code(code: &str, close: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, letter) in code.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if letter == '\\' => escaped = true,
            Some(mark) if letter == mark => quote = None,
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            None if code[at..].starts_with(close) => return Some(at),
            Some(_) | None => {}
        }
    }
    None
}

/// The variable that a statement sets.
fn set_name(code: &str) -> Option<String> {
    let rest = code.trim_start_matches('-').trim_start().strip_prefix("set ")?;
    let (name, _) = rest.split_once('=')?;
    let name = name.trim();
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_plain.then(|| name.to_owned())
}

/// One statement, or one expression, in Jinja's words.
fn statement(mark: &str, code: &str, names: &HashSet<String>) -> String {
    let code = expression(code, names);
    if mark != "%" {
        return code;
    }
    let (dash, rest) = code.strip_prefix('-').map_or(("", code.as_str()), |rest| ("-", rest));
    let trimmed = rest.trim_start();
    if let Some(condition) = trimmed.strip_prefix("else if ") {
        return format!("{dash} elif {condition}");
    }
    // Inja gives the pairs of an object, Jinja its keys.
    if let Some((targets, what)) = trimmed.strip_prefix("for ").and_then(|rest| rest.split_once(" in "))
        && targets.contains(',')
    {
        let what = what.trim_end();
        let (what, dash_after) = what.strip_suffix('-').map_or((what, ""), |what| (what, "-"));
        return format!("{dash} for {targets} in ({what})|items {dash_after}");
    }
    code
}

/// Names, numbers and texts of an expression, one by one.
fn expression(code: &str, names: &HashSet<String>) -> String {
    let mut out = String::with_capacity(code.len() + 16);
    let mut rest = code;
    // What stands before, for `a.0` and `.name`.
    let mut after_name = false;
    while let Some(letter) = rest.chars().next() {
        let length = match letter {
            '"' | '\'' => end_of_text(rest),
            _ if letter.is_ascii_alphabetic() || letter == '_' => {
                rest.find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap_or(rest.len())
            }
            _ if letter.is_ascii_digit() => rest.find(|it: char| !it.is_ascii_digit()).unwrap_or(rest.len()),
            _ => letter.len_utf8(),
        };
        let (token, next) = rest.split_at(length);
        let is_name = letter.is_ascii_alphabetic() || letter == '_';
        let is_member = out.ends_with('.');
        if letter == '.' && after_name && next.starts_with(|it: char| it.is_ascii_digit()) {
            let digits = next.find(|it: char| !it.is_ascii_digit()).unwrap_or(next.len());
            out.push('[');
            out.push_str(&next[..digits]);
            out.push(']');
            rest = &next[digits..];
            continue;
        }
        if is_name && is_member && out.ends_with("loop.") {
            out.push_str(match token {
                "is_first" => "first",
                "is_last" => "last",
                "index1" => "index",
                "index" => "index0",
                other => other,
            });
        } else if is_name && !is_member && names.contains(token) && !next.starts_with('(') {
            out.push_str(VARIABLES);
            out.push('.');
            out.push_str(token);
        } else {
            out.push_str(token);
        }
        after_name = is_name || letter == ']' || letter == ')' || (after_name && letter == '.');
        rest = next;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, value: &Value) -> Result<Value, String> {
        Template::new(source)?.render(value)
    }

    #[test]
    fn what_inja_understands_is_understood() {
        let value = json!({"messages": [{"role": "system", "content": "a \"b\""}, {"role": "user", "content": "c"}], "n": 2, "f": 1.5, "none": null});
        for (source, expected) in [
            ("{{ tojson(input_request.messages.0.content) }}", json!("a \"b\"")),
            ("{{ tojson(messages.1) }}", json!({"role": "user", "content": "c"})),
            (
                "{ {% set first = true %} {% for key, value in input_request %} {% if key == \"n\" or key == \"f\" %}{% if not first %},{% endif %} \"{{ key }}\": {{ tojson(value) }} {% set first = false %}{% endif %}{% endfor %} }",
                json!({"n": 2, "f": 1.5}),
            ),
            (
                "[{% for message in input_request.messages %}{% if not loop.is_first %}\"{{ message.role }}{{ loop.index }}{{ loop.index1 }}\"{% if not loop.is_last %},{% endif %}{% endif %}{% endfor %}]",
                json!(["user12"]),
            ),
            ("{% if n == 1 %}1{% else if n == 2 %}\"two\"{% else %}3{% endif %}", json!("two")),
            ("{{ none }}", json!(null)),
            ("{{ f + 0.5 }}", json!(2.0)),
            (
                "[{{ length(messages) }}, {{ default(nothing, 7) }}, {{ exists(\"n\") }}, {{ existsIn(input_request, \"z\") }}]",
                json!([2, 7, true, false]),
            ),
            ("\"{{ \"}} {% n.0 \" }}\"", json!("}} {% n.0 ")),
            (
                "{%- for key, value in input_request -%}{%- if key == \"n\" -%}{{ value }}{%- endif -%}{%- endfor -%}",
                json!(2),
            ),
        ] {
            assert_eq!(render(source, &value), Ok(expected), "{source}");
        }
    }

    #[test]
    fn a_template_that_takes_too_much_or_gives_no_json_is_told() {
        for (source, said) in [
            ("{% for a in range(100000) %}x{% endfor %}", ""),
            ("{% set a = many %}{% for i in many %}{% set a = a + a %}{% endfor %}{{ length(a) }}", "`+`"),
            ("{% for a in many %}{% for b in [a] %}{{ b }}{% endfor %}{% endfor %}", "`[`"),
            ("{% set a = {\"b\": a} %}", "`{`"),
            ("{% set a = \"\\\"\" %}{% for i in many %}{% set a = tojson(a) %}{% endfor %}{{ a }}", "too much"),
            ("{% set a %}{{ a }}{{ a }}{% endset %}{{ a }}", "must be of the form"),
            ("{{ \"a\" * 10000000000 }}", "`*`"),
            ("{{ \"%99999999d\" % 1 }}", "`%`"),
            ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "`{% macro`"),
            (
                "{% for a in many %}{% for b in many %}{% for c in many %}{% for d in many %}x{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
                "",
            ),
            ("{ \"a\": 1, }", "no JSON"),
            ("{% include \"/etc/passwd\" %}", ""),
        ] {
            let error = render(source, &json!({"many": vec![1; 100]})).expect_err(source);
            assert!(error.contains(said), "{error}");
        }
        assert!(Template::new("{% if %}").is_err());
    }
}
