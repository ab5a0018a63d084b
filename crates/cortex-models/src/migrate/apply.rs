//! Does what a plan says, and takes it back. Each step may be done twice.

use super::plan::{PlannedFile, PlannedModel};
use crate::{ModelId, ModelStore, ModelYaml, StoreError, models_list::Entry};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Models that are put on the list with one write.
const BATCH: usize = 10_000;

impl ModelStore {
    /// Puts the models of a plan on the list, each with its settings. Those that are on it stay as they are.
    pub(crate) fn register_all(&self, models: &[PlannedModel]) -> Result<(), StoreError> {
        if models.is_empty() {
            return Ok(());
        }
        let made = self.0.config.files.make_folder(&self.0.layout.models().join("imported"));
        made.map_err(|source| StoreError::Io { action: "make the folder for settings", source })?;
        for batch in models.chunks(BATCH) {
            for model in batch {
                // Before the line: who finds the model on the list finds its settings.
                self.write_settings(model)
                    .map_err(|source| StoreError::Io { action: "cannot write a model.yaml", source })?;
            }
            let entry = |model: &PlannedModel| {
                let entry = Entry::local(&model.id, "imported", self.0.layout.written(&model.weights));
                Entry { aliases: model.aliases.clone(), ..entry }
            };
            self.add_all(batch.iter().map(entry).collect())?;
            let ids: Vec<ModelId> = batch.iter().map(|model| model.id.clone()).collect();
            self.forget_deletions(&ids);
        }
        Ok(())
    }

    /// The settings of a model as a model.yaml of ours, which has no more than them: what describes the weights
    /// is read from their header when it is needed. One that is there already stays.
    fn write_settings(&self, model: &PlannedModel) -> io::Result<()> {
        if model.settings.is_empty() || self.get_in_memory(&model.id).is_some() {
            return Ok(());
        }
        let mut settings = model.settings.clone();
        if let Some(projector) = settings.get("mmproj").and_then(|path| path.as_str()).map(PathBuf::from) {
            settings.insert("mmproj".into(), self.0.layout.written(&projector).into());
        }
        let path = self.0.layout.own_yaml(&model.id);
        let text = ModelYaml::from_values(settings).print();
        self.create_or_fill(&path, &text)
    }

    /// Writes a short file where nothing is yet. What a crash left empty is written now.
    fn create_or_fill(&self, path: &Path, text: &str) -> io::Result<()> {
        match self.0.config.files.create_quickly(path, text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A link or a pipe is somebody's.
                let is_empty = fs_err::symlink_metadata(path).is_ok_and(|there| there.is_file() && there.len() == 0);
                if is_empty { self.0.config.files.replace_disposable(path, text.as_bytes()) } else { Ok(()) }
            }
            written => written,
        }
    }

    /// Writes the files of a plan for the older program, where nothing is yet. Returns those that cannot be written, and why:
    /// one bad place stops nobody.
    pub(crate) fn write_all(&self, planned: &[PlannedFile]) -> Vec<(ModelId, String)> {
        let write = |file: &PlannedFile| {
            let folder = file.path.parent().map_or(Ok(()), |folder| self.0.config.files.make_folder(folder));
            folder.and_then(|()| self.create_or_fill(&file.path, &file.text))
        };
        let failed = |file: &PlannedFile| Some((file.id.clone(), write(file).err()?.to_string()));
        planned.iter().filter_map(failed).collect()
    }

    /// Removes what [`ModelStore::write_all`] wrote, as far as nobody has changed it. Returns those that stay.
    pub(crate) fn unwrite_all(&self, planned: &[PlannedFile]) -> Result<Vec<ModelId>, StoreError> {
        let files = &self.0.config.files;
        let mut stay = Vec::new();
        for file in planned {
            let is_file = fs_err::symlink_metadata(&file.path).map(|there| there.is_file());
            match is_file.and_then(|is_file| if is_file { fs_err::read(&file.path) } else { Ok(vec![]) }) {
                Ok(bytes) if bytes == file.text.as_bytes() => {
                    let removed = files.remove(&file.path);
                    let folder = file.path.parent().map_or(Ok(()), |folder| files.remove_empty_folder(folder));
                    removed
                        .and(folder)
                        .map_err(|source| StoreError::Io { action: "cannot remove a model.json", source })?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => stay.push(file.id.clone()),
            }
        }
        Ok(stay)
    }

    /// Takes the models of a plan off the list, where the list still has them as the plan does, and removes
    /// what we wrote for them. Returns those that stay.
    pub(crate) fn unregister_all(
        &self,
        models: &[PlannedModel],
        made_the_list: bool,
    ) -> Result<Vec<ModelId>, StoreError> {
        if models.is_empty() {
            return Ok(vec![]);
        }
        let (gone, stay) = self.commit(|list| {
            let (mut gone, mut stay) = (Vec::new(), Vec::new());
            for model in models {
                let Some(entry) = list.get(model.id.as_str()) else {
                    gone.push(model);
                    continue;
                };
                let is_ours = entry.branch == "imported" && self.0.layout.absolute(&entry.path) == model.weights;
                if is_ours {
                    list.remove(model.id.as_str());
                    gone.push(model);
                } else {
                    stay.push(model.id.clone());
                }
            }
            Ok::<_, StoreError>((gone, stay))
        })?;
        let files = &self.0.config.files;
        let failed = |source| StoreError::Io { action: "cannot remove what a migration wrote", source };
        for model in gone.into_iter().filter(|model| !model.has_yaml) {
            files.remove(&self.0.layout.own_yaml(&model.id)).map_err(failed)?;
        }
        files.remove_empty_folder(&self.0.layout.models().join("imported")).map_err(failed)?;
        if made_the_list {
            self.remove_empty_list()?;
        }
        Ok(stay)
    }

    /// Removes a list that says nothing, and its lock.
    fn remove_empty_list(&self) -> Result<(), StoreError> {
        let _lock = self.lock_list()?;
        let text = self.list_on_disk()?;
        let says_something = text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
        if says_something {
            return Ok(());
        }
        let failed = |source| StoreError::Io { action: "cannot remove the empty list of models", source };
        self.0.config.files.remove(&self.0.layout.list()).map_err(failed)?;
        self.0.config.files.remove(&self.0.layout.list_lock()).map_err(failed)?;
        drop(self.refresh()?);
        Ok(())
    }
}
