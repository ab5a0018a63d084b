//! Model sources, and what the hub has.

use crate::{
    App,
    error::ApiError,
    json::{self, Asked},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use cortex_api::{
    native::Message,
    sources::{HubModel, HubRepositories, HubSearch, ModelSource, ModelSources, SourceModel, SourceRequest},
};
use cortex_models::{HubQuery, SourcesError};
use serde::Deserialize;

/// Repositories of an author that are shown.
const MOST_OF_AUTHOR: usize = 1000;
/// Repositories that a search shows when it is not said how many, and at most.
const FOUND: usize = 20;
const MOST_FOUND: usize = 100;
/// Whose models cortex.cpp shows by default.
const AUTHOR: &str = "cortexso";

/// Adds a source.
pub(crate) async fn add(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Message>, ApiError> {
    let source = wanted(&headers, &body)?;
    app.sources.add(&source).await.map_err(|error| refused(&error))?;
    Ok(told("Model source is added successfully!"))
}

/// Removes a source.
pub(crate) async fn remove(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Message>, ApiError> {
    let source = wanted(&headers, &body)?;
    app.sources.remove(&source).await.map_err(|error| refused(&error))?;
    Ok(told("Model source is deleted successfully!"))
}

fn wanted(headers: &HeaderMap, body: &Bytes) -> Result<String, ApiError> {
    let request: SourceRequest = json::required(headers, body)?;
    super::pulls::needed(request.source, "source")
}

fn told(message: &str) -> Json<Message> {
    Json(Message { message: message.into() })
}

/// All sources.
pub(crate) async fn list(State(app): State<App>) -> Result<Json<ModelSources>, ApiError> {
    let data = app.sources.list().await.map_err(|error| refused(&error))?;
    Ok(Json(ModelSources { data: data.into_iter().map(shown).collect() }))
}

/// One source; its URL is one encoded part of the path, or the rest of it as it stands.
pub(crate) async fn get(State(app): State<App>, Path(url): Path<String>) -> Result<Json<ModelSource>, ApiError> {
    let source = app.sources.get(&url).await.map_err(|error| refused(&error))?;
    Ok(Json(shown(source)))
}

fn shown(source: cortex_models::ModelSource) -> ModelSource {
    ModelSource {
        id: source.url,
        author: source.author,
        models: source.models.into_iter().map(|(id, size)| SourceModel { id, size }).collect(),
        metadata: source.card,
        fetched: source.fetched,
    }
}

/// What `GET /v1/models/hub` can be asked.
#[derive(Debug, Deserialize)]
pub(crate) struct HubAsked {
    author: Option<String>,
    tag: Option<String>,
}

/// The repositories of an author.
pub(crate) async fn repositories(
    State(app): State<App>,
    Asked(asked): Asked<HubAsked>,
) -> Result<Json<HubRepositories>, ApiError> {
    let given = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let query = HubQuery {
        text: None,
        author: Some(given(asked.author).unwrap_or_else(|| AUTHOR.into())),
        tags: given(asked.tag).into_iter().collect(),
        limit: MOST_OF_AUTHOR,
    };
    let found = app.sources.search(&query).await.map_err(|error| refused(&error))?;
    Ok(Json(HubRepositories { data: found.answer.into_iter().map(|model| model.id).collect(), stale: found.stale }))
}

/// What `GET /v1/models/hub/search` can be asked.
#[derive(Debug, Deserialize)]
pub(crate) struct SearchAsked {
    query: Option<String>,
    author: Option<String>,
    limit: Option<String>,
}

/// Repositories with GGUF files whose names contain a text.
pub(crate) async fn search(
    State(app): State<App>,
    Asked(asked): Asked<SearchAsked>,
) -> Result<Json<HubSearch>, ApiError> {
    let text = asked.query.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let Some(text) = text else { return Err(ApiError::field("query", "query is missing: what to look for")) };
    let limit = match asked.limit.as_deref() {
        None | Some("") => FOUND,
        Some(given) => given.parse().ok().filter(|limit| (1..=MOST_FOUND).contains(limit)).ok_or_else(|| {
            ApiError::field("limit", format!("limit is `{given}`; it must be a number from 1 to {MOST_FOUND}"))
        })?,
    };
    let author = asked.author.map(|author| author.trim().to_owned()).filter(|author| !author.is_empty());
    let query = HubQuery { text: Some(text), author, tags: vec!["gguf".into()], limit };
    let found = app.sources.search(&query).await.map_err(|error| refused(&error))?;
    let data = found.answer.into_iter().map(|model| HubModel {
        id: model.id,
        downloads: model.downloads,
        likes: model.likes,
        modified: model.modified,
        gated: model.gated,
        tags: model.tags,
    });
    Ok(Json(HubSearch { object: "list".into(), data: data.collect(), fetched: found.fetched, stale: found.stale }))
}

/// cortex.cpp answers 400 to whatever does not work here.
fn refused(error: &SourcesError) -> ApiError {
    let code = match error {
        SourcesError::Unknown(_) => "source_not_found",
        SourcesError::Repository(_) | SourcesError::NotUsable(_) | SourcesError::TooMany(_) => "source_refused",
        SourcesError::Hub { .. } | SourcesError::Unanswered(_) | SourcesError::Slow => "hub_unavailable",
        SourcesError::Unreadable { .. } | SourcesError::Disk(_) => "sources_unusable",
    };
    let answer = ApiError::told(error.kind(), code, error, error.hint());
    match error {
        SourcesError::Hub { .. } => answer.with_status(StatusCode::BAD_REQUEST),
        _ if answer.status.is_client_error() => answer.with_status(StatusCode::BAD_REQUEST),
        _ => answer,
    }
}
