//! The handle of the engine: what a route or a command calls.

use crate::{
    AcceleratorReport, Answer, Config, EngineError, LoadOrder, LoadSettings, Prompt, Tasks,
    accelerators::Accelerators,
    answer,
    chat::Rendered,
    fits::KnownShapes,
    lease::Lease,
    ledger::{self, Holding},
    modules::{Module, Modules, name_of},
    prompt_cache::PromptCaches,
    speeds::{Expected, Speeds},
    supervisor::{Command, Counts, LoadedModel, Phase, Purpose, Supervisor, Wanted},
    variants::{ModuleChoice, VariantReport, in_order},
    worker::Told,
};
use cortex_api::worker::{AdapterUse, Constraint, EmbedInput, Embeds, Generate, Sampling, Segment, ToWorker};
use cortex_hardware::{Architecture, Budget, Graphics, Memory, ModelShape, process_anonymous_bytes};
use cortex_models::{KeepAlive, ModelFiles, ModelId};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};

/// Texts that a worker gets at a time: others have their turn between them, and a client that left is noticed.
const EMBEDDED_AT_A_TIME: usize = 32;

/// What stands for an image where a prompt is shown as text: llama-server's word for it.
const IMAGE_SHOWN: &str = "<__media__>";

/// One request, complete: it can be sent again.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Which model.
    pub model: ModelId,
    /// What it is loaded from.
    pub files: ModelFiles,
    /// How it is loaded when it is not.
    pub load: LoadSettings,
    /// What to answer.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// Go on after the end token.
    pub ignore_eos: bool,
    /// Bit-identical on repetition.
    pub deterministic: bool,
    /// Whose beginnings of prompts it may use and leave; see [`crate::cache_scope`]. Without a number, nobody's.
    pub cache_scope: Option<u64>,
    /// A text that the answer is expected to be like.
    pub prediction: Option<String>,
    /// Tokens of it that are guessed for one step at most; `None` is as many as pay.
    pub most_guesses: Option<u32>,
    /// What the answer must be.
    pub constraint: Option<Constraint>,
    /// Tell how probable tokens were, and so many of the most probable ones in the place of each.
    pub probabilities: Option<u32>,
    /// The adapters that count, by their numbers in the files.
    pub adapters: Vec<AdapterUse>,
    /// How long the model stays after this answer; `None` is as it was, or as its settings say.
    pub keep_alive: Option<KeepAlive>,
}

/// A model that something is asked of which is no answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Usable {
    /// Which one.
    pub id: ModelId,
    /// What it is loaded from.
    pub files: ModelFiles,
    /// How it is loaded when it is not.
    pub load: LoadSettings,
}

impl Usable {
    fn wanted(self) -> Wanted {
        let Self { id, files, load } = self;
        Wanted { id, files, load, keep_alive: None, purpose: Purpose::Answer }
    }
}

/// A model that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Tokens that one request may use.
    pub context: u32,
    /// Requests that run at the same time.
    pub parallel: u32,
    /// Tokens that one request should be able to use.
    pub requested_context: u32,
    /// Requests that should run at the same time.
    pub requested_parallel: u32,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engines {
    /// Unbounded, because a lease comes back from a destructor and must not wait. What can be in it is
    /// bounded by the requests that are open.
    supervisor: mpsc::UnboundedSender<Command>,
    loaded: watch::Receiver<Arc<Vec<LoadedModel>>>,
    variants: watch::Receiver<Arc<VariantReport>>,
    modules: Arc<Modules>,
    choice: Arc<ModuleChoice>,
    accelerators: Arc<Accelerators>,
    speeds: Arc<Speeds>,
    shapes: Arc<KnownShapes>,
    counts: Arc<Counts>,
    load: LoadSettings,
    memory_limit: Option<u64>,
    prompt_caches: PromptCaches,
}

