use crate::fixture::{Fixture, config, part, projector};
use cortex_models::{BatchEntry, ImportError, Mode, ModelState, ModelStore, RemoveError, ResolveError, UpdateError};
use cortex_test::gguf::GgufBuilder;
use serde_json::json;
use std::path::PathBuf;

fn yaml_file(fixture: &Fixture, id: &str) -> PathBuf {
    let model = fixture.store.resolve(id).unwrap();
    fixture.data().join("models/imported").join(format!("{}.yaml", model.id.file_name()))
}

fn number(fixture: &Fixture, id: &str, key: &str) -> Option<f64> {
    fixture.store.current(id).unwrap().yaml().unwrap().number(key)
}

#[test]
fn an_import_by_reference_touches_nothing_of_the_users() {
    let mut fixture = Fixture::new();
    let path = fixture.weights("my modèl (1).gguf");
    let before = fixture.user_files();
    assert!(!fixture.import("my:model", &path).unwrap().already_there);
    assert_eq!(fixture.ids(), ["my:model"]);
    fixture.reopen();
    assert_eq!(fixture.store.resolve("my:model").unwrap().path, path);
    assert_eq!(fixture.user_files(), before);
}

#[test]
fn the_same_again_is_fine_and_another_file_is_refused() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.weights("one.gguf"), fixture.weights("two.gguf"));
    fixture.import("a", &one).unwrap();
    let text = fixture.list_text();
    let link = fixture.folder.path().join("link.gguf");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    assert!(fixture.import("a", &link).unwrap().already_there);
    assert!(matches!(fixture.import("a", &two), Err(ImportError::AlreadyExists { .. })));
    assert_eq!(fixture.list_text(), text);
}

#[test]
fn what_is_no_model_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let whole = GgufBuilder::llama().build();
    let text = fixture.write("text.gguf", b"hello world, no model");
    let cut = fixture.write("cut.gguf", &whole[..whole.len() - 1]);
    let vision = fixture.write("vision.gguf", &projector(32));
    for (path, word) in [
        (text, "not a GGUF file"),
        (cut, "incomplete"),
        (vision, "projector"),
        (fixture.folder.path().join("absent.gguf"), "not a readable file"),
        (fixture.folder.path().to_owned(), "not a readable file"),
        (PathBuf::from("/dev/zero"), "not a readable file"),
        (PathBuf::from("relative.gguf"), "not absolute"),
    ] {
        let error = fixture.import("x", &path).expect_err(word);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(!fixture.list_file().exists());
}

#[test]
fn copies_and_hard_links_lie_in_the_data_folder_and_only_move_moves() {
    let fixture = Fixture::new();
    for (id, mode, stays) in
        [("My Copy", Mode::Copy, true), ("link/é", Mode::HardLink, true), ("moved", Mode::Move, false)]
    {
        let path = fixture.weights(&format!("{stays}-{mode:?}.gguf"));
        let content = fs_err::read(&path).unwrap();
        let model = fixture.import_as(id, &path, mode).unwrap().model;
        assert!(model.path.starts_with(fixture.data().join("models/imported")), "{model:?}");
        assert_eq!(fs_err::read(&model.path).unwrap(), content);
        assert_eq!(path.exists(), stays, "{mode:?}");
        assert!(model.path.with_file_name("model.yaml").is_file());
        if stays {
            assert!(fixture.import_as(id, &path, mode).unwrap().already_there);
        }
    }
    assert_eq!(crate::fixture::tree(&fixture.data().join("partial")).len(), 0);
    assert!(fixture.list_text().contains("link/é local copied models/imported/link%2f%c3%a9/"));
}

#[test]
fn a_copy_that_fails_leaves_nothing() {
    let fixture = Fixture::new();
    let path = fixture.weights("a.gguf");
    for steps in 0..5 {
        let config =
            cortex_models::Config { files: cortex_models::Files::failing_after(steps), ..config(&fixture.data()) };
        let store = ModelStore::open(config);
        let request = cortex_models::Import {
            id: cortex_models::ModelId::new("a").unwrap(),
            path: path.clone(),
            name: None,
            mode: Mode::Move,
        };
        assert!(store.import(&request).is_err(), "{steps}");
        assert!(path.is_file());
    }
    assert_eq!(fixture.ids(), Vec::<String>::new());
}

