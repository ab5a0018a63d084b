//! How many guessed tokens are worth computing with the next real ones: speculation that measures itself. Pure.
//!
//! A step with `n` entries takes `c(n)`; a guess that is right saves a step. What both are is learned while answers run: the time
//! of steps by their entries for the model, and how often guesses are right for each answer. A step takes as many guesses as give
//! the most tokens for its time, which may be none. Source: the expected length of a run of right guesses is the sum of the
//! products of their probabilities (Leviathan and others, "Fast Inference from Transformers via Speculative Decoding", 2023).

use crate::lookup::Guess;
use std::time::Duration;

/// Most guesses of one step. The results of so many need room: the daemon's prediction of a model's memory counts with it.
pub(crate) const MOST_DRAFTED: usize = 16;

/// Entries whose times are told apart; steps with more count as this.
const ENTRIES: usize = 96;
/// How much of a new time is believed.
const BELIEF: f64 = 0.2;
/// After so many steps of other lengths a time counts as unknown, and is hoped to be better: one that was measured while something else ran
/// would otherwise never be tried again.
const STALE: u64 = 512;
/// What an entry costs beside the first, as long as nothing is known: less than it will, so that it is tried.
const HOPED: f64 = 0.1;

/// How long steps take that only answer, by their entries.
#[derive(Debug)]
pub(crate) struct StepTimes {
    /// Seconds, and after how many steps they were last measured.
    measured: [Option<(f64, u64)>; ENTRIES + 1],
    steps: u64,
    /// What an entry costs beside the first, when that is not to be measured.
    given: Option<f64>,
}

impl Default for StepTimes {
    fn default() -> Self {
        Self { measured: [None; ENTRIES + 1], steps: 0, given: None }
    }
}

impl StepTimes {
    /// Times that are measured, unless what an entry costs is given, in percent of the first one.
    pub(crate) fn new(entry_cost: Option<u32>) -> Self {
        Self { given: entry_cost.map(|percent| f64::from(percent) / 100.0), ..Self::default() }
    }

    /// Learns from a step.
    pub(crate) fn learn(&mut self, entries: usize, took: Duration) {
        self.steps += 1;
        let known = self.measured(entries);
        #[expect(clippy::cast_precision_loss, reason = "less than a hundred")]
        let one_by_one = self.measured(1).map_or(f64::INFINITY, |one| one * entries as f64);
        if let Some(measured) = self.measured.get_mut(entries).filter(|_| entries > 0) {
            // The system may have taken the processor away: a step is not ten times slower than the last ones, nor than one for each entry.
            let seen = took.as_secs_f64().min(known.map_or(one_by_one, |known| known * 3.0));
            *measured = Some((known.map_or(seen, |known| known + BELIEF * (seen - known)), self.steps));
        }
    }

    /// Seconds of a step of this length, when one was measured lately.
    fn measured(&self, entries: usize) -> Option<f64> {
        let (seconds, at) = (*self.measured.get(entries)?)?;
        (self.steps - at < STALE).then_some(seconds)
    }

    /// Seconds of a step, or shares of the shortest one where the cost is given; nothing before any was seen. Between known ones a straight line, beyond them what is hoped for.
    fn of(&self, entries: usize) -> Option<f64> {
        let entries = entries.clamp(1, ENTRIES);
        #[expect(clippy::cast_precision_loss, reason = "less than a hundred")]
        let number = |count: usize| count as f64;
        if let Some(cost) = self.given {
            return Some(1.0 + cost * number(entries - 1));
        }
        let below = (1..=entries).rev().find_map(|at| Some((at, self.measured(at)?)));
        let above = (entries..=ENTRIES).find_map(|at| Some((at, self.measured(at)?)));
        match (below, above) {
            (Some((low, seconds)), Some((high, more))) if high > low => {
                Some(seconds + (more - seconds) * number(entries - low) / number(high - low))
            }
            (Some((low, seconds)), _) => Some(seconds * (1.0 + HOPED * number(entries - low))),
            (None, Some((high, seconds))) => Some(seconds / (1.0 + HOPED * number(high - entries))),
            (None, None) => None,
        }
    }
}

/// How often guesses are right, by how much was the same before them and whether a text was expected, in one answer.
#[derive(Debug, Clone)]
pub(crate) struct Acceptance([Rate; KINDS]);

const KINDS: usize = 5;
/// What is believed of each kind of match before anything was seen; the last one is of what a model guesses.
const PRIOR: [f64; KINDS] = [0.4, 0.6, 0.8, 0.9, 0.7];
/// For as much as so many guesses.
const WEIGHT: f64 = 3.0;
/// What is left of what was learned after each token: a text changes.
const MEMORY: f64 = 0.99;

#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    right: f64,
    wrong: f64,
}

impl Default for Acceptance {
    fn default() -> Self {
        Self([Rate::default(); KINDS])
    }
}

