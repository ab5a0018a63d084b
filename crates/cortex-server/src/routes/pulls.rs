//! Downloads: begin, follow, pause, resume, cancel.

use super::{
    engines::{self, Installs},
    registry::missing_field,
};
use crate::{App, error::ApiError, json};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{
        Path, State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cortex_api::{
    native::List,
    pulls::{
        DownloadFrame, DownloadItem, DownloadTask, Pull, PullChoice, PullInfo, PullRequest, PullResponse, TaskRequest,
        TaskResponse,
    },
};
use cortex_models::{
    ErrorKind, PullError, PullEvent, PullEventKind, PullPlan, PullSnapshot, ReferenceError, SourceError,
};
use futures::stream;
use std::{convert::Infallible, path::Path as FilePath, sync::Arc, time::Duration};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

/// Silence after which a comment keeps the connection alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The organisation whose models have short names.
const HANDLES: &str = "cortexso";

/// Begins a download, or joins the one that is under way.
pub(crate) async fn create(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let request: PullRequest = json::required(&headers, &body)?;
    let model = needed(request.model, "model")?;
    if let Some(id) = request.id.as_deref().filter(|id| app.remotes.model(id).is_some()) {
        return Err(ApiError::field(
            "id",
            format!("`{id}` is a model of another machine; give the download another id"),
        ));
    }
    let wanted = cortex_models::PullRequest { model, id: request.id, name: request.name };
    let pull = app.pulls.pull(wanted, request.update).await.map_err(|error| pull_error(&error))?;
    Ok(Json(PullResponse {
        message: "Model start downloading!".into(),
        task: task(&pull, app.models.data_folder()),
        reason: pull.plan.why.clone(),
    })
    .into_response())
}

/// Stops a download.
pub(crate) async fn cancel(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let request: TaskRequest = json::required(&headers, &body)?;
    let id = needed(request.task_id, "taskId")?;
    // cortex.cpp stops whatever task has this id.
    if !app.packages.stop(&id) {
        app.pulls.cancel(&id, request.discard).await.map_err(|error| pull_error(&error))?;
    }
    Ok(told("Download stopped successfully", id))
}

/// Lets a download wait.
pub(crate) async fn pause(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let request: TaskRequest = json::required(&headers, &body)?;
    let id = needed(request.task_id, "taskId")?;
    app.pulls.pause(&id).await.map_err(|error| pull_error(&error))?;
    Ok(told("Download paused", id))
}

/// Goes on with a download that waits, was cancelled, or failed.
pub(crate) async fn resume(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let request: TaskRequest = json::required(&headers, &body)?;
    let id = needed(request.task_id, "taskId")?;
    app.pulls.resume(&id).await.map_err(|error| pull_error(&error))?;
    Ok(told("Download resumed", id))
}

fn told(message: &str, id: String) -> Response {
    Json(TaskResponse { message: message.into(), task_id: id }).into_response()
}

/// All downloads; ended ones for a while.
pub(crate) async fn list(State(app): State<App>) -> Json<List<Pull>> {
    let data = app.pulls.list().await.iter().map(|pull| shown(pull, app.models.data_folder())).collect();
    Json(List { object: "list".into(), data, result: None })
}

/// Follows one download until it is over.
pub(crate) async fn follow(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let unknown = || pull_error(&PullError::Unknown { id: id.clone() }).with_status(StatusCode::NOT_FOUND);
    let watch = app.pulls.watch(&id).await.ok_or_else(unknown)?;
    let state = Follower { watch, first: true, over: false, app };
    let body = stream::unfold(state, async |mut state| {
        let text = state.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), state))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

struct Follower {
    watch: watch::Receiver<Arc<PullSnapshot>>,
    first: bool,
    over: bool,
    app: App,
}

impl Follower {
    async fn next(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        if !std::mem::take(&mut self.first) {
            let stop = self.app.stop.clone();
            tokio::select! {
                changed = self.watch.changed() => changed.ok()?,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(": still here\n\n".into()),
                () = stop.cancelled() => return None,
            }
        }
        let pull = self.watch.borrow_and_update().clone();
        self.over = pull.state.is_over();
        let shown = shown(&pull, self.app.models.data_folder());
        Some(format!("event: pull\n{}", crate::sse::data(&shown)))
    }
}

/// The WebSocket of cortex.cpp: frames of downloads, and nothing else, ever.
pub(crate) async fn events(
    State(app): State<App>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(why) => {
            let status = why.status();
            return ApiError::new(ErrorKind::Invalid, "not_a_websocket", why.body_text())
                .with_status(status)
                .into_response();
        }
    };
    // From before the answer: a client that has it misses nothing.
    let (pulls, installs) = (app.pulls.events(), Installs::of(&app));
    upgrade.max_message_size(64 << 10).on_upgrade(move |socket| send_events(app, socket, pulls, installs))
}

