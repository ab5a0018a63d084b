//! `/v1/files`: files that clients send for their conversations.

use super::{
    run::blocking,
    threads::{Answer, List, PageQuery, Removed, with},
};
use crate::{App, error::ApiError, json::Asked};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Multipart, Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cortex_models::ErrorKind;
use cortex_threads::{FileEntry, Upload};
use futures::stream;
use serde::Deserialize;
use std::{fs::File, io::Read};

/// Bytes of a file that is sent, as OpenAI limits it.
pub(crate) const LONGEST: usize = 512 << 20;
/// Bytes of a file that are read at a time.
const PIECE: usize = 256 << 10;
/// Bytes of a text beside the file.
const LONGEST_TEXT: usize = 1024;

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Invalid, "invalid_value", message)
}

/// Takes one file in.
pub(crate) async fn create(State(app): State<App>, request: Request) -> Answer<Json<FileEntry>> {
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| {
        let message = "the body must be a form with one file and its `purpose`, sent as `multipart/form-data`";
        ApiError::new(ErrorKind::Invalid, "unsupported_media_type", message)
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    })?;
    let (mut upload, mut purpose) = (None, None);
    while let Some(mut field) = form.next_field().await.map_err(unreadable)? {
        let name = field.name().unwrap_or_default().to_owned();
        let Some(filename) = field.file_name().map(str::to_owned) else {
            let text = text(&mut field).await?;
            if name == "purpose" {
                purpose = Some(text);
            }
            continue;
        };
        if upload.is_some() {
            return Err(invalid("Must only be one file"));
        }
        let mut receiving: Upload = with(app.clone(), move |it| it.files.begin(&filename)).await?;
        while let Some(piece) = field.chunk().await.map_err(unreadable)? {
            receiving = blocking(move || receiving.write(&piece).map(|()| receiving)).await??;
        }
        upload = Some(receiving);
    }
    let upload = upload.ok_or_else(|| invalid("Must only be one file"))?;
    with(app, move |it| it.files.finish(upload, purpose.as_deref())).await.map(Json)
}

/// A short text of a form.
async fn text(field: &mut axum::extract::multipart::Field<'_>) -> Answer<String> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(unreadable)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > LONGEST_TEXT {
            return Err(invalid("a text of the form is longer than 1024 bytes"));
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid("a text of the form is not UTF-8"))
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn unreadable(error: axum::extract::multipart::MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("the file is larger than {} MiB", LONGEST >> 20);
        return ApiError::new(ErrorKind::Invalid, "body_too_large", message).with_status(StatusCode::PAYLOAD_TOO_LARGE);
    }
    invalid(format!("the form cannot be read: {}", error.body_text()))
}

/// `?purpose=` of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct OfPurpose {
    purpose: Option<String>,
}

/// Lists files.
pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<PageQuery>,
    Asked(of): Asked<OfPurpose>,
) -> Answer<Json<List<FileEntry>>> {
    with(app, move |it| it.files.list(&query.page()?.0, of.purpose.as_deref())).await.map(List::of)
}

/// `?thread=`: the file belongs to a message of an older Jan.
#[derive(Debug, Deserialize)]
pub(crate) struct OfThread {
    thread: Option<String>,
}

impl OfThread {
    fn thread(self) -> Option<String> {
        self.thread.filter(|thread| !thread.is_empty())
    }
}

/// What is known of a file.
pub(crate) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
    Asked(of): Asked<OfThread>,
) -> Answer<Json<FileEntry>> {
    let entry = with(app, move |it| match of.thread() {
        Some(thread) => it.files.of_thread(&thread, &id).map(|(entry, _)| entry),
        None => it.files.get(&id),
    });
    entry.await.map(Json)
}

/// The content of a file.
pub(crate) async fn content(
    State(app): State<App>,
    Path(id): Path<String>,
    Asked(of): Asked<OfThread>,
) -> Answer<Response> {
    let opened = with(app, move |it| match of.thread() {
        Some(thread) => it.files.open_of_thread(&thread, &id),
        None => it.files.open(&id),
    });
    let (file, length) = opened.await?;
    let body = stream::try_unfold(file, |file| async {
        let read = tokio::task::spawn_blocking(move || read(file)).await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(read?.map(|(file, piece)| (piece, file)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        // A page that somebody sent must not run here as one.
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// The next piece; nothing at the end.
fn read(mut file: File) -> std::io::Result<Option<(File, Bytes)>> {
    let mut piece = vec![0; PIECE];
    let length = file.read(&mut piece)?;
    piece.truncate(length);
    Ok((length > 0).then(|| (file, Bytes::from(piece))))
}

/// Removes a file.
pub(crate) async fn remove(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<Removed>> {
    let asked = id.clone();
    with(app, move |it| it.files.remove(&asked)).await?;
    Ok(Removed::of(id, "file"))
}
