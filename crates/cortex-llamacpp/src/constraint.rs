//! Answers that must be something: which tokens may come next, by llguidance.
//!
//! The matcher lives here and not in a sampler of the binding, which goes on without it when it fails: an answer that was
//! asked to be JSON either is JSON, or ends with an error.

use crate::llama::{LlamaError, Token};
use cortex_api::worker::{Constraint, JSON_WHITE_SPACE};
use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{SimpleVob, TokEnv},
};
use serde_json::{Map, Value, json};
use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

/// Constraints that may wait to be compiled.
const QUEUE: usize = 256;

/// Compiles constraints for one vocabulary.
struct Grammars(ParserFactory);

impl Grammars {
    /// Takes some ten milliseconds for a large vocabulary.
    fn new(vocabulary: &TokEnv) -> Result<Self, LlamaError> {
        let mut factory = ParserFactory::new_simple(vocabulary).map_err(|why| LlamaError(why.to_string()))?;
        factory.quiet();
        // An error is told to a client: it shall name what is wrong, and not repeat the whole grammar.
        factory.limits_mut().verbose_errors = false;
        Ok(Self(factory))
    }

    /// A constraint at its beginning. The error says what is wrong with it.
    fn compile(&self, constraint: &Constraint) -> Result<Guide, LlamaError> {
        let grammar = match constraint {
            Constraint::JsonSchema { schema } => TopLevelGrammar::from_json_schema(with_bounded_white_space(schema)),
            Constraint::Regex { pattern } => TopLevelGrammar::from_regex(pattern),
            Constraint::Lark { grammar } => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let mut matcher = Matcher::new(self.0.create_parser(grammar));
        if let Some(why) = matcher.get_error() {
            return Err(LlamaError(reason(&why)));
        }
        // What is impossible from the start shows with the first step.
        matcher.compute_mask().map_err(|why| LlamaError(reason(&why.to_string())))?;
        Ok(Guide { matcher, pace: Pace::default() })
    }
}

/// Compiles constraints on a thread of its own, one after the other: a large one takes seconds, and others are answered meanwhile.
pub(crate) struct Compiler {
    constraints: SyncSender<(u64, Constraint)>,
    compiled: Receiver<(u64, Result<Guide, LlamaError>)>,
}

impl Compiler {
    /// For a vocabulary. The thread ends with this.
    pub(crate) fn new(vocabulary: TokEnv) -> Self {
        let (constraints, inbox) = sync_channel::<(u64, Constraint)>(QUEUE);
        let (outbox, compiled) = sync_channel(QUEUE);
        std::thread::spawn(move || {
            let grammars = Grammars::new(&vocabulary);
            for (id, constraint) in inbox {
                let guide = match &grammars {
                    Ok(grammars) => grammars.compile(&constraint),
                    Err(error) => Err(error.clone()),
                };
                if outbox.send((id, guide)).is_err() {
                    return;
                }
            }
        });
        Self { constraints, compiled }
    }

    /// Begins with one; false when too many wait already.
    pub(crate) fn begin(&self, id: u64, constraint: Constraint) -> bool {
        self.constraints.try_send((id, constraint)).is_ok()
    }

    /// The next one that is compiled.
    pub(crate) fn next(&self) -> Option<(u64, Result<Guide, LlamaError>)> {
        self.compiled.try_recv().ok()
    }
}

/// The schema with our white space, unless it says something of its own.
fn with_bounded_white_space(schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(schema) => schema.clone(),
        // A schema of `true` is everything.
        Value::Bool(true) => Map::new(),
        other => return other.clone(),
    };
    schema.entry("x-guidance").or_insert_with(|| json!({ "whitespace_pattern": JSON_WHITE_SPACE }));
    Value::Object(schema)
}

/// The reason without the rest of the grammar. That of an expression stands behind a picture of it; the library's own word for a
/// grammar of nothing says little.
fn reason(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.contains("NoExtensionBias") {
        return "it describes no text at all".into();
    }
    match text.lines().find_map(|line| line.trim().strip_prefix("error: ")) {
        Some(why) if line.ends_with(':') => format!("{line} {why}"),
        _ => line.to_owned(),
    }
}

/// Tokens over which the time of a constraint is looked at.
const LOOKED_AT: u32 = 16;
/// Time that it may take for each of them. All answers wait for it, and an ambiguous grammar takes longer with each token.
const PATIENCE: Duration = Duration::from_millis(20);

