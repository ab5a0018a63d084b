//! The remote engines and those of their models that are known here, in one file of its owner's.

use crate::{RemoteEngine, RemoteError};
use cortex_models::write_atomically;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    io,
    path::{Path, PathBuf},
};

/// A model that is on another machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemoteModel {
    /// Its id here.
    pub id: String,
    /// Its name there.
    pub model: String,
    /// Where it is.
    pub engine: String,
    /// What requests say that say nothing else.
    #[serde(default)]
    pub inference_params: Map<String, Value>,
    /// `version`, `created`, `owned_by` and whatever else was said of it.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl RemoteModel {
    /// As clients see it.
    pub fn shown(&self) -> Value {
        let of = |name: &str, default: Value| self.other.get(name).cloned().unwrap_or(default);
        let mut shown: Map<String, Value> = [
            ("id", Value::from(self.id.as_str())),
            ("model", self.model.as_str().into()),
            ("name", of("name", self.id.as_str().into())),
            ("object", "model".into()),
            ("engine", self.engine.as_str().into()),
            ("status", "remote".into()),
            ("version", of("version", "".into())),
            ("created", of("created", 0.into())),
            ("owned_by", of("owned_by", "".into())),
            ("inference_params", self.inference_params.clone().into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        for (name, value) in &self.other {
            shown.entry(name.clone()).or_insert_with(|| value.clone());
        }
        shown.into()
    }
}

/// Everything that the file holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Known {
    #[serde(default)]
    pub(crate) engines: Vec<RemoteEngine>,
    #[serde(default)]
    pub(crate) models: Vec<RemoteModel>,
    #[serde(default)]
    pub(crate) next_id: u64,
    /// Of newer versions.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// The file.
pub(crate) struct Store(PathBuf);

impl Store {
    pub(crate) fn new(data_folder: &Path) -> Self {
        Self(data_folder.join("state/remote.json"))
    }

    /// Whether something was kept here before.
    pub(crate) fn exists(&self) -> bool {
        fs_err::symlink_metadata(&self.0).is_ok()
    }

    /// What it holds; nothing when it is not there. One that is damaged is left alone, and is an error.
    pub(crate) fn read(&self) -> Result<Known, RemoteError> {
        let failed = |reason: String| RemoteError::Disk { action: "read", reason };
        match fs_err::read(&self.0) {
            Ok(bytes) => {
                // What is wrong may be beside a key: only where it is.
                serde_json::from_slice(&bytes)
                    .map_err(|why| failed(format!("{} is damaged in line {}", self.0.display(), why.line())))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Known::default()),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Writes it, for its owner only.
    pub(crate) fn write(&self, known: &Known) -> Result<(), RemoteError> {
        let failed = |reason: String| RemoteError::Disk { action: "written", reason };
        let text = serde_json::to_vec_pretty(known).map_err(|why| failed(why.to_string()))?;
        write_atomically(&self.0, &text).map_err(|error| failed(error.to_string()))
    }
}
