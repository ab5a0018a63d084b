//! Taking models in. By reference nothing of the user's is touched; copies are made aside and appear whole.

use crate::{
    ErrorKind, InvalidId, Model, ModelId, ModelStore, ResolveError, StoreError, deletions,
    layout::is_plain,
    models_list::{self, Entry, ModelsList},
    shards::{self, Shard},
    weights::{self, WeightsError},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How the files get into the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The files stay where they are and are never written.
    #[default]
    Reference,
    /// They are copied into the data folder.
    Copy,
    /// They are moved into the data folder: the only way in which a user's file is changed.
    Move,
    /// They get a second name in the data folder, on the same file system.
    HardLink,
}

impl Mode {
    /// Reads an option of a request, whatever its case. Jan's `MOVE_BINARY_FILE` never moved anything.
    pub fn parse(option: &str) -> Option<Self> {
        let option = option.to_ascii_lowercase();
        match option.as_str() {
            "" | "symlink" | "reference" | "link" => Some(Self::Reference),
            "copy" | "move_binary_file" => Some(Self::Copy),
            "move" => Some(Self::Move),
            "hardlink" | "hard_link" => Some(Self::HardLink),
            _ => None,
        }
    }
}

/// What to take in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The id that it gets.
    pub id: ModelId,
    /// The GGUF, absolute; of a set, any part.
    pub path: PathBuf,
    /// The name to show; the file's own when absent.
    pub name: Option<String>,
    /// How.
    pub mode: Mode,
}

/// One entry of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchEntry {
    /// The id that it gets; from the file's name when absent.
    pub id: Option<String>,
    /// The GGUF, absolute; of a set, any part.
    pub path: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The model.
    pub model: Arc<Model>,
    /// It was in the list with this file already; nothing was changed.
    pub already_there: bool,
}

/// What came of one entry of a batch.
#[derive(Debug)]
pub struct BatchOutcome {
    /// The id that it has or would have, when it got that far.
    pub id: Option<ModelId>,
    /// Whether it was there already; or why it was not taken in.
    pub result: Result<bool, ImportError>,
}

/// Why a model was not taken in. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The id cannot be one.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A relative path means another file to the daemon than to its client.
    #[error("the path `{}` is not absolute", path.display())]
    NotAbsolute {
        /// The path given.
        path: PathBuf,
    },
    /// There is no such file, or it cannot be reached. One message for both: a path tells nothing.
    #[error("`{}` is not a readable file", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
    },
    /// The list is text: a path that is not cannot stand in it.
    #[error("the path `{}` is not valid Unicode", path.display())]
    NotText {
        /// The path given.
        path: PathBuf,
    },
    /// The id is there, but not in the way that was asked for.
    #[error("the model `{id}` is in the list by reference; nothing was copied or moved")]
    ByReference {
        /// The id.
        id: ModelId,
    },
    /// The id is another name of a model that is there.
    #[error("`{id}` is an alias of the model `{owner}`")]
    IsAlias {
        /// The id.
        id: ModelId,
        /// Whose alias it is.
        owner: ModelId,
    },
    /// The file is no model that can be used.
    #[error("`{}` cannot be used: {source}", path.display())]
    BadFile {
        /// The path given.
        path: PathBuf,
        /// What is wrong with it.
        source: WeightsError,
    },
    /// The id belongs to another file.
    #[error("model_id '{id}' already exists! It is {}, not {}", existing.display(), given.display())]
    AlreadyExists {
        /// The id.
        id: ModelId,
        /// The file it has.
        existing: PathBuf,
        /// The file given.
        given: PathBuf,
    },
    /// The files could not be brought into the data folder.
    #[error("cannot {action}: {source}")]
    Transfer {
        /// What was tried.
        action: &'static str,
        /// The system's reason, with the path.
        source: io::Error,
    },
    /// The list could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImportError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Id(_)
            | Self::NotAbsolute { .. }
            | Self::NotAFile { .. }
            | Self::NotText { .. }
            | Self::BadFile { .. } => ErrorKind::Invalid,
            Self::AlreadyExists { .. } | Self::ByReference { .. } | Self::IsAlias { .. } => ErrorKind::Conflict,
            Self::Transfer { .. } => ErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Id(_) | Self::AlreadyExists { .. } => Some("choose another id".into()),
            Self::ByReference { .. } => Some("delete it first, which leaves the file alone, or choose another id".into()),
            Self::IsAlias { .. } => Some("choose another id, or take the alias away first".into()),
            Self::NotAbsolute { .. } => Some("give the whole path, from the root of the daemon's machine".into()),
            Self::NotAFile { .. } => Some(
                "check the path, and that the daemon's user may read the file; folders and devices are no models"
                    .into(),
            ),
            Self::NotText { .. } => Some("rename the file".into()),
            Self::BadFile { source: WeightsError::Projector, .. } => {
                Some("import the file of the language model; a projector beside it is found by itself".into())
            }
            Self::BadFile { source: WeightsError::PartMissing { .. }, .. } => {
                Some("put all parts into one folder".into())
            }
            Self::BadFile { .. } => Some("download or copy the file again".into()),
            Self::Transfer { .. } => Some(
                "look for room on the disk and the rights of the data folder; without an option the file stays where it is".into(),
            ),
            Self::Store(_) => None,
        }
    }
}

