//! What the grammars allow, by the library that constrains answers with them: a vocabulary of bytes and control tokens.

use super::{super::ToolFormat, Beside, Tool, grammar};
use cortex_api::worker::control_token_name;
use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie},
};
use serde_json::json;
use std::sync::Arc;

/// What ends a reply; one of the control tokens.
const END: &str = "<|eos|>";

/// Replies that a grammar is asked about.
struct Replies {
    controls: Vec<String>,
    factory: ParserFactory,
    end: u32,
    grammar: String,
}

impl Replies {
    /// Those that may call `f`, which has an integer, or `g`, in this format.
    fn new(format: ToolFormat, controls: &[&str], beside: &Beside, is_single: bool) -> Self {
        let parameters = json!({
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": false,
        });
        let tool = |name: &str, parameters| Tool { name: name.into(), parameters, is_strict: true };
        let empty = json!({"type": "object", "properties": {}, "additionalProperties": false});
        let tools = [tool("f", parameters), tool("g", empty)];
        let controls: Vec<String> = controls.iter().chain(&[END]).map(ToString::to_string).collect();
        let grammar = grammar(format, &tools, is_single, &controls, beside).expect("a grammar");
        let marked =
            |control: &String| [&[TokTrie::SPECIAL_TOKEN_MARKER], control_token_name(control).as_bytes()].concat();
        let words: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).chain(controls.iter().map(marked)).collect();
        let end = u32::try_from(words.len() - 1).expect("few tokens");
        let info = TokRxInfo::new(end + 1, end);
        let vocabulary = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let mut factory = ParserFactory::new_simple(&(vocabulary as _)).expect("a factory");
        factory.quiet();
        Self { controls, factory, end, grammar }
    }

    /// The tokens of a text, in which control tokens are themselves.
    fn tokens(&self, text: &str) -> Vec<u32> {
        let (mut tokens, mut rest) = (vec![], text.as_bytes());
        while let Some(&byte) = rest.first() {
            let control = self.controls.iter().position(|control| rest.starts_with(control.as_bytes()));
            let (token, length) = match control {
                Some(at) => (256 + at, self.controls[at].len()),
                None => (usize::from(byte), 1),
            };
            tokens.push(u32::try_from(token).expect("few tokens"));
            rest = &rest[length..];
        }
        tokens
    }

    /// How much of a reply is possible: all of it and its end, or so many tokens.
    fn possible(&self, text: &str) -> Result<(), usize> {
        self.possible_tokens(&self.tokens(&format!("{text}{END}")))
    }

    /// The same when control tokens are spelled.
    fn possible_spelled(&self, text: &str) -> Result<(), usize> {
        let tokens: Vec<u32> = text.bytes().map(u32::from).chain([self.end]).collect();
        self.possible_tokens(&tokens)
    }

    fn possible_tokens(&self, tokens: &[u32]) -> Result<(), usize> {
        let mut matcher = Matcher::new(self.factory.create_parser(TopLevelGrammar::from_lark(self.grammar.clone())));
        assert!(!matcher.is_error(), "{:?}\n{}", matcher.get_error(), self.grammar);
        for (at, &token) in tokens.iter().enumerate() {
            // Nothing can follow but the end.
            if matcher.is_stopped() {
                return if token == self.end { Ok(()) } else { Err(at) };
            }
            let mask = matcher.compute_mask().unwrap_or_else(|why| panic!("{why}\n{}", self.grammar));
            if !mask.is_allowed(token) {
                return Err(at);
            }
            matcher.consume_token(token).expect("it is allowed");
        }
        Ok(())
    }

    #[track_caller]
    fn check(&self, possible: &[&str], impossible: &[&str]) {
        for text in possible {
            assert_eq!(self.possible(text), Ok(()), "{text}\n{}", self.grammar);
        }
        for text in impossible {
            assert!(self.possible(text).is_err(), "{text}\n{}", self.grammar);
        }
    }
}

fn free(format: ToolFormat, controls: &[&str]) -> Replies {
    Replies::new(format, controls, &Beside::Text, false)
}

#[test]
fn a_free_reply_of_hermes_is_text_with_valid_calls() {
    let valid = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": 3}}\n</tool_call>";
    let wrong = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": \"3\"}}\n</tool_call>";
    for controls in [&[][..], &["<tool_call>", "</tool_call>"]] {
        free(ToolFormat::Hermes, controls).check(
            &["", "It is 3.", "{\"name\": \"f\"}", valid, &format!("I see.\n{valid}"), &format!("{valid}\n{valid}")],
            &[wrong, &format!("I see.\n{wrong}"), &format!("{valid}\n{wrong}")],
        );
        let replies = free(ToolFormat::Hermes, controls);
        assert!(replies.possible_spelled(&format!("I see.\n{wrong}")).is_err());
        assert_eq!(replies.possible_spelled("a <tool b"), Ok(()));
    }
}

