//! Where prompts go: which slot, what of it is there already, what is kept of it, and what is written to disk of what gives way.

use super::{Accepted, LOOKED_AT, Worker};
use crate::{
    drafting::MOST_DRAFTED,
    generation::{Generation, Speculation},
    images::{TokenisedPrompt, positions},
    llama::{LlamaError, Token},
    sampling::Chooser,
    saved::{self, SavedPrompts},
    slot::{self, Checkpoint, Place, Wanted, common_prefix},
    stdio,
    text::TextStream,
};
use cortex_api::worker::{AdapterUse, Generate, Segment};
use sha2::{Digest, Sha256};
use std::time::Instant;

/// Tokens that are computed before somebody asks for them at most; with the last one of an answer they fit into the smallest batch.
const MOST_AHEAD: usize = 16;

impl Worker<'_> {
    /// Gives free slots to waiting requests, first come first served; those that wait for what others compute let others pass.
    pub(super) fn admit(&mut self) {
        let mut at = 0;
        while let Some(Accepted { prompt, generate, .. }) = self.waiting.get(at).filter(|_| at < LOOKED_AT) {
            let scope = generate.cache_scope.map(|scope| scope_with(scope, &generate.adapters));
            let is_alone = generate.deterministic || scope.is_none();
            let wanted = Wanted {
                prompt: if is_alone { &[] } else { &prompt.tokens },
                scope,
                is_whole: self.vocabulary.is_recurrent(),
            };
            let on_disk = |there: usize| {
                // What is written now would be read or overwritten by copies that come with the next step.
                let saved = self.saved.as_ref().filter(|_| !self.is_copying)?;
                saved.best(wanted.prompt, scope?, there, self.pace.seconds_per_token())
            };
            let Some(place) = slot::place(&self.slots, wanted, on_disk) else { return };
            if let Place::Later { slot, common } = place {
                if let Some(other) = self.slots[slot].generation.as_mut().filter(|_| self.vocabulary.is_recurrent()) {
                    other.stop_at(common);
                }
                at += 1;
                continue;
            }
            // Before it is given away.
            let parting = slot::parting(&self.slots, wanted);
            let Some(Accepted { generate, prompt, guide }) = self.waiting.remove(at) else { return };
            let (index, reused, restored) = self.take_place(place, &prompt);
            let TokenisedPrompt { tokens: prompt, images } = prompt;
            let (first, turn) = self.marks(&prompt);
            let stops = if is_alone || self.checkpoint_bytes == 0 {
                vec![]
            } else {
                // What was there so far and could not be used: the next one can.
                let parting = Some(parting).filter(|&it| it >= reused + slot::WORTH && it < turn);
                [first, turn].into_iter().chain(parting).collect()
            };
            self.slots[index].turn = turn;
            self.slots[index].scope = scope;
            self.slots[index].ahead = None;
            let next_turn = if is_alone { vec![] } else { self.next_turn(&generate.next_turn) };
            self.has_unsaved = true;
            self.admitted += 1;
            let wanted =
                generate.most_guesses.map_or(MOST_DRAFTED, |most| usize::try_from(most).unwrap_or(MOST_DRAFTED));
            let most_guesses = wanted.min(MOST_DRAFTED).min(self.context.rollback());
            let room = self.context.sequence_length - u32::try_from(prompt.len()).unwrap_or(u32::MAX);
            self.slots[index].generation = Some(Generation {
                id: generate.id,
                chooser: Chooser::new(self.vocabulary, &generate.sampling, guide, generate.probabilities, &prompt),
                text: TextStream::new(&generate.stop),
                speculation: (!generate.deterministic && most_guesses > 0)
                    .then(|| Speculation::new(&self.prediction(&generate), &prompt, most_guesses)),
                prompt,
                images,
                adapters: generate.adapters,
                computed: reused,
                next_turn,
                pending: None,
                produced: 0,
                limit: generate.max_tokens.map_or(room, |most| most.min(room)),
                unsent_tokens: 0,
                unsent_probabilities: vec![],
                shows_control: generate.shows_control,
                ignore_eos: generate.ignore_eos,
                stops: vec![],
                deterministic: generate.deterministic,
                admitted: self.admitted,
                cached: u32::try_from(reused).unwrap_or(u32::MAX),
                restored: u32::try_from(restored).unwrap_or(u32::MAX),
                started: Instant::now(),
                first_token: None,
            });
            for stop in stops {
                if let Some(generation) = self.slots[index].generation.as_mut() {
                    generation.stop_at(stop);
                }
            }
        }
    }

    /// Where other prompts may part from this one: where its first message ends, which others may have too, and where its last one
    /// does, before what makes the model answer. What a template makes of the answer in the next turn may differ from what was said.
    fn marks(&self, prompt: &[Token]) -> (usize, usize) {
        let tail = prompt.len().saturating_sub(slot::TAIL);
        let is_mark = |at: &usize| self.vocabulary.is_control(prompt[*at]);
        let last = (tail..prompt.len()).find(is_mark).unwrap_or(tail);
        ((slot::WORTH..tail).find(is_mark).unwrap_or(last), last)
    }

    /// Notes what a slot holds now as a place that it can be taken back to.
    pub(super) fn note(&mut self, index: usize) {
        let tokens = self.slots[index].cells.len();
        if self.checkpoint_bytes == 0
            || tokens < slot::WORTH
            || self.slots[index].checkpoint(tokens).is_some_and(|it| it.tokens == tokens)
        {
            return;
        }
        let sequence = u32::try_from(index).unwrap_or(u32::MAX);
        let Some(room) = self.checkpoint_bytes.checked_sub(self.context.checkpoint_bytes(sequence)) else { return };
        slot::thin(&mut self.slots, room);
        match self.context.checkpoint(sequence) {
            Ok(state) => self.slots[index].checkpoints.push(Checkpoint { tokens, state: state.into() }),
            Err(LlamaError(why)) => {
                stdio::warn(&format!("no state can be kept: {why}"));
                self.checkpoint_bytes = 0;
            }
        }
    }

    /// Takes a slot back to its last checkpoint that has no more than so many tokens; how many it has. Without one it is empty.
    pub(super) fn go_back(&mut self, index: usize, most: usize) -> usize {
        let slot = &mut self.slots[index];
        let found = slot.checkpoint(most).cloned();
        let kept = found.filter(|it| {
            let positions = u32::try_from(positions(&slot.cells[..it.tokens])).unwrap_or(u32::MAX);
            self.context.go_back(u32::try_from(index).unwrap_or(u32::MAX), &it.state, positions)
        });
        let kept = kept.map_or(0, |it| it.tokens);
        self.truncate(index, kept);
        kept
    }

    /// The tokens of what the next turn has behind an answer. None of a model that could not be taken back from them, if what comes is
    /// something else.
    fn next_turn(&self, text: &str) -> Vec<Token> {
        if text.is_empty() || self.vocabulary.is_recurrent() {
            return vec![];
        }
        let text = Segment::Text { text: text.to_owned(), special: true };
        let tokens = self.vocabulary.tokenize(&[text], false).unwrap_or_default();
        if tokens.len() > MOST_AHEAD { vec![] } else { tokens }
    }

    /// The tokens of the text that an answer is expected to be like.
    fn prediction(&self, generate: &Generate) -> Vec<Token> {
        let Some(text) = &generate.prediction else { return vec![] };
        // An answer is no longer than the context; four bytes are a token, more or less.
        let most = self.context.sequence_length as usize * 4;
        let text = Segment::Text { text: text[..text.floor_char_boundary(most)].to_owned(), special: false };
        // A text that cannot be tokenised is guessed from less well; the request has been checked.
        self.vocabulary.tokenize(&[text], false).unwrap_or_default()
    }

    /// Makes ready the slot of a prompt: which one, how many of its tokens it holds, and how many of those are from disk.
    fn take_place(&mut self, place: Place, prompt: &TokenisedPrompt) -> (usize, usize, usize) {
        let (index, common) = match place {
            Place::Here { slot, common } => {
                self.keep(slot, common);
                (slot, common)
            }
            Place::Copied { slot, from, common } => {
                self.keep(slot, 0);
                (slot, if self.copy(from, slot, common) { common } else { 0 })
            }
            Place::Restored { slot, saved, .. } => {
                self.keep(slot, 0);
                // What is known of the conversation that was there is known of no other.
                self.truncate(slot, 0);
                let sequence = u32::try_from(slot).unwrap_or(u32::MAX);
                let cells = self.saved.as_mut().map(|it| it.restore(saved, &mut self.context, sequence));
                self.slots[slot].cells = cells.unwrap_or_default();
                self.note(slot);
                (slot, common_prefix(&self.slots[slot].cells, &prompt.tokens))
            }
            // The caller has seen to it.
            Place::Later { .. } => (0, 0),
        };
        let reused = self.reuse(index, common, prompt);
        (index, reused, if matches!(place, Place::Restored { .. }) { reused } else { 0 })
    }

    /// Writes to disk what a slot loses that keeps so many of its tokens, when that is much and no other slot has it.
    fn keep(&mut self, slot: usize, common: usize) {
        if self.slots[slot].cells.len() >= common + saved::SHORTEST / 2 {
            self.save_lost(slot, common);
        }
    }

    /// Writes to disk what a slot holds and loses but for its first tokens. What cannot be cut is of use as a whole only: so it ends where the prompt did, because the
    /// next turn may have another answer than was given.
    pub(super) fn save_lost(&mut self, index: usize, keeps: usize) {
        if self.saved.as_ref().is_some_and(SavedPrompts::is_whole) {
            let slot = &self.slots[index];
            let end = slot.turn.max(keeps);
            if slot.checkpoint(end).is_some_and(|it| it.tokens >= saved::SHORTEST) {
                self.go_back(index, end);
            } else if !self.vocabulary.is_recurrent() && end >= saved::SHORTEST {
                self.truncate(index, end);
            }
        }
        self.save(index);
    }

    /// Writes to disk what a slot holds, unless another one has it too.
    fn save(&mut self, index: usize) {
        let slot = &self.slots[index];
        let is_elsewhere = self.slots.iter().enumerate().any(|(at, other)| {
            at != index
                && other.scope == slot.scope
                && other.cells.starts_with(&slot.cells)
                && (other.cells.len() > slot.cells.len() || at < index)
        });
        if let (Some(saved), Some(scope), false) = (&mut self.saved, slot.scope, is_elsewhere || slot.is_unsettled) {
            saved.save(&self.context, u32::try_from(index).unwrap_or(u32::MAX), &slot.cells, scope);
        }
    }

    pub(super) fn save_all(&mut self) {
        for index in 0..self.slots.len() {
            self.save(index);
        }
        self.has_unsaved = false;
    }

    /// Gives a slot what another one holds, of which so much is wanted; false when that was not possible.
    fn copy(&mut self, from: usize, to: usize, common: usize) -> bool {
        let sequence = |slot: usize| u32::try_from(slot).unwrap_or(u32::MAX);
        // Of layers with a window, the state of a sequence has what its end looks back at; nothing can be cut from that.
        let is_cut = self.slots[from].cells.len() > common || self.is_copying;
        let is_unsettled = is_cut && self.vocabulary.sliding_window() > 0 && !self.vocabulary.is_recurrent();
        let result = if is_unsettled {
            self.context.copy_all(sequence(from), sequence(to))
        } else {
            self.context.copy(sequence(from), sequence(to))
        };
        self.is_copying |= is_unsettled;
        self.slots[to].is_unsettled = is_unsettled;
        if let Some(guesser) = &mut self.guesser {
            guesser.cut(to, 0);
        }
        let (cells, checkpoints) = match &result {
            Ok(()) => (self.slots[from].cells.clone(), self.slots[from].checkpoints.clone()),
            Err(_) => (vec![], vec![]),
        };
        (self.slots[to].cells, self.slots[to].checkpoints) = (cells, checkpoints);
        if let Err(LlamaError(message)) = &result {
            stdio::warn(&format!("a beginning that is there could not be copied: {message}"));
        }
        result.is_ok()
    }

    /// Cuts the slot back to the tokens that the new prompt shares with it; returns how many those are.
    fn reuse(&mut self, index: usize, common: usize, prompt: &TokenisedPrompt) -> usize {
        // The last token is always computed: its logits choose the first token of the answer.
        let mut keep = common.min(prompt.tokens.len() - 1).min(self.slots[index].cells.len());
        // An image is there as a whole or not at all.
        if let Some(image) = prompt.images.iter().find(|image| image.range.contains(&keep)) {
            keep = image.range.start;
        }
        let held = self.slots[index].cells.len();
        if keep < held && self.vocabulary.is_recurrent() {
            return self.go_back(index, keep);
        }
        let sequence = u32::try_from(index).unwrap_or(u32::MAX);
        let window = self.vocabulary.sliding_window();
        if window > 0 && keep > 0 {
            let kept = positions(&self.slots[index].cells[..keep]);
            let needed = i32::try_from(kept).unwrap_or(i32::MAX).saturating_sub(window).max(0);
            if self.context.first_position(sequence) > needed {
                keep = 0;
            }
        }
        if !self.truncate(index, keep) {
            keep = 0;
        }
        keep
    }

    /// Cuts a slot back to so many of its tokens; false when the model cannot do that, and the slot is then empty.
    pub(super) fn truncate(&mut self, index: usize, keep: usize) -> bool {
        let slot = &mut self.slots[index];
        slot.cut(keep);
        let kept = u32::try_from(positions(&slot.cells)).unwrap_or(u32::MAX);
        let is_cut = self.context.truncate(u32::try_from(index).unwrap_or(u32::MAX), kept);
        if let Some(guesser) = &mut self.guesser {
            guesser.cut(index, if is_cut { kept } else { 0 });
        }
        if !is_cut {
            slot.cut(0);
        }
        is_cut
    }
}

/// Whose beginnings of prompts a request may use and leave that is computed with some adapters: what others compute is not the same.
fn scope_with(scope: u64, adapters: &[AdapterUse]) -> u64 {
    if adapters.is_empty() {
        return scope;
    }
    let mut hasher = Sha256::new().chain_update(scope.to_le_bytes());
    for used in adapters {
        hasher.update(used.adapter.to_le_bytes());
        hasher.update(used.scale.to_le_bytes());
    }
    hasher.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
