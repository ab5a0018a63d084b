//! Conversations on disk, in the folders and files that Jan and cortex.cpp use: `threads/<id>/thread.json` and `messages.jsonl`,
//! `assistants/<id>/assistant.json`, `files/<name>`.
//!
//! An older program may read and write the same files at the same time. So nothing is kept but what the files last said; a
//! file is replaced as a whole or gets one more line; and fields and lines that we do not know stay as they are. Objects are JSON as
//! their clients know them, because the files hold more than we know.
//!
//! Everything here blocks on the disk.

mod assistants;
mod disk;
mod error;
mod files;
mod id;
mod messages;
mod page;
mod seen;
mod threads;

pub use assistants::Assistants;
pub use error::{Fault, ThreadsError};
pub use files::{FileEntry, Files, Upload};
pub use messages::Messages;
pub use page::{Order, Page};
pub use threads::{ThreadEntry, Threads};

/// A JSON object.
pub type Object = serde_json::Map<String, serde_json::Value>;

use std::path::Path;

/// All conversations of a data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Conversations {
    /// The threads.
    pub threads: Threads,
    /// Their messages.
    pub messages: Messages,
    /// The assistants.
    pub assistants: Assistants,
    /// Their files.
    pub files: Files,
}

impl Conversations {
    /// Those of a data folder, which need not be there yet.
    pub fn new(data_folder: &Path) -> Self {
        let threads = Threads::new(data_folder.join("threads"), data_folder.join("cache/threads"));
        Self {
            messages: Messages::new(threads.clone()),
            assistants: Assistants::new(data_folder.join("assistants"), threads.clone()),
            files: Files::new(data_folder),
            threads,
        }
    }
}

/// An object of a test.
#[cfg(test)]
fn object(value: serde_json::Value) -> Object {
    match value {
        serde_json::Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}
