//! Which values a request may have, and the short way for the commonest case.

use crate::llama::{Chain, Context, Token};
use cortex_api::worker::Sampling;
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

/// Checks every value against its range.
pub(crate) fn validate(sampling: &Sampling) -> Result<(), String> {
    let ranges = [
        ("temperature", sampling.temperature, 0.0, 5.0),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("typical_p", sampling.typical_p, 0.0, 1.0),
        ("repeat_penalty", sampling.repeat_penalty, 0.01, 10.0),
        ("presence_penalty", sampling.presence_penalty, -10.0, 10.0),
        ("frequency_penalty", sampling.frequency_penalty, -10.0, 10.0),
    ];
    for (name, value, low, high) in ranges {
        // A NaN is in no range.
        if !(low..=high).contains(&value) {
            return Err(format!("{name} is {value}; it must be between {low} and {high}"));
        }
    }
    if sampling.top_k < 0 {
        return Err(format!("top_k is {}; it must be 0 (off) or more", sampling.top_k));
    }
    Ok(())
}

/// Whether any penalty does something.
#[expect(clippy::float_cmp, reason = "the neutral values are exact: they come from a client or a constant")]
pub(crate) fn has_penalties(sampling: &Sampling) -> bool {
    sampling.repeat_last_n > 0
        && (sampling.repeat_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0)
}

/// Chooses the next token of one request.
pub(crate) enum Chooser {
    /// The most likely token; needs no list of candidates.
    Greedy,
    /// llama.cpp's samplers.
    Chain(Chain),
}

impl Chooser {
    /// For validated values. `history` is the end of the prompt, for the penalties.
    pub(crate) fn new(sampling: &Sampling, vocabulary_size: i32, history: &[Token]) -> Self {
        if sampling.temperature <= 0.0 && !has_penalties(sampling) {
            return Self::Greedy;
        }
        let window = usize::try_from(sampling.repeat_last_n).unwrap_or(usize::MAX);
        let history = &history[history.len().saturating_sub(window)..];
        Self::Chain(Chain::new(sampling, sampling.seed.unwrap_or_else(fresh_seed), vocabulary_size, history))
    }

    /// The next token, from the logits of entry `index` of the last batch. `None` when the logits
    /// are not numbers: the model or the compute module is broken.
    pub(crate) fn choose(&mut self, context: &Context<'_>, index: usize) -> Option<Token> {
        match self {
            Self::Greedy => most_likely(context.logits(index)),
            Self::Chain(chain) => {
                let token = context.choose(chain, index);
                context.logits(index).get(usize::try_from(token).ok()?)?.is_finite().then_some(token)
            }
        }
    }
}

/// Index of the largest number; the first of equals.
fn most_likely(logits: &[f32]) -> Option<Token> {
    let mut best: Option<(usize, f32)> = None;
    for (index, &logit) in logits.iter().enumerate() {
        if best.map_or(!logit.is_nan(), |(_, highest)| logit > highest) {
            best = Some((index, logit));
        }
    }
    best.and_then(|(index, logit)| logit.is_finite().then_some(index).and_then(|index| Token::try_from(index).ok()))
}

/// A number that nobody can guess, without a crate for it: the standard library seeds its hash maps from the system.
fn fresh_seed() -> u32 {
    let bits = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neutral() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
        }
    }

    #[test]
    fn values_outside_their_range_are_named() {
        assert_eq!(validate(&neutral()), Ok(()));
        for (sampling, name) in [
            (Sampling { temperature: f32::NAN, ..neutral() }, "temperature"),
            (Sampling { temperature: -0.1, ..neutral() }, "temperature"),
            (Sampling { top_p: 1.5, ..neutral() }, "top_p"),
            (Sampling { min_p: f32::INFINITY, ..neutral() }, "min_p"),
            (Sampling { repeat_penalty: 0.0, ..neutral() }, "repeat_penalty"),
            (Sampling { top_k: -1, ..neutral() }, "top_k"),
        ] {
            let message = validate(&sampling).expect_err(name);
            assert!(message.starts_with(name), "{message}");
        }
    }

    #[test]
    fn the_most_likely_token_ignores_what_is_not_a_number() {
        assert_eq!(most_likely(&[0.5, 2.0, 2.0, 1.0]), Some(1));
        assert_eq!(most_likely(&[f32::NAN, -3.0]), Some(1));
        assert_eq!(most_likely(&[f32::NAN]), None);
        assert_eq!(most_likely(&[f32::NEG_INFINITY]), None);
        assert_eq!(most_likely(&[]), None);
    }
}
