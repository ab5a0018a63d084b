//! What is loaded beside a model, with a real worker: the weights of what makes vectors of images, and of adapters, are random.

use cortex_api::worker::{
    AdapterUse, FromWorker, Generate, Load, Rejection, Segment, Timings, ToWorker, TokenProbabilities,
};
use cortex_test::{
    dist,
    made::{self, Projector, picture},
    worker::{TestWorker, agree, generate, load_of, told},
};
use std::path::{Path, PathBuf};

/// Width of the vectors of the small model.
const SMOL_WIDTH: u64 = 576;
const BLUE: [u8; 3] = [10, 40, 230];
const GREEN: [u8; 3] = [20, 220, 60];
const RED: [u8; 3] = [240, 30, 20];

fn written(folder: &Path, name: &str, file: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs_err::write(&path, file).expect("writes");
    path
}

fn load(model: &Path, projector: &Path, parallel: u32) -> Load {
    Load { projector: Some(projector.display().to_string()), ..load_of(model, 1024, parallel) }
}

fn text(text: &str) -> Segment {
    Segment::Text { text: text.into(), special: true }
}

fn image(data: &str) -> Segment {
    Segment::Image { data: data.to_owned() }
}

fn seeing(id: u64, prompt: Vec<Segment>) -> Generate {
    Generate { prompt, probabilities: Some(5), ..generate(id, "", 8) }
}

/// What became of a request: its tokens, those of its prompt, and what they cost.
fn ask(worker: &mut TestWorker, request: Generate) -> (Vec<TokenProbabilities>, u32, Timings) {
    let id = request.id;
    worker.send(&ToWorker::Generate(Box::new(request)));
    let messages = worker.until_finished(id);
    let accepted = messages.iter().find_map(|it| match it {
        FromWorker::Accepted { prompt_tokens, .. } => Some(*prompt_tokens),
        _ => None,
    });
    match messages.last() {
        Some(FromWorker::Finished { timings, .. }) => (told(&messages, id), accepted.expect("accepted"), *timings),
        other => panic!("{other:?}"),
    }
}