async fn send_events(
    app: App,
    mut socket: WebSocket,
    (fresh, mut events): (Vec<PullEvent>, broadcast::Receiver<PullEvent>),
    mut installs: Installs,
) {
    let mut waiting: std::collections::VecDeque<PullEvent> = fresh.into();
    loop {
        let frame = if let Some(event) = waiting.pop_front() {
            frame(&event, app.models.data_folder())
        } else {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => frame(&event, app.models.data_folder()),
                    // A client that is far behind misses some progress; ends are told anew.
                    Err(RecvError::Lagged(_)) => {
                        let (fresh, again) = app.pulls.events();
                        (waiting, events) = (fresh.into(), again);
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                },
                Some(event) = installs.next() => engines::frame(&event),
                heard = socket.recv() => match heard {
                    // Whatever a client says is not for us; reading it answers its pings.
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => continue,
                },
                () = app.stop.cancelled() => {
                    let _ = socket.send(Message::Close(None)).await;
                    return;
                }
            }
        };
        let text = serde_json::to_string(&frame).expect("wire types have string keys only");
        if socket.send(Message::Text(text.into())).await.is_err() {
            return;
        }
    }
}

/// What a name offers, for a person who chooses.
pub(crate) async fn info(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<PullInfo>, ApiError> {
    let request: PullRequest = json::required(&headers, &body)?;
    let model = needed(request.model, "model")?;
    let message = "Get model pull information successfully".to_owned();
    let offered = app.pulls.offered(&model).await.map_err(|error| match error {
        PullError::Source(SourceError::Reference(ReferenceError::Form)) => ApiError::told(
            ErrorKind::Invalid,
            "invalid_model",
            &"Input must be Cortex Model Hub handle or HuggingFace url!",
            error.hint(),
        )
        .with_status(StatusCode::BAD_REQUEST),
        error => pull_error(&error),
    })?;
    let nothing = PullInfo {
        id: handle_of_url(&model).unwrap_or_else(|| model.clone()),
        model_source: String::new(),
        default_branch: "main".into(),
        message,
        downloaded_models: vec![],
        available_models: vec![],
        download_url: model.replace("/blob/", "/resolve/"),
        choices: vec![],
        recommended: None,
        reason: None,
    };
    let Some(offered) = offered else { return Ok(Json(nothing)) };
    let (ids, _) = app.models.list().map_err(|error| ApiError::told(error.kind(), "list", &error, None))?;
    let is_there = |name: &str| ids.iter().any(|known| known.id.as_str() == name);
    let choices: Vec<PullChoice> = offered
        .choices
        .iter()
        .map(|choice| PullChoice {
            model: choice.model.clone(),
            name: choice.name.clone(),
            bytes: choice.bytes,
            fits: choice.fits,
        })
        .collect();
    let recommended = offered.recommended.and_then(|at| choices.get(at)).map(|choice| choice.name.clone());
    let name = model.trim().trim_start_matches("https://huggingface.co/").trim_end_matches('/').to_owned();
    let is_handle = !name.contains('/') || name.starts_with(&format!("{HANDLES}/"));
    let (there, available): (Vec<String>, Vec<String>) =
        choices.iter().map(|choice| choice.name.clone()).partition(|name| is_there(name));
    Ok(Json(PullInfo {
        id: if is_handle { name.rsplit('/').next().unwrap_or_default().into() } else { name.replace('/', ":") },
        model_source: if is_handle { HANDLES.into() } else { String::new() },
        default_branch: if is_handle { recommended.unwrap_or_default() } else { "main".into() },
        downloaded_models: there,
        available_models: available,
        download_url: if is_handle { String::new() } else { format!("https://huggingface.co/{name}/resolve/main/") },
        choices,
        recommended: offered.recommended,
        reason: Some(offered.why),
        ..nothing
    }))
}

/// `author:repo:file.gguf` of the URL of a file of the hub, or `repo:branch` of one of the organisation with short names.
fn handle_of_url(text: &str) -> Option<String> {
    let path = text.trim().split_once("://huggingface.co/")?.1;
    let parts: Vec<&str> = path.split('?').next()?.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [HANDLES, repo, "blob" | "resolve", branch, ..] => Some(format!("{repo}:{branch}")),
        [author, repo, "blob" | "resolve", _, .., file] => Some(format!("{author}:{repo}:{file}")),
        _ => None,
    }
}

