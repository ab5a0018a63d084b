//! A model that answers, at work: requests, their slots, and steps of the engine.

use crate::{
    constraint::{Compiler, Guide},
    drafting::{self, Candidate, StepTimes},
    generation::{Generation, Speculation},
    llama::{Context, Entry, LlamaError, Token},
    sampling::{Chooser, NoChoice},
    saved::{self, SavedPrompts},
    schedule::{self, Pace, Share, Want},
    serve::{End, HEARTBEAT},
    slot::{self, Place, Slot, Wanted, common_prefix},
    stdio::{self, Lines},
    text::TextStream,
    vocabulary::Vocabulary,
};
use cortex_api::worker::{
    FinishReason, FromWorker, Generate, Rejection, Segment, Stats, ToWorker, TokenProbabilities, TokenProbability,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::{Duration, Instant},
};

/// How often a worker that only waits for a constraint looks whether it is compiled.
const GLANCE: Duration = Duration::from_millis(2);
/// Waiting requests that are looked at in a step: each is compared with all that the slots hold.
const LOOKED_AT: usize = 64;

/// A worker that had nothing to do for so long writes to disk what would be lost with it.
const QUIET: Duration = Duration::from_secs(30);
/// How long a process that should end waits for its disk; the daemon ends it soon after.
const PATIENCE: Duration = Duration::from_secs(1);

/// A request that can be answered and has no slot yet.
struct Accepted {
    generate: Generate,
    prompt: Vec<Token>,
    guide: Option<Guide>,
}

/// The loaded model at work.
pub(crate) struct Worker<'model> {
    vocabulary: &'model Vocabulary<'model>,
    context: Context<'model>,
    slots: Vec<Slot>,
    waiting: VecDeque<Accepted>,
    /// Beginnings of prompts on disk.
    saved: Option<SavedPrompts>,
    /// The slots hold something that may not be on disk.
    has_unsaved: bool,
    /// Made when the first constraint comes.
    compiler: Option<Compiler>,
    /// Requests whose constraints are being compiled.
    compiling: HashMap<u64, (Generate, Vec<Token>)>,
    pace: Pace,
    step_times: StepTimes,
    stats: Stats,
    admitted: u64,
    last_sign: Instant,
}

impl<'model> Worker<'model> {
    pub(crate) fn new(
        vocabulary: &'model Vocabulary<'model>,
        context: Context<'model>,
        saved: Option<SavedPrompts>,
    ) -> Self {
        let slots = (0..context.sequences).map(|_| Slot::default()).collect();
        Self {
            vocabulary,
            context,
            slots,
            waiting: VecDeque::new(),
            saved,
            has_unsaved: false,
            compiler: None,
            compiling: HashMap::new(),
            pace: Pace::default(),
            step_times: StepTimes::default(),
            stats: Stats::default(),
            admitted: 0,
            last_sign: Instant::now(),
        }
    }

    /// Answers until it is told to stop. What the slots hold then is on disk, where that is wanted.
    pub(crate) fn run(&mut self, lines: &mut Lines, inbox: &Receiver<ToWorker>) -> End {
        let end = self.answer(lines, inbox);
        lines.flush();
        self.save_all();
        if let Some(saved) = &mut self.saved {
            saved.finish(PATIENCE);
        }
        end
    }

