//! The models on disk: read from memory, kept in step with `models.list`, changed by one function.

use crate::{
    DescribeError, ListProblem, Model, ModelFiles, ModelId, ModelState, ModelYaml, ResolveError, StoreError,
    background::Work,
    cache,
    details::{Commons, Details},
    files::{Files, Stamp},
    layout::{Layout, is_yaml},
    models_list::{self, ModelsList},
    turns::Turns,
    weights::Projectors,
};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// A file that was written so lately may be written again without its stamp telling: clocks of file
/// systems tick in milliseconds.
pub(crate) const TICK: Duration = Duration::from_millis(20);
/// How long a writer waits for a person's editor that seems to be amid its own writing.
pub(crate) const HALF_WRITTEN: Duration = Duration::from_millis(100);

/// What the store is told by the settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that everything lies in.
    pub data_folder: PathBuf,
    /// How old the knowledge of which files are there may be while somebody lists.
    pub presence_age: Duration,
    /// The way to the disk; another one in tests only.
    pub files: Files,
}

impl Config {
    /// The usual values.
    pub fn new(data_folder: impl Into<PathBuf>) -> Self {
        Self { data_folder: data_folder.into(), presence_age: Duration::from_secs(10), files: Files::default() }
    }
}

/// Which list is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ReadFrom {
    /// None.
    #[default]
    Nothing,
    /// There was no file.
    NoFile,
    /// The file that looked like this.
    File {
        stamp: Stamp,
        /// Of its text.
        hash: u64,
        /// Written so lately when it was read that its stamp may not tell the next change.
        young: bool,
    },
}

impl ReadFrom {
    fn new(stamp: Option<Stamp>, text: &str) -> Self {
        stamp.map_or(Self::NoFile, |stamp| Self::File { stamp, hash: hash(text), young: age(stamp) < TICK })
    }

    /// Whether the text is the same, whenever it was written.
    fn is_text_of(self, other: Self) -> bool {
        match (self, other) {
            (Self::File { hash: left, .. }, Self::File { hash: right, .. }) => left == right,
            (Self::NoFile, Self::NoFile) => true,
            _ => false,
        }
    }
}

/// Tells texts apart that the same file had within one tick of the clock; a whole list takes it a fraction of
/// a millisecond. The step is that of `FxHash` (Firefox, rustc).
fn hash(text: &str) -> u64 {
    let step = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let hash = words.iter().fold(text.len() as u64, |hash, word| step(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, &byte| step(hash, u64::from(byte)))
}

/// What is in memory.
#[derive(Default)]
pub(crate) struct Registry {
    read: ReadFrom,
    models: Vec<Arc<Model>>,
    /// Ids and aliases, and where their models are.
    places: HashMap<Box<str>, usize>,
    problems: Vec<ListProblem>,
}

/// Lets those in who wait, also after a panic.
struct Opened<'store>(&'store OnceLock<()>);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let _ = self.0.set(());
    }
}

impl Registry {
    fn get(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.get(*self.places.get(name)?)
    }

    /// Ids come before aliases, earlier lines before later ones.
    fn index(&mut self) {
        self.places.clear();
        for (at, model) in self.models.iter().enumerate() {
            self.places.insert(model.id.as_str().into(), at);
        }
        for (at, model) in self.models.iter().enumerate() {
            for alias in &model.aliases {
                self.places.entry(alias.as_str().into()).or_insert(at);
            }
        }
    }
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    registry: Mutex<Registry>,
    /// Set when the store is ready for its first request.
    opened: OnceLock<()>,
    /// What the last run knew; used once.
    remembered: Mutex<HashMap<ModelId, cache::Remembered>>,
    pub(crate) commons: Commons,
    pub(crate) turns: Turns,
    pub(crate) projectors: Projectors,
    revision: watch::Sender<u64>,
    pub(crate) work: Arc<Work>,
}

/// The models on disk. Cheap to clone.
#[derive(Clone)]
pub struct ModelStore(pub(crate) Arc<Inner>);

impl ModelStore {
    /// The store of a data folder. Returns at once: a thread of the store's own reads the list, ends what a
    /// crash interrupted, and then looks after the models until the last handle is gone. Whoever asks
    /// meanwhile waits for it. No file of the user's is written.
    pub fn open(config: Config) -> Self {
        let layout = Layout::new(config.data_folder.clone());
        // Greater in every later run, so that a client's memory of an earlier run is never taken for this one's.
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let (revision, _) = watch::channel(u64::try_from(start).unwrap_or(0));
        let store = Self(Arc::new(Inner {
            config,
            layout,
            registry: Mutex::default(),
            opened: OnceLock::new(),
            remembered: Mutex::default(),
            commons: Commons::default(),
            turns: Turns::default(),
            projectors: Projectors::default(),
            revision,
            work: Arc::default(),
        }));
        store.start_background();
        store
    }