#[test]
fn a_set_of_parts_is_one_model_and_must_be_whole() {
    let fixture = Fixture::new();
    let paths: Vec<PathBuf> =
        (1..=3).map(|number| fixture.write(&format!("big-0000{number}-of-00003.gguf"), &part(number, 3))).collect();
    let model = fixture.import("big", &paths[1]).unwrap().model;
    assert_eq!(model.path, paths[0]);
    let yaml = model.yaml().unwrap();
    assert_eq!(yaml.texts("files").len(), 3);
    let bytes: u64 = paths.iter().map(|path| fs_err::metadata(path).unwrap().len()).sum();
    assert_eq!(yaml.values()["size"], bytes);
    fs_err::remove_file(&paths[2]).unwrap();
    fixture.until_state("big", &ModelState::Missing);
    let error = fixture.import("big2", &paths[0]).expect_err("a part is missing");
    assert!(error.to_string().contains("part 3 of 3 is missing"), "{error}");
    fs_err::write(&paths[2], part(2, 3)).unwrap();
    let error = fixture.import("big2", &paths[0]).expect_err("the wrong part");
    assert!(error.to_string().contains("its header says part 2 of 3"), "{error}");
    fs_err::write(&paths[2], part(3, 3)).unwrap();
    fixture.until_state("big", &ModelState::Ready);
}

#[test]
fn a_projector_beside_the_weights_is_attached_when_it_fits() {
    let fixture = Fixture::new();
    let path = fixture.weights("vl/model.gguf");
    fixture.write("vl/mmproj-other.gguf", &projector(4096));
    let wanted = fixture.write("vl/mmproj-model-F16.gguf", &projector(32));
    fixture.write("vl/mmproj-model-Q8_0.gguf", &projector(32));
    let yaml = fixture.import("vl", &path).unwrap().model.yaml().unwrap();
    assert_eq!(yaml.text("mmproj"), wanted.to_str());
    let yaml = fixture.import("plain", &fixture.weights("plain.gguf")).unwrap().model.yaml().unwrap();
    assert_eq!(yaml.text("mmproj"), None);
}

#[test]
fn a_batch_writes_the_list_once_and_a_bad_entry_fails_alone() {
    let fixture = Fixture::new();
    fixture.import("taken", &fixture.weights("other.gguf")).unwrap();
    let entry = |id: Option<&str>, path: PathBuf| BatchEntry { id: id.map(str::to_owned), path };
    let broken = fixture.write("broken.gguf", b"GGUF, but not really");
    let batch = [
        entry(None, fixture.weights("a/model.gguf")),
        entry(None, fixture.weights("b/model.gguf")),
        entry(None, fixture.folder.path().join("absent.gguf")),
        entry(Some("taken"), fixture.weights("c/model.gguf")),
        entry(Some("a/../b"), fixture.weights("d/model.gguf")),
        entry(Some("broken"), broken),
        entry(Some("model"), fixture.weights("a/model.gguf")),
        entry(None, fixture.weights("mmproj-x.gguf")),
    ];
    let text = fixture.list_text();
    let planned = fixture.store.import_batch(&batch, true).unwrap();
    assert_eq!(fixture.list_text(), text, "a dry run writes nothing");
    let outcomes = fixture.store.import_batch(&batch, false).unwrap();
    for outcomes in [&planned, &outcomes] {
        let ids: Vec<Option<&str>> = outcomes.iter().map(|it| it.id.as_ref().map(AsRef::as_ref)).collect();
        assert_eq!(
            ids,
            [Some("model"), Some("b/model"), None, Some("taken"), None, Some("broken"), Some("model"), None]
        );
        let good: Vec<Option<bool>> = outcomes.iter().map(|it| it.result.as_ref().ok().copied()).collect();
        assert_eq!(good, [Some(false), Some(false), None, None, None, Some(false), Some(true), None]);
    }
    fixture.until("b/model", |model| !model.is_pending());
    fixture.until("broken", |model| matches!(model.state(), ModelState::Broken { .. }));
    assert!(yaml_file(&fixture, "model").is_file());
}