impl Engines {
    /// Starts the supervisor. No worker runs until a request needs one.
    pub fn start(config: Config, tasks: &Tasks) -> Self {
        let (load, memory_limit) = (config.load, config.memory_limit);
        let prompt_caches = PromptCaches::new(&config.cache_folder, config.prompt_cache_bytes);
        prompt_caches.clear_unwanted();
        let views = Supervisor::start(config, tasks);
        Self {
            supervisor: views.commands,
            loaded: views.loaded,
            variants: views.report,
            modules: views.modules,
            choice: views.choice,
            accelerators: views.accelerators,
            speeds: views.speeds,
            shapes: views.shapes,
            counts: views.counts,
            load,
            memory_limit,
            prompt_caches,
        }
    }

    /// How models are loaded that do not say otherwise.
    pub fn load_settings(&self) -> LoadSettings {
        self.load
    }

    /// The models that are loaded now.
    pub fn loaded(&self) -> Arc<Vec<LoadedModel>> {
        self.loaded.borrow().clone()
    }

    /// Which compute module was chosen, and which were dropped and why.
    pub fn variants(&self) -> Arc<VariantReport> {
        self.variants.borrow().clone()
    }

    /// How fast a model is expected to be on the processor, whose prompt has so many tokens; `None` when this machine was not
    /// measured yet, which then begins if nobody is answered, or when the model is not known well enough.
    pub fn expected_speed(&self, id: Option<&ModelId>, architecture: &Architecture, tokens: u32) -> Option<Expected> {
        let expected = self.speeds.expected(id, architecture, tokens);
        if expected.is_none_or(|it| it.is_rough) {
            // A supervisor that is gone measures nothing.
            let _ = self.supervisor.send(Command::MeasureSpeed);
        }
        expected
    }

    /// Keeps what is known of a model, for those who list models.
    pub fn remember_shape(&self, id: &ModelId, weights: &Path, shape: &ModelShape) {
        self.shapes.remember(id, weights, shape.clone());
    }

    /// The shapes of models that were loaded or remembered since the start, each with its file; and a number that changes when
    /// they do.
    pub fn known_shapes(&self) -> (HashMap<ModelId, (PathBuf, ModelShape)>, u64) {
        self.shapes.all()
    }

    /// Whether the speed of this machine is not known yet and will be.
    pub fn is_speed_pending(&self) -> bool {
        self.speeds.is_pending()
    }

    /// Why the speed of this machine cannot be measured.
    pub fn speed_failure(&self) -> Option<String> {
        self.speeds.failure()
    }

    /// What is known of graphics processors.
    pub fn accelerators(&self) -> Arc<AcceleratorReport> {
        self.accelerators.report()
    }

    /// The same, as it changes.
    pub fn watch_accelerators(&self) -> watch::Receiver<Arc<AcceleratorReport>> {
        self.accelerators.watch()
    }

    /// Lets the next loads use only those graphics processors of `all` whose key is in `on`; the choice is kept. False when
    /// that is how it was. Writes a file.
    ///
    /// # Errors
    /// When the choice cannot be kept; then it is as before.
    pub fn switch_accelerators(&self, all: &[String], on: &[String]) -> std::io::Result<bool> {
        let has_changed = self.accelerators.switch(all, on)?;
        if has_changed {
            // What waits may have room now. A supervisor that is gone has nobody who waits.
            let _ = self.supervisor.send(Command::Accelerators);
        }
        Ok(has_changed)
    }

    /// Chooses a compute module now, if that was not done on this machine before.
    pub async fn choose_variant(&self) -> Arc<VariantReport> {
        let (reply, answer) = oneshot::channel();
        if self.supervisor.send(Command::ChooseVariant { reply }).is_ok() {
            // A supervisor that is gone leaves the report as it was.
            let _ = answer.await;
        }
        self.variants()
    }

    /// The compute modules that are there: for the processor the most demanding first, then those for graphics processors.
    pub fn modules(&self) -> Vec<Module> {
        let mut found = in_order(self.modules.of_processor());
        found.extend(self.modules.of_graphics());
        found
    }

    /// The same, but only those that came with the build, also where a package has one of the same name.
    pub fn modules_of_build(&self) -> Vec<Module> {
        let (graphics, processor) = self.modules.of_build().into_iter().partition(|module| module.is_graphics);
        let mut found = in_order(processor);
        found.extend(graphics);
        found
    }

