//! Models that keep something else of a prompt than the keys and values of all its tokens, with a real worker: what recurrent layers keep
//! cannot be cut back, and layers with a window forget. What is known of a prompt is used all the same, and the answer is that of the
//! prompt alone. Their weights are random: what they say makes no sense, and is always the same.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use cortex_api::worker::{FromWorker, Generate, Load, PromptCache, Segment, Timings, ToWorker, TokenProbabilities};
use cortex_test::{
    made,
    numbers::Numbers,
    worker::{TestWorker, generate, load_of, told},
};
use std::path::{Path, PathBuf};

/// Bytes of checkpoints: more than enough for this model, whose states take 25 KiB.
const CHECKPOINTS: u64 = 1 << 20;

/// What a model keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Three layers of four keep a state.
    States,
    /// Five layers of six keep the last tokens.
    Window,
    /// As the first, with a layer for multi-token prediction.
    StatesAhead,
    /// As the first, with a small model that guesses.
    StatesDrafted,
}

impl Kept {
    /// Checks how much was known of a prompt that has so many tokens up to the last end of a message: those of layers with a state, which
    /// can be cut there only, and up to the next difference of others.
    #[track_caller]
    fn check(self, found: u32, end: u32) {
        match self {
            Self::States | Self::StatesAhead | Self::StatesDrafted => assert_eq!(found, end),
            Self::Window => assert!((end..end + 16).contains(&found), "{found} {end}"),
        }
    }

    fn model(self, folder: &Path) -> PathBuf {
        fs_err::create_dir_all(folder).unwrap();
        let path = folder.join("model.gguf");
        // What is known of a file does not count for another one.
        if !path.exists() {
            let file = match self {
                Self::States => made::hybrid(),
                Self::Window => made::windowed(),
                Self::StatesAhead | Self::StatesDrafted => made::predicting(),
            };
            fs_err::write(&path, file).unwrap();
        }
        path
    }

    fn load(self, folder: &Path, parallel: u32) -> Load {
        // Guesses are cheap, whatever else the machine does.
        let (mtp, entry_cost) = (self == Self::StatesAhead, Some(20));
        let load =
            Load { checkpoint_bytes: CHECKPOINTS, mtp, entry_cost, ..load_of(&self.model(folder), 2048, parallel) };
        if self != Self::StatesDrafted {
            return load;
        }
        let small = folder.join("small.gguf");
        if !small.exists() {
            fs_err::write(&small, made::guessing()).unwrap();
        }
        Load { draft_model: Some(small.display().to_string()), ..load }
    }

    fn keeping(self, folder: &Path, parallel: u32) -> Load {
        let prompt_cache = Some(PromptCache { folder: folder.join("kept").display().to_string(), bytes: 1 << 30 });
        Load { prompt_cache, ..self.load(folder, parallel) }
    }
}

/// From the end of the last message on.
const END: &str = "</s><s>says: ";

/// A conversation: messages between marks, each token a byte.
fn prompt(messages: &[&str]) -> String {
    let said: String = messages.iter().flat_map(|message| ["<s>", message, "</s>"]).collect();
    said + "<s>says: "
}

fn system(name: &str) -> String {
    format!("You keep the books of the harbour of {name}, where ships pay by their length and by their masts. ")
        .repeat(4)
}

fn ask(worker: &mut TestWorker, request: Generate) -> (Vec<TokenProbabilities>, Timings) {
    let id = request.id;
    worker.send(&ToWorker::Generate(Box::new(request)));
    let messages = worker.until_finished(id);
    (told(&messages, id), timings(&messages, id))
}

fn timings(messages: &[FromWorker], of: u64) -> Timings {
    let found = messages.iter().find_map(|it| match it {
        FromWorker::Finished { id, timings, .. } if *id == of => Some(*timings),
        _ => None,
    });
    found.expect("it has ended")
}

