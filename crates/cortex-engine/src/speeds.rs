//! How fast this machine is: measured once, and corrected by what answers really took.
//!
//! The measurement takes some seconds of all cores, so it is made when somebody asks how fast a model will be, and only while
//! nobody is answered. It is kept for this processor, build and compute module.

use crate::{
    Config,
    worker::{ENVIRONMENT, Question, Scratch, Unanswered},
};
use cortex_api::worker::{Measured, Timings};
use cortex_hardware::{Architecture, Cpu, Memory, Rates, TypeRate, busy_seconds, speed};
use cortex_models::{ModelId, write_atomically};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Time for the measurement, which takes six seconds on a machine at rest.
const LIMIT: Duration = Duration::from_mins(2);
/// MiB of memory that are read to find out how fast it is, where that is not more than an eighth of what is available.
const MOST_MEBIBYTES: u64 = 512;
/// Answers shorter than this, and prompts, say little.
const LEAST_ANSWER: u32 = 16;
const LEAST_PROMPT: u32 = 64;
/// An answer with more than one guess in so many tokens says little of plain steps.
const MOST_DRAFTS: u32 = 16;
/// A share of a new observation when there are many: what changes is followed, and one disturbed answer is not.
const NEWEST: f64 = 0.2;
/// Observations outside of this are of something else: a machine that slept, a clock that jumped.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = 0.02..=50.0;
/// Processors that something else may keep busy during a measurement that is kept.
const DISTURBANCE: f64 = 0.3;
/// How long a measurement that was disturbed is used until it is made again.
const ROUGH: Duration = Duration::from_mins(1);
/// Models whose own observations are kept.
const MOST_MODELS: usize = 256;

/// How fast a model is expected to be, or was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Tokens of a prompt in a second.
    pub prompt: f64,
    /// Tokens of an answer in a second.
    pub answer: f64,
    /// What decides.
    pub bound: cortex_hardware::Bound,
    /// It was measured while something else was computed.
    pub is_rough: bool,
    /// It was corrected by answers of this model on this machine.
    pub is_observed: bool,
}

/// How much longer something took than was predicted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Ratio {
    value: f64,
    /// Observations, up to as many as count.
    count: f64,
}

impl Default for Ratio {
    fn default() -> Self {
        Self { value: 1.0, count: 0.0 }
    }
}

impl Ratio {
    fn observe(&mut self, ratio: f64) {
        if !PLAUSIBLE.contains(&ratio) {
            return;
        }
        self.count = (self.count + 1.0).min(1.0 / NEWEST);
        let share = 1.0 / self.count;
        // What else runs makes an answer slower and never faster: so fast ones say more of what this machine can do.
        let share = if ratio > self.value && self.count > 1.0 { share / 4.0 } else { share };
        self.value += (ratio - self.value) * share;
    }
}

/// The same for answers and prompts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Ratios {
    answer: Ratio,
    prompt: Ratio,
}

/// What is known, and kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Known {
    /// When it was measured, while something else was computed: it is not kept.
    #[serde(skip)]
    is_rough_since: Option<Instant>,
    identity: String,
    measured: Measured,
    /// Of all models together.
    all: Ratios,
    /// Of each.
    models: HashMap<String, Ratios>,
}

/// The owner of what is known of this machine's speed.
pub(crate) struct Speeds {
    program: PathBuf,
    cache: PathBuf,
    folder: PathBuf,
    threads: u32,
    known: Mutex<Option<(Known, Arc<Rates>)>>,
    is_measuring: AtomicBool,
    /// Why it cannot be measured: it is not tried again.
    failure: Mutex<Option<String>>,
}

