//! What is counted, for Prometheus. Counters live here; what others own is asked of them when somebody looks.
//!
//! No label has a value that a client can choose: routes are those of the router, models are not named.

use crate::App;
use cortex_api::worker::BufferKind;
use cortex_engine::{Answer, AnswerEvent, EngineError, LoadedModel, Phase};
use cortex_hardware::Memory;
use cortex_models::{PullSnapshot, PullState};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Instant,
};

/// Seconds to the first token: from an answer that was in the cache to a large model that had to be loaded first.
const FIRST_TOKEN: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0];
/// Seconds between two pieces of an answer: 500 to 0.4 tokens a second.
const GAP: [f64; 11] = [0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56];

/// A route and what it answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    method: String,
    status: u16,
}

/// One of a few words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// A number of bytes or of things.
type Number = Gauge<u64, AtomicU64>;

/// Everything that is counted. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Inner::new()))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

struct Inner {
    registry: Registry,
    requests: Family<Answered, Counter>,
    first_token: Histogram,
    gap: Histogram,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    restored_tokens: Counter,
    answer_tokens: Counter,
    drafted_tokens: Counter,
    accepted_tokens: Counter,
    /// Set when somebody looks, so one at a time.
    seen: Mutex<Seen>,
}

/// What others own, as it was when somebody looked last.
#[derive(Default)]
struct Seen {
    loads: Counter,
    failed_loads: Counter,
    evictions: Counter,
    idle_unloads: Counter,
    lost_workers: Counter,
    refused: Counter,
    running: Number,
    waiting: Number,
    tasks: Number,
    models: Family<Kind, Number>,
    memory: Family<Kind, Number>,
    pulls: Family<Kind, Number>,
    pull_rate: Number,
}

impl Inner {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("cortex");
        let requests = Family::default();
        let first_token = Histogram::new(FIRST_TOKEN);
        let gap = Histogram::new(GAP);
        let [prompt_tokens, cached_tokens, restored_tokens, answer_tokens, drafted_tokens, accepted_tokens] =
            [(); 6].map(|()| Counter::default());
        let seen = Seen::default();
        registry.register("http_requests", "Requests that were answered", requests.clone());
        registry.register_with_unit(
            "time_to_first_token",
            "From a request to the first piece of its answer; waiting and loading count",
            Unit::Seconds,
            first_token.clone(),
        );
        registry.register_with_unit(
            "time_between_tokens",
            "Between two pieces of an answer, as they leave for the client",
            Unit::Seconds,
            gap.clone(),
        );
        registry.register("prompt_tokens", "Tokens of prompts that were computed", prompt_tokens.clone());
        registry.register("cached_prompt_tokens", "Tokens of prompts that were computed before", cached_tokens.clone());
        registry.register("restored_prompt_tokens", "Those of them that were read from disk", restored_tokens.clone());
        registry.register("answer_tokens", "Tokens of answers", answer_tokens.clone());
        registry.register("drafted_tokens", "Tokens that were guessed and computed ahead", drafted_tokens.clone());
        registry.register("accepted_tokens", "Those of them that were right", accepted_tokens.clone());
        registry.register("model_loads", "Models that were loaded", seen.loads.clone());
        registry.register("model_load_failures", "Loads that failed", seen.failed_loads.clone());
        registry.register("model_evictions", "Models that left to make room for another", seen.evictions.clone());
        registry.register(
            "model_idle_unloads",
            "Models that left because they were not used",
            seen.idle_unloads.clone(),
        );
        registry.register("lost_workers", "Workers that ended without being asked", seen.lost_workers.clone());
        registry.register("queue_refusals", "Requests refused because too many waited", seen.refused.clone());
        registry.register("requests_running", "Requests that are answered", seen.running.clone());
        registry.register(
            "requests_waiting",
            "Requests that wait for a model, or for a place in one",
            seen.waiting.clone(),
        );
        registry.register("tasks", "Tasks of the daemon that have not ended", seen.tasks.clone());
        registry.register("models", "Models by what they do", seen.models.clone());
        registry.register_with_unit(
            "memory",
            "Memory: what models have by its use, what is set aside for them, what is left",
            Unit::Bytes,
            seen.memory.clone(),
        );
        registry.register("pulls", "Downloads by what they do", seen.pulls.clone());
        registry.register("pull_bytes_per_second", "What all downloads bring together", seen.pull_rate.clone());
        Self {
            registry,
            requests,
            first_token,
            gap,
            prompt_tokens,
            cached_tokens,
            restored_tokens,
            answer_tokens,
            drafted_tokens,
            accepted_tokens,
            seen: Mutex::new(seen),
        }
    }
}

