//! Threads, their messages, and assistants: OpenAI's second version of them, and Jan's.

use super::run::blocking;
use crate::{
    App,
    error::ApiError,
    json::{self, Asked},
};
use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use cortex_models::ErrorKind;
use cortex_threads::{Conversations, Object, Page, ThreadEntry, ThreadsError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A list, or a part of one.
#[derive(Serialize)]
pub(crate) struct List<T> {
    object: &'static str,
    data: Vec<T>,
}

impl<T> List<T> {
    pub(crate) fn of(data: Vec<T>) -> Json<Self> {
        Json(Self { object: "list", data })
    }
}

/// What says that something is gone.
#[derive(Serialize)]
pub(crate) struct Removed {
    id: String,
    object: &'static str,
    deleted: bool,
}

impl Removed {
    pub(crate) fn of(id: String, object: &'static str) -> Json<Self> {
        Json(Self { id, object, deleted: true })
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct PageQuery {
    limit: Option<i64>,
    order: Option<String>,
    after: Option<String>,
    before: Option<String>,
    run_id: Option<String>,
}

impl PageQuery {
    pub(crate) fn page(self) -> Result<(Page, Option<String>), ThreadsError> {
        Ok((Page::new(self.limit, self.order.as_deref(), self.after, self.before)?, self.run_id))
    }
}

pub(crate) type Answer<T> = Result<T, ApiError>;

/// Does something with the conversations, which may wait for the disk.
pub(crate) async fn with<T: Send + 'static>(
    app: App,
    work: impl FnOnce(&Conversations) -> Result<T, ThreadsError> + Send + 'static,
) -> Answer<T> {
    Ok(blocking(move || work(&app.conversations)).await??)
}

/// The object that a request sends.
pub(crate) struct Sent(Object);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, state).await.map_err(IntoResponse::into_response)?;
        if body.is_empty() {
            let error = ApiError::new(ErrorKind::Invalid, "empty_body", "Request body can't be empty");
            return Err(error.into_response());
        }
        json::required(&headers, &body).map(Self).map_err(IntoResponse::into_response)
    }
}

/// The same failure with what was tried in front of it, as cortex.cpp says it.
fn failed_to(what: &'static str) -> impl Fn(ApiError) -> ApiError {
    move |mut error| {
        let message = format!("Failed to {what}: {}", error.body.message);
        (error.body.error.message, error.body.message) = (message.clone(), message);
        error
    }
}

/// Lists threads.
pub(crate) async fn list(State(app): State<App>, Asked(query): Asked<PageQuery>) -> Answer<Json<List<ThreadEntry>>> {
    with(app, move |it| it.threads.list(&query.page()?.0)).await.map(List::of)
}

/// Makes a thread.
pub(crate) async fn create(State(app): State<App>, Sent(given): Sent) -> Answer<Json<Value>> {
    with(app, move |it| it.threads.create(&given)).await.map(Json)
}

/// One thread.
pub(crate) async fn get(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<Value>> {
    with(app, move |it| it.threads.get(&id)).await.map(Json)
}

/// Changes the metadata of a thread.
pub(crate) async fn update(State(app): State<App>, Path(id): Path<String>, Sent(given): Sent) -> Answer<Json<Value>> {
    let changed = with(app, move |it| it.threads.update(&id, &given)).await;
    changed.map(Json).map_err(|error| if error.is_missing() { failed_to("retrieve thread")(error) } else { error })
}

/// Removes a thread.
pub(crate) async fn remove(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<Removed>> {
    let thread = id.clone();
    with(app, move |it| {
        it.threads.remove(&thread).map_err(|error| match error {
            ThreadsError::NoSuchPath { .. } => ThreadsError::NoSuchThread { id: thread },
            other => other,
        })
    })
    .await
    .map_err(failed_to("delete thread"))?;
    Ok(Removed::of(id, "thread.deleted"))
}

/// Lists the messages of a thread.
pub(crate) async fn messages(
    State(app): State<App>,
    Path(thread): Path<String>,
    Asked(query): Asked<PageQuery>,
) -> Answer<Json<List<Value>>> {
    with(app, move |it| {
        let (page, run) = query.page()?;
        it.messages.list(&thread, &page, run.as_deref())
    })
    .await
    .map(List::of)
}

/// Adds a message to a thread.
pub(crate) async fn create_message(
    State(app): State<App>,
    Path(thread): Path<String>,
    Sent(given): Sent,
) -> Answer<Json<Value>> {
    with(app, move |it| it.messages.create(&thread, &given)).await.map(Json)
}

/// One message.
pub(crate) async fn message(State(app): State<App>, Path((thread, id)): Path<(String, String)>) -> Answer<Json<Value>> {
    with(app, move |it| it.messages.get(&thread, &id)).await.map(Json)
}

/// Changes a message.
pub(crate) async fn update_message(
    State(app): State<App>,
    Path((thread, id)): Path<(String, String)>,
    Sent(given): Sent,
) -> Answer<Json<Value>> {
    let changed = with(app, move |it| it.messages.update(&thread, &id, &given)).await;
    changed.map(Json).map_err(|error| if error.is_missing() { failed_to("modify message")(error) } else { error })
}

/// Removes a message.
pub(crate) async fn remove_message(
    State(app): State<App>,
    Path((thread, id)): Path<(String, String)>,
) -> Answer<Json<Removed>> {
    let message = id.clone();
    with(app, move |it| it.messages.remove(&thread, &message)).await.map_err(failed_to("delete message"))?;
    Ok(Removed::of(id, "thread.message.deleted"))
}

/// Whether a client speaks of OpenAI's assistants. Jan does not, and means the assistant of a thread.
fn is_second_version(headers: &HeaderMap) -> bool {
    headers.get("openai-beta").is_some_and(|value| value.as_bytes().trim_ascii() == b"assistants=v2")
}

/// Lists assistants.
pub(crate) async fn assistants(State(app): State<App>, Asked(query): Asked<PageQuery>) -> Answer<Json<List<Value>>> {
    with(app, move |it| it.assistants.list(&query.page()?.0)).await.map(List::of)
}

/// Makes an assistant.
pub(crate) async fn create_assistant(State(app): State<App>, Sent(given): Sent) -> Answer<Json<Value>> {
    with(app, move |it| it.assistants.create(&given)).await.map(Json)
}

/// One assistant, or that of a thread.
pub(crate) async fn assistant(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer<Json<Value>> {
    let is_own = is_second_version(&headers);
    with(app, move |it| if is_own { it.assistants.get(&id) } else { it.assistants.of_thread(&id) }).await.map(Json)
}

/// Changes an assistant, or that of a thread.
pub(crate) async fn update_assistant(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Sent(given): Sent,
) -> Answer<Json<Value>> {
    let is_own = is_second_version(&headers);
    let changed =
        with(
            app,
            move |it| {
                if is_own { it.assistants.update(&id, &given) } else { it.assistants.update_in_thread(&id, &given) }
            },
        );
    changed.await.map(Json)
}

/// Gives a thread its assistant; with OpenAI's header, changes one.
pub(crate) async fn post_assistant(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Sent(given): Sent,
) -> Answer<Response> {
    if is_second_version(&headers) {
        return Ok(update_assistant(State(app), Path(id), headers, Sent(given)).await?.into_response());
    }
    let made = with(app, move |it| it.assistants.create_in_thread(&id, &given)).await?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Removes an assistant.
pub(crate) async fn remove_assistant(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<Removed>> {
    let assistant = id.clone();
    with(app, move |it| it.assistants.remove(&assistant)).await?;
    Ok(Removed::of(id, "assistant.deleted"))
}
