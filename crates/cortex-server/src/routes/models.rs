//! Loaded models: start, stop, status, and which there are.

use super::{
    registry::{ById, bad_request, missing_field},
    run::{blocking, find},
};
use crate::{
    App,
    convert::load_settings,
    error::ApiError,
    json::{self, Asked},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::HeaderMap,
};
use cortex_api::{
    native::{List, LoadedModel, MemoryUse, Message, ModelRequest},
    worker::{Buffer, BufferKind},
};
use cortex_engine::{LoadSettings, Phase};
use cortex_models::{ErrorKind, Model, ModelId};
use std::sync::Arc;

/// Loads a model and keeps it.
pub(crate) async fn start(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Message>, ApiError> {
    let request: ModelRequest = json::required(&headers, &body)?;
    let name = request.model.clone().ok_or_else(|| missing_field("model"))?;
    let (model, yaml, weights) = find(&app, &name).await.map_err(bad_request)?;
    let load = ordered(&request, load_settings(&yaml, app.engines.load_settings()))?;
    app.engines.keep_loaded(&model.id, &weights, load).await?;
    Ok(Json(Message { message: "Started successfully!".into() }))
}

/// What a start request orders.
pub(crate) fn ordered(request: &ModelRequest, stored: LoadSettings) -> Result<LoadSettings, ApiError> {
    let order = |field: &str, given: Option<i64>, stored: u32, most: u32| match given {
        None => Ok(stored),
        Some(number) => match u32::try_from(number) {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(ApiError::field(field, format!("{field} is {number}; it must be between 1 and {most}"))),
        },
    };
    Ok(LoadSettings {
        context_length: order("ctx_len", request.ctx_len, stored.context_length, 1 << 24)?,
        parallel: order("n_parallel", request.n_parallel, stored.parallel, 64)?,
        threads: order("cpu_threads", request.cpu_threads.filter(|&threads| threads > 0), stored.threads, 512)?,
    })
}

/// Unloads a model.
pub(crate) async fn stop(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Message>, ApiError> {
    let request: ModelRequest = json::required(&headers, &body)?;
    let name = request.model.ok_or_else(|| missing_field("model"))?;
    let resolved = resolve(&app, &name).await;
    // A model that left the list may still be loaded.
    let id = resolved.as_ref().map_or_else(|_| ModelId::existing(name.clone()), |model| model.id.clone());
    if app.engines.stop(&id).await {
        return Ok(Json(Message { message: "Stopped successfully!".into() }));
    }
    resolved?;
    Err(ApiError::new(ErrorKind::Invalid, "model_not_loaded", format!("Model failed to stop: `{name}` is not loaded")))
}

/// Whether a model is loaded, by the status code.
pub(crate) async fn status(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Message>, ApiError> {
    loaded_status(&app, &id).await
}

/// The same for ids that no path can carry.
pub(crate) async fn status_by_id(State(app): State<App>, Asked(by_id): Asked<ById>) -> Result<Json<Message>, ApiError> {
    let id = by_id.id.ok_or_else(|| ApiError::field("id", "the query needs `?id=`"))?;
    loaded_status(&app, &id).await
}

async fn resolve(app: &App, name: &str) -> Result<Arc<Model>, ApiError> {
    let (store, name) = (app.models.clone(), name.to_owned());
    blocking(move || store.resolve(&name)).await?.map_err(ApiError::from).map_err(bad_request)
}

async fn loaded_status(app: &App, name: &str) -> Result<Json<Message>, ApiError> {
    let model = resolve(app, name).await?;
    if app.engines.loaded().iter().any(|loaded| loaded.id == model.id && loaded.phase == Phase::Ready) {
        return Ok(Json(Message { message: "Model is running".into() }));
    }
    Err(ApiError::new(ErrorKind::Invalid, "model_not_loaded", format!("the model `{}` is not loaded", model.id)))
}

fn memory_use(buffers: &[Buffer]) -> MemoryUse {
    let of = |kind: BufferKind| buffers.iter().filter(|it| it.kind == kind).map(|it| it.bytes).sum();
    MemoryUse {
        weights: of(BufferKind::Weights),
        cache: of(BufferKind::Cache),
        compute: of(BufferKind::Compute),
        output: of(BufferKind::Output),
    }
}

/// The loaded models.
pub(crate) async fn loaded(State(app): State<App>) -> Json<List<LoadedModel>> {
    let mut data: Vec<LoadedModel> = app
        .engines
        .loaded()
        .iter()
        .filter(|model| model.phase != Phase::Loading)
        .map(|model| LoadedModel {
            id: model.id.to_string(),
            engine: "llama-cpp".into(),
            start_time: model
                .since
                .duration_since(std::time::UNIX_EPOCH)
                .ok()
                .and_then(|age| i64::try_from(age.as_millis()).ok())
                .unwrap_or(0),
            model_size: model.model_bytes,
            vram: 0,
            ram: cortex_hardware::process_resident_bytes(model.pid),
            object: "model".into(),
            requests: model.requests,
            context_length: model.context_length,
            pid: model.pid,
            memory: memory_use(&model.buffers),
        })
        .collect();
    data.sort_by(|left, right| left.id.cmp(&right.id));
    Json(List { object: "list".into(), data, result: None })
}
