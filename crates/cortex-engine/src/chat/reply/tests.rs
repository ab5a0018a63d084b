//! Replies of all families, taken apart in every way that they may arrive.

use super::*;
use proptest::prelude::*;
use serde_json::json;

/// A reply and what it says.
struct Case {
    tools: Option<ToolFormat>,
    reasoning: Option<Reasoning>,
    single: bool,
    reply: String,
    expected: Vec<Piece>,
}

fn tools() -> Vec<Tool> {
    let parameters = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": ["string", "null"]}, "d": {"type": "array"},
    }});
    let tool = |name: &str| Tool { name: name.into(), parameters: parameters.clone(), is_strict: false };
    vec![tool("f"), tool("g")]
}

fn text(text: &str) -> Piece {
    Piece::Text(text.into())
}

fn thought(text: &str) -> Piece {
    Piece::Reasoning(text.into())
}

/// A call with these arguments.
fn call(name: &str, arguments: &str) -> Vec<Piece> {
    let mut pieces = vec![Piece::CallBegins { name: name.into() }];
    if !arguments.is_empty() {
        pieces.push(Piece::Arguments(arguments.into()));
    }
    pieces.push(Piece::CallEnds);
    pieces
}

/// All pieces of a reply that arrives in these chunks; neighbours of the same kind are joined.
fn read<'text>(case: &Case, chunks: impl IntoIterator<Item = &'text str>) -> Vec<Piece> {
    let format = ReplyFormat { tools: case.tools, reasoning: case.reasoning };
    let mut parser = ReplyParser::new(format, tools(), case.single);
    let mut pieces: Vec<Piece> = chunks.into_iter().flat_map(|chunk| parser.push(chunk)).collect();
    pieces.extend(parser.finish());
    let mut output = Output::default();
    for piece in pieces {
        match piece {
            Piece::Text(text) => output.text(&text),
            Piece::Reasoning(text) => output.reasoning(&text),
            Piece::CallBegins { name } => output.begin(&name),
            Piece::Arguments(text) => output.arguments(&text),
            Piece::CallEnds => output.end(),
        }
    }
    output.take()
}

#[track_caller]
fn check(case: &Case) {
    let Case { reply, expected, .. } = case;
    assert_eq!(&read(case, [reply.as_str()]), expected, "{reply}");
    let letters: Vec<String> = reply.chars().map(String::from).collect();
    assert_eq!(&read(case, letters.iter().map(String::as_str)), expected, "letter by letter: {reply}");
    for (at, _) in reply.char_indices() {
        assert_eq!(&read(case, [&reply[..at], &reply[at..]]), expected, "cut at {at}: {reply}");
    }
}

#[track_caller]
fn check_calls(format: ToolFormat, reply: &str, expected: &[Vec<Piece>]) {
    check(&case(format, reply, expected));
}

fn case(format: ToolFormat, reply: &str, expected: &[Vec<Piece>]) -> Case {
    Case { tools: Some(format), reasoning: None, single: false, reply: reply.into(), expected: expected.concat() }
}

/// A reply that begins like a call in this format, but is visible text as a whole.
#[track_caller]
fn check_plain(format: ToolFormat, reply: &str) {
    check_calls(format, reply, &[vec![text(reply)]]);
}

