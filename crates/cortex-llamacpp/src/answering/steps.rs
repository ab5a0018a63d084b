//! Steps of the engine: what is computed, and what becomes of the results.

use super::{LOOKS, Worker};
use crate::{
    draft_model::Wish,
    drafting::{self, Candidate},
    generation::{Generation, Next},
    idle,
    images::positions,
    llama::{AdapterSet, Entry, LlamaError, Placed, Token},
    sampling::NoChoice,
    schedule::{self, Share, Want},
    slot::Ahead,
    stdio::{self, Lines},
};
use cortex_api::worker::{FinishReason, FromWorker, Rejection, TokenProbabilities, TokenProbability};
use std::time::Instant;

impl Worker<'_> {
    /// One step: a token for every running answer, a chunk of the prompts that are waiting, and one of an image. Requests with
    /// other adapters are computed one after the other.
    pub(super) fn step(&mut self, lines: &mut Lines) {
        self.last_step = Instant::now();
        self.looks = 0;
        self.ask_for_vectors();
        let mut sets: Vec<AdapterSet> = Vec::new();
        for generation in self.slots.iter().filter_map(|slot| slot.generation.as_ref()) {
            if !sets.contains(&generation.adapters) {
                sets.push(generation.adapters.clone());
            }
        }
        self.is_stalled = true;
        let amid_answers =
            self.slots.iter().filter_map(|slot| slot.generation.as_ref()).any(|it| it.next() == Next::Answer);
        for set in sets {
            self.step_with(&set, amid_answers, lines);
        }
    }

    /// One step for the requests with these adapters; `amid_answers` is whether any request is answered.
    fn step_with(&mut self, set: &AdapterSet, amid_answers: bool, lines: &mut Lines) {
        let (mut wants, mut images) = (Vec::new(), Vec::new());
        for (slot, held) in self.slots.iter().enumerate() {
            let Some(generation) = held.generation.as_ref().filter(|it| it.adapters == *set) else { continue };
            let (before, deterministic, admitted) =
                (generation.computed, generation.deterministic, generation.admitted);
            match generation.next() {
                Next::Answer => wants.push(Want { slot, prompt: 0, before, deterministic, admitted }),
                Next::Text(prompt) => wants.push(Want { slot, prompt, before, deterministic, admitted }),
                Next::Image(number) => images.push((admitted, slot, number)),
                Next::Vectors(_) => {}
            }
        }
        if wants.is_empty() && images.is_empty() {
            return;
        }
        self.is_stalled = false;
        if let Err(LlamaError(why)) = self.context.use_adapters(set) {
            stdio::warn(&format!("adapters cannot be used: {why}"));
            for slot in wants.iter().map(|want| want.slot).chain(images.iter().map(|(_, slot, _)| *slot)) {
                self.finish(slot, FinishReason::Error, lines);
            }
            return;
        }
        // Beside a chunk of a prompt, which takes all that the processor has, nothing is won by guesses.
        if images.is_empty() && wants.iter().all(|want| want.prompt == 0 && !want.deterministic) {
            self.draft(&wants.iter().map(|want| want.slot).collect::<Vec<_>>());
        }
        for batch in schedule::plan(&wants, self.context.batch_size(), &self.pace, amid_answers) {
            self.compute(&batch, lines);
        }
        if let Some((_, slot, number)) = images.into_iter().min() {
            self.compute_image(slot, number, amid_answers, lines);
        }
    }

    /// Has the vectors of images made that come next.
    fn ask_for_vectors(&mut self) {
        let Some(images) = &mut self.images else { return };
        for generation in self.slots.iter_mut().filter_map(|slot| slot.generation.as_mut()) {
            if let Next::Vectors(number) = generation.next()
                && let Some(image) = generation.images.get_mut(number)
                && !image.is_asked
            {
                // When too much is asked already, the next step asks again.
                image.is_asked = images.ask_vectors(generation.id, number, image);
            }
        }
    }

    /// Computes a chunk of an image whose vectors are there; all of it when its vectors look at each other.
    fn compute_image(&mut self, index: usize, number: usize, amid_answers: bool, lines: &mut Lines) {
        let slot = &mut self.slots[index];
        let Some(generation) = slot.generation.as_mut() else { return };
        let Some(image) = generation.images.get(number).cloned() else { return };
        let Some(vectors) = &image.vectors else { return };
        let before = generation.computed;
        let (begin, offset) = (image.range.start, before - image.range.start);
        let left = image.range.len() - offset;
        let most = match (image.layout.look_at_each_other, generation.deterministic) {
            (true, _) => left,
            (false, true) => schedule::DETERMINISTIC_CHUNK.min(self.context.batch_size()),
            (false, false) => self.pace.chunk(self.context.batch_size(), before, amid_answers),
        };
        let count = left.min(most);
        let width = vectors.len() / image.range.len();
        let is_complete = before + count == generation.prompt.len();
        let placed = Placed {
            vectors: &vectors[offset * width..(offset + count) * width],
            grid: image.layout.grid.as_deref(),
            position: u32::try_from(positions(&generation.prompt[..begin])).unwrap_or(u32::MAX),
            offset,
            sequence: u32::try_from(index).unwrap_or(u32::MAX),
            wants_logits: is_complete,
            look_at_each_other: image.layout.look_at_each_other,
        };
        let started = Instant::now();
        let result = self.context.compute_image(&placed);
        self.stats.steps += 1;
        if let Err(LlamaError(message)) = result {
            stdio::warn(&format!("a chunk of an image failed: {message}"));
            self.truncate(index, 0);
            return self.finish(index, FinishReason::Error, lines);
        }
        self.pace.learn(count, before, started.elapsed());
        self.settle();
        let slot = &mut self.slots[index];
        let Some(generation) = slot.generation.as_mut() else { return };
        self.stats.prompt_tokens += count as u64;
        slot.cells.extend(&generation.prompt[generation.computed..generation.computed + count]);
        generation.computed += count;
        if generation.computed == image.range.end {
            // They are not needed any more, and many may wait.
            generation.images[number].vectors = None;
        }
        if is_complete {
            self.next_tokens(&Ready { slot: index, index: count - 1, answering: false, drafted: 0 }, lines);
        }
    }

    /// Tokens before those of the prompt that has the most of a batch.
    fn before(&self, batch: &[Share]) -> usize {
        let longest = batch.iter().max_by_key(|share| share.tokens);
        longest.map_or(0, |share| self.slots[share.slot].cells.len())
    }

    /// What was to be copied with the next step has been.
    fn settle(&mut self) {
        self.is_copying = false;
        for slot in &mut self.slots {
            slot.is_unsettled = false;
        }
    }

    /// Decides which guesses are computed with the next tokens of these answers.
    fn draft(&mut self, answers: &[usize]) {
        let count = answers.len();
        let mut guesses: Vec<(usize, Candidate)> =
            answers.iter().filter_map(|&slot| Some((slot, self.slots[slot].generation.as_mut()?.guess()?))).collect();
        guesses.extend(self.ask_model(answers));
        let candidates: Vec<Candidate> = guesses.iter().map(|(_, candidate)| *candidate).collect();
        let lengths = drafting::lengths(&candidates, count, &self.step_times);
        for ((slot, _), tokens) in guesses.into_iter().zip(lengths) {
            if let Some(generation) = self.slots[slot].generation.as_mut() {
                generation.draft(tokens);
            }
        }
    }

    /// What a small model guesses for those answers that nothing else is guessed for, if there is one and it pays.
    fn ask_model(&mut self, answers: &[usize]) -> Vec<(usize, Candidate)> {
        let Some(asked) = &mut self.guesser else { return vec![] };
        let wants: Vec<(usize, usize, f64)> = answers
            .iter()
            .filter_map(|&slot| {
                let (most, probability) = self.slots[slot].generation.as_ref()?.wants_model()?;
                Some((slot, most, probability))
            })
            .collect();
        let Some(likeliest) = wants.iter().map(|(.., probability)| *probability).max_by(f64::total_cmp) else {
            return vec![];
        };
        // A first guess tells how long it takes.
        let depth = match asked.seconds() {
            None => 2,
            Some(seconds) => drafting::depth(likeliest, wants.len(), seconds, &self.step_times),
        };
        if depth == 0 {
            return vec![];
        }
        let wishes: Vec<Wish> = wants
            .into_iter()
            .map(|(slot, most, _)| {
                let held = &self.slots[slot];
                let pending = held.generation.as_ref().and_then(|generation| generation.pending);
                let tokens = held.cells.iter().copied().chain(pending).collect();
                Wish { slot, tokens, most: most.min(depth) }
            })
            .collect();
        let guesses = asked.guess(&wishes);
        guesses
            .into_iter()
            .filter_map(|(slot, tokens)| Some((slot, self.slots[slot].generation.as_mut()?.guessed(tokens)?)))
            .collect()
    }

    fn compute(&mut self, batch: &[Share], lines: &mut Lines) {
        let fillers = self.fillers(batch);
        let (entries, ready) = self.entries(batch, &fillers);
        let answering = ready.iter().filter(|ready| ready.answering).map(|ready| 1 + ready.drafted).sum::<usize>();
        let prompt_tokens = entries.len() - answering - fillers.len();
        let before = self.before(batch);
        let started = Instant::now();
        let result = self.context.compute(&entries);
        self.stats.steps += 1;
        for &slot in &fillers {
            self.truncate(slot, self.slots[slot].cells.len());
        }
        if let Err(LlamaError(message)) = result {
            stdio::warn(&format!("a batch of {} tokens failed: {message}", entries.len()));
            for share in batch {
                self.truncate(share.slot, 0);
                self.finish(share.slot, FinishReason::Error, lines);
            }
            return;
        }
        self.settle();
        if let Some(guesser) = &mut self.guesser {
            let is_wanted = |slot: usize| {
                self.slots[slot].generation.as_ref().is_some_and(|generation| generation.speculation.is_some())
            };
            guesser.follow(&entries, self.context.hidden(entries.len()), is_wanted);
        }
        let took = started.elapsed();
        self.pace.learn(prompt_tokens, before, took);
        if prompt_tokens == 0 {
            self.step_times.learn(entries.len(), took);
        }
        self.stats.prompt_tokens += prompt_tokens as u64;
        for entry in &entries {
            let slot = entry.sequence as usize;
            if !fillers.contains(&slot) {
                self.slots[slot].cells.push(entry.token);
            }
        }
        for share in batch {
            if self.slots[share.slot].generation.as_ref().is_some_and(Generation::is_at_stop) {
                self.note(share.slot);
            }
        }
        for ready in ready {
            self.next_tokens(&ready, lines);
        }
    }

    /// Chooses the next token of a slot, and those after it as long as what was guessed is what is chosen.
    fn next_tokens(&mut self, ready: &Ready, lines: &mut Lines) {
        let Ready { slot, index, drafted, .. } = *ready;
        let mut right = 0;
        loop {
            self.next_token(slot, index + right, lines);
            let Some(generation) = self.slots[slot].generation.as_mut() else { break };
            // It is in the cells already, and the result after it is there.
            let guessed = generation.drafted().get(right).copied();
            if guessed.is_none() || generation.pending != guessed {
                generation.judge(right);
                break;
            }
            generation.pending = None;
            right += 1;
        }
        // Of a request that is nobody's, nothing is left when it has ended.
        if right < drafted && !self.slots[slot].cells.is_empty() {
            let held = self.slots[slot].cells.len() - (drafted - right);
            if !self.truncate(slot, held) {
                stdio::warn("guesses that were wrong could not be taken back");
                self.finish(slot, FinishReason::Error, lines);
            } else if let Some(ahead) = &mut self.slots[slot].ahead {
                // It ended amid them.
                ahead.at = held;
            }
        }
    }

    /// The free slots whose sequences are computed with a batch so that it has no gaps.
    fn fillers(&self, batch: &[Share]) -> Vec<usize> {
        // What is added could not be taken back, or would push something out of the window.
        if self.vocabulary.is_recurrent() || self.vocabulary.sliding_window() > 0 {
            return vec![];
        }
        let is_free = |slot: usize| {
            let slot = &self.slots[slot];
            slot.generation.is_none() && positions(&slot.cells) < self.context.sequence_length as usize
        };
        let fillers = schedule::gaps(batch, is_free);
        let drafted = |share: &Share| self.slots[share.slot].generation.as_ref().map_or(0, |it| it.drafted().len());
        let entries: usize = batch.iter().map(|share| share.tokens + drafted(share)).sum();
        if entries + fillers.len() > self.context.batch_size() { vec![] } else { fillers }
    }

    /// The entries of a batch, and which of them choose a token. The sequences of `fillers` get a token that means nothing, in
    /// the order of the others.
    fn entries(&mut self, batch: &[Share], fillers: &[usize]) -> (Vec<Entry>, Vec<Ready>) {
        let mut entries = Vec::new();
        let mut ready = Vec::new();
        let mut fillers = fillers.iter().copied().peekable();
        for share in batch {
            while let Some(slot) = fillers.next_if(|&slot| slot < share.slot) {
                let position = u32::try_from(positions(&self.slots[slot].cells)).unwrap_or(u32::MAX);
                let sequence = u32::try_from(slot).unwrap_or(u32::MAX);
                entries.push(Entry { token: 0, position, sequence, wants_logits: false });
            }
            let slot = &mut self.slots[share.slot];
            let Some(generation) = slot.generation.as_mut() else { continue };
            let sequence = u32::try_from(share.slot).unwrap_or(u32::MAX);
            let begin = positions(&slot.cells);
            let position = |offset: usize| u32::try_from(begin + offset).unwrap_or(u32::MAX);
            if let Some(token) = generation.pending.take() {
                let drafted = generation.drafted();
                let (index, drafts) = (entries.len(), drafted.len());
                ready.push(Ready { slot: share.slot, index, answering: true, drafted: drafts });
                for (offset, token) in std::iter::once(token).chain(drafted.iter().copied()).enumerate() {
                    entries.push(Entry { token, position: position(offset), sequence, wants_logits: true });
                }
                continue;
            }
            let from = generation.computed;
            let ahead = if let Next::Text(ahead) = generation.next() { ahead } else { 0 };
            let to = from + share.tokens.min(ahead);
            generation.computed = to;
            let complete = to == generation.prompt.len();
            for (offset, &token) in generation.prompt[from..to].iter().enumerate() {
                let wants_logits = complete && from + offset + 1 == to;
                if wants_logits {
                    ready.push(Ready { slot: share.slot, index: entries.len(), answering: false, drafted: 0 });
                }
                entries.push(Entry { token, position: position(offset), sequence, wants_logits });
            }
        }
        (entries, ready)
    }

    /// Chooses the next token of a slot and sends what may be shown of it.
    fn next_token(&mut self, slot: usize, index: usize, lines: &mut Lines) {
        let Some(generation) = self.slots[slot].generation.as_mut() else { return };
        if generation.limit == 0 {
            return self.finish(slot, FinishReason::Length, lines);
        }
        let choice = match generation.chooser.choose(&self.context, index) {
            Ok(choice) => choice,
            Err(NoChoice::NotNumbers) => {
                stdio::warn("the model gives logits that are not numbers; the request ends");
                return self.finish(slot, FinishReason::Error, lines);
            }
            Err(NoChoice::Constraint(message)) => {
                let id = generation.id;
                self.slots[slot].leave(self.stats.steps);
                return lines.push(&FromWorker::Rejected { id, reason: Rejection::Constraint { message } });
            }
        };
        let token = choice.token;
        generation.produce(token);
        self.stats.answer_tokens += 1;
        let ends = self.vocabulary.ends_answer(token);
        if ends && !generation.ignore_eos {
            return self.finish(slot, FinishReason::Stop, lines);
        }
        if let Some(found) = choice.probabilities {
            let probability = |token: Token, logprob: f32| TokenProbability {
                token,
                bytes: self.vocabulary.piece(token, true),
                logprob,
            };
            generation.unsent_probabilities.push(TokenProbabilities {
                chosen: probability(token, found.chosen),
                top: found.top.into_iter().map(|(token, logprob)| probability(token, logprob)).collect(),
            });
        }
        let shown = generation.text.push(&self.vocabulary.piece(token, generation.shows_control && !ends));
        if !shown.text.is_empty() {
            lines.push(&generation.text_line(shown.text));
        }
        if shown.stopped {
            // What is told ends before what is there.
            generation.next_turn.clear();
            return self.finish_quietly(slot, FinishReason::Stop, lines);
        }
        generation.pending = Some(token);
        if choice.is_last {
            return self.finish(slot, FinishReason::Stop, lines);
        }
        if generation.produced >= generation.limit {
            self.finish(slot, FinishReason::Length, lines);
        }
    }

    /// Computes what the next turn of a conversation begins with, if nobody else needs the cores; when they stay busy, the turn itself
    /// will do it.
    pub(super) fn look_ahead(&mut self, index: usize) {
        let idle = self.idle_cores.or_else(idle::cores);
        if idle.is_none_or(|idle| idle >= self.context.threads()) {
            return self.compute_ahead(index);
        }
        self.looks += 1;
        if self.looks == LOOKS {
            for slot in &mut self.slots {
                slot.ahead = None;
            }
        }
    }

    /// Computes what the next turn of a conversation will most likely have behind what is there.
    fn compute_ahead(&mut self, index: usize) {
        let Some(Ahead { at, tokens, adapters }) = self.slots[index].ahead.take() else { return };
        let begin = positions(&self.slots[index].cells);
        let has_room = begin + tokens.len() < self.context.sequence_length as usize;
        if self.slots[index].cells.len() != at || !has_room || self.slots[index].generation.is_some() {
            return;
        }
        let entry = |(offset, &token): (usize, &Token)| Entry {
            token,
            position: u32::try_from(begin + offset).unwrap_or(u32::MAX),
            sequence: u32::try_from(index).unwrap_or(u32::MAX),
            wants_logits: false,
        };
        let entries: Vec<Entry> = tokens.iter().enumerate().map(entry).collect();
        let result = self.context.use_adapters(&adapters).and_then(|()| self.context.compute(&entries));
        self.stats.steps += 1;
        if let Err(LlamaError(message)) = result {
            stdio::warn(&format!("the beginning of a next turn could not be computed: {message}"));
            self.truncate(index, 0);
            return;
        }
        self.settle();
        if let Some(guesser) = &mut self.guesser {
            guesser.follow(&entries, self.context.hidden(entries.len()), |_| true);
        }
        self.slots[index].cells.extend(tokens);
    }

    /// Ends the request of a slot; what was held back for a stop text is sent first.
    pub(super) fn finish(&mut self, slot: usize, reason: FinishReason, lines: &mut Lines) {
        if let Some(generation) = self.slots[slot].generation.as_mut() {
            let text = generation.text.finish();
            if !text.is_empty() {
                lines.push(&generation.text_line(text));
            }
        }
        self.finish_quietly(slot, reason, lines);
    }

    fn finish_quietly(&mut self, slot: usize, reason: FinishReason, lines: &mut Lines) {
        if let Some(generation) = self.slots[slot].leave(self.stats.steps) {
            let held = &mut self.slots[slot];
            if held.scope.is_none() {
                self.truncate(slot, 0);
            } else if matches!(reason, FinishReason::Stop | FinishReason::Length) && !generation.next_turn.is_empty() {
                // The last token of an answer is not computed for it.
                let tokens = generation.pending.into_iter().chain(generation.next_turn.iter().copied()).collect();
                held.ahead = Some(Ahead { at: held.cells.len(), tokens, adapters: generation.adapters.clone() });
            }
            lines.push(&FromWorker::Finished { id: generation.id, reason, timings: generation.timings() });
        }
    }
}

/// An entry whose logits choose a token.
struct Ready {
    slot: usize,
    index: usize,
    /// Whether the entry was a token of the answer rather than the end of the prompt.
    answering: bool,
    /// Guesses that were computed with it.
    drafted: usize,
}
