//! `POST /v1/chat/completions`.

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
use cortex_api::openai::{
    ChatChoice, ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, ChatMessage, ChunkChoice, Delta,
};
use cortex_engine::AnswerEvent;

/// Answers a chat, whole or as a stream.
pub(crate) async fn create(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let request: ChatCompletionRequest = json::required(&headers, &body)?;
    let model = request.model.clone();
    let streams = request.stream.unwrap_or(false);
    let with_usage = request.stream_options.is_some_and(|options| options.include_usage);
    let answer = run::start(&app, &model, |target| convert::chat(request, target)).await?;
    if streams {
        let shape = ChatStream { id: fresh_id("chatcmpl"), created: now(), model, with_usage };
        return Ok(sse::stream(answer, shape));
    }
    let whole = run::collect(answer).await?;
    Ok(Json(ChatCompletion {
        id: fresh_id("chatcmpl"),
        object: "chat.completion".into(),
        created: now(),
        model,
        system_fingerprint: fingerprint(),
        choices: vec![ChatChoice {
            index: 0,
            message: ChatMessage::text("assistant", whole.text),
            logprobs: None,
            finish_reason: whole.finish_reason,
        }],
        usage: whole.usage,
        timings: whole.timings,
    })
    .into_response())
}

struct ChatStream {
    id: String,
    created: i64,
    model: String,
    with_usage: bool,
}

impl ChatStream {
    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: fingerprint(),
            choices,
            usage: None,
            timings: None,
        }
    }

    fn delta(&self, delta: Delta, finish_reason: Option<&str>) -> ChatCompletionChunk {
        self.chunk(vec![ChunkChoice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason: finish_reason.map(str::to_owned),
        }])
    }
}

impl Shape for ChatStream {
    fn first(&mut self) -> Vec<String> {
        vec![data(&self.delta(Delta { role: Some("assistant".into()), content: Some(String::new()) }, None))]
    }

    fn event(&mut self, event: AnswerEvent, prompt_tokens: u32) -> Vec<String> {
        match event {
            AnswerEvent::Text(text) => vec![data(&self.delta(Delta { role: None, content: Some(text) }, None))],
            AnswerEvent::Finished { reason, timings } => {
                let mut last = self.delta(Delta::default(), Some(finish_reason(reason)));
                last.timings = Some(wire_timings(&timings));
                let mut events = vec![data(&last)];
                if self.with_usage {
                    let mut counts = self.chunk(vec![]);
                    counts.usage = Some(usage(prompt_tokens, &timings));
                    events.push(data(&counts));
                }
                events
            }
        }
    }
}