    /// Brings the folder into order and the list into memory.
    pub(crate) fn first_look(&self) {
        // Whatever becomes of it: those who wait must not wait for ever.
        let _opened = Opened(&self.0.opened);
        *self.lock_remembered() = cache::load(&self.0.layout.cache(), &self.0.commons);
        self.clear_leftovers();
        if let Err(error) = self.end_deletions() {
            tracing::warn!(%error, "a deletion that was interrupted stays so");
        }
        if let Err(error) = self.refresh().map(drop) {
            tracing::error!(%error, "the list of models cannot be read");
            return;
        }
        self.lock_remembered().clear();
    }

    /// Waits until the first look is over.
    pub(crate) fn opened(&self) {
        self.0.opened.wait();
    }

    /// Removes what a crash left half-written. Only files that this program names so, and only plain ones.
    fn clear_leftovers(&self) {
        let layout = &self.0.layout;
        let starts =
            |path: &Path, start: &str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
        let mut leftovers = Vec::new();
        let imported = layout.models().join("imported");
        let caches = layout.cache().parent().map(Path::to_owned).unwrap_or_default();
        for folder in [layout.models(), imported, caches] {
            leftovers.extend(
                plain_files(&folder)
                    .into_iter()
                    .filter(|path| starts(path, ".cortex-") && path.extension().is_some_and(|ending| ending == "tmp")),
            );
        }
        let unfinished = fs_err::read_dir(layout.staging()).map(|entries| {
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
        });
        let unfinished: Vec<PathBuf> = unfinished
            .map(|paths| paths.filter(|path| starts(path, "import-") && path.extension().is_none()).collect())
            .unwrap_or_default();
        leftovers.extend(unfinished.iter().flat_map(|folder| plain_files(folder)));
        for path in leftovers {
            if let Err(error) = self.0.config.files.remove(&path) {
                tracing::debug!(%error, "a leftover stays");
            }
        }
        for folder in unfinished {
            let _ = self.0.config.files.remove_empty_folder(&folder);
        }
    }

    /// The folder that everything lies in.
    pub fn data_folder(&self) -> &Path {
        self.0.layout.data()
    }

    /// Changes with everything that a list of the models shows.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// The revision that [`ModelStore::list`] would show now.
    pub fn current_revision(&self) -> Result<u64, StoreError> {
        self.opened();
        self.0.work.somebody_lists(self.0.config.presence_age);
        drop(self.refresh()?);
        Ok(*self.0.revision.borrow())
    }

    /// All models, in the order of the list, and the revision that this is. Opens no file of a model.
    pub fn list(&self) -> Result<(Vec<Arc<Model>>, u64), StoreError> {
        self.opened();
        self.0.work.somebody_lists(self.0.config.presence_age);
        let registry = self.refresh()?;
        Ok((registry.models.clone(), *self.0.revision.borrow()))
    }

    /// Looks for the files of all models now, and waits until all were seen, or for so long.
    pub fn look_at_files(&self, longest: Duration) {
        self.opened();
        self.0.work.look_and_wait(longest);
    }

    /// How many model.yaml files of ours there are, when there is no list, or an empty one: it was lost.
    pub fn lost_list(&self) -> usize {
        if self.list().is_ok_and(|(models, _)| !models.is_empty()) {
            return 0;
        }
        let imported = self.0.layout.models().join("imported");
        plain_files(&imported).iter().filter(|path| is_yaml(path)).count()
    }

    /// Lines of the list that make no sense.
    pub fn problems(&self) -> Result<Vec<ListProblem>, StoreError> {
        self.opened();
        Ok(self.refresh()?.problems.clone())
    }

    /// The model with this id, or else this alias.
    pub fn resolve(&self, name: &str) -> Result<Arc<Model>, ResolveError> {
        self.opened();
        self.find(name)
    }