    /// Uses the modules in these folders from the next load on, before those of the build.
    pub fn use_module_folders(&self, folders: Vec<PathBuf>) {
        self.modules.set_packages(folders);
        self.accelerators.expect_others();
        // A supervisor that is gone loads nothing.
        let _ = self.supervisor.send(Command::OtherModules);
    }

    /// Runs a module that is not in use yet in a process of its own; the reason when it does not work on this machine. One for
    /// graphics processors works when it answers, also without finding one.
    pub async fn try_module(&self, module: &Path) -> Result<(), String> {
        match name_of(module) {
            None => Err("it is no compute module".into()),
            Some((_, true)) => {
                let processor = self.choice.choose(None).await;
                self.accelerators.try_module(module, processor.as_deref()).await
            }
            Some((_, false)) => self.choice.try_module(module).await,
        }
    }

    /// The compute module that somebody chose.
    pub fn pinned_module(&self) -> Option<String> {
        self.modules.pinned()
    }

    /// Takes this compute module for the next loads, or with none again the best one; the choice is kept. Of modules for graphics
    /// processors it is asked first. Whether one for the processor works here is told by [`Engines::choose_variant`]. Writes a
    /// file.
    ///
    /// # Errors
    /// When the choice cannot be written down; then it is as before.
    pub fn pin_module(&self, name: Option<&str>) -> std::io::Result<()> {
        self.modules.pin(name)?;
        if self.accelerators.has_modules() {
            self.accelerators.expect_others();
            let _ = self.supervisor.send(Command::OtherModules);
        }
        Ok(())
    }

    /// Starts to answer. Returns once the worker has accepted the request: it is tokenised and fits.
    pub async fn answer(&self, job: Job) -> Result<Answer, EngineError> {
        let job = Arc::new(job);
        let replay = Replay { engines: self.clone(), job: Arc::clone(&job) };
        match self.attempt(&job, Some(replay), Purpose::Answer).await {
            Err(error) if error.lost_the_worker() => {
                tracing::warn!(model = %job.model, %error, "the request is sent again");
                self.attempt(&job, None, Purpose::Again).await
            }
            // It may have been loaded when memory was short, with less than it should have.
            Err(EngineError::ContextExceeded { available, .. }) if self.is_cut(&job.model, available) => {
                self.attempt(&job, None, Purpose::MoreRoom).await
            }
            other => other,
        }
    }

    /// Whether a model has less context than it should have.
    fn is_cut(&self, id: &ModelId, context: u32) -> bool {
        self.loaded().iter().any(|model| model.id == *id && context < model.requested_context)
    }

    async fn attempt(&self, job: &Job, replay: Option<Replay>, purpose: Purpose) -> Result<Answer, EngineError> {
        let lease = self
            .acquire_for(Wanted {
                id: job.model.clone(),
                files: job.files.clone(),
                load: job.load,
                keep_alive: job.keep_alive,
                purpose,
            })
            .await?;
        if job.prompt.has_images() && !lease.session.facts.sees_images {
            return Err(EngineError::NoImages);
        }
        let Rendered { segments, constraint, parser, has_calls_only, shows_control, next_turn } =
            job.prompt.render(&lease.session.template, lease.session.facts.infill, job.constraint.as_ref())?;
        let running = lease.session.generate(|id| Generate {
            id,
            prompt: segments,
            sampling: job.sampling.clone(),
            stop: job.stop.clone(),
            max_tokens: job.max_tokens,
            ignore_eos: job.ignore_eos,
            deterministic: job.deterministic,
            cache_scope: job.cache_scope,
            prediction: job.prediction.clone(),
            most_guesses: job.most_guesses,
            constraint: constraint.or_else(|| job.constraint.clone()),
            probabilities: job.probabilities,
            shows_control,
            adapters: job.adapters.clone(),
            next_turn,
        })?;
        let prompt_tokens = running.reader.accepted().await?;
        Ok(answer::Answer::new(running, prompt_tokens, parser.map(|it| (it, has_calls_only)), replay, lease))
    }

