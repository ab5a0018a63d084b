//! What chat and text completions share: from a model's name to running answers, and to their end.

use crate::{
    App,
    convert::{Order, Target},
    edge::cache_scope,
    error::ApiError,
    metrics::Observed,
};
use axum::http::HeaderMap;
use cortex_api::{
    openai::{CompletionTokensDetails, FunctionCall, PromptTokensDetails, Timings, Usage},
    worker::{self, FinishReason, TokenProbabilities},
};
use cortex_engine::{AnswerEvent, EngineError, Phase};
use cortex_models::{DescribeError, Model, ModelFiles, ModelState, ModelYaml, ResolveError};
use serde::de::IgnoredAny;
use std::{sync::Arc, time::Instant};

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

/// The model of a name that can be used now: what is known of it, and the files that it is loaded from.
pub(crate) async fn find(app: &App, name: &str) -> Result<(Arc<Model>, ModelYaml, ModelFiles), ApiError> {
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
            && let Some((yaml, files)) = store.known_files(&model)
        {
            return Ok((model, yaml, files));
        }
        let (yaml, files) = store.usable(&model)?;
        Ok((model, yaml, files))
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

/// Starts the answers to a request that `make` turns into an order.
pub(crate) async fn start(
    app: &App,
    headers: &HeaderMap,
    name: &str,
    make: impl FnOnce(Target<'_>) -> Result<Order, ApiError>,
) -> Result<Started, ApiError> {
    let began = Instant::now();
    let (model, yaml, files) = find(app, name).await?;
    let target = Target { id: &model.id, files, yaml: &yaml, load: app.engines.load_settings() };
    let Order { jobs, per_prompt, constraint, warnings, echoes } = make(target)?;
    let mut answers = Vec::new();
    let scope = cache_scope(&app.config(), headers);
    for mut job in jobs {
        job.cache_scope = job.cache_scope.map(|_| scope);
        let answer = app.engines.answer(job).await.map_err(|error| named(error, constraint))?;
        answers.push(Some(Observed::new(answer, app.metrics.clone(), began)));
    }
    let total = Total { per_prompt, ..Total::default() };
    Ok(Started { answers: Answers(answers), total, warnings, echoes })
}

/// An error of the engine; one of what the answer must be has the name of the field that says it.
fn named(error: EngineError, constraint: Option<&str>) -> ApiError {
    let is_of_constraint = matches!(error, EngineError::Constraint { .. });
    let mut error = ApiError::from(error);
    if is_of_constraint {
        error.body.error.param = constraint.map(str::to_owned);
    }
    error
}

/// Answers that were started.
pub(crate) struct Started {
    pub(crate) answers: Answers,
    /// What they take, before they do.
    pub(crate) total: Total,
    /// What of the request has no effect.
    pub(crate) warnings: Vec<String>,
    /// What stands in front of each answer; none when nothing does.
    pub(crate) echoes: Vec<String>,
}

/// The answers to one request, which go on at the same time.
pub(crate) struct Answers(Vec<Option<Observed>>);

impl Answers {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing of them is shown before their end: see [`cortex_engine::Answer::is_shown_whole`].
    pub(crate) fn are_shown_whole(&mut self) {
        for answer in self.0.iter_mut().flatten() {
            answer.is_shown_whole();
        }
    }

    /// The next piece of any of them, and of which; `None` when all have ended. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<(usize, u32, Result<AnswerEvent, EngineError>)> {
        let nexts = self.0.iter_mut().enumerate().filter_map(|(index, answer)| {
            let answer = answer.as_mut()?;
            Some(Box::pin(async move { (index, answer.prompt_tokens(), answer.next().await) }))
        });
        let nexts: Vec<_> = nexts.collect();
        if nexts.is_empty() {
            return None;
        }
        let ((index, prompt_tokens, event), ..) = futures::future::select_all(nexts).await;
        if matches!(event, None | Some(Ok(AnswerEvent::Finished { .. }) | Err(_))) {
            self.0[index] = None;
        }
        Some((index, prompt_tokens, event.unwrap_or(Err(EngineError::ShuttingDown))))
    }
}

/// A whole answer.
#[derive(Default)]
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<FunctionCall>,
    pub(crate) probabilities: Vec<TokenProbabilities>,
    pub(crate) finish_reason: String,
}

