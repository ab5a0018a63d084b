//! Files: replaced as a whole, or with one more line.

use crate::{Object, ThreadsError};
use fs_err::OpenOptions;
use serde_json::Value;
use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// How often a file that another program changes meanwhile is read again.
const TRIES: usize = 8;

/// What tells that a file is another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    /// `None` when there is no such file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs_err::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len(), inode })
    }

    /// Reads what [`std::fmt::Display`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ').map(|part| part.parse::<u64>().ok());
        let mut next = || parts.next().flatten();
        let (seconds, nanoseconds, length, inode) = (next()?, u32::try_from(next()?).ok()?, next()?, next()?);
        let age =
            std::time::Duration::from_secs(seconds).checked_add(std::time::Duration::from_nanos(nanoseconds.into()))?;
        Some(Self { modified: Some(UNIX_EPOCH.checked_add(age)?), length, inode })
    }

    /// When it was written, in seconds since 1970.
    pub(crate) fn seconds(&self) -> u64 {
        self.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |age| age.as_secs())
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let age = self.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        write!(formatter, "{} {} {} {}", age.as_secs(), age.subsec_nanos(), self.length, self.inode)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// A file with one JSON object; `None` when there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Object>, ThreadsError> {
    // A pipe would let the reader wait for ever.
    if fs_err::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(ThreadsError::Damaged { path: path.to_owned(), reason: "it is no regular file".into() });
    }
    let bytes = match fs_err::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(ThreadsError::Io(error)),
    };
    let damaged = |reason: String| ThreadsError::Damaged { path: path.to_owned(), reason };
    // Programs on Windows begin a file with this.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(damaged("it holds no JSON object".into())),
        Err(why) => Err(damaged(why.to_string())),
    }
}

/// Replaces a file: who reads it sees the old one or the new one, and so does the next start after a power cut.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), ThreadsError> {
    write_whole(path, content).map_err(ThreadsError::Io)
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(folder)?;
    let mut temporary = tempfile::Builder::new().prefix(".cortex-").suffix(".tmp").tempfile_in(folder)?;
    temporary.write_all(content)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    #[cfg(unix)]
    fs_err::File::open(folder)?.sync_all()?;
    Ok(())
}

/// The same for an object, for people to read.
pub(crate) fn replace_object(path: &Path, object: &Object) -> Result<(), ThreadsError> {
    let mut text = serde_json::to_string_pretty(object).map_err(|why| ThreadsError::Io(why.into()))?;
    text.push('\n');
    replace(path, text.as_bytes())
}

/// Replaces a file that another program may write to meanwhile with what `change` makes of it: what comes in between is not lost, but
/// for the moment between the last look and the new name.
pub(crate) fn change<T>(
    path: &Path,
    mut change: impl FnMut(&[u8]) -> Result<(Vec<u8>, T), ThreadsError>,
) -> Result<T, ThreadsError> {
    let mut tries = 0;
    loop {
        let before = Stamp::of(path);
        let content = match fs_err::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            Err(error) => return Err(ThreadsError::Io(error)),
        };
        let (new, made) = change(&content)?;
        tries += 1;
        if before == Stamp::of(path) || tries == TRIES {
            replace(path, &new)?;
            return Ok(made);
        }
    }
}

/// Adds a line behind all others. A last line without an end, which a crash has left, stays a line of its own.
pub(crate) fn append_line(path: &Path, line: &str) -> Result<(), ThreadsError> {
    let append = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let is_torn = file.seek(SeekFrom::End(0))? > 0 && {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            last != *b"\n"
        };
        let begin = if is_torn { "\n" } else { "" };
        // One write: two programs that append at the same time do not mix their lines.
        file.write_all(format!("{begin}{line}\n").as_bytes())?;
        file.sync_data()
    };
    append().map_err(ThreadsError::Io)
}

/// Removes a folder with all that is in it. Of a link, the link is removed and nothing behind it.
pub(crate) fn remove_folder(folder: &Path, named_by: &str) -> Result<(), ThreadsError> {
    let remove = || -> io::Result<()> {
        if fs_err::symlink_metadata(folder)?.is_symlink() {
            return fs_err::remove_file(folder);
        }
        // Without this file it is no entry of any list, also when what follows is cut off.
        fs_err::remove_file(folder.join(named_by))?;
        fs_err::remove_dir_all(folder)
    };
    remove().map_err(ThreadsError::Io)
}

/// The names of the folders in a folder that could be ids, in no order. None when it is not there.
pub(crate) fn names(root: &Path) -> Result<Vec<String>, ThreadsError> {
    let entries = match fs_err::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(ThreadsError::Io(error)),
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}