    /// The token ids of a text by a model, and the bytes of each; `special` is whether the text of a control token stands for
    /// that token, `adds_bos` whether the beginning-of-sequence token comes first when the model wants one.
    pub async fn tokenize(
        &self,
        model: Usable,
        text: String,
        (special, adds_bos): (bool, bool),
    ) -> Result<(Vec<i32>, Vec<Vec<u8>>), EngineError> {
        let lease = self.acquire_for(model.wanted()).await?;
        let prompt = vec![Segment::Text { text, special }];
        match lease.session.ask(|id| ToWorker::Tokenize { id, prompt, adds_bos }).await? {
            Told::Tokens { tokens, pieces } => Ok((tokens, pieces)),
            _ => Err(EngineError::ComputeFailed { model: lease.session.model.to_string() }),
        }
    }

    /// The text of tokens by a model.
    pub async fn detokenize(&self, model: Usable, tokens: Vec<i32>) -> Result<String, EngineError> {
        let lease = self.acquire_for(model.wanted()).await?;
        match lease.session.ask(|id| ToWorker::Detokenize { id, tokens }).await? {
            Told::Text(text) => Ok(text),
            _ => Err(EngineError::ComputeFailed { model: lease.session.model.to_string() }),
        }
    }

    /// The prompt that a chat becomes by the template of a model.
    pub async fn apply_template(&self, model: Usable, prompt: &Prompt) -> Result<String, EngineError> {
        let lease = self.acquire_for(model.wanted()).await?;
        let segments = prompt.render(&lease.session.template, None, None)?.segments;
        let text = |segment: Segment| match segment {
            Segment::Text { text, .. } => text,
            Segment::Tokens { .. } => String::new(),
            Segment::Image { .. } => IMAGE_SHOWN.to_owned(),
        };
        Ok(segments.into_iter().map(text).collect())
    }

    /// The vectors of texts by a model that makes them, each of length 1, and the tokens of each text. Of a model that ranks,
    /// one number for each pair.
    pub async fn embed(
        &self,
        model: Usable,
        inputs: Vec<EmbedInput>,
    ) -> Result<(Vec<Vec<f32>>, Vec<u32>), EngineError> {
        let lease = self.acquire_for(model.wanted()).await?;
        let (mut all, mut counts) = (Vec::new(), Vec::new());
        for inputs in inputs.chunks(EMBEDDED_AT_A_TIME) {
            let inputs = inputs.to_vec();
            match lease.session.ask(|id| ToWorker::Embed { id, inputs }).await? {
                Told::Vectors { vectors, tokens } => {
                    all.extend(vectors);
                    counts.extend(tokens);
                }
                _ => return Err(EngineError::ComputeFailed { model: lease.session.model.to_string() }),
            }
        }
        Ok((all, counts))
    }

    /// What a model makes in place of answers; it is loaded for it.
    pub async fn embeds(&self, model: Usable) -> Result<Option<Embeds>, EngineError> {
        Ok(self.acquire_for(model.wanted()).await?.session.facts.embeds)
    }