fn refused(worker: &mut TestWorker, request: Generate) -> Rejection {
    let id = request.id;
    worker.send(&ToWorker::Generate(Box::new(request)));
    match worker.until_finished(id).pop() {
        Some(FromWorker::Rejected { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// What goes for each kind of projector: another image is another answer, the same one is not computed again, others are not
/// disturbed. `vectors` and `marks` are the tokens that an image of 32 × 32 takes, and those around it.
fn check(model: &Path, projector: &Path, (vectors, marks): (u32, u32)) {
    let (mut worker, facts) = TestWorker::loaded_as(load(model, projector, 3));
    assert!(facts.sees_images);
    let (blue, green) = (picture(BLUE, (32, 32)), picture(GREEN, (32, 32)));
    let prompt = |data: &str| vec![text("A ship in a harbour, and beside it "), image(data), text(" which shows the")];
    let alone = |id, data: &str| Generate { deterministic: true, ..seeing(id, prompt(data)) };
    let (of_blue, length, timings) = ask(&mut worker, alone(1, &blue));
    assert_eq!(timings.prompt_tokens, length);
    let (of_green, ..) = ask(&mut worker, alone(2, &green));
    assert_eq!(ask(&mut worker, alone(3, &blue)).0, of_blue, "the same bits again");
    let differs = |one: &[TokenProbabilities], other: &[TokenProbabilities]| {
        let [one, other] = [one, other].map(|it| &it[0].top[0]);
        one.token != other.token || (one.logprob - other.logprob).abs() > 0.01
    };
    assert!(differs(&of_blue, &of_green), "another image, another answer: {:?} {:?}", of_blue[0], of_green[0]);
    // Without the image it is another prompt, and shorter by what the image takes.
    let without = vec![text("A ship in a harbour, and beside it "), text(" which shows the")];
    let (_, shorter, _) = ask(&mut worker, seeing(4, without));
    assert_eq!(length - shorter, vectors + marks);
    // What is known of the prompt need not be computed again, the image as little as the text.
    let (again, _, timings) = ask(&mut worker, seeing(5, prompt(&blue)));
    let (once_more, _, more) = ask(&mut worker, seeing(6, prompt(&blue)));
    assert!(timings.cached_tokens < length && more.cached_tokens == length - 1, "{timings:?} {more:?}");
    // Another image at its place is none of it.
    let red = picture(RED, (32, 32));
    let (other, _, timings) = ask(&mut worker, seeing(7, prompt(&red)));
    assert!(timings.cached_tokens < length - vectors, "{timings:?}");
    let (of_red, ..) = ask(&mut worker, alone(8, &red));
    for (found, expected) in [(&again, &of_blue), (&once_more, &of_blue), (&other, &of_red)] {
        assert!(agree(expected, found), "{expected:?} {found:?}");
    }
    // Of an image that a prompt ends with, nothing is of use without the rest: its last vector must be computed again.
    let last = |id, deterministic| Generate {
        deterministic,
        ..seeing(id, vec![text("There is a ship in this harbour, and above it "), image(&green)])
    };
    let (expected, length, _) = ask(&mut worker, last(30, true));
    ask(&mut worker, last(31, false));
    let (found, _, timings) = ask(&mut worker, last(32, false));
    assert_eq!(length - timings.cached_tokens, if marks == 0 { vectors } else { 1 });
    assert!(agree(&expected, &found), "{expected:?} {found:?}");
    // Two images, in both orders, together with a text and with each other.
    let two =
        |one: &str, other: &str| vec![image(one), text(" and then "), image(other), text(" are the colours of the")];
    let words = |id, deterministic| Generate {
        probabilities: Some(5),
        deterministic,
        ..generate(id, "The captain of the old ship told me that", 24)
    };
    let (plain, ..) = ask(&mut worker, words(10, true));
    let (first, ..) = ask(&mut worker, Generate { deterministic: true, ..seeing(11, two(&blue, &green)) });
    let (second, ..) = ask(&mut worker, Generate { deterministic: true, ..seeing(12, two(&green, &blue)) });
    assert!(differs(&first, &second));
    let together = [words(20, false), seeing(21, two(&blue, &green)), seeing(22, two(&green, &blue)), words(23, false)];
    for request in together {
        worker.send(&ToWorker::Generate(Box::new(request)));
    }
    let messages = worker.until_all_finished(&[20, 21, 22, 23]);
    for (id, expected) in [(20, &plain), (21, &first), (22, &second), (23, &plain)] {
        assert!(agree(expected, &told(&messages, id)), "{id}: {expected:?} {:?}", told(&messages, id));
    }
    worker.shut_down();
}

#[test]
fn images_are_part_of_prompts_and_of_what_is_known_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let projector = written(folder.path(), "mmproj.gguf", &made::projector(Projector::Llava, SMOL_WIDTH));
    check(&dist::model(), &projector, (16, 0));
}

#[test]
fn images_whose_vectors_look_at_each_other_are_computed_as_a_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let projector = written(folder.path(), "mmproj.gguf", &made::projector(Projector::Gemma, SMOL_WIDTH));
    // The marks around an image are no tokens of this model: they are text.
    let (mut worker, _) = TestWorker::loaded(512, 1);
    let marks = ["<start_of_image>", "<end_of_image>"].map(|mark| {
        worker.send(&ToWorker::Tokenize { id: 1, prompt: vec![text(mark)], adds_bos: false });
        match worker.receive() {
            Some(FromWorker::Tokens { tokens, .. }) => u32::try_from(tokens.len()).expect("few"),
            other => panic!("{other:?}"),
        }
    });
    check(&dist::model(), &projector, (4, marks[0] + marks[1]));
}

#[test]
fn images_with_rows_and_columns_take_fewer_positions_than_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = written(folder.path(), "model.gguf", &made::qwen());
    let projector = written(folder.path(), "mmproj.gguf", &made::projector(Projector::Qwen, made::QWEN_WIDTH));
    // Each mark begins with a space, which has three bytes in this vocabulary.
    let marks = "___<|vision_start|>___<|vision_end|>".len();
    // At least eight vectors: what is smaller is made larger.
    check(&model, &projector, (9, u32::try_from(marks).expect("few")));
}

#[test]
fn what_is_no_image_is_refused_and_harms_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let projector = written(folder.path(), "mmproj.gguf", &made::projector(Projector::Llava, SMOL_WIDTH));
    let (mut worker, _) = TestWorker::loaded_as(load(&dist::model(), &projector, 2));
    for (id, data) in [(1, "###"), (2, "aGVsbG8="), (3, "")] {
        let reason = refused(&mut worker, seeing(id, vec![text("See "), image(data)]));
        assert!(matches!(&reason, Rejection::Invalid { message } if message.starts_with("image 1:")), "{reason:?}");
    }
    // One that is cancelled while it is read, and others that are too many for the context.
    worker.send(&ToWorker::Generate(Box::new(seeing(4, vec![image(&picture(BLUE, (2000, 2000)))]))));
    worker.send(&ToWorker::Cancel { id: 4 });
    worker.until_finished(4);
    let many = std::iter::repeat_n(image(&picture(BLUE, (8, 8))), 64).collect();
    assert_eq!(refused(&mut worker, seeing(5, many)), Rejection::ContextExceeded { needed: 1024, available: 1024 });
    let (tokens, ..) = ask(&mut worker, seeing(6, vec![text("See "), image(&picture(BLUE, (8, 8)))]));
    assert_eq!(tokens.len(), 8, "an image may be what a prompt ends with");
    worker.shut_down();
    let (mut worker, facts) = TestWorker::loaded(512, 1);
    assert!(!facts.sees_images);
    let reason = refused(&mut worker, seeing(1, vec![image(&picture(BLUE, (8, 8)))]));
    assert!(matches!(&reason, Rejection::Invalid { message } if message.contains("no images")), "{reason:?}");
}

