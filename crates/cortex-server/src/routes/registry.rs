//! Changes of the models on disk: import, settings, deletion; and what is wrong with them.

use super::{remote, run::blocking};
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
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use cortex_api::native::{
    BadLine, BatchResponse, BatchResult, DeleteResponse, ImportEntry, ImportRequest, ImportResponse, LeftFile, LeftOut,
    RegistryHealth, ReindexRequest, ReindexResponse, UnusableModel, UpdateResponse, WrongSettings,
};
use cortex_models::{
    BatchEntry, ErrorKind, Import, ImportError, Mode, Model, ModelId, ModelState, ModelStore, RemoveError, StoreError,
    UpdateError, WhyLeft,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{path::PathBuf, time::Duration};

/// How long a report may wait for a look at the files: a drive may be slow.
const HEALTH_WAITS: Duration = Duration::from_secs(2);
/// Entries of one batch.
const MOST_IN_BATCH: usize = 100_000;

/// `?id=` for ids that no path can carry.
#[derive(Debug, Deserialize)]
pub(crate) struct ById {
    pub(crate) id: Option<String>,
}

/// `?files=true` of a deletion.
#[derive(Debug, Deserialize)]
pub(crate) struct DeleteQuery {
    id: Option<String>,
    files: Option<String>,
}

pub(super) fn unreadable(error: &StoreError) -> ApiError {
    tracing::error!(%error, "the list of models cannot be read");
    ApiError::new(error.kind(), "list_unreadable", "the list of models cannot be read; the log says more")
        .with("object", "list")
        .with("data", Value::Array(vec![]))
        .with("result", "Fail to get list model information")
}

/// 409 as clients of cortex.cpp expect it.
pub(crate) fn missing_field(field: &str) -> ApiError {
    let mut error = ApiError::new(ErrorKind::Conflict, "missing_field", format!("No {field} field in request body"));
    error.body.error.param = Some(field.to_owned());
    error
}

/// Most of these routes answer 400 where an inference route answers 404.
pub(crate) fn bad_request(error: ApiError) -> ApiError {
    if error.status.is_client_error() && error.status != StatusCode::UNSUPPORTED_MEDIA_TYPE {
        error.with_status(StatusCode::BAD_REQUEST)
    } else {
        error
    }
}

/// Takes models in.
pub(crate) async fn import(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let request: ImportRequest = json::required(&headers, &body)?;
    if let Some(models) = request.models {
        return Ok(Json(import_batch(&app, models, request.dry_run).await?).into_response());
    }
    let id = request.model.ok_or_else(|| missing_field("model"))?;
    let path = request.model_path.ok_or_else(|| missing_field("modelPath"))?;
    let mode = mode(request.option.as_deref())?;
    let id = ModelId::new(&id).map_err(|error| ApiError::field("model", error.to_string()))?;
    if app.remotes.model(id.as_str()).is_some() {
        let message = format!("Fail to import model, model_id '{id}' already exists! It is a model of another machine");
        let taken = ApiError::new(ErrorKind::Invalid, "id_taken", message);
        return Err(taken.with("result", "Import failed!").with("modelHandle", id.as_str()));
    }
    let name = request.name.filter(|name| !name.is_empty());
    let import = Import { id: id.clone(), path: PathBuf::from(&path), name, mode };
    let store = app.models.clone();
    let imported = blocking(move || store.import(&import)).await?.map_err(|error| import_error(&error, &id, &path))?;
    let message = if imported.already_there {
        "Model is in the list already; nothing was changed."
    } else {
        "Model is imported successfully!"
    };
    let answer = ImportResponse {
        result: "OK".into(),
        model_handle: imported.model.id.to_string(),
        message: message.into(),
        already_there: imported.already_there,
    };
    Ok(Json(answer).into_response())
}

fn mode(option: Option<&str>) -> Result<Mode, ApiError> {
    let option = option.unwrap_or_default();
    Mode::parse(option).ok_or_else(|| {
        ApiError::field(
            "option",
            format!("option is `{option}`; it must be symlink (by reference, the default), copy, move or hardlink"),
        )
    })
}

async fn import_batch(app: &App, models: Vec<ImportEntry>, dry_run: bool) -> Result<BatchResponse, ApiError> {
    if models.len() > MOST_IN_BATCH {
        return Err(ApiError::field(
            "models",
            format!("models has {} entries; {MOST_IN_BATCH} are possible", models.len()),
        ));
    }
    let mut batch = Vec::with_capacity(models.len());
    for (at, entry) in models.into_iter().enumerate() {
        let Some(path) = entry.model_path else {
            return Err(ApiError::field(
                &format!("models[{at}].modelPath"),
                format!("models[{at}].modelPath is missing"),
            ));
        };
        batch.push(BatchEntry { id: entry.model, path: PathBuf::from(path) });
    }
    let store = app.models.clone();
    let (batch, outcomes) = blocking(move || {
        let outcomes = store.import_batch(&batch, dry_run);
        (batch, outcomes)
    })
    .await?;
    let outcomes = outcomes.map_err(|error| {
        tracing::error!(%error, "a batch was not imported");
        ApiError::told(error.kind(), "import_failed", &error, None)
    })?;
    let data: Vec<BatchResult> = batch
        .iter()
        .zip(outcomes)
        .map(|(entry, outcome)| {
            let (result, already_there, message) = match outcome.result {
                Ok(true) => ("OK", true, "Model is in the list already; nothing was changed.".to_owned()),
                Ok(false) => ("OK", false, "Model is imported successfully!".to_owned()),
                Err(error) => ("Import failed!", false, with_hint(&error, error.hint())),
            };
            BatchResult {
                result: result.into(),
                model_handle: outcome.id.map(|id| id.to_string()),
                model_path: entry.path.to_string_lossy().into_owned(),
                already_there,
                message,
            }
        })
        .collect();
    let failed = data.iter().filter(|entry| entry.result != "OK").count();
    let imported = data.iter().filter(|entry| entry.result == "OK" && !entry.already_there).count();
    Ok(BatchResponse { object: "list".into(), data, imported, failed })
}

fn with_hint(error: &dyn std::fmt::Display, hint: Option<String>) -> String {
    hint.map_or_else(|| error.to_string(), |hint| format!("{error}; {hint}"))
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
        ImportError::Transfer { .. } => {
            tracing::error!(%error, "the files of an import could not be brought in");
            let message = format!("Error importing model path '{path}' with model_id '{id}': {error}");
            ApiError::told(error.kind(), "import_failed", &message, error.hint())
        }
        ImportError::Id(_)
        | ImportError::NotAbsolute { .. }
        | ImportError::NotAFile { .. }
        | ImportError::NotText { .. }
        | ImportError::ByReference { .. }
        | ImportError::IsAlias { .. }
        | ImportError::BadFile { .. } => {
            let message = format!("Error importing model path '{path}' with model_id '{id}': {error}");
            ApiError::told(error.kind(), "import_refused", &message, error.hint())
        }
    };
    // cortex.cpp answers every failed import with 400.
    let answer = if answer.status.is_client_error() { answer.with_status(StatusCode::BAD_REQUEST) } else { answer };
    answer.with("result", "Import failed!").with("modelHandle", id.as_str())
}