/// Bytes that are compared at a time.
const COMPARED: usize = 1 << 20;

impl ModelStore {
    /// Takes one model in. Its header is read first: a bad file is refused.
    pub fn import(&self, request: &Import) -> Result<Imported, ImportError> {
        self.opened();
        let given = first_file(&request.path)?;
        if let Some(there) = self.same_model(&request.id, &given, request.mode)? {
            return Ok(there);
        }
        let weights = weights::read(&given).map_err(|source| match source {
            WeightsError::NotAFile { path } if path == given => ImportError::NotAFile { path: request.path.clone() },
            source => ImportError::BadFile { path: request.path.clone(), source },
        })?;
        let target = match request.mode {
            Mode::Reference => None,
            mode => Some(self.stage(&request.id, &weights.files, mode)?),
        };
        let path = target.as_ref().map_or(given.clone(), |staged| staged.path.clone());
        let committed = self.commit(|list| {
            if let Some(entry) = list.get(request.id.as_str()) {
                // Somebody was faster.
                return Err(taken(&entry.model_id(), &self.0.layout.absolute(&entry.path), &given));
            }
            if let Some(owner) = list.owner_of_alias(request.id.as_str()) {
                return Err(ImportError::IsAlias { id: request.id.clone(), owner: owner.model_id() });
            }
            if let Some(staged) = &target {
                self.place(staged)?;
            }
            let branch = if target.is_some() { "copied" } else { "imported" };
            list.upsert(self.entry(&request.id, branch, &path));
            Ok(())
        });
        if let Some(staged) = &target
            && committed.is_err()
        {
            self.clean_up(&staged.files);
        }
        committed?;
        if request.mode == Mode::Move {
            for file in &weights.files {
                if let Err(error) = self.0.config.files.remove(file) {
                    tracing::warn!(%error, "the model was copied, the original could not be removed");
                }
            }
        }
        self.forget_deletions(std::slice::from_ref(&request.id));
        let model = self.get_in_memory(&request.id).ok_or_else(|| StoreError::Io {
            action: "the list changed while it was written",
            source: io::Error::other("try again"),
        })?;
        if let Some(name) = &request.name {
            self.write_named(&model, name)?;
        }
        Ok(Imported { model: self.examine(&model), already_there: false })
    }

