//! How the next token is chosen, with a short way for the commonest case.

use crate::llama::{Chain, Context, Token};
use cortex_api::worker::Sampling;
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

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

    #[test]
    fn the_most_likely_token_ignores_what_is_not_a_number() {
        assert_eq!(most_likely(&[0.5, 2.0, 2.0, 1.0]), Some(1));
        assert_eq!(most_likely(&[f32::NAN, -3.0]), Some(1));
        assert_eq!(most_likely(&[f32::NAN]), None);
        assert_eq!(most_likely(&[f32::NEG_INFINITY]), None);
        assert_eq!(most_likely(&[]), None);
    }
}