/// Waits for the end of all: the answers in their order, what they took together, and the timings of the last to end.
pub(crate) async fn collect(mut answers: Answers, mut total: Total) -> Result<(Vec<Whole>, Usage, Timings), ApiError> {
    let mut wholes: Vec<Whole> = (0..answers.len()).map(|_| Whole::default()).collect();
    let mut last = worker::Timings::default();
    answers.are_shown_whole();
    while let Some((index, prompt_tokens, event)) = answers.next().await {
        let whole = &mut wholes[index];
        match event? {
            AnswerEvent::Text { text, probabilities } => {
                whole.text.push_str(&text);
                whole.probabilities.extend(probabilities);
            }
            AnswerEvent::Reasoning(text) => whole.reasoning.push_str(&text),
            AnswerEvent::CallBegins { name } => whole.calls.push(FunctionCall { name, arguments: String::new() }),
            AnswerEvent::Arguments(text) => {
                if let Some(call) = whole.calls.last_mut() {
                    call.arguments.push_str(&text);
                }
            }
            AnswerEvent::CallEnds => {}
            AnswerEvent::BeginsAnew => *whole = Whole::default(),
            AnswerEvent::Finished { reason, timings } => {
                let last_call = whole.calls.last().map(|call| call.arguments.as_str());
                whole.finish_reason = finish_reason(reason, last_call).into();
                total.add(index, prompt_tokens, &timings);
                last = timings;
            }
        }
    }
    Ok((wholes, total.usage(), wire_timings(&last)))
}

/// What several answers take together. A prompt with several answers counts once, as OpenAI counts it.
#[derive(Default)]
pub(crate) struct Total {
    per_prompt: usize,
    prompt: u32,
    cached: u32,
    completion: u32,
    drafted: u32,
    accepted: u32,
}

impl Total {
    pub(crate) fn add(&mut self, index: usize, prompt_tokens: u32, timings: &worker::Timings) {
        if index.is_multiple_of(self.per_prompt.max(1)) {
            self.prompt = self.prompt.saturating_add(prompt_tokens);
            self.cached = self.cached.saturating_add(timings.cached_tokens);
        }
        self.completion = self.completion.saturating_add(timings.answer_tokens);
        self.drafted = self.drafted.saturating_add(timings.drafted_tokens);
        self.accepted = self.accepted.saturating_add(timings.accepted_tokens);
    }

    /// OpenAI's counts.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt,
            completion_tokens: self.completion,
            total_tokens: self.prompt.saturating_add(self.completion),
            prompt_tokens_details: PromptTokensDetails { cached_tokens: self.cached },
            completion_tokens_details: CompletionTokensDetails {
                accepted_prediction_tokens: self.accepted,
                rejected_prediction_tokens: self.drafted.saturating_sub(self.accepted),
            },
        }
    }
}

/// OpenAI's word for the end of an answer, whose last call, if it has any, has these arguments. A call that a stop text cut is none that
/// could be made.
pub(crate) fn finish_reason(reason: FinishReason, last_call: Option<&str>) -> &'static str {
    let is_cut = |arguments| serde_json::from_str::<IgnoredAny>(arguments).is_err_and(|error| error.is_eof());
    match reason {
        FinishReason::Length => "length",
        // The one call that was allowed is complete: what else the model would say was not waited for.
        FinishReason::Stop | FinishReason::Cancelled if last_call.is_some_and(|it| !is_cut(it)) => "tool_calls",
        FinishReason::Stop | FinishReason::Cancelled | FinishReason::Error => "stop",
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
        restored_n: timings.restored_tokens,
        prompt_n: timings.prompt_tokens,
        prompt_ms: timings.prompt_ms,
        prompt_per_token_ms: per_token(timings.prompt_ms, timings.prompt_tokens),
        prompt_per_second: per_second(timings.prompt_ms, timings.prompt_tokens),
        predicted_n: timings.answer_tokens,
        predicted_ms: timings.answer_ms,
        predicted_per_token_ms: per_token(timings.answer_ms, timings.answer_tokens),
        predicted_per_second: per_second(timings.answer_ms, timings.answer_tokens),
        draft_n: timings.drafted_tokens,
        draft_n_accepted: timings.accepted_tokens,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_cut_is_no_reason_to_call() {
        for (reason, last_call, word) in [
            (FinishReason::Stop, None, "stop"),
            (FinishReason::Stop, Some("{}"), "tool_calls"),
            (FinishReason::Cancelled, Some(r#"{"city": "Paris"}"#), "tool_calls"),
            (FinishReason::Stop, Some(r#"{"city": ""#), "stop"),
            (FinishReason::Stop, Some(r#"{"city": "Paris""#), "stop"),
            (FinishReason::Stop, Some(""), "stop"),
            // What a model writes without a grammar may be wrong: its client sees it.
            (FinishReason::Stop, Some("{city: Paris}"), "tool_calls"),
            (FinishReason::Length, Some("{}"), "length"),
        ] {
            assert_eq!(finish_reason(reason, last_call), word, "{last_call:?}");
        }
    }
}
