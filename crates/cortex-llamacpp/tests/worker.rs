//! The real worker with the real model.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use cortex_api::worker::{FinishReason, FromWorker, Generate, Rejection, Segment, ToWorker};
use cortex_test::worker::{TestWorker, generate, text_of};

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
