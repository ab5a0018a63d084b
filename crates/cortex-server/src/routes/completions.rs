//! `POST /v1/completions`.

use super::run::{self, fingerprint, finish_reason, fresh_id, now, usage, wire_timings};
use crate::{
    App, convert,
    error::ApiError,
    json,
    sse::{self, Shape, data},
};
use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use cortex_api::openai::{Completion, CompletionChoice, CompletionRequest};
use cortex_engine::AnswerEvent;

/// Continues a text, whole or as a stream.
pub(crate) async fn create(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let request: CompletionRequest = json::required(&headers, &body)?;
    let model = request.model.clone();
    let streams = request.stream.unwrap_or(false);
    let with_usage = request.stream_options.is_some_and(|options| options.include_usage);
    let answer = run::start(&app, &model, |target| convert::completion(request, target)).await?;
    let shape = TextStream { id: fresh_id("cmpl"), created: now(), model, with_usage };
    if streams {
        return Ok(sse::stream(answer, shape));
    }
    let whole = run::collect(answer).await?;
    let mut completion = shape.completion(whole.text, Some(&whole.finish_reason));
    completion.usage = Some(whole.usage);
    completion.timings = Some(whole.timings);
    Ok(Json(completion).into_response())
}

struct TextStream {
    id: String,
    created: i64,
    model: String,
    with_usage: bool,
}

impl TextStream {
    fn completion(&self, text: String, finish_reason: Option<&str>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: fingerprint(),
            choices: vec![CompletionChoice {
                index: 0,
                text,
                logprobs: None,
                finish_reason: finish_reason.map(str::to_owned),
            }],
            usage: None,
            timings: None,
        }
    }
}

impl Shape for TextStream {
    fn first(&mut self) -> Vec<String> {
        vec![]
    }

    fn event(&mut self, event: AnswerEvent, prompt_tokens: u32) -> Vec<String> {
        match event {
            AnswerEvent::Text(text) => vec![data(&self.completion(text, None))],
            AnswerEvent::Finished { reason, timings } => {
                let mut last = self.completion(String::new(), Some(finish_reason(reason)));
                last.timings = Some(wire_timings(&timings));
                let mut events = vec![data(&last)];
                if self.with_usage {
                    let mut counts = self.completion(String::new(), None);
                    counts.choices.clear();
                    counts.usage = Some(usage(prompt_tokens, &timings));
                    events.push(data(&counts));
                }
                events
            }
        }
    }
}