#[test]
fn what_is_no_projector_fails_the_load_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = written(folder.path(), "other.gguf", &made::projector(Projector::Llava, 64));
    for wrong in [other, dist::model(), folder.path().join("none.gguf")] {
        let message = failure(load(&dist::model(), &wrong, 1));
        assert!(message.contains(&wrong.display().to_string()), "{message}");
    }
}

#[test]
fn adapters_count_for_the_requests_that_name_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = [1, 2].map(|seed| written(folder.path(), &format!("{seed}.gguf"), &made::adapter(seed)));
    let adapters = paths.map(|path| path.display().to_string()).to_vec();
    let (mut worker, _) = TestWorker::loaded_as(Load { adapters, ..load_of(&dist::model(), 1024, 4) });
    let (plain_worker, _) = &mut TestWorker::loaded(1024, 1);
    let with = |id, uses: &[(u32, f32)], deterministic| Generate {
        adapters: uses.iter().map(|&(adapter, scale)| AdapterUse { adapter, scale }).collect(),
        probabilities: Some(5),
        deterministic,
        ..generate(id, "The captain of the old ship told me a long story about the sea, and then he said that", 12)
    };
    let sets: [&[(u32, f32)]; 4] = [&[], &[(0, 1.0)], &[(1, 1.0)], &[(0, 0.5), (1, -0.5)]];
    let alone: Vec<_> = (1u64..).zip(sets).map(|(id, set)| ask(&mut worker, with(id, set, true)).0).collect();
    assert_eq!(ask(plain_worker, with(1, &[], true)).0, alone[0], "adapters that nobody names do not count");
    for (at, one) in alone.iter().enumerate() {
        for other in &alone[..at] {
            assert!(
                (one[0].top[0].logprob - other[0].top[0].logprob).abs() > 1e-3
                    || one[0].top[0].token != other[0].top[0].token
            );
        }
    }
    // All at once, twice: no request takes what was computed with other adapters.
    for round in [100, 200] {
        for (id, set) in (round..).zip(sets) {
            worker.send(&ToWorker::Generate(Box::new(with(id, set, false))));
        }
        let messages = worker.until_all_finished(&(round..).take(sets.len()).collect::<Vec<_>>());
        for (id, expected) in (round..).zip(&alone) {
            assert!(agree(expected, &told(&messages, id)), "{id}: {expected:?} {:?}", told(&messages, id));
        }
    }
    // Nor one that comes when another has just ended, whose place is free.
    let other =
        "A lighthouse stands on a rock by the sea, and every night its keeper climbs all of its stairs to see whether";
    let same = |id, set: &[(u32, f32)]| Generate { prompt: vec![text(other)], ..with(id, set, false) };
    ask(&mut worker, same(250, sets[0]));
    assert_eq!(
        [(251, sets[1]), (252, sets[2])].map(|(id, set)| ask(&mut worker, same(id, set)).2.cached_tokens),
        [0, 0]
    );
    assert!(ask(&mut worker, same(253, sets[0])).2.cached_tokens > 0);
    // The same set takes it.
    let (again, length, timings) = ask(&mut worker, with(300, sets[3], false));
    assert!(timings.cached_tokens == length - 1 && agree(&alone[3], &again), "{timings:?}");
    let reason = refused(&mut worker, with(301, &[(2, 1.0)], false));
    assert!(matches!(&reason, Rejection::Invalid { message } if message.contains("there are 2")), "{reason:?}");
    worker.shut_down();
}

