//! What guesses where nothing is repeated: a small model, or layers of the model's own.

use crate::{
    draft_model::{Drafter, Wish},
    llama::{Entry, Token},
    mtp::Mtp,
};

/// One of the two.
pub(crate) enum Guesser {
    /// A small model.
    Model(Drafter),
    /// Layers for multi-token prediction.
    Mtp(Mtp),
}

impl Guesser {
    /// Seconds that it takes to guess a token; nothing before it has.
    pub(crate) fn seconds(&self) -> Option<f64> {
        match self {
            Self::Model(drafter) => drafter.seconds(),
            Self::Mtp(mtp) => mtp.seconds(),
        }
    }

    /// Guesses what comes next, for several sequences at a time.
    pub(crate) fn guess(&mut self, wishes: &[Wish]) -> Vec<(usize, Vec<Token>)> {
        match self {
            Self::Model(drafter) => drafter.guess(wishes),
            Self::Mtp(mtp) => mtp.guess(wishes),
        }
    }

    /// Hears of a step of the model: its entries and what it held at each, for sequences for which something may be guessed.
    pub(crate) fn follow(&mut self, entries: &[Entry], hidden: &[f32], is_wanted: impl Fn(usize) -> bool) {
        if let Self::Mtp(mtp) = self {
            mtp.follow(entries, hidden, is_wanted);
        }
    }

    /// A sequence has its first positions only.
    pub(crate) fn cut(&mut self, slot: usize, positions: u32) {
        if let Self::Mtp(mtp) = self {
            mtp.cut(slot, positions);
        }
    }
}
