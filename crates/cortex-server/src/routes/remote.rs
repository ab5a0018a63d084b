//! Models on other machines, asked through the same routes as those that are here.

use super::{
    registry::{bad_request, missing_field},
    run::blocking,
};
use crate::{App, error::ApiError, json, sse};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use cortex_api::native::{ImportResponse, LoadedModel, Message, UpdateResponse};
use cortex_models::ErrorKind;
use cortex_remote::{Call, HOPS, RemoteModel, Reply, ReplyStream};
use futures::stream;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Daemons that a request may go through.
const MOST_HOPS: u8 = 4;

/// All that must be read to know where a request goes.
#[derive(Deserialize)]
struct Named {
    model: Option<String>,
}

/// The answer of a model that is on another machine; nothing when the model that is named is not.
pub(crate) async fn answer(
    app: &App,
    call: Call,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Option<Response>, ApiError> {
    if !app.remotes.has_models() {
        return Ok(None);
    }
    let Ok(Named { model: Some(name) }) = serde_json::from_slice::<Named>(body) else { return Ok(None) };
    let Some(model) = app.remotes.model(&name) else { return Ok(None) };
    let request: Map<String, Value> = json::required(headers, body)?;
    let hops = headers.get(HOPS).and_then(|hops| hops.to_str().ok()?.parse().ok()).unwrap_or(0);
    if hops >= MOST_HOPS {
        let message =
            format!("the request went through {hops} daemons: the remote engine `{}` leads back here", model.engine);
        return Err(ApiError::new(ErrorKind::Invalid, "loop_detected", message).with_status(StatusCode::LOOP_DETECTED));
    }
    let (reply, warnings) = app.remotes.call(&model, call, (request, hops)).await?;
    match reply {
        Reply::Whole(mut value) => {
            tell(&mut value, warnings);
            Ok(Some(Json(value).into_response()))
        }
        Reply::Stream(reply) => {
            let state = Stream { reply: Some(reply), warnings };
            let body = stream::unfold(state, async |mut state| {
                let text = state.next().await?;
                Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), state))
            });
            Ok(Some(sse::response(Body::from_stream(body))))
        }
    }
}

/// What of the request has no effect, beside the answer.
fn tell(value: &mut Value, warnings: Vec<String>) {
    if let (Value::Object(fields), false) = (value, warnings.is_empty()) {
        fields.insert("warnings".into(), warnings.into());
    }
}

struct Stream {
    reply: Option<Box<ReplyStream>>,
    /// Told with the first chunk.
    warnings: Vec<String>,
}

impl Stream {
    async fn next(&mut self) -> Option<String> {
        let reply = self.reply.as_mut()?;
        match tokio::time::timeout(sse::KEEP_ALIVE, reply.next()).await {
            Err(_) => Some("\n".into()),
            Ok(Some(Ok(chunk))) => {
                let warnings = std::mem::take(&mut self.warnings);
                match serde_json::from_str::<Value>(&chunk) {
                    Ok(mut value) if !warnings.is_empty() => {
                        tell(&mut value, warnings);
                        Some(sse::data(&value))
                    }
                    _ => Some(format!("data: {chunk}\n\n")),
                }
            }
            Ok(Some(Err(error))) => {
                self.reply = None;
                tracing::warn!(%error, "a stream of a remote engine ends with an error");
                Some(sse::data(&ApiError::from(error).body))
            }
            Ok(None) => None,
        }
    }
}

/// `POST /v1/models/add`: a model of a remote engine.
pub(crate) async fn add(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ImportResponse>, ApiError> {
    let said: Map<String, Value> = json::required(&headers, &body)?;
    for field in ["model", "engine"] {
        if said.get(field).is_none_or(Value::is_null) {
            return Err(missing_field(field));
        }
    }
    let handle = ["id", "model"].iter().find_map(|field| said.get(*field)?.as_str()).unwrap_or_default().to_owned();
    let failed = |error: ApiError| error.with("result", "Add failed!").with("modelHandle", handle.clone());
    let added = blocking(move || {
        let id = ["id", "model"].iter().find_map(|field| said.get(*field)?.as_str()).unwrap_or_default();
        if app.models.resolve(id).is_ok() {
            return Err(cortex_remote::RemoteError::ModelExists { id: id.to_owned() });
        }
        app.remotes.add_model(&said)
    });
    let model = added.await?.map_err(|error| failed(ApiError::from(error)))?;
    Ok(Json(ImportResponse {
        result: "OK".into(),
        model_handle: model.id,
        message: "Model is imported successfully!".into(),
        ..ImportResponse::default()
    }))
}

/// `GET /v1/models/remote/{engine}`: what the engine says that it has, in its own words.
pub(crate) async fn list(State(app): State<App>, Path(engine): Path<String>) -> Result<Json<Value>, ApiError> {
    if super::engines::is_local(&engine) {
        return Err(ApiError::new(ErrorKind::Invalid, "not_remote", format!("Not a remote engine: {engine}")));
    }
    Ok(Json(app.remotes.list(&engine).await.map_err(|error| bad_request(error.into()))?))
}

/// Changes what is said of a model.
pub(crate) async fn update(
    app: &App,
    model: RemoteModel,
    given: Map<String, Value>,
) -> Result<Json<UpdateResponse>, ApiError> {
    let shown = Value::Object(given.clone());
    let (remotes, id) = (app.remotes.clone(), model.id.clone());
    let updated = blocking(move || remotes.update_model(&id, &given)).await?;
    updated.map_err(|error| {
        let message = format!("Error updating with model_id '{}': {error}", model.id);
        let told = ApiError::told(ErrorKind::Invalid, error.code(), &message, None);
        told.with("result", "Updated failed!").with("modelHandle", model.id.clone())
    })?;
    Ok(Json(UpdateResponse {
        result: "Updated successfully!".into(),
        message: format!("Successfully update model ID '{}': {shown:#}", model.id),
        model_handle: model.id,
        ignored: vec![],
    }))
}

/// Whether a model counts as started, by the status code.
pub(crate) fn status(app: &App, model: &RemoteModel) -> Result<Json<Message>, ApiError> {
    if app.remotes.started().iter().any(|(started, _)| started.id == model.id) {
        return Ok(Json(Message { message: "Model is running".into() }));
    }
    Err(ApiError::new(ErrorKind::Invalid, "model_not_loaded", format!("the model `{}` is not started", model.id)))
}

/// The models that count as started, as those are told that are loaded here.
pub(crate) fn started(app: &App) -> impl Iterator<Item = LoadedModel> {
    app.remotes.started().into_iter().map(|(model, since)| LoadedModel {
        id: model.id,
        engine: model.engine,
        start_time: since,
        object: "model".into(),
        state: "loaded".into(),
        ..LoadedModel::default()
    })
}
