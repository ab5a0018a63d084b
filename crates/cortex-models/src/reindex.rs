//! Builds the list again from what lies in the data folder. Adds only: no entry is changed or removed.

use crate::{
    ModelId, ModelStore, ModelYaml, StoreError,
    downloads::read_manifest,
    layout::is_yaml,
    models_list::{self, Entry},
    shards::{self, Shard},
    weights,
};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

/// Folders below `models/` that are looked into.
const DEEPEST: usize = 8;
/// The file in which programs before this one kept a model. Bringing those in is a migration.
const OLDER_PROGRAM: &str = "model.json";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reindexed {
    /// Models that are on the list again.
    pub added: Vec<ModelId>,
    /// Files that were left out, and why.
    pub left_out: Vec<(PathBuf, String)>,
}

/// What lies in the folder of models.
#[derive(Default)]
struct Found {
    yamls: Vec<PathBuf>,
    weights: Vec<PathBuf>,
    left_out: Vec<(PathBuf, String)>,
}

impl ModelStore {
    /// Puts the models that lie in the data folder, or that a yaml of ours there refers to, back on the list.
    /// Those that a person deleted stay away unless `with_deleted`.
    pub fn reindex(&self, with_deleted: bool) -> Result<Reindexed, StoreError> {
        self.opened();
        let mut found = Found::default();
        look_into(&self.0.layout.models(), 0, &mut found);
        let deleted = if with_deleted { HashMap::default() } else { self.deleted()? };
        let text = self.list_on_disk()?;
        let list = models_list::parse(&text);
        let mut taken: HashSet<PathBuf> = HashSet::new();
        let mut ids: HashSet<ModelId> = HashSet::new();
        for entry in list.entries() {
            ids.insert(entry.model_id());
            let path = self.0.layout.absolute(&entry.path);
            taken.extend(shards::files_of(&path));
            if is_yaml(&path)
                && let Some(yaml) = read_yaml(&path)
            {
                taken.extend(yaml.texts("files").iter().map(|file| self.0.layout.absolute(file)));
            }
        }
        let mut entries = Vec::new();
        let mut left_out = found.left_out;
        for path in found.yamls {
            match self.entry_of_yaml(&path) {
                Ok((entry, files)) => {
                    taken.extend(files.iter().flat_map(|file| shards::files_of(file)));
                    let id = entry.model_id();
                    if deleted.contains_key(&id) {
                        left_out.push((path, format!("`{id}` was deleted")));
                    } else if ids.insert(id) {
                        entries.push(entry);
                    }
                }
                Err(reason) => left_out.push((path, reason)),
            }
        }
        for path in found.weights {
            if Shard::of(&path).is_some_and(|shard| shard.number > 1) || taken.contains(&path) {
                continue;
            }
            // Deleted under an id that its name does not tell.
            if let Some(id) = deleted.iter().find_map(|(id, of)| (self.0.layout.absolute(of) == path).then_some(id)) {
                left_out.push((path, format!("`{id}` was deleted")));
                continue;
            }
            let Ok(id) = ModelId::from_file(&path) else {
                left_out.push((path, "no id can be made of its name".into()));
                continue;
            };
            if deleted.contains_key(&id) {
                left_out.push((path, format!("`{id}` was deleted")));
            } else if ids.insert(id.clone()) {
                entries.push(Entry::local(&id, "imported", self.0.layout.written(&path)));
            } else {
                left_out.push((path, format!("another model has the id `{id}`")));
            }
        }
        Ok(Reindexed { added: self.add_all(entries)?, left_out })
    }

    /// The line of a model whose yaml this is.
    fn entry_of_yaml(&self, path: &Path) -> Result<(Entry<'static>, Vec<PathBuf>), String> {
        let yaml = read_yaml(path).ok_or("it is no model.yaml")?;
        let id =
            yaml.text("model").or_else(|| yaml.text("id")).filter(|id| !id.is_empty()).ok_or("it names no model")?;
        let id = ModelId::existing(id);
        let files: Vec<PathBuf> = yaml.texts("files").iter().map(|file| self.0.layout.absolute(file)).collect();
        let first = files.first().ok_or("it names no weights")?;
        if let Some(folder) = first.parent()
            && path == self.0.layout.yaml(&id, first)
            && let Some(manifest) = read_manifest(folder).filter(|_| self.0.layout.is_download(folder))
        {
            let entry = Entry {
                id: Cow::Owned(id.to_string()),
                author_repo: Cow::Owned(manifest.repository),
                branch: Cow::Owned(manifest.revision),
                path: Cow::Owned(self.0.layout.written(first)),
                aliases: manifest.aliases,
                status: Cow::Borrowed("downloaded"),
            };
            return Ok((entry, files));
        }
        let copies = self.0.layout.copies(&id);
        let is_copy = first.parent() == Some(&copies);
        // Our own yaml follows from the id and the weights; any other is what the line points to.
        let ours = path == self.0.layout.own_yaml(&id) || (is_copy && path == copies.join("model.yaml"));
        let path = self.0.layout.written(if ours { first } else { path });
        let entry = Entry::local(&id, if is_copy { "copied" } else { "imported" }, path);
        Ok((entry, files))
    }
}

fn read_yaml(path: &Path) -> Option<ModelYaml> {
    ModelYaml::parse(&fs_err::read_to_string(path).ok()?).ok()
}

/// Gathers yamls and weights. Links are not followed: what they lead to is not in this folder.
fn look_into(folder: &Path, depth: usize, found: &mut Found) {
    let Ok(entries) = fs_err::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    if paths.iter().any(|path| path.file_name().is_some_and(|name| name == OLDER_PROGRAM)) {
        found.left_out.push((folder.to_owned(), "it is of an older program; `cortex migrate` brings it in".into()));
        return;
    }
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let Ok(metadata) = fs_err::symlink_metadata(&path) else { continue };
        if hidden || metadata.is_symlink() {
            continue;
        }
        if metadata.is_dir() {
            if depth < DEEPEST {
                look_into(&path, depth + 1, found);
            }
        } else if is_yaml(&path) {
            found.yamls.push(path);
        } else if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
            && !weights::is_projector_name(&path)
        {
            found.weights.push(path);
        }
    }
}
