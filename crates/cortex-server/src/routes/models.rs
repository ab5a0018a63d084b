//! Models: the list, one of them, import, start, stop, status.

use super::run::{blocking, find};
use crate::{App, convert::load_settings, error::ApiError, json};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
};
use cortex_api::native::{ImportRequest, ImportResponse, List, LoadedModel, Message, ModelRequest};
use cortex_engine::LoadSettings;
use cortex_models::{ErrorKind, Import, ImportError, Model, ModelId, ModelState, ModelYaml};
use serde::Deserialize;
use serde_json::{Map, Value, json as value};
use std::path::PathBuf;

/// `?id=` for ids that no path can carry.
#[derive(Debug, Deserialize)]
pub(crate) struct ById {
    id: Option<String>,
}

/// All models, from memory.
pub(crate) async fn list(State(app): State<App>, Query(by_id): Query<ById>) -> Result<Json<Value>, ApiError> {
    if let Some(id) = by_id.id {
        return one(&app, &id).await;
    }
    let store = app.models.clone();
    let models = blocking(move || store.list()).await?.map_err(|error| {
        tracing::error!(%error, "the list of models cannot be read");
        ApiError::new(error.kind(), "list_unreadable", "the list of models cannot be read; the log says more")
    })?;
    let data = models.iter().map(|model| entry(&app, model, app.models.described(model).as_deref())).collect();
    Ok(Json(value!(List::<Value> { object: "list".into(), data, result: Some("OK".into()) })))
}

/// One model.
pub(crate) async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    one(&app, &id).await
}

async fn one(app: &App, id: &str) -> Result<Json<Value>, ApiError> {
    let model = app.models.resolve(id)?;
    let (store, described) = (app.models.clone(), model.clone());
    let yaml = blocking(move || store.describe(&described)).await?;
    let mut entry = entry(app, &model, yaml.as_ref().ok().map(std::convert::AsRef::as_ref));
    if let (Err(error), Some(fields)) = (yaml, entry.as_object_mut()) {
        fields.insert("state".into(), if model.path.is_file() { "broken" } else { "missing" }.into());
        fields.insert("reason".into(), error.to_string().into());
    }
    Ok(Json(entry))
}

/// A model as clients read it: flat.
fn entry(app: &App, model: &Model, yaml: Option<&ModelYaml>) -> Value {
    let mut fields: Map<String, Value> = yaml.map(|yaml| yaml.values().clone()).unwrap_or_default();
    let state = match model.state {
        ModelState::Missing => "missing",
        ModelState::Ready if app.engines.loaded().iter().any(|loaded| loaded.id == model.id) => "loaded",
        ModelState::Ready => "ready",
    };
    if yaml.is_none() {
        fields.insert("details".into(), "pending".into());
    }
    fields.insert("id".into(), value!(model.id));
    fields.insert("model".into(), value!(model.id));
    fields.insert("object".into(), "model".into());
    fields.insert("status".into(), "downloaded".into());
    fields.insert("state".into(), state.into());
    fields.insert("aliases".into(), value!(model.aliases));
    fields.entry("owned_by").or_insert_with(|| "user".into());
    fields.entry("created").or_insert_with(|| 0.into());
    fields.entry("engine").or_insert_with(|| "llama-cpp".into());
    Value::Object(fields)
}

/// 409 as clients of cortex.cpp expect it.
fn missing_field(field: &str) -> ApiError {
    let mut error = ApiError::new(ErrorKind::Conflict, "missing_field", format!("No {field} field in request body"));
    error.body.error.param = Some(field.to_owned());
    error
}

