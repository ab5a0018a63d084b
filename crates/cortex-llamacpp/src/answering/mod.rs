//! A model that answers, at work: requests from their arrival to their end. Where prompts go is in `places`, the steps of the engine are in `steps`.

mod places;
mod steps;

use crate::{
    constraint::{Compiler, Guide},
    drafting::StepTimes,
    guesser::Guesser,
    images::{self, Images, TokenisedPrompt, Told},
    llama::{Context, LlamaError, Token},
    saved::SavedPrompts,
    schedule::Pace,
    serve::{End, HEARTBEAT},
    slot::Slot,
    stdio::{self, Lines},
    vocabulary::Vocabulary,
};
use cortex_api::worker::{AdapterUse, FinishReason, FromWorker, Generate, Load, Rejection, Segment, Stats, ToWorker};
use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::{Duration, Instant},
};

/// How often a worker that only waits for a constraint or an image looks whether it is there.
const GLANCE: Duration = Duration::from_millis(2);
/// Waiting requests that are looked at in a step: each is compared with all that the slots hold.
const LOOKED_AT: usize = 64;

/// A worker that had nothing to do for so long computes what the next turns will begin with: clients that ask again at once do not wait
/// for it.
const LULL: Duration = Duration::from_millis(50);
/// So often it looks whether the cores are free for that, each time after a longer wait: 2.75 s for all. Threads that share their cores
/// with those of somebody else wait for each other at every turn, and what takes 30 ms then takes a second of both.
const LOOKS: u32 = 10;
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
    /// Cores that nobody uses; without it the system is asked.
    idle_cores: Option<u32>,
    /// How often the cores were not free for what comes next, since the last step.
    looks: u32,
    /// All that has a slot waits for vectors of images.
    is_stalled: bool,
    pace: Pace,
    step_times: StepTimes,
    stats: Stats,
    admitted: u64,
    last_step: Instant,
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
            idle_cores: load.idle_cores,
            looks: 0,
            is_stalled: false,
            pace: Pace::default(),
            step_times: StepTimes::new(load.entry_cost),
            stats: Stats::default(),
            admitted: 0,
            last_step: Instant::now(),
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
                } else if let Some(slot) = self.slots.iter().position(|slot| slot.ahead.is_some()) {
                    let lull = LULL * ((self.looks + 1) * (self.looks + 2) / 2);
                    let message = inbox.recv_timeout(lull.saturating_sub(self.last_step.elapsed()));
                    if matches!(message, Err(RecvTimeoutError::Timeout)) {
                        self.look_ahead(slot);
                    }
                    message
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