#[test]
fn hermes() {
    let format = ToolFormat::Hermes;
    check_calls(
        format,
        "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>\\\"{\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"x\", \"arguments\": {}}\n</tool_call>\n",
        &[vec![text("I look.\n")], call("f", "{\"a\": \"}</tool_call>\\\"{\"}"), call("x", "{}")],
    );
    check_calls(
        format,
        "\n<tool_call>{\"parameters\": {\"a\": [{}, {\"b\": 1}]}, \"name\": \"f\"}</tool_call> Done.\n",
        &[call("f", "{\"a\": [{}, {\"b\": 1}]}"), vec![text(" Done.\n")]],
    );
    // Without arguments, two in a block, an end that is missing, a brace that is missing.
    check_calls(
        format,
        "<tool_call>{\"name\": \"f\"}\n{\"name\": \"g\", \"arguments\": {}}</tool_call>",
        &[call("f", "{}"), call("g", "{}")],
    );
    check_calls(format, "<tool_call>{\"name\": \"f\", \"arguments\": {}}", &[call("f", "{}")]);
    check_calls(format, "<tool_call>{\"name\": \"f\", \"arguments\": {}\n</tool_call>", &[call("f", "{}")]);
    check_calls(
        format,
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"b\": 1\n</tool_call>",
        &[call("f", "{\"b\": 1\n")],
    );
    // Cut off.
    check_calls(format, "<tool_call>{\"name\": \"f\"", &[call("f", "")]);
    check_calls(format, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"lon", &[call("f", "{\"a\": \"lon")]);
    check_calls(format, "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_", &[call("f", "{}")]);
    // The other way, by mistake.
    check_calls(
        format,
        "<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n</function>\n</tool_call>",
        &[call("f", "{\"a\": \"x\"}")],
    );
}

#[test]
fn what_is_no_call_is_given_as_it_was_written() {
    for reply in [
        "",
        " ",
        "\n\n Hello ",
        "a < b <tool",
        "<tool_call",
        "<tool_call> \n",
        "<tool_call> use it like this",
        "<tool_call>{\"name\": 1}",
        "<tool_call>\n{\"nam",
        "<tool_call>{\"arguments\": {\"a\": 1}}",
        " <tool_call> <tool_call>",
    ] {
        let expected = if reply.is_empty() { vec![] } else { vec![text(reply)] };
        check_calls(ToolFormat::Hermes, reply, &[expected]);
    }
    for reply in ["<function=", "<function=two words>", "<function=f>text"] {
        check_plain(ToolFormat::FunctionTags, reply);
    }
    for reply in
        ["{\"answer\": 1}", "{\"name\": \"unknown\", \"parameters\": {}}", " {\"name\"", "{", "x {\"name\": \"f\"}"]
    {
        check_plain(ToolFormat::Llama3, reply);
    }
    for reply in ["[TOOL_CALLS]", "[TOOL_CALLS] are", "[TOOL_CALLS][1]", "[TOOL_CALLS]f[", "[TOOLS]"] {
        check_plain(ToolFormat::Mistral, reply);
    }
    for reply in ["Hello there", "Hello\nyou", ">>> x = 1", "a>>>b\nc", "al", "all", ">>>f\n"] {
        check_plain(ToolFormat::Functionary, reply);
    }
    for reply in ["<start_function_call>call f", "<start_function_call>call:f"] {
        check_plain(ToolFormat::FunctionGemma, reply);
    }
    for reply in ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜>x", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f"]
    {
        check_plain(ToolFormat::DeepSeekR1, reply);
    }
    check_plain(ToolFormat::Harmony, " Hello ");
}

#[test]
fn text_after_a_call_that_is_none_keeps_its_white_space() {
    check_calls(
        ToolFormat::Hermes,
        "<tool_call>{\"name\": \"f\"}</tool_call> \n<tool_call>?",
        &[call("f", "{}"), vec![text(" \n<tool_call>?")]],
    );
    check_calls(
        ToolFormat::Llama3,
        "{\"name\": \"f\", \"parameters\": {}} ; no",
        &[call("f", "{}"), vec![text(" ; no")]],
    );
}

