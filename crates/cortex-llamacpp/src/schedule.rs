//! What the next batch holds. Pure.
//!
//! Every running answer gets its token in every step; what room is left goes to prompts, first come
//! first served, in chunks that are small enough not to be felt while others are answered.

use std::time::Duration;

/// How long a step may take while answers are running. Shorter steps make the prompt that comes late much
/// slower: each step computes a token of every answer too, and small chunks use the processor badly.
const STEP_AMID_ANSWERS: Duration = Duration::from_millis(500);
/// How long a step may take when only prompts are computed: a cancel waits no longer than this.
const STEP_OF_PROMPTS: Duration = Duration::from_secs(2);
/// Smaller chunks waste the machine.
const SMALLEST_CHUNK: usize = 32;
/// The chunk of a deterministic request is always the same: its size changes the last bits of a sum.
pub(crate) const DETERMINISTIC_CHUNK: usize = 128;

/// Sequences that are added to a batch at most, in one place, so that it is computed in one piece.
const LARGEST_GAP: usize = 3;

/// What a slot wants from the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    /// Which slot.
    pub(crate) slot: usize,
    /// Prompt tokens that are left; 0 is a running answer.
    pub(crate) prompt: usize,
    /// Must be alone in its batch.
    pub(crate) deterministic: bool,
    /// Order of admission.
    pub(crate) admitted: u64,
}

/// Tokens of one slot in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Which slot.
    pub(crate) slot: usize,
    /// How many tokens.
    pub(crate) tokens: usize,
}

/// The batches of the next step: one for all ordinary requests, then one for each deterministic one.
/// `others_answer` is whether requests are answered that are not among these.
pub(crate) fn plan(wants: &[Want], room: usize, pace: &Pace, others_answer: bool) -> Vec<Vec<Share>> {
    let (alone, mut together): (Vec<Want>, Vec<Want>) = wants.iter().copied().partition(|want| want.deterministic);
    together.sort_by_key(|want| (want.prompt > 0, want.admitted));
    let answers = wants.iter().filter(|want| want.prompt == 0).count();
    let mut prompt_room = pace.chunk(room, answers > 0 || others_answer);
    let mut left = room;
    let mut batch = Vec::new();
    for want in together {
        let tokens = if want.prompt == 0 { left.min(1) } else { want.prompt.min(prompt_room).min(left) };
        if tokens == 0 {
            continue;
        }
        if want.prompt > 0 {
            prompt_room -= tokens;
        }
        left -= tokens;
        batch.push(Share { slot: want.slot, tokens });
    }
    // llama.cpp computes together only sequences whose numbers follow each other, in this order
    // (`llama_batch_allocr::split_equal`): in another one, all weights are read again for each of them.
    batch.sort_by_key(|share| share.slot);
    let mut batches = if batch.is_empty() { vec![] } else { vec![batch] };
    for want in alone {
        let tokens = want.prompt.clamp(1, DETERMINISTIC_CHUNK.min(room));
        batches.push(vec![Share { slot: want.slot, tokens }]);
    }
    batches
}

/// Slots whose sequences stand between those of a batch that is in order. With a token for each of them, llama.cpp computes the
/// batch in one piece and reads all weights once. Where they are more than a few side by side, or one of them cannot take
/// a token, the gap stays.
pub(crate) fn gaps(batch: &[Share], can_take: impl Fn(usize) -> bool) -> Vec<usize> {
    batch
        .windows(2)
        .map(|pair| pair[0].slot + 1..pair[1].slot)
        .filter(|gap| gap.len() <= LARGEST_GAP && gap.clone().all(&can_take))
        .flatten()
        .collect()
}

/// How fast this machine computes prompts, learned while it does.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    tokens_per_second: Option<f64>,
}

