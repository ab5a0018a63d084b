//! Copies of what the hub said, with the time at which it said so.

use crate::files::Files;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Seconds after which the hub is asked again.
pub(crate) const FRESH: i64 = 600;
/// Answers to questions that are kept.
const KEPT: usize = 64;

/// What the hub said, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubAnswer<T> {
    /// Unix seconds.
    pub fetched: i64,
    /// What it said.
    pub answer: T,
    /// It is an old one, because the hub cannot be asked now: this is why.
    #[serde(skip)]
    pub stale: Option<String>,
}

impl<T> HubAnswer<T> {
    pub(crate) fn new(answer: T) -> Self {
        Self { fetched: now(), answer, stale: None }
    }

    /// A clock that was set back makes nothing fresh for ever.
    pub(crate) fn is_fresh(&self) -> bool {
        (0..FRESH).contains(&(now() - self.fetched))
    }
}

pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// What a copy says; `None` when there is none, or it is damaged: then the hub is asked again.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<HubAnswer<T>> {
    serde_json::from_slice(&fs_err::read(path).ok()?).ok()
}

/// Keeps a copy. One that cannot be kept costs a question more.
pub(crate) fn write<T: Serialize>(files: &Files, path: &Path, answer: &HubAnswer<T>) {
    let written = serde_json::to_vec(answer)
        .map_err(std::io::Error::other)
        .and_then(|text| files.replace_disposable(path, &text));
    if let Err(error) = written {
        tracing::warn!(%error, "an answer of the hub is not kept");
    }
}

/// Where the answer to a question is kept.
pub(crate) fn place(folder: &Path, question: &str) -> PathBuf {
    let digest = Sha256::digest(question.as_bytes());
    folder.join(format!("{}.json", crate::pull::hex(&digest[..16])))
}

/// Removes the oldest answers where there are many.
pub(crate) fn prune(files: &Files, folder: &Path) {
    let entries = fs_err::read_dir(folder).map_or_else(|_| vec![], |entries| entries.flatten().collect());
    let mut aged: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .filter(|(_, path)| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    aged.sort();
    for (_, path) in aged.iter().rev().skip(KEPT) {
        let _ = files.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_fresh_for_a_while_and_never_from_the_future() {
        let at = |fetched| HubAnswer { fetched, answer: (), stale: None }.is_fresh();
        let now = now();
        assert!(at(now) && at(now - FRESH + 5));
        assert!(!at(now - FRESH) && !at(now + 60));
    }

    #[test]
    fn old_answers_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::default();
        for question in 0..KEPT + 3 {
            let path = place(folder.path(), &question.to_string());
            write(&files, &path, &HubAnswer::new(question));
            let age = std::time::UNIX_EPOCH + std::time::Duration::from_secs(question as u64);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(age).unwrap();
        }
        prune(&files, folder.path());
        let kept = |question: usize| read::<usize>(&place(folder.path(), &question.to_string())).is_some();
        assert!(!kept(0) && !kept(2) && kept(3) && kept(KEPT + 2));
        fs_err::write(place(folder.path(), "3"), "{torn").unwrap();
        assert!(!kept(3));
    }
}