fn request(id: u64, prompt: &str) -> Generate {
    Generate { probabilities: Some(5), ..generate(id, prompt, 12) }
}

/// The answer when nothing is known of the prompt and nothing else is computed with it.
fn reference(worker: &mut TestWorker, id: u64, prompt: &str) -> Vec<TokenProbabilities> {
    ask(worker, Generate { deterministic: true, ..request(id, prompt) }).0
}

/// How far the logarithms of probabilities may be apart: the weights have 32 bits, and only the order of sums differs.
const NEAR: f32 = 0.02;

/// Whether two answers are the same, with the same probabilities, up to where the reference had to choose between two that are as likely.
fn same(reference: &[TokenProbabilities], other: &[TokenProbabilities]) -> bool {
    for (reference, other) in reference.iter().zip(other) {
        let of_other = |token: i32| other.top.iter().find(|it| it.token == token).map(|it| it.logprob);
        let (best, second) = (&reference.top[0], &reference.top[1]);
        let is_near = of_other(best.token).is_some_and(|logprob| (logprob - best.logprob).abs() < NEAR);
        if !is_near {
            return false;
        }
        if reference.chosen.token != other.chosen.token {
            return best.logprob - second.logprob < NEAR;
        }
    }
    reference.len() == other.len()
}

/// Tokens of a text: marks, and bytes, of which a space has three in such a vocabulary.
fn length(text: &str) -> u32 {
    let marks = 2 * text.matches("<s>").count() + 3 * text.matches("</s>").count();
    u32::try_from(text.len() - marks + 2 * text.matches(' ').count()).unwrap()
}

/// An answer is that of its prompt alone.
#[track_caller]
fn check_answer(alone: &mut TestWorker, id: u64, prompt: &str, found: &[TokenProbabilities]) {
    let expected = reference(alone, id, prompt);
    assert!(same(&expected, found), "{expected:?} {found:?}");
}

#[test]
fn a_turn_goes_on_where_the_last_prompt_ended_although_its_answer_is_another_one() {
    turns(Kept::States);
}

#[test]
fn a_turn_goes_on_where_the_last_prompt_ended_although_its_answer_is_another_one_with_guesses() {
    turns(Kept::StatesAhead);
}

#[test]
fn a_turn_goes_on_where_the_last_prompt_ended_although_its_answer_is_another_one_with_a_draft_model() {
    turns(Kept::StatesDrafted);
}

#[test]
fn a_turn_goes_on_where_the_last_prompt_ended_although_its_answer_is_another_one_in_windows() {
    turns(Kept::Window);
}

fn turns(kept: Kept) {
    let scratch = tempfile::tempdir().unwrap();
    let (mut worker, _) = TestWorker::loaded_as(kept.load(scratch.path(), 1));
    let (mut alone, _) = TestWorker::loaded_as(kept.load(scratch.path(), 1));
    let system = system("Bergen");
    let mut messages = vec![system.as_str(), "Who pays most?"];
    let (_, first) = ask(&mut worker, request(1, &prompt(&messages)));
    assert_eq!(first.cached_tokens, 0);
    // What the model has really said is left out, as templates leave out what it has thought.
    for (answer, question) in [("The longest one.", "And then?"), ("The second one.", "And after that one?")] {
        let shared = length(&prompt(&messages)) - length(END);
        messages.extend([answer, question]);
        let text = prompt(&messages);
        let (found, timings) = ask(&mut worker, request(2, &text));
        kept.check(timings.cached_tokens, shared);
        check_answer(&mut alone, 3, &text, &found);
    }
    // The same prompt again needs its end only.
    let text = prompt(&messages);
    let (again, timings) = ask(&mut worker, request(4, &text));
    kept.check(timings.cached_tokens, length(&text) - length(END));
    check_answer(&mut alone, 5, &text, &again);
    // What was said as it was said goes on from the end.
    let said: Vec<u8> = again.iter().flat_map(|it| it.chosen.bytes.clone()).collect();
    if let Ok(said) = String::from_utf8(said) {
        let longer = format!("{text}{said}</s><s>Why?</s><s>says: ");
        let (_, timings) = ask(&mut worker, request(6, &longer));
        assert!(timings.cached_tokens >= length(&text), "{timings:?}");
    }
}

