use cortex_models::{Config, Import, ImportError, ModelId, ModelState, ModelStore, ResolveError};
use cortex_test::gguf::GgufBuilder;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Fixture {
    folder: TempDir,
    store: ModelStore,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::open(Config { data_folder: folder.path().join("data") }).unwrap();
        Self { folder, store }
    }

    fn weights(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs_err::write(&path, GgufBuilder::llama().build()).unwrap();
        path
    }

    fn import(&self, id: &str, path: &Path) -> Result<cortex_models::Imported, ImportError> {
        self.store.import(&Import { id: ModelId::new(id).unwrap(), path: path.to_owned(), name: None })
    }

    fn list_file(&self) -> PathBuf {
        self.folder.path().join("data/models/models.list")
    }

    fn ids(&self) -> Vec<String> {
        self.store.list().unwrap().iter().map(|model| model.id.to_string()).collect()
    }
}

#[test]
fn an_import_changes_the_list_and_nothing_else() {
    let fixture = Fixture::new();
    let path = fixture.weights("my modèl (1).gguf");
    let before = fs_err::metadata(&path).unwrap().modified().unwrap();
    assert!(!fixture.import("my:model", &path).unwrap().already_there);
    assert_eq!(fixture.ids(), ["my:model"]);
    assert_eq!(fs_err::metadata(&path).unwrap().modified().unwrap(), before);
    assert!(!fixture.folder.path().join("data/models/imported").exists());
    let reopened = ModelStore::open(Config { data_folder: fixture.folder.path().join("data") }).unwrap();
    assert_eq!(reopened.resolve("my:model").unwrap().path, path);
}

#[test]
fn the_same_again_is_fine_and_another_file_is_refused() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.weights("one.gguf"), fixture.weights("two.gguf"));
    fixture.import("a", &one).unwrap();
    let text = fs_err::read_to_string(fixture.list_file()).unwrap();
    let link = fixture.folder.path().join("link.gguf");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    assert!(fixture.import("a", &link).unwrap().already_there);
    assert!(matches!(fixture.import("a", &two), Err(ImportError::AlreadyExists { .. })));
    assert_eq!(fs_err::read_to_string(fixture.list_file()).unwrap(), text);
}

#[test]
fn what_is_no_model_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path();
    fs_err::write(folder.join("text.gguf"), b"hello world, no model").unwrap();
    let whole = GgufBuilder::llama().build();
    fs_err::write(folder.join("cut.gguf"), &whole[..whole.len() - 1]).unwrap();
    for (path, word) in [
        (folder.join("text.gguf"), "not a GGUF file"),
        (folder.join("cut.gguf"), "incomplete"),
        (folder.join("absent.gguf"), "not a readable file"),
        (folder.to_owned(), "not a readable file"),
        (PathBuf::from("/dev/zero"), "not a readable file"),
        (PathBuf::from("relative.gguf"), "not absolute"),
    ] {
        let error = fixture.import("x", &path).expect_err(word);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(!fixture.list_file().exists());
}

#[test]
fn edits_by_hand_count_at_once_and_are_kept() {
    let fixture = Fixture::new();
    let path = fixture.weights("a b.gguf");
    fixture.import("first", &path).unwrap();
    let edited = format!("\u{feff}# my models\r\nsecond '{}'\r\nnonsense", path.display());
    fs_err::write(fixture.list_file(), edited.as_bytes()).unwrap();
    assert_eq!(fixture.ids(), ["second"]);
    assert_eq!(fixture.store.problems().unwrap().len(), 1);
    fixture.import("third", &path).unwrap();
    let text = fs_err::read_to_string(fixture.list_file()).unwrap();
    assert!(text.starts_with(&edited), "{text}");
    assert_eq!(fixture.ids(), ["second", "third"]);
}

#[test]
fn a_yaml_is_made_when_it_is_needed_and_a_damaged_one_is_set_aside() {
    let fixture = Fixture::new();
    fixture.import("My/Model", &fixture.weights("m.gguf")).unwrap();
    let model = fixture.store.resolve("My/Model").unwrap();
    assert!(fixture.store.described(&model).is_none());
    let yaml = fixture.store.describe(&model).unwrap();
    assert_eq!(yaml.number("ctx_len"), Some(128.0));
    let folder = fixture.folder.path().join("data/models/imported");
    let file = folder.join(format!("{}.yaml", model.id.file_name()));
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, text.replace("temperature: 0.7", "temperature: 0.1")).unwrap();
    assert_eq!(fixture.store.describe(&model).unwrap().number("temperature"), Some(0.1));
    fs_err::write(&file, "a: [broken").unwrap();
    assert_eq!(fixture.store.describe(&model).unwrap().number("temperature"), Some(0.7));
    let aside = folder.join(format!("{}.yaml.damaged-1", model.id.file_name()));
    assert_eq!(fs_err::read_to_string(aside).unwrap(), "a: [broken");
    fs_err::remove_file(&file).unwrap();
    assert_eq!(fixture.store.describe(&model).unwrap().number("temperature"), Some(0.7));
}

#[test]
fn weights_that_are_gone_are_missing_and_the_entry_stays() {
    let fixture = Fixture::new();
    let path = fixture.weights("m.gguf");
    fixture.import("m", &path).unwrap();
    fs_err::remove_file(&path).unwrap();
    let reopened = ModelStore::open(Config { data_folder: fixture.folder.path().join("data") }).unwrap();
    assert_eq!(reopened.list().unwrap()[0].state, ModelState::Missing);
    assert!(reopened.describe(&reopened.list().unwrap()[0]).is_err());
    fixture.weights("m.gguf");
    let again = ModelStore::open(Config { data_folder: fixture.folder.path().join("data") }).unwrap();
    assert_eq!(again.list().unwrap()[0].state, ModelState::Ready);
}

#[test]
fn an_unknown_name_is_told_with_what_it_may_mean() {
    let fixture = Fixture::new();
    fixture.import("TinyLlama:1b", &fixture.weights("m.gguf")).unwrap();
    let Err(error @ ResolveError::Unknown { .. }) = fixture.store.resolve("tinyllama") else { panic!("unknown") };
    assert_eq!(error.hint().as_deref(), Some("did you mean `TinyLlama:1b`?"));
}
