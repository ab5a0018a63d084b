//! Files that clients send for their conversations: the content under its own name in `files/`, as cortex.cpp keeps it, and what is
//! known of it in `state/files.jsonl`, one line a file.
//!
//! In older threads of Jan a file belongs to a message and lies in `threads/<id>/files/`.

use crate::{Object, ThreadsError, disk, id, page::Page};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tempfile::NamedTempFile;

/// What a file may be for.
const PURPOSES: &[&str] = &["assistants", "vision", "batch", "fine-tune"];
/// Bytes of a name on the file systems in use; what is added to make it the only one needs room.
const LONGEST_NAME: usize = 200;

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// `file-` and a ULID.
    pub id: String,
    /// `file`.
    pub object: String,
    /// Its length.
    pub bytes: u64,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Its name in `files/`.
    pub filename: String,
    /// What it is for.
    pub purpose: String,
}

/// The files of a data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    index: PathBuf,
    threads: PathBuf,
    /// One change at a time: names must stay the only ones.
    changing: Arc<Mutex<()>>,
}

/// A file that is being received. Dropped before its end, nothing of it stays.
#[derive(Debug)]
pub struct Upload {
    file: NamedTempFile,
    bytes: u64,
    name: String,
}

impl Upload {
    /// The next piece.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), ThreadsError> {
        self.bytes += piece.len() as u64;
        self.file.write_all(piece).map_err(ThreadsError::Io)
    }
}

impl Files {
    pub(crate) fn new(data_folder: &Path) -> Self {
        Self {
            folder: data_folder.join("files"),
            index: data_folder.join("state/files.jsonl"),
            threads: data_folder.join("threads"),
            changing: Arc::default(),
        }
    }

    /// Begins to receive a file.
    ///
    /// # Errors
    /// When its name is none that a file in one folder can have, or the disk does not take it.
    pub fn begin(&self, name: &str) -> Result<Upload, ThreadsError> {
        let name = name.trim();
        // A name that leads elsewhere is not the name of a file.
        let is_plain = !name.is_empty()
            && !name.starts_with('.')
            && !name.ends_with('.')
            && !name.chars().any(|letter| matches!(letter, '/' | '\\' | ':') || letter.is_control());
        if !is_plain || name.len() > LONGEST_NAME {
            return Err(ThreadsError::Invalid { message: format!("Error resolving path in: {name}") });
        }
        fs_err::create_dir_all(&self.folder).map_err(ThreadsError::Io)?;
        let file = tempfile::Builder::new().prefix(".cortex-").suffix(".tmp").tempfile_in(&self.folder);
        Ok(Upload { file: file.map_err(ThreadsError::Io)?, bytes: 0, name: name.to_owned() })
    }

