//! Brings the bytes of a pull to the disk, computes their digests, and keeps the journal true.
//!
//! Three threads, because each of them waits for something else: one writes and journals, one computes the
//! digests in the order of the file, one waits for the disk. The network never waits for the disk to spin: it
//! waits only when more bytes are in memory than may be.

use super::{
    intervals::Intervals,
    journal::{self, FileState, Record, Wish},
};
use crate::files::Files;
use bytes::Bytes;
use sha2::{
    Digest, Sha256,
    digest::common::hazmat::{SerializableState, SerializedState},
};
use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes that may be in memory on their way to the disk.
const IN_MEMORY: usize = 6 << 20;
/// The unit in which they are counted.
const UNIT: usize = 1024;
/// Bytes that are read back at a time for the digest.
const READ_BACK: usize = 1 << 20;
/// Bytes after which the state of a digest is worth a line of the journal.
const DIGEST_STEP: u64 = 32 << 20;
/// The disk is waited for this often at most: it does more at once than one by one.
const SYNC_PAUSE: Duration = Duration::from_secs(1);

/// A file that is being downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

enum Message {
    Write {
        file: usize,
        at: u64,
        bytes: Bytes,
        permit: OwnedSemaphorePermit,
    },
    /// Journal what is written.
    Flush,
    Note(Record),
}

enum ToHash {
    Bytes {
        file: usize,
        at: u64,
        bytes: Bytes,
        _permit: OwnedSemaphorePermit,
    },
    /// What lies before `until` is there, and is to be read back.
    Look {
        file: usize,
        until: u64,
    },
}

/// What there is of one file.
#[derive(Default)]
struct Progress {
    /// Written, and in the journal.
    journalled: Intervals,
    /// On the disk, and in the journal.
    durable: Intervals,
    /// Written.
    written: Intervals,
    /// The latest state of the digest.
    digest: Option<(u64, String)>,
    /// The digest of the whole file.
    finished: Option<String>,
}

struct Shared {
    files: Mutex<Vec<Progress>>,
    /// Bytes of all files that are in the journal.
    journalled: AtomicU64,
    failure: Mutex<Option<io::Error>>,
    /// Told when something above changed.
    changed: Notify,
    journal: Mutex<File>,
    /// The same file: waiting for the disk must not keep others from writing.
    journal_sync: File,
    journal_path: PathBuf,
    /// Whether the syncing thread has something to do, and whether it should end.
    sync: (Mutex<(bool, bool)>, Condvar),
    disk: Files,
    parts: Vec<Part>,
}

/// The disk side of one pull. Dropping it journals what was written.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    to_writer: Option<mpsc::UnboundedSender<Message>>,
    memory: Arc<Semaphore>,
}

impl Disk {
    /// Opens the files of a pull, makes room for them, and goes on where the journal ends. `flush` is how many
    /// bytes may be written before they are journalled. The receiver ends when nothing writes any more.
    pub(crate) fn open(
        parts: Vec<Part>,
        states: &[FileState],
        journal_path: &Path,
        flush: u64,
        disk: Files,
    ) -> io::Result<(Self, mpsc::Receiver<()>)> {
        let mut files = Vec::new();
        for part in &parts {
            // What is written goes into this file, not to where a link leads.
            if fs_err::symlink_metadata(&part.path).is_ok_and(|there| there.is_symlink()) {
                fs_err::remove_file(&part.path)?;
            }
            let options = fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
            let file = options.open(&part.path)?.into_file();
            reserve(&file, part.size)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", part.path.display())))?;
            files.push(Arc::new(file));
        }
        let journal = fs_err::OpenOptions::new().append(true).open(journal_path)?.into_file();
        let progress = states.iter().map(|state| Progress {
            journalled: state.done.clone(),
            durable: state.done.clone(),
            written: state.done.clone(),
            digest: state.digest.clone(),
            finished: None,
        });
        let shared = Arc::new(Shared {
            files: Mutex::new(progress.collect()),
            journalled: AtomicU64::new(states.iter().map(|state| state.done.total()).sum()),
            failure: Mutex::default(),
            changed: Notify::new(),
            journal_sync: journal.try_clone()?,
            journal: Mutex::new(journal),
            journal_path: journal_path.to_owned(),
            sync: (Mutex::default(), Condvar::new()),
            disk,
            parts,
        });
        let (to_writer, from_network) = mpsc::unbounded_channel();
        let (to_hasher, from_writer) = mpsc::unbounded_channel();
        let (alive, ended) = mpsc::channel(1);
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let alive = alive.clone();
            let run = move || {
                run();
                drop(alive);
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
        };
        // Its state is that of the journal until the writer begins.
        let hasher = Hasher::new(Arc::clone(&shared), files.clone());
        let writer = Writer::new(Arc::clone(&shared), files.clone(), to_hasher, flush);
        spawn("pull-digest", Box::new(move || hasher.run(from_writer)))?;
        spawn("pull-write", Box::new(move || writer.run(from_network)))?;
        spawn("pull-sync", {
            let shared = Arc::clone(&shared);
            Box::new(move || sync_again_and_again(&shared, &files))
        })?;
        let memory = Arc::new(Semaphore::new(IN_MEMORY / UNIT));
        Ok((Self { shared, to_writer: Some(to_writer), memory }, ended))
    }