#[test]
fn a_beginning_that_several_have_is_computed_once_whenever_they_come() {
    sharers(Kept::States);
}

#[test]
fn a_beginning_that_several_have_is_computed_once_whenever_they_come_with_guesses() {
    sharers(Kept::StatesAhead);
}

#[test]
fn a_beginning_that_several_have_is_computed_once_whenever_they_come_in_windows() {
    sharers(Kept::Window);
}

fn sharers(kept: Kept) {
    let scratch = tempfile::tempdir().unwrap();
    let (mut worker, _) = TestWorker::loaded_as(kept.load(scratch.path(), 4));
    let (mut alone, _) = TestWorker::loaded_as(kept.load(scratch.path(), 1));
    let system = system("Oslo");
    let questions = ["Who?", "How many of them?", "Since when do they?", "And where from do they come?"];
    let text = |at: usize| prompt(&[&system, questions[at]]);
    for at in 0..questions.len() {
        worker.send(&ToWorker::Generate(Box::new(request(at as u64, &text(at)))));
    }
    let messages = worker.until_all_finished(&[0, 1, 2, 3]);
    let shared = length(&format!("<s>{system}"));
    let cached: Vec<u32> = (0..4).map(|id| timings(&messages, id).cached_tokens).collect();
    assert_eq!(cached[0], 0);
    // The first mark of the question is common too.
    assert!(cached[1..].iter().all(|&cached| cached >= shared), "{cached:?} {shared}");
    for at in 0..questions.len() {
        let expected = reference(&mut alone, 50 + at as u64, &text(at));
        let found = told(&messages, at as u64);
        assert!(same(&expected, &found), "{expected:?} {found:?}");
    }
    // Later ones have it too, from the place where the first message ended.
    let (_, later) = ask(&mut worker, request(90, &prompt(&[&system, "Why is that so?"])));
    assert!(later.cached_tokens >= shared, "{later:?}");
    let (_, other) = ask(&mut worker, request(91, &prompt(&["Another one.", "Who?"])));
    assert!(other.cached_tokens <= 1, "the mark at the beginning: {other:?}");
}

#[test]
fn a_process_that_ends_leaves_the_place_where_the_next_turn_goes_on() {
    restart(Kept::States);
}

#[test]
fn a_process_that_ends_leaves_the_place_where_the_next_turn_goes_on_with_guesses() {
    restart(Kept::StatesAhead);
}

#[test]
fn a_process_that_ends_leaves_the_place_where_the_next_turn_goes_on_in_windows() {
    restart(Kept::Window);
}

fn restart(kept: Kept) {
    let scratch = tempfile::tempdir().unwrap();
    let (mut alone, _) = TestWorker::loaded_as(kept.load(scratch.path(), 1));
    let system = system("Turku");
    let first = prompt(&[&system, "Who pays most?"]);
    let (mut worker, _) = TestWorker::loaded_as(kept.keeping(scratch.path(), 1));
    ask(&mut worker, request(1, &first));
    worker.shut_down();
    let (mut worker, _) = TestWorker::loaded_as(kept.keeping(scratch.path(), 1));
    let text = prompt(&[&system, "Who pays most?", "Nobody.", "Really?"]);
    let (found, timings) = ask(&mut worker, request(2, &text));
    assert_eq!(timings.restored_tokens, length(&first) - length(END), "{timings:?}");
    check_answer(&mut alone, 3, &text, &found);
    // And it can be taken back to that place again.
    let text = prompt(&[&system, "Who pays most?", "All.", "All of them?"]);
    let (found, timings) = ask(&mut worker, request(4, &text));
    kept.check(timings.cached_tokens, length(&first) - length(END));
    check_answer(&mut alone, 5, &text, &found);
}

