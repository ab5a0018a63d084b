//! Answers as server-sent events: `data:` lines and blank lines, nothing else. Some clients parse every
//! other line as JSON.

use crate::{error::ApiError, routes::run::Answers};
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use cortex_engine::AnswerEvent;
use futures::stream;
use serde::Serialize;
use std::{collections::VecDeque, time::Duration};

/// Silence after which a blank line keeps the connection alive.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Makes the events of one kind of stream.
pub(crate) trait Shape: Send + 'static {
    /// Before anything was said.
    fn first(&mut self) -> Vec<String>;
    /// For a piece of the answer with this index.
    fn event(&mut self, index: usize, event: AnswerEvent, prompt_tokens: u32) -> Vec<String>;
    /// After all answers.
    fn last(&mut self) -> Vec<String>;
}

/// One event.
pub(crate) fn data(value: &impl Serialize) -> String {
    format!("data: {}\n\n", serde_json::to_string(value).expect("wire types have string keys only"))
}

struct Stream<S> {
    answers: Option<Answers>,
    shape: S,
    ready: VecDeque<String>,
}

/// Streams answers. Dropping the body cancels them.
pub(crate) fn stream(answers: Answers, mut shape: impl Shape) -> Response {
    let ready = shape.first().into();
    let state = Stream { answers: Some(answers), shape, ready };
    let body = stream::unfold(state, async |mut state| {
        let text = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), state))
    });
    response(Body::from_stream(body))
}

/// A body of events, with what must be said of it.
pub(crate) fn response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Proxies would otherwise hold pieces back.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

impl<S: Shape> Stream<S> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                return Some(text);
            }
            let answers = self.answers.as_mut()?;
            match tokio::time::timeout(KEEP_ALIVE, answers.next()).await {
                Err(_) => return Some("\n".into()),
                Ok(Some((index, prompt_tokens, Ok(event)))) => {
                    self.ready.extend(self.shape.event(index, event, prompt_tokens));
                }
                Ok(Some((.., Err(error)))) => {
                    self.answers = None;
                    tracing::warn!(%error, "a stream ends with an error");
                    return Some(data(&ApiError::from(error).body));
                }
                Ok(None) => {
                    self.answers = None;
                    self.ready.extend(self.shape.last());
                    self.ready.push_back("data: [DONE]\n\n".into());
                }
            }
        }
    }
}