    /// Ends it. A name that is taken gets a number: `notes_1.txt`.
    ///
    /// # Errors
    /// When nobody says what it is for, or the disk does not take it.
    pub fn finish(&self, upload: Upload, purpose: Option<&str>) -> Result<FileEntry, ThreadsError> {
        let purpose = purpose.ok_or_else(|| ThreadsError::invalid("purpose is mandatory"))?;
        if !PURPOSES.contains(&purpose) {
            return Err(ThreadsError::invalid(
                "purpose is not supported. Purpose can only one of these types: assistants, vision, batch or fine-tune",
            ));
        }
        upload.file.as_file().sync_all().map_err(ThreadsError::Io)?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (stem, ending) = match upload.name.rsplit_once('.') {
            Some((stem, ending)) if !stem.is_empty() => (stem, format!(".{ending}")),
            _ => (upload.name.as_str(), String::new()),
        };
        let mut file = upload.file;
        let mut filename = upload.name.clone();
        for number in 1u32.. {
            match file.persist_noclobber(self.folder.join(&filename)) {
                Ok(_) => break,
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                    file = error.file;
                    filename = format!("{stem}_{number}{ending}");
                }
                Err(error) => return Err(ThreadsError::Io(error.error)),
            }
        }
        let entry = FileEntry {
            id: format!("file-{}", id::ulid()),
            object: "file".into(),
            bytes: upload.bytes,
            created_at: disk::now() / 1000,
            filename,
            purpose: purpose.to_owned(),
        };
        let line = serde_json::to_string(&entry).map_err(|why| ThreadsError::Io(why.into()))?;
        if let Some(folder) = self.index.parent() {
            fs_err::create_dir_all(folder).map_err(ThreadsError::Io)?;
        }
        disk::append_line(&self.index, &line)?;
        Ok(entry)
    }

    /// What is known, in the order in which it came. A line that is none is passed over.
    fn known(&self) -> Result<Vec<FileEntry>, ThreadsError> {
        match fs_err::read(&self.index) {
            Ok(bytes) => Ok(lines(&bytes).filter_map(entry_of).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            Err(error) => Err(ThreadsError::Io(error)),
        }
    }

    /// The files, by id.
    ///
    /// # Errors
    /// When the disk does not give them.
    pub fn list(&self, page: &Page, purpose: Option<&str>) -> Result<Vec<FileEntry>, ThreadsError> {
        let mut files = self.known()?;
        files.retain(|file| purpose.is_none_or(|purpose| purpose.is_empty() || file.purpose == purpose));
        files.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(page.of(files, |file| file.id.as_str()))
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, id: &str) -> Result<FileEntry, ThreadsError> {
        self.known()?
            .into_iter()
            .find(|file| file.id == id)
            .ok_or_else(|| ThreadsError::NoSuchFile { id: id.to_owned() })
    }

    /// Its content, open, and how long it is.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(&self, id: &str) -> Result<(File, u64), ThreadsError> {
        let entry = self.get(id)?;
        // The index may have been edited: only a plain name leads into the folder.
        open(&id::folder_of(&self.folder, &entry.filename)?, id)
    }

    /// A file of a message of an older Jan.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_thread(&self, thread: &str, id: &str) -> Result<(FileEntry, PathBuf), ThreadsError> {
        let gone = || ThreadsError::FileGone;
        let folder = id::folder_of(&self.threads, thread)?.join("files");
        let mut names = disk::names(&folder)?;
        names.sort();
        let stem = |name: &str| Path::new(name).file_stem().is_some_and(|stem| stem == id);
        let name = names.iter().find(|name| *name == id).or_else(|| names.iter().find(|name| stem(name)));
        let path = id::folder_of(&folder, name.ok_or_else(gone)?)?;
        let metadata = fs_err::symlink_metadata(&path).map_err(ThreadsError::Io)?;
        if !metadata.is_file() {
            return Err(gone());
        }
        let entry = FileEntry {
            id: id.to_owned(),
            object: "file".into(),
            bytes: metadata.len(),
            created_at: disk::Stamp::of(&path).map_or(0, |stamp| stamp.seconds()),
            filename: name.cloned().unwrap_or_default(),
            purpose: "assistants".into(),
        };
        Ok((entry, path))
    }

    /// The content of such a file.
    ///
    /// # Errors
    /// When there is none.
    pub fn open_of_thread(&self, thread: &str, id: &str) -> Result<(File, u64), ThreadsError> {
        open(&self.of_thread(thread, id)?.1, id)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When there is none, or the disk does not do it.
    pub fn remove(&self, id: &str) -> Result<(), ThreadsError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = self.get(id)?;
        match fs_err::remove_file(id::folder_of(&self.folder, &entry.filename)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ThreadsError::Io(error)),
            _ => {}
        }
        disk::change(&self.index, |content| {
            let kept = lines(content).filter(|line| entry_of(line).is_none_or(|entry| entry.id != id));
            let mut new = Vec::with_capacity(content.len());
            for line in kept {
                new.extend_from_slice(line);
                new.push(b'\n');
            }
            Ok((new, ()))
        })
    }
}

fn open(path: &Path, id: &str) -> Result<(File, u64), ThreadsError> {
    let missing = || ThreadsError::NoSuchFile { id: id.to_owned() };
    let is_file = fs_err::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Err(missing());
    }
    let file = fs_err::File::open(path).map_err(ThreadsError::Io)?.into_file();
    let length = file.metadata().map_err(ThreadsError::Io)?.len();
    Ok((file, length))
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty())
}

