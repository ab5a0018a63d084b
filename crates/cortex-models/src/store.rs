//! The models on disk: read from memory, kept in step with `models.list`, changed by one function.

use crate::{
    ErrorKind, Gguf, GgufError, Import, ImportError, Imported, ListProblem, ModelId, ModelYaml, atomic, import,
    models_list::{self, Entry},
};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::watch;

/// How old the knowledge of which files are there may be.
const PRESENCE_AGE: Duration = Duration::from_secs(10);

/// What the store is told by the settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that everything lies in.
    pub data_folder: PathBuf,
}

/// One model of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What the list points to: weights or a model.yaml; absolute.
    pub path: PathBuf,
    /// Where it came from.
    pub author_repo: String,
    /// Which branch of that, or how it came.
    pub branch: String,
    /// Whether its file is there.
    pub state: ModelState,
}

/// Whether a model can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// Its file was there when it was last looked for.
    Ready,
    /// Its file is not there: moved, deleted, or on a drive that is not mounted.
    Missing,
}

/// Why the list could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the data folder could not be used.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's reason, with the path.
        source: io::Error,
    },
}

impl StoreError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Internal
    }
}

/// Why a name means no model.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No id and no alias is like this.
    #[error("the model `{name}` is not known")]
    Unknown {
        /// The name given.
        name: String,
        /// An id that looks like it.
        similar: Option<ModelId>,
    },
    /// The list could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResolveError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { similar: Some(id), .. } => Some(format!("did you mean `{id}`?")),
            Self::Unknown { .. } => Some("`cortex list` shows the models, `cortex import FILE.gguf` adds one".into()),
            Self::Store(_) => None,
        }
    }
}

/// Why nothing can be said about a model.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// Its file is not there.
    #[error("the file {} of the model `{id}` is missing", path.display())]
    Missing {
        /// The model.
        id: ModelId,
        /// Where the file should be.
        path: PathBuf,
    },
    /// Its weights are damaged.
    #[error("the model `{id}` is broken: {source}")]
    Broken {
        /// The model.
        id: ModelId,
        /// What is wrong.
        source: GgufError,
    },
    /// Its yaml names no weights.
    #[error("{} names no weights for the model `{id}`", path.display())]
    NoWeights {
        /// The model.
        id: ModelId,
        /// Its yaml.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DescribeError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::Broken { .. } | Self::NoWeights { .. } => ErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some("put the file back, or mount its drive".into()),
            Self::Broken { .. } => Some("download or copy the file again".into()),
            Self::NoWeights { .. } => Some("add its path under `files:`".into()),
            Self::Store(_) => None,
        }
    }
}

/// What tells that a file is another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs_err::metadata(path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len(), inode })
    }
}

#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    models: Vec<Arc<Model>>,
    by_name: HashMap<String, Arc<Model>>,
    problems: Vec<ListProblem>,
    looked: Option<Instant>,
    described: HashMap<ModelId, (Stamp, Arc<ModelYaml>)>,
}

struct Inner {
    config: Config,
    list: PathBuf,
    known: Mutex<Known>,
    revision: watch::Sender<u64>,
}

/// The models on disk. Cheap to clone.
#[derive(Clone)]
pub struct ModelStore(Arc<Inner>);

impl ModelStore {
    /// Opens the store of a data folder. Nothing is written.
    pub fn open(config: Config) -> Result<Self, StoreError> {
        let list = config.data_folder.join("models").join("models.list");
        let (revision, _) = watch::channel(0);
        let store = Self(Arc::new(Inner { config, list, known: Mutex::default(), revision }));
        drop(store.refresh(false)?);
        Ok(store)
    }

    /// The folder that everything lies in.
    pub fn data_folder(&self) -> &Path {
        &self.0.config.data_folder
    }

    /// Changes with every change of the list.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// All models, in the order of the list. Opens no file of a model.
    pub fn list(&self) -> Result<Vec<Arc<Model>>, StoreError> {
        Ok(self.refresh(true)?.models.clone())
    }

    /// Lines of the list that make no sense.
    pub fn problems(&self) -> Result<Vec<ListProblem>, StoreError> {
        Ok(self.refresh(false)?.problems.clone())
    }

    /// The model with this id, or else this alias.
    pub fn resolve(&self, name: &str) -> Result<Arc<Model>, ResolveError> {
        let known = self.refresh(false)?;
        if let Some(model) = known.by_name.get(name) {
            return Ok(Arc::clone(model));
        }
        let lower = name.to_lowercase();
        let similar = known
            .models
            .iter()
            .find(|model| !lower.is_empty() && model.id.as_str().to_lowercase().contains(&lower))
            .map(|model| model.id.clone());
        Err(ResolveError::Unknown { name: name.to_owned(), similar })
    }

