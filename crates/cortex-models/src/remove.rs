//! Deleting: exactly one model, never through a link, never a file that another model uses.

use crate::{
    ErrorKind, Model, ModelId, ModelStore, ResolveError, StoreError, deletions,
    downloads::{MANIFEST, read_manifest},
    files::Stamp,
    layout::is_yaml,
    models_list::{Entry, ModelsList},
    shards,
};
use std::path::{Path, PathBuf};

/// What a deletion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Which model.
    pub id: ModelId,
    /// Files that were removed.
    pub removed: Vec<PathBuf>,
    /// Files inside of the data folder that stay.
    pub left: Vec<Left>,
}

/// A file that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Why.
    pub why: WhyLeft,
}

/// Why a file of a deleted model stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyLeft {
    /// Another model has it too.
    UsedBy(ModelId),
    /// Something else put it into the data folder.
    NotOurs,
    /// The system refused.
    Failed(String),
}

/// Why a model was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no such model.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The list could not be written. Nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RemoveError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Resolve(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Resolve(error) => error.hint(),
            Self::Store(_) => None,
        }
    }
}

impl ModelStore {
    /// Deletes a model: its entry, our yaml, and the files that were copied for it. `weights` also removes
    /// weights that somebody else put into the data folder. Nothing outside of it is ever removed.
    pub fn remove(&self, name: &str, weights: bool) -> Result<Removed, RemoveError> {
        let model = self.resolve(name)?;
        // The values say which files there are; without them the path alone is known.
        let files = self.files_of(&model);
        self.commit(|list| {
            let Some(entry) = list.get(model.id.as_str()) else {
                return Err(RemoveError::from(ResolveError::Unknown { name: name.to_owned(), similar: None }));
            };
            let written = entry.path.clone().into_owned();
            // First the memory of it: a crash in between must not let the model come back by itself.
            deletions::remember(&self.0.config.files, &self.0.layout.deletions(), &model.id, &written)
                .map_err(|source| StoreError::Io { action: "cannot remember the deletion", source })?;
            list.remove(model.id.as_str());
            Ok(())
        })?;
        let outcome = self.remove_files(&model, files, weights);
        tracing::info!(model = %model.id, removed = outcome.removed.len(), left = outcome.left.len(), "deleted");
        Ok(outcome)
    }

    /// Ends deletions that a crash interrupted after the entry had gone and before its files had.
    pub(crate) fn end_deletions(&self) -> Result<(), StoreError> {
        let deleted = self.deleted()?;
        if deleted.is_empty() {
            return Ok(());
        }
        for (id, path) in deleted {
            if self.find(id.as_str()).is_ok_and(|model| model.id == id) {
                continue;
            }
            let path = self.0.layout.absolute(&path);
            let branch = if path.parent() == Some(&self.0.layout.copies(&id)) { "copied" } else { "imported" };
            let entry = Entry::local(&id, branch, self.0.layout.written(&path));
            let model = Model::of_entry(entry, &self.0.layout);
            self.remove_files(&model, self.files_of(&model), false);
        }
        Ok(())
    }

    fn remove_files(&self, model: &Model, files: Vec<PathBuf>, weights: bool) -> Removed {
        let mut outcome = Removed { id: model.id.clone(), removed: vec![], left: vec![] };
        let copies = self.0.layout.copies(&model.id);
        let mut ours = vec![self.0.layout.own_yaml(&model.id), copies.join("model.yaml")];
        let (own, foreign): (Vec<PathBuf>, Vec<PathBuf>) =
            files.into_iter().partition(|file| self.is_copy_of_ours(model, file));
        // Also the folder of another copy, whose model went before this one.
        let mut folders: Vec<PathBuf> = own.iter().filter_map(|file| file.parent().map(Path::to_owned)).collect();
        folders.push(copies);
        for folder in own.iter().filter_map(|file| file.parent()) {
            if self.0.layout.is_download(folder) {
                ours.push(folder.join("model.yaml"));
            }
        }
        ours.extend(own);
        for file in ours {
            self.remove_file(&file, &mut outcome);
        }
        for file in foreign {
            if !self.is_inside(&file) {
                continue;
            }
            if weights {
                self.remove_file(&file, &mut outcome);
            } else if let Ok(metadata) = fs_err::metadata(&file) {
                outcome.left.push(Left { path: file, bytes: metadata.len(), why: WhyLeft::NotOurs });
            }
        }
        for folder in folders {
            self.remove_manifest(&folder, &mut outcome);
            let _ = self.0.config.files.remove_empty_folder(&folder);
            self.remove_empty_download_folders(&folder);
        }
        outcome
    }

    /// What says where a download came from goes with the last of its files.
    fn remove_manifest(&self, folder: &Path, outcome: &mut Removed) {
        let Some(manifest) = read_manifest(folder).filter(|_| self.0.layout.is_download(folder)) else { return };
        let is_there = |name: &str| fs_err::symlink_metadata(folder.join(name)).is_ok();
        if !manifest.files.iter().any(|file| is_there(&file.name)) {
            self.remove_file(&folder.join(MANIFEST), outcome);
        }
    }

