//! `/api/models` and what is below it.

use super::{
    Shared,
    content::{StoredFile, sha1},
    resolve::wrong,
    store::{Commit, Refusal, Repo},
};
use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

/// Parameters of a query, in order; some are repeated.
type Parameters = Query<Vec<(String, String)>>;
/// Author and name.
type Id = Path<(String, String)>;

pub(super) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/models", get(list))
        .route("/api/models/{author}/{name}", get(newest))
        .route("/api/models/{author}/{name}/revision/{revision}", get(at_revision))
        .route("/api/models/{author}/{name}/tree/{revision}", get(tree))
        .route("/api/models/{author}/{name}/tree/{revision}/{*folder}", get(subtree))
        .route("/api/models/{author}/{name}/refs", get(refs))
        .route_layer(middleware::from_fn_with_state(Arc::clone(shared), fail))
}

/// Answers in the place of the API, when a fault says so.
async fn fail(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let answer = shared.faults().api_answer();
    match answer {
        Some(answer) => answer,
        None => next.run(request).await,
    }
}

async fn newest(
    State(shared): State<Arc<Shared>>,
    Path((author, name)): Id,
    Query(query): Parameters,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let repo = shared.store().enter(&format!("{author}/{name}"), &headers)?;
    let commit = repo.revision("main")?;
    Ok(Json(model(&shared, &repo, &commit, &query)))
}

async fn at_revision(
    State(shared): State<Arc<Shared>>,
    Path((author, name, revision)): Path<(String, String, String)>,
    Query(query): Parameters,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let repo = shared.store().enter(&format!("{author}/{name}"), &headers)?;
    let commit = repo.revision(&revision)?;
    Ok(Json(model(&shared, &repo, &commit, &query)))
}

async fn refs(State(shared): State<Arc<Shared>>, Path((author, name)): Id, headers: HeaderMap) -> Response {
    let repo = match shared.store().enter(&format!("{author}/{name}"), &headers) {
        Ok(repo) => repo,
        Err(refusal) => return refusal.into_response(),
    };
    let branch = |(name, commit): (&String, &String)| json!({ "name": name, "ref": format!("refs/heads/{name}"), "targetCommit": commit });
    let branches: Vec<_> = repo.branches.iter().map(branch).collect();
    Json(json!({ "tags": [], "branches": branches, "converts": [] })).into_response()
}

async fn list(State(shared): State<Arc<Shared>>, Query(query): Parameters, uri: Uri) -> Response {
    let search = value(&query, "search").unwrap_or_default().to_lowercase();
    let author = value(&query, "author");
    let filters: Vec<_> = query
        .iter()
        .filter(|(key, _)| key == "filter")
        .flat_map(|(_, tags)| tags.split(','))
        .filter(|tag| !tag.is_empty())
        .collect();
    let mut found: Vec<_> = shared.store().repos.values().cloned().collect();
    found.retain(|repo| {
        let tags = repo.all_tags();
        repo.id.to_lowercase().contains(&search)
            && author.is_none_or(|author| repo.id.split('/').next() == Some(author))
            && filters.iter().all(|filter| tags.contains(filter))
    });
    let date = |repo: &Arc<Repo>| repo.commit("main").map(|commit| commit.date.clone());
    match value(&query, "sort").unwrap_or("downloads") {
        "likes" => found.sort_by_key(|repo| Reverse(repo.likes)),
        "lastModified" | "last_modified" | "createdAt" | "created_at" => {
            found.sort_by_key(|repo| Reverse(date(repo)));
        }
        _ => found.sort_by_key(|repo| Reverse(repo.downloads)),
    }
    let full = is_true(&query, "full");
    let entries = found.iter().filter_map(|repo| {
        let commit = repo.commit("main")?;
        let mut entry = heading(repo, &commit);
        if full {
            entry["sha"] = commit.sha.as_str().into();
            let siblings: Vec<_> = commit.files.keys().map(|path| json!({ "rfilename": path })).collect();
            entry["siblings"] = siblings.into();
        }
        Some(entry)
    });
    page(&shared, &query, &uri, entries.collect())
}

async fn tree(
    state: State<Arc<Shared>>,
    Path((author, name, revision)): Path<(String, String, String)>,
    query: Parameters,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    subtree(state, Path((author, name, revision, String::new())), query, uri, headers).await
}