fn entry_of(line: &[u8]) -> Option<FileEntry> {
    let object: Object = serde_json::from_slice(line).ok()?;
    serde_json::from_value(Value::from(object)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conversations;
    use std::io::Read;

    fn files() -> (Files, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (Conversations::new(folder.path()).files, folder)
    }

    fn put(files: &Files, name: &str, content: &[u8]) -> FileEntry {
        let mut upload = files.begin(name).unwrap();
        upload.write(content).unwrap();
        files.finish(upload, Some("assistants")).unwrap()
    }

    #[test]
    fn what_was_received_can_be_read_listed_and_removed() {
        let (files, folder) = files();
        let all = Page::new(Some(-1), None, None, None).unwrap();
        assert_eq!(files.list(&all, None).unwrap(), []);
        let first = put(&files, "notes.txt", b"one");
        let second = put(&files, "notes.txt", b"two!");
        assert_eq!((first.filename.as_str(), second.filename.as_str(), second.bytes), ("notes.txt", "notes_1.txt", 4));
        let ids: Vec<String> = files.list(&all, None).unwrap().into_iter().map(|file| file.id).collect();
        assert_eq!(ids, [second.id.clone(), first.id.clone()]);
        assert_eq!(files.list(&all, Some("vision")).unwrap(), []);
        let (mut file, length) = files.open(&second.id).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), length), ("two!", 4));
        // A torn line is left where it is.
        let index = folder.path().join("state/files.jsonl");
        disk::append_line(&index, "{\"id\": \"file-torn").unwrap();
        files.remove(&first.id).unwrap();
        assert!(files.get(&first.id).is_err() && !folder.path().join("files/notes.txt").exists());
        assert_eq!(files.get(&second.id).unwrap(), second);
        assert!(fs_err::read_to_string(&index).unwrap().contains("file-torn"));
        assert!(matches!(files.remove(&first.id), Err(ThreadsError::NoSuchFile { .. })));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused_and_nothing_stays_of_what_was_not_finished() {
        let (files, folder) = files();
        for name in ["", ".", "..", "a/b", "..\\x", "/etc/passwd", "C:x", ".hidden", "a\nb", &"x".repeat(201)] {
            assert!(files.begin(name).is_err(), "{name:?}");
        }
        let mut upload = files.begin("half.bin").unwrap();
        upload.write(b"half").unwrap();
        assert!(files.finish(upload, Some("other")).is_err());
        drop(files.begin("never.bin").unwrap());
        assert_eq!(fs_err::read_dir(folder.path().join("files")).unwrap().count(), 0);
        // An index that somebody edited leads nowhere either.
        fs_err::create_dir_all(folder.path().join("state")).unwrap();
        let line = "{\"id\":\"file-x\",\"object\":\"file\",\"bytes\":1,\"created_at\":1,\"filename\":\"../state/files.jsonl\",\"purpose\":\"vision\"}\n";
        fs_err::write(folder.path().join("state/files.jsonl"), line).unwrap();
        assert!(files.open("file-x").is_err() && files.remove("file-x").is_err());
        assert!(folder.path().join("state/files.jsonl").exists());
    }

    #[test]
    fn files_of_older_threads_are_found_by_the_name_of_their_message() {
        let (files, folder) = files();
        let inside = folder.path().join("threads/jan_1/files");
        fs_err::create_dir_all(&inside).unwrap();
        fs_err::write(inside.join("01ABC.pdf"), b"pdf").unwrap();
        let (entry, _) = files.of_thread("jan_1", "01ABC").unwrap();
        assert_eq!((entry.filename.as_str(), entry.bytes), ("01ABC.pdf", 3));
        assert!(matches!(files.of_thread("jan_1", "other"), Err(ThreadsError::FileGone)));
        assert!(files.of_thread("..", "01ABC").is_err() && files.of_thread("jan_2", "01ABC").is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/etc/passwd", inside.join("link.txt")).unwrap();
            assert!(files.open_of_thread("jan_1", "link").is_err());
        }
    }
}