fn kind(same: usize, is_expected: bool) -> usize {
    match same {
        // Nothing was the same: a model guesses.
        0 => KINDS - 1,
        1..=4 if is_expected => 2,
        _ if is_expected => 3,
        1..=4 => 0,
        5..=8 => 1,
        9..=16 => 2,
        _ => 3,
    }
}

impl Acceptance {
    /// The probability that a token of such a guess is right when those before it are.
    pub(crate) fn of(&self, guess: &Guess) -> f64 {
        let kind = kind(guess.same, guess.is_expected);
        let (rate, prior) = (self.0[kind], PRIOR[kind]);
        (rate.right + prior * WEIGHT) / (rate.right + rate.wrong + WEIGHT)
    }

    /// The same of what a model will guess.
    pub(crate) fn of_model(&self) -> f64 {
        self.of(&Guess::of_model(vec![]))
    }

    /// So many of the guessed tokens were right; the first wrong one ends them.
    pub(crate) fn learn(&mut self, guess: &Guess, right: usize) {
        #[expect(clippy::cast_precision_loss, reason = "at most a few dozen")]
        let more = right as f64;
        let rate = &mut self.0[kind(guess.same, guess.is_expected)];
        rate.right += more;
        rate.wrong += f64::from(u8::from(right < guess.tokens.len()));
    }

    /// A token was chosen.
    pub(crate) fn fade(&mut self) {
        for rate in &mut self.0 {
            rate.right *= MEMORY;
            rate.wrong *= MEMORY;
        }
    }
}

/// A guess that could be computed with the next step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Probability of each token, when those before it are right.
    pub(crate) probability: f64,
    /// Tokens that are guessed.
    pub(crate) tokens: usize,
}

/// How many tokens a model should guess for each of so many answers, when that takes it so many seconds for each token of all of
/// them: what gives the most tokens for its time, which may be none.
pub(crate) fn depth(probability: f64, answers: usize, guess_seconds: f64, times: &StepTimes) -> usize {
    let Some(plain) = times.of(answers) else { return 0 };
    #[expect(clippy::cast_precision_loss, reason = "less than a hundred")]
    let answered = answers as f64;
    let (mut best, mut expected, mut product, mut spent) = ((answered / plain, 0), answered, 1.0, 0.0);
    for guessed in 1..=MOST_DRAFTED / answers.max(1) {
        product *= probability;
        expected += answered * product;
        spent += guess_seconds;
        let rate = times.of(answers * (1 + guessed)).map_or(0.0, |seconds| expected / (seconds + spent));
        if best.0 < rate {
            best = (rate, guessed);
        }
    }
    best.1
}