    /// Takes many in by reference, with one write of the list. Of the files only what their names and
    /// the file system say is looked at; the headers follow in the background.
    pub fn import_batch(&self, batch: &[BatchEntry], dry_run: bool) -> Result<Vec<BatchOutcome>, StoreError> {
        self.opened();
        let checked: Vec<Result<PathBuf, ImportError>> = batch.iter().map(|entry| first_file(&entry.path)).collect();
        let mut added = Vec::new();
        let outcomes = {
            let added = &mut added;
            let take = |list: &mut ModelsList<'_>| {
                let outcomes = batch.iter().zip(checked).map(|(entry, path)| self.take_entry(list, entry, path, added));
                Ok::<_, StoreError>(outcomes.collect::<Vec<_>>())
            };
            if dry_run { self.without_commit(take)? } else { self.commit(take)? }
        };
        if !dry_run {
            self.forget_deletions(&added);
        }
        Ok(outcomes)
    }

    fn take_entry(
        &self,
        list: &mut ModelsList<'_>,
        entry: &BatchEntry,
        path: Result<PathBuf, ImportError>,
        added: &mut Vec<ModelId>,
    ) -> BatchOutcome {
        let path = match path {
            Ok(path) => path,
            Err(error) => return BatchOutcome { id: None, result: Err(error) },
        };
        if weights::is_projector_name(&path) {
            let source = WeightsError::Projector;
            return BatchOutcome { id: None, result: Err(ImportError::BadFile { path, source }) };
        }
        let id = match &entry.id {
            Some(id) => ModelId::new(id).map_err(ImportError::from),
            None => self.derive_id(list, &path),
        };
        let id = match id {
            Ok(id) => id,
            Err(error) => return BatchOutcome { id: None, result: Err(error) },
        };
        let result = match list.get(id.as_str()) {
            Some(known) if self.is_same(&*known.path, &path) => Ok(true),
            Some(known) => Err(taken(&known.model_id(), &self.0.layout.absolute(&known.path), &path)),
            None if list.owner_of_alias(id.as_str()).is_some() => {
                let owner = list.owner_of_alias(id.as_str()).map_or_else(|| id.clone(), Entry::model_id);
                Err(ImportError::IsAlias { id: id.clone(), owner })
            }
            None => {
                list.upsert(self.entry(&id, "imported", &path));
                added.push(id.clone());
                Ok(false)
            }
        };
        BatchOutcome { id: Some(id), result }
    }

    /// An id from a file's name that no other file has: `name`, `folder/name`, then numbers.
    fn derive_id(&self, list: &ModelsList<'_>, path: &Path) -> Result<ModelId, ImportError> {
        let plain = ModelId::from_file(path)?;
        let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let longer = folder.and_then(|folder| ModelId::new(&format!("{folder}/{plain}")).ok());
        let numbered = (2u32..).filter_map(|number| ModelId::new(&format!("{plain}-{number}")).ok());
        let free = |id: &ModelId| {
            list.owner_of_alias(id.as_str()).is_none()
                && list.get(id.as_str()).is_none_or(|known| self.is_same(&*known.path, path))
        };
        // An id that is as long as it may be has no numbered one: then the plain one is told to be taken.
        let candidates = std::iter::once(plain.clone()).chain(longer).chain(numbered.take(100_000));
        Ok(candidates.into_iter().find(free).unwrap_or(plain))
    }

    fn without_commit<T>(
        &self,
        take: impl FnOnce(&mut ModelsList<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        take(&mut models_list::parse(&self.list_on_disk()?))
    }

    /// What there is under this id, if it is the same; an error if it is not.
    fn same_model(&self, id: &ModelId, given: &Path, mode: Mode) -> Result<Option<Imported>, ImportError> {
        let known = match self.find(id.as_str()) {
            // An alias of another model is no hindrance: ids come first.
            Ok(model) if model.id == *id => model,
            Ok(_) | Err(ResolveError::Unknown { .. }) => return Ok(None),
            Err(ResolveError::Store(error)) => return Err(error.into()),
        };
        // A second copy under the same id is as good as the first.
        let copied = mode != Mode::Reference && {
            let given = shards::files_of(given);
            let there = shards::files_of(&known.path);
            known.path.parent() == Some(&self.0.layout.copies(id))
                && there.len() == given.len()
                && there.iter().zip(&given).all(|(there, given)| has_same_bytes(there, given).unwrap_or(false))
        };
        if !copied && !self.is_same(&known.path, given) {
            return Err(taken(&known.id, &known.path, given));
        }
        if mode != Mode::Reference && !copied && known.branch != "copied" {
            return Err(ImportError::ByReference { id: id.clone() });
        }
        Ok(Some(Imported { model: self.examine(&known), already_there: true }))
    }

    /// Whether a path, as the list has it, leads to the file given.
    fn is_same(&self, existing: impl AsRef<Path>, given: &Path) -> bool {
        let existing = self.0.layout.data().join(existing);
        existing == given
            || matches!((fs_err::canonicalize(existing), fs_err::canonicalize(given)), (Ok(left), Ok(right)) if left == right)
    }

    fn entry(&self, id: &ModelId, branch: &'static str, path: &Path) -> Entry<'static> {
        Entry::local(id, branch, self.0.layout.written(path))
    }

    /// Gathers the files aside, so that they appear all at once.
    fn stage(&self, id: &ModelId, files: &[PathBuf], mode: Mode) -> Result<Staged, ImportError> {
        let failed = |action| move |source| ImportError::Transfer { action, source };
        let disk = &self.0.config.files;
        // Two imports of one id at the same time each have their own folder.
        let staging = self.0.layout.staging();
        disk.make_folder(&staging).map_err(failed("make a folder for the copy"))?;
        let folder = tempfile::Builder::new()
            .prefix("import-")
            .tempdir_in(&staging)
            .map_err(failed("make a folder for the copy"))?
            .keep();
        let mut staged =
            Staged { folder: folder.clone(), files: vec![], path: PathBuf::new(), target: self.0.layout.copies(id) };
        for file in files {
            let name = file.file_name().unwrap_or_default();
            let to = folder.join(name);
            let done = match mode {
                Mode::HardLink => disk.hard_link(file, &to).map_err(failed("make a hard link")),
                Mode::Copy | Mode::Move | Mode::Reference => disk.copy(file, &to).map_err(failed("copy the file")),
            };
            staged.files.push(to);
            if let Err(error) = done {
                self.clean_up(&staged.files);
                return Err(error);
            }
        }
        let first = files.first().and_then(|file| file.file_name()).unwrap_or_default();
        staged.path = staged.target.join(first);
        Ok(staged)
    }

    /// Moves what was gathered to where it belongs. What lies there belongs to no model and is kept aside.
    fn place(&self, staged: &Staged) -> Result<(), ImportError> {
        let failed = |action| move |source| ImportError::Transfer { action, source };
        let disk = &self.0.config.files;
        self.remove_orphan(staged);
        if fs_err::symlink_metadata(&staged.target).is_ok() {
            let aside = staged.folder.with_extension("replaced");
            disk.rename(&staged.target, &aside).map_err(failed("set an older copy aside"))?;
        }
        disk.rename(&staged.folder, &staged.target).map_err(failed("move the copy to its place"))
    }

    /// Removes the copy of an import that a crash ended before the list had it: the same files, and nothing else.
    fn remove_orphan(&self, staged: &Staged) {
        let Ok(entries) = fs_err::read_dir(&staged.target) else { return };
        let there: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        let is_ours = |path: &PathBuf| {
            let Some(name) = path.file_name() else { return false };
            let text = name.to_string_lossy();
            let length =
                |path: &Path| fs_err::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file).map(|it| it.len());
            text == "model.yaml"
                || (text.starts_with(".cortex-") && text.ends_with(".tmp"))
                || length(path).is_some_and(|own| length(&staged.folder.join(name)) == Some(own))
        };
        if there.iter().all(is_ours) {
            self.clean_up(&there);
            let _ = self.0.config.files.remove_empty_folder(&staged.target);
        }
    }

    fn clean_up(&self, files: &[PathBuf]) {
        for file in files {
            let _ = self.0.config.files.remove(file);
            if let Some(folder) = file.parent() {
                let _ = self.0.config.files.remove_empty_folder(folder);
            }
        }
    }

    fn write_named(&self, model: &Model, name: &str) -> Result<(), ImportError> {
        let _turn = self.0.turns.take(&model.id);
        let yaml = self
            .yaml_from_weights(&model.id, &model.path, Some(name))
            .map_err(|source| ImportError::BadFile { path: model.path.clone(), source })?;
        let path = self.0.layout.yaml(&model.id, &model.path);
        self.0
            .config
            .files
            .replace(&path, yaml.print().as_bytes())
            .map_err(|source| StoreError::Io { action: "cannot write a model.yaml", source })?;
        Ok(())
    }

    pub(crate) fn forget_deletions(&self, ids: &[ModelId]) {
        if let Err(error) = deletions::forget(&self.0.config.files, &self.0.layout.deletions(), ids) {
            tracing::warn!(%error, "a deletion could not be forgotten; `reindex` will leave the model out");
        }
    }
}

