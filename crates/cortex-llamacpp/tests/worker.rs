//! The real worker with the real model.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use cortex_api::worker::{
    Constraint, FinishReason, FromWorker, Generate, Load, Rejection, Sampling, Segment, ToWorker, TokenProbabilities,
};
use cortex_test::{
    dist,
    worker::{TestWorker, agree, generate, load_of, text_of, told},
};
use std::time::{Duration, Instant};

const QUESTION: &str = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";

fn run(worker: &mut TestWorker, request: Generate) -> (String, Vec<FromWorker>) {
    let id = request.id;
    worker.send(&ToWorker::Generate(Box::new(request)));
    let messages = worker.until_finished(id);
    (text_of(&messages, id), messages)
}

fn finished(messages: &[FromWorker]) -> (FinishReason, cortex_api::worker::Timings) {
    match messages.last() {
        Some(FromWorker::Finished { reason, timings, .. }) => (*reason, *timings),
        other => panic!("not finished: {other:?}"),
    }
}

#[test]
fn it_answers_and_a_repetition_computes_one_token_only() {
    let (mut worker, facts) = TestWorker::loaded(2048, 2);
    assert!(facts.chat_template.is_some() && facts.eos_token == "<|im_end|>", "{facts:?}");
    let ask = |id| Generate { ignore_eos: false, ..generate(id, QUESTION, 40) };
    let (text, messages) = run(&mut worker, ask(1));
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(finished(&messages).0, FinishReason::Stop);
    let (again, messages) = run(&mut worker, ask(2));
    assert_eq!(again, text);
    let timings = finished(&messages).1;
    assert_eq!(timings.prompt_tokens, 1, "{timings:?}");
    assert!(timings.cached_tokens > 10, "{timings:?}");
}

#[test]
fn many_requests_run_together_and_one_can_be_cancelled() {
    let (mut worker, _) = TestWorker::loaded(1024, 4);
    for id in 1..=5 {
        worker.send(&ToWorker::Generate(Box::new(generate(id, "Once upon a time", 60))));
    }
    // Wait until the first answers are running, then end one of them.
    loop {
        if matches!(worker.receive().unwrap(), FromWorker::Text { id: 2, .. }) {
            break;
        }
    }
    worker.send(&ToWorker::Cancel { id: 2 });
    let mut ended = std::collections::BTreeMap::new();
    while ended.len() < 5 {
        if let FromWorker::Finished { id, reason, timings } = worker.receive().unwrap() {
            ended.insert(id, (reason, timings.answer_tokens));
        }
    }
    assert_eq!(ended[&2].0, FinishReason::Cancelled);
    for id in [1, 3, 4, 5] {
        assert_eq!(ended[&id], (FinishReason::Length, 60));
    }
}

#[test]
fn a_conversation_between_two_that_run_goes_on_as_it_was() {
    let (mut worker, _) = TestWorker::loaded(1024, 3);
    let ask = |id, text: &str, most| Generate { probabilities: Some(5), ..generate(id, text, most) };
    // The second one ends early; its place is computed with the others from then on, and keeps nothing of that.
    for (id, text, most) in [(1, "Once upon a time", 60), (2, QUESTION, 4), (3, "In the beginning", 60)] {
        worker.send(&ToWorker::Generate(Box::new(ask(id, text, most))));
    }
    let messages = worker.until_all_finished(&[1, 2, 3]);
    for message in &messages {
        if let FromWorker::Finished { id, reason, timings } = message {
            assert_eq!((*reason, timings.answer_tokens), (FinishReason::Length, if *id == 2 { 4 } else { 60 }));
        }
    }
    let next = format!("{QUESTION}{} and then", text_of(&messages, 2));
    worker.send(&ToWorker::Generate(Box::new(ask(4, &next, 12))));
    let messages = worker.until_finished(4);
    let timings = finished(&messages).1;
    assert!(timings.cached_tokens > 10, "{timings:?}");
    worker.send(&ToWorker::Generate(Box::new(Generate { deterministic: true, ..ask(5, &next, 12) })));
    let reference = worker.until_finished(5);
    assert!(agree(&told(&reference, 5), &told(&messages, 4)), "{reference:?} {messages:?}");
}

