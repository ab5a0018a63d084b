//! Repositories, their branches and their commits.

use super::content::{StoredFile, sha1};
use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// All that the hub has.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) repos: BTreeMap<String, Arc<Repo>>,
    /// Files in LFS by their SHA-256.
    pub(super) large: HashMap<String, Arc<StoredFile>>,
    commits: u64,
}

/// A repository of a model.
#[derive(Clone, Debug)]
pub(super) struct Repo {
    /// `author/name`.
    pub(super) id: String,
    /// Branches, and the commit of each.
    pub(super) branches: BTreeMap<String, String>,
    commits: HashMap<String, Arc<Commit>>,
    pub(super) tags: BTreeSet<String>,
    /// Whoever has it may enter; `None` is everybody.
    pub(super) token: Option<String>,
    pub(super) downloads: u64,
    pub(super) likes: u64,
}

/// All files at one time.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) sha: String,
    pub(super) date: String,
    pub(super) files: BTreeMap<String, Arc<StoredFile>>,
}

impl Store {
    /// A repository as it is now.
    pub(super) fn repo(&self, id: &str) -> Option<Arc<Repo>> {
        self.repos.get(id).cloned()
    }

    /// Changes a repository, which is created when there is none.
    pub(super) fn change(&mut self, id: &str, change: impl FnOnce(&mut Repo)) {
        if !self.repos.contains_key(id) {
            let popular = sha1(id.as_bytes()).bytes().map(u64::from).sum();
            let repo = Repo {
                id: id.into(),
                branches: BTreeMap::new(),
                commits: HashMap::new(),
                tags: BTreeSet::new(),
                token: None,
                downloads: popular,
                likes: popular / 100,
            };
            self.repos.insert(id.into(), Arc::new(repo));
            self.commit(id, "main", BTreeMap::new());
        }
        if let Some(repo) = self.repos.get_mut(id) {
            change(Arc::make_mut(repo));
        }
    }

    /// Adds a file to a branch.
    pub(super) fn add_file(&mut self, id: &str, branch: &str, file: StoredFile) {
        self.change(id, |_| {});
        let file = Arc::new(file);
        if file.is_large() {
            self.large.insert(file.sha256.clone(), Arc::clone(&file));
        }
        let before = self.repo(id).and_then(|repo| repo.commit(branch));
        let mut files = before.map(|commit| commit.files.clone()).unwrap_or_default();
        files.insert(file.path.clone(), file);
        self.commit(id, branch, files);
    }

    /// Removes a file from a branch.
    pub(super) fn remove_file(&mut self, id: &str, branch: &str, path: &str) {
        let before = self.repo(id).and_then(|repo| repo.commit(branch));
        let mut files = before.map(|commit| commit.files.clone()).unwrap_or_default();
        files.remove(path);
        self.commit(id, branch, files);
    }

    fn commit(&mut self, id: &str, branch: &str, files: BTreeMap<String, Arc<StoredFile>>) {
        self.commits += 1;
        let count = self.commits;
        let date = format!("2025-01-01T{:02}:{:02}:{:02}.000Z", count / 3600 % 24, count / 60 % 60, count % 60);
        let sha = sha1(format!("{id} {branch} {count}").as_bytes());
        self.change(id, |repo| {
            repo.branches.insert(branch.into(), sha.clone());
            repo.commits.insert(sha.clone(), Arc::new(Commit { sha, date, files }));
        });
    }

    /// A repository, when whoever asks may see it.
    pub(super) fn enter(&self, id: &str, headers: &HeaderMap) -> Result<Arc<Repo>, Refusal> {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.strip_prefix("Bearer "));
        let Some(repo) = self.repo(id) else {
            // The hub does not tell strangers what is private and what does not exist.
            return Err(match sent {
                None => Refusal::new(StatusCode::UNAUTHORIZED, "RepoNotFound", "Invalid username or password."),
                Some(_) => Refusal::new(StatusCode::NOT_FOUND, "RepoNotFound", "Repository not found"),
            });
        };
        let restricted = format!("Access to model {id} is restricted");
        match (&repo.token, sent) {
            (Some(_), None) => {
                let message = format!(
                    "{restricted}. You must have access to it and be authenticated to access it. Please log in."
                );
                Err(Refusal::new(StatusCode::UNAUTHORIZED, "GatedRepo", message))
            }
            (Some(wanted), Some(sent)) if wanted != sent => {
                let message = format!("{restricted} and you are not in the authorized list.");
                Err(Refusal::new(StatusCode::FORBIDDEN, "GatedRepo", message))
            }
            _ => Ok(repo),
        }
    }
}

impl Repo {
    /// The commit of a branch, or the commit itself.
    pub(super) fn commit(&self, revision: &str) -> Option<Arc<Commit>> {
        let branch = revision.strip_prefix("refs/heads/").unwrap_or(revision);
        self.commits.get(self.branches.get(branch).map_or(revision, String::as_str)).cloned()
    }

    /// The commit of a revision that somebody named.
    pub(super) fn revision(&self, revision: &str) -> Result<Arc<Commit>, Refusal> {
        let message = || format!("Invalid rev id: {revision}");
        self.commit(revision).ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "RevisionNotFound", message()))
    }

    /// All tags: those that were added, and those that come from the files.
    pub(super) fn all_tags(&self) -> BTreeSet<&str> {
        let mut tags: BTreeSet<_> = self.tags.iter().map(String::as_str).collect();
        let at_branches = self.branches.values().filter_map(|sha| self.commits.get(sha));
        let mut paths = at_branches.flat_map(|commit| commit.files.keys());
        if paths.any(|path| path.to_lowercase().ends_with(".gguf")) {
            tags.insert("gguf");
        }
        tags
    }
}

/// Why somebody does not get something, as the hub says it.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-error-code"), HeaderValue::from_static(self.code));
        // A message may name what was asked for, which may have any character.
        if let Ok(message) = HeaderValue::from_str(&self.message) {
            headers.insert(HeaderName::from_static("x-error-message"), message);
        }
        (self.status, headers, Json(json!({ "error": self.message }))).into_response()
    }
}
