//! Server-sent events of cortex's own: what changed, so that clients need not ask again and again.
//!
//! `models` says that the registry or what is loaded is another one; its id is the revision. A client
//! that was away sends the last id it saw and is told at once if it missed something.

use super::run::blocking;
use crate::{App, error::ApiError, json::Asked};
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use cortex_models::ModelStore;
use futures::stream;
use serde::Deserialize;
use std::{convert::Infallible, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Silence after which a comment keeps the connection alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// While somebody listens, the list is looked at this often: a person may edit it, or a drive be unplugged.
const LOOK: Duration = Duration::from_secs(1);
/// What there is to hear.
const TYPES: &[&str] = &["models"];

/// Which events are wanted: `?types=models`.
#[derive(Debug, Deserialize)]
pub(crate) struct EventsQuery {
    types: Option<String>,
}

struct Listener {
    models: ModelStore,
    silent_since: Instant,
    revision: watch::Receiver<u64>,
    wanted: bool,
    stop: CancellationToken,
}

impl Listener {
    async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                changed = self.revision.changed() => {
                    changed.ok()?;
                    let revision = *self.revision.borrow_and_update();
                    if self.wanted {
                        self.silent_since = Instant::now();
                        return Some(event(revision));
                    }
                }
                () = tokio::time::sleep(LOOK) => {
                    let models = self.models.clone();
                    // Whatever is new is told by the revision.
                    let _ = blocking(move || models.current_revision()).await;
                    if self.silent_since.elapsed() >= KEEP_ALIVE {
                        self.silent_since = Instant::now();
                        return Some(": still here\n\n".into());
                    }
                }
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

fn event(revision: u64) -> String {
    format!("id: {revision}\nevent: models\ndata: {{\"type\":\"models\",\"revision\":{revision}}}\n\n")
}

/// Streams events until the client leaves or the daemon stops.
pub(crate) async fn events(
    State(app): State<App>,
    Asked(query): Asked<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let types = query.types.unwrap_or_else(|| TYPES.join(","));
    for wanted in types.split(',').map(str::trim).filter(|wanted| !wanted.is_empty()) {
        if !TYPES.contains(&wanted) {
            return Err(ApiError::field(
                "types",
                format!("there are no events `{wanted}`; there are: {}", TYPES.join(", ")),
            ));
        }
    }
    let mut revision = app.models.revision();
    let now = *revision.borrow_and_update();
    let wanted = types.split(',').any(|wanted| wanted.trim() == "models");
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse::<u64>().ok());
    // The revision is told at once, unless the client knows it: it can then cache from the first moment.
    let first = if wanted && seen != Some(now) { event(now) } else { ": hello\n\n".to_owned() };
    let listener =
        Listener { models: app.models.clone(), silent_since: Instant::now(), revision, wanted, stop: app.stop.clone() };
    let body = stream::unfold((Some(first), listener), async |(first, mut listener)| {
        let text = match first {
            Some(first) => first,
            None => listener.next().await?,
        };
        Some((Ok::<_, Infallible>(Bytes::from(text)), (None, listener)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}