/// A constraint on the way through one answer.
pub(crate) struct Guide {
    matcher: Matcher,
    pace: Pace,
}

/// How long a constraint takes.
#[derive(Default)]
struct Pace {
    spent: Duration,
    tokens: u32,
    /// The tokens before took too long.
    was_slow: bool,
}

impl Pace {
    /// A token took so long; false when it has been too long for many of them. The first ones may be: what they need is made then.
    fn is_bearable(&mut self, spent: Duration) -> bool {
        self.spent += spent;
        self.tokens += 1;
        if self.tokens < LOOKED_AT {
            return true;
        }
        let is_slow = self.spent > PATIENCE * LOOKED_AT;
        let is_bearable = !(is_slow && self.was_slow);
        *self = Self { was_slow: is_slow, ..Self::default() };
        is_bearable
    }
}

impl Guide {
    /// The tokens that may come next; those that end an answer when it may end here.
    pub(crate) fn allowed(&mut self) -> Result<SimpleVob, LlamaError> {
        let began = Instant::now();
        let allowed = self.matcher.compute_mask_or_eos().map_err(|why| LlamaError(reason(&why.to_string())))?;
        if self.pace.is_bearable(began.elapsed()) {
            return Ok(allowed);
        }
        let most = PATIENCE.as_millis();
        Err(LlamaError(format!(
            "it takes more than {most} ms for each token; a grammar in which a text can be read in many ways gets slower with each"
        )))
    }

    /// Takes the token that was chosen.
    pub(crate) fn accept(&mut self, token: Token) -> Result<(), LlamaError> {
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(token.cast_unsigned()).map_err(|why| LlamaError(reason(&why.to_string())))
    }

    /// Whether nothing can follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llguidance::toktrie::ApproximateTokEnv;

    /// One token for each byte.
    fn grammars() -> Grammars {
        Grammars::new(&ApproximateTokEnv::single_byte_env()).expect("a vocabulary of bytes")
    }

    fn schema(schema: Value) -> Constraint {
        Constraint::JsonSchema { schema }
    }

    /// How many of the bytes are possible, and whether it may end there.
    fn accepted(constraint: &Constraint, text: &str) -> (usize, bool) {
        let mut guide = grammars().compile(constraint).expect("compiles");
        for (at, byte) in text.bytes().enumerate() {
            if guide.is_complete() || !guide.allowed().expect("a mask").is_allowed(u32::from(byte)) {
                return (at, false);
            }
            guide.accept(Token::from(byte)).expect("accepted");
        }
        let may_end = guide.is_complete() || guide.matcher.is_accepting().expect("accepting");
        (text.len(), may_end)
    }