#[test]
fn qwen_coder() {
    let format = ToolFormat::QwenCoder;
    check_calls(
        format,
        "Now.\n\n<tool_call>\n<function=f>\n<parameter=a>\nline <b>\n\n\"x\" </tool_call>\n\n</parameter>\n<parameter=b>\n42\n</parameter>\n<parameter=c>\nnull\n</parameter>\n<parameter=d>\n[1, {\"x\": \"y\"}]\n</parameter>\n</function>\n</tool_call>",
        &[
            vec![text("Now.\n\n")],
            call(
                "f",
                "{\"a\": \"line <b>\\n\\n\\\"x\\\" </tool_call>\\n\", \"b\": 42, \"c\": null, \"d\": [1, {\"x\": \"y\"}]}",
            ),
        ],
    );
    check_calls(
        format,
        "<tool_call>\n<function=f>\n</function>\n</tool_call>\n<tool_call>\n<function=x>\n<parameter=p>\nTrue\n</parameter>\n<parameter=q>\nfree text\n</parameter>\n</function>\n</tool_call>\nDone",
        &[call("f", "{}"), call("x", "{\"p\": true, \"q\": \"free text\"}"), vec![text("\nDone")]],
    );
    // Without the outer tag, and an empty value.
    check_calls(
        format,
        "<function=f>\n<parameter=a>\n</parameter>\n<parameter=c>x</parameter></function>",
        &[call("f", "{\"a\": \"\", \"c\": \"x\"}")],
    );
    // Cut off.
    for (reply, arguments) in [
        ("<function=f>", ""),
        ("<function=f>\n<param", ""),
        ("<function=f>\n<parameter=a>\nlon", "{\"a\": \"lon"),
        ("<function=f>\n<parameter=b>\n4", "{\"b\": 4"),
        ("<function=f>\n<parameter=b>\n4\n</parameter>\n</func", "{\"b\": 4"),
        ("<function=f>\n<parameter=d>\n[1,", "{\"d\": \"[1,"),
    ] {
        check_calls(format, &format!("<tool_call>\n{reply}"), &[call("f", arguments)]);
    }
    check_calls(
        format,
        "<function=f>\n<parameter=b>\n4\n</parameter>\noops",
        &[call("f", "{\"b\": 4}"), vec![text("oops")]],
    );
}