    /// The same for those who must not wait for the first look, because they are part of it.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Model>, ResolveError> {
        let registry = self.refresh()?;
        if let Some(model) = registry.get(name) {
            return Ok(Arc::clone(model));
        }
        let lower = name.to_lowercase();
        let similar = registry
            .models
            .iter()
            .find(|model| !lower.is_empty() && model.id.as_str().to_lowercase().contains(&lower))
            .map(|model| model.id.clone());
        Err(ResolveError::Unknown { name: name.to_owned(), similar })
    }

    /// The model as it is now: its files are looked for, and read again when they are others than before.
    pub fn current(&self, name: &str) -> Result<Arc<Model>, ResolveError> {
        let model = self.resolve(name)?;
        let (present, stamps) = self.observe(&model);
        let is_same = model.details.stamps() == Some(stamps) && !matches!(model.details, Details::Broken { .. });
        if present == model.present && (!present || is_same) {
            return Ok(model);
        }
        Ok(self.examine(&model))
    }

    /// A model that can be loaded: its values, and the file that its weights begin with.
    pub fn usable(&self, model: &Model) -> Result<(ModelYaml, ModelFiles), DescribeError> {
        let missing = |path: &Path| DescribeError::Missing { id: model.id.clone(), path: path.to_owned() };
        match model.state() {
            ModelState::Missing => {
                let lost = model.weight_files().into_iter().find(|file| !file.is_file());
                Err(missing(&lost.unwrap_or_else(|| model.path.clone())))
            }
            ModelState::Broken { reason } => {
                Err(DescribeError::Broken { id: model.id.clone(), reason: reason.to_string() })
            }
            ModelState::Ready => self.known_files(model).ok_or_else(|| missing(&model.path)),
        }
    }

    /// What is known of a model that was read, whether its files are still there or not.
    pub fn known_files(&self, model: &Model) -> Option<(ModelYaml, ModelFiles)> {
        let yaml = model.yaml()?;
        let files = model.files(&yaml, &self.0.layout)?;
        Some((yaml, files))
    }

    /// Takes what was found out about a model, unless its line has changed meanwhile.
    pub(crate) fn adopt_details(&self, found: &Arc<Model>) {
        let mut registry = self.lock();
        let Some(&place) = registry.places.get(found.id.as_str()) else { return };
        let Some(now) = registry.models.get_mut(place) else { return };
        if now.id != found.id || !now.is_same_line(found) || **now == **found {
            return;
        }
        *now = Arc::clone(found);
        drop(registry);
        self.0.work.details_changed();
        self.changed();
    }

    fn changed(&self) {
        self.0.revision.send_modify(|revision| *revision += 1);
    }

    /// One model as it is in memory now, whatever the list says by now.
    pub(crate) fn get_in_memory(&self, id: &ModelId) -> Option<Arc<Model>> {
        self.lock().get(id.as_str()).filter(|model| model.id == *id).cloned()
    }

    /// What is in memory now, whatever the list says by now.
    pub(crate) fn in_memory(&self) -> Vec<Arc<Model>> {
        self.lock().models.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_remembered(&self) -> MutexGuard<'_, HashMap<ModelId, cache::Remembered>> {
        self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_list(&self) -> Result<(String, Option<Stamp>), StoreError> {
        let path = self.0.layout.list();
        // The stamp first: what is written while we read has another one.
        let stamp = Stamp::of(&path);
        match fs_err::read(&path) {
            Ok(bytes) => Ok((models_list::decode(bytes), stamp)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((String::new(), None)),
            Err(source) => Err(StoreError::Io { action: "cannot read the list of models", source }),
        }
    }

    /// Reads the list again when it is another file than before.
    pub(crate) fn refresh(&self) -> Result<MutexGuard<'_, Registry>, StoreError> {
        let stamp = Stamp::of(&self.0.layout.list());
        let mut registry = self.lock();
        match registry.read {
            ReadFrom::File { stamp: known, young: false, .. } if stamp == Some(known) => {}
            ReadFrom::NoFile if stamp.is_none() => {}
            before => {
                let (text, stamp) = self.read_list()?;
                let now = ReadFrom::new(stamp, &text);
                if before.is_text_of(now) {
                    registry.read = now;
                } else {
                    self.adopt_list(&mut registry, models_list::parse(&text), now);
                }
            }
        }
        Ok(registry)
    }

    /// Takes a list into memory. What is known of models that are still on it stays known.
    fn adopt_list(&self, registry: &mut Registry, list: ModelsList<'_>, read: ReadFrom) {
        let mut remembered = self.lock_remembered();
        let problems = list.problems.clone();
        let mut different = registry.read == ReadFrom::Nothing || registry.problems != problems;
        let before = registry.models.len();
        let mut models = Vec::with_capacity(list.count());
        for entry in list.into_entries() {
            let known = registry.places.get(&*entry.id).and_then(|&at| registry.models.get(at));
            let known = known.filter(|known| known.id.as_str() == entry.id);
            if let Some(known) = known.filter(|known| known.is_of(&entry, &self.0.layout)) {
                different |= registry.models.get(models.len()).is_none_or(|now| now.id != known.id);
                models.push(Arc::clone(known));
                continue;
            }
            let mut model = Model::of_entry(entry, &self.0.layout);
            if let Some(known) = known {
                if known.path == model.path {
                    model.present = known.present;
                    model.details = known.details.clone();
                }
            } else if let Some(last_run) = remembered.remove(&model.id)
                && last_run.path == model.path
            {
                model.details = last_run.details;
            }
            different = true;
            models.push(Arc::new(model));
        }
        different |= models.len() != before;
        registry.models = models;
        registry.problems = problems;
        registry.read = read;
        if different {
            registry.index();
            self.changed();
            self.0.work.look_now();
        }
    }

    /// The only way in which the registry changes. `edit` works on the list as it is on disk at that
    /// moment; what it leaves is written whole or not at all. Nobody else writes meanwhile.
    pub(crate) fn commit<T, E: From<StoreError>>(
        &self,
        edit: impl FnOnce(&mut ModelsList<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = self.lock_list()?;
        let (text, before) = self.settled_list()?;
        let mut list = models_list::parse(&text);
        let outcome = edit(&mut list)?;
        let changed = list.print();
        if changed != text && (list.count() > 0 || !text.is_empty()) {
            match self.0.config.files.replace(&self.0.layout.list(), &models_list::encode(&changed)) {
                Ok(stamp) => {
                    self.adopt_written(&list, (&changed, ReadFrom::new(stamp, &changed)), ReadFrom::new(before, &text));
                }
                Err(source) => {
                    // The list may be the new one all the same.
                    drop(self.refresh()?);
                    return Err(StoreError::Io { action: "cannot write the list of models", source }.into());
                }
            }
        }
        Ok(outcome)
    }

    /// Takes the list that was just written into memory: only what was added, when that is all.
    fn adopt_written(&self, list: &ModelsList<'_>, (text, now): (&str, ReadFrom), before: ReadFrom) {
        let mut registry = self.lock();
        let in_step = registry.read.is_text_of(before);
        let Some(added) = list.only_added().filter(|_| in_step) else {
            // Read anew: of two lines with one id the second counts when the first is gone.
            self.adopt_list(&mut registry, models_list::parse(text), now);
            return;
        };
        let mut fresh = Vec::new();
        for entry in added {
            let model = Arc::new(Model::of_entry(entry.clone(), &self.0.layout));
            let place = registry.models.len();
            registry.places.insert(model.id.as_str().into(), place);
            for alias in &model.aliases {
                registry.places.entry(alias.as_str().into()).or_insert(place);
            }
            fresh.push(model.id.clone());
            registry.models.push(model);
        }
        registry.read = now;
        drop(registry);
        self.changed();
        self.0.work.look_at(fresh);
    }

    /// The text of the list as it is on disk now.
    pub(crate) fn list_on_disk(&self) -> Result<String, StoreError> {
        Ok(self.read_list()?.0)
    }

    /// The text of the list. An editor that seems to be amid its writing gets a moment to end it.
    fn settled_list(&self) -> Result<(String, Option<Stamp>), StoreError> {
        loop {
            let (text, stamp) = self.read_list()?;
            let whole = text.ends_with('\n');
            if whole || stamp.is_none_or(|stamp| age(stamp) >= HALF_WRITTEN) {
                return Ok((text, stamp));
            }
            std::thread::sleep(TICK);
        }
    }

    pub(crate) fn lock_list(&self) -> Result<std::fs::File, StoreError> {
        let failed = |source| StoreError::Io { action: "cannot lock the list of models", source };
        self.0.config.files.make_folder(&self.0.layout.models()).map_err(failed)?;
        let file = fs_err::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.0.layout.list_lock())
            .map_err(failed)?
            .into_file();
        file.lock().map_err(failed)?;
        Ok(file)
    }
}

/// The files that lie in a folder; links are none.
fn plain_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(folder) else { return vec![] };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .collect()
}

/// How long ago the file was written; nothing when its time is in the future.
pub(crate) fn age(stamp: Stamp) -> Duration {
    let modified = Duration::from_nanos(u64::try_from(stamp.modified).unwrap_or(0));
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + modified).unwrap_or_default()
}
