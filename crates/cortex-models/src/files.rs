//! Every write to a file of a user's data folder, and every reading of one, goes through here.
//!
//! A file is whole or not there; an error names the action and the path. A fault can be injected after
//! any number of steps, so that tests see what a crash at each of them leaves behind.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Told of a file that was made durable.
pub(crate) type SyncHook = Arc<dyn Fn(&Path) + Send + Sync>;

impl std::fmt::Debug for Files {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Files").field("steps_left", &self.steps_left).finish_non_exhaustive()
    }
}

/// The way to the disk. Cheap to clone.
#[derive(Clone, Default)]
pub struct Files {
    /// Steps that still succeed; after them everything fails, as after a crash.
    steps_left: Option<Arc<AtomicU64>>,
    /// Told when a file that grows was made durable.
    synced: Option<SyncHook>,
    /// Bytes that the disk still takes.
    room: Option<Arc<AtomicU64>>,
}

impl Files {
    /// Fails for ever after so many changing steps. For tests.
    pub fn failing_after(steps: u64) -> Self {
        Self { steps_left: Some(Arc::new(AtomicU64::new(steps))), ..Self::default() }
    }

    /// Tells when a file that is being downloaded was made durable. For tests that cut the power.
    pub fn telling_of_syncs(hook: impl Fn(&Path) + Send + Sync + 'static) -> Self {
        Self { synced: Some(Arc::new(hook)), ..Self::default() }
    }

    /// A disk that takes so many bytes and is full then, until there is more room. For tests.
    pub fn with_room(room: Arc<AtomicU64>) -> Self {
        Self { room: Some(room), ..Self::default() }
    }

    /// A file that grows was made durable.
    pub(crate) fn tell_synced(&self, path: &Path) {
        if let Some(hook) = &self.synced {
            hook(path);
        }
    }

    /// Fails when so many bytes find no room.
    pub(crate) fn take_room(&self, bytes: usize) -> io::Result<()> {
        let Some(room) = &self.room else { return Ok(()) };
        let full = || io::Error::new(io::ErrorKind::StorageFull, "No space left on device (injected)");
        let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes as u64));
        taken.map(|_| ()).map_err(|_| full())
    }

    /// One step that changes the disk.
    fn step(&self) -> io::Result<()> {
        let Some(left) = &self.steps_left else { return Ok(()) };
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .map(|_| ())
            .map_err(|_| io::Error::other("an injected fault"))
    }

    /// Replaces a file: a reader sees the old content or the new one, and so does the next start after
    /// a power cut. The folder is made when it is missing.
    /// Returns what the new file looks like.
    pub(crate) fn replace(&self, path: &Path, content: &[u8]) -> io::Result<Option<Stamp>> {
        let (folder, stamp) = self.swap_in(path, content, true)?;
        self.step()?;
        sync_folder(&folder)?;
        Ok(stamp)
    }

    /// The same for a file that can be made again: after a power cut it may be the old one or damaged.
    pub(crate) fn replace_disposable(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.swap_in(path, content, false).map(|_| ())
    }

    /// Writes a file that is not there yet, whole or not at all, without waiting for the disk.
    pub(crate) fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.step()?;
        let folder = path.parent().unwrap_or(Path::new("."));
        fs_err::create_dir_all(folder)?;
        let mut temporary = tempfile::Builder::new().prefix(".cortex-").suffix(".tmp").tempfile_in(folder)?;
        temporary.write_all(content)?;
        self.step()?;
        temporary.persist_noclobber(path).map(|_| ()).map_err(|error| error.error)
    }

    /// Writes a short file that is not there yet, for those who write thousands: a crash amid it leaves an empty
    /// one, so nobody may look at it before the caller is done. Its folder must be there.
    pub(crate) fn create_quickly(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.step()?;
        self.take_room(content.len())?;
        let mut file = fs_err::OpenOptions::new().write(true).create_new(true).open(path)?;
        self.step()?;
        file.write_all(content)
    }

    fn swap_in(&self, path: &Path, content: &[u8], durable: bool) -> io::Result<(PathBuf, Option<Stamp>)> {
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        self.step()?;
        fs_err::create_dir_all(&folder)?;
        self.step()?;
        self.take_room(content.len())?;
        let mut temporary = tempfile::Builder::new().prefix(".cortex-").suffix(".tmp").tempfile_in(&folder)?;
        if let Err(error) = self.step() {
            // What a crash amid a write leaves behind.
            temporary.write_all(&content[..content.len() / 2])?;
            temporary.disable_cleanup(true);
            return Err(error);
        }
        temporary.write_all(content)?;
        if durable {
            self.step()?;
            temporary.as_file().sync_all()?;
        }
        self.step()?;
        let file = temporary.persist(path).map_err(|error| error.error)?;
        Ok((folder, file.metadata().ok().and_then(|metadata| Stamp::of_metadata(&metadata))))
    }

    /// Appends a line and makes it survive a power cut.
    pub(crate) fn append_line(&self, path: &Path, line: &str) -> io::Result<()> {
        self.step()?;
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let mut file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        self.step()?;
        // One write: two programs that append at the same time do not mix their lines.
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()
    }

    /// Copies a file's content to a path where nothing is yet.
    pub(crate) fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let mut source = fs_err::File::open(from)?;
        let mut target = fs_err::OpenOptions::new().write(true).create_new(true).open(to)?;
        self.step()?;
        io::copy(&mut source, &mut target)?;
        self.step()?;
        target.sync_all()
    }

    /// Gives a file a second name where nothing is yet; both names must be on one file system.
    pub(crate) fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        fs_err::hard_link(from, to)
    }

    /// Makes a folder and those above it.
    pub(crate) fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        fs_err::create_dir_all(path)
    }

    /// Gives a file or folder another name where nothing is yet.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if fs_err::symlink_metadata(to).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already", to.display())));
        }
        self.step()?;
        let folder = to.parent().unwrap_or(Path::new("."));
        fs_err::create_dir_all(folder)?;
        #[expect(clippy::disallowed_methods, reason = "this is the one place that renames")]
        fs_err::rename(from, to)?;
        self.step()?;
        sync_folder(folder)
    }

    /// Removes one file; one that is not there is fine. A link is removed, not what it leads to.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        match fs_err::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a folder that holds nothing; one that holds something stays.
    pub(crate) fn remove_empty_folder(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        // Not empty, or not there: both are fine.
        let _ = fs_err::remove_dir(path);
        Ok(())
    }
}