    async fn acquire_for(&self, wanted: Wanted) -> Result<Lease, EngineError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Acquire(Box::new(wanted), reply);
        self.supervisor.send(command).map_err(|_| EngineError::ShuttingDown)?;
        answer.await.map_err(|_| EngineError::ShuttingDown)?
    }

    /// Loads a model and keeps it for that time, or until [`Engines::stop`]. One that is loaded with another size than
    /// is ordered or its settings say, or with less than fits by now, is loaded anew. What became of it.
    pub async fn start_model(
        &self,
        id: &ModelId,
        files: &ModelFiles,
        (load, order): (LoadSettings, LoadOrder),
        (keep_alive, pin): (KeepAlive, Option<bool>),
    ) -> Result<Started, EngineError> {
        let (id, files) = (id.clone(), files.clone());
        let (keep_alive, purpose) = (Some(keep_alive), Purpose::Order { order, pin });
        let lease = self.acquire_for(Wanted { id: id.clone(), files, load, keep_alive, purpose }).await?;
        let facts = &lease.session.facts;
        let loaded = self.loaded();
        let requested = loaded.iter().find(|model| model.id == id);
        Ok(Started {
            context: facts.context_length,
            parallel: facts.parallel,
            requested_context: requested.map_or(facts.context_length, |model| model.requested_context),
            requested_parallel: requested.map_or(facts.parallel, |model| model.requested_parallel),
        })
    }

    /// Tells that the settings of a model have changed: how long it stays and whether it is pinned counts at once, what
    /// concerns its load when it is loaded the next time.
    pub fn settings_changed(&self, id: &ModelId, load: LoadSettings) {
        // A supervisor that is gone has no models.
        let _ = self.supervisor.send(Command::Settings { id: id.clone(), load });
    }

    /// The ids of the models that never leave for another.
    pub fn pinned(&self) -> Vec<ModelId> {
        self.loaded()
            .iter()
            .filter(|model| model.pinned && model.phase != Phase::Waiting)
            .map(|it| it.id.clone())
            .collect()
    }

    /// What there is for models on this machine when nothing else runs.
    pub fn budget_of_machine(&self) -> Budget {
        ledger::all(Memory::probe(), self.memory_limit, self.accelerators.report().graphics())
    }

    /// What a model could have beside those that are pinned, all others gone; `id` itself counts as gone.
    pub fn budget_for(&self, id: &ModelId) -> Budget {
        let stays = |model: &LoadedModel| model.pinned && model.id != *id && model.phase != Phase::Waiting;
        let pinned = self.loaded().iter().filter(|model| stays(model)).fold(0, |sum, model| sum + model.graphics);
        let graphics = match self.accelerators.report().graphics() {
            Graphics::Own(bytes) => Graphics::Own(bytes.saturating_sub(pinned)),
            other => other,
        };
        Budget { memory: self.memory_beside(stays).for_models(), graphics }
    }

    /// The memory that a further model could have beside all that are loaded.
    pub fn memory_left(&self) -> Memory {
        self.memory_beside(|_| true)
    }

    fn memory_beside(&self, stays: impl Fn(&LoadedModel) -> bool) -> Memory {
        let mut memory = Memory::probe();
        let mut staying = Vec::new();
        for model in self.loaded().iter().filter(|model| model.phase != Phase::Waiting) {
            let taken = if model.pid == 0 { 0 } else { process_anonymous_bytes(model.pid) };
            if stays(model) {
                staying.push(Holding { reserved: model.reserved, taken, graphics: model.graphics });
            } else {
                memory.available = memory.available.saturating_add(taken).min(memory.total);
            }
        }
        let free = u64::try_from(ledger::free(memory, self.memory_limit, &staying)).unwrap_or(0);
        Memory { available: free.saturating_add(memory.kept_free()), ..memory }
    }

    /// What happened since the start.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Unloads a model now: running answers end with [`EngineError::Stopped`]. False when it was not loaded.
    pub async fn stop(&self, id: &ModelId) -> bool {
        let (reply, answer) = oneshot::channel();
        self.supervisor.send(Command::Unload { id: id.clone(), reply }).is_ok() && answer.await.unwrap_or(false)
    }

    /// Removes what is kept on disk of prompts to these weights.
    pub fn forget_prompts(&self, weights: &Path) {
        self.prompt_caches.forget(weights);
    }

    /// Refuses new requests at once, ends running answers after `streams`, and kills what still runs
    /// after `workers`.
    pub async fn shut_down(&self, streams: Duration, workers: Duration) {
        let (reply, answer) = oneshot::channel();
        if self.supervisor.send(Command::ShutDown { streams, workers, reply }).is_ok() {
            let _ = answer.await;
        }
    }
}

/// Asks the same once more.
pub(crate) struct Replay {
    engines: Engines,
    job: Arc<Job>,
}

impl Replay {
    pub(crate) async fn again(self) -> Result<Answer, EngineError> {
        tracing::warn!(model = %self.job.model, "the worker died before anything was shown; the request is sent again");
        self.engines.attempt(&self.job, None, Purpose::Again).await
    }
}
