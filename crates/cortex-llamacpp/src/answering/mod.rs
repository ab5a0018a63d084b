//! A model that answers, at work: requests and their slots. The steps of the engine are in `steps`.

mod steps;

use crate::{
    constraint::{Compiler, Guide},
    drafting::{MOST_DRAFTED, StepTimes},
    generation::{Generation, Speculation},
    guesser::Guesser,
    images::{self, Images, TokenisedPrompt, Told, positions},
    llama::{Context, LlamaError, Token},
    sampling::Chooser,
    saved::{self, SavedPrompts},
    schedule::Pace,
    serve::{End, HEARTBEAT},
    slot::{self, Checkpoint, Place, Slot, Wanted, common_prefix},
    stdio::{self, Lines},
    text::TextStream,
    vocabulary::Vocabulary,
};
use cortex_api::worker::{AdapterUse, FinishReason, FromWorker, Generate, Load, Rejection, Segment, Stats, ToWorker};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::{Duration, Instant},
};

/// How often a worker that only waits for a constraint or an image looks whether it is there.
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
    prompt: TokenisedPrompt,
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
    compiling: HashMap<u64, (Generate, TokenisedPrompt)>,
    /// Makes vectors of images, where the model takes them.
    images: Option<Images>,
    /// What guesses where nothing is repeated.
    guesser: Option<Guesser>,
    /// Copies between slots are made with the next step.
    is_copying: bool,
    /// Bytes of checkpoints at most; none are kept of what can be cut anywhere.
    checkpoint_bytes: u64,
    /// Requests with images that are not tokenised yet.
    with_images: HashMap<u64, Generate>,
    /// All that has a slot waits for vectors of images.
    is_stalled: bool,
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
        (images, guesser): (Option<Images>, Option<Guesser>),
        load: &Load,
    ) -> Self {
        let slots = (0..context.sequences).map(|_| Slot::default()).collect();
        let checkpoint_bytes = if vocabulary.is_recurrent() { load.checkpoint_bytes } else { 0 };
        Self {
            vocabulary,
            context,
            slots,
            waiting: VecDeque::new(),
            saved,
            has_unsaved: false,
            compiler: None,
            compiling: HashMap::new(),
            images,
            guesser,
            is_copying: false,
            checkpoint_bytes,
            with_images: HashMap::new(),
            is_stalled: false,
            pace: Pace::default(),
            step_times: StepTimes::new(load.entry_cost),
            stats: Stats::default(),
            admitted: 0,
            last_sign: Instant::now(),
        }
    }

    /// Answers until it is told to stop. What the slots hold then is on disk, where that is wanted.
    pub(crate) fn run(&mut self, lines: &mut Lines, inbox: &Receiver<ToWorker>) -> End {
        let end = self.answer(lines, inbox);
        lines.flush();
        for slot in 0..self.slots.len() {
            self.save_lost(slot, 0);
        }
        if let Some(saved) = &mut self.saved {
            saved.finish(PATIENCE);
        }
        end
    }

    fn answer(&mut self, lines: &mut Lines, inbox: &Receiver<ToWorker>) -> End {
        loop {
            if !self.is_busy() || self.is_stalled {
                let message = if self.waits_for_others() {
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
            self.take_images(lines);
            if let Some(saved) = &mut self.saved {
                saved.look();
            }
            self.admit();
            if self.is_busy() {
                self.step(lines);
            }
            let works = self.is_busy() || self.waits_for_others();
            if works && self.last_sign.elapsed() >= HEARTBEAT {
                self.sign_of_life(lines);
            }
            lines.flush();
        }
    }

    /// Whether other threads have something to do for a request.
    fn waits_for_others(&self) -> bool {
        !self.compiling.is_empty() || self.images.as_ref().is_some_and(Images::is_busy)
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

    fn accept(&mut self, generate: Generate, lines: &mut Lines) {
        let id = generate.id;
        let invalid = |LlamaError(message)| Rejection::Invalid { message };
        let taken = self.check(&generate).and_then(|()| {
            let parts = images::parts(&generate.prompt, |text, is_first| self.vocabulary.tokenize(text, is_first));
            match (parts.map_err(invalid)?, &mut self.images) {
                (None, _) => self.vocabulary.tokenize(&generate.prompt, true).map(Some).map_err(invalid),
                (Some(_), None) => Err(Rejection::Invalid { message: "the model takes no images".into() }),
                (Some(parts), Some(images)) => {
                    let message = || "too many images are being read".into();
                    images
                        .ask_prompt(id, parts, self.context.sequence_length as usize)
                        .then_some(None)
                        .ok_or_else(|| Rejection::Busy { message: message() })
                }
            }
        });
        match taken {
            Ok(Some(tokens)) => self.tokenised(generate, TokenisedPrompt { tokens, images: vec![] }, lines),
            Ok(None) => {
                self.with_images.insert(id, generate);
            }
            Err(reason) => lines.push(&FromWorker::Rejected { id, reason }),
        }
    }

    /// Goes on with a request whose tokens are known.
    fn tokenised(&mut self, mut generate: Generate, prompt: TokenisedPrompt, lines: &mut Lines) {
        let id = generate.id;
        if let Err(reason) = self.check_tokens(&prompt) {
            return lines.push(&FromWorker::Rejected { id, reason });
        }
        let Some(constraint) = generate.constraint.take() else {
            return self.wait(Accepted { generate, prompt, guide: None }, lines);
        };
        let compiler = self.compiler.get_or_insert_with(|| Compiler::new(self.vocabulary.trie()));
        if compiler.begin(id, constraint) {
            self.compiling.insert(id, (generate, prompt));
        } else {
            let message = "too many constraints are being compiled".into();
            lines.push(&FromWorker::Rejected { id, reason: Rejection::Busy { message } });
        }
    }

    /// Takes what has become of images.
    fn take_images(&mut self, lines: &mut Lines) {
        while let Some(told) = self.images.as_mut().and_then(Images::next) {
            match told {
                Told::Prompt(id, prompt) => {
                    // Nobody waits for those that were cancelled.
                    let Some(generate) = self.with_images.remove(&id) else { continue };
                    match prompt {
                        Ok(prompt) => self.tokenised(generate, prompt, lines),
                        Err(LlamaError(message)) => {
                            lines.push(&FromWorker::Rejected { id, reason: Rejection::Invalid { message } });
                        }
                    }
                }
                Told::Vectors(id, number, vectors) => {
                    let Some(slot) = self.slot_of(id) else { continue };
                    let image = self.slots[slot].generation.as_mut().and_then(|it| it.images.get_mut(number));
                    match (vectors, image) {
                        (Ok(vectors), Some(image)) => image.take(vectors),
                        (Ok(_), None) => {}
                        (Err(LlamaError(why)), _) => {
                            stdio::warn(&format!("an image could not be computed: {why}"));
                            self.finish(slot, FinishReason::Error, lines);
                        }
                    }
                }
            }
        }
    }

    /// The slot of a request.
    fn slot_of(&self, id: u64) -> Option<usize> {
        self.slots.iter().position(|slot| slot.generation.as_ref().is_some_and(|generation| generation.id == id))
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
        let prompt_tokens = u32::try_from(accepted.prompt.tokens.len()).unwrap_or(u32::MAX);
        lines.push(&FromWorker::Accepted { id: accepted.generate.id, prompt_tokens });
        self.waiting.push_back(accepted);
    }

    /// Looks at all that can be seen before the prompt is tokenised.
    fn check(&self, generate: &Generate) -> Result<(), Rejection> {
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
        let count = self.context.adapters();
        let is_known = |used: &AdapterUse| (used.adapter as usize) < count && used.scale.is_finite();
        if let Some(wrong) = generate.adapters.iter().find(|used| !is_known(used)) {
            let message =
                format!("adapter {} with a scale of {} is not possible; there are {count}", wrong.adapter, wrong.scale);
            return Err(Rejection::Invalid { message });
        }
        Ok(())
    }

    fn check_tokens(&self, prompt: &TokenisedPrompt) -> Result<(), Rejection> {
        if prompt.tokens.is_empty() {
            return Err(Rejection::EmptyPrompt);
        }
        let available = self.context.sequence_length;
        let needed = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        if needed >= available {
            return Err(Rejection::ContextExceeded { needed, available });
        }
        let most = self.context.longest_image();
        if let Some(image) = prompt.images.iter().find(|it| it.layout.look_at_each_other && it.layout.length > most) {
            let message = format!("an image takes {} tokens in one piece; {most} are possible", image.layout.length);
            return Err(Rejection::Invalid { message });
        }
        Ok(())
    }

    fn cancel(&mut self, id: u64, lines: &mut Lines) {
        if let Some(images) = &mut self.images {
            images.cancel(id);
        }
        let waits = self.waiting.iter().position(|waiting| waiting.generate.id == id);
        if waits.and_then(|at| self.waiting.remove(at)).is_some()
            || self.compiling.remove(&id).is_some()
            || self.with_images.remove(&id).is_some()
        {
            lines.push(&FromWorker::Finished {
                id,
                reason: FinishReason::Cancelled,
                timings: cortex_api::worker::Timings::default(),
            });
        } else if let Some(slot) = self.slot_of(id) {
            self.finish(slot, FinishReason::Cancelled, lines);
        }
    }

    /// Gives free slots to waiting requests, first come first served; those that wait for what others compute let others pass.
    fn admit(&mut self) {
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
            let Some(Accepted { generate, prompt, guide }) = self.waiting.remove(at) else { return };
            let (index, reused, restored) = self.take_place(place, &prompt);
            let TokenisedPrompt { tokens: prompt, images } = prompt;
            let (first, turn) = self.marks(&prompt);
            let stops = if is_alone || self.checkpoint_bytes == 0 { vec![] } else { vec![first, turn] };
            self.slots[index].turn = turn;
            self.slots[index].scope = scope;
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
    fn note(&mut self, index: usize) {
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
    fn go_back(&mut self, index: usize, most: usize) -> usize {
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
    fn save_lost(&mut self, index: usize, keeps: usize) {
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

    fn save_all(&mut self) {
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
    fn truncate(&mut self, index: usize, keep: usize) -> bool {
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
