//! The life of one pull: room, bytes, digests, and then a model.

use super::{
    disk::{self, Disk, Part},
    download::{Download, DownloadError, Patience, Shares},
    error::PullError,
    journal::{self, FileState, Replayed, Wish},
    plan::PullPlan,
};
use crate::{Model, ModelStore, downloads::TakeInError, outbound::Outbound, tasks::in_background};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Bytes that are left to others on the disk.
pub(crate) const SPARE: u64 = 64 << 20;
/// Room that the journal and the list of models need.
const JOURNAL: u64 = 1 << 20;
/// How often the digests are looked at when all bytes are there.
const LOOK: Duration = Duration::from_millis(50);

/// What a job tells while it runs.
#[derive(Debug)]
pub(crate) enum News {
    /// The files are open.
    Begun,
    /// Bytes of each file that are safe, the rate, and what is in the way.
    Bytes(Vec<u64>, f64, Option<String>),
    /// All bytes are there.
    Verifying,
    /// It waits for room: so many bytes are missing.
    Full(u64),
}

/// What a job works with.
pub(crate) struct Job<'pulls> {
    pub(crate) store: &'pulls ModelStore,
    pub(crate) outbound: &'pulls Outbound,
    pub(crate) shares: &'pulls Shares,
    pub(crate) plan: &'pulls Arc<PullPlan>,
    pub(crate) width: usize,
    pub(crate) patience: Patience,
    /// Where what still writes can be waited for, also when the job was dropped.
    pub(crate) writing: &'pulls Writing,
}

/// What of a job cannot be dropped.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    /// The threads that may outlive it for a moment.
    threads: Mutex<Option<mpsc::Receiver<()>>>,
    /// The model is being put on the list.
    finishing: AtomicBool,
}

impl Writing {
    /// Whether it is too late to stop.
    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Acquire)
    }

    /// Waits until nothing writes any more.
    pub(crate) async fn ended(&self) {
        let taken = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut receiver) = taken {
            // Nobody sends: it ends with the last of the threads.
            let _ = receiver.recv().await;
        }
    }
}