#[test]
fn edits_by_hand_count_at_once_and_are_kept() {
    let fixture = Fixture::new();
    let path = fixture.weights("a b.gguf");
    fixture.import("first", &path).unwrap();
    let edited = format!("\u{feff}# my models\r\nsecond '{}'\r\nnonsense\n# end", path.display());
    fs_err::write(fixture.list_file(), edited.as_bytes()).unwrap();
    assert_eq!(fixture.ids(), ["second"]);
    assert_eq!(fixture.store.problems().unwrap().len(), 1);
    fixture.import("third", &path).unwrap();
    assert!(fixture.list_text().starts_with(&edited), "{}", fixture.list_text());
    assert_eq!(fixture.ids(), ["second", "third"]);
    // The same length within the same tick of the clock, in the same file.
    for id in ["aaaa", "bbbb", "cccc", "dddd"] {
        fs_err::write(fixture.list_file(), format!("{id} /m.gguf\n")).unwrap();
        assert_eq!(fixture.ids(), [id]);
    }
    fs_err::remove_file(fixture.list_file()).unwrap();
    assert_eq!(fixture.ids(), Vec::<String>::new());
}

#[test]
fn a_yaml_is_made_and_a_damaged_one_is_set_aside() {
    let fixture = Fixture::new();
    fixture.import("My/Model", &fixture.weights("m.gguf")).unwrap();
    assert_eq!(number(&fixture, "My/Model", "ctx_len"), Some(128.0));
    let file = yaml_file(&fixture, "My/Model");
    let text = fs_err::read_to_string(&file).unwrap();
    assert!(text.contains("# BEGIN INFERENCE PARAMETERS") && text.contains("temperature: 0.7 # "), "{text}");
    fs_err::write(&file, text.replace("temperature: 0.7", "temperature: 0.1")).unwrap();
    assert_eq!(number(&fixture, "My/Model", "temperature"), Some(0.1));
    fs_err::write(&file, "a: [broken").unwrap();
    assert_eq!(number(&fixture, "My/Model", "temperature"), Some(0.7));
    let aside = file.with_extension("yaml.damaged-1");
    assert_eq!(fs_err::read_to_string(aside).unwrap(), "a: [broken");
    fs_err::remove_file(&file).unwrap();
    assert_eq!(number(&fixture, "My/Model", "temperature"), Some(0.7));
    assert!(file.is_file());
}

#[test]
fn settings_follow_weights_that_were_moved_by_hand_and_not_those_that_were_replaced() {
    let fixture = Fixture::new();
    let path = fixture.weights("m.gguf");
    fixture.import("m", &path).unwrap();
    fixture.store.update("m", json!({"temperature": 0.3}).as_object().unwrap()).unwrap();
    let moved = path.with_file_name("moved.gguf");
    std::fs::rename(&path, &moved).unwrap();
    let text = fixture.list_text();
    fs_err::write(fixture.list_file(), text.replace("m.gguf", "moved.gguf")).unwrap();
    assert_eq!(number(&fixture, "m", "temperature"), Some(0.3));
    let other = fixture.write("other.gguf", &GgufBuilder::loadable_llama().build());
    fs_err::write(fixture.list_file(), format!("m {}\n", other.display())).unwrap();
    assert_eq!(number(&fixture, "m", "temperature"), Some(0.7));
    assert!(yaml_file(&fixture, "m").with_extension("yaml.damaged-1").is_file());
}