    /// What is known of a model: its model.yaml, which is made from the weights when it is not there.
    /// One that is damaged is set aside, with its content, and made again.
    pub fn describe(&self, model: &Model) -> Result<Arc<ModelYaml>, DescribeError> {
        if let Some(known) = self.described(model) {
            return Ok(known);
        }
        let is_yaml = is_yaml(&model.path);
        let path = if is_yaml { model.path.clone() } else { self.yaml_path(&model.id) };
        let io = |action, source| StoreError::Io { action, source };
        let yaml = match fs_err::read_to_string(&path) {
            Ok(text) => match ModelYaml::parse(&text) {
                Ok(yaml) => Some(yaml),
                Err(error) => {
                    tracing::warn!(model = %model.id, %error, path = %path.display(), "set aside");
                    set_aside(&path, &text).map_err(|source| io("cannot set a damaged model.yaml aside", source))?;
                    None
                }
            },
            Err(_) => None,
        };
        let yaml = match yaml {
            Some(yaml) => yaml,
            None if is_yaml => {
                return Err(DescribeError::Missing { id: model.id.clone(), path });
            }
            None => {
                if !model.path.is_file() {
                    return Err(DescribeError::Missing { id: model.id.clone(), path: model.path.clone() });
                }
                let gguf =
                    Gguf::open(&model.path).map_err(|source| DescribeError::Broken { id: model.id.clone(), source })?;
                let yaml = ModelYaml::from_gguf(&gguf, &model.id, None, &model.path);
                atomic::write(&path, yaml.print().as_bytes())
                    .map_err(|source| io("cannot write a model.yaml", source))?;
                yaml
            }
        };
        let yaml = Arc::new(yaml);
        if let Some(stamp) = Stamp::of(&path) {
            self.lock().described.insert(model.id.clone(), (stamp, Arc::clone(&yaml)));
        }
        Ok(yaml)
    }

    /// What [`ModelStore::describe`] would say, if that needs no reading.
    pub fn described(&self, model: &Model) -> Option<Arc<ModelYaml>> {
        let path = if is_yaml(&model.path) { model.path.clone() } else { self.yaml_path(&model.id) };
        let stamp = Stamp::of(&path)?;
        let known = self.lock();
        let (seen, yaml) = known.described.get(&model.id)?;
        (*seen == stamp).then(|| Arc::clone(yaml))
    }

    /// The weights of a model, which are there now.
    pub fn weights(&self, model: &Model, yaml: &ModelYaml) -> Result<PathBuf, DescribeError> {
        let path = if is_yaml(&model.path) {
            let Some(file) = yaml.texts("files").into_iter().next() else {
                return Err(DescribeError::NoWeights { id: model.id.clone(), path: model.path.clone() });
            };
            self.absolute(&file)
        } else {
            model.path.clone()
        };
        if path.is_file() { Ok(path) } else { Err(DescribeError::Missing { id: model.id.clone(), path }) }
    }

    /// Takes a model in by reference. The list is written whole or not at all.
    pub fn import(&self, request: &Import) -> Result<Imported, ImportError> {
        let canonical = import::check(request)?;
        let _lock = self.lock_list()?;
        // Under the lock nobody else writes; what a person wrote meanwhile is read here.
        let (mut list, _) = self.read_list()?;
        let existing = list.entries().find(|entry| entry.id == request.id).map(|entry| self.absolute(&entry.path));
        if let Some(existing) = existing {
            let same = fs_err::canonicalize(&existing).is_ok_and(|path| path == canonical);
            if !same {
                return Err(ImportError::AlreadyExists {
                    id: request.id.clone(),
                    existing,
                    given: request.path.clone(),
                });
            }
            let model = self.refresh(false)?.by_name.get(request.id.as_str()).cloned();
            return match model {
                Some(model) => Ok(Imported { model, already_there: true }),
                None => Err(StoreError::Io {
                    action: "the list changed while it was read",
                    source: io::Error::other("try again"),
                }
                .into()),
            };
        }
        let entry = Entry {
            id: request.id.clone(),
            author_repo: "local".into(),
            branch: "imported".into(),
            path: request.path.to_string_lossy().into_owned(),
            aliases: vec![],
            status: "downloaded".into(),
        };
        let model = Arc::new(self.model_of(&entry));
        if let Some(name) = &request.name {
            self.write_named_yaml(&model, name)?;
        }
        list.upsert(entry);
        atomic::write(&self.0.list, list.print().as_bytes())
            .map_err(|source| StoreError::Io { action: "cannot write the list of models", source })?;
        drop(self.refresh(false)?);
        Ok(Imported { model, already_there: false })
    }

