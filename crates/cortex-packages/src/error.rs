//! What can go wrong with a package.

use cortex_models::{ErrorKind, OutboundError};
use std::{io, path::PathBuf};

/// Why a package is not there.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The index of releases.
    #[error("Failed to fetch engine releases: {0}")]
    Index(String),
    /// The machine that has the index or an archive.
    #[error("Failed to fetch engine releases: {0}")]
    Outbound(#[from] OutboundError),
    /// No release has this name.
    #[error("No release found for {version}; {known}")]
    NoRelease {
        /// What was asked for.
        version: String,
        /// Those that there are.
        known: String,
    },
    /// A release is there, and has no archive for this.
    #[error("Failed to find a suitable variant for llama-cpp; {known}")]
    NoVariant {
        /// Those that there are.
        known: String,
    },
    /// A release of another cortex.
    #[error("{version} is for another cortex than this one, which is {ours}; update cortex to use it")]
    OtherCortex {
        /// Its version.
        version: String,
        /// Ours.
        ours: String,
    },
    /// The archive is not what it should be.
    #[error("the archive {name} cannot be used: {reason}")]
    Archive {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// What is in it does not work here.
    #[error("{variant} does not work on this machine: {reason}")]
    DoesNotWork {
        /// What was to be installed.
        variant: String,
        /// What happened when it was tried.
        reason: String,
    },
    /// A folder without archives.
    #[error("{} has no archive such as {example}", folder.display())]
    NoArchive {
        /// The folder.
        folder: PathBuf,
        /// What a name looks like.
        example: String,
    },
    /// Several archives, and no word which.
    #[error("{} has several archives: {names}; say which one with --variant", folder.display())]
    Several {
        /// The folder.
        folder: PathBuf,
        /// Their variants.
        names: String,
    },
    /// No such package is installed.
    #[error("Engine variant does not exist!")]
    NotInstalled,
    /// Somebody stopped it.
    #[error("the download was stopped")]
    Stopped,
    /// The disk.
    #[error("cannot {action}: {source}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The system's reason, with the path.
        source: io::Error,
    },
}

impl PackageError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk { .. } => ErrorKind::Unavailable,
            Self::Stopped => ErrorKind::Cancelled,
            _ => ErrorKind::Invalid,
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Outbound(error) => error.hint(),
            _ => None,
        }
    }

    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Index(_) | Self::Outbound(_) => "releases_unavailable",
            Self::NoRelease { .. } => "no_release",
            Self::NoVariant { .. } | Self::NotInstalled => "no_variant",
            Self::OtherCortex { .. } => "other_build",
            Self::Archive { .. } => "invalid_archive",
            Self::DoesNotWork { .. } => "does_not_work",
            Self::NoArchive { .. } | Self::Several { .. } => "no_archive",
            Self::Stopped => "cancelled",
            Self::Disk { .. } => "not_written",
        }
    }
}

/// The disk failed while this was done.
pub(crate) fn disk(action: &'static str) -> impl Fn(io::Error) -> PackageError {
    move |source| PackageError::Disk { action, source }
}