#[test]
fn a_long_prompt_does_not_stop_the_others() {
    let (mut worker, _) = TestWorker::loaded(2048, 2);
    worker.send(&ToWorker::Generate(Box::new(generate(1, "Once upon a time", 400))));
    loop {
        if matches!(worker.receive().unwrap(), FromWorker::Text { id: 1, .. }) {
            break;
        }
    }
    let long = "lorem ipsum dolor sit amet ".repeat(120);
    worker.send(&ToWorker::Generate(Box::new(generate(2, &long, 1))));
    let messages = worker.until_finished(2);
    // Between the acceptance of the long prompt and its token, the first answer went on.
    let accepted = messages.iter().position(|it| matches!(it, FromWorker::Accepted { id: 2, .. })).unwrap();
    let meanwhile = messages[accepted..].iter().filter(|it| matches!(it, FromWorker::Text { id: 1, .. })).count();
    // At any speed: the first chunk is small, and no later one is above the batch of 512 tokens.
    assert!(meanwhile >= 2, "only {meanwhile} pieces came meanwhile");
}

#[test]
fn a_deterministic_request_gives_the_same_whatever_runs_beside_it() {
    let (mut worker, _) = TestWorker::loaded(1024, 4);
    let mut ask = |id, neighbours: bool| {
        if neighbours {
            for other in 0..3 {
                worker.send(&ToWorker::Generate(Box::new(generate(id + 1 + other, "The weather in", 30))));
            }
        }
        let mut request = generate(id, "Write a story about a dragon.", 40);
        request.deterministic = true;
        request.sampling.temperature = 1.0;
        request.sampling.seed = Some(7);
        run(&mut worker, request).0
    };
    let alone = ask(10, false);
    assert!(alone.len() > 20);
    assert_eq!(ask(20, true), alone);
    assert_eq!(ask(30, false), alone);
}

#[test]
fn a_stop_text_is_never_shown_and_the_length_is_kept() {
    let (mut worker, _) = TestWorker::loaded(1024, 1);
    let (free, messages) = run(&mut worker, generate(1, "Count: one, two, three,", 12));
    assert_eq!(finished(&messages), (FinishReason::Length, finished(&messages).1));
    assert_eq!(finished(&messages).1.answer_tokens, 12);
    let stop: String = free.chars().skip(4).take(6).collect();
    let request = Generate { stop: vec![stop.clone()], ..generate(2, "Count: one, two, three,", 12) };
    let (stopped, messages) = run(&mut worker, request);
    assert_eq!(stopped, free[..free.find(&stop).unwrap()]);
    assert_eq!(finished(&messages).0, FinishReason::Stop);
}

#[test]
fn what_cannot_be_answered_is_rejected_and_nothing_breaks() {
    let (mut worker, _) = TestWorker::loaded(256, 1);
    let reason = |worker: &mut TestWorker, request: Generate| match run(worker, request).1.pop() {
        Some(FromWorker::Rejected { reason, .. }) => reason,
        other => panic!("not rejected: {other:?}"),
    };
    let long = "word ".repeat(400);
    assert!(matches!(
        reason(&mut worker, generate(1, &long, 1)),
        Rejection::ContextExceeded { needed: 256.., available: 256 }
    ));
    let tokens = |tokens: Vec<i32>| Generate { prompt: vec![Segment::Tokens { tokens }], ..generate(2, "", 4) };
    assert!(matches!(reason(&mut worker, tokens(vec![1_000_000])), Rejection::Invalid { .. }));
    assert!(matches!(reason(&mut worker, tokens(vec![-1])), Rejection::Invalid { .. }));
    assert_eq!(reason(&mut worker, tokens(vec![])), Rejection::EmptyPrompt);
    let mut hot = generate(3, "x", 4);
    hot.sampling.temperature = f32::MAX;
    assert!(matches!(reason(&mut worker, hot), Rejection::Invalid { .. }));
    assert_eq!(finished(&run(&mut worker, generate(4, "x", 4)).1).1.answer_tokens, 4);
    // Until the context is full, and not one token further.
    let mut endless = generate(5, "x", 1);
    endless.max_tokens = None;
    let (reason, timings) = finished(&run(&mut worker, endless).1);
    assert_eq!((reason, timings.answer_tokens), (FinishReason::Length, 255));
}

