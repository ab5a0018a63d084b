//! Looks after the models while nobody waits: which files are there, what they say, and what the next
//! start should know of it. One thread; requests never wait for it.

use crate::{Model, ModelId, ModelStore, cache, details::Details, store::Inner};
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// How long what changed waits to be remembered on disk: changes come in crowds.
const SETTLE: Duration = Duration::from_secs(2);

/// How long a list may wait for a look at the files.
const LIST_WAITS: Duration = Duration::from_millis(100);

/// What the thread is asked for.
#[derive(Debug, Default)]
pub(crate) struct Work {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    /// Told when a look is over.
    over: Condvar,
    /// Held while the cache is written: whoever asks for it next waits until that is done.
    saving: Mutex<()>,
}

#[derive(Debug, Default)]
struct Wanted {
    look: bool,
    /// Models that are new.
    fresh: Vec<ModelId>,
    looked: Option<Instant>,
    /// Looks that began, and the last of them that has seen all files.
    begun: u64,
    seen: u64,
    /// Since when something is known that the cache does not say.
    unsaved: Option<Instant>,
    stop: bool,
}

/// What to do next.
enum Next {
    Look,
    LookAt(Vec<ModelId>),
    Save,
    Stop,
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for the files again when the last look is older than this, and waits a moment for it: most
    /// disks tell at once which files are there.
    pub(crate) fn somebody_lists(&self, longest: Duration) {
        if self.lock().looked.is_some_and(|at| at.elapsed() >= longest) {
            self.look_and_wait(LIST_WAITS);
        }
    }

    /// Looks for the files, and waits until all were seen, or for so long.
    pub(crate) fn look_and_wait(&self, longest: Duration) {
        let mut wanted = self.lock();
        wanted.look = true;
        let mine = wanted.begun + 1;
        self.wake.notify_all();
        let unseen = |wanted: &mut Wanted| wanted.seen < mine && !wanted.stop;
        drop(self.over.wait_timeout_while(wanted, longest, unseen));
    }

    /// All files were seen.
    fn all_seen(&self) {
        let mut wanted = self.lock();
        wanted.looked = Some(Instant::now());
        wanted.seen = wanted.begun;
        self.over.notify_all();
    }

    /// Looks for the files again.
    pub(crate) fn look_now(&self) {
        self.lock().look = true;
        self.wake.notify_one();
    }

    /// Looks at these models, which are new.
    pub(crate) fn look_at(&self, fresh: Vec<ModelId>) {
        self.lock().fresh.extend(fresh);
        self.wake.notify_one();
    }

    /// Something is known that the cache does not say.
    pub(crate) fn details_changed(&self) {
        self.lock().unsaved.get_or_insert_with(Instant::now);
        self.wake.notify_one();
    }

    /// Whether the cache is behind; it is taken to be saved now.
    fn take_unsaved(&self) -> bool {
        self.lock().unsaved.take().is_some()
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.over.notify_all();
        self.wake.notify_one();
    }

    fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    fn next(&self) -> Next {
        let mut wanted = self.lock();
        loop {
            if wanted.stop {
                return Next::Stop;
            }
            if wanted.look {
                wanted.look = false;
                wanted.begun += 1;
                wanted.fresh.clear();
                return Next::Look;
            }
            if !wanted.fresh.is_empty() {
                return Next::LookAt(std::mem::take(&mut wanted.fresh));
            }
            wanted = match wanted.unsaved.map(|since| SETTLE.saturating_sub(since.elapsed())) {
                Some(Duration::ZERO) => return Next::Save,
                Some(left) => self.wake.wait_timeout(wanted, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(wanted).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.work.stop();
    }
}

impl ModelStore {
    pub(crate) fn start_background(&self) {
        let (work, inner) = (Arc::clone(&self.0.work), Arc::downgrade(&self.0));
        let started = std::thread::Builder::new().name("models".into()).spawn(move || run(&work, &inner)).map(|_| ());
        if let Err(error) = started {
            tracing::warn!(%error, "nobody looks after the models");
            // Then nothing is known before somebody asks for it.
            self.first_look();
        }
    }

    /// Writes what is known for the next start, when something is new.
    pub fn save_cache(&self) {
        let _saving = self.0.work.saving.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.work.take_unsaved() {
            return;
        }
        let models = self.in_memory();
        let path = self.0.layout.cache();
        if let Err(error) = self.0.config.files.replace_disposable(&path, cache::print(models.iter()).as_bytes()) {
            tracing::debug!(%error, "the next start will know less");
        }
    }

    /// Looks which files are there, and reads those that are others than before.
    fn look(&self) {
        self.forget_deletions_taken_back();
        let to_read = self.look_over(self.in_memory());
        self.0.work.all_seen();
        self.read_all(to_read);
    }

    /// Which files of these models are there; returns those that are others than before.
    fn look_over(&self, models: Vec<Arc<Model>>) -> Vec<Arc<Model>> {
        let mut to_read = Vec::new();
        for model in models {
            if self.0.work.is_stopped() {
                return vec![];
            }
            let (present, stamps) = self.observe(&model);
            let model = if present == model.present {
                model
            } else {
                let found = Arc::new(Model { present, ..Model::clone(&model) });
                self.adopt_details(&found);
                found
            };
            if present && model.details.stamps() != Some(stamps) {
                to_read.push(model);
            }
        }
        to_read
    }

    fn read_all(&self, models: Vec<Arc<Model>>) {
        for model in models {
            if self.0.work.is_stopped() {
                return;
            }
            // Somebody who waits for this one has read it himself.
            let unread = self.get_in_memory(&model.id).is_some_and(|now| {
                now.path == model.path && (now.details == Details::Pending || now.details == model.details)
            });
            if unread {
                self.examine(&model);
            }
        }
    }
}

fn run(work: &Work, inner: &Weak<Inner>) {
    if let Some(inner) = inner.upgrade() {
        ModelStore(inner).first_look();
    }
    loop {
        let next = work.next();
        let Some(inner) = inner.upgrade() else { return };
        let store = ModelStore(inner);
        match next {
            Next::Look => store.look(),
            Next::LookAt(fresh) => {
                let fresh = fresh.iter().filter_map(|id| store.get_in_memory(id)).collect();
                store.read_all(store.look_over(fresh));
            }
            Next::Save => store.save_cache(),
            Next::Stop => return,
        }
    }
}