#[test]
fn a_prompt_that_goes_on_amid_an_answer_has_what_was_there() {
    for kept in [Kept::States, Kept::Window, Kept::StatesAhead, Kept::StatesDrafted] {
        let scratch = tempfile::tempdir().unwrap();
        let (mut worker, _) = TestWorker::loaded_as(kept.keeping(scratch.path(), 1));
        let (mut alone, _) = TestWorker::loaded_as(kept.load(scratch.path(), 1));
        let text = prompt(&[&system("Malmo"), "Who pays most?"]);
        let (said, _) = ask(&mut worker, Generate { probabilities: Some(5), ..generate(1, &text, 300) });
        let tokens: Vec<i32> = said.iter().take(100).map(|it| it.chosen.token).collect();
        let mut longer = request(2, &text);
        longer.prompt.extend([
            Segment::Tokens { tokens },
            Segment::Text { text: " and others</s><s>says: ".into(), special: true },
        ]);
        let (expected, _) = ask(&mut alone, Generate { deterministic: true, ..longer.clone() });
        let (found, timings) = ask(&mut worker, longer);
        assert!(timings.cached_tokens >= length(&text) - length(END), "{timings:?}");
        assert!(same(&expected, &found), "{kept:?}: {expected:?} {found:?}");
    }
}

#[test]
fn what_the_next_turn_begins_with_is_computed_ahead_in_windows_only() {
    for kept in [Kept::Window, Kept::States, Kept::StatesAhead] {
        let scratch = tempfile::tempdir().unwrap();
        let (mut worker, _) = TestWorker::loaded_as(kept.load(scratch.path(), 2));
        let (mut alone, _) = TestWorker::loaded_as(kept.load(scratch.path(), 1));
        let first = prompt(&[&system("Turku"), "Who pays most?"]);
        let before = worker.steps();
        let next_turn = "</s><s>asks: ".to_owned();
        let (said, _) = ask(&mut worker, Generate { next_turn, most_guesses: Some(0), ..request(1, &first) });
        let tokens: Vec<i32> = said.iter().map(|it| it.chosen.token).collect();
        let mut turn = request(2, &first);
        let rest = "</s><s>asks: And who pays least?</s><s>says: ";
        turn.prompt.extend([Segment::Tokens { tokens }, Segment::Text { text: rest.into(), special: true }]);
        if kept == Kept::Window {
            // Two for the prompt, one for each token but the last, and what comes ahead.
            worker.until_steps(before + 2 + 11 + 1);
        }
        let (expected, _) = ask(&mut alone, Generate { deterministic: true, ..turn.clone() });
        let (found, timings) = ask(&mut worker, turn);
        assert!(same(&expected, &found), "{kept:?}: {expected:?} {found:?}");
        let there = length(&first) + 11;
        let ahead = if kept == Kept::Window { 1 + length("</s><s>asks: ") } else { 0 };
        assert_eq!(timings.cached_tokens, there + ahead, "{kept:?}");
    }
}

#[test]
fn where_prompts_without_marks_parted_the_next_one_goes_on() {
    let scratch = tempfile::tempdir().unwrap();
    // As ChatML is for a model that does not know its marks.
    let text = |question: &str| format!("|system: {}|user: {question}|says: ", system("Lund"));
    let shared = length(&text("")) - length("|says: ");
    let (mut worker, _) = TestWorker::loaded_as(Kept::States.load(scratch.path(), 3));
    let (mut alone, _) = TestWorker::loaded_as(Kept::States.load(scratch.path(), 1));
    let questions =
        ["Who pays the most of all of them?", "And who pays nothing at all?", "Does the weather count?", "Is it true?"];
    let mut found = vec![];
    for (id, question) in (1..).zip(questions) {
        let text = text(question);
        let (said, timings) = ask(&mut worker, request(id, &text));
        check_answer(&mut alone, 100 + id, &text, &said);
        found.push(timings.cached_tokens);
    }
    assert_eq!(found, [0, 0, shared, shared]);
}

