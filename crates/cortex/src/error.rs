//! The one place where a failure becomes an exit code and a hint.

use crate::{daemon::DaemonError, settings::SettingsError};
use cortex_api::openai::ErrorBody;
use std::io;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("the daemon does not answer at {url}")]
    NotRunning { url: String },
    #[error("Could not start server: {reason}")]
    NotStarted { reason: String, code: u8 },
    #[error("{}", body.error.message)]
    Refused { body: Box<ErrorBody> },
    #[error("the connection to the daemon broke: {0}")]
    Connection(String),
    #[error("the daemon has ended meanwhile")]
    Ended { hint: String },
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },
    #[error("{action}: {source}")]
    System { action: &'static str, source: io::Error },
    #[error("something needs attention")]
    Unhealthy,
    /// The download failed; the reason is the daemon's.
    #[error("{message}")]
    Pull { message: String },
    #[error("cancelled")]
    Cancelled,
    /// Whoever reads our output has left.
    #[error("nobody reads the output")]
    ClosedOutput,
}

impl CliError {
    /// 0 ok, 1 failed, 2 usage, 3 no daemon, 4 address or folder in use, 130 cancelled.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Daemon(DaemonError::FolderInUse { .. } | DaemonError::AddressInUse { .. }) => 4,
            Self::Settings(_) | Self::Daemon(DaemonError::Settings(_)) | Self::Usage { .. } => 2,
            Self::NotRunning { .. } | Self::Ended { .. } => 3,
            Self::NotStarted { code, .. } => *code,
            Self::Cancelled => 130,
            Self::ClosedOutput => 0,
            Self::Daemon(_)
            | Self::Pull { .. }
            | Self::Refused { .. }
            | Self::Connection(_)
            | Self::System { .. }
            | Self::Unhealthy => 1,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Settings(error) | Self::Daemon(DaemonError::Settings(error)) => error.hint(),
            Self::Daemon(DaemonError::AddressInUse { address }) => Some(format!(
                "if it is cortex, use it or run `cortex stop`; else choose another port with --port (now {})",
                address.port()
            )),
            Self::Daemon(DaemonError::FolderInUse { .. }) => {
                Some("run `cortex stop`, or choose another folder with --data-folder".into())
            }
            Self::NotRunning { .. } => Some("run `cortex start`".into()),
            Self::Usage { hint, .. } => hint.clone(),
            Self::Ended { hint } => Some(hint.clone()),
            Self::Connection(_) => Some("`cortex logs` shows what happened".into()),
            Self::Daemon(_)
            | Self::NotStarted { .. }
            | Self::Pull { .. }
            | Self::Refused { .. }
            | Self::System { .. }
            | Self::Unhealthy
            | Self::Cancelled
            | Self::ClosedOutput => None,
        }
    }

    /// Whether it needs no words: the user knows, or nobody listens.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Unhealthy | Self::Cancelled | Self::ClosedOutput)
    }
}
