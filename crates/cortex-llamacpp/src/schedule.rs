//! What the next batch holds. Pure.
//!
//! Every running answer gets its token in every step; what room is left goes to prompts, first come
//! first served, in chunks that are small enough not to be felt while others are answered.

use std::time::Duration;

/// How long a step may take while answers are running. Shorter steps make the prompt that comes late much
/// slower: each step computes a token of every answer too, and small chunks use the processor badly.
const STEP_AMID_ANSWERS: Duration = Duration::from_millis(360);
/// How long a step may take when only prompts are computed: a cancel waits no longer than this.
const STEP_OF_PROMPTS: Duration = Duration::from_secs(2);
/// Smaller chunks waste the machine.
const SMALLEST_CHUNK: usize = 32;
/// Chunks are longer than that by a multiple of this.
const ROUND: usize = 16;
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
    /// Tokens before those.
    pub(crate) before: usize,
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
    // The prompt that came first gets most of the chunk.
    let before = together.iter().find(|want| want.prompt > 0).map_or(0, |want| want.before);
    let mut prompt_room = pace.chunk(room, before, answers > 0 || others_answer);
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

/// How fast this machine computes prompts, learned while it does: a line of what a token takes over where it stands, because each token
/// looks back at all before it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Sums over what was seen, of which older ones count less: weights, places, seconds of a token, and their products.
    weight: f64,
    place: f64,
    seconds: f64,
    place_squared: f64,
    place_seconds: f64,
}

/// How much what was seen counts once the next step has been.
const FADE: f64 = 0.7;
/// Seconds of a token before any was computed.
const UNKNOWN: f64 = 0.001;
/// The places of what was seen vary at least so much (as a standard deviation, in tokens) before a slope is read from them.
const SPREAD: f64 = 64.0;
/// A token takes at most so much of the mean longer for each one before it: a machine that becomes slower amid a prompt is no slope.
const STEEPEST: f64 = 1.0 / 1000.0;

impl Pace {
    /// Learns from a step with so many prompt tokens in it, the first of which have so many before them.
    pub(crate) fn learn(&mut self, prompt_tokens: usize, before: usize, took: Duration) {
        if prompt_tokens < SMALLEST_CHUNK / 2 || took.is_zero() {
            return;
        }
        let (tokens, before) = (float(prompt_tokens), float(before));
        let (place, seconds) = (before + tokens / 2.0, took.as_secs_f64() / tokens);
        for (sum, seen) in [
            (&mut self.weight, 1.0),
            (&mut self.place, place),
            (&mut self.seconds, seconds),
            (&mut self.place_squared, place * place),
            (&mut self.place_seconds, place * seconds),
        ] {
            *sum = *sum * FADE + seen;
        }
    }

    /// What a token of a prompt takes; a guess before any was computed.
    pub(crate) fn seconds_per_token(&self) -> f64 {
        if self.weight > 0.0 { self.seconds / self.weight } else { UNKNOWN }
    }

    /// What a token takes that has so many before it.
    fn seconds_at(&self, place: f64) -> f64 {
        let mean = self.seconds_per_token();
        if self.weight == 0.0 {
            return mean;
        }
        let (mean_place, mean_squared) = (self.place / self.weight, self.place_squared / self.weight);
        let variance = mean_squared - mean_place * mean_place;
        let slope = if variance < SPREAD * SPREAD {
            0.0
        } else {
            ((self.place_seconds / self.weight - mean_place * mean) / variance).clamp(0.0, mean * STEEPEST)
        };
        (mean + slope * (place - mean_place)).max(mean / 2.0)
    }

    /// Prompt tokens of the next step, the first of which have so many before them.
    pub(crate) fn chunk(&self, room: usize, before: usize, amid_answers: bool) -> usize {
        let (time, unknown) =
            if amid_answers { (STEP_AMID_ANSWERS, 2 * SMALLEST_CHUNK) } else { (STEP_OF_PROMPTS, 4 * SMALLEST_CHUNK) };
        let takes = |tokens: usize| float(tokens) * self.seconds_at(float(before) + float(tokens) / 2.0);
        let wanted = if self.weight == 0.0 {
            unknown
        } else {
            // A multiple of 16 suits the matrix kernels.
            let fits = |steps: &usize| takes(SMALLEST_CHUNK + steps * ROUND) <= time.as_secs_f64();
            let more = (1..=room.saturating_sub(SMALLEST_CHUNK).div_ceil(ROUND)).take_while(fits).last();
            SMALLEST_CHUNK + more.unwrap_or(0) * ROUND
        };
        wanted.max(SMALLEST_CHUNK).min(room)
    }
}

fn float(tokens: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a context has at most a few million tokens")]
    let float = tokens as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(slot: usize, prompt: usize) -> Want {
        Want { slot, prompt, before: 0, deterministic: false, admitted: slot as u64 }
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
        let pace = pace(1000.0);
        check(&[want(0, 1400), want(1, 0), want(2, 0)], &pace, &[&[(0, 352), (1, 1), (2, 1)]]);
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
        let pace = pace(400.0);
        let share = |others_answer| plan(&[want(0, 1400)], 512, &pace, others_answer)[0][0].tokens;
        assert_eq!((share(true), share(false)), (144, 512));
    }

    #[test]
    fn a_prompt_alone_fills_the_batch() {
        let pace = pace(1000.0);
        check(&[want(0, 1400)], &pace, &[&[(0, 512)]]);
        check(&[want(0, 40), want(1, 1000)], &pace, &[&[(0, 40), (1, 472)]]);
    }

    #[test]
    fn a_slow_machine_still_moves() {
        let pace = pace(3.0);
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
        pace.learn(3, 0, Duration::from_millis(50));
        assert_eq!(pace.chunk(512, 0, true), 64);
        pace.learn(100, 0, Duration::from_millis(100));
        assert!((pace.seconds_per_token() - 0.001).abs() < 1e-9);
    }

    #[test]
    fn chunks_become_shorter_as_each_token_looks_back_at_more() {
        // A token takes 2 ms, and a microsecond more for each one before it.
        let (mut pace, mut before, mut chunks) = (Pace::default(), 0, vec![]);
        for _ in 0..12 {
            let tokens = pace.chunk(512, before, true);
            let seconds = float(tokens) * (0.002 + 1e-6 * (float(before) + float(tokens) / 2.0));
            pace.learn(tokens, before, Duration::from_secs_f64(seconds));
            before += tokens;
            chunks.push((tokens, seconds));
        }
        assert!(chunks.iter().skip(4).is_sorted_by(|left, right| left.0 >= right.0), "{chunks:?}");
        assert!(chunks.iter().skip(4).all(|(_, seconds)| (0.31..0.37).contains(seconds)), "{chunks:?}");
    }

    #[test]
    fn a_machine_that_becomes_slower_is_no_slope() {
        let mut pace = Pace::default();
        for (before, milliseconds) in [(0, 200), (200, 200), (400, 200), (600, 800)] {
            pace.learn(200, before, Duration::from_millis(milliseconds));
        }
        // The mean doubles at most over a thousand tokens.
        assert!(pace.seconds_at(3000.0) < pace.seconds_per_token() * 4.0, "{pace:?}");
        assert!(pace.seconds_at(0.0) >= pace.seconds_per_token() / 2.0, "{pace:?}");
    }

    /// A machine that computes so many tokens in a second, wherever they stand.
    fn pace(tokens_per_second: f64) -> Pace {
        let mut pace = Pace::default();
        pace.learn(1000, 0, Duration::from_secs_f64(1000.0 / tokens_per_second));
        pace
    }
}