#[test]
fn what_requests_have_in_common_is_computed_once_also_when_they_come_together() {
    let facts: Vec<String> =
        (1..40).map(|number| format!("Harbour {number} lies north of harbour {}. ", number * 7 % 40)).collect();
    let facts = facts.concat();
    let request = |id: u64, question: &str| Generate {
        probabilities: Some(5),
        ..generate(
            id,
            &format!(
                "<|im_start|>system\n{facts}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            ),
            24,
        )
    };
    let questions = [
        "What is the capital of France?",
        "Count from one to five.",
        "Which harbour lies north of harbour 7?",
        "Say hello.",
    ];
    // Two of each, whose prompts are computed in chunks of different sizes: between them lies what rounding does.
    let alone: Vec<[Vec<TokenProbabilities>; 2]> = questions
        .iter()
        .map(|question| {
            // A worker that knows nothing.
            let (mut worker, _) = TestWorker::loaded(2048, 1);
            [false, true]
                .map(|deterministic| told(&run(&mut worker, Generate { deterministic, ..request(1, question) }).1, 1))
        })
        .collect();
    let is_right = |alone: &[Vec<TokenProbabilities>; 2], found: &[TokenProbabilities]| {
        alone.iter().any(|reference| agree(reference, found))
    };
    let (mut worker, _) = TestWorker::loaded(2048, 4);
    let ids: Vec<u64> = (1..=4).collect();
    for (&id, question) in ids.iter().zip(questions) {
        worker.send(&ToWorker::Generate(Box::new(request(id, question))));
    }
    let messages = worker.until_all_finished(&ids);
    let timings = |of: u64| {
        let finished = messages.iter().find_map(|it| match it {
            FromWorker::Finished { id, timings, .. } if *id == of => Some(*timings),
            _ => None,
        });
        finished.unwrap()
    };
    let whole = timings(1).prompt_tokens;
    assert!(whole > 400 && timings(1).cached_tokens == 0, "{:?}", timings(1));
    for &id in &ids[1..] {
        assert!(timings(id).cached_tokens > 400 && timings(id).prompt_tokens < 40, "{id}: {:?}", timings(id));
    }
    for (id, reference) in ids.iter().zip(&alone) {
        let together = told(&messages, *id);
        assert!(is_right(reference, &together), "{id}: {reference:?} {together:?}");
    }
    // From one that runs, and what it said is not mixed up with what the other says.
    worker.send(&ToWorker::Generate(Box::new(Generate { max_tokens: Some(300), ..request(5, questions[0]) })));
    loop {
        if matches!(worker.receive().unwrap(), FromWorker::Text { id: 5, .. }) {
            break;
        }
    }
    for (id, question, reference) in [(6, questions[1], &alone[1]), (7, questions[3], &alone[3])] {
        worker.send(&ToWorker::Generate(Box::new(request(id, question))));
        let found = told(&worker.until_finished(id), id);
        assert!(is_right(reference, &found), "{question}: {reference:?} {found:?}");
    }
}

/// How a request ended: `None` when it was answered.
fn refused(messages: &[FromWorker]) -> Option<Rejection> {
    match messages.last() {
        Some(FromWorker::Rejected { reason, .. }) => Some(reason.clone()),
        _ => None,
    }
}

#[test]
fn an_answer_is_what_it_must_be_whatever_the_model_would_say() {
    let (mut worker, _) = TestWorker::loaded(1024, 2);
    let schema = serde_json::json!({
        "type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": false
    });
    for (id, temperature) in [(1, 0.0), (2, 2.0)] {
        let mut request = generate(id, QUESTION, 60);
        request.constraint = Some(Constraint::JsonSchema { schema: schema.clone() });
        request.sampling = Sampling { temperature, seed: Some(3), ..Sampling::default() };
        let (text, messages) = run(&mut worker, request);
        let city = serde_json::from_str::<serde_json::Value>(&text).expect(&text)["city"].clone();
        assert!(city == "Paris" || city == "Rome", "{text}");
        // It ends by itself when nothing can follow, also where the end token would be ignored.
        assert_eq!(finished(&messages).0, FinishReason::Stop);
    }
    let with = |id, constraint| Generate { constraint: Some(constraint), ..generate(id, QUESTION, 20) };
    let (text, _) = run(&mut worker, with(3, Constraint::Regex { pattern: "[a-c]{3}".into() }));
    assert!(text.len() == 3 && text.chars().all(|letter| ('a'..='c').contains(&letter)), "{text}");
    for (id, constraint) in [
        (4, Constraint::JsonSchema { schema: serde_json::json!({"type": "nothing"}) }),
        (5, Constraint::Regex { pattern: "(".into() }),
        (6, Constraint::Lark { grammar: "start: missing".into() }),
    ] {
        let (_, messages) = run(&mut worker, with(id, constraint));
        assert!(matches!(refused(&messages), Some(Rejection::Constraint { .. })), "{messages:?}");
    }
    // An unconstrained one beside it is not touched, and the worker goes on.
    assert!(run(&mut worker, generate(7, QUESTION, 40)).0.contains("Paris"));
}

#[test]
fn probabilities_are_those_of_the_model_and_a_bias_moves_the_choice() {
    let (mut worker, _) = TestWorker::loaded(512, 1);
    let request = Generate { probabilities: Some(5), ..generate(1, "The capital of France is", 6) };
    let (text, messages) = run(&mut worker, request);
    let tokens = told(&messages, 1);
    assert_eq!(tokens.len(), 6);
    let bytes: Vec<u8> = tokens.iter().flat_map(|it| it.chosen.bytes.clone()).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
    for it in &tokens {
        assert_eq!(it.top.len(), 5);
        assert_eq!(it.top[0], it.chosen);
        assert!(it.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        let sum: f32 = it.top.iter().map(|it| it.logprob.exp()).sum();
        assert!(sum <= 1.0 + 1e-4, "{sum}");
    }
    let first = tokens[0].chosen.token;
    let biased = |id, bias| {
        let mut request = generate(id, "The capital of France is", 1);
        request.sampling.logit_bias = vec![bias];
        Generate { probabilities: Some(1), ..request }
    };
    let barred = told(&run(&mut worker, biased(2, (first, -100.0))).1, 2);
    assert_ne!(barred[0].chosen.token, first);
    assert_eq!(barred[0].top[0].token, first, "what is told is what the model thinks");
    let forced = told(&run(&mut worker, biased(3, (77, 100.0))).1, 3);
    assert_eq!(forced[0].chosen.token, 77);
    let outside = run(&mut worker, biased(4, (1_000_000, 1.0))).1;
    assert!(matches!(refused(&outside), Some(Rejection::Invalid { .. })));
}

#[test]
fn control_tokens_are_shown_where_that_is_asked_for() {
    let (mut worker, _) = TestWorker::loaded(512, 1);
    let mut forced = generate(1, "x", 1);
    // The beginning of a message: a control token that ends no answer.
    forced.sampling.logit_bias = vec![(1, 1000.0)];
    let shown = Generate { id: 2, shows_control: true, ..forced.clone() };
    assert_eq!(run(&mut worker, forced).0, "");
    assert_eq!(run(&mut worker, shown).0, "<|im_start|>");
}

#[test]
fn what_the_next_turn_begins_with_is_left_to_it_when_others_need_the_cores() {
    let (mut worker, _) =
        TestWorker::loaded_as(Load { idle_cores: Some(1), threads_batch: 2, ..load_of(&dist::model(), 1024, 1) });
    let turn = Generate { next_turn: "<|im_end|>\n<|im_start|>user\n".into(), ..generate(1, QUESTION, 6) };
    let before = worker.steps();
    let (_, messages) = run(&mut worker, Generate { ignore_eos: true, most_guesses: Some(0), ..turn });
    assert_eq!(finished(&messages).1.answer_tokens, 6);
    // It would be there after a twentieth of a second of nothing to do.
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        assert_eq!(worker.steps(), before + 6);
    }
}

#[test]
fn what_the_next_turn_begins_with_is_computed_when_there_is_nothing_else_to_do() {
    const NEXT: &str = "<|im_end|>\n<|im_start|>user\n";
    let (mut worker, _) = TestWorker::loaded(1024, 2);
    // An answer that is cut, and one that ends by itself; with guesses, among which it ends.
    for (id, most, ignore_eos, guesses) in [(10, 6, true, 0), (20, 60, false, 0), (30, 60, false, 16)] {
        let question = QUESTION.replace("France", ["France", "Italy", "Spain"][usize::try_from(id / 10 - 1).unwrap()]);
        let turn = Generate { ignore_eos, probabilities: Some(5), ..generate(id, &question, most) };
        let before = worker.steps();
        let (_, messages) =
            run(&mut worker, Generate { next_turn: NEXT.into(), most_guesses: Some(guesses), ..turn.clone() });
        let (reason, timings) = finished(&messages);
        assert_eq!(reason == FinishReason::Stop, !ignore_eos);
        let prompt = timings.prompt_tokens + timings.cached_tokens;
        let tokens: Vec<i32> = told(&messages, id).iter().map(|it| it.chosen.token).collect();
        // Each token is a step, but for those that were guessed, and then comes one more.
        worker.until_steps(before + u64::from(timings.answer_tokens - timings.accepted_tokens) + 1);
        let said = u32::try_from(tokens.len()).unwrap();
        let and = |rest: &str| {
            let rest = Segment::Text { text: format!("{rest}<|im_end|>\n<|im_start|>assistant\n"), special: true };
            turn.prompt.iter().cloned().chain([Segment::Tokens { tokens: tokens.clone() }, rest]).collect::<Vec<_>>()
        };
        let mut follow = |id, prompt: Vec<Segment>| {
            let turn = Generate { id, prompt, max_tokens: Some(10), ..turn.clone() };
            let reference = Generate { id: id + 1, deterministic: true, ..turn.clone() };
            let (_, messages) = run(&mut worker, turn);
            let (_, alone) = run(&mut worker, reference);
            assert!(agree(&told(&alone, id + 1), &told(&messages, id)), "{messages:?} {alone:?}");
            finished(&messages).1.cached_tokens
        };
        // The end, a line, the beginning, the name and a line.
        assert_eq!(follow(id + 1, and(&format!("{NEXT}And of Norway?"))), prompt + said + 5);
        // Somebody goes on in another way.
        assert_eq!(follow(id + 3, and(", as I said")), prompt + said);
    }
}

#[test]
fn a_closed_input_ends_it_at_once_also_amid_an_answer() {
    let (mut worker, _) = TestWorker::loaded(1024, 1);
    worker.send(&ToWorker::Generate(Box::new(generate(1, "Once", 1000))));
    loop {
        if matches!(worker.receive().unwrap(), FromWorker::Text { .. }) {
            break;
        }
    }
    worker.close();
    assert!(worker.child.wait().unwrap().success());
}

#[test]
fn a_file_that_is_no_model_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no.gguf");
    fs_err::write(&path, b"GGUF nonsense").unwrap();
    let mut worker = TestWorker::start();
    assert!(matches!(worker.load(&path, 256, 1), FromWorker::LoadFailed { .. }));
    assert_eq!(worker.child.wait().unwrap().code(), Some(1));
}