impl Pace {
    /// Learns from a step with prompt tokens in it.
    pub(crate) fn learn(&mut self, prompt_tokens: usize, took: Duration) {
        if prompt_tokens < SMALLEST_CHUNK / 2 || took.is_zero() {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most a few thousand tokens")]
        let seen = prompt_tokens as f64 / took.as_secs_f64();
        self.tokens_per_second = Some(self.tokens_per_second.map_or(seen, |known| 0.7 * known + 0.3 * seen));
    }

    /// What a token of a prompt takes; a guess before any was computed.
    pub(crate) fn seconds_per_token(&self) -> f64 {
        1.0 / self.tokens_per_second.unwrap_or(1000.0)
    }

    /// Prompt tokens of the next step.
    pub(crate) fn chunk(&self, room: usize, amid_answers: bool) -> usize {
        let (time, unknown) =
            if amid_answers { (STEP_AMID_ANSWERS, 2 * SMALLEST_CHUNK) } else { (STEP_OF_PROMPTS, 4 * SMALLEST_CHUNK) };
        let wanted = self.tokens_per_second.map_or(unknown, |rate| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
            let tokens = (rate * time.as_secs_f64()) as usize;
            // The nearest multiple of 32, which suits the matrix kernels.
            (tokens + SMALLEST_CHUNK / 2) / SMALLEST_CHUNK * SMALLEST_CHUNK
        });
        wanted.max(SMALLEST_CHUNK).min(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(slot: usize, prompt: usize) -> Want {
        Want { slot, prompt, deterministic: false, admitted: slot as u64 }
    }

    #[track_caller]
    fn check(wants: &[Want], pace: &Pace, expected: &[&[(usize, usize)]]) {
        let batches: Vec<Vec<(usize, usize)>> = plan(wants, 512, pace, false)
            .into_iter()
            .map(|batch| batch.into_iter().map(|share| (share.slot, share.tokens)).collect())
            .collect();
        assert_eq!(batches, expected);
    }

    #[test]
    fn answers_come_first_and_a_long_prompt_gets_a_chunk() {
        let pace = Pace { tokens_per_second: Some(1000.0) };
        check(&[want(0, 1400), want(1, 0), want(2, 0)], &pace, &[&[(0, 510), (1, 1), (2, 1)]]);
    }

    #[test]
    fn a_batch_is_in_the_order_of_its_sequences() {
        let late = Want { admitted: 9, ..want(0, 0) };
        check(&[want(2, 0), want(1, 0), late], &Pace::default(), &[&[(0, 1), (1, 1), (2, 1)]]);
    }

    #[test]
    fn small_gaps_are_filled() {
        let gaps = |slots: &[usize], busy: &[usize]| {
            let batch: Vec<Share> = slots.iter().map(|&slot| Share { slot, tokens: 1 }).collect();
            gaps(&batch, |slot| !busy.contains(&slot))
        };
        assert!(gaps(&[0, 1, 2], &[]).is_empty());
        assert_eq!(gaps(&[1, 3, 7], &[]), [2, 4, 5, 6]);
        assert!(gaps(&[0, 5], &[]).is_empty());
        assert_eq!(gaps(&[0, 3, 5], &[2]), [4]);
        assert!(gaps(&[4], &[]).is_empty());
        assert!(gaps(&[], &[]).is_empty());
    }

    #[test]
    fn answers_elsewhere_keep_chunks_small() {
        let pace = Pace { tokens_per_second: Some(400.0) };
        let share = |others_answer| plan(&[want(0, 1400)], 512, &pace, others_answer)[0][0].tokens;
        assert_eq!((share(true), share(false)), (192, 512));
    }

    #[test]
    fn a_prompt_alone_fills_the_batch() {
        let pace = Pace { tokens_per_second: Some(1000.0) };
        check(&[want(0, 1400)], &pace, &[&[(0, 512)]]);
        check(&[want(0, 40), want(1, 1000)], &pace, &[&[(0, 40), (1, 472)]]);
    }

    #[test]
    fn a_slow_machine_still_moves() {
        let pace = Pace { tokens_per_second: Some(3.0) };
        check(&[want(0, 1400), want(1, 0)], &pace, &[&[(0, 32), (1, 1)]]);
    }

    #[test]
    fn a_deterministic_request_is_alone_and_in_fixed_chunks() {
        let alone = Want { deterministic: true, ..want(1, 300) };
        check(&[want(0, 0), alone], &Pace::default(), &[&[(0, 1)], &[(1, 128)]]);
        check(&[Want { prompt: 0, ..alone }], &Pace::default(), &[&[(1, 1)]]);
    }

    #[test]
    fn the_pace_is_learned_from_real_chunks_only() {
        let mut pace = Pace::default();
        pace.learn(3, Duration::from_millis(50));
        assert_eq!(pace.tokens_per_second, None);
        pace.learn(100, Duration::from_millis(100));
        assert_eq!(pace.tokens_per_second, Some(1000.0));
    }
}
