//! Layers that some models have behind their own for multi-token prediction (MTP): from what the model held when it computed a token, and
//! the token that was chosen after it, they guess the one after that, and so on. They have a context of their own, whose cells follow the
//! model's. Source of how they are driven: llama.cpp's `common_speculative_impl_draft_mtp`.
//!
//! Prompts go through them as they are computed. Tokens of answers are kept until a guess is wanted, so that layers which are asked for
//! nothing cost nothing; when too many are kept, the cells are forgotten and begin anew, which makes guesses worse and answers no other.

use crate::{
    draft_model::{SURE, Wish, learn_step, most_likely},
    images,
    llama::{Context, Entry, LlamaError, Token},
    stdio,
};
use std::time::Instant;

/// So many tokens of one sequence in a step are a prompt, which goes through the layers at once.
const PROMPT: usize = 16;
/// Tokens of an answer that are kept at most.
const KEPT: usize = 512;

/// What is known of a sequence.
#[derive(Default)]
struct Followed {
    /// The position after the last one that the model has computed, and these layers have heard of.
    next: u32,
    /// The position after the last one in the cells of these layers.
    held: u32,
    /// What the model held at the last position; zeros when that is not known.
    hidden: Vec<f32>,
    /// What it held at each position of its last step, and the first of these positions.
    step: (u32, Vec<f32>),
    /// Tokens from `held` on that have not gone through the layers, and what the model held before each.
    kept: (Vec<Token>, Vec<f32>),
}

/// The layers at work.
pub(crate) struct Mtp {
    context: Context<'static>,
    /// Numbers that the model holds of a token.
    width: usize,
    /// Tokens that they guess at most: one head guesses one token after the other, of several each only its own.
    most: usize,
    followed: Vec<Followed>,
    /// Seconds of a step that guesses one token for each of a few sequences.
    step: Option<f64>,
}

impl Mtp {
    /// With a context of such layers that has the sequences of the model's own; `heads` is how many of them the model has.
    pub(crate) fn new(context: Context<'static>, heads: usize) -> Self {
        let width = context.hidden_width();
        let followed = (0..context.sequences).map(|_| Followed { hidden: vec![0.0; width], ..Followed::default() });
        Self { followed: followed.collect(), width, most: if heads > 1 { 1 } else { usize::MAX }, context, step: None }
    }