    #[test]
    fn what_a_constraint_does_not_describe_is_not_possible() {
        let person = schema(json!({
            "type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": false
        }));
        let digits = Constraint::Regex { pattern: "[0-9]{2}".into() };
        let two = Constraint::Lark { grammar: "start: \"a\" | \"b\" start".into() };
        for (constraint, text, possible, may_end) in [
            (&person, r#"{"age": 7}"#, 10, true),
            (&person, r#"{"age":7}"#, 9, true),
            (&person, r#"{"name""#, 2, false),
            (&person, r#"{"age": "x""#, 8, false),
            (&digits, "12", 2, true),
            (&digits, "1", 1, false),
            (&digits, "1x", 1, false),
            (&two, "bba", 3, true),
            (&two, "bbc", 2, false),
        ] {
            assert_eq!(accepted(constraint, text), (possible, may_end), "{text}");
        }
        assert_eq!(accepted(&person, "{\n    \"age\": 7\n}"), (16, true));
        assert_eq!(accepted(&person, "{  ").0, 2, "white space has an end");
        assert_eq!(accepted(&person, &format!("{{\n{}", " ".repeat(40))).0, 22, "white space has an end");
        assert_eq!(accepted(&schema(Value::Bool(true)), "[1, {\"a\": null}]").0, 16);
    }

    /// How much of a text is possible, and whether it may end there; for a grammar as the daemon writes it.
    #[track_caller]
    fn check(grammar: &str, texts: &[(&str, usize, bool)]) {
        let constraint = Constraint::Lark { grammar: grammar.into() };
        for &(text, possible, may_end) in texts {
            assert_eq!(accepted(&constraint, text), (possible, may_end), "{text}");
        }
    }

    #[test]
    fn calls_stand_in_free_text_and_follow_their_schema() {
        // That of a tool in the form of Hermes, with text beside it.
        let one = |start: &str| {
            format!(
                "start: {start}\nbefore[suffix=\"<tool_call>\"]: /(?s:.*)/\n\
                 REST: /(?s:.+)/ & ~/(?s:.*)\\x{{3c}}tool\\x{{5f}}call\\x{{3e}}(?s:.*)/\ncall: call_0\n\
                 call_0: \"\\n{{\\\"name\\\": \\\"g\\\", \\\"arguments\\\": \" %json {{\"type\":\"object\",\
                 \"properties\":{{\"a\":{{\"type\":\"integer\"}}}},\"required\":[\"a\"]}} \"}}\\n</tool_call>\"\n"
            )
        };
        let call = "<tool_call>\n{\"name\": \"g\", \"arguments\": {\"a\":1}}\n</tool_call>";
        let (twice, around) = (format!("{call}\n{call}"), format!("Well <tool {call} done"));
        let wrong = "Hi <tool_call>\n{\"name\": \"g\", \"arguments\": {\"a\":\"x\"";
        let many = one("(before \"\" call (\"\"))* REST?");
        check(
            &many,
            &[
                ("", 0, true),
                ("Hello, <tool> and <tool_cal", 27, true),
                (call, call.len(), true),
                (&twice, twice.len(), true),
                (&around, around.len(), true),
                (wrong, wrong.len() - 3, false),
                ("<tool_call>\n{\"name\": \"h\"", 22, false),
            ],
        );
        let single = one("(before \"\" call (\"\"))? REST?");
        check(&single, &[(call, call.len(), true), (&twice, call.len() + 11, false)]);
    }

    #[test]
    fn a_grammar_of_another_engine_means_the_same() {
        // JSON's arrays and objects of numbers and names, as `gbnf` in the daemon writes them.
        let grammar = "start: root\nroot: rule_value\n\
            rule_value: (rule_array | /(?:(?:[0-9])+)(?:(?:[ - ])*)/)\n\
            rule_array: /\\x{5b}(?:(?:[ - ])*)/ (((rule_value) ((/\\x{2c}(?:(?:[ - ])*)/ (rule_value) )*) )?) /\\x{5d}(?:(?:[ - ])*)/ \n";
        check(
            grammar,
            &[
                ("17", 2, true),
                ("[1, [22,3 ], []]", 16, true),
                ("[1, [22,3 ], [", 14, false),
                ("[,", 1, false),
                ("[1 2", 3, false),
                ("x", 0, false),
            ],
        );
    }

    #[test]
    fn what_takes_too_long_again_and_again_is_not_borne() {
        let mut pace = Pace::default();
        let mut windows = |milliseconds: &[u64]| {
            let borne = |&time: &u64| (0..LOOKED_AT).all(|_| pace.is_bearable(Duration::from_millis(time)));
            milliseconds.iter().map(borne).collect::<Vec<_>>()
        };
        assert_eq!(windows(&[15, 25, 15, 25, 1, 900]), [true; 6]);
        assert_eq!(windows(&[1, 25, 25]), [true, true, false]);
    }

    #[test]
    fn a_constraint_that_makes_no_sense_says_so() {
        for constraint in [
            schema(json!({"type": "nothing"})),
            schema(json!({"type": "string", "pattern": "("})),
            schema(json!(7)),
            schema(json!(false)),
            Constraint::Regex { pattern: "(".into() },
            Constraint::Lark { grammar: "start: missing".into() },
            Constraint::Lark { grammar: String::new() },
        ] {
            let why = grammars().compile(&constraint).err().expect("an error").0;
            assert!(!why.is_empty() && !why.contains('\n'), "{why}");
        }
        for (pattern, why) in [("(", "unclosed group"), ("(?=a)b", "look-around"), ("(a)\\1", "backreferences")] {
            let schema = schema(json!({"type": "string", "pattern": pattern}));
            for constraint in [Constraint::Regex { pattern: pattern.into() }, schema] {
                let said = grammars().compile(&constraint).err().expect("an error").0;
                assert!(said.contains(why) && !said.contains('\n'), "{said}");
            }
        }
    }
}
