//! What a migration has done, so that it is ended after a crash and can be undone. Lines of JSON in
//! `state/migrations/`, appended only; the first one is the plan. A line that was torn says nothing.

use super::plan::Plan;
use crate::{ModelId, files::Files};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The version of the format.
const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// What is done.
    Plan {
        /// Of the format.
        version: u32,
        /// Unix seconds.
        at: i64,
        /// The folder that is migrated; `None` for a list that a client gave.
        from: Option<PathBuf>,
        /// The data folder of the older program, on the way back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<PathBuf>,
        /// There was no list of models before it.
        made_the_list: bool,
        /// What.
        plan: Box<Plan>,
    },
    /// A file that could not be written, and why.
    NotWritten {
        /// Whose.
        id: ModelId,
        /// Why.
        why: String,
    },
    /// All of it is done. Unix seconds.
    Done(i64),
    /// It is being taken back. Unix seconds.
    Undoing(i64),
    /// And taken back. Unix seconds.
    Undone(i64),
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Journal {
    /// Its name, which is that of its file.
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) at: i64,
    pub(crate) from: Option<PathBuf>,
    pub(crate) to: Option<PathBuf>,
    pub(crate) made_the_list: bool,
    pub(crate) plan: Plan,
    /// Files that could not be written, and why.
    pub(crate) not_written: Vec<(ModelId, String)>,
    pub(crate) state: State,
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It was begun.
    Begun,
    /// All of it is done.
    Done,
    /// It is being taken back.
    Undoing,
    /// It was taken back.
    Undone,
}

/// Writes the first line of a new journal, and waits for the disk.
pub(crate) fn begin(files: &Files, folder: &Path, journal: &Journal) -> io::Result<()> {
    let line = Line::Plan {
        version: VERSION,
        at: journal.at,
        from: journal.from.clone(),
        to: journal.to.clone(),
        made_the_list: journal.made_the_list,
        plan: Box::new(journal.plan.clone()),
    };
    let text = format!("{}\n", serde_json::to_string(&line).map_err(io::Error::other)?);
    files.replace(&place(folder, &journal.id), text.as_bytes()).map(|_| ())
}

/// Notes that a migration is done, or undone.
pub(crate) fn note(files: &Files, folder: &Path, id: &str, state: State) -> io::Result<()> {
    let now = jiff::Timestamp::now().as_second();
    let line = match state {
        State::Begun => return Ok(()),
        State::Done => Line::Done(now),
        State::Undoing => Line::Undoing(now),
        State::Undone => Line::Undone(now),
    };
    files.append_line(&place(folder, id), &serde_json::to_string(&line).map_err(io::Error::other)?)
}

/// Notes that a file could not be written.
pub(crate) fn note_not_written(files: &Files, folder: &Path, id: &str, of: &(ModelId, String)) -> io::Result<()> {
    let line = Line::NotWritten { id: of.0.clone(), why: of.1.clone() };
    files.append_line(&place(folder, id), &serde_json::to_string(&line).map_err(io::Error::other)?)
}

/// The journals of a folder, the oldest first. What makes no sense is left alone.
pub(crate) fn read_all(folder: &Path) -> Vec<Journal> {
    let Ok(entries) = fs_err::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    // By name without the ending: the second of one second comes after the first.
    paths.sort_by_key(|path| path.file_stem().map(std::ffi::OsStr::to_owned));
    paths.iter().filter_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Option<Journal> {
    let text = String::from_utf8_lossy(&fs_err::read(path).ok()?).into_owned();
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let Some(Line::Plan { version: VERSION, at, from, to, made_the_list, plan }) = lines.next() else {
        tracing::warn!(path = %path.display(), "a journal of a migration makes no sense; it is left alone");
        return None;
    };
    let id = path.file_stem()?.to_string_lossy().into_owned();
    let mut journal =
        Journal { id, at, from, to, made_the_list, plan: *plan, not_written: vec![], state: State::Begun };
    for line in lines {
        match line {
            Line::NotWritten { id, why } => journal.not_written.push((id, why)),
            Line::Done(_) => journal.state = State::Done,
            Line::Undoing(_) => journal.state = State::Undoing,
            Line::Undone(_) => journal.state = State::Undone,
            Line::Plan { .. } => {}
        }
    }
    Some(journal)
}

fn place(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.jsonl"))
}

/// A name for a migration that begins now: the time, so that they are in order, and a number.
pub(crate) fn new_id(folder: &Path, now: jiff::Timestamp) -> String {
    let time = now.strftime("%Y%m%d-%H%M%S").to_string();
    let numbered = (2u32..).map(|number| format!("{time}-{number:04}"));
    let free = |id: &String| !place(folder, id).exists();
    std::iter::once(time.clone()).chain(numbered).find(free).unwrap_or(time)
}