/// Changes the settings of a model.
pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<UpdateResponse>, ApiError> {
    change(&app, id, &headers, &body).await
}

/// The same for ids that no path can carry.
pub(crate) async fn update_by_id(
    State(app): State<App>,
    Asked(by_id): Asked<ById>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<UpdateResponse>, ApiError> {
    change(&app, by_id.id.ok_or_else(needs_id)?, &headers, &body).await
}

fn needs_id() -> ApiError {
    ApiError::field("id", "the path needs an id, or the query `?id=`")
}

async fn change(app: &App, id: String, headers: &HeaderMap, body: &Bytes) -> Result<Json<UpdateResponse>, ApiError> {
    let given: Map<String, Value> = json::required(headers, body)?;
    if let Some(model) = app.remotes.model(&id) {
        return remote::update(app, model, given).await;
    }
    let aliases = match given.get("aliases") {
        None => None,
        // As with any other field: null takes it away.
        Some(Value::Null) => Some(vec![]),
        Some(aliases) => Some(
            serde_json::from_value::<Vec<String>>(aliases.clone())
                .map_err(|_| ApiError::field("aliases", format!("aliases is {aliases}; it must be a list of texts")))?,
        ),
    };
    let (store, name) = (app.models.clone(), id.clone());
    let shown = Value::Object(given.clone());
    let mut ignored: Vec<String> = given
        .keys()
        .filter(|key| *key != "aliases" && !cortex_models::is_setting(key) && !cortex_models::is_read_only(key))
        .cloned()
        .collect();
    let changed = blocking(move || {
        // All or nothing: a wrong field must not leave the aliases changed.
        cortex_models::check_settings(&given)?;
        // By its id: the name may be one of the aliases that go.
        let id = store.resolve(&name)?.id.clone();
        if let Some(aliases) = aliases {
            store.set_aliases(id.as_str(), &aliases)?;
        }
        store.update(id.as_str(), &given)
    })
    .await?;
    match changed {
        Ok(model) => {
            if let Some(yaml) = model.yaml() {
                ignored.extend(read_only_and_others(&shown, &yaml));
                app.engines.settings_changed(&model.id, load_settings(&yaml, app.engines.load_settings()));
            }
            Ok(Json(UpdateResponse {
                result: "Updated successfully!".into(),
                model_handle: model.id.to_string(),
                message: format!("Successfully update model ID '{}': {shown:#}", model.id),
                ignored,
            }))
        }
        Err(error) => Err(update_error(&error, &id)),
    }
}

/// The fields that say what the registry alone decides, and not as it does: what clients send back as they read it is no mistake.
fn read_only_and_others(given: &Value, yaml: &cortex_models::ModelYaml) -> Vec<String> {
    let texts = |key: &str| given[key].as_array().map(|it| it.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    let is_other = |key: &str| match key {
        "files" => texts(key).is_none_or(|files| files != yaml.texts(key)),
        _ => given[key].as_str() != Some(yaml.text(key).unwrap_or_default()),
    };
    let said = |key: &&str| given.get(*key).is_some_and(|value| !value.is_null());
    ["id", "model", "files", "mmproj"].into_iter().filter(said).filter(|key| is_other(key)).map(str::to_owned).collect()
}

fn update_error(error: &UpdateError, id: &str) -> ApiError {
    let code = match error {
        UpdateError::Fields { .. } | UpdateError::Alias { .. } => "invalid_value",
        UpdateError::AliasTaken { .. } => "alias_taken",
        UpdateError::Resolve(_) => "model_not_found",
        UpdateError::Describe(_) => "model_not_usable",
        UpdateError::Store(_) => "update_failed",
    };
    let message = format!("Error updating with model_id '{id}': {error}");
    let mut answer = bad_request(ApiError::told(error.kind(), code, &message, error.hint()));
    if let UpdateError::Fields { wrong } = error {
        answer.body.error.param = wrong.first().map(|(field, _)| field.clone());
    }
    answer.with("result", "Updated failed!").with("modelHandle", id)
}

/// Deletes a model; one that is loaded leaves first.
pub(crate) async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
    Asked(query): Asked<DeleteQuery>,
) -> Result<Json<DeleteResponse>, ApiError> {
    remove(&app, id, query.files.as_deref()).await
}

/// The same for ids that no path can carry.
pub(crate) async fn delete_by_id(
    State(app): State<App>,
    Asked(query): Asked<DeleteQuery>,
) -> Result<Json<DeleteResponse>, ApiError> {
    remove(&app, query.id.ok_or_else(needs_id)?, query.files.as_deref()).await
}

async fn remove(app: &App, name: String, files: Option<&str>) -> Result<Json<DeleteResponse>, ApiError> {
    let files = match files {
        None | Some("false" | "0") => false,
        Some("" | "true" | "1") => true,
        Some(other) => return Err(ApiError::field("files", format!("files is `{other}`; it must be true or false"))),
    };
    if app.remotes.model(&name).is_some() {
        let (remotes, id) = (app.remotes.clone(), name.clone());
        blocking(move || remotes.remove_model(&id)).await??;
        return Ok(Json(DeleteResponse {
            message: "Deleted successfully!".into(),
            id: name,
            object: "model".into(),
            deleted: true,
            ..DeleteResponse::default()
        }));
    }
    let refused = |error: &RemoveError| {
        let message = match error {
            RemoveError::Resolve(_) => format!("Model not found: {name}"),
            RemoveError::Store(_) => format!("Fail to delete model with ID '{name}': {error}"),
        };
        bad_request(ApiError::told(error.kind(), "model_not_deleted", &message, error.hint()))
    };
    let (store, asked) = (app.models.clone(), name.clone());
    let model = blocking(move || store.resolve(&asked)).await?.map_err(|error| refused(&error.into()))?;
    app.engines.stop(&model.id).await;
    let (store, id) = (app.models.clone(), model.id.clone());
    let removed = blocking(move || store.remove(id.as_str(), files)).await?.map_err(|error| refused(&error))?;
    // A request may have loaded it again before its entry was gone.
    app.engines.stop(&model.id).await;
    if let Some(weights) = model.weights().map(std::path::Path::to_owned) {
        let engines = app.engines.clone();
        blocking(move || engines.forget_prompts(&weights)).await?;
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Ok(Json(DeleteResponse {
        message: "Deleted successfully!".into(),
        id: removed.id.to_string(),
        object: "model".into(),
        deleted: true,
        removed: removed.removed.into_iter().map(text).collect(),
        left: removed
            .left
            .into_iter()
            .map(|left| LeftFile {
                path: text(left.path),
                bytes: left.bytes,
                reason: match left.why {
                    WhyLeft::UsedBy(id) => format!("`{id}` uses it"),
                    WhyLeft::NotOurs => "cortex did not download or copy it".into(),
                    WhyLeft::Failed(reason) => reason,
                },
            })
            .collect(),
    }))
}

/// What is wrong with the registry.
pub(crate) async fn health(State(app): State<App>) -> Result<Json<RegistryHealth>, ApiError> {
    let store = app.models.clone();
    Ok(Json(blocking(move || registry_health(&store)).await?.map_err(|error| unreadable(&error))?))
}

/// Lines that make no sense, and models that cannot be used.
pub(crate) fn registry_health(store: &ModelStore) -> Result<RegistryHealth, StoreError> {
    store.look_at_files(HEALTH_WAITS);
    let (models, _) = store.list()?;
    let lines = store.problems()?;
    let unusable = models
        .iter()
        .filter_map(|model| {
            let (state, reason) = match model.state() {
                ModelState::Ready => return None,
                ModelState::Missing => {
                    let path = model.weights().unwrap_or(&model.path).display();
                    ("missing", format!("{path} is not there, or no regular file; put it back, or mount its drive"))
                }
                ModelState::Broken { reason } => ("broken", reason.to_string()),
            };
            Some(UnusableModel { id: model.id.to_string(), state: state.into(), reason })
        })
        .collect();
    Ok(RegistryHealth {
        object: "health".into(),
        settings: models
            .iter()
            .filter_map(|model| {
                let wrong = model.wrong_settings().map(str::to_owned);
                let reason: Vec<String> = wrong.into_iter().chain(wrong_guesser(store, model)).collect();
                let is_wrong = !reason.is_empty();
                is_wrong.then(|| WrongSettings { id: model.id.to_string(), reason: reason.join("; ") })
            })
            .collect(),
        lost: store.lost_list(),
        models: models.len(),
        pending: models.iter().filter(|model| model.is_pending()).count(),
        lines: lines
            .into_iter()
            .map(|line| BadLine { line: line.line, text: line.text, reason: line.reason })
            .collect(),
        unusable,
    })
}

/// Why nothing can guess for a model as its settings say; they are loaded with it. Reads headers of those that have such settings.
fn wrong_guesser(store: &ModelStore, model: &Model) -> Option<String> {
    let says = |members: &str| members.contains("\"mtp\"") || members.contains("\"draft_model\"");
    model.members().filter(|(own, common)| says(own) || says(common))?;
    // What is not there is told as missing.
    let is_there = model.state() == ModelState::Ready;
    let (_, files) =
        store.known_files(model).filter(|(_, files)| is_there && (files.mtp || files.draft_model.is_some()))?;
    files.check_guesser(&files.shape().ok()?).err().map(|why| format!("{why}; until then it cannot be loaded"))
}

/// Builds the list again from what lies in the data folder.
pub(crate) async fn reindex(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ReindexResponse>, ApiError> {
    let request = if body.is_empty() { ReindexRequest::default() } else { json::required(&headers, &body)? };
    let store = app.models.clone();
    let done = blocking(move || store.reindex(request.include_deleted)).await?.map_err(|error| unreadable(&error))?;
    Ok(Json(ReindexResponse {
        added: done.added.iter().map(ToString::to_string).collect(),
        left_out: done
            .left_out
            .into_iter()
            .map(|(path, reason)| LeftOut { path: path.to_string_lossy().into_owned(), reason })
            .collect(),
    }))
}
