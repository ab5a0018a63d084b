//! `POST /infill`.

use super::run::{self, Started, wire_timings};
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
use cortex_api::{
    openai::{InfillAnswer, InfillRequest},
    worker::FinishReason,
};
use cortex_engine::{AnswerEvent, EngineError};

/// Fills a gap in a text, whole or as a stream.
pub(crate) async fn create(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let request: InfillRequest = json::required(&headers, &body)?;
    let model = request.model.clone();
    let streams = request.stream.unwrap_or(false);
    let Started { mut answers, warnings, .. } =
        run::start(&app, &headers, &model, |target| convert::infill(request, target)).await?;
    let mut shape = InfillStream { model, warnings };
    if streams {
        return Ok(sse::stream(answers, shape));
    }
    let mut content = String::new();
    answers.are_shown_whole();
    while let Some((_, prompt_tokens, event)) = answers.next().await {
        let event = event?;
        if event == AnswerEvent::BeginsAnew {
            content.clear();
        }
        if let Some(piece) = shape.piece(event, prompt_tokens) {
            content.push_str(&piece.content);
            if piece.stop {
                return Ok(Json(InfillAnswer { content, ..piece }).into_response());
            }
        }
    }
    Err(EngineError::ShuttingDown.into())
}

struct InfillStream {
    model: String,
    warnings: Vec<String>,
}

impl InfillStream {
    fn piece(&mut self, event: AnswerEvent, prompt_tokens: u32) -> Option<InfillAnswer> {
        let piece = InfillAnswer { model: self.model.clone(), ..InfillAnswer::default() };
        match event {
            AnswerEvent::Text { text, .. } => Some(InfillAnswer { content: text, ..piece }),
            AnswerEvent::Finished { reason, timings } => Some(InfillAnswer {
                stop: true,
                tokens_predicted: Some(timings.answer_tokens),
                tokens_evaluated: Some(prompt_tokens),
                tokens_cached: Some(timings.cached_tokens),
                stop_type: Some(if reason == FinishReason::Length { "limit" } else { "eos" }.into()),
                truncated: Some(false),
                timings: Some(wire_timings(&timings)),
                warnings: std::mem::take(&mut self.warnings),
                ..piece
            }),
            // Of chats.
            AnswerEvent::Reasoning(_)
            | AnswerEvent::CallBegins { .. }
            | AnswerEvent::Arguments(_)
            | AnswerEvent::CallEnds
            | AnswerEvent::BeginsAnew => None,
        }
    }
}

impl Shape for InfillStream {
    fn first(&mut self) -> Vec<String> {
        vec![]
    }

    fn event(&mut self, _index: usize, event: AnswerEvent, prompt_tokens: u32) -> Vec<String> {
        self.piece(event, prompt_tokens).map(|piece| data(&piece)).into_iter().collect()
    }

    fn last(&mut self) -> Vec<String> {
        vec![]
    }
}
