//! How the next token is chosen, with a short way for the commonest case.

use crate::{
    chain::Chain,
    constraint::Guide,
    llama::{Context, LlamaError, Token},
    vocabulary::Vocabulary,
};
use cortex_api::worker::Sampling;
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

/// What is told of a token that is as good as impossible, as OpenAI tells it: minus infinity is not in JSON.
const LEAST_LOGPROB: f32 = -9999.0;

/// Whether any penalty does something.
#[expect(clippy::float_cmp, reason = "the neutral values are exact: they come from a client or a constant")]
pub(crate) fn has_penalties(sampling: &Sampling) -> bool {
    sampling.repeat_last_n > 0
        && (sampling.repeat_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0)
}

/// Chooses the next token of one request.
pub(crate) struct Chooser {
    way: Way,
    /// What the answer must be.
    guide: Option<Guide>,
    /// Tell how probable tokens were, and so many of the most probable ones.
    probabilities: Option<usize>,
}

enum Way {
    /// The most likely token; needs no list of candidates.
    Greedy,
    /// llama.cpp's samplers.
    Chain(Chain),
}

/// A token that was chosen.
pub(crate) struct Choice {
    /// Its id.
    pub(crate) token: Token,
    /// How probable it and others were, when that was asked for.
    pub(crate) probabilities: Option<Probabilities>,
    /// The answer is what it must be, and nothing can follow.
    pub(crate) is_last: bool,
}

/// The natural logarithms of the probabilities of the chosen token and the most probable ones.
#[derive(Debug, PartialEq)]
pub(crate) struct Probabilities {
    pub(crate) chosen: f32,
    pub(crate) top: Vec<(Token, f32)>,
}

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoChoice {
    /// The logits are not numbers: the model or the compute module is broken.
    NotNumbers,
    /// No token goes on with what the answer must be, or the constraint has failed.
    Constraint(String),
}

impl Chooser {
    /// The most likely token, whatever it is.
    #[cfg(test)]
    pub(crate) fn greedy() -> Self {
        Self { way: Way::Greedy, guide: None, probabilities: None }
    }

    /// For validated values. `history` is the end of the prompt, for the penalties.
    pub(crate) fn new(
        vocabulary: &Vocabulary<'_>,
        sampling: &Sampling,
        guide: Option<Guide>,
        probabilities: Option<u32>,
        history: &[Token],
    ) -> Self {
        let is_plain = sampling.temperature <= 0.0
            && !has_penalties(sampling)
            && sampling.dry_multiplier <= 0.0
            && sampling.logit_bias.is_empty();
        let way = if is_plain {
            Way::Greedy
        } else {
            let seed = sampling.seed.unwrap_or_else(fresh_seed);
            Way::Chain(vocabulary.chain(sampling, seed, history))
        };
        Self { way, guide, probabilities: probabilities.map(|count| count as usize) }
    }

    /// The next token, from the logits of entry `index` of the last batch.
    pub(crate) fn choose(&mut self, context: &Context<'_>, index: usize) -> Result<Choice, NoChoice> {
        let logits = context.logits(index);
        let token = match &mut self.guide {
            None => match &mut self.way {
                Way::Greedy => most_likely(logits),
                Way::Chain(chain) => chain.choose_of((0..).zip(logits.iter().copied())),
            },
            Some(guide) => {
                let allowed = guide.allowed().map_err(|LlamaError(why)| NoChoice::Constraint(why))?;
                let possible = || {
                    allowed
                        .iter()
                        .filter_map(|token| Some((Token::try_from(token).ok()?, *logits.get(token as usize)?)))
                };
                let token = match &mut self.way {
                    Way::Greedy => most_likely_of(possible()),
                    Way::Chain(chain) => chain.choose_of(possible()),
                };
                if token.is_none() && possible().next().is_none() {
                    return Err(NoChoice::Constraint("no token of the vocabulary can follow".into()));
                }
                token
            }
        };
        let token = token
            .filter(|&token| usize::try_from(token).ok().and_then(|at| logits.get(at)).is_some_and(|it| it.is_finite()))
            .ok_or(NoChoice::NotNumbers)?;
        if let Some(guide) = &mut self.guide {
            guide.accept(token).map_err(|LlamaError(why)| NoChoice::Constraint(why))?;
        }
        Ok(Choice {
            token,
            probabilities: self.probabilities.map(|count| probabilities(logits, token, count)),
            is_last: self.guide.as_ref().is_some_and(Guide::is_complete),
        })
    }
}

/// Log-probabilities: the logits less the logarithm of the sum of their exponentials.
fn probabilities(logits: &[f32], chosen: Token, count: usize) -> Probabilities {
    let highest = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().filter(|logit| !logit.is_nan()).map(|logit| f64::from(logit - highest).exp()).sum();
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm of at most the size of the vocabulary")]
    let all = highest + sum.ln() as f32;
    let logprob = |logit: f32| (logit - all).max(LEAST_LOGPROB);
    let mut order: Vec<usize> = (0..logits.len()).filter(|&at| !logits[at].is_nan()).collect();
    let count = count.min(order.len());
    let by_logit = |left: &usize, right: &usize| logits[*right].total_cmp(&logits[*left]).then(left.cmp(right));
    if count < order.len() {
        order.select_nth_unstable_by(count, by_logit);
        order.truncate(count);
    }
    order.sort_by(by_logit);
    let top = order.into_iter().filter_map(|at| Some((Token::try_from(at).ok()?, logprob(logits[at])))).collect();
    let chosen = usize::try_from(chosen).ok().and_then(|at| logits.get(at)).map_or(LEAST_LOGPROB, |&it| logprob(it));
    Probabilities { chosen, top }
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

/// The same of some tokens.
fn most_likely_of(possible: impl Iterator<Item = (Token, f32)>) -> Option<Token> {
    let best = possible
        .filter(|(_, logit)| !logit.is_nan())
        .fold(None, |best: Option<(Token, f32)>, next| Some(best.filter(|best| best.1 >= next.1).unwrap_or(next)));
    best.map(|(token, _)| token)
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
        assert_eq!(most_likely_of([(3, f32::NAN), (5, 1.0), (9, 2.0), (11, 2.0)].into_iter()), Some(9));
        assert_eq!(most_likely_of([(3, f32::NAN)].into_iter()), None);
    }

    #[test]
    fn probabilities_sum_to_one_and_the_most_probable_come_first() {
        let logits = [1.0, 3.0, f32::NEG_INFINITY, 2.0, f32::NAN];
        let found = probabilities(&logits, 0, 9);
        let sum: f32 = found.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{found:?}");
        assert_eq!(found.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3, 0, 2]);
        assert!((found.chosen - found.top[2].1).abs() < 1e-6);
        assert!((found.top[3].1 - LEAST_LOGPROB).abs() < 1.0);
        assert_eq!(probabilities(&logits, 0, 2).top.len(), 2);
        assert_eq!(probabilities(&logits, 0, 0).top, []);
    }
}