fn taken(id: &ModelId, existing: &Path, given: &Path) -> ImportError {
    ImportError::AlreadyExists { id: id.clone(), existing: existing.to_owned(), given: given.to_owned() }
}

/// Files of a copy, gathered aside.
struct Staged {
    folder: PathBuf,
    files: Vec<PathBuf>,
    /// The first file, where it will be.
    path: PathBuf,
    target: PathBuf,
}

/// The path that the list gets: absolute, a regular file, of a set its first part. Nothing is opened.
pub(crate) fn first_file(path: &Path) -> Result<PathBuf, ImportError> {
    if !path.is_absolute() {
        return Err(ImportError::NotAbsolute { path: path.to_owned() });
    }
    let not_a_file = |_: io::Error| ImportError::NotAFile { path: path.to_owned() };
    // `a/../b` is not `b` where `a` is a link; the list should say where it leads.
    let plain = if is_plain(path) { path.to_owned() } else { fs_err::canonicalize(path).map_err(not_a_file)? };
    if plain.to_str().is_none_or(|text| text.contains(char::is_control)) {
        return Err(ImportError::NotText { path: path.to_owned() });
    }
    if !fs_err::metadata(&plain).map_err(not_a_file)?.is_file() {
        return Err(ImportError::NotAFile { path: path.to_owned() });
    }
    Ok(match Shard::of(&plain) {
        Some(shard) if shard.number > 1 => shard.part(1),
        _ => plain,
    })
}

/// Whether two files hold the same. Reads both whole when they are equally long.
fn has_same_bytes(left: &Path, right: &Path) -> io::Result<bool> {
    if fs_err::metadata(left)?.len() != fs_err::metadata(right)?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (fs_err::File::open(left)?, fs_err::File::open(right)?);
    let (mut one, mut other) = (vec![0; COMPARED], vec![0; COMPARED]);
    loop {
        let count = io::Read::read(&mut left, &mut one)?;
        if count == 0 {
            return Ok(true);
        }
        io::Read::read_exact(&mut right, &mut other[..count])?;
        if one[..count] != other[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_moved_unless_that_is_asked_for_in_so_many_words() {
        for (option, mode) in [
            ("", Some(Mode::Reference)),
            ("symlink", Some(Mode::Reference)),
            ("SymLink", Some(Mode::Reference)),
            ("reference", Some(Mode::Reference)),
            ("MOVE_BINARY_FILE", Some(Mode::Copy)),
            ("copy", Some(Mode::Copy)),
            ("Move", Some(Mode::Move)),
            ("hardlink", Some(Mode::HardLink)),
            ("steal", None),
        ] {
            assert_eq!(Mode::parse(option), mode, "{option}");
        }
    }
}
