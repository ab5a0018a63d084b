//! Why the store cannot do something.

use crate::{ErrorKind, ModelId};
use std::{io, path::PathBuf};

/// Why the list could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the data folder could not be used.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's reason, with the path.
        source: io::Error,
    },
}

impl StoreError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Internal
    }
}

/// Why a name means no model.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No id and no alias is like this.
    #[error("the model `{name}` is not known")]
    Unknown {
        /// The name given.
        name: String,
        /// An id that looks like it.
        similar: Option<ModelId>,
    },
    /// The list could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResolveError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { similar: Some(id), .. } => Some(format!("did you mean `{id}`?")),
            Self::Unknown { .. } => Some("`cortex list` shows the models, `cortex import FILE.gguf` adds one".into()),
            Self::Store(_) => None,
        }
    }
}

/// Why nothing can be said about a model.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// Its file is not there.
    #[error("the file {} of the model `{id}` is missing", path.display())]
    Missing {
        /// The model.
        id: ModelId,
        /// Where the file should be.
        path: PathBuf,
    },
    /// Its weights are damaged.
    #[error("the model `{id}` is broken: {reason}")]
    Broken {
        /// The model.
        id: ModelId,
        /// What is wrong.
        reason: String,
    },
    /// Its yaml names no weights.
    #[error("{} names no weights for the model `{id}`", path.display())]
    NoWeights {
        /// The model.
        id: ModelId,
        /// Its yaml.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DescribeError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::Broken { .. } | Self::NoWeights { .. } => ErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some("put the file back, or mount its drive; the entry is kept until then".into()),
            Self::Broken { .. } => Some("download or copy the file again".into()),
            Self::NoWeights { .. } => Some("add its path under `files:`".into()),
            Self::Store(_) => None,
        }
    }
}