    /// Whether cortex put the file there: for this model, or for one that was deleted while this one used it.
    fn is_copy_of_ours(&self, model: &Model, file: &Path) -> bool {
        let Some(folder) = file.parent() else { return false };
        if self.0.layout.is_download(folder)
            && let Some(manifest) = read_manifest(folder)
        {
            let mut names = manifest.files.iter().map(|file| file.name.as_str());
            return file.file_name().is_some_and(|name| names.any(|known| name == known));
        }
        if model.branch == "copied" && folder == self.0.layout.copies(&model.id) {
            return true;
        }
        let deleted = self.deleted().unwrap_or_default();
        deleted.iter().any(|(id, path)| {
            folder == self.0.layout.copies(id) && self.0.layout.absolute(path).parent() == Some(folder)
        })
    }

    /// Weights, all parts, and a yaml that the list points to.
    fn files_of(&self, model: &Model) -> Vec<PathBuf> {
        let mut files = model.weight_files();
        if is_yaml(&model.path) {
            files.push(model.path.clone());
        }
        if files.is_empty() {
            files = shards::files_of(&model.path);
        }
        if let Some(mmproj) = model.yaml().and_then(|yaml| yaml.text("mmproj").map(str::to_owned)) {
            files.push(self.0.layout.absolute(&mmproj));
        }
        files
    }

    /// Removes a file that is truly ours to remove.
    fn remove_file(&self, file: &Path, outcome: &mut Removed) {
        // A link leads elsewhere, and so may a folder above: only plain files of the data folder are removed.
        let Ok(metadata) = fs_err::symlink_metadata(file) else { return };
        if !metadata.is_file() || !self.is_inside(file) {
            return;
        }
        let mut leave = |why| outcome.left.push(Left { path: file.to_owned(), bytes: metadata.len(), why });
        if let Some(user) = self.user_of(file) {
            leave(WhyLeft::UsedBy(user));
            return;
        }
        match self.0.config.files.remove(file) {
            Ok(()) => outcome.removed.push(file.to_owned()),
            Err(error) => {
                tracing::warn!(%error, "a file of a deleted model stays");
                leave(WhyLeft::Failed(error.to_string()));
            }
        }
    }

    /// Whether a path lies in the data folder also when all links are followed.
    fn is_inside(&self, file: &Path) -> bool {
        let (Ok(folder), Some(Ok(parent))) =
            (fs_err::canonicalize(self.data_folder()), file.parent().map(fs_err::canonicalize))
        else {
            return false;
        };
        let lexically = file.strip_prefix(self.data_folder()).ok();
        // The way there has no link in it: it is the same with and without following them.
        lexically.is_some_and(|rest| parent.join(file.file_name().unwrap_or_default()) == folder.join(rest))
    }

    /// A model on the list that has this file.
    fn user_of(&self, file: &Path) -> Option<ModelId> {
        let (file, stamp) = (fs_err::canonicalize(file).ok()?, Stamp::of(file)?);
        let models = self.in_memory();
        let user = models.iter().find(|model| {
            // Which weights it has, its yaml alone tells.
            let read = is_yaml(&model.path) && model.is_pending();
            let files = if read { self.files_of(&self.examine(model)) } else { self.files_of(model) };
            // Following all links of ten thousand paths takes long; most are of another file at first sight.
            files.iter().any(|other| {
                Stamp::of(other) == Some(stamp) && fs_err::canonicalize(other).is_ok_and(|other| other == file)
            })
        });
        user.map(|model| model.id.clone())
    }

    /// A model that is on the list is not deleted: somebody wrote its line again by hand.
    pub(crate) fn forget_deletions_taken_back(&self) {
        let again = |deleted: std::collections::HashMap<ModelId, String>| -> Vec<ModelId> {
            deleted.into_keys().filter(|id| self.get_in_memory(id).is_some()).collect()
        };
        if self.deleted().map(again).is_ok_and(|ids| ids.is_empty()) {
            return;
        }
        // A deletion that is under way has been remembered, and its line is not gone yet: wait for it.
        let Ok(_lock) = self.lock_list() else { return };
        if self.refresh().map(drop).is_ok()
            && let Ok(deleted) = self.deleted()
        {
            self.forget_deletions(&again(deleted));
        }
    }

    /// The registry's entries that were deleted and may not come back by themselves.
    pub(crate) fn deleted(&self) -> Result<std::collections::HashMap<ModelId, String>, StoreError> {
        deletions::read(&self.0.layout.deletions())
            .map_err(|source| StoreError::Io { action: "cannot read which models were deleted", source })
    }

    /// Adds entries that are not there yet; for what builds the list from what is on disk.
    pub(crate) fn add_all(&self, entries: Vec<Entry<'static>>) -> Result<Vec<ModelId>, StoreError> {
        self.commit(|list: &mut ModelsList<'_>| {
            let mut added = Vec::new();
            for entry in entries {
                if list.get(&entry.id).is_none() {
                    added.push(entry.model_id());
                    list.upsert(entry);
                }
            }
            Ok(added)
        })
    }
}
