//! `/v1/configs`: the settings that can be changed while the daemon runs.

use crate::{App, error::ApiError, json};
use axum::{Json, body::Bytes, extract::State, http::HeaderMap};
use cortex_models::ErrorKind;
use serde::Serialize;
use serde_json::{Map, Value};

/// What was changed, and what the settings are now.
#[derive(Serialize)]
pub(crate) struct Updated {
    message: &'static str,
    config: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Shows them; secrets only as being there.
pub(crate) async fn show(State(app): State<App>) -> Result<Json<Map<String, Value>>, ApiError> {
    Ok(Json(app.settings.ask(None).await?.values))
}

/// Changes those that are named, in the file and in effect.
pub(crate) async fn update(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Updated>, ApiError> {
    if body.is_empty() {
        return Err(ApiError::new(ErrorKind::Invalid, "empty_body", "Configuration must be provided via JSON body"));
    }
    let changes: Map<String, Value> = json::required(&headers, &body)?;
    let shown = app.settings.ask(Some(changes)).await?;
    Ok(Json(Updated { message: "Configuration updated successfully", config: shown.values, warnings: shown.warnings }))
}