#[test]
fn what_repeats_is_guessed_and_the_answer_is_that_without_guesses() {
    // Whether guesses pay is measured otherwise, and other tests run beside this one.
    let load = Load { entry_cost: Some(20), ..load_of(&dist::model(), 1024, 1) };
    let (mut worker, _) = TestWorker::loaded_as(load);
    let lines: Vec<String> = ["apples", "candles", "drums", "engines", "flutes", "glasses", "hammers", "kettles"]
        .iter()
        .enumerate()
        .map(|(at, thing)| {
            format!("On day {} somebody bought {} {thing} for {} euros.\n", at + 3, at * 7 + 5, at * 11 + 20)
        })
        .collect();
    let lines = lines.concat();
    let text = format!("The list:\n{lines}\nThe list again:\n{lines}\nThe list once more:\n");
    let request = |id| Generate { probabilities: Some(5), ..generate(id, &text, 120) };
    let mut ask = |request: Generate| {
        let id = request.id;
        worker.send(&ToWorker::Generate(Box::new(request)));
        let messages = worker.until_finished(id);
        let FromWorker::Finished { timings, .. } = messages.last().unwrap() else { panic!("{messages:?}") };
        (told(&messages, id), *timings)
    };
    let (reference, plain) = ask(Generate { deterministic: true, ..request(1) });
    assert_eq!((plain.drafted_tokens, plain.accepted_tokens), (0, 0));
    let (found, timings) = ask(request(2));
    assert!(agree(&reference, &found), "{reference:?} {found:?}");
    assert_eq!((found.len(), timings.answer_tokens), (120, 120));
    assert!(timings.accepted_tokens > 20 && timings.accepted_tokens <= timings.drafted_tokens, "{timings:?}");
    // What follows a wrong guess is right: the same list, in which each line is changed once.
    let other = text.replace("euros", "dollars").replacen("dollars", "euros", 8);
    let request = |id| Generate { prompt: vec![Segment::Text { text: other.clone(), special: true }], ..request(id) };
    let (reference, _) = ask(Generate { deterministic: true, ..request(3) });
    let (found, timings) = ask(request(4));
    assert!(agree(&reference, &found), "{reference:?} {found:?}");
    assert!(timings.drafted_tokens > timings.accepted_tokens, "{timings:?}");
    // One of which nothing may be kept ends amid a guess, at each place of it; others go on.
    for (id, stop) in
        (5..).zip(["somebody", "bought", " 12", "candles", " for", " euros", "dollars", "On day 5", "drums"])
    {
        let (_, timings) = ask(Generate { cache_scope: None, stop: vec![stop.into()], ..request(id) });
        assert!(timings.answer_tokens > 0, "{timings:?}");
    }
    assert!(agree(&reference, &ask(request(20)).0));
}