#[test]
fn what_comes_from_disk_has_no_checkpoints_of_what_was_there_before() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut worker, _) = TestWorker::loaded_as(Kept::States.keeping(scratch.path(), 1));
    let (mut alone, _) = TestWorker::loaded_as(Kept::States.load(scratch.path(), 1));
    let (long, short) = (system("Visby"), "Ships of this harbour are painted blue every year.");
    ask(&mut worker, request(1, &prompt(&[&long, "Who pays most?"])));
    // Its first message ends where nothing of the other conversation does.
    ask(&mut worker, request(2, &prompt(&[short, &system("Narvik")])));
    let (_, timings) = ask(&mut worker, request(3, &prompt(&[&long, "Who pays most?", "Nobody.", "Really?"])));
    assert!(timings.restored_tokens > 256, "{timings:?}");
    // Parts from what was restored a little behind the end of that first message.
    let text = prompt(&[&long[..100], "And who is it?"]);
    let (found, _) = ask(&mut worker, request(4, &text));
    check_answer(&mut alone, 5, &text, &found);
}

#[test]
fn without_room_for_states_everything_is_computed_again_and_right() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut worker, _) = TestWorker::loaded_as(Load { checkpoint_bytes: 0, ..Kept::States.load(scratch.path(), 1) });
    let system = system("Riga");
    ask(&mut worker, request(1, &prompt(&[&system, "Who?"])));
    let text = prompt(&[&system, "Who?", "Nobody.", "Really?"]);
    let (found, timings) = ask(&mut worker, request(2, &text));
    assert_eq!(timings.cached_tokens, 0);
    let expected = reference(&mut worker, 3, &text);
    assert!(same(&expected, &found), "{expected:?} {found:?}");
}

/// Mixes of requests; in so many of them at least something that was there has to be of use.
const MIXES: usize = 40;
const WITH_REUSE: usize = 20;

#[test]
fn whatever_runs_together_an_answer_is_that_of_its_prompt_alone() {
    mixes(Kept::States);
}

#[test]
fn whatever_runs_together_an_answer_is_that_of_its_prompt_alone_with_guesses() {
    mixes(Kept::StatesAhead);
}

#[test]
fn whatever_runs_together_an_answer_is_that_of_its_prompt_alone_with_a_draft_model() {
    mixes(Kept::StatesDrafted);
}

#[test]
fn whatever_runs_together_an_answer_is_that_of_its_prompt_alone_in_windows() {
    mixes(Kept::Window);
}

