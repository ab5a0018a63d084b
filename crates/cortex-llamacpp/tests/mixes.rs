//! Random mixes of requests that begin alike, run together and one after the other: each answer is that of its prompt alone.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use cortex_api::worker::{FromWorker, Generate, ToWorker, TokenProbabilities};
use cortex_test::worker::{TestWorker, agree, generate, told};

/// Mixes of up to five requests each.
const MIXES: u64 = 24;
/// Requests of each that may end where the model hesitated between two tokens: a larger share would hide something.
const NEAR_TIES: usize = 10;

/// Repeatable numbers (the 64-bit linear congruential generator of Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn index(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).unwrap()
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const PIECES: [&str; 5] = [
    "You keep the books of a harbour. Ships come in the morning and leave in the evening, and each of them pays for its place by its length. ",
    "The northern pier is for ferries, the southern one for fishing boats; nobody may stay in the middle, where the water is shallow. ",
    "A ship that is late waits outside until the tide has turned, unless it carries fruit, which goes first whatever the hour may be. ",
    "Answer in one short sentence. Do not repeat the question. ",
    "The keeper of the lighthouse writes down every ship that passes, with its name, its flag and the direction from which the wind blows. ",
];

/// A request of a mix: pieces in an order that others share, and a word that nobody else has.
fn request(numbers: &mut Numbers, id: u64) -> (Generate, String) {
    let first = numbers.index(2);
    let count = 1 + numbers.index(4);
    let system: String = (0..count).map(|at| PIECES[(first + at) % PIECES.len()]).collect();
    let nonce = format!("vessel{}", numbers.below(1_000_000));
    let text = format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nTell me about the ship {nonce}.<|im_end|>\n<|im_start|>assistant\n"
    );
    let tokens = 4 + u32::try_from(numbers.below(9)).unwrap();
    (Generate { probabilities: Some(5), ..generate(id, &text, tokens) }, nonce)
}

#[test]
fn whatever_runs_together_an_answer_is_that_of_its_prompt_alone() {
    let mut numbers = Numbers(7);
    let (mut alone, _) = TestWorker::loaded(512, 1);
    let (mut together, _) = TestWorker::loaded(512, 4);
    let (mut id, mut mixes_with_reuse, mut near_ties, mut all) = (0, 0, 0, 0);
    for mix in 0..MIXES {
        let count = 2 + numbers.below(4);
        let requests: Vec<(Generate, String)> = (0..count)
            .map(|_| {
                id += 1;
                request(&mut numbers, id)
            })
            .collect();
        let references: Vec<Vec<TokenProbabilities>> = requests
            .iter()
            .map(|(request, _)| {
                // Alone in its batches, and nothing of it is there before.
                let request = Generate { deterministic: true, ..request.clone() };
                let id = request.id;
                alone.send(&ToWorker::Generate(Box::new(request)));
                told(&alone.until_finished(id), id)
            })
            .collect();
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
        let reuses = |it: &FromWorker| matches!(it, FromWorker::Finished { timings, .. } if timings.cached_tokens > 0);
        mixes_with_reuse += u32::from(messages.iter().any(reuses));
        for ((request, _), reference) in requests.iter().zip(&references) {
            let found = told(&messages, request.id);
            assert!(agree(reference, &found), "mix {mix}: {reference:?} {found:?}");
            all += 1;
            near_ties +=
                usize::from(reference.iter().map(|it| it.chosen.token).ne(found.iter().map(|it| it.chosen.token)));
            let text: Vec<u8> = found.iter().flat_map(|it| it.chosen.bytes.clone()).collect();
            let text = String::from_utf8_lossy(&text);
            for (other, nonce) in &requests {
                assert!(other.id == request.id || !text.contains(nonce.as_str()), "mix {mix}: {text}");
            }
        }
    }
    assert!(u64::from(mixes_with_reuse) * 2 >= MIXES, "{mixes_with_reuse} of {MIXES} mixes used anything again");
    assert!(near_ties * 100 <= all * NEAR_TIES, "{near_ties} of {all} answers parted from their reference");
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