#[test]
fn weights_that_are_gone_are_missing_and_come_back_by_themselves() {
    let mut fixture = Fixture::new();
    let path = fixture.weights("m.gguf");
    fixture.import("m", &path).unwrap();
    let aside = path.with_file_name("aside");
    std::fs::rename(&path, &aside).unwrap();
    fixture.until_state("m", &ModelState::Missing);
    assert_eq!(fixture.store.current("m").unwrap().state(), ModelState::Missing);
    fixture.reopen();
    fixture.until_state("m", &ModelState::Missing);
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(fixture.store.current("m").unwrap().state(), ModelState::Ready);
    fixture.until_state("m", &ModelState::Ready);
    let whole = fs_err::read(&path).unwrap();
    fs_err::write(&path, &whole[..whole.len() / 2]).unwrap();
    fixture.until("m", |model| matches!(model.state(), ModelState::Broken { .. }));
    fs_err::write(&path, &whole).unwrap();
    fixture.until_state("m", &ModelState::Ready);
}

#[test]
fn the_next_start_knows_what_was_known_without_opening_a_file() {
    let mut fixture = Fixture::new();
    let path = fixture.weights("m.gguf");
    fixture.import("m", &path).unwrap();
    fixture.until("m", |model| !model.is_pending());
    fixture.store.save_cache();
    // A file of the same length and time is taken for the same: it is not opened.
    let modified = fs_err::metadata(&path).unwrap().modified().unwrap();
    let length = fs_err::metadata(&path).unwrap().len();
    fs_err::write(&path, vec![0; usize::try_from(length).unwrap()]).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    fixture.reopen();
    let (models, _) = fixture.store.list().unwrap();
    assert!(!models[0].is_pending());
    assert_eq!(models[0].state(), ModelState::Ready);
    // Deleting the cache costs nothing but time.
    fs_err::remove_file(fixture.data().join("cache/models.cache")).unwrap();
    fixture.store = ModelStore::open(config(&fixture.data()));
    fixture.until("m", |model| !model.is_pending());
}

#[test]
fn settings_are_merged_checked_and_kept_with_what_is_unknown() {
    let fixture = Fixture::new();
    fixture.import("m", &fixture.weights("m.gguf")).unwrap();
    let file = yaml_file(&fixture, "m");
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, format!("{text}my_own: [1, two]\n")).unwrap();
    let change = json!({"id": "m", "ctx_len": 64, "stop": ["<end>"], "temperature": 0.2, "nobody_knows": 1});
    fixture.store.update("m", change.as_object().unwrap()).unwrap();
    let yaml = fixture.store.current("m").unwrap().yaml().unwrap();
    assert_eq!((yaml.number("ctx_len"), yaml.texts("stop")), (Some(64.0), vec!["<end>".to_owned()]));
    assert_eq!(yaml.values()["my_own"], json!([1, "two"]));
    assert!(!yaml.values().contains_key("nobody_knows"));
    let written = fs_err::read_to_string(&file).unwrap();
    fixture.store.update("m", json!({"ctx_len": 64}).as_object().unwrap()).unwrap();
    assert_eq!(fs_err::read_to_string(&file).unwrap(), written, "rewriting changes nothing");
    let wrong = json!({"ctx_len": 32, "top_p": 7});
    let Err(UpdateError::Fields { wrong }) = fixture.store.update("m", wrong.as_object().unwrap()) else {
        panic!("refused")
    };
    assert_eq!(wrong[0].0, "top_p");
    assert_eq!(number(&fixture, "m", "ctx_len"), Some(64.0));
}

#[test]
fn aliases_resolve_and_belong_to_one_model() {
    let mut fixture = Fixture::new();
    fixture.import("one", &fixture.weights("1.gguf")).unwrap();
    fixture.import("two", &fixture.weights("2.gguf")).unwrap();
    let aliases = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    fixture.store.set_aliases("one", &aliases(&["first", "my model"])).unwrap();
    fixture.reopen();
    assert_eq!(fixture.store.resolve("my model").unwrap().id.as_str(), "one");
    assert!(matches!(fixture.store.set_aliases("two", &aliases(&["first"])), Err(UpdateError::AliasTaken { .. })));
    assert!(matches!(fixture.store.set_aliases("two", &aliases(&["one"])), Err(UpdateError::AliasTaken { .. })));
    assert!(matches!(fixture.store.set_aliases("two", &aliases(&["a,b"])), Err(UpdateError::Alias { .. })));
    fixture.store.set_aliases("one", &[]).unwrap();
    assert!(fixture.store.resolve("first").is_err());
}