    /// Takes bytes of a file; waits when too many are in memory.
    pub(crate) async fn write(&self, file: usize, at: u64, bytes: Bytes) {
        let units = u32::try_from(bytes.len().div_ceil(UNIT).clamp(1, IN_MEMORY / UNIT)).unwrap_or(1);
        // It is closed never.
        let Ok(permit) = Arc::clone(&self.memory).acquire_many_owned(units).await else { return };
        self.tell(Message::Write { file, at, bytes, permit });
    }

    /// Journals what is written by now.
    pub(crate) fn flush(&self) {
        self.tell(Message::Flush);
    }

    /// Writes a line of the journal.
    pub(crate) fn note(&self, record: Record) {
        self.tell(Message::Note(record));
    }

    fn tell(&self, message: Message) {
        if let Some(writer) = &self.to_writer {
            // A writer that is gone has left its failure.
            let _ = writer.send(message);
        }
    }

    /// Bytes that are written and journalled, of all files.
    pub(crate) fn journalled(&self) -> u64 {
        self.shared.journalled.load(Ordering::Acquire)
    }

    /// The same of each file.
    pub(crate) fn journalled_by_file(&self) -> Vec<u64> {
        self.shared.lock().iter().map(|file| file.journalled.total()).collect()
    }

    /// What is written of a file.
    pub(crate) fn written(&self, file: usize) -> Intervals {
        self.shared.lock().get(file).map(|file| file.written.clone()).unwrap_or_default()
    }

    /// The digest of a file, when all of it was seen.
    pub(crate) fn digest(&self, file: usize) -> Option<String> {
        self.shared.lock().get(file)?.finished.clone()
    }

    /// Why the disk takes no more.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, text) = failure.as_ref().map(|error| (error.kind(), error.to_string()))?;
        failure.replace(io::Error::new(kind, text))
    }

    /// Resolves when something happened: bytes were journalled, a digest is known, or a failure.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Without waiting for the threads: they end by themselves when they have done what there is.
        self.to_writer = None;
        self.shared.tell_syncer(|state| state.1 = true);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: io::Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.changed.notify_waiters();
    }

    fn tell_syncer(&self, tell: impl FnOnce(&mut (bool, bool))) {
        tell(&mut self.sync.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.sync.1.notify_all();
    }

    /// Appends to the journal. One write for each call: lines are not mixed.
    fn append(&self, text: &str, durable: bool) -> io::Result<()> {
        self.disk.take_room(text.len())?;
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes())?;
        if durable {
            self.journal_sync.sync_data()?;
            self.synced(&self.journal_path);
        }
        Ok(())
    }

    fn synced(&self, path: &Path) {
        self.disk.tell_synced(path);
    }
}

struct Writer {
    shared: Arc<Shared>,
    files: Vec<Arc<File>>,
    to_hasher: mpsc::UnboundedSender<ToHash>,
    /// How far each file was given to the digest as bytes.
    given: Vec<u64>,
    pending: Vec<Intervals>,
    pending_bytes: u64,
    flush: u64,
    /// How far the digest was when it was last journalled.
    noted: Vec<u64>,
    failed: bool,
}

impl Writer {
    fn new(shared: Arc<Shared>, files: Vec<Arc<File>>, to_hasher: mpsc::UnboundedSender<ToHash>, flush: u64) -> Self {
        let seen: Vec<u64> = shared.lock().iter().map(|file| file.digest.as_ref().map_or(0, |&(at, _)| at)).collect();
        let given: Vec<u64> = shared.lock().iter().zip(&seen).map(|(file, &at)| file.written.end_from(at)).collect();
        let count = files.len();
        for (file, &until) in given.iter().enumerate() {
            let _ = to_hasher.send(ToHash::Look { file, until });
        }
        Self {
            shared,
            files,
            to_hasher,
            noted: seen,
            given,
            pending: vec![Intervals::default(); count],
            pending_bytes: 0,
            flush,
            failed: false,
        }
    }

    fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        while let Some(message) = messages.blocking_recv() {
            if let Err(error) = self.take(message) {
                self.failed = true;
                self.shared.fail(error);
            }
        }
        if let Err(error) = self.journal_pending() {
            self.shared.fail(error);
        }
    }

    fn take(&mut self, message: Message) -> io::Result<()> {
        match message {
            // What is still on its way after a failure is fetched again.
            Message::Write { .. } if self.failed => Ok(()),
            Message::Write { file, at, bytes, permit } => self.write(file, at, bytes, permit),
            Message::Flush => self.journal_pending(),
            Message::Note(record) => {
                let durable = matches!(record, Record::Wish(_));
                self.shared.append(&journal::line(&record), durable)
            }
        }
    }

    fn write(&mut self, file: usize, at: u64, bytes: Bytes, permit: OwnedSemaphorePermit) -> io::Result<()> {
        let Some(handle) = self.files.get(file) else { return Ok(()) };
        let path = &self.shared.parts[file].path;
        let written = self.shared.disk.take_room(bytes.len()).and_then(|()| handle.write_all_at(&bytes, at));
        written.map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))?;
        let end = at + bytes.len() as u64;
        self.pending[file].insert(at..end);
        self.pending_bytes += bytes.len() as u64;
        if at == self.given[file] {
            self.given[file] = end;
            let _ = self.to_hasher.send(ToHash::Bytes { file, at, bytes, _permit: permit });
        }
        let until = {
            let mut files = self.shared.lock();
            files[file].written.insert(at..end);
            files[file].written.end_from(self.given[file])
        };
        if until > self.given[file] {
            // What came before its turn is read back: this was the last that was missing before it.
            self.given[file] = until;
            let _ = self.to_hasher.send(ToHash::Look { file, until });
        }
        self.journal_when_due()
    }

    fn journal_when_due(&mut self) -> io::Result<()> {
        if self.pending_bytes >= self.flush { self.journal_pending() } else { Ok(()) }
    }

    /// Says in the journal what is written, so that a crash does not cost it.
    fn journal_pending(&mut self) -> io::Result<()> {
        let mut text = String::new();
        for (file, pending) in self.pending.iter().enumerate() {
            for range in pending.iter() {
                text.push_str(&journal::line(&Record::Written { file, start: range.start, end: range.end }));
            }
        }
        for (file, progress) in self.shared.lock().iter().enumerate() {
            if let Some((at, state)) = &progress.digest
                && *at >= self.noted[file] + DIGEST_STEP
            {
                self.noted[file] = *at;
                text.push_str(&journal::line(&Record::Digest { file, at: *at, state: state.clone() }));
            }
        }
        if text.is_empty() {
            return Ok(());
        }
        self.shared.append(&text, false)?;
        let mut files = self.shared.lock();
        for (progress, pending) in files.iter_mut().zip(&mut self.pending) {
            progress.journalled.insert_all(pending);
            *pending = Intervals::default();
        }
        drop(files);
        self.shared.journalled.fetch_add(std::mem::take(&mut self.pending_bytes), Ordering::AcqRel);
        self.shared.changed.notify_waiters();
        self.shared.tell_syncer(|state| state.0 = true);
        Ok(())
    }
}

struct Hasher {
    shared: Arc<Shared>,
    files: Vec<Arc<File>>,
    /// The digest of each file, and how much it has seen.
    states: Vec<(Sha256, u64)>,
    buffer: Vec<u8>,
}

impl Hasher {
    fn new(shared: Arc<Shared>, files: Vec<Arc<File>>) -> Self {
        let states = shared
            .lock()
            .iter()
            .map(|file| {
                let known = file.digest.as_ref().and_then(|(at, state)| Some((restore(state)?, *at)));
                known.unwrap_or_else(|| (Sha256::new(), 0))
            })
            .collect();
        Self { shared, files, states, buffer: Vec::new() }
    }

    fn run(mut self, mut messages: mpsc::UnboundedReceiver<ToHash>) {
        while let Some(message) = messages.blocking_recv() {
            if let Err(error) = self.take(message) {
                self.shared.fail(error);
                return;
            }
        }
    }