#[test]
fn glm() {
    let format = ToolFormat::Glm;
    check_calls(
        format,
        "Now.\n<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x <b>\n\"y\"</arg_value>\n<arg_key>b</arg_key>\n<arg_value>42</arg_value>\n</tool_call>\n<tool_call>g\n</tool_call>",
        &[vec![text("Now.\n")], call("f", "{\"a\": \"x <b>\\n\\\"y\\\"\", \"b\": 42}"), call("g", "{}")],
    );
    // On one line, as newer ones write it; JSON by mistake.
    check_calls(
        format,
        "<tool_call>f<arg_key>d</arg_key><arg_value>[1]</arg_value></tool_call>Done",
        &[call("f", "{\"d\": [1]}"), vec![text("Done")]],
    );
    check_calls(format, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", &[call("f", "{}")]);
    // Cut off.
    for (reply, arguments) in [
        ("<arg_key>a", ""),
        ("<arg_key>a</arg_key>\n<arg_va", ""),
        ("<arg_key>a</arg_key>\n<arg_value>lon", "{\"a\": \"lon"),
        ("<arg_key>b</arg_key>\n<arg_value>4</arg_value>\n</tool", "{\"b\": 4"),
    ] {
        check_calls(format, &format!("<tool_call>f\n{reply}"), &[call("f", arguments)]);
    }
    for reply in ["<tool_call>two words", "<tool_call>f", "<tool_call>"] {
        check_plain(format, reply);
    }
}

#[test]
fn granite() {
    let format = ToolFormat::Granite;
    check_calls(
        format,
        "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}}, {\"name\": \"g\", \"arguments\": {}}]",
        &[call("f", "{\"a\": \"]\"}"), call("g", "{}")],
    );
    check_calls(format, "I see. <|tool_call|> {\"name\": \"f\"}", &[vec![text("I see. ")], call("f", "{}")]);
    check_plain(format, "<|tool_call|> none");
}

#[test]
fn function_tags() {
    check_calls(
        ToolFormat::FunctionTags,
        "<function=f>{\"a\": \"</function>\"}</function>\n<function=x>{}</function>",
        &[call("f", "{\"a\": \"</function>\"}"), call("x", "{}")],
    );
    check_calls(ToolFormat::FunctionTags, "Yes. <function=f>{\"b\": 1", &[vec![text("Yes. ")], call("f", "{\"b\": 1")]);
}

#[test]
fn llama() {
    let format = ToolFormat::Llama3;
    check_calls(format, "{\"name\": \"f\", \"parameters\": {\"b\": 1}}", &[call("f", "{\"b\": 1}")]);
    check_calls(
        format,
        "<|python_tag|>{\"name\": \"x\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}\n{\"name\": \"f\", \"parameters\": {}}",
        &[call("x", "{}"), call("g", "{}"), call("f", "{}")],
    );
    check_calls(format, "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}", &[call("f", "{}")]);
    check_calls(
        format,
        "Look: <|python_tag|>{\"name\": \"f\", \"parameters\": {}}",
        &[vec![text("Look: ")], call("f", "{}")],
    );
    check_plain(format, "<|python_tag|>brave_search.call(query=\"x\")");
}

#[test]
fn mistral() {
    let format = ToolFormat::Mistral;
    check_calls(
        format,
        "Wait.[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}, \"id\": \"123456789\"}, {\"arguments\": {}, \"name\": \"g\"}]",
        &[vec![text("Wait.")], call("f", "{\"a\": \"]\"}"), call("g", "{}")],
    );
    check_calls(
        format,
        "[TOOL_CALLS]f[ARGS]{\"a\": \"[TOOL_CALLS]\"}[TOOL_CALLS]g{\"b\": 2}[TOOL_CALLS]x-1[CALL_ID]abc123456[ARGS]{}",
        &[call("f", "{\"a\": \"[TOOL_CALLS]\"}"), call("g", "{\"b\": 2}"), call("x-1", "{}")],
    );
    check_calls(format, "[TOOL_CALLS]{\"name\": \"f\", \"arguments\": {}}", &[call("f", "{}")]);
    check_calls(format, "[TOOL_CALLS]f[ARGS]", &[call("f", "")]);
    check_calls(format, "[TOOL_CALLS]f[CALL_ID]a[ARGS]{\"b\"", &[call("f", "{\"b\"")]);
}

#[test]
fn deepseek() {
    let first = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": \"```\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let second = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"```\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    for format in [ToolFormat::DeepSeekR1, ToolFormat::DeepSeekV3_1] {
        for reply in [first, second] {
            check_calls(format, reply, &[call("f", "{\"a\": \"```\"}"), call("g", "{}")]);
        }
        check_calls(
            format,
            &format!("Well.\n{first}\n```rust"),
            &[vec![text("Well.\n")], call("f", "{\"a\": \"```\"}"), call("g", "{}"), vec![text("\n```rust")]],
        );
    }
    check_calls(ToolFormat::DeepSeekV3_1, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>", &[call("f", "")]);
    check_calls(ToolFormat::DeepSeekR1, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n``", &[call("f", "")]);
}

#[test]
fn harmony() {
    let format = ToolFormat::Harmony;
    let whole = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": \"<|call|>\"}<|call|>";
    check_calls(format, whole, &[vec![thought("Think."), text("I look.")], call("f", "{\"a\": \"<|call|>\"}")]);
    check_calls(
        format,
        "<|channel|>analysis<|message|>T<|end|>\n<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Done.<|return|>",
        &[vec![thought("T")], call("f", "{}"), vec![text("Done.")]],
    );
    check_calls(format, " to=functions.f<|channel|>commentary json<|message|>{\"b\"", &[call("f", "{\"b\"")]);
    check_calls(
        format,
        "<|channel|>commentary to=python code<|message|>print(1)<|call|>",
        &[call("python", "print(1)")],
    );
    check_calls(format, "<|channel|>commentary to=functions.f ", &[call("f", "")]);
    check_calls(format, "<|channel|>analysis<|message|>T", &[vec![thought("T")]]);
    check_calls(format, "<|channel|>final<|message|>a < b", &[vec![text("a < b")]]);
    check_calls(format, "<|channel|>final", &[]);
    // The prompt ended inside of a final message.
    check_calls(format, "Done.<|return|>", &[vec![text("Done.")]]);

    let reasoning = Some(Reasoning { style: ReasoningStyle::Harmony, starts_inside: false });
    // Without tools there are no calls: what was meant as one is text, and ends at the first marker.
    let expected = vec![thought("Think."), text("I look.{\"a\": \"\"}")];
    check(&Case { tools: None, reasoning, single: false, reply: whole.into(), expected });
}

#[test]
fn gemma() {
    check_calls(
        ToolFormat::FunctionGemma,
        "<start_function_call>call:f{a:<escape>say \"}\", {x}<escape>,b:3,o:{k:[1.5,true,<escape>z<escape>],e:{}},n:null}<end_function_call><start_function_call>call:g{}<end_function_call><start_function_response>",
        &[
            call(
                "f",
                "{\"a\": \"say \\\"}\\\", {x}\", \"b\": 3, \"o\": {\"k\": [1.5, true, \"z\"], \"e\": {}}, \"n\": null}",
            ),
            call("g", "{}"),
        ],
    );
    check_calls(
        ToolFormat::Gemma4,
        "Hm.<|tool_call>call:f{a:<|\"|>x\ny<|\"|>, <|\"|>k k<|\"|>: New York, q:\"j\\\"s\"}<tool_call|>",
        &[vec![text("Hm.")], call("f", "{\"a\": \"x\\ny\", \"k k\": \"New York\", \"q\": \"j\\\"s\"}")],
    );
    for (reply, arguments) in [
        ("{", "{"),
        ("{a:<escape>lon", "{\"a\": \"lon"),
        ("{b:4", "{\"b\": 4"),
        ("{b:4,c", "{\"b\": 4, \"c"),
        ("{b:4<end_function_call>", "{\"b\": 4"),
        ("{b:[4,<end_function_call>", "{\"b\": [4"),
    ] {
        let reply = format!("<start_function_call>call:f{reply}");
        check_calls(ToolFormat::FunctionGemma, &reply, &[call("f", arguments)]);
    }
}

#[test]
fn functionary() {
    let format = ToolFormat::Functionary;
    check_calls(format, "all\nHello > you", &[vec![text("Hello > you")]]);
    check_calls(format, "f\n{\"a\": \">>>g\"}>>>g\n{}", &[call("f", "{\"a\": \">>>g\"}"), call("g", "{}")]);
    check_calls(
        format,
        "all\nI look.\n>>>f\n{\"b\": 1}\n>>>all\nDone",
        &[vec![text("I look.\n")], call("f", "{\"b\": 1}"), vec![text("Done")]],
    );
    check_calls(format, ">>>f\n{\"b\"", &[call("f", "{\"b\"")]);
}

#[track_caller]
fn check_thought(starts_inside: bool, reply: &str, expected: Vec<Piece>) {
    let reasoning = Some(Reasoning { style: ReasoningStyle::Think, starts_inside });
    check(&Case { tools: Some(ToolFormat::Hermes), reasoning, single: false, reply: reply.into(), expected });
}

#[test]
fn reasoning() {
    check_thought(false, "\n<think>\n\nA\n\nB\n</think>\n\nC\n", vec![thought("A\n\nB"), text("C\n")]);
    check_thought(false, "<think>\n\n</think>\n\nC", vec![text("C")]);
    check_thought(false, "C <think>x</think>", vec![text("C <think>x</think>")]);
    check_thought(false, "  <thin", vec![text("  <thin")]);
    check_thought(false, " ", vec![text(" ")]);
    check_thought(true, "A</think>C", vec![thought("A"), text("C")]);
    check_thought(true, "A\n</thin", vec![thought("A\n</thin")]);
    check_thought(true, "\nA <tool_call>{\"name\": \"f\"}\n", vec![thought("A <tool_call>{\"name\": \"f\"}\n")]);
    let mut expected = vec![thought("A")];
    expected.extend(call("f", "{}"));
    check_thought(true, "A\n</think>\n\n<tool_call>{\"name\": \"f\"}</tool_call>", expected);

    for (style, reply) in [
        (ReasoningStyle::BracketThink, "[THINK]A[/THINK]C"),
        (ReasoningStyle::GemmaChannel, "<|channel>thought\nA\n<channel|>C"),
    ] {
        let reasoning = Some(Reasoning { style, starts_inside: false });
        let expected = vec![thought("A"), text("C")];
        check(&Case { tools: None, reasoning, single: false, reply: reply.into(), expected });
    }
}

#[test]
fn without_tools_or_reasoning_all_is_text() {
    let reply = " <think>x</think> <tool_call>{\"name\": \"f\"}</tool_call>";
    check(&Case { tools: None, reasoning: None, single: false, reply: reply.into(), expected: vec![text(reply)] });
}

#[test]
fn a_single_call_ends_the_reply() {
    let one = "<tool_call>{\"name\": \"f\"}</tool_call>";
    let reply = format!("{one}{one}text");
    let format = ReplyFormat { tools: Some(ToolFormat::Hermes), reasoning: None };
    let expected = call("f", "{}");
    check(&Case { tools: format.tools, reasoning: None, single: true, reply: reply.clone(), expected });
    let mut parser = ReplyParser::new(format, tools(), true);
    assert!(!parser.is_done());
    parser.push(&reply);
    assert!(parser.is_done());
}

#[test]
fn pieces_come_as_early_as_they_can() {
    let format = ReplyFormat { tools: Some(ToolFormat::Hermes), reasoning: None };
    let mut parser = ReplyParser::new(format, tools(), false);
    for (chunk, expected) in [
        ("Hel", vec![text("Hel")]),
        ("lo <to", vec![text("lo ")]),
        ("day", vec![text("<today")]),
        ("<tool_call>{\"name\": \"f", vec![]),
        ("\"", vec![Piece::CallBegins { name: "f".into() }]),
        (", \"arguments\": {\"a\"", vec![Piece::Arguments("{\"a\"".into())]),
        (": \"x", vec![Piece::Arguments(": \"x".into())]),
        ("\"}", vec![Piece::Arguments("\"}".into())]),
        ("}", vec![Piece::CallEnds]),
        ("</tool_call>", vec![]),
    ] {
        assert_eq!(parser.push(chunk), expected, "{chunk}");
    }
    assert_eq!(parser.finish(), vec![]);
}

#[test]
fn long_and_deep_replies_take_linear_time() {
    let deep = "[{\"a\":".repeat(10_000);
    let blank = " ".repeat(10_000);
    let markers = "<tool_call><function=[TOOL_CALLS]>>><|end|>".repeat(1_000);
    for (format, begin) in [
        (ToolFormat::Hermes, "<tool_call>{\"arguments\": "),
        (ToolFormat::QwenCoder, "<function=f><parameter=d>"),
        (ToolFormat::Llama3, "{\"parameters\": "),
        (ToolFormat::Glm, "<tool_call>f<arg_key>d</arg_key><arg_value>"),
        (ToolFormat::Mistral, "[TOOL_CALLS]f[ARGS]{\"a\": "),
        (ToolFormat::DeepSeekR1, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": "),
        (ToolFormat::Harmony, "<|channel|>commentary to=f <|message|>{\"a\": "),
        (ToolFormat::FunctionGemma, "<start_function_call>call:f{a:"),
        (ToolFormat::Functionary, "f\n{\"a\": "),
        (ToolFormat::QwenCoder, ""),
    ] {
        for tail in [&deep, &blank, &markers] {
            let case = case(format, &format!("{begin}{tail}"), &[]);
            let letters: Vec<String> = case.reply.chars().map(String::from).collect();
            assert_eq!(read(&case, letters.iter().map(String::as_str)), read(&case, [case.reply.as_str()]));
        }
    }
}

const FORMATS: [ToolFormat; 13] = [
    ToolFormat::Glm,
    ToolFormat::Granite,
    ToolFormat::Hermes,
    ToolFormat::QwenCoder,
    ToolFormat::Llama3,
    ToolFormat::Mistral,
    ToolFormat::DeepSeekR1,
    ToolFormat::DeepSeekV3_1,
    ToolFormat::Harmony,
    ToolFormat::FunctionGemma,
    ToolFormat::Gemma4,
    ToolFormat::FunctionTags,
    ToolFormat::Functionary,
];

/// Words that replies are made of.
const WORDS: [&str; 52] = [
    "<arg_key>a</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|tool_call|>[",
    "<tool_call>",
    "</tool_call>",
    "<function=f>",
    "</function>",
    "<parameter=a>",
    "<parameter=b>",
    "</parameter>",
    "{\"name\": \"f\"",
    ", \"arguments\": ",
    "{\"name\": \"f\", \"arguments\": {}}",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ",",
    ":",
    ";",
    "\n",
    " ",
    "é",
    "1",
    "text",
    "<",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "```json\n",
    "```",
    "<|start|>assistant",
    "<|channel|>commentary",
    " to=functions.f",
    "<|message|>",
    "<|call|>",
    "<|end|>",
    "<start_function_call>call:f{",
    "<escape>",
    "<end_function_call>",
    "<|tool_call>call:f{a:<|\"|>",
    ">>>",
    "<think>",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn any_cutting_says_the_same(
        words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..24),
        format in prop::sample::select(FORMATS.to_vec()),
        thinks in any::<bool>(),
        single in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let reply = words.concat();
        let reasoning = thinks.then_some(Reasoning { style: ReasoningStyle::Think, starts_inside: false });
        let case = Case { tools: Some(format), reasoning, single, reply, expected: vec![] };
        let whole = read(&case, [case.reply.as_str()]);
        let places: Vec<usize> = case.reply.char_indices().map(|(at, _)| at).chain([case.reply.len()]).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| *cut.get(&places)).chain([0, case.reply.len()]).collect();
        at.sort_unstable();
        prop_assert_eq!(&read(&case, at.windows(2).map(|pair| &case.reply[pair[0]..pair[1]])), &whole);
        prop_assert_eq!(&read(&case, places.windows(2).map(|pair| &case.reply[pair[0]..pair[1]])), &whole);
        for piece in &whole {
            if let Piece::Text(text) | Piece::Reasoning(text) | Piece::Arguments(text) = piece {
                prop_assert!(!text.is_empty());
            }
        }
        // Formats without parts that are neither text nor call.
        let is_plain = !matches!(format, ToolFormat::Harmony | ToolFormat::Functionary)
            && whole.iter().all(|piece| matches!(piece, Piece::Text(_)));
        if is_plain && !(thinks && case.reply.trim_start().starts_with("<think>")) {
            prop_assert_eq!(&whole, &[text(&case.reply)][..usize::from(!case.reply.is_empty())]);
        }
        let (begins, ends) = whole.iter().fold((0, 0), |(begins, ends), piece| match piece {
            Piece::CallBegins { .. } => (begins + 1, ends),
            Piece::CallEnds => (begins, ends + 1),
            _ => (begins, ends),
        });
        prop_assert_eq!(begins, ends);
    }
}
