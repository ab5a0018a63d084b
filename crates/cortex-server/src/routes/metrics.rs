//! `GET /metrics`.

use crate::{App, error::ApiError, routes::run::blocking};
use axum::{
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use cortex_models::ErrorKind;

/// The media type of what is told.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Tells Prometheus what was counted.
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let pulls = app.pulls.list().await;
    let text = blocking(move || app.metrics.text(&app, &pulls)).await?;
    let text = text.map_err(|error| ApiError::told(ErrorKind::Internal, "internal_error", &error, None))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Counts what a route answers.
pub(crate) async fn count(State(app): State<App>, path: MatchedPath, request: Request, next: Next) -> Response {
    // Anybody can invent a method; the router's own are these.
    let method = match request.method().as_str() {
        known @ ("GET" | "POST" | "PATCH" | "DELETE") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    app.metrics.answered(path.as_str(), &method, response.status().as_u16());
    response
}