    fn answer(&mut self, lines: &mut Lines, inbox: &Receiver<ToWorker>) -> End {
        loop {
            if !self.is_busy() {
                let message = if !self.compiling.is_empty() {
                    inbox.recv_timeout(GLANCE)
                } else if self.has_unsaved && self.saved.is_some() {
                    let message = inbox.recv_timeout(QUIET);
                    if matches!(message, Err(RecvTimeoutError::Timeout)) {
                        self.save_all();
                    }
                    message
                } else {
                    inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
                };
                match message {
                    Ok(message) => {
                        if let Some(end) = self.take(message, lines) {
                            return end;
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return End::Shutdown,
                }
            }
            // What came in during the last step joins now.
            loop {
                match inbox.try_recv() {
                    Ok(message) => {
                        if let Some(end) = self.take(message, lines) {
                            return end;
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return End::Shutdown,
                }
            }
            self.take_compiled(lines);
            if let Some(saved) = &mut self.saved {
                saved.look();
            }
            self.admit();
            if self.is_busy() {
                self.step(lines);
            }
            let works = self.is_busy() || !self.compiling.is_empty();
            if works && self.last_sign.elapsed() >= HEARTBEAT {
                self.sign_of_life(lines);
            }
            lines.flush();
        }
    }

    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.slots.iter().any(|slot| slot.generation.is_some())
    }

    /// Takes one message; whether it is the last one.
    fn take(&mut self, message: ToWorker, lines: &mut Lines) -> Option<End> {
        match message {
            ToWorker::Generate(generate) => self.accept(*generate, lines),
            ToWorker::Cancel { id } => self.cancel(id, lines),
            ToWorker::Tokenize { id, prompt, adds_bos } => {
                lines.push(&self.vocabulary.tokens_line(id, &prompt, adds_bos));
            }
            ToWorker::Detokenize { id, tokens } => lines.push(&self.vocabulary.text_line(id, &tokens)),
            ToWorker::Embed { id, .. } => lines.push(&FromWorker::Rejected {
                id,
                reason: Rejection::Invalid {
                    message: "model answers, and makes no vectors; take an embedding model for them".into(),
                },
            }),
            ToWorker::Stats => self.sign_of_life(lines),
            ToWorker::Shutdown => return Some(End::Shutdown),
            ToWorker::Rest => return Some(End::Rest),
            ToWorker::Load(_) => stdio::warn("a second `load` is ignored: one process, one model"),
        }
        lines.flush();
        None
    }

    fn accept(&mut self, mut generate: Generate, lines: &mut Lines) {
        let id = generate.id;
        let prompt = match self.check(&generate) {
            Ok(prompt) => prompt,
            Err(reason) => return lines.push(&FromWorker::Rejected { id, reason }),
        };
        let Some(constraint) = generate.constraint.take() else {
            return self.wait(Accepted { generate, prompt, guide: None }, lines);
        };
        let compiler = self.compiler.get_or_insert_with(|| Compiler::new(self.vocabulary.trie()));
        if compiler.begin(id, constraint) {
            self.compiling.insert(id, (generate, prompt));
        } else {
            let message = "too many constraints are being compiled; try again later".into();
            lines.push(&FromWorker::Rejected { id, reason: Rejection::Constraint { message } });
        }
    }

    /// Takes the requests whose constraints are ready.
    fn take_compiled(&mut self, lines: &mut Lines) {
        while let Some((id, guide)) = self.compiler.as_ref().and_then(Compiler::next) {
            // Nobody waits for those that were cancelled.
            let Some((generate, prompt)) = self.compiling.remove(&id) else { continue };
            match guide {
                Ok(guide) => self.wait(Accepted { generate, prompt, guide: Some(guide) }, lines),
                Err(LlamaError(message)) => {
                    lines.push(&FromWorker::Rejected { id, reason: Rejection::Constraint { message } });
                }
            }
        }
    }

    fn wait(&mut self, accepted: Accepted, lines: &mut Lines) {
        let prompt_tokens = u32::try_from(accepted.prompt.len()).unwrap_or(u32::MAX);
        lines.push(&FromWorker::Accepted { id: accepted.generate.id, prompt_tokens });
        self.waiting.push_back(accepted);
    }

    fn check(&self, generate: &Generate) -> Result<Vec<Token>, Rejection> {
        if let Some((_, message)) = generate.sampling.out_of_range() {
            return Err(Rejection::Invalid { message });
        }
        let biased: Vec<Token> = generate.sampling.logit_bias.iter().map(|(token, _)| *token).collect();
        let invalid = |LlamaError(message)| Rejection::Invalid { message };
        self.vocabulary.check(&biased, "logit_bias").map_err(invalid)?;
        let available = self.context.sequence_length;
        let bytes = |segment: &Segment| if let Segment::Text { text, .. } = segment { text.len() } else { 0 };
        let least = self.vocabulary.least_tokens(generate.prompt.iter().map(bytes).sum());
        if least >= available as usize {
            return Err(Rejection::ContextExceeded { needed: u32::try_from(least).unwrap_or(u32::MAX), available });
        }
        let tokens = self.vocabulary.tokenize(&generate.prompt, true).map_err(invalid)?;
        if tokens.is_empty() {
            return Err(Rejection::EmptyPrompt);
        }
        let needed = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        if needed >= available {
            return Err(Rejection::ContextExceeded { needed, available });
        }
        Ok(tokens)
    }

    fn cancel(&mut self, id: u64, lines: &mut Lines) {
        let waits = self.waiting.iter().position(|waiting| waiting.generate.id == id);
        if waits.and_then(|at| self.waiting.remove(at)).is_some() || self.compiling.remove(&id).is_some() {
            lines.push(&FromWorker::Finished {
                id,
                reason: FinishReason::Cancelled,
                timings: cortex_api::worker::Timings::default(),
            });
        } else if let Some(slot) =
            self.slots.iter().position(|slot| slot.generation.as_ref().is_some_and(|generation| generation.id == id))
        {
            self.finish(slot, FinishReason::Cancelled, lines);
        }
    }

    /// Gives free slots to waiting requests, first come first served; those that wait for what others compute let others pass.
    fn admit(&mut self) {
        let mut at = 0;
        while let Some(Accepted { prompt, generate, .. }) = self.waiting.get(at).filter(|_| at < LOOKED_AT) {
            let scope = generate.cache_scope;
            let is_alone = generate.deterministic || scope.is_none();
            let wanted =
                Wanted { prompt: if is_alone { &[] } else { prompt }, scope, is_whole: self.vocabulary.is_recurrent() };
            let on_disk = |there: usize| {
                let saved = self.saved.as_ref()?;
                saved.best(wanted.prompt, scope?, there, self.pace.seconds_per_token())
            };
            let Some(place) = slot::place(&self.slots, wanted, on_disk) else { return };
            if place == Place::Later {
                at += 1;
                continue;
            }
            let Some(Accepted { generate, prompt, guide }) = self.waiting.remove(at) else { return };
            let (index, reused, restored) = self.take_place(place, &prompt);
            self.slots[index].scope = scope;
            self.has_unsaved = true;
            self.admitted += 1;
            let room = self.context.sequence_length - u32::try_from(prompt.len()).unwrap_or(u32::MAX);
            self.slots[index].generation = Some(Generation {
                id: generate.id,
                chooser: Chooser::new(self.vocabulary, &generate.sampling, guide, generate.probabilities, &prompt),
                text: TextStream::new(&generate.stop),
                speculation: (!generate.deterministic
                    && generate.most_guesses != Some(0)
                    && !self.vocabulary.is_recurrent())
                .then(|| Speculation::new(&self.prediction(&generate), &prompt, generate.most_guesses)),
                prompt,
                computed: reused,
                pending: None,
                produced: 0,
                limit: generate.max_tokens.map_or(room, |most| most.min(room)),
                unsent_tokens: 0,
                unsent_probabilities: vec![],
                shows_control: generate.shows_control,
                ignore_eos: generate.ignore_eos,
                deterministic: generate.deterministic,
                admitted: self.admitted,
                cached: u32::try_from(reused).unwrap_or(u32::MAX),
                restored: u32::try_from(restored).unwrap_or(u32::MAX),
                started: Instant::now(),
                first_token: None,
            });
        }
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
    fn take_place(&mut self, place: Place, prompt: &[Token]) -> (usize, usize, usize) {
        let (index, common) = match place {
            Place::Here { slot, common } => {
                self.keep(slot, common);
                (slot, common)
            }
            Place::Copied { slot, from, common } => {
                self.keep(slot, 0);
                (slot, if self.copy(from, slot) { common } else { 0 })
            }
            Place::Restored { slot, saved, .. } => {
                self.keep(slot, 0);
                let sequence = u32::try_from(slot).unwrap_or(u32::MAX);
                let cells = self.saved.as_mut().map(|it| it.restore(saved, &mut self.context, sequence));
                self.slots[slot].cells = cells.unwrap_or_default();
                (slot, common_prefix(&self.slots[slot].cells, prompt))
            }
            // The caller has seen to it.
            Place::Later => (0, 0),
        };
        let reused = self.reuse(index, common, prompt.len());
        (index, reused, if matches!(place, Place::Restored { .. }) { reused } else { 0 })
    }

    /// Writes to disk what a slot loses that keeps so many of its tokens, when that is much and no other slot has it.
    fn keep(&mut self, slot: usize, common: usize) {
        if self.slots[slot].cells.len() >= common + saved::SHORTEST / 2 {
            self.save(slot);
        }
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
        if let (Some(saved), Some(scope), false) = (&mut self.saved, slot.scope, is_elsewhere) {
            saved.save(&self.context, u32::try_from(index).unwrap_or(u32::MAX), &slot.cells, scope);
        }
    }

    fn save_all(&mut self) {
        for index in 0..self.slots.len() {
            self.save(index);
        }
        self.has_unsaved = false;
    }

    /// Gives a slot what another one holds; false when that was not possible.
    fn copy(&mut self, from: usize, to: usize) -> bool {
        let sequence = |slot: usize| u32::try_from(slot).unwrap_or(u32::MAX);
        let result = self.context.copy(sequence(from), sequence(to));
        self.slots[to].cells = match &result {
            Ok(()) => self.slots[from].cells.clone(),
            Err(_) => vec![],
        };
        if let Err(LlamaError(message)) = &result {
            stdio::warn(&format!("a beginning that is there could not be copied: {message}"));
        }
        result.is_ok()
    }

    /// Cuts the slot back to the tokens that the new prompt shares with it; returns how many those are.
    fn reuse(&mut self, index: usize, common: usize, prompt_length: usize) -> usize {
        // The last token is always computed: its logits choose the first token of the answer.
        let mut keep = common.min(prompt_length - 1);
        let held = self.slots[index].cells.len();
        if keep < held && self.vocabulary.is_recurrent() {
            keep = 0;
        }
        let sequence = u32::try_from(index).unwrap_or(u32::MAX);
        let window = self.vocabulary.sliding_window();
        if window > 0 && keep > 0 {
            let needed = i32::try_from(keep).unwrap_or(i32::MAX).saturating_sub(window).max(0);
            if self.context.first_position(sequence) > needed {
                keep = 0;
            }
        }
        if !self.context.truncate(sequence, u32::try_from(keep).unwrap_or(u32::MAX)) {
            keep = 0;
        }
        self.slots[index].cells.truncate(keep);
        keep
    }

    /// One step: a token for every running answer, and a chunk of the prompts that are waiting.
    fn step(&mut self, lines: &mut Lines) {
        let wants: Vec<Want> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(slot, held)| {
                let generation = held.generation.as_ref()?;
                Some(Want {
                    slot,
                    prompt: generation.remaining(),
                    deterministic: generation.deterministic,
                    admitted: generation.admitted,
                })
            })
            .collect();
        // Beside a chunk of a prompt, which takes all that the processor has, nothing is won by guesses.
        if wants.iter().all(|want| want.prompt == 0 && !want.deterministic) {
            self.draft(wants.iter().map(|want| want.slot).collect());
        }
        for batch in schedule::plan(&wants, self.context.batch_size(), &self.pace) {
            self.compute(&batch, lines);
        }
    }

    /// Decides which guesses are computed with the next tokens of these answers.
    fn draft(&mut self, answers: Vec<usize>) {
        let count = answers.len();
        let guesses: Vec<(usize, Candidate)> = answers
            .into_iter()
            .filter_map(|slot| Some((slot, self.slots[slot].generation.as_mut()?.guess()?)))
            .collect();
        let candidates: Vec<Candidate> = guesses.iter().map(|(_, candidate)| *candidate).collect();
        let lengths = drafting::lengths(&candidates, count, &self.step_times);
        for ((slot, _), tokens) in guesses.into_iter().zip(lengths) {
            if let Some(generation) = self.slots[slot].generation.as_mut() {
                generation.draft(tokens);
            }
        }
    }

    fn compute(&mut self, batch: &[Share], lines: &mut Lines) {
        let (entries, ready) = self.entries(batch);
        let answering = ready.iter().filter(|ready| ready.answering).map(|ready| 1 + ready.drafted).sum::<usize>();
        let prompt_tokens = entries.len() - answering;
        let started = Instant::now();
        let result = self.context.compute(&entries);
        self.stats.steps += 1;
        if let Err(LlamaError(message)) = result {
            stdio::warn(&format!("a batch of {} tokens failed: {message}", entries.len()));
            for share in batch {
                self.slots[share.slot].cells.clear();
                self.context.truncate(u32::try_from(share.slot).unwrap_or(u32::MAX), 0);
                self.finish(share.slot, FinishReason::Error, lines);
            }
            return;
        }
        let took = started.elapsed();
        self.pace.learn(prompt_tokens, took);
        if prompt_tokens == 0 {
            self.step_times.learn(answering, took);
        }
        self.stats.prompt_tokens += prompt_tokens as u64;
        for entry in &entries {
            let slot = entry.sequence as usize;
            self.slots[slot].cells.push(entry.token);
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
        if right < drafted {
            let held = self.slots[slot].cells.len() - (drafted - right);
            self.slots[slot].cells.truncate(held);
            let sequence = u32::try_from(slot).unwrap_or(u32::MAX);
            if !self.context.truncate(sequence, u32::try_from(held).unwrap_or(u32::MAX)) {
                stdio::warn("guesses that were wrong could not be taken back");
                self.slots[slot].cells.clear();
                self.finish(slot, FinishReason::Error, lines);
            }
        }
    }

    /// The entries of a batch, and which of them choose a token.
    fn entries(&mut self, batch: &[Share]) -> (Vec<Entry>, Vec<Ready>) {
        let mut entries = Vec::new();
        let mut ready = Vec::new();
        for share in batch {
            let slot = &mut self.slots[share.slot];
            let Some(generation) = slot.generation.as_mut() else { continue };
            let sequence = u32::try_from(share.slot).unwrap_or(u32::MAX);
            let position = |offset: usize| u32::try_from(slot.cells.len() + offset).unwrap_or(u32::MAX);
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
            let to = from + share.tokens.min(generation.remaining());
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
            return self.finish_quietly(slot, FinishReason::Stop, lines);
        }
        if choice.is_last {
            return self.finish(slot, FinishReason::Stop, lines);
        }
        if generation.produced >= generation.limit {
            return self.finish(slot, FinishReason::Length, lines);
        }
        generation.pending = Some(token);
    }

    /// Ends the request of a slot; what was held back for a stop text is sent first.
    fn finish(&mut self, slot: usize, reason: FinishReason, lines: &mut Lines) {
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
            if self.slots[slot].scope.is_none() {
                self.slots[slot].cells.clear();
                self.context.truncate(u32::try_from(slot).unwrap_or(u32::MAX), 0);
            }
            lines.push(&FromWorker::Finished { id: generation.id, reason, timings: generation.timings() });
        }
    }

    fn sign_of_life(&mut self, lines: &mut Lines) {
        self.last_sign = Instant::now();
        let running = self.slots.iter().filter(|slot| slot.generation.is_some()).count();
        lines.push(&FromWorker::Stats(Stats {
            running: u32::try_from(running).unwrap_or(u32::MAX),
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            ..self.stats
        }));
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
