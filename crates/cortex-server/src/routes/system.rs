//! The daemon itself: is it there, is it well, stop it.

use super::{registry::registry_health, run::blocking};
use crate::{App, error::ApiError, openapi};
use axum::{
    Json,
    extract::State,
    http::header,
    response::{Html, IntoResponse},
};
use cortex_api::native::{Finding, Health, List, Message};
use cortex_engine::Phase;
use serde_json::Value;

/// Answers as soon as the daemon listens, with cortex.cpp's words: scripts look for them.
pub(crate) async fn healthz() -> Html<&'static str> {
    Html("cortex-cpp is alive!!!")
}

/// The API reference for people. It runs nothing and loads nothing.
pub(crate) async fn reference(State(app): State<App>) -> impl IntoResponse {
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(openapi::page(&server(&app))))
}

/// The API reference for programs.
pub(crate) async fn document(State(app): State<App>) -> Json<Value> {
    Json(openapi::document(&server(&app)))
}

fn server(app: &App) -> String {
    let config = app.config();
    format!("{}://{}", if config.is_tls { "https" } else { "http" }, config.address)
}

/// The same with facts.
pub(crate) async fn health(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    let store = app.models.clone();
    let models = blocking(move || store.list()).await?.map_or(0, |(models, _)| models.len());
    Ok(Json(Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        data_folder: app.config().data_folder.display().to_string(),
        models,
        loaded: app.engines.loaded().iter().filter(|model| model.phase == Phase::Ready).count(),
    }))
}

/// What is well and what is not. Tries the compute modules if that was not done yet.
pub(crate) async fn doctor(State(app): State<App>) -> Result<Json<List<Finding>>, ApiError> {
    let finding = |subject: &str, ok: bool, text: String| Finding { subject: subject.into(), ok, text };
    let mut data = Vec::new();
    let variants = app.engines.choose_variant().await;
    data.push(match &variants.chosen {
        Some(name) => finding("compute module", true, format!("`{name}` is used")),
        None => finding(
            "compute module",
            false,
            "none works on this processor; see those that were dropped, and install cortex again if none is listed"
                .into(),
        ),
    });
    for passed in &variants.passed {
        let text = format!(
            "passed: 32 tokens in {} µs, a single one in {} µs",
            passed.times.batch_microseconds, passed.times.single_microseconds
        );
        data.push(finding(&format!("compute module {}", passed.name), true, text));
    }
    for dropped in &variants.dropped {
        // A module for another processor is no defect.
        data.push(finding(&format!("compute module {}", dropped.name), true, format!("dropped: {}", dropped.reason)));
    }
    let monitor = app.hardware.clone();
    let machine = blocking(move || monitor.machine()).await?;
    let explained = super::hardware::explained(&machine, &app.engines.accelerators());
    data.extend(explained.into_iter().map(|text| finding("graphics", true, text)));
    if let Some(why) = app.engines.speed_failure() {
        data.push(finding("speed", false, format!("how fast models are cannot be measured: {why}")));
    }
    let store = app.models.clone();
    match blocking(move || registry_health(&store)).await? {
        Ok(health) => {
            for line in &health.lines {
                data.push(finding("models.list", false, format!("line {}: {}: {}", line.line, line.reason, line.text)));
            }
            if health.lost > 0 {
                let text = format!(
                    "there are no models on it, but {} model.yaml files; `cortex models reindex` puts them back",
                    health.lost
                );
                data.push(finding("models.list", false, text));
            }
            let usable = health.models - health.unusable.len();
            data.push(finding("models", true, format!("{usable} of {} can be used", health.models)));
            for model in &health.settings {
                data.push(finding(&format!("model {}", model.id), false, format!("settings: {}", model.reason)));
            }
            for model in health.unusable {
                data.push(finding(&format!("model {}", model.id), false, format!("{}: {}", model.state, model.reason)));
            }
        }
        Err(error) => data.push(finding("models.list", false, error.to_string())),
    }
    Ok(Json(List { object: "list".into(), data, result: None }))
}

/// Stops the daemon; the answer is sent first.
pub(crate) async fn destroy(State(app): State<App>) -> Json<Message> {
    tracing::info!("asked to stop");
    app.stop.cancel();
    Json(Message { message: "Program is exitting, goodbye!".into() })
}
