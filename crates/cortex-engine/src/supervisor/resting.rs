//! Workers whose model had to make room for another: each has freed its context and waits with the vocabulary and the mapped file, so
//! that the model is loaded again without reading either. What it still holds of the memory is little, and goes when it is needed.

use crate::{ledger::Holding, worker::Resting};
use cortex_hardware::process_anonymous_bytes;
use cortex_models::{ModelFiles, ModelId};
use std::{os::unix::fs::MetadataExt, time::Duration};
use tokio::time::Instant;

/// Workers that rest at the same time.
const MOST: usize = 2;

/// The file of a model, as it was when it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    length: u64,
    modified: std::time::SystemTime,
    /// Another file of the same length and time may have taken its place.
    inode: u64,
}

impl Stamp {
    /// That of the weights; nothing when several files make a model, or what was loaded beside it would stay.
    pub(super) fn of(files: &ModelFiles) -> Option<Self> {
        if !files.adapters.is_empty() || files.draft_model.is_some() || files.mtp {
            return None;
        }
        let weights = &files.weights;
        let name = weights.file_stem()?.to_string_lossy();
        if name.contains("-of-") {
            return None;
        }
        let metadata = fs_err::metadata(weights).ok()?;
        Some(Self { length: metadata.len(), modified: metadata.modified().ok()?, inode: metadata.ino() })
    }
}

/// A worker that rests.
pub(crate) struct Rested {
    pub(super) id: ModelId,
    pub(super) files: ModelFiles,
    pub(super) stamp: Stamp,
    pub(super) worker: Resting,
    since: Instant,
}

impl Rested {
    pub(super) fn new(id: ModelId, files: ModelFiles, stamp: Stamp, worker: Resting) -> Self {
        Self { id, files, stamp, worker, since: Instant::now() }
    }
}

/// All of them, the longest resting first. Dropping one ends its process.
#[derive(Default)]
pub(super) struct RestingWorkers(Vec<Rested>);

impl RestingWorkers {
    pub(super) fn add(&mut self, rested: Rested) {
        self.forget(&rested.id);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(rested);
    }

    /// The one with this model, of these files.
    pub(super) fn take(&mut self, id: &ModelId, files: &ModelFiles) -> Option<Rested> {
        let at = self.0.iter().position(|it| it.id == *id && it.files == *files)?;
        Some(self.0.remove(at))
    }

    pub(super) fn forget(&mut self, id: &ModelId) {
        self.0.retain(|it| it.id != *id);
    }

    /// All of them but those of models that are wanted, to be ended.
    pub(super) fn take_others(&mut self, wanted: &[&ModelId]) -> Vec<Rested> {
        let (kept, others) = std::mem::take(&mut self.0).into_iter().partition(|it| wanted.contains(&&it.id));
        self.0 = kept;
        others
    }

    /// Bytes of memory that each has, without those of models that are wanted: their loads go on with what is there. And the bytes
    /// of all of them.
    pub(super) fn holdings(&self, wanted: &[&ModelId]) -> (Vec<Holding>, u64) {
        let (mut others, mut all) = (Vec::new(), 0u64);
        for it in &self.0 {
            let taken = process_anonymous_bytes(it.worker.pid());
            all = all.saturating_add(taken);
            if !wanted.contains(&&it.id) {
                others.push(Holding { reserved: taken, taken, graphics: 0 });
            }
        }
        (others, all)
    }

    /// Ends those that rest for longer.
    pub(super) fn forget_older(&mut self, time: Duration) {
        self.0.retain(|it| it.since.elapsed() < time);
    }

    /// When the next has rested for so long.
    pub(super) fn next_older(&self, time: Duration) -> Option<Instant> {
        self.0.iter().filter_map(|it| it.since.checked_add(time)).min()
    }
}