    fn take(&mut self, message: ToHash) -> io::Result<()> {
        let (file, before) = match message {
            ToHash::Bytes { file, at, bytes, _permit } => {
                let before = self.states[file].1;
                self.read_back(file, at)?;
                let (hasher, seen) = &mut self.states[file];
                hasher.update(&bytes);
                *seen += bytes.len() as u64;
                (file, before)
            }
            ToHash::Look { file, until } => {
                let before = self.states[file].1;
                self.read_back(file, until)?;
                (file, before)
            }
        };
        let seen = self.states[file].1;
        if seen == self.shared.parts[file].size || seen / DIGEST_STEP != before / DIGEST_STEP {
            self.publish(file);
        }
        Ok(())
    }

    /// Takes what lies before `until` from where it was written: mostly it is still in the memory of the system.
    fn read_back(&mut self, file: usize, until: u64) -> io::Result<()> {
        let (hasher, seen) = &mut self.states[file];
        self.buffer.resize(READ_BACK, 0);
        while *seen < until {
            let length = usize::try_from(until - *seen).unwrap_or(READ_BACK).min(READ_BACK);
            let piece = &mut self.buffer[..length];
            self.files[file].read_exact_at(piece, *seen)?;
            hasher.update(&*piece);
            *seen += length as u64;
        }
        Ok(())
    }

    fn publish(&self, file: usize) {
        let (hasher, seen) = &self.states[file];
        let state = (*seen, hex(&hasher.serialize()));
        let finished = (*seen == self.shared.parts[file].size).then(|| hex(&hasher.clone().finalize()));
        let is_over = finished.is_some();
        if let Some(progress) = self.shared.lock().get_mut(file) {
            progress.digest = Some(state);
            progress.finished = finished;
        }
        if is_over {
            self.shared.changed.notify_waiters();
        }
    }
}

/// Waits for the disk, and says in the journal what it has.
fn sync_again_and_again(shared: &Shared, files: &[Arc<File>]) {
    loop {
        let (state, wake) = &shared.sync;
        let mut wanted = state.lock().unwrap_or_else(PoisonError::into_inner);
        while !wanted.0 && !wanted.1 {
            wanted = wake.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
        if wanted.1 {
            return;
        }
        wanted.0 = false;
        drop(wanted);
        let started = Instant::now();
        if let Err(error) = sync_once(shared, files) {
            shared.fail(error);
            return;
        }
        let mut wanted = state.lock().unwrap_or_else(PoisonError::into_inner);
        while !wanted.1
            && let Some(left) = SYNC_PAUSE.checked_sub(started.elapsed())
        {
            wanted = wake.wait_timeout(wanted, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn sync_once(shared: &Shared, files: &[Arc<File>]) -> io::Result<()> {
    for (at, file) in files.iter().enumerate() {
        let (written, was_durable) = {
            let files = shared.lock();
            (files[at].journalled.clone(), files[at].durable.clone())
        };
        if written == was_durable {
            continue;
        }
        file.sync_data()?;
        shared.synced(&shared.parts[at].path);
        let mut fresh = written.clone();
        for range in was_durable.iter() {
            fresh.remove(range);
        }
        let lines: String = fresh
            .iter()
            .map(|range| journal::line(&Record::Durable { file: at, start: range.start, end: range.end }))
            .collect();
        let mut files = shared.lock();
        files[at].durable.insert_all(&fresh);
        drop(files);
        shared.append(&lines, true)?;
    }
    Ok(())
}

/// Makes sure that there is room for the whole file, and that no other one takes it.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size.max(1)) {
            Ok(()) => return file.set_len(size),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(size)
}

/// Bytes that are free where a folder is, for this user.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    // The folder itself may not be there yet.
    let there = folder.ancestors().find(|path| path.is_dir())?;
    let space = rustix::fs::statvfs(there).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// What tells one run of the machine from the next; empty when the system does not say.
pub(crate) fn boot_id() -> String {
    fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Whether a failure is that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a pull is to do, for the time after a crash. Waits for the disk.
pub(crate) fn note_wish(journal_path: &Path, wish: Wish) -> io::Result<()> {
    let mut file = fs_err::OpenOptions::new().append(true).open(journal_path)?;
    // A torn line must not swallow this one.
    file.write_all(format!("\n{}", journal::line(&Record::Wish(wish))).as_bytes())?;
    file.sync_data()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn restore(state: &str) -> Option<Sha256> {
    let bytes: Option<Vec<u8>> =
        state.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    let state = SerializedState::<Sha256>::try_from(bytes?.as_slice()).ok()?;
    Sha256::deserialize(&state).ok()
}
