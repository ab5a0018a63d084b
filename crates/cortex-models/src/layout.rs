//! Where everything lies in the data folder. Pure.

use crate::ModelId;
use std::path::{Component, Path, PathBuf};

/// The folders and files of the registry.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    data: PathBuf,
}

impl Layout {
    pub(crate) fn new(data: PathBuf) -> Self {
        Self { data }
    }

    /// The folder that everything lies in.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Weights and what is known of them.
    pub(crate) fn models(&self) -> PathBuf {
        self.data.join("models")
    }

    /// Which models there are.
    pub(crate) fn list(&self) -> PathBuf {
        self.models().join("models.list")
    }

    /// Held while the list is changed.
    pub(crate) fn list_lock(&self) -> PathBuf {
        self.models().join(".models.list.lock")
    }

    /// What is known of all models, for a quick start. May be deleted at any time.
    pub(crate) fn cache(&self) -> PathBuf {
        self.data.join("cache").join("models.cache")
    }

    /// Which models were deleted.
    pub(crate) fn deletions(&self) -> PathBuf {
        self.data.join("state").join("deleted.jsonl")
    }

    /// Where files of a model are gathered before it is there.
    pub(crate) fn staging(&self) -> PathBuf {
        self.data.join("partial")
    }

    /// The folder of a copied model. It holds this one only.
    pub(crate) fn copies(&self, id: &ModelId) -> PathBuf {
        self.models().join("imported").join(id.file_name())
    }

    /// Where downloaded models lie: `author/repo/file stem/` below it, each folder with one model.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.models().join("huggingface.co")
    }

    /// Whether a folder is that of one downloaded model. Older programs keep several in `author/repo/`.
    pub(crate) fn is_download(&self, folder: &Path) -> bool {
        folder.strip_prefix(self.downloads()).is_ok_and(|rest| rest.components().count() == 3 && is_plain(rest))
    }

    /// The journal of a pull.
    pub(crate) fn journal(&self, id: &ModelId) -> PathBuf {
        self.journals().join(format!("{}.journal", id.file_name()))
    }

    /// The journals of all pulls.
    pub(crate) fn journals(&self) -> PathBuf {
        self.data.join("state").join("pulls")
    }

    /// Where the bytes of a pull gather.
    pub(crate) fn partial(&self, id: &ModelId) -> PathBuf {
        self.staging().join(format!("pull-{}", id.file_name()))
    }

    /// The journals of all migrations.
    pub(crate) fn migrations(&self) -> PathBuf {
        self.data.join("state").join("migrations")
    }

    /// Which model sources there are.
    pub(crate) fn sources(&self) -> PathBuf {
        self.data.join("state").join("sources.json")
    }

    /// What the hub said of a repository. May be deleted at any time.
    pub(crate) fn source_cache(&self, repository: &str) -> PathBuf {
        let name = ModelId::existing(repository).file_name();
        self.data.join("cache").join("sources").join(format!("{name}.json"))
    }

    /// What the hub answered to questions. May be deleted at any time.
    pub(crate) fn hub_cache(&self) -> PathBuf {
        self.data.join("cache").join("hub")
    }

    /// Our own yaml of a model whose folder is not ours.
    pub(crate) fn own_yaml(&self, id: &ModelId) -> PathBuf {
        self.models().join("imported").join(format!("{}.yaml", id.file_name()))
    }

    /// Where the yaml of a model is written. Never outside of the data folder.
    pub(crate) fn yaml(&self, id: &ModelId, path: &Path) -> PathBuf {
        if is_yaml(path) && path.starts_with(&self.data) {
            path.to_owned()
        } else if let Some(folder) = path.parent()
            && (folder == self.copies(id) || self.is_download(folder))
        {
            folder.join("model.yaml")
        } else {
            self.own_yaml(id)
        }
    }

    /// A path as the list and a yaml have it: relative inside of the data folder, absolute outside.
    pub(crate) fn written(&self, path: &Path) -> String {
        path.strip_prefix(&self.data).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// A path of the list or a yaml. One that climbs out of the data folder with `..` is taken as it stands.
    pub(crate) fn absolute(&self, path: &str) -> PathBuf {
        // Joining an absolute path gives that path.
        self.data.join(path)
    }
}

/// Whether a path of the list is a model.yaml rather than weights.
pub(crate) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("yaml") || ending.eq_ignore_ascii_case("yml"))
}

/// Whether a path leads somewhere without `..`.
pub(crate) fn is_plain(path: &Path) -> bool {
    !path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yaml_is_written_beside_copies_only_and_never_outside() {
        let layout = Layout::new("/d".into());
        let id = ModelId::existing("My/Model");
        let own = "/d/models/imported/%4dy%2f%4dodel.yaml";
        for (path, yaml) in [
            ("/d/models/imported/%4dy%2f%4dodel/w.gguf", "/d/models/imported/%4dy%2f%4dodel/model.yaml"),
            ("/d/models/other/w.gguf", own),
            ("/d/models/huggingface.co/a/b/w/w.gguf", "/d/models/huggingface.co/a/b/w/model.yaml"),
            ("/d/models/huggingface.co/a/b/w.gguf", own),
            ("/d/models/huggingface.co/a/b/../w.gguf", own),
            ("/outside/w.gguf", own),
            ("/outside/model.yml", own),
            ("/d/models/a/b/model.yml", "/d/models/a/b/model.yml"),
        ] {
            assert_eq!(layout.yaml(&id, Path::new(path)), Path::new(yaml), "{path}");
        }
        assert_eq!(layout.written(Path::new("/d/models/a b.gguf")), "models/a b.gguf");
        assert_eq!(layout.written(Path::new("/data/a.gguf")), "/data/a.gguf");
        assert!(is_plain(Path::new("/a/b..c/d")) && !is_plain(Path::new("/a/../b")));
    }
}
