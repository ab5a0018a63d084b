//! Why a pull was refused or failed.

use super::download::DownloadError;
use crate::{ErrorKind, ImportError, ModelId, OutboundError, SourceError, StoreError, downloads::TakeInError};
use std::{io, path::PathBuf};

/// Why a model is not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// What was asked for cannot be found.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source did not say in time what there is.
    #[error("the source of the model did not answer in time")]
    Slow,
    /// It is there already.
    #[error("Please delete the model before downloading again")]
    AlreadyThere {
        /// Its id.
        id: ModelId,
        /// The source has another revision by now.
        is_older: bool,
        /// It is of another branch than the one that was asked for: that one, and this one.
        other_branch: Option<(String, String)>,
    },
    /// The id is another model's.
    #[error("the id `{id}` belongs to another model, {}", path.display())]
    Taken {
        /// The id.
        id: ModelId,
        /// That one's file.
        path: PathBuf,
    },
    /// Something else is being pulled under this id.
    #[error("another model is being pulled as `{id}`")]
    Busy {
        /// The id.
        id: ModelId,
    },
    /// It ended already.
    #[error("the download `{id}` does not run: it is {state}")]
    NotRunning {
        /// The id.
        id: ModelId,
        /// How it ended.
        state: &'static str,
    },
    /// There is no such pull.
    #[error("Task not found")]
    Unknown {
        /// The id given.
        id: String,
    },
    /// The transfer.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// What came is not what was promised.
    #[error("{file} is not what the hub promises: its SHA-256 is {computed}, it should be {promised}")]
    WrongDigest {
        /// Which file.
        file: String,
        /// What came.
        computed: String,
        /// What should have come.
        promised: String,
    },
    /// What came cannot be used.
    #[error(transparent)]
    TakeIn(#[from] TakeInError),
    /// A file of this machine.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The disk.
    #[error("cannot {action}: {source}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The system's reason, with the path.
        source: io::Error,
    },
    /// The list.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PullError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(error) => error.kind(),
            Self::AlreadyThere { .. } | Self::Taken { .. } | Self::Busy { .. } | Self::NotRunning { .. } => {
                ErrorKind::Conflict
            }
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Download(DownloadError::Outbound(error)) => error.kind(),
            Self::Slow | Self::Disk { .. } | Self::Download(_) | Self::WrongDigest { .. } => ErrorKind::Unavailable,
            Self::TakeIn(error) => error.kind(),
            Self::Import(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    /// Whether it is that the disk is full: then it passes when there is room.
    pub(crate) fn is_full_disk(&self) -> bool {
        match self {
            Self::Disk { source, .. }
            | Self::Download(DownloadError::Disk(source))
            | Self::TakeIn(TakeInError::Disk { source, .. } | TakeInError::Store(StoreError::Io { source, .. })) => {
                super::disk::is_full(source)
            }
            _ => false,
        }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Source(SourceError::Reference(_)) => "invalid_model",
            Self::Source(SourceError::Id(_)) => "invalid_id",
            Self::Source(SourceError::Gated { .. }) => "gated",
            Self::Source(SourceError::NoRepository { .. }) => "model_not_found",
            Self::Source(SourceError::NoRevision { .. } | SourceError::NoDefault { .. }) => "revision_not_found",
            Self::Source(
                SourceError::NotGguf { .. } | SourceError::NoModel { .. } | SourceError::PartsMissing { .. },
            ) => "not_gguf",
            Self::Source(SourceError::NoFile { .. } | SourceError::Several { .. }) => "no_such_file",
            Self::Source(SourceError::NothingFits { .. }) => "does_not_fit",
            Self::Source(SourceError::NoLength { .. } | SourceError::NoSizes { .. }) => "no_length",
            Self::Source(SourceError::Outbound(error)) | Self::Download(DownloadError::Outbound(error)) => {
                of_outbound(error)
            }
            Self::Slow => "timeout",
            Self::AlreadyThere { .. } => "already_downloaded",
            Self::Taken { .. } | Self::TakeIn(TakeInError::Taken { .. }) => "id_taken",
            Self::Busy { .. } => "id_busy",
            Self::Unknown { .. } => "pull_not_found",
            Self::NotRunning { .. } => "pull_not_running",
            Self::Download(DownloadError::WrongBytes { .. }) => "wrong_bytes",
            Self::Download(DownloadError::WrongLength { .. }) => "wrong_length",
            Self::Download(DownloadError::Changed { .. }) => "changed",
            Self::Download(DownloadError::Local { .. }) => "unreadable",
            Self::WrongDigest { .. } => "wrong_digest",
            Self::TakeIn(TakeInError::BadFile(_)) => "invalid_gguf",
            Self::Import(_) => "import_failed",
            Self::Download(DownloadError::Disk(_)) | Self::Disk { .. } | Self::TakeIn(_) | Self::Store(_) => "disk",
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Source(error) => return error.hint(),
            Self::Import(error) => return error.hint(),
            Self::Download(DownloadError::Outbound(error)) => return error.hint(),
            Self::AlreadyThere { other_branch: Some((there, asked)), .. } => format!(
                "that one is of the branch `{there}`: `cortex pull --update` replaces it by that of `{asked}`, another id keeps both"
            ),
            Self::AlreadyThere { is_older: true, .. } => "`cortex pull --update` gets the newer revision".into(),
            Self::Taken { .. } | Self::TakeIn(TakeInError::Taken { .. }) => "give the download another id".into(),
            Self::Busy { .. } => "wait for it, cancel it, or give this one another id".into(),
            Self::NotRunning { .. } => "`cortex pull --resume` goes on with it".into(),
            Self::Unknown { .. } => "GET /v1/models/pulls lists the pulls".into(),
            Self::Slow => "look whether this machine is online, and whether a proxy is needed (`proxyUrl`)".into(),
            Self::Download(DownloadError::Local { .. }) => "look whether it is still there, and pull it again".into(),
            Self::Download(DownloadError::Changed { .. }) => "pull it again to get the new one".into(),
            Self::Download(DownloadError::WrongBytes { .. } | DownloadError::WrongLength { .. }) => {
                "a proxy may be in the way; pull it again later".into()
            }
            Self::WrongDigest { .. } => "nothing of it was kept; pull it again".into(),
            Self::TakeIn(TakeInError::BadFile(_)) => "nothing of it was kept; tell the publisher of the file".into(),
            Self::Download(DownloadError::Disk(_)) | Self::Disk { .. } | Self::TakeIn(_) => {
                "look for room on the disk and the rights of the data folder".into()
            }
            Self::AlreadyThere { .. } | Self::Store(_) => return None,
        })
    }
}

fn of_outbound(error: &OutboundError) -> &'static str {
    match error {
        OutboundError::NotAllowed { .. } => "host_not_allowed",
        OutboundError::Insecure { .. } => "insecure_url",
        OutboundError::Private { .. } => "private_address",
        OutboundError::Redirect { .. } => "bad_redirect",
        OutboundError::Dns { .. } => "dns",
        OutboundError::Connect { .. } => "unreachable",
        OutboundError::Tls { .. } => "tls",
        OutboundError::Proxy { .. } => "proxy",
        OutboundError::Timeout { .. } => "timeout",
        OutboundError::Broken { .. } => "connection_broke",
        OutboundError::Status { status: 401 | 403, .. } => "not_authorised",
        OutboundError::Status { status: 404, .. } => "not_found",
        OutboundError::Status { status: 429, .. } => "too_many_requests",
        OutboundError::Status { .. } => "source_failed",
        OutboundError::TooLong { .. } | OutboundError::Nonsense { .. } => "bad_answer",
    }
}