fn mixes(kept: Kept) {
    let scratch = tempfile::tempdir().unwrap();
    let (mut alone, _) = TestWorker::loaded_as(kept.load(scratch.path(), 1));
    // Room for three states: most have to go.
    let tight = Load { checkpoint_bytes: 80_000, ..kept.keeping(scratch.path(), 3) };
    let (mut worker, _) = TestWorker::loaded_as(tight.clone());
    let mut numbers = Numbers(3);
    let (mut id, mut reuse) = (0, 0);
    for mix in 0..MIXES {
        if mix % 10 == 9 {
            worker.shut_down();
            worker = TestWorker::loaded_as(tight.clone()).0;
        }
        let mut sent: Vec<(u64, String)> = vec![];
        let mut messages = vec![];
        for _ in 0..2 + numbers.index(3) {
            id += 1;
            let system = system(["Bergen", "Oslo"][numbers.index(2)]);
            let nonce = format!("Who is ship{}?", numbers.below(90_000));
            let turns = ["Who?", "The long one.", "And then?", "The short one.", "Why?", "Because."];
            let kept = 2 * numbers.index(3);
            let parts: Vec<&str> =
                std::iter::once(system.as_str()).chain(turns[..kept].iter().copied()).chain([nonce.as_str()]).collect();
            let text = prompt(&parts);
            worker.send(&ToWorker::Generate(Box::new(request(id, &text))));
            sent.push((id, text));
            if numbers.below(3) == 0 {
                let open = sent.iter().map(|(id, _)| *id).filter(|id| !has_ended(&messages, *id)).collect::<Vec<_>>();
                messages.extend(worker.until_all_finished(&open));
            }
        }
        let open = sent.iter().map(|(id, _)| *id).filter(|id| !has_ended(&messages, *id)).collect::<Vec<_>>();
        messages.extend(worker.until_all_finished(&open));
        reuse += usize::from(sent.iter().any(|(id, _)| timings(&messages, *id).cached_tokens > 100));
        for (id, text) in sent {
            let expected = reference(&mut alone, 1_000_000 + id, &text);
            let found = told(&messages, id);
            assert!(same(&expected, &found), "mix {mix}: {expected:?} {found:?}");
        }
    }
    assert!(reuse >= WITH_REUSE, "{reuse}");
}

fn has_ended(messages: &[FromWorker], wanted: u64) -> bool {
    messages.iter().any(|it| matches!(it, FromWorker::Finished { id, .. } if *id == wanted))
}

#[test]
fn a_layer_for_multi_token_prediction_guesses_and_the_answer_is_the_same() {
    guesses(Kept::StatesAhead);
}

#[test]
fn a_small_model_guesses_for_one_with_states_and_the_answer_is_the_same() {
    guesses(Kept::StatesDrafted);
}

fn guesses(kept: Kept) {
    let scratch = tempfile::tempdir().unwrap();
    let (mut worker, _) = TestWorker::loaded_as(kept.load(scratch.path(), 2));
    let (mut drafted, mut accepted) = (0, 0);
    for (at, name) in ["Bergen", "Oslo", "Turku"].into_iter().enumerate() {
        let text = prompt(&[&system(name), "Who pays most?"]);
        let long = |id| Generate { probabilities: Some(5), ..generate(id, &text, 60) };
        let (found, timings) = ask(&mut worker, long(at as u64));
        drafted += timings.drafted_tokens;
        accepted += timings.accepted_tokens;
        let (expected, none) = ask(&mut worker, Generate { deterministic: true, ..long(10 + at as u64) });
        assert!(same(&expected, &found), "{expected:?} {found:?}");
        assert_eq!(none.drafted_tokens, 0);
        // Who wants none gets none.
        let (_, none) = ask(&mut worker, Generate { most_guesses: Some(0), ..long(20 + at as u64) });
        assert_eq!(none.drafted_tokens, 0);
    }
    assert!(accepted > 20 && drafted > accepted, "{accepted} of {drafted}");
}

#[test]
fn a_model_without_such_layers_is_not_loaded_with_them() {
    let scratch = tempfile::tempdir().unwrap();
    let mut worker = TestWorker::start();
    let load = Load { mtp: true, ..Kept::States.load(scratch.path(), 1) };
    worker.send(&ToWorker::Load(Box::new(load)));
    let failed = std::iter::repeat_with(|| worker.receive().expect("an answer"))
        .find(|message| !matches!(message, FromWorker::Loading { .. }));
    let Some(FromWorker::LoadFailed { message, .. }) = failed else { panic!("{failed:?}") };
    assert!(message.contains("multi-token prediction"), "{message}");
    // And a file that has them loads without.
    let (mut worker, _) =
        TestWorker::loaded_as(Load { mtp: false, ..Kept::StatesAhead.load(&scratch.path().join("other"), 1) });
    let (_, timings) = ask(&mut worker, request(1, &prompt(&["Who?"])));
    assert_eq!(timings.drafted_tokens, 0);
}