#[test]
fn a_deletion_removes_one_model_and_never_what_is_not_ours() {
    let mut fixture = Fixture::new();
    let path = fixture.weights("m.gguf");
    let before = fixture.user_files();
    fixture.import("by reference", &path).unwrap();
    let copy = fixture.import_as("copy", &path, Mode::Copy).unwrap().model.path.clone();
    // A second id on the same copy, and a link in the data folder that leads out.
    let second = format!("second {}\n", copy.display());
    let link = fixture.data().join("models/link.gguf");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    fs_err::write(fixture.list_file(), format!("{}{second}linked models/link.gguf\n", fixture.list_text())).unwrap();

    let removed = fixture.store.remove("by reference", true).unwrap();
    assert!(removed.left.is_empty());
    assert_eq!(fixture.user_files(), before);
    let removed = fixture.store.remove("copy", false).unwrap();
    assert_eq!(removed.left.iter().map(|left| &left.path).collect::<Vec<_>>(), [&copy]);
    assert_eq!(removed.left[0].why, cortex_models::WhyLeft::UsedBy(cortex_models::ModelId::existing("second")));
    assert!(copy.is_file());
    fixture.store.remove("linked", true).unwrap();
    assert_eq!(fixture.user_files(), before);
    assert!(link.symlink_metadata().is_ok());
    // Nobody else has the copy now, and cortex made it.
    let removed = fixture.store.remove("second", false).unwrap();
    assert!(removed.removed.contains(&copy) && !copy.exists());
    assert!(matches!(fixture.store.remove("second", false), Err(RemoveError::Resolve(ResolveError::Unknown { .. }))));
    fixture.reopen();
    assert_eq!(fixture.ids(), Vec::<String>::new());
}

#[test]
fn what_was_deleted_stays_away_whatever_its_id_and_what_was_written_again_does_not() {
    let mut fixture = Fixture::new();
    let own = fixture.data().join("models/own/k.gguf");
    fs_err::create_dir_all(own.parent().unwrap()).unwrap();
    fs_err::write(&own, GgufBuilder::llama().build()).unwrap();
    fixture.import("other id", &own).unwrap();
    fixture.store.remove("other id", false).unwrap();
    assert!(fixture.store.reindex(false).unwrap().added.is_empty());
    fs_err::write(fixture.list_file(), "\"other id\" models/own/k.gguf\n").unwrap();
    fixture.until("other id", |model| !model.is_pending());
    fixture.store.look_at_files(std::time::Duration::from_secs(20));
    fs_err::remove_file(fixture.list_file()).unwrap();
    assert_eq!(fixture.store.lost_list(), 1);
    assert_eq!(fixture.store.reindex(false).unwrap().added.len(), 1);
    fixture.reopen();
    assert_eq!((fixture.ids(), fixture.store.lost_list()), (vec!["other id".to_owned()], 0));
}

#[test]
fn an_import_that_would_not_do_what_was_asked_for_is_refused() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.weights("1.gguf"), fixture.weights("2.gguf"));
    fixture.import("one", &one).unwrap();
    for mode in [Mode::Copy, Mode::Move, Mode::HardLink] {
        assert!(matches!(fixture.import_as("one", &one, mode), Err(ImportError::ByReference { .. })), "{mode:?}");
    }
    assert!(one.is_file());
    fixture.store.set_aliases("one", &["first".to_owned()]).unwrap();
    assert!(matches!(fixture.import("first", &two), Err(ImportError::IsAlias { .. })));
    let batch = [BatchEntry { id: Some("first".into()), path: two }];
    let outcomes = fixture.store.import_batch(&batch, false).unwrap();
    assert!(matches!(outcomes[0].result, Err(ImportError::IsAlias { .. })));
    assert_eq!(fixture.store.resolve("first").unwrap().id.as_str(), "one");
}

