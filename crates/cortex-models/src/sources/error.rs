//! Why a model source cannot be added, removed or shown.

use crate::{ErrorKind, RepositoryError, SourceError};
use std::{io, path::PathBuf};

/// Why not. The words are those of cortex.cpp where it has some.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// It is no repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// None of its files is a model.
    #[error("{0}")]
    NotUsable(#[source] Box<SourceError>),
    /// The hub said nothing of it.
    #[error("Failed to get model repository info: {repository}: {source}")]
    Hub {
        /// `author/name`.
        repository: String,
        /// Why.
        source: Box<SourceError>,
    },
    /// The hub cannot be asked.
    #[error("the hub cannot be asked: {0}")]
    Unanswered(#[source] Box<SourceError>),
    /// It took longer than a client waits.
    #[error("the hub took too long to answer")]
    Slow,
    /// There is no such source.
    #[error("Model source does not exist: {0}")]
    Unknown(String),
    /// There are so many already.
    #[error("there are {0} model sources, which is the most that there can be")]
    TooMany(usize),
    /// The file that says which there are is damaged.
    #[error("{} cannot be read: {reason}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The disk.
    #[error("cannot write the list of model sources: {0}")]
    Disk(#[source] io::Error),
}

impl SourcesError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Repository(_) | Self::NotUsable(_) | Self::TooMany(_) => ErrorKind::Invalid,
            Self::Hub { source, .. } | Self::Unanswered(source) => source.kind(),
            Self::Slow | Self::Unreadable { .. } | Self::Disk(_) => ErrorKind::Unavailable,
            Self::Unknown(_) => ErrorKind::NotFound,
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Repository(_) => Some("a model source is `https://huggingface.co/AUTHOR/REPO`".into()),
            Self::NotUsable(source) | Self::Hub { source, .. } | Self::Unanswered(source) => source.hint(),
            Self::Slow => Some("look whether this machine is online, and try again".into()),
            Self::Unknown(_) => Some("`cortex models sources list` shows those that there are".into()),
            Self::TooMany(_) => Some("remove one first".into()),
            Self::Unreadable { .. } => Some("mend it, or remove it and add the sources again".into()),
            Self::Disk(_) => None,
        }
    }
}
