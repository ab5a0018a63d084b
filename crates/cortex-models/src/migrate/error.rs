//! Why a migration does not happen.

use crate::{ErrorKind, StoreError};
use std::{io, path::PathBuf};

/// Why there is no migration.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// It holds no models.
    #[error("there is no folder `models` in {}, and no model.json", path.display())]
    NoModels {
        /// Which.
        path: PathBuf,
    },
    /// A program that has no models here.
    #[error("{name} keeps no models on this machine; looked for in {}", places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotThere {
        /// Which program.
        name: String,
        /// Where they were looked for.
        places: Vec<PathBuf>,
    },
    /// A relative path means another folder to the daemon than to its client.
    #[error("the path `{}` is not absolute", path.display())]
    NotAbsolute {
        /// The path given.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such migration.
    #[error("there is no migration `{id}`")]
    Unknown {
        /// As it was given.
        id: String,
    },
    /// It was taken back already, or changed nothing.
    #[error("the migration `{id}` has nothing to take back")]
    NothingToUndo {
        /// Which.
        id: String,
    },
    /// An earlier one could not be ended, and cannot now.
    #[error("the migration `{id}` was not finished, and cannot be now: {source}")]
    Unfinished {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: Box<MigrateError>,
    },
    /// All of them were taken back.
    #[error("no migration is left to take back")]
    NoneLeft,
    /// A model of the list has no file that can be named.
    #[error("{0}")]
    Entry(String),
    /// What is done cannot be written down, so nothing is done.
    #[error("cannot write the journal of a migration: {0}")]
    Journal(#[source] io::Error),
    /// The list.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MigrateError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoModels { .. } | Self::NotAbsolute { .. } | Self::Unreadable { .. } | Self::Entry(_) => {
                ErrorKind::Invalid
            }
            Self::Unknown { .. } | Self::NotThere { .. } => ErrorKind::NotFound,
            Self::NothingToUndo { .. } | Self::NoneLeft => ErrorKind::Conflict,
            Self::Journal(_) => ErrorKind::Unavailable,
            Self::Unfinished { source, .. } => source.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoModels { .. } => {
                Some("give the data folder of the older program: the one in which `models` lies".into())
            }
            Self::NotAbsolute { .. } => Some(
                "give the whole path, from the root of the daemon's machine, or one of ollama, lmstudio, huggingface, gpt4all".into(),
            ),
            Self::NotThere { .. } => Some("give the folder itself".into()),
            Self::Unreadable { .. } => Some("look at its rights".into()),
            Self::Unknown { .. } | Self::NothingToUndo { .. } | Self::NoneLeft => {
                Some("`cortex migrate --list` shows the migrations".into())
            }
            Self::Journal(_) => Some("look for room on the disk and the rights of the data folder".into()),
            Self::Unfinished { id, .. } => {
                Some(format!("mend what is in its way and try again, or take it back with `cortex migrate --undo {id}`"))
            }
            Self::Entry(_) | Self::Store(_) => None,
        }
    }
}