impl Seen {
    fn look(&self, app: &App, pulls: &[Arc<PullSnapshot>]) {
        let counts = app.engines.counts();
        for (counter, count) in [
            (&self.loads, &counts.loads),
            (&self.failed_loads, &counts.failed_loads),
            (&self.evictions, &counts.evictions),
            (&self.idle_unloads, &counts.idle_unloads),
            (&self.lost_workers, &counts.lost_workers),
            (&self.refused, &counts.refused_requests),
        ] {
            counter.inc_by(count.get().saturating_sub(counter.get()));
        }
        let models = app.engines.loaded();
        let sum = |of: fn(&LoadedModel) -> usize| models.iter().map(of).sum::<usize>() as u64;
        self.running.set(sum(|model| model.requests.min(model.parallel as usize)));
        self.waiting.set(sum(|model| model.waiting));
        self.tasks.set(tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64);
        for (kind, phase) in [
            ("waiting", Phase::Waiting),
            ("loading", Phase::Loading),
            ("loaded", Phase::Ready),
            ("leaving", Phase::Leaving),
        ] {
            let count = models.iter().filter(|model| model.phase == phase).count();
            self.models.get_or_create(&Kind { kind }).set(count as u64);
        }
        let of = |kind: BufferKind| {
            let buffers = models.iter().flat_map(|model| &model.buffers);
            buffers.filter(|buffer| buffer.kind == kind).map(|buffer| buffer.bytes).sum::<u64>()
        };
        let memory = Memory::probe();
        for (kind, bytes) in [
            ("weights", of(BufferKind::Weights)),
            ("cache", of(BufferKind::Cache)),
            ("compute", of(BufferKind::Compute)),
            ("output", of(BufferKind::Output)),
            ("reserved", models.iter().map(|model| model.reserved).sum()),
            ("free", app.engines.memory_left().for_models()),
            ("available", memory.available),
            ("total", memory.total),
        ] {
            self.memory.get_or_create(&Kind { kind }).set(bytes);
        }
        for state in [
            PullState::Downloading,
            PullState::Verifying,
            PullState::Paused,
            PullState::Succeeded,
            PullState::Failed,
            PullState::Cancelled,
        ] {
            let count = pulls.iter().filter(|pull| pull.state == state).count();
            self.pulls.get_or_create(&Kind { kind: state.as_str() }).set(count as u64);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes a second")]
        self.pull_rate.set(pulls.iter().map(|pull| pull.rate).sum::<f64>() as u64);
    }
}

impl Metrics {
    /// A request was answered.
    pub(crate) fn answered(&self, route: &str, method: &str, status: u16) {
        let labels = Answered { route: route.to_owned(), method: method.to_owned(), status };
        self.0.requests.get_or_create(&labels).inc();
    }

    /// All of it, in the text format of `OpenMetrics`.
    pub(crate) fn text(&self, app: &App, pulls: &[Arc<PullSnapshot>]) -> Result<String, fmt::Error> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).look(app, pulls);
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

/// An answer whose times and tokens are counted.
pub(crate) struct Observed {
    answer: Answer,
    metrics: Metrics,
    /// When the request came, then when the last piece did.
    last: Instant,
    has_begun: bool,
}

impl Observed {
    /// `began` is when the request came.
    pub(crate) fn new(answer: Answer, metrics: Metrics, began: Instant) -> Self {
        Self { answer, metrics, last: began, has_begun: false }
    }

    /// See [`Answer::is_shown_whole`].
    pub(crate) fn is_shown_whole(&mut self) {
        self.answer.is_shown_whole();
    }

    /// Length of the prompt in tokens.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        self.answer.prompt_tokens()
    }

    /// The next piece; like [`Answer::next`], may be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Result<AnswerEvent, EngineError>> {
        let event = self.answer.next().await?;
        let counted = &self.metrics.0;
        match &event {
            // The parts of a call are one piece: they come from the same token.
            Ok(AnswerEvent::CallBegins { .. } | AnswerEvent::CallEnds) | Err(_) => {}
            // Loading and waiting are no gap between two tokens.
            Ok(AnswerEvent::BeginsAnew) => self.has_begun = false,
            Ok(AnswerEvent::Text { .. } | AnswerEvent::Reasoning(_) | AnswerEvent::Arguments(_)) => {
                let now = Instant::now();
                let since = (now - self.last).as_secs_f64();
                let times = if self.has_begun { &counted.gap } else { &counted.first_token };
                times.observe(since);
                (self.last, self.has_begun) = (now, true);
            }
            Ok(AnswerEvent::Finished { timings, .. }) => {
                counted.prompt_tokens.inc_by(timings.prompt_tokens.into());
                counted.cached_tokens.inc_by(timings.cached_tokens.into());
                counted.restored_tokens.inc_by(timings.restored_tokens.into());
                counted.answer_tokens.inc_by(timings.answer_tokens.into());
                counted.drafted_tokens.inc_by(timings.drafted_tokens.into());
                counted.accepted_tokens.inc_by(timings.accepted_tokens.into());
            }
        }
        Some(event)
    }
}