    /// Seconds that it takes to guess a token; nothing before it has.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.step
    }

    /// Hears of a step of the model: its entries, and what it held at each. Sequences for which nothing will be guessed are passed over.
    pub(crate) fn follow(&mut self, entries: &[Entry], hidden: &[f32], is_wanted: impl Fn(usize) -> bool) {
        if hidden.len() < entries.len() * self.width {
            return;
        }
        let mut from = 0;
        while let Some(first) = entries.get(from) {
            let length = entries[from..].iter().take_while(|entry| entry.sequence == first.sequence).count();
            let slot = first.sequence as usize;
            if is_wanted(slot) {
                let states = &hidden[from * self.width..(from + length) * self.width];
                self.follow_one(slot, &entries[from..from + length], states);
            }
            from += length;
        }
    }

    fn follow_one(&mut self, slot: usize, entries: &[Entry], states: &[f32]) {
        let width = self.width;
        let begins = entries[0].position;
        if self.followed[slot].next != begins {
            self.forget(slot, begins);
        }
        let followed = &mut self.followed[slot];
        followed.kept.0.extend(entries.iter().map(|entry| entry.token));
        followed.kept.1.extend(&followed.hidden);
        followed.kept.1.extend(&states[..states.len() - width]);
        followed.hidden.clear();
        followed.hidden.extend(&states[states.len() - width..]);
        followed.step = (begins, states.to_vec());
        followed.next = begins + u32::try_from(entries.len()).unwrap_or(u32::MAX);
        if entries.len() >= PROMPT {
            self.catch_up(&[slot]);
        } else if self.followed[slot].kept.0.len() > KEPT {
            let (next, hidden) = (self.followed[slot].next, std::mem::take(&mut self.followed[slot].hidden));
            self.forget(slot, next);
            self.followed[slot].hidden = hidden;
        }
    }

    /// A sequence has its first positions only.
    pub(crate) fn cut(&mut self, slot: usize, positions: u32) {
        let width = self.width;
        let followed = &mut self.followed[slot];
        if positions >= followed.next {
            return;
        }
        let (begins, states) = &followed.step;
        let row = positions.checked_sub(*begins).and_then(|after| after.checked_sub(1)).map(|row| row as usize * width);
        followed.hidden = match row.and_then(|at| states.get(at..at + width)) {
            Some(state) => state.to_vec(),
            None => vec![0.0; width],
        };
        followed.next = positions;
        if positions < followed.held {
            followed.held = positions;
            followed.kept = (vec![], vec![]);
            if !self.context.truncate(sequence(slot), positions) {
                self.forget(slot, positions);
            }
        } else {
            let kept = (positions - followed.held) as usize;
            followed.kept.0.truncate(kept);
            followed.kept.1.truncate(kept * width);
        }
    }

    /// Begins a sequence anew at a position.
    fn forget(&mut self, slot: usize, position: u32) {
        self.context.truncate(sequence(slot), 0);
        self.followed[slot] =
            Followed { next: position, held: position, hidden: vec![0.0; self.width], ..Followed::default() };
    }

    /// Has the kept tokens of these sequences go through the layers.
    fn catch_up(&mut self, slots: &[usize]) {
        let mut slots = slots.to_vec();
        slots.sort_unstable();
        while slots.iter().any(|&slot| !self.followed[slot].kept.0.is_empty()) {
            let (mut batch, mut hidden, mut taken) = (vec![], vec![], vec![]);
            for &slot in &slots {
                let Followed { held, kept: (tokens, states), .. } = &self.followed[slot];
                let count = tokens.len().min(self.context.batch_size() - batch.len());
                for (position, &token) in (*held..).zip(&tokens[..count]) {
                    batch.push(Entry { token, position, sequence: sequence(slot), wants_logits: false });
                }
                hidden.extend(&states[..count * self.width]);
                taken.push((slot, count));
            }
            let result = self.context.compute_after(&batch, &hidden);
            for (slot, count) in taken {
                let followed = &mut self.followed[slot];
                if result.is_ok() {
                    followed.kept.0.drain(..count);
                    followed.kept.1.drain(..count * self.width);
                    followed.held += u32::try_from(count).unwrap_or(u32::MAX);
                } else {
                    let next = followed.next;
                    self.forget(slot, next);
                }
            }
            if let Err(LlamaError(why)) = result {
                stdio::warn(&format!("the layers that guess failed: {why}"));
            }
        }
    }

    /// Guesses what comes next, for several sequences at a time.
    pub(crate) fn guess(&mut self, wishes: &[Wish]) -> Vec<(usize, Vec<Token>)> {
        // The last token of a wish is the one that was chosen and is not computed.
        let is_followed = |wish: &&Wish| {
            let positions = images::positions(&wish.tokens);
            positions > 0 && u32::try_from(positions - 1) == Ok(self.followed[wish.slot].next)
        };
        let wishes: Vec<&Wish> = wishes.iter().filter(is_followed).collect();
        let began = Instant::now();
        self.catch_up(&wishes.iter().map(|wish| wish.slot).collect::<Vec<_>>());
        let mut guesses: Vec<(usize, Vec<Token>)> = wishes.iter().map(|wish| (wish.slot, vec![])).collect();
        if let Err(LlamaError(why)) = self.try_guess(&wishes, &mut guesses, began) {
            stdio::warn(&format!("the layers that guess failed: {why}"));
            guesses.clear();
        }
        for wish in wishes {
            // What was guessed is computed by the model first.
            let followed = &self.followed[wish.slot];
            let (held, next) = (followed.held, followed.next);
            if !self.context.truncate(sequence(wish.slot), held) && held > 0 {
                self.forget(wish.slot, next);
            }
        }
        guesses.retain(|(_, guess)| !guess.is_empty());
        guesses
    }

    /// The first token of a guess takes as long as what had to be caught up with before it, from `began` on.
    fn try_guess(
        &mut self,
        wishes: &[&Wish],
        guesses: &mut [(usize, Vec<Token>)],
        mut began: Instant,
    ) -> Result<(), LlamaError> {
        let (mut batch, mut hidden, mut of) = (vec![], vec![], vec![]);
        for (at, wish) in wishes.iter().enumerate() {
            let (Some(&token), true) = (wish.tokens.last(), wish.most > 0) else { continue };
            let followed = &self.followed[wish.slot];
            let (position, sequence) = (followed.next, sequence(wish.slot));
            batch.push(Entry { token, position, sequence, wants_logits: true });
            hidden.extend(&followed.hidden);
            of.push(at);
        }
        while !batch.is_empty() {
            self.context.compute_after(&batch, &hidden)?;
            learn_step(&mut self.step, began.elapsed());
            began = Instant::now();
            let (before, mut next, mut states, mut still) = (std::mem::take(&mut batch), vec![], vec![], vec![]);
            for (index, (entry, at)) in before.iter().zip(std::mem::take(&mut of)).enumerate() {
                let Some((token, probability)) = most_likely(self.context.logits(index)) else { continue };
                let (wish, guess) = (wishes[at], &mut guesses[at].1);
                if probability < SURE {
                    continue;
                }
                guess.push(token);
                let position = entry.position + 1;
                if guess.len() < wish.most.min(self.most) && position < self.context.sequence_length {
                    next.push(Entry { token, position, ..*entry });
                    states.extend(self.context.hidden_of(index));
                    still.push(at);
                }
            }
            (batch, hidden, of) = (next, states, still);
        }
        Ok(())
    }
}

fn sequence(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