impl Job<'_> {
    fn parts(&self) -> Vec<Part> {
        let folder = self.store.0.layout.partial(&self.plan.id);
        self.plan.files.iter().map(|file| Part { path: folder.join(&file.name), size: file.size }).collect()
    }

    /// Runs to its end. Dropping it loses nothing that was journalled.
    pub(crate) async fn run(&self, mut tell: impl FnMut(News)) -> Result<Arc<Model>, PullError> {
        loop {
            self.wait_for_room(&mut tell).await;
            let opened = async {
                let states = self.prepare().await?;
                Ok::<_, PullError>((self.open(&states).await?, states))
            };
            let (disk, states) = match opened.await {
                Err(error) if error.is_full_disk() => {
                    self.wait_after_full(&mut tell).await;
                    continue;
                }
                opened => opened?,
            };
            tell(News::Begun);
            tell(News::Bytes(disk.journalled_by_file(), 0.0, None));
            match self.fetch(&disk, &states, &mut tell).await {
                Ok(digests) => {
                    drop(disk);
                    match self.finish(digests).await {
                        Err(error) if error.is_full_disk() => {
                            self.writing.finishing.store(false, Ordering::Release);
                            self.wait_after_full(&mut tell).await;
                        }
                        finished => return finished,
                    }
                }
                Err(error) if error.is_full_disk() => {
                    drop(disk);
                    self.writing.ended().await;
                    self.wait_after_full(&mut tell).await;
                }
                Err(error @ (PullError::WrongDigest { .. } | PullError::Download(DownloadError::Changed { .. }))) => {
                    drop(disk);
                    self.writing.ended().await;
                    discard(self.store, &self.plan.id);
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn fetch(
        &self,
        disk: &Disk,
        states: &[FileState],
        tell: &mut impl FnMut(News),
    ) -> Result<Vec<String>, PullError> {
        let download =
            Download::new((self.outbound, self.shares), &self.plan.files, (disk, states), self.width, self.patience);
        download.run(|rate, trouble| tell(News::Bytes(disk.journalled_by_file(), rate, trouble))).await?;
        tell(News::Verifying);
        let mut digests = Vec::new();
        for (at, file) in self.plan.files.iter().enumerate() {
            let computed = loop {
                let _ = tokio::time::timeout(LOOK, async {
                    if disk.digest(at).is_none() && disk.failure().is_none() {
                        disk.changed().await;
                    }
                })
                .await;
                if let Some(digest) = disk.digest(at) {
                    break digest;
                }
                if let Some(error) = disk.failure() {
                    return Err(DownloadError::Disk(error).into());
                }
            };
            if let Some(promised) = file.sha256.as_ref().filter(|promised| **promised != computed) {
                let (file, promised) = (file.name.clone(), promised.clone());
                return Err(PullError::WrongDigest { file, computed, promised });
            }
            digests.push(computed);
        }
        tell(News::Bytes(self.plan.files.iter().map(|file| file.size).collect(), 0.0, None));
        Ok(digests)
    }

    /// What the journal says is there, as far as it really is. The journal is made short.
    async fn prepare(&self) -> Result<Vec<FileState>, PullError> {
        let (store, plan, parts) = (self.store.clone(), Arc::clone(self.plan), self.parts());
        in_background(move || {
            let failed = |source| PullError::Disk { action: "go on with a download", source };
            let path = store.0.layout.journal(&plan.id);
            let boot = disk::boot_id();
            // A damaged line says nothing; the others count.
            let text = String::from_utf8_lossy(&fs_err::read(&path).map_err(failed)?).into_owned();
            let mut known = journal::replay(&text, &boot).unwrap_or_else(|| Replayed::new(&plan));
            store.0.config.files.make_folder(&store.0.layout.partial(&plan.id)).map_err(failed)?;
            for ((state, part), file) in known.files.iter_mut().zip(&parts).zip(&plan.files) {
                if file.sha256.is_none() && state.tag.is_none() && !state.done.is_empty() {
                    // Nothing would tell whether the rest is of the same version.
                    tracing::info!(file = file.name, "neither a digest nor a version is known: it is fetched anew");
                    *state = FileState::default();
                }
                let whole = fs_err::symlink_metadata(&part.path).is_ok_and(|it| it.is_file() && it.len() == part.size);
                if !whole {
                    *state = FileState::default();
                } else if !state.done.is_empty() {
                    fs_err::File::open(&part.path).and_then(|file| file.sync_data()).map_err(failed)?;
                }
            }
            known.wish = Wish::Run;
            store.0.config.files.replace(&path, journal::compact(&known, &boot).as_bytes()).map_err(failed)?;
            Ok(known.files)
        })
        .await
    }

    async fn open(&self, states: &[FileState]) -> Result<Disk, PullError> {
        let (parts, states) = (self.parts(), states.to_vec());
        let journal = self.store.0.layout.journal(&self.plan.id);
        let flush = super::download::credit(self.plan.bytes()) / 8;
        let files = self.store.0.config.files.clone();
        let (disk, ended) = in_background(move || {
            Disk::open(parts, &states, &journal, flush, files)
                .map_err(|source| PullError::Disk { action: "write a download", source })
        })
        .await?;
        self.writing.threads.lock().unwrap_or_else(PoisonError::into_inner).replace(ended);
        Ok(disk)
    }

    async fn wait_for_room(&self, tell: &mut impl FnMut(News)) {
        loop {
            let (partial, plan) = (self.store.0.layout.partial(&self.plan.id), Arc::clone(self.plan));
            let missing = in_background(move || missing_room(&plan, &partial)).await;
            if missing == 0 {
                return;
            }
            tell(News::Full(missing));
            tokio::time::sleep(self.patience.room).await;
        }
    }

    /// The disk said that it is full, whatever it says of its room: time must pass before it is tried again.
    async fn wait_after_full(&self, tell: &mut impl FnMut(News)) {
        tell(News::Full(0));
        tokio::time::sleep(self.patience.room).await;
    }

    /// Makes a model of the files. From here on dropping the job would stop nothing.
    async fn finish(&self, digests: Vec<String>) -> Result<Arc<Model>, PullError> {
        self.writing.finishing.store(true, Ordering::Release);
        let (store, plan) = (self.store.clone(), Arc::clone(self.plan));
        self.writing.ended().await;
        in_background(move || {
            let journal = store.0.layout.journal(&plan.id);
            // After a power cut the list may be on the disk and the bytes not: then they are checked again.
            disk::note_wish(&journal, Wish::Settle)
                .map_err(|source| PullError::Disk { action: "write the journal of a download", source })?;
            match store.take_in(&plan, &store.0.layout.partial(&plan.id), &digests) {
                Ok(model) => Ok(model),
                Err(error) => {
                    let error = PullError::from(error);
                    if matches!(error, PullError::TakeIn(TakeInError::BadFile(_))) {
                        discard(&store, &plan.id);
                    } else if error.is_full_disk() {
                        // Its folder may be in its place already.
                        store.take_back(&plan);
                    } else {
                        let _ = disk::note_wish(&journal, Wish::Fail);
                    }
                    Err(error)
                }
            }
        })
        .await
    }
}

/// Waits until a model is safe on the disk, and forgets how it came there. Blocks.
pub(crate) fn settle(store: &ModelStore, model: &Model, plan: &PullPlan) {
    let folder = model.path.parent().map(Path::to_owned).unwrap_or_default();
    for file in &plan.files {
        let synced = fs_err::File::open(folder.join(&file.name)).and_then(|file| file.sync_all());
        if let Err(error) = synced {
            // The journal stays: the next start checks the model.
            tracing::warn!(%error, "a downloaded model is not safe on the disk yet");
            return;
        }
    }
    if let Err(error) = store.0.config.files.remove(&store.0.layout.journal(&plan.id)) {
        tracing::debug!(%error, "the journal of a download stays");
    }
}

/// Throws away what there is of a pull. Blocks.
pub(crate) fn discard(store: &ModelStore, id: &crate::ModelId) {
    let files = &store.0.config.files;
    let folder = store.0.layout.partial(id);
    let entries = fs_err::read_dir(&folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let gathered: Vec<PathBuf> = entries.unwrap_or_default();
    for path in gathered.iter().filter(|path| fs_err::symlink_metadata(path).is_ok_and(|it| !it.is_dir())) {
        if let Err(error) = files.remove(path) {
            tracing::warn!(%error, "a file of a download stays");
        }
    }
    let _ = files.remove_empty_folder(&folder);
    if let Err(error) = files.remove(&store.0.layout.journal(id)) {
        tracing::warn!(%error, "the journal of a download stays");
    }
}

/// Bytes that the disk lacks for what is not there yet.
fn missing_room(plan: &PullPlan, partial: &Path) -> u64 {
    #[cfg(unix)]
    let allocated = |metadata: std::fs::Metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    #[cfg(not(unix))]
    let allocated = |metadata: std::fs::Metadata| metadata.len();
    let needed = plan.files.iter().fold(0u64, |sum, file| {
        let there = fs_err::metadata(partial.join(&file.name)).map_or(0, allocated);
        sum.saturating_add(file.size.saturating_sub(there))
    });
    let Some(free) = disk::free_bytes(partial) else { return 0 };
    // What is there already needs only the journal.
    let spare = if needed == 0 { JOURNAL } else { SPARE };
    needed.saturating_add(spare).saturating_sub(free)
}

/// A failure that says where it happened.
pub(crate) fn disk_error(action: &'static str) -> impl Fn(io::Error) -> PullError {
    move |source| PullError::Disk { action, source }
}