    fn write_named_yaml(&self, model: &Model, name: &str) -> Result<(), ImportError> {
        let gguf =
            Gguf::open(&model.path).map_err(|source| ImportError::BadFile { path: model.path.clone(), source })?;
        let yaml = ModelYaml::from_gguf(&gguf, &model.id, Some(name), &model.path);
        atomic::write(&self.yaml_path(&model.id), yaml.print().as_bytes())
            .map_err(|source| StoreError::Io { action: "cannot write a model.yaml", source }.into())
    }

    /// Where our own yaml of a model lies. Nothing is ever written outside of the data folder.
    fn yaml_path(&self, id: &ModelId) -> PathBuf {
        self.data_folder().join("models").join("imported").join(format!("{}.yaml", id.file_name()))
    }

    fn absolute(&self, path: &str) -> PathBuf {
        // Joining an absolute path gives that path.
        self.data_folder().join(path)
    }

    fn model_of(&self, entry: &Entry) -> Model {
        let path = self.absolute(&entry.path);
        let state = if path.is_file() { ModelState::Ready } else { ModelState::Missing };
        Model {
            id: entry.id.clone(),
            aliases: entry.aliases.clone(),
            path,
            author_repo: entry.author_repo.clone(),
            branch: entry.branch.clone(),
            state,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_list(&self) -> Result<(models_list::ModelsList, Option<Stamp>), StoreError> {
        let stamp = Stamp::of(&self.0.list);
        let text = match fs_err::read(&self.0.list) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(StoreError::Io { action: "cannot read the list of models", source }),
        };
        Ok((models_list::parse(&text), stamp))
    }

    /// Reads the list again when it is another file than before; looks for the weights again when the
    /// last look is old and somebody wants to know.
    fn refresh(&self, look: bool) -> Result<MutexGuard<'_, Known>, StoreError> {
        let stamp = Stamp::of(&self.0.list);
        let mut known = self.lock();
        if known.looked.is_none() || known.stamp != stamp {
            let (list, stamp) = self.read_list()?;
            known.models = list.entries().map(|entry| Arc::new(self.model_of(entry))).collect();
            known.problems = list.problems;
            known.stamp = stamp;
            known.looked = Some(Instant::now());
            index(&mut known);
            self.0.revision.send_modify(|revision| *revision += 1);
        } else if look && known.looked.is_none_or(|at| at.elapsed() > PRESENCE_AGE) {
            known.looked = Some(Instant::now());
            let mut changed = false;
            for model in &mut known.models {
                let state = if model.path.is_file() { ModelState::Ready } else { ModelState::Missing };
                if model.state != state {
                    *model = Arc::new(Model { state, ..(**model).clone() });
                    changed = true;
                }
            }
            if changed {
                index(&mut known);
                self.0.revision.send_modify(|revision| *revision += 1);
            }
        }
        Ok(known)
    }

    fn lock_list(&self) -> Result<std::fs::File, StoreError> {
        let failed = |source| StoreError::Io { action: "cannot lock the list of models", source };
        let folder = self.data_folder().join("models");
        fs_err::create_dir_all(&folder).map_err(failed)?;
        let file = fs_err::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(".models.list.lock"))
            .map_err(failed)?
            .into_file();
        file.lock().map_err(failed)?;
        Ok(file)
    }
}

/// Ids come before aliases.
fn index(known: &mut Known) {
    let mut by_name = HashMap::new();
    for model in &known.models {
        for alias in &model.aliases {
            by_name.entry(alias.clone()).or_insert_with(|| Arc::clone(model));
        }
    }
    for model in &known.models {
        by_name.insert(model.id.to_string(), Arc::clone(model));
    }
    known.by_name = by_name;
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("yaml") || ending.eq_ignore_ascii_case("yml"))
}

/// Keeps the content of a damaged file under a name that is not taken.
fn set_aside(path: &Path, text: &str) -> io::Result<()> {
    for number in 1u32.. {
        let aside = path.with_extension(format!("yaml.damaged-{number}"));
        if !aside.exists() {
            return atomic::write(&aside, text.as_bytes());
        }
    }
    Ok(())
}