async fn subtree(
    State(shared): State<Arc<Shared>>,
    Path((author, name, revision, folder)): Path<(String, String, String, String)>,
    Query(query): Parameters,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let repo = shared.store().enter(&format!("{author}/{name}"), &headers);
    let commit = match repo.and_then(|repo| repo.revision(&revision)) {
        Ok(commit) => commit,
        Err(refusal) => return refusal.into_response(),
    };
    let folder = folder.trim_end_matches('/');
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let recursive = is_true(&query, "recursive");
    // By path, so that folders are where the hub has them.
    let mut entries = BTreeMap::new();
    for (path, file) in &commit.files {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        for (place, _) in rest.match_indices('/') {
            let path = format!("{prefix}{}", &rest[..place]);
            let oid = sha1(format!("{} {path}", commit.sha).as_bytes());
            let entry = json!({ "type": "directory", "oid": oid, "size": 0, "path": path });
            entries.entry(path).or_insert(entry);
            if !recursive {
                break;
            }
        }
        if recursive || !rest.contains('/') {
            entries.insert(path.clone(), leaf(&shared, file));
        }
    }
    if entries.is_empty() && !folder.is_empty() {
        let message = format!("{folder} does not exist on \"{revision}\"");
        return Refusal::new(StatusCode::NOT_FOUND, "EntryNotFound", message).into_response();
    }
    let mut entries: Vec<_> = entries.into_values().collect();
    if is_true(&query, "expand") {
        for entry in &mut entries {
            entry["lastCommit"] = json!({ "id": commit.sha, "title": "Upload files", "date": commit.date });
        }
    }
    page(&shared, &query, &uri, entries)
}

/// What a list says about a repository, and the start of what its own page says.
fn heading(repo: &Repo, commit: &Commit) -> Value {
    let tags = repo.all_tags();
    json!({
        "_id": &sha1(repo.id.as_bytes())[..24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split('/').next(),
        "lastModified": commit.date,
        "createdAt": "2025-01-01T00:00:00.000Z",
        "private": false,
        "gated": if repo.token.is_some() { Value::from("auto") } else { Value::from(false) },
        "disabled": false,
        "downloads": repo.downloads,
        "likes": repo.likes,
        "tags": tags,
        "library_name": if tags.contains("gguf") { "gguf" } else { "transformers" },
    })
}

fn model(shared: &Shared, repo: &Repo, commit: &Commit, query: &[(String, String)]) -> Value {
    let mut model = heading(repo, commit);
    let sibling = |file: &Arc<StoredFile>| {
        let mut sibling = json!({ "rfilename": file.path });
        if is_true(query, "blobs") {
            let (size, oid, sha256) = told(shared, file);
            sibling["blobId"] = oid.into();
            sibling["size"] = size.into();
            if let Some(pointer_size) = file.pointer_size {
                sibling["lfs"] = json!({ "sha256": sha256, "size": size, "pointerSize": pointer_size });
            }
        }
        sibling
    };
    model["sha"] = commit.sha.as_str().into();
    model["cardData"] = json!({});
    model["siblings"] = commit.files.values().map(sibling).collect();
    model["usedStorage"] = commit.files.values().map(|file| file.size).sum::<u64>().into();
    if let Some(file) = commit.files.values().find(|file| file.path.to_lowercase().ends_with(".gguf")) {
        model["gguf"] = json!({ "total": file.size, "architecture": "llama", "context_length": 4096 });
    }
    model
}

/// A file in a tree.
fn leaf(shared: &Shared, file: &StoredFile) -> Value {
    let (size, oid, sha256) = told(shared, file);
    let mut leaf = json!({ "type": "file", "oid": oid, "size": size, "path": file.path });
    if let Some(pointer_size) = file.pointer_size {
        leaf["lfs"] = json!({ "oid": sha256, "size": size, "pointerSize": pointer_size });
    }
    leaf
}

/// The size and the two digests of a file as the API names them, which need not be true.
fn told(shared: &Shared, file: &StoredFile) -> (u64, String, String) {
    let faults = shared.faults();
    let size = file.size + u64::from(faults.wrong_size);
    if faults.wrong_digest {
        (size, wrong(&file.oid), wrong(&file.sha256))
    } else {
        (size, file.oid.clone(), file.sha256.clone())
    }
}

/// One page of a list, with the link to the next one.
fn page(shared: &Shared, query: &[(String, String)], uri: &Uri, entries: Vec<Value>) -> Response {
    let number = |key| value(query, key).and_then(|text| text.parse::<usize>().ok());
    let start = number("cursor").unwrap_or(0);
    let end = start.saturating_add(number("limit").unwrap_or(1000).clamp(1, 1000));
    let mut headers = HeaderMap::new();
    if end < entries.len() {
        let kept = uri.query().unwrap_or_default().split('&').filter(|part| !part.starts_with("cursor="));
        let kept: Vec<_> = kept.filter(|part| !part.is_empty()).map(|part| format!("{part}&")).collect();
        let next = format!("<{}{}?{}cursor={end}>; rel=\"next\"", shared.url, uri.path(), kept.concat());
        if let Ok(next) = HeaderValue::from_str(&next) {
            headers.insert(header::LINK, next);
        }
    }
    let entries: Vec<_> = entries.into_iter().skip(start).take(end - start).collect();
    (headers, Json(entries)).into_response()
}

fn value<'query>(query: &'query [(String, String)], wanted: &str) -> Option<&'query str> {
    query.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
}

/// Whether a parameter is set. Some clients of Python write `True`.
fn is_true(query: &[(String, String)], key: &str) -> bool {
    value(query, key).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
}
