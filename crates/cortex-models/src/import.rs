//! Taking a model in by reference: the file stays where it is and is never written.

use crate::{ErrorKind, Gguf, GgufError, Model, ModelId, StoreError};
use std::{io, path::PathBuf, sync::Arc};

/// What to take in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The id that it gets.
    pub id: ModelId,
    /// The GGUF, absolute.
    pub path: PathBuf,
    /// The name to show; the file's own when absent.
    pub name: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The model.
    pub model: Arc<Model>,
    /// It was in the list with this file already; nothing was changed.
    pub already_there: bool,
}

/// Why a model was not taken in. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A relative path means another file to the daemon than to its client.
    #[error("the path `{}` is not absolute", path.display())]
    NotAbsolute {
        /// The path given.
        path: PathBuf,
    },
    /// There is no such file, or it cannot be reached. One message for both: a path tells nothing.
    #[error("`{}` is not a readable file", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
    },
    /// The file is no model that can be used.
    #[error("`{}` cannot be used: {source}", path.display())]
    BadFile {
        /// The path given.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// It is the vision part of a model, not a model.
    #[error("`{}` is the projector (mmproj) of a model, not a model", path.display())]
    Projector {
        /// The path given.
        path: PathBuf,
    },
    /// The id belongs to another file.
    #[error("model_id '{id}' already exists! It is {}, not {}", existing.display(), given.display())]
    AlreadyExists {
        /// The id.
        id: ModelId,
        /// The file it has.
        existing: PathBuf,
        /// The file given.
        given: PathBuf,
    },
    /// The list could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImportError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAbsolute { .. } | Self::NotAFile { .. } | Self::BadFile { .. } | Self::Projector { .. } => {
                ErrorKind::Invalid
            }
            Self::AlreadyExists { .. } => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAbsolute { .. } => Some("give the whole path, from the root of the daemon's machine".into()),
            Self::NotAFile { .. } => Some(
                "check the path, and that the daemon's user may read the file; folders and devices are no models"
                    .into(),
            ),
            Self::BadFile { .. } => Some("download or copy the file again".into()),
            Self::Projector { .. } => Some("import the file of the language model".into()),
            Self::AlreadyExists { .. } => Some("choose another id".into()),
            Self::Store(_) => None,
        }
    }
}

/// The canonical path of a file that can be imported; changes nothing.
pub(crate) fn check(request: &Import) -> Result<PathBuf, ImportError> {
    let path = &request.path;
    if !path.is_absolute() {
        return Err(ImportError::NotAbsolute { path: path.clone() });
    }
    let not_a_file = |_: io::Error| ImportError::NotAFile { path: path.clone() };
    let canonical = fs_err::canonicalize(path).map_err(not_a_file)?;
    // Opening a pipe would wait for ever, a device could do anything: only regular files are opened.
    if !fs_err::metadata(&canonical).map_err(not_a_file)?.is_file() {
        return Err(ImportError::NotAFile { path: path.clone() });
    }
    let gguf = Gguf::open(&canonical).map_err(|source| match source {
        GgufError::Io { .. } => ImportError::NotAFile { path: path.clone() },
        source => ImportError::BadFile { path: path.clone(), source },
    })?;
    if gguf.architecture() == "clip" {
        return Err(ImportError::Projector { path: path.clone() });
    }
    Ok(canonical)
}