/// Takes a model in by reference.
pub(crate) async fn import(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ImportResponse>, ApiError> {
    let request: ImportRequest = json::required(&headers, &body)?;
    let id = request.model.ok_or_else(|| missing_field("model"))?;
    let path = request.model_path.ok_or_else(|| missing_field("modelPath"))?;
    let option = request.option.unwrap_or_default();
    if !["", "symlink", "reference"].iter().any(|known| option.eq_ignore_ascii_case(known)) {
        return Err(ApiError::field(
            "option",
            format!(
                "option `{option}` is not supported yet; leave it out to import by reference: the file stays where it is"
            ),
        ));
    }
    let id = ModelId::new(&id).map_err(|error| ApiError::field("model", error.to_string()))?;
    let import =
        Import { id: id.clone(), path: PathBuf::from(&path), name: request.name.filter(|name| !name.is_empty()) };
    let store = app.models.clone();
    let imported = blocking(move || store.import(&import)).await?.map_err(|error| import_error(&error, &id, &path))?;
    let message = if imported.already_there {
        "Model is in the list already; nothing was changed."
    } else {
        "Model is imported successfully!"
    };
    Ok(Json(ImportResponse {
        result: "OK".into(),
        model_handle: imported.model.id.to_string(),
        message: message.into(),
    }))
}

fn import_error(error: &ImportError, id: &ModelId, path: &str) -> ApiError {
    let answer = match error {
        ImportError::AlreadyExists { .. } => ApiError::told(
            ErrorKind::Invalid,
            "model_already_exists",
            &format!("Fail to import model, {error}"),
            error.hint(),
        ),
        ImportError::Store(_) => {
            tracing::error!(%error, "an import failed");
            ApiError::told(error.kind(), "import_failed", &error, error.hint())
        }
        ImportError::NotAbsolute { .. }
        | ImportError::NotAFile { .. }
        | ImportError::BadFile { .. }
        | ImportError::Projector { .. } => {
            let message = format!("Error importing model path '{path}' with model_id '{id}': {error}");
            ApiError::told(error.kind(), "import_refused", &message, error.hint())
        }
    };
    // cortex.cpp answers every failed import with 400.
    if answer.status.is_client_error() { answer.with_status(StatusCode::BAD_REQUEST) } else { answer }
}

/// Loads a model and keeps it.
pub(crate) async fn start(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Message>, ApiError> {
    let request: ModelRequest = json::required(&headers, &body)?;
    let name = request.model.clone().ok_or_else(|| missing_field("model"))?;
    let (model, yaml) = find(&app, &name).await.map_err(bad_request)?;
    let weights = app.models.weights(&model, &yaml)?;
    let load = ordered(&request, load_settings(&yaml, app.engines.load_settings()))?;
    app.engines.keep_loaded(&model.id, &weights, load).await?;
    Ok(Json(Message { message: "Started successfully!".into() }))
}

/// What a start request orders.
fn ordered(request: &ModelRequest, stored: LoadSettings) -> Result<LoadSettings, ApiError> {
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

/// These routes answer 400 where an inference route answers 404.
fn bad_request(error: ApiError) -> ApiError {
    if error.status == StatusCode::NOT_FOUND { error.with_status(StatusCode::BAD_REQUEST) } else { error }
}

/// Unloads a model.
pub(crate) async fn stop(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Message>, ApiError> {
    let request: ModelRequest = json::required(&headers, &body)?;
    let name = request.model.ok_or_else(|| missing_field("model"))?;
    // A model that left the list may still be loaded.
    let id = app.models.resolve(&name).map_or_else(|_| ModelId::existing(name.clone()), |model| model.id.clone());
    if app.engines.stop(&id).await {
        return Ok(Json(Message { message: "Stopped successfully!".into() }));
    }
    app.models.resolve(&name).map_err(ApiError::from).map_err(bad_request)?;
    Err(ApiError::new(ErrorKind::Invalid, "model_not_loaded", format!("Model failed to stop: `{name}` is not loaded")))
}

/// Whether a model is loaded, by the status code.
pub(crate) async fn status(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Message>, ApiError> {
    loaded_status(&app, &id)
}

/// The same for ids that no path can carry.
pub(crate) async fn status_by_id(State(app): State<App>, Query(by_id): Query<ById>) -> Result<Json<Message>, ApiError> {
    let id = by_id.id.ok_or_else(|| ApiError::field("id", "the query needs `?id=`"))?;
    loaded_status(&app, &id)
}

fn loaded_status(app: &App, name: &str) -> Result<Json<Message>, ApiError> {
    let model = app.models.resolve(name).map_err(ApiError::from).map_err(bad_request)?;
    if app.engines.loaded().iter().any(|loaded| loaded.id == model.id && loaded.ready) {
        return Ok(Json(Message { message: "Model is running".into() }));
    }
    Err(ApiError::new(ErrorKind::Invalid, "model_not_loaded", format!("the model `{}` is not loaded", model.id)))
}

/// The loaded models.
pub(crate) async fn loaded(State(app): State<App>) -> Json<List<LoadedModel>> {
    let mut data: Vec<LoadedModel> = app
        .engines
        .loaded()
        .iter()
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
        })
        .collect();
    data.sort_by(|left, right| left.id.cmp(&right.id));
    Json(List { object: "list".into(), data, result: None })
}
