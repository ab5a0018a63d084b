//! Random mixes of requests that begin alike, that repeat themselves, and whose beginnings are on disk, run together and one after the
//! other: each answer is that of its prompt alone.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use cortex_api::worker::{FromWorker, Generate, Load, PromptCache, Timings, ToWorker, TokenProbabilities};
use cortex_test::{
    dist,
    numbers::Numbers,
    worker::{TestWorker, agree, generate, load_of, told},
};
use std::path::Path;

/// Mixes of two or three requests each.
const MIXES: u64 = 200;
/// After so many mixes the process ends, and another one goes on with what is on disk.
const LIFE: u64 = 8;
/// Mixes at least in which something that others had computed was of use; in which a guess was right; and in which a beginning was
/// read from disk. With fewer the test would prove nothing.
const WITH_REUSE: usize = 100;
const WITH_GUESSES: usize = 50;
const WITH_DISK: usize = 20;
/// Of a hundred mixes, those at most in which an answer may part from its reference where the model hesitated between two tokens: a
/// larger share would hide something.
const NEAR_TIES: usize = 10;

const PIECES: [&str; 5] = [
    "You keep the books of a harbour, where ships pay by their length. ",
    "The northern pier is for ferries, the southern one for fishing boats. ",
    "A ship that is late waits outside until the tide has turned. ",
    "Answer in one short sentence. Do not repeat the question. ",
    "The keeper of the lighthouse writes down every ship that passes. ",
];

/// What a request of a mix is like.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A system prompt that others have too.
    Usual,
    /// One that is long enough to be kept on disk.
    Long,
    /// A text that repeats itself, so that its end can be guessed.
    Repeating,
}

/// A request of a mix, and a word of its last message that nobody else has.
fn request(numbers: &mut Numbers, kind: Kind, id: u64) -> (Generate, String) {
    // None is the beginning of another one.
    let nonce = format!("ship{}", 10_000 + numbers.below(90_000));
    let tokens = 4 + u32::try_from(numbers.below(5)).unwrap();
    let first = numbers.index(2);
    let piece = |at: usize| PIECES[(first + at) % PIECES.len()];
    let text = if kind == Kind::Repeating {
        let (one, other) = (numbers.below(90) + 10, numbers.below(90) + 10);
        let line = format!("It has {one} sails and {other} oars.\n");
        format!("Of {nonce}:\n{line}{line}It has {one}")
    } else {
        let count = if kind == Kind::Long { 20 } else { 2 };
        let system: String = (0..count).map(piece).collect();
        format!(
            "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWho is {nonce}?<|im_end|>\n<|im_start|>assistant\n"
        )
    };
    (Generate { probabilities: Some(5), ..generate(id, &text, tokens) }, nonce)
}

/// A worker that keeps beginnings of prompts in a folder.
fn keeping(folder: &Path) -> TestWorker {
    let prompt_cache = Some(PromptCache { folder: folder.join("model").display().to_string(), bytes: 1 << 30 });
    TestWorker::loaded_as(Load { prompt_cache, entry_cost: Some(20), ..load_of(&dist::model(), 512, 4) }).0
}

/// How many mixes showed what.
#[derive(Debug, Default)]
struct Seen {
    reuse: usize,
    guesses: usize,
    disk: usize,
    near_ties: usize,
}

#[test]
fn whatever_runs_together_an_answer_is_that_of_its_prompt_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(7);
    let (mut alone, _) = TestWorker::loaded(512, 1);
    let mut together = keeping(scratch.path());
    let (mut id, mut seen) = (0, Seen::default());
    for mix in 0..MIXES {
        if mix > 0 && mix % LIFE == 0 {
            together.shut_down();
            together = keeping(scratch.path());
        }
        let requests: Vec<(Generate, String)> = (0..2 + numbers.below(2))
            .map(|at| {
                id += 1;
                let kind = match numbers.below(4) {
                    _ if at == 0 && mix % LIFE == 0 => Kind::Long,
                    0..=2 if at > 0 => Kind::Repeating,
                    _ => Kind::Usual,
                };
                request(&mut numbers, kind, id)
            })
            .collect();
        // Alone in its batches, and nothing of it is there before; computed while the others are.
        for (request, _) in &requests {
            alone.send(&ToWorker::Generate(Box::new(Generate { deterministic: true, ..request.clone() })));
        }
        let ids: Vec<u64> = requests.iter().map(|(request, _)| request.id).collect();
        let mut messages = vec![];
        for (at, (request, _)) in requests.iter().enumerate() {
            together.send(&ToWorker::Generate(Box::new(request.clone())));
            // Some come when others have ended, some amid their answers.
            if numbers.below(3) == 0 {
                messages.extend(together.until_all_finished(&open(&messages, &ids[..=at])));
            }
        }
        messages.extend(together.until_all_finished(&open(&messages, &ids)));
        let references = alone.until_all_finished(&ids);
        let timings: Vec<Timings> = messages.iter().filter_map(timings).collect();
        // A template's first tokens are common to all.
        seen.reuse += usize::from(timings.iter().any(|it| it.cached_tokens >= 16));
        seen.guesses += usize::from(timings.iter().any(|it| it.accepted_tokens > 0));
        seen.disk += usize::from(timings.iter().any(|it| it.restored_tokens > 0));
        let answers: Vec<[Vec<TokenProbabilities>; 2]> =
            ids.iter().map(|&id| [told(&references, id), told(&messages, id)]).collect();
        let tokens = |answer: &[TokenProbabilities]| answer.iter().map(|it| it.chosen.token).collect::<Vec<_>>();
        seen.near_ties += usize::from(answers.iter().any(|[reference, found]| tokens(reference) != tokens(found)));
        for ((request, _), [reference, found]) in requests.iter().zip(&answers) {
            assert!(agree(reference, found), "mix {mix}, request {}: {reference:?} {found:?}", request.id);
            let text: Vec<u8> = found.iter().flat_map(|it| it.chosen.bytes.clone()).collect();
            let text = String::from_utf8_lossy(&text);
            for (other, nonce) in &requests {
                assert!(other.id == request.id || !text.contains(nonce.as_str()), "mix {mix}: {text}");
            }
        }
    }
    assert!(seen.reuse >= WITH_REUSE && seen.guesses >= WITH_GUESSES && seen.disk >= WITH_DISK, "{seen:?}");
    assert!(seen.near_ties as u64 * 100 <= MIXES * NEAR_TIES as u64, "{seen:?}");
}

fn timings(message: &FromWorker) -> Option<Timings> {
    match message {
        FromWorker::Finished { timings, .. } => Some(*timings),
        _ => None,
    }
}

/// Those of some requests that have not ended.
fn open(messages: &[FromWorker], ids: &[u64]) -> Vec<u64> {
    let ended = |wanted: u64| {
        messages
            .iter()
            .any(|it| matches!(it, FromWorker::Finished { id, .. } | FromWorker::Rejected { id, .. } if *id == wanted))
    };
    ids.iter().copied().filter(|&id| !ended(id)).collect()
}
