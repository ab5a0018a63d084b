//! Why something cannot be done with a conversation.

use std::{io, path::PathBuf};

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// That of who asked.
    Request,
    /// That of the disk.
    Disk,
}

/// Why it cannot be done. The words are those of cortex.cpp where it has some.
#[derive(Debug, thiserror::Error)]
pub enum ThreadsError {
    /// There is no such thread or assistant.
    #[error("Path does not exist: {}", path.display())]
    NoSuchPath {
        /// Where it would be.
        path: PathBuf,
    },
    /// There is no such thread, for what can only say its id.
    #[error("Thread doesn't exist: {id}")]
    NoSuchThread {
        /// The id that was asked for.
        id: String,
    },
    /// The thread has no messages, not even a file for them.
    #[error("Failed to open file: {}", path.display())]
    NoMessages {
        /// Where they would be.
        path: PathBuf,
    },
    /// The thread has no such message.
    #[error("Message not found")]
    NoSuchMessage,
    /// There is no such assistant.
    #[error("Assistant doesn't exist: {id}")]
    NoSuchAssistant {
        /// The id that was asked for.
        id: String,
    },
    /// There is no such file.
    #[error("File not found: {id}")]
    NoSuchFile {
        /// The id that was asked for.
        id: String,
    },
    /// A thread has no such file.
    #[error("File not found or had been removed!")]
    FileGone,
    /// The thread names no assistant.
    #[error("Assistant not found in thread: {thread}")]
    NoAssistantInThread {
        /// The thread.
        thread: String,
    },
    /// An id that would lead out of the folder.
    #[error("`{id}` is not a possible id: it must be the name of a folder, without `/` and `\\`, of at most 255 bytes")]
    BadId {
        /// As it was given.
        id: String,
    },
    /// What was sent is not what it must be.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
    },
    /// A file that should be JSON is not, and nothing was written over it.
    #[error("{} is damaged and was left as it is: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk did not do it. The reason names the file.
    #[error("{0}")]
    Io(io::Error),
}

impl ThreadsError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io(_) | Self::Damaged { .. } => Fault::Disk,
            _ => Fault::Request,
        }
    }

    /// Whether what was asked for is not there.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::NoSuchPath { .. }
                | Self::NoSuchThread { .. }
                | Self::NoMessages { .. }
                | Self::NoSuchMessage
                | Self::NoSuchAssistant { .. }
                | Self::NoSuchFile { .. }
                | Self::FileGone
                | Self::NoAssistantInThread { .. }
        )
    }

    pub(crate) fn invalid(message: &str) -> Self {
        Self::Invalid { message: message.to_owned() }
    }
}