impl Speeds {
    pub(crate) fn new(config: &Config, cores: usize) -> Self {
        let cores = u32::try_from(cores).unwrap_or(1);
        Self {
            program: config.worker_program.clone(),
            cache: config.cache_folder.join("speed.json"),
            folder: config.cache_folder.clone(),
            threads: if config.load.threads == 0 { cores } else { config.load.threads },
            known: Mutex::default(),
            is_measuring: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Known, Arc<Rates>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something to measure, and nobody does it.
    pub(crate) fn begin(&self) -> bool {
        let is_rough = || {
            let known = self.lock();
            known.as_ref().and_then(|(known, _)| known.is_rough_since).is_some_and(|since| since.elapsed() > ROUGH)
        };
        (self.is_pending() || is_rough()) && !self.is_measuring.swap(true, Ordering::AcqRel)
    }

    /// Why it cannot be measured.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, reason: String) {
        tracing::warn!(%reason, "the speed of this machine cannot be measured");
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// Whether it is not known yet and can be measured.
    pub(crate) fn is_pending(&self) -> bool {
        self.lock().is_none() && self.failure().is_none()
    }

    /// What was kept, or else a measurement with this compute module; `is_disturbed` says at its end whether it counts.
    pub(crate) async fn measure(&self, module: Option<&Path>, is_disturbed: impl Fn() -> bool) {
        match module {
            Some(module) => self.find_out(module, is_disturbed).await,
            None => self.fail("no compute module works".into()),
        }
        self.is_measuring.store(false, Ordering::Release);
    }

    async fn find_out(&self, module: &Path, is_disturbed: impl Fn() -> bool) {
        let identity = self.identity(module);
        let kept: Option<Known> = fs_err::read(&self.cache).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(known) = kept.filter(|known| known.identity == identity) {
            self.remember(known);
            return;
        }
        let (began, busy_before) = (Instant::now(), busy_seconds());
        match self.ask(module).await {
            Ok(_) if is_disturbed() => tracing::debug!("the measurement of the speed was disturbed"),
            Ok(measured) => {
                let others = busy_before.zip(busy_seconds()).map_or(0.0, |(before, after)| after - before)
                    - measured.processor_seconds;
                let is_rough = others > DISTURBANCE * began.elapsed().as_secs_f64();
                tracing::info!(threads = self.threads, others, "the speed of this machine was measured");
                let is_rough_since = is_rough.then(Instant::now);
                self.remember(Known { is_rough_since, identity, measured, ..Known::default() });
                self.keep();
            }
            Err(Unanswered { reason, .. }) => self.fail(reason),
        }
    }

    fn remember(&self, known: Known) {
        let rates = Arc::new(rates(&known.measured));
        *self.lock() = Some((known, rates));
    }

    fn identity(&self, module: &Path) -> String {
        let files = [&self.program, module].map(|path| {
            let facts = fs_err::metadata(path).ok().and_then(|it| Some((it.len(), it.modified().ok()?)));
            facts.map_or_else(String::new, |(length, modified)| format!("{length} {modified:?}"))
        });
        let module = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{} | {} | {module} | {} threads", Cpu::probe().identity(), files.join(" | "), self.threads)
    }

    async fn ask(&self, module: &Path) -> Result<Measured, Unanswered> {
        let scratch = Scratch::new(&self.folder, "speed");
        let mebibytes = (Memory::probe().available >> 23).clamp(16, MOST_MEBIBYTES);
        let question = Question {
            program: &self.program,
            arguments: vec![
                "measure".into(),
                scratch.path().into(),
                module.into(),
                self.threads.to_string().into(),
                mebibytes.to_string().into(),
            ],
            // As the workers have it.
            environment: ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            limit: LIMIT,
        };
        question.ask().await
    }

    /// How fast a model is expected to be whose prompt has so many tokens; `None` before this machine was measured, and of what
    /// is not known well enough.
    pub(crate) fn expected(&self, id: Option<&ModelId>, architecture: &Architecture, tokens: u32) -> Option<Expected> {
        let known = self.lock();
        let (known, rates) = known.as_ref()?;
        let predicted = speed(architecture, rates, tokens)?;
        let own = id.and_then(|id| known.models.get(id.as_str()));
        let ratio = |of: fn(&Ratios) -> Ratio| match own.map(of) {
            Some(ratio) if ratio.count > 0.0 => ratio.value,
            _ => of(&known.all).value,
        };
        let per_second = |seconds: f64| 1.0 / seconds.max(1e-9);
        Some(Expected {
            prompt: per_second(predicted.prompt * ratio(|it| it.prompt)),
            answer: per_second(predicted.answer * ratio(|it| it.answer)),
            bound: predicted.bound,
            is_rough: known.is_rough_since.is_some(),
            is_observed: own.is_some_and(|own| own.answer.count > 0.0),
        })
    }

    /// What an answer really took that nothing else disturbed.
    pub(crate) fn observe(&self, id: &ModelId, architecture: &Architecture, timings: &Timings) {
        let mut known = self.lock();
        let Some((known, rates)) = known.as_mut() else { return };
        let prompt = timings.cached_tokens.saturating_add(timings.prompt_tokens);
        let at = |tokens: u32| speed(architecture, rates, tokens);
        let Some((of_answer, of_prompt)) = at(prompt.saturating_add(timings.answer_tokens / 2)).zip(at(prompt)) else {
            return;
        };
        if known.models.len() >= MOST_MODELS && !known.models.contains_key(id.as_str()) {
            known.models.clear();
        }
        let own = known.models.entry(id.as_str().to_owned()).or_default();
        let took = |milliseconds: f64, tokens: u32| milliseconds / 1000.0 / f64::from(tokens.max(1));
        // Guesses that were computed make steps longer, or fewer.
        let is_plain = timings.drafted_tokens.saturating_mul(MOST_DRAFTS) <= timings.answer_tokens;
        if timings.answer_tokens >= LEAST_ANSWER && is_plain {
            let ratio = took(timings.answer_ms, timings.answer_tokens - 1) / of_answer.answer;
            own.answer.observe(ratio);
            known.all.answer.observe(ratio);
        }
        if timings.prompt_tokens >= LEAST_PROMPT && timings.cached_tokens == 0 {
            let ratio = took(timings.prompt_ms, timings.prompt_tokens) / of_prompt.prompt;
            own.prompt.observe(ratio);
            known.all.prompt.observe(ratio);
        }
    }

    /// Writes down what is known. Without it, it is measured again.
    pub(crate) fn keep(&self) {
        let known = self.lock().as_ref().map(|(known, _)| known.clone()).filter(|it| it.is_rough_since.is_none());
        let text = known.and_then(|known| serde_json::to_vec_pretty(&known).ok());
        if let Some(text) = text
            && let Err(error) = write_atomically(&self.cache, &text)
        {
            tracing::warn!(%error, "the speed of this machine could not be kept");
        }
    }
}

fn rates(measured: &Measured) -> Rates {
    let of = |it: &cortex_api::worker::MeasuredType| TypeRate { kind: it.kind, single: it.single, batch: it.batch };
    Rates {
        bytes_per_second: measured.bytes_per_second,
        from_memory: measured.from_memory,
        sizes: measured.sizes,
        step: measured.step,
        attention: measured.attention,
        batch_attention: measured.batch_attention,
        types: measured.types.iter().map(of).collect(),
        widths: (Measured::NARROW, Measured::WIDE),
        wide: (measured.wide, measured.batch_wide),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_api::worker::MeasuredType;
    use cortex_hardware::{Layer, Weights};

    fn speeds() -> Speeds {
        let speeds = Speeds {
            program: PathBuf::new(),
            cache: PathBuf::new(),
            folder: PathBuf::new(),
            threads: 1,
            known: Mutex::default(),
            is_measuring: AtomicBool::new(false),
            failure: Mutex::default(),
        };
        let measured = Measured {
            bytes_per_second: 1e12,
            types: vec![MeasuredType { kind: 1, single: 1e-10, batch: 1e-11 }],
            wide: 1.0,
            batch_wide: 1.0,
            ..Measured::default()
        };
        speeds.remember(Known { measured, ..Known::default() });
        speeds
    }

    fn model() -> Architecture {
        Architecture {
            embedding: 512,
            passed: vec![Weights { kind: 1, count: 100_000_000, bytes: 200_000_000, is_output: false }],
            layers: vec![Layer::default()],
            ..Architecture::default()
        }
    }

    #[test]
    fn what_answers_took_corrects_what_is_expected() {
        let (speeds, model) = (speeds(), model());
        let (mine, other) = (ModelId::existing("mine"), ModelId::existing("other"));
        // Tokens a second: of an answer, and of a prompt.
        let check = |id: Option<&ModelId>, answer: f64, prompt: f64, is_observed: bool| {
            let found = speeds.expected(id, &model, 512).expect("known");
            assert!((found.answer - answer).abs() < 0.1 && (found.prompt - prompt).abs() < 0.1, "{found:?}");
            assert_eq!(found.is_observed, is_observed);
        };
        check(Some(&mine), 100.0, 1000.0, false);
        // 20 ms for a token of the answer where 10 were expected, and half a millisecond for one of the prompt where it was one.
        let timings = Timings {
            answer_tokens: 101,
            answer_ms: 2000.0,
            prompt_tokens: 100,
            prompt_ms: 50.0,
            ..Timings::default()
        };
        for _ in 0..10 {
            speeds.observe(&mine, &model, &timings);
        }
        check(Some(&mine), 50.0, 2000.0, true);
        // Another model is taken for as much slower.
        check(Some(&other), 50.0, 2000.0, false);
        check(None, 50.0, 2000.0, false);
        // Short ones, and those that cannot be, say nothing.
        for nonsense in [
            Timings { answer_tokens: 2, answer_ms: 1e6, ..timings },
            Timings { answer_ms: 0.0, ..timings },
            Timings { answer_ms: f64::NAN, ..timings },
            Timings { answer_ms: 1e9, ..timings },
        ] {
            speeds.observe(&mine, &model, &nonsense);
        }
        check(Some(&mine), 50.0, 2000.0, true);
    }
}