/// Replaces a file of the daemon's own, such as its settings.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    Files::default().replace(path, content).map(|_| ())
}

/// Gives a folder of the daemon's own that is complete its name, where nothing is yet.
pub fn move_into_place(from: &Path, to: &Path) -> io::Result<()> {
    Files::default().rename(from, to)
}

/// Makes a rename in a folder survive a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs_err::File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// What tells that a file is another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    /// Nanoseconds since 1970; 0 when the system does not say.
    pub(crate) modified: i64,
    pub(crate) length: u64,
    pub(crate) inode: u64,
}

impl Stamp {
    /// `None` when there is no such file, or it is not one.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        Self::of_metadata(&fs_err::metadata(path).ok()?)
    }

    fn of_metadata(metadata: &std::fs::Metadata) -> Option<Self> {
        if !metadata.is_file() {
            return None;
        }
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|age| i64::try_from(age.as_nanos()).ok())
            .unwrap_or(0);
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified, length: metadata.len(), inode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_at_any_step_leaves_the_old_file_or_the_new_one() {
        for steps in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("sub/file");
            write_atomically(&path, b"old").unwrap();
            let done = Files::failing_after(steps).replace(&path, b"newer").is_ok();
            let content = fs_err::read(&path).unwrap();
            assert!(content == b"old" || content == b"newer", "{content:?}");
            if done {
                assert_eq!(content, b"newer");
                assert!(steps > 3, "the fault was never reached");
                break;
            }
        }
    }

    #[test]
    fn nothing_is_overwritten_by_a_rename_or_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        fs_err::write(&one, "1").unwrap();
        fs_err::write(&two, "2").unwrap();
        let files = Files::default();
        assert!(files.rename(&one, &two).is_err());
        assert!(files.copy(&one, &two).is_err());
        assert!(files.hard_link(&one, &two).is_err());
        assert_eq!(fs_err::read(&two).unwrap(), b"2");
    }
}