#[test]
fn what_cannot_be_in_a_yaml_is_left_out_and_told_and_what_lacks_is_filled_in() {
    let mut fixture = Fixture::new();
    fixture.import("m", &fixture.weights("m.gguf")).unwrap();
    let file = yaml_file(&fixture, "m");
    fs_err::write(&file, "temperature: hot\nctx_len: \"64\"\nmy_own: 1\n").unwrap();
    for _ in 0..2 {
        let model = fixture.store.current("m").unwrap();
        let yaml = model.yaml().unwrap();
        assert_eq!((yaml.number("temperature"), yaml.number("ctx_len")), (None, Some(64.0)));
        assert_eq!((yaml.text("architecture"), &yaml.values()["my_own"]), (Some("llama"), &json!(1)));
        assert!(model.wrong_settings().unwrap().contains("temperature is \"hot\""), "{model:?}");
        fixture.reopen();
    }
    assert!(fs_err::read_to_string(&file).unwrap().contains("temperature: hot"), "nothing of the person's is lost");
    fs_err::write(&file, "").unwrap();
    assert_eq!(number(&fixture, "m", "temperature"), Some(0.7));
    assert_eq!(fixture.store.current("m").unwrap().wrong_settings(), None);
}

#[test]
fn a_folder_in_the_place_of_a_yaml_is_set_aside() {
    let mut fixture = Fixture::new();
    fixture.import("m", &fixture.weights("m.gguf")).unwrap();
    let file = yaml_file(&fixture, "m");
    fixture.reopen();
    // Nobody looks at it now: the first look of the next start finds the folder.
    fixture.store = ModelStore::open(config(&fixture.folder.path().join("other")));
    fs_err::remove_file(&file).unwrap();
    fs_err::create_dir(&file).unwrap();
    fixture.store = ModelStore::open(config(&fixture.data()));
    assert_eq!(number(&fixture, "m", "temperature"), Some(0.7));
    assert!(file.is_file() && file.with_extension("yaml.damaged-1").is_dir());
}

#[test]
fn of_two_lines_with_one_id_the_second_counts_when_the_first_is_deleted() {
    let mut fixture = Fixture::new();
    let (one, two) = (fixture.weights("1.gguf"), fixture.weights("2.gguf"));
    fs_err::create_dir_all(fixture.data().join("models")).unwrap();
    fs_err::write(fixture.list_file(), format!("d {}\nd {}\n", one.display(), two.display())).unwrap();
    fixture.store.remove("d", false).unwrap();
    let now = (fixture.ids(), fixture.store.problems().unwrap());
    assert_eq!(now, (vec!["d".to_owned()], vec![]));
    assert_eq!(fixture.store.resolve("d").unwrap().path, two);
    fixture.reopen();
    assert_eq!((fixture.ids(), fixture.store.problems().unwrap()), now);
}