#[test]
fn a_free_reply_of_llama_is_a_valid_call_or_text() {
    let valid = "{\"name\": \"f\", \"parameters\": {\"n\": 3}}";
    let wrong = "{\"name\": \"f\", \"parameters\": {\"n\": \"3\"}}";
    let behind = |tag: &str, call: &str| format!("{tag}<|python_tag|>{call}");
    for controls in [&["<|python_tag|>", "<|eom_id|>"][..], &["<|eom_id|>"]] {
        let replies = free(ToolFormat::Llama3, controls);
        replies.check(
            &[
                "",
                "It is {3}.",
                " \n",
                "  It is 3.",
                valid,
                &format!("{valid}; {valid}"),
                "{\"name\": \"g\", \"parameters\": {}}",
            ],
            &[
                wrong,
                &format!(" \n{wrong}"),
                &format!("{valid}; {wrong}"),
                "{\"n\": 3}",
                &behind("", wrong),
                &behind("I see.", wrong),
            ],
        );
    }
    free(ToolFormat::Llama3, &["<|python_tag|>", "<|eom_id|>"])
        .check(&[&behind("", valid), &behind("\n", valid), &behind("I see: {", valid)], &[]);
    Replies::new(ToolFormat::Llama3, &["<|python_tag|>"], &Beside::Text, true)
        .check(&["It is 3.", valid], &[&format!("{valid}; {valid}")]);
}

#[test]
fn a_free_reply_of_harmony_has_valid_calls_in_its_channels() {
    let controls = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>", "<|return|>"];
    let replies = free(ToolFormat::Harmony, &controls);
    let message = |channel: &str, text: &str| format!("<|channel|>{channel}<|message|>{text}");
    let next = "<|end|><|start|>assistant";
    let call = |arguments: &str| message("commentary to=functions.f <|constrain|>json", arguments) + "<|call|>";
    let (thought, said) = (message("analysis", "Let me see."), message("final", "It is 3."));
    replies.check(
        &[
            &said,
            &format!("{thought}{next}{said}"),
            &format!("{thought}{next}{}", call("{\"n\": 3}")),
            &format!("{thought}{next}{}{next}{}", message("commentary", "I look."), call("{\"n\": 3}")),
        ],
        &[
            "It is 3.",
            &call("{\"n\": \"3\"}"),
            &format!("{thought}{next}{}", call("{}")),
            &message("commentary to=functions.h <|constrain|>json", "{}"),
            &message("analysis to=functions.f", "{}"),
        ],
    );
    // A marker is its token, and not spelled.
    let spelled = format!("{}{next}{}", "It is 3.", call("{}"));
    let tokens: Vec<u32> =
        replies.tokens("<|channel|>final<|message|>").into_iter().chain(spelled.bytes().map(u32::from)).collect();
    assert!(replies.possible_tokens(&tokens).is_err());
    // Without the tokens nothing tells where a message begins.
    assert_eq!(
        grammar(
            ToolFormat::Harmony,
            &[Tool { name: "f".into(), parameters: json!({}), is_strict: true }],
            true,
            &[],
            &Beside::Text
        ),
        None
    );
}

#[test]
fn a_free_reply_of_functionary_has_valid_parts() {
    let replies = free(ToolFormat::Functionary, &["<|eot_id|>"]);
    let (valid, wrong) = ("f\n{\"n\": 3}", "f\n{\"n\": \"3\"}");
    replies.check(
        &[
            "all\nIt is 3.",
            "all\n",
            valid,
            &format!("all\nI see: a > b.>>>{valid}"),
            &format!("{valid}>>>g\n{{}}"),
            // What cannot be a name is text.
            "all\nPython: >>> 1 + 1\n",
            "all\nPython: >>>",
            &format!("all\n>>> a >>> b>>>{valid}"),
        ],
        &[
            "It is 3.",
            wrong,
            &format!("all\nI see.>>>{wrong}"),
            &format!("{valid}>>>{wrong}"),
            "h\n{}",
            "all\na>>>h\n{}",
            "all\n>>> a>>>h\n{}",
        ],
    );
    Replies::new(ToolFormat::Functionary, &[], &Beside::Text, true)
        .check(&["all\nIt is 3.", valid, &format!("all\nI see.>>>{valid}")], &[&format!("{valid}>>>g\n{{}}")]);
}

#[test]
fn a_free_reply_of_the_others_is_text_with_valid_calls() {
    for (format, controls, valid, wrong) in [
        (
            ToolFormat::DeepSeekV3_1,
            &[][..],
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"n\": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        ),
        (
            ToolFormat::DeepSeekV3_1,
            &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁sep｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁end｜>",
            ],
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"n\": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        ),
        (ToolFormat::QwenCoder, &[], "a < b", "<function=f>\n<parameter=n>\nthree\n</parameter>\n</function>"),
        (
            ToolFormat::Mistral,
            &["[TOOL_CALLS]", "[ARGS]"],
            "[TOOL_CALLS]f[ARGS]{\"n\": 3}",
            "[TOOL_CALLS]f[ARGS]{\"n\": true}",
        ),
        (
            ToolFormat::Glm,
            &[],
            "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
            "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>three</arg_value>\n</tool_call>",
        ),
        (
            ToolFormat::Granite,
            &["<|tool_call|>"],
            "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"n\": 3}}]",
            "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"n\": null}}]",
        ),
        (
            ToolFormat::QwenCoder,
            &[],
            "<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>",
            "<tool_call>\n<function=f>\n<parameter=n>\nthree\n</parameter>\n</function>\n</tool_call>",
        ),
        (ToolFormat::FunctionTags, &[], "<function=f>{\"n\": 3}</function>", "<function=f>{\"n\": 3.5}</function>"),
    ] {
        free(format, controls)
            .check(&["It is 3.", valid, &format!("I see. {valid}")], &[wrong, &format!("I see. {wrong}")]);
    }
}

#[test]
fn a_reply_that_has_to_call_something_is_nothing_else() {
    let valid = "{\"name\": \"f\", \"parameters\": {\"n\": 3}}";
    Replies::new(ToolFormat::Llama3, &[], &Beside::Nothing, true).check(&[valid], &["", "It is 3.", "{}"]);
}