/// How many tokens of each guess are worth computing in a step that answers so many requests.
pub(crate) fn lengths(candidates: &[Candidate], answers: usize, times: &StepTimes) -> Vec<usize> {
    let mut chosen = vec![0; candidates.len()];
    #[expect(clippy::cast_precision_loss, reason = "less than a hundred")]
    let mut expected = answers as f64;
    let Some(plain) = times.of(answers) else { return chosen };
    let mut best = (expected / plain, chosen.clone());
    let mut products: Vec<f64> = candidates.iter().map(|candidate| candidate.probability).collect();
    // The likeliest token first: of one guess, each is less likely than the one before it.
    for drafted in 1..=MOST_DRAFTED.min(ENTRIES.saturating_sub(answers)) {
        let next = (0..candidates.len())
            .filter(|&at| chosen[at] < candidates[at].tokens)
            .max_by(|&left, &right| products[left].total_cmp(&products[right]));
        let Some(next) = next else { break };
        expected += products[next];
        products[next] *= candidates[next].probability;
        chosen[next] += 1;
        let rate = times.of(answers + drafted).map_or(0.0, |seconds| expected / seconds);
        if rate > best.0 {
            best = (rate, chosen.clone());
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(known: &[(usize, u64)]) -> StepTimes {
        let mut times = StepTimes::default();
        for &(entries, milliseconds) in known {
            times.learn(entries, Duration::from_millis(milliseconds));
        }
        times
    }

    fn candidate(probability: f64, tokens: usize) -> Candidate {
        Candidate { probability, tokens }
    }

    #[test]
    fn a_model_guesses_as_far_as_it_pays() {
        let mut times = StepTimes::default();
        assert_eq!(depth(0.9, 1, 0.001, &times), 0, "nothing is known of steps");
        // Steps wait for the memory: more entries cost little.
        times.learn(1, Duration::from_millis(100));
        times.learn(9, Duration::from_millis(110));
        assert!((3..=8).contains(&depth(0.8, 1, 0.01, &times)), "{}", depth(0.8, 1, 0.01, &times));
        assert!(depth(0.8, 1, 0.01, &times) > depth(0.5, 1, 0.01, &times));
        assert_eq!(depth(0.8, 1, 0.1, &times), 0, "as slow as the model itself");
        // Steps that are as long as their entries.
        times.learn(2, Duration::from_millis(200));
        times.learn(9, Duration::from_millis(900));
        let slow = (0..200).fold(times, |mut times, _| {
            times.learn(9, Duration::from_millis(900));
            times
        });
        assert_eq!(depth(0.8, 1, 0.01, &slow), 0);
    }

    #[test]
    fn as_many_guesses_are_taken_as_pay() {
        // Reading the weights is all that costs: every guess pays.
        let free = times(&[(1, 100), (17, 101)]);
        assert_eq!(lengths(&[candidate(0.9, 16)], 1, &free), [16]);
        assert_eq!(lengths(&[candidate(0.5, 4)], 1, &free), [4]);
        // An entry costs as much as a step: none pays.
        let dear = times(&[(1, 100), (17, 1700)]);
        assert_eq!(lengths(&[candidate(0.95, 16)], 1, &dear), [0]);
        // Between them the probability decides.
        let real = times(&[(1, 100), (5, 200), (9, 300), (17, 500)]);
        assert_eq!(lengths(&[candidate(0.97, 16)], 1, &real), [12]);
        assert_eq!(lengths(&[candidate(0.3, 16)], 1, &real), [1]);
        assert_eq!(lengths(&[candidate(0.2, 16)], 1, &real), [0]);
        // Before anything is known, nothing is guessed.
        assert_eq!(lengths(&[candidate(0.97, 16)], 1, &StepTimes::default()), [0]);
    }

    #[test]
    fn a_jump_in_the_time_is_passed_when_more_pays_again() {
        let jump = times(&[(1, 100), (2, 200), (3, 210), (4, 220)]);
        assert_eq!(lengths(&[candidate(0.9, 1)], 1, &jump), [0]);
        assert_eq!(lengths(&[candidate(0.9, 3)], 1, &jump), [3]);
    }

    #[test]
    fn the_likeliest_guesses_of_several_answers_come_first() {
        let real = times(&[(2, 100), (4, 150), (6, 210), (18, 600)]);
        let found = lengths(&[candidate(0.1, 8), candidate(0.95, 8)], 2, &real);
        assert_eq!(found[0], 0);
        assert!(found[1] >= 2, "{found:?}");
        let all = lengths(&[candidate(0.99, 30), candidate(0.99, 30)], 2, &times(&[(2, 100), (18, 101)]));
        assert_eq!(all.iter().sum::<usize>(), MOST_DRAFTED);
    }

    #[test]
    fn times_are_learned_and_lie_on_a_line_between_known_ones() {
        let close = |found: Option<f64>, wanted: f64| assert!((found.unwrap() - wanted).abs() < 1e-9, "{found:?}");
        let mut known = times(&[(1, 100), (5, 300)]);
        close(known.of(1), 0.1);
        close(known.of(3), 0.2);
        close(known.of(7), 0.3 * 1.2);
        known.learn(1, Duration::from_secs(100));
        close(known.of(1), 0.14);
        assert_eq!(StepTimes::default().of(1), None);
        known.learn(0, Duration::from_secs(1));
        known.learn(ENTRIES + 1, Duration::from_secs(1));
        close(times(&[(8, 170)]).of(1), 0.1);
        // What is given is not measured.
        let mut given = StepTimes::new(Some(20));
        given.learn(1, Duration::from_secs(100));
        close(given.of(1), 1.0);
        close(given.of(6), 2.0);
    }

    #[test]
    fn a_time_that_was_measured_beside_something_else_is_tried_again() {
        let mut disturbed = times(&[(1, 100), (9, 5000)]);
        assert!((disturbed.of(9).unwrap() - 0.9).abs() < 1e-9, "no slower than one by one");
        assert_eq!(lengths(&[candidate(0.9, 8)], 1, &disturbed), [0]);
        for _ in 0..STALE {
            disturbed.learn(1, Duration::from_millis(100));
        }
        assert!(lengths(&[candidate(0.9, 8)], 1, &disturbed)[0] > 0);
        disturbed.learn(9, Duration::from_millis(150));
        assert_eq!(lengths(&[candidate(0.9, 8)], 1, &disturbed), [8]);
    }

    #[test]
    fn what_was_wrong_is_guessed_less_and_forgotten_after_a_while() {
        let guess = |same: usize| Guess { same, is_expected: false, tokens: vec![1; 4] };
        let mut acceptance = Acceptance::default();
        let before = acceptance.of(&guess(3));
        assert!(before < acceptance.of(&guess(20)) && before < acceptance.of(&Guess { is_expected: true, ..guess(3) }));
        for _ in 0..5 {
            acceptance.learn(&guess(3), 0);
        }
        let after = acceptance.of(&guess(3));
        assert!(after < before / 2.0, "{after}");
        assert!((acceptance.of(&guess(20)) - PRIOR[3]).abs() < 1e-9);
        for _ in 0..1000 {
            acceptance.fade();
        }
        assert!((acceptance.of(&guess(3)) - before).abs() < 1e-3);
        acceptance.learn(&guess(3), 4);
        assert!(acceptance.of(&guess(3)) > before);
    }
}