#[test]
fn a_lost_list_is_built_again_without_what_was_deleted() {
    let mut fixture = Fixture::new();
    fixture.import("outside/é", &fixture.weights("m.gguf")).unwrap();
    fixture.import_as("My Copy", &fixture.weights("c.gguf"), Mode::Copy).unwrap();
    fixture.import("gone", &fixture.weights("gone.gguf")).unwrap();
    let legacy = fixture.data().join("models/huggingface.co/author/repo");
    fs_err::create_dir_all(&legacy).unwrap();
    fs_err::write(legacy.join("f.gguf"), GgufBuilder::llama().build()).unwrap();
    fs_err::write(
        legacy.join("f.yml"),
        "model: author:repo:f.gguf\nfiles:\n  - models/huggingface.co/author/repo/f.gguf\n",
    )
    .unwrap();
    let jan = fixture.data().join("models/jan-model");
    fs_err::create_dir_all(&jan).unwrap();
    fs_err::write(jan.join("model.json"), "{}").unwrap();
    fs_err::write(jan.join("w.gguf"), GgufBuilder::llama().build()).unwrap();
    for id in ["outside/é", "My Copy", "gone"] {
        fixture.until(id, |model| !model.is_pending());
    }
    fixture.store.remove("gone", false).unwrap();
    // As if its yaml had stayed behind.
    let yaml = "model: gone\nfiles: [/nowhere/gone.gguf]\n";
    fs_err::write(fixture.data().join("models/imported/gone.yaml"), yaml).unwrap();
    fs_err::remove_file(fixture.list_file()).unwrap();

    let done = fixture.store.reindex(false).unwrap();
    let mut ids = fixture.ids();
    ids.sort();
    assert_eq!(ids, ["My Copy", "author:repo:f.gguf", "outside/é"], "{done:?}");
    let why: Vec<&str> = done.left_out.iter().map(|(_, why)| why.as_str()).collect();
    assert!(why.iter().any(|why| why.contains("was deleted")), "{why:?}");
    assert!(why.iter().any(|why| why.contains("cortex migrate")), "{why:?}");
    assert_eq!(fixture.store.resolve("My Copy").unwrap().branch, "copied");
    assert!(fixture.store.reindex(false).unwrap().added.is_empty());
    assert_eq!(fixture.store.reindex(true).unwrap().added.len(), 1);
    fixture.reopen();
    for id in ["My Copy", "author:repo:f.gguf", "outside/é"] {
        assert_eq!(fixture.store.current(id).unwrap().state(), ModelState::Ready, "{id}");
    }
}

#[test]
fn the_data_folder_can_be_moved_as_a_whole() {
    let mut fixture = Fixture::new();
    fixture.import_as("copy", &fixture.weights("c.gguf"), Mode::Copy).unwrap();
    fixture.import("reference", &fixture.weights("r.gguf")).unwrap();
    fixture.store.update("copy", json!({"temperature": 0.4}).as_object().unwrap()).unwrap();
    fixture.store.save_cache();
    let elsewhere = fixture.folder.path().join("elsewhere");
    std::fs::rename(fixture.data(), &elsewhere).unwrap();
    fixture.store = ModelStore::open(config(&elsewhere));
    for id in ["copy", "reference"] {
        let model = fixture.store.current(id).unwrap();
        assert_eq!(model.state(), ModelState::Ready, "{id}");
        assert!(fixture.store.usable(&model).is_ok());
    }
    assert_eq!(number(&fixture, "copy", "temperature"), Some(0.4));
}

#[test]
fn ids_of_any_shape_live_beside_each_other() {
    let mut fixture = Fixture::new();
    let long = "x".repeat(300);
    let ids = ["a b", "a/b", "a:b", "CON", "con", "end.", "😀", "Case", "case", &long, "..."];
    for (at, id) in ids.iter().enumerate() {
        fixture.import_as(id, &fixture.weights(&format!("{at}.gguf")), Mode::Copy).unwrap();
        fixture.store.update(id, json!({"top_k": at}).as_object().unwrap()).unwrap();
    }
    fixture.reopen();
    assert_eq!(fixture.ids(), ids);
    for (at, id) in ids.iter().enumerate() {
        assert_eq!(number(&fixture, id, "top_k"), Some(f64::from(u8::try_from(at).unwrap())), "{id}");
    }
    for id in ids {
        fixture.store.remove(id, false).unwrap();
    }
    assert_eq!(crate::fixture::tree(&fixture.data().join("models/imported")).len(), 0);
}

#[test]
fn an_unknown_name_is_told_with_what_it_may_mean() {
    let fixture = Fixture::new();
    fixture.import("TinyLlama:1b", &fixture.weights("m.gguf")).unwrap();
    let Err(error @ ResolveError::Unknown { .. }) = fixture.store.resolve("tinyllama") else { panic!("unknown") };
    assert_eq!(error.hint().as_deref(), Some("did you mean `TinyLlama:1b`?"));
}