/// A field that must be there, with the answers that cortex.cpp's clients know.
pub(super) fn needed(value: Option<String>, field: &str) -> Result<String, ApiError> {
    match value {
        None => Err(missing_field(field)),
        Some(text) if text.trim().is_empty() => {
            Err(ApiError::field(field, format!("{field} is empty")).with("result", "Bad Request"))
        }
        Some(text) => Ok(text),
    }
}

/// This family answers 400 where others tell more by the status.
pub(crate) fn pull_error(error: &PullError) -> ApiError {
    let mut answer = ApiError::told(error.kind(), error.code(), error, error.hint());
    if let PullError::AlreadyThere { id, .. } = error {
        answer = answer.with("id", id.as_str());
    }
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Invalid => answer.with_status(StatusCode::BAD_REQUEST),
        _ => answer,
    }
}

fn items(plan: &PullPlan, downloaded: &[u64], data_folder: &FilePath) -> Vec<DownloadItem> {
    let folder = data_folder.join(&plan.folder);
    plan.files
        .iter()
        .zip(downloaded)
        .map(|(file, &downloaded_bytes)| DownloadItem {
            bytes: file.size,
            checksum: file.sha256.clone().unwrap_or_else(|| "N/A".into()),
            download_url: without_query(&file.url),
            downloaded_bytes,
            id: file.name.clone(),
            local_path: folder.join(&file.name).to_string_lossy().into_owned(),
        })
        .collect()
}

/// A URL as it may be shown: signed ones carry secrets in their query.
fn without_query(text: &str) -> String {
    let is_url = text.contains("://");
    text.split_once('?').filter(|_| is_url).map_or(text, |(url, _)| url).to_owned()
}

fn task(pull: &PullSnapshot, data_folder: &FilePath) -> DownloadTask {
    DownloadTask {
        id: pull.id().to_string(),
        items: items(&pull.plan, &pull.downloaded, data_folder),
        kind: "Model".into(),
    }
}

fn frame(event: &PullEvent, data_folder: &FilePath) -> DownloadFrame {
    let kind = match event.kind {
        PullEventKind::Started => "DownloadStarted",
        PullEventKind::Updated => "DownloadUpdated",
        PullEventKind::Succeeded => "DownloadSuccess",
        PullEventKind::Failed => "DownloadError",
        PullEventKind::Stopped => "DownloadStopped",
    };
    let mut task = task(&event.pull, data_folder);
    for item in &mut task.items {
        // Word for word what cortex.cpp sends.
        item.checksum = "N/A".into();
    }
    let message = event.pull.message.clone().filter(|_| event.kind == PullEventKind::Failed);
    DownloadFrame { message, task, kind: kind.into() }
}

fn shown(pull: &PullSnapshot, data_folder: &FilePath) -> Pull {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is no exact number")]
    let bytes_per_second = pull.rate.max(0.0) as u64;
    Pull {
        id: pull.id().to_string(),
        object: "pull".into(),
        model: without_query(&pull.plan.asked),
        state: pull.state.as_str().into(),
        bytes: pull.plan.bytes(),
        downloaded_bytes: pull.downloaded_bytes(),
        bytes_per_second,
        seconds_left: pull.seconds_left(),
        repository: pull.plan.author_repo.clone(),
        revision: pull.plan.revision.clone(),
        commit: pull.plan.commit.clone(),
        aliases: pull.plan.aliases.clone(),
        reason: pull.plan.why.clone(),
        message: pull.message.clone(),
        code: pull.code.map(str::to_owned),
        items: items(&pull.plan, &pull.downloaded, data_folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_the_hub_have_handles() {
        for (url, handle) in [
            ("https://huggingface.co/a/b/blob/main/c.gguf", Some("a:b:c.gguf")),
            ("https://huggingface.co/a/b/resolve/main/sub/c.gguf?download=true", Some("a:b:c.gguf")),
            ("https://huggingface.co/cortexso/tinyllama/blob/1b/model.gguf", Some("tinyllama:1b")),
            ("https://huggingface.co/a/b", None),
            ("a:b:c.gguf", None),
        ] {
            assert_eq!(handle_of_url(url).as_deref(), handle, "{url}");
        }
    }
}
