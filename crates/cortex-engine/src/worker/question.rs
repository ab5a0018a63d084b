//! A question that a process of its own answers, because whatever knows the answer may crash or hang.

use super::process::exit_reason;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// A question to the worker program.
pub(crate) struct Question<'program> {
    pub(crate) program: &'program Path,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) limit: Duration,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    pub(crate) reason: String,
    /// It only took too long.
    pub(crate) is_late: bool,
}

impl Question<'_> {
    /// What the program prints.
    pub(crate) async fn ask<Answer: serde::de::DeserializeOwned>(self) -> Result<Answer, Unanswered> {
        let failed = |reason: String| Unanswered { reason, is_late: false };
        let child = tokio::process::Command::new(self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(self.limit, child)
            .await
            .map_err(|_| Unanswered { reason: format!("no result within {} s", self.limit.as_secs()), is_late: true })?
            .map_err(|why| failed(why.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().rev().find_map(|line| line.strip_prefix("cortex-llamacpp: "));
            return Err(failed(match said {
                Some(said) if output.status.code().is_some() => said.to_owned(),
                _ => format!("died of {}", exit_reason(output.status)),
            }));
        }
        serde_json::from_slice(&output.stdout).map_err(|why| failed(format!("no result: {why}")))
    }
}

/// A file of one process, in a folder whose content may be deleted, for as long as a question takes.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        // The question says what is wrong when the folder cannot be made.
        let _ = fs_err::create_dir_all(folder);
        Self(folder.join(format!("{name}-{}.gguf", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// Removes what questions left behind whose daemon was killed. Only one daemon uses the folder.
pub(crate) fn clear_scratch(folder: &Path) {
    let Ok(entries) = fs_err::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_scratch =
            |name: &str| SCRATCH.iter().any(|kind| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-')));
        let is_gguf = path.extension().is_some_and(|ending| ending == "gguf");
        if is_gguf && path.file_name().and_then(|name| name.to_str()).is_some_and(is_scratch) {
            let _ = fs_err::remove_file(&path);
        }
    }
}

/// The names of scratch files.
const SCRATCH: [&str; 3] = ["trial", "proof", "speed"];

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs_err::remove_file(&self.0);
    }
}
