//! `deleted.jsonl`: which models a person deleted, so that nothing brings them back by itself. One line of
//! JSON for each deletion, and one for each that was taken back.

use crate::{ModelId, files::Files};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, io, path::Path};

#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    /// What the list pointed to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    path: String,
    /// Unix seconds.
    at: i64,
    /// It is there again because somebody asked for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    forgotten: bool,
}

/// Remembers a deletion.
pub(crate) fn remember(files: &Files, log: &Path, id: &ModelId, path: &str) -> io::Result<()> {
    append(files, log, &Line { id: id.to_string(), path: path.into(), at: now(), forgotten: false })
}

/// Takes deletions back, where there were any.
pub(crate) fn forget(files: &Files, log: &Path, ids: &[ModelId]) -> io::Result<()> {
    let deleted = read(log)?;
    for id in ids.iter().filter(|id| deleted.contains_key(id)) {
        append(files, log, &Line { id: id.to_string(), path: String::new(), at: now(), forgotten: true })?;
    }
    Ok(())
}

/// The deleted models and what the list pointed to. Lines that make no sense are passed over.
pub(crate) fn read(log: &Path) -> io::Result<HashMap<ModelId, String>> {
    let text = match fs_err::read_to_string(log) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error),
    };
    let mut deleted = HashMap::new();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
        if line.forgotten {
            deleted.remove(&ModelId::existing(line.id));
        } else {
            deleted.insert(ModelId::existing(line.id), line.path);
        }
    }
    Ok(deleted)
}

fn append(files: &Files, log: &Path, line: &Line) -> io::Result<()> {
    files.append_line(log, &serde_json::to_string(line).map_err(io::Error::other)?)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_is_remembered_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let (files, log) = (Files::default(), folder.path().join("state/deleted.jsonl"));
        let (one, two) = (ModelId::existing("a \"1\""), ModelId::existing("b"));
        forget(&files, &log, std::slice::from_ref(&one)).unwrap();
        assert!(!log.exists());
        remember(&files, &log, &one, "/m/a.gguf").unwrap();
        fs_err::OpenOptions::new()
            .append(true)
            .open(&log)
            .map(|mut file| std::io::Write::write_all(&mut file, b"{nonsense\n"))
            .unwrap()
            .unwrap();
        remember(&files, &log, &two, "").unwrap();
        assert_eq!(read(&log).unwrap().get(&one).map(String::as_str), Some("/m/a.gguf"));
        forget(&files, &log, std::slice::from_ref(&one)).unwrap();
        let left = read(&log).unwrap();
        assert_eq!((left.len(), left.contains_key(&two)), (1, true));
    }
}
