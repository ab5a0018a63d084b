//! What chat and text completions share: from a model's name to a running answer, and to its end.

use crate::{App, convert::Target, error::ApiError, metrics::Observed};
use cortex_api::{
    openai::{PromptTokensDetails, Timings, Usage},
    worker::{self, FinishReason},
};
use cortex_engine::{AnswerEvent, Job, Phase};
use cortex_models::{DescribeError, Model, ModelState, ModelYaml, ResolveError};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        Self::told(error.kind(), "model_not_found", &error, error.hint())
    }
}

impl From<DescribeError> for ApiError {
    fn from(error: DescribeError) -> Self {
        Self::told(error.kind(), "model_not_usable", &error, error.hint())
    }
}

/// The model of a name that can be used now: what is known of it, and where its weights begin.
pub(crate) async fn find(app: &App, name: &str) -> Result<(Arc<Model>, ModelYaml, PathBuf), ApiError> {
    if name.is_empty() {
        return Err(ApiError::field("model", "model is missing; `GET /v1/models` lists what there is"));
    }
    let (store, name) = (app.models.clone(), name.to_owned());
    let engines = app.engines.clone();
    blocking(move || {
        let model = store.current(&name)?;
        // A worker that has its weights open answers, whatever became of the file.
        if model.state() == ModelState::Missing
            && engines.loaded().iter().any(|loaded| loaded.id == model.id && loaded.phase == Phase::Ready)
            && let (Some(yaml), Some(weights)) = (model.yaml(), model.weights().map(Path::to_owned))
        {
            return Ok((model, yaml, weights));
        }
        let (yaml, weights) = store.usable(&model)?;
        Ok((model, yaml, weights))
    })
    .await?
}

/// Runs what blocks where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a task panicked");
        ApiError::new(cortex_models::ErrorKind::Internal, "internal_error", "internal error; the log says more")
    })
}

/// Starts the answer to a request that `make` turns into a job.
pub(crate) async fn start(
    app: &App,
    name: &str,
    make: impl FnOnce(Target<'_>) -> Result<Job, ApiError>,
) -> Result<Observed, ApiError> {
    let began = Instant::now();
    let (model, yaml, weights) = find(app, name).await?;
    let target = Target { id: &model.id, weights, yaml: &yaml, load: app.engines.load_settings() };
    let answer = app.engines.answer(make(target)?).await?;
    Ok(Observed::new(answer, app.metrics.clone(), began))
}

/// A whole answer.
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) finish_reason: String,
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
}

/// Waits for the end.
pub(crate) async fn collect(mut answer: Observed) -> Result<Whole, ApiError> {
    let mut text = String::new();
    let prompt_tokens = answer.prompt_tokens();
    while let Some(event) = answer.next().await {
        match event? {
            AnswerEvent::Text(more) => text.push_str(&more),
            AnswerEvent::Finished { reason, timings } => {
                return Ok(Whole {
                    text,
                    finish_reason: finish_reason(reason).into(),
                    usage: usage(prompt_tokens, &timings),
                    timings: wire_timings(&timings),
                });
            }
        }
    }
    Err(cortex_engine::EngineError::ShuttingDown.into())
}

/// OpenAI's word.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::Cancelled | FinishReason::Error => "stop",
    }
}

/// OpenAI's counts.
pub(crate) fn usage(prompt_tokens: u32, timings: &worker::Timings) -> Usage {
    Usage {
        prompt_tokens,
        completion_tokens: timings.answer_tokens,
        total_tokens: prompt_tokens.saturating_add(timings.answer_tokens),
        prompt_tokens_details: PromptTokensDetails { cached_tokens: timings.cached_tokens },
    }
}

/// llama-server's names.
pub(crate) fn wire_timings(timings: &worker::Timings) -> Timings {
    let per_token = |milliseconds: f64, tokens: u32| if tokens == 0 { 0.0 } else { milliseconds / f64::from(tokens) };
    let per_second = |milliseconds: f64, tokens: u32| {
        if milliseconds > 0.0 { f64::from(tokens) * 1000.0 / milliseconds } else { 0.0 }
    };
    Timings {
        cache_n: timings.cached_tokens,
        prompt_n: timings.prompt_tokens,
        prompt_ms: timings.prompt_ms,
        prompt_per_token_ms: per_token(timings.prompt_ms, timings.prompt_tokens),
        prompt_per_second: per_second(timings.prompt_ms, timings.prompt_tokens),
        predicted_n: timings.answer_tokens,
        predicted_ms: timings.answer_ms,
        predicted_per_token_ms: per_token(timings.answer_ms, timings.answer_tokens),
        predicted_per_second: per_second(timings.answer_ms, timings.answer_tokens),
    }
}

/// `cortex-0.1.0`.
pub(crate) fn fingerprint() -> String {
    concat!("cortex-", env!("CARGO_PKG_VERSION")).into()
}

/// A fresh id with a prefix.
pub(crate) fn fresh_id(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::now_v7().simple())
}

/// Unix seconds.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
