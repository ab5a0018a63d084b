//! A small model that guesses what a large one will say. It runs in the same process, has a sequence for each slot, and is asked where
//! nothing is repeated that could be guessed from.

use crate::{
    images,
    llama::{Context, Entry, LlamaError, Token, error},
    slot::common_prefix,
    stdio,
    vocabulary::Vocabulary,
};
use cortex_api::worker::Load;
use llama_cpp_2::model::LlamaModel;
use std::time::{Duration, Instant};

/// Tokens that a sequence may be behind and still guesses in this step; more are computed over several steps, so that answers go on.
const BEHIND: usize = 128;
/// A token that is less probable than this is not guessed, and ends the guess.
pub(crate) const SURE: f32 = 0.5;
/// How much of a new time is believed.
const BELIEF: f64 = 0.2;
/// Tokens of the vocabularies that need not be the same: some models are filled up to a round number.
const FILLED_UP: i32 = 128;

/// A sequence that wants guesses.
pub(crate) struct Wish {
    /// Which one.
    pub(crate) slot: usize,
    /// All that is said so far.
    pub(crate) tokens: Vec<Token>,
    /// Tokens to guess at most.
    pub(crate) most: usize,
}

/// The small model at work.
pub(crate) struct Drafter {
    context: Context<'static>,
    /// What each sequence holds.
    cells: Vec<Vec<Token>>,
    vocabulary_size: i32,
    /// Seconds of a step that guesses one token for each of a few sequences.
    step: Option<f64>,
}

impl Drafter {
    /// How many tokens a small model and a large one have in common; an error when it cannot guess for it.
    pub(crate) fn check(small: &LlamaModel, large: &Vocabulary<'_>) -> Result<i32, LlamaError> {
        let vocabulary = Vocabulary::new(small);
        if !vocabulary.has_texts() || vocabulary.embeds().is_some() || vocabulary.is_recurrent() {
            return error("it is no model that can guess for another one");
        }
        let size = vocabulary.size.min(large.size);
        let is_same = |token: Token| vocabulary.piece(token, true) == large.piece(token, true);
        if (vocabulary.size - large.size).abs() > FILLED_UP || !(0..size).all(is_same) {
            return error("its tokens are not those of the model that it should guess for");
        }
        Ok(size)
    }

    /// Takes a small model with so many of the large one's tokens, and allocates as many sequences of the same length.
    pub(crate) fn new(
        small: &'static LlamaModel,
        vocabulary_size: i32,
        load: &Load,
        room: (u32, u32),
    ) -> Result<Self, LlamaError> {
        let context = Context::new(small, load, room, None)?;
        let cells = (0..context.sequences).map(|_| vec![]).collect();
        Ok(Self { context, cells, vocabulary_size, step: None })
    }

    /// Seconds that it takes to guess a token; nothing before it has.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.step
    }

    /// Guesses what comes next, for several sequences at a time; those that are far behind get none yet.
    pub(crate) fn guess(&mut self, wishes: &[Wish]) -> Vec<(usize, Vec<Token>)> {
        match self.try_guess(wishes) {
            Ok(guesses) => guesses,
            Err(LlamaError(why)) => {
                stdio::warn(&format!("the model that guesses failed: {why}"));
                for wish in wishes {
                    self.forget(wish.slot);
                }
                vec![]
            }
        }
    }

    fn forget(&mut self, slot: usize) {
        self.cells[slot].clear();
        self.context.truncate(sequence(slot), 0);
    }

    fn try_guess(&mut self, wishes: &[Wish]) -> Result<Vec<(usize, Vec<Token>)>, LlamaError> {
        // What was said since: the last of it gives the first guess.
        let mut batch = Vec::new();
        let mut guessing: Vec<(usize, usize, usize)> = Vec::new();
        for wish in
            wishes.iter().filter(|wish| !wish.tokens.is_empty() && images::positions(&wish.tokens) == wish.tokens.len())
        {
            if wish.tokens.iter().any(|&token| token < 0 || token >= self.vocabulary_size) {
                continue;
            }
            let held = &mut self.cells[wish.slot];
            let keep = common_prefix(held, &wish.tokens).min(wish.tokens.len() - 1);
            held.truncate(keep);
            if !self.context.truncate(sequence(wish.slot), u32::try_from(keep).unwrap_or(u32::MAX)) {
                held.clear();
            }
            let room = self.context.batch_size() - batch.len();
            let (from, to) = (held.len(), wish.tokens.len().min(held.len() + BEHIND.min(room)));
            let is_there = to == wish.tokens.len();
            for (at, &token) in wish.tokens.iter().enumerate().take(to).skip(from) {
                let wants_logits = is_there && at + 1 == to;
                if wants_logits {
                    guessing.push((wish.slot, batch.len(), wish.most));
                }
                batch.push(entry(wish.slot, token, at, wants_logits));
            }
        }
        let mut guesses: Vec<(usize, Vec<Token>)> = guessing.iter().map(|(slot, ..)| (*slot, vec![])).collect();
        let mut is_first = true;
        while !batch.is_empty() {
            let began = Instant::now();
            self.context.compute(&batch)?;
            for entry in &batch {
                self.cells[entry.sequence as usize].push(entry.token);
            }
            if !is_first {
                learn_step(&mut self.step, began.elapsed());
            }
            is_first = false;
            batch.clear();
            for (slot, index, most) in std::mem::take(&mut guessing) {
                let Some((token, probability)) = most_likely(self.context.logits(index)) else { continue };
                let Some((_, guess)) = guesses.iter_mut().find(|(of, _)| *of == slot) else { continue };
                if probability < SURE || token >= self.vocabulary_size {
                    continue;
                }
                guess.push(token);
                let position = self.cells[slot].len();
                if guess.len() < most && position < self.context.sequence_length as usize {
                    guessing.push((slot, batch.len(), most));
                    batch.push(entry(slot, token, position, true));
                }
            }
        }
        guesses.retain(|(_, guess)| !guess.is_empty());
        Ok(guesses)
    }
}

fn sequence(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

fn entry(slot: usize, token: Token, position: usize, wants_logits: bool) -> Entry {
    Entry { token, position: u32::try_from(position).unwrap_or(u32::MAX), sequence: sequence(slot), wants_logits }
}

/// Learns how long a step takes that guesses a token.
pub(crate) fn learn_step(known: &mut Option<f64>, took: Duration) {
    let took = took.as_secs_f64();
    *known = Some(known.map_or(took, |known| known + BELIEF * (took.min(known * 3.0) - known)));
}

/// The most likely token and its probability; nothing when the logits are not numbers.
pub(crate) fn most_likely(logits: &[f32]) -> Option<(Token, f32)> {
    let (token, highest) = (0..).zip(logits).max_by(|left, right| left.1.total_cmp(right.1))?;
    let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    let probability = 1.0 / sum;
    probability.is_finite().then_some((token, probability))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_token_has_its_share() {
        let (token, probability) = most_likely(&[0.0, 2.0f32.ln(), 0.0]).expect("numbers");
        assert_eq!(token, 1);
        assert!((probability - 0.5).abs() < 1e-6);
        assert_eq!(most_likely(&[]), None);
        assert_eq!(most_likely(&[f32::NAN, 1.0]), None);
    }
}
