//! A data folder, files of a user beside it, and a store.

use cortex_models::{Config, Import, ImportError, Imported, Mode, Model, ModelId, ModelState, ModelStore};
use cortex_test::gguf::{GgufBuilder, Value};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) store: ModelStore,
}

pub(crate) fn config(data: &Path) -> Config {
    // Every list looks at the files again.
    Config { presence_age: Duration::ZERO, ..Config::new(data) }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::open(config(&folder.path().join("data")));
        Self { folder, store }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts again, as the next run of the daemon does.
    pub(crate) fn reopen(&mut self) {
        self.store.save_cache();
        self.store = ModelStore::open(config(&self.data()));
    }

    /// A file of the user's, outside of the data folder.
    pub(crate) fn weights(&self, name: &str) -> PathBuf {
        self.write(name, &GgufBuilder::llama().build())
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("user").join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn import(&self, id: &str, path: &Path) -> Result<Imported, ImportError> {
        self.import_as(id, path, Mode::Reference)
    }

    pub(crate) fn import_as(&self, id: &str, path: &Path, mode: Mode) -> Result<Imported, ImportError> {
        self.store.import(&Import { id: ModelId::new(id)?, path: path.to_owned(), name: None, mode })
    }

    pub(crate) fn list_file(&self) -> PathBuf {
        self.data().join("models/models.list")
    }

    pub(crate) fn list_text(&self) -> String {
        fs_err::read_to_string(self.list_file()).unwrap()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.store.list().unwrap().0.iter().map(|model| model.id.to_string()).collect()
    }

    /// Waits until the model of this name is as wanted; the store looks after its models by itself.
    pub(crate) fn until(&self, name: &str, wanted: impl Fn(&Model) -> bool) -> Arc<Model> {
        let began = std::time::Instant::now();
        loop {
            let (models, _) = self.store.list().unwrap();
            let model = models.iter().find(|model| model.id.as_str() == name);
            if let Some(model) = model.filter(|model| wanted(model)) {
                return Arc::clone(model);
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{model:?}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn until_state(&self, name: &str, state: &ModelState) {
        self.until(name, |model| model.state() == *state);
    }

    /// Every file of the user's with its content.
    pub(crate) fn user_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        tree(&self.folder.path().join("user"))
    }
}

/// Every file below a folder with its content.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let Ok(entries) = fs_err::read_dir(folder) else { return files };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            files.insert(path.clone(), fs_err::read(&path).unwrap());
        }
    }
    files
}

/// One part of a set.
pub(crate) fn part(number: u32, count: u32) -> Vec<u8> {
    let mut builder = GgufBuilder::llama();
    builder.tensors.truncate(1);
    builder.value("split.no", Value::U32(number - 1)).value("split.count", Value::U32(count)).build()
}

/// A vision part for models of this width.
pub(crate) fn projector(width: u32) -> Vec<u8> {
    GgufBuilder::default()
        .value("general.architecture", Value::Text("clip".into()))
        .value("clip.vision.projection_dim", Value::U32(width))
        .tensor("mm.0.weight", vec![32, 32])
        .build()
}
