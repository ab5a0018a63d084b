//! The files of repositories: `resolve` on the hub, and the content host.

use super::{
    Shared,
    content::{StoredFile, sha1},
    lock,
    store::{Commit, Refusal},
    transfer,
};
use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{
    fmt::Write as _,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::sleep;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/{author}/{name}/resolve/{revision}/{*path}", get(resolve))
}

pub(super) fn content_routes() -> Router<Arc<Shared>> {
    Router::new().route("/{sha256}/{*name}", get(content))
}

/// Author, name, revision and path.
type Place = (String, String, String, String);

async fn resolve(
    State(shared): State<Arc<Shared>>,
    Path((author, name, revision, path)): Path<Place>,
    method: Method,
    uri: Uri,
    request: HeaderMap,
) -> Result<Response, Refusal> {
    let repo = shared.store().enter(&format!("{author}/{name}"), &request)?;
    let commit = repo.revision(&revision)?;
    let Some(file) = commit.files.get(&path) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "EntryNotFound", "Entry not found"));
    };
    let faults = shared.faults();
    let digest = if faults.wrong_digest { wrong(file.digest()) } else { file.digest().into() };
    let location = if faults.redirect_loop {
        Some(format!("{}{uri}", shared.url))
    } else if faults.redirect_to.is_some() {
        faults.redirect_to
    } else {
        file.is_large().then(|| link(&shared, file))
    };
    let mut response = match location {
        Some(location) => {
            let etag = [(header::ETAG, format!("\"{digest}\"")), (header::ACCEPT_RANGES, "bytes".into())];
            let to = [(header::LOCATION, location.clone())];
            (StatusCode::FOUND, etag, to, format!("Found. Redirecting to {location}")).into_response()
        }
        None => match (method != Method::HEAD).then(|| transfer::refusal(&shared)).flatten() {
            Some(refused) => refused,
            None => transfer::answer(&shared, file, &digest, &method, &request).await,
        },
    };
    describe(response.headers_mut(), &commit, file, &digest);
    Ok(response)
}

/// What the hub says about a file, whoever sends its content.
fn describe(headers: &mut HeaderMap, commit: &Commit, file: &StoredFile, digest: &str) {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    for (header, value) in [
        ("x-repo-commit", commit.sha.clone()),
        ("x-linked-size", file.size.to_string()),
        ("x-linked-etag", format!("\"{digest}\"")),
        ("content-disposition", format!("inline; filename*=UTF-8''{}", encoded(name))),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(header), value);
        }
    }
}

/// A link to the content host, another one each time.
fn link(shared: &Shared, file: &StoredFile) -> String {
    let mut links = lock(&shared.links);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let signature = sha1(format!("{} {} {}", file.sha256, links.len(), time.as_nanos()).as_bytes());
    let name = encoded(file.path.rsplit('/').next().unwrap_or_default());
    let link = format!(
        "{}/{}/{name}?response-content-disposition=inline%3B%20filename%2A%3DUTF-8%27%27{}\
         &Expires={}&Signature={signature}&Key-Pair-Id=FAKE",
        shared.content_url,
        file.sha256,
        encoded(&name),
        time.as_secs() + 3600,
    );
    links.insert(signature);
    link
}

async fn content(
    State(shared): State<Arc<Shared>>,
    Path((sha256, _)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    method: Method,
    request: HeaderMap,
) -> Response {
    sleep(shared.faults().answer_delay).await;
    if let Some(refused) = transfer::refusal(&shared) {
        return refused;
    }
    let signature = query.iter().find(|(key, _)| key == "Signature").map_or("", |(_, value)| value);
    let fresh = lock(&shared.links).remove(signature);
    if !fresh && shared.live().faults.expired_links {
        return transfer::forbidden();
    }
    let file = shared.store().large.get(&sha256).cloned();
    match file {
        Some(file) => transfer::answer(&shared, &file, &file.sha256, &method, &request).await,
        None => (StatusCode::NOT_FOUND, "Not found.\n").into_response(),
    }
}

/// Another digest of the same kind.
pub(super) fn wrong(digest: &str) -> String {
    let first = if digest.starts_with('0') { '1' } else { '0' };
    format!("{first}{}", digest.get(1..).unwrap_or_default())
}

/// Percent encoding of all that is not plain.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