#[test]
fn what_is_no_adapter_fails_the_load_with_its_name() {
    for wrong in [dist::model().display().to_string(), "/none.gguf".to_owned()] {
        let message = failure(Load { adapters: vec![wrong.clone()], ..load_of(&dist::model(), 512, 1) });
        assert!(message.contains(&wrong), "{message}");
    }
}

/// What it says when the load fails.
fn failure(load: Load) -> String {
    let mut worker = TestWorker::start();
    worker.send(&ToWorker::Load(Box::new(load)));
    match std::iter::from_fn(|| worker.receive()).find(|it| !matches!(it, FromWorker::Loading { .. })) {
        Some(FromWorker::LoadFailed { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_model_that_guesses_is_asked_as_far_as_it_pays_and_changes_nothing() {
    let draft_model = Some(dist::model().display().to_string());
    // It guesses for itself: always right, and as slow.
    let (mut worker, facts) = TestWorker::loaded_as(Load { draft_model, ..load_of(&dist::model(), 1024, 3) });
    let (_, plain) = TestWorker::loaded(1024, 3);
    assert_eq!(facts.buffers, plain.buffers, "what it takes is not counted as the model's");
    let words =
        |id, deterministic, text: &str| Generate { probabilities: Some(5), deterministic, ..generate(id, text, 40) };
    let texts = ["The capital of France is", "Once upon a time there was a ship that", "def fibonacci(n):"];
    let references: Vec<_> = (1u64..).zip(texts).map(|(id, text)| ask(&mut worker, words(id, true, text)).0).collect();
    let (found, _, timings) = ask(&mut worker, words(10, false, texts[0]));
    assert!(agree(&references[0], &found), "{:?} {found:?}", references[0]);
    assert!(timings.accepted_tokens > 0 && timings.drafted_tokens < 30, "{timings:?}");
    for (id, text) in (20u64..).zip(texts) {
        worker.send(&ToWorker::Generate(Box::new(words(id, false, text))));
    }
    let messages = worker.until_all_finished(&[20, 21, 22]);
    for (id, expected) in (20u64..).zip(&references) {
        assert!(agree(expected, &told(&messages, id)), "{id}: {expected:?} {:?}", told(&messages, id));
    }
    let none = Generate { most_guesses: Some(0), ..words(30, false, texts[1]) };
    assert_eq!(ask(&mut worker, none).2.drafted_tokens, 0);
    worker.shut_down();
}

#[test]
fn a_model_with_other_tokens_cannot_guess() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = written(folder.path(), "other.gguf", &made::qwen()).display().to_string();
    for (wrong, why) in
        [(other, "cannot guess"), (folder.path().join("none.gguf").display().to_string(), "there is no file")]
    {
        let message = failure(Load { draft_model: Some(wrong.clone()), ..load_of(&dist::model(), 512, 1) });
        assert!(message.contains(&wrong) && message.contains(why), "{message}");
    }
}

#[test]
fn how_many_threads_are_best_is_measured_once_and_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let profiles = folder.path().join("threads");
    let load = || Load {
        thread_choices: vec![2, 1],
        thread_profiles: Some(profiles.display().to_string()),
        ..load_of(&dist::model(), 512, 1)
    };
    let (worker, facts) = TestWorker::loaded_as(load());
    assert!([facts.threads, facts.threads_batch].iter().all(|it| [1, 2].contains(it)), "{facts:?}");
    worker.shut_down();
    let files: Vec<PathBuf> =
        fs_err::read_dir(&profiles).expect("a folder").map(|it| it.expect("a file").path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    // What is there is taken as it is.
    fs_err::write(file, r#"{"answer":1,"prompt":2}"#).expect("writes");
    let (mut worker, facts) = TestWorker::loaded_as(load());
    assert_eq!((facts.threads, facts.threads_batch), (1, 2));
    assert_eq!(ask(&mut worker, generate(1, "The capital of France is", 4)).2.cached_tokens, 0);
    worker.shut_down();
    // One number is no choice, and nothing is measured for it.
    let (worker, facts) = TestWorker::loaded_as(Load { thread_choices: vec![2], ..load() });
    assert_eq!((facts.threads, facts.threads_batch), (1, 1), "as it was told");
    worker.shut_down();
}
