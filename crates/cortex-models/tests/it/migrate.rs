//! Migrations: what becomes of each kind of folder, and that nothing of the user's is touched.

use crate::{
    legacy::{Legacy, downloadable, gguf, seen_by_the_old_app, tree},
    migrate_cases::{CASES, build_all},
};
use cortex_models::{
    Config, Files, Finding, GivenModel, Homes, Migrate, MigrateError, MigrationReport, Migrations, ModelId, ModelState,
    ModelStore, Outcome, Shutdown, tasks,
};
use proptest::prelude::*;
use serde_json::json;
use std::{path::Path, time::Duration};

/// A store and its migrations. Nothing is migrated by itself: there is a list.
pub(crate) struct World {
    pub(crate) store: ModelStore,
    pub(crate) migrations: Migrations,
    _shutdown: Shutdown,
}

fn world(data: &Path, files: Files) -> World {
    let (tasks, shutdown) = tasks();
    let store = ModelStore::open(Config { files, ..Config::new(data) });
    let homes = Homes { home: Some(data.join("home")), ..Homes::default() };
    let migrations = Migrations::start(store.clone(), homes, &tasks);
    World { store, migrations, _shutdown: shutdown }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Migrates the folder by itself, as a first start does.
pub(crate) fn first_start(data: &Path, files: Files) -> World {
    let runtime = runtime();
    runtime.block_on(async {
        let world = world(data, files);
        world.migrations.settled().await;
        world
    })
}

pub(crate) fn finding<'report>(report: &'report MigrationReport, folder: &str) -> &'report Finding {
    let found = report.findings.iter().find(|finding| finding.place.ends_with(folder));
    found.unwrap_or_else(|| panic!("{folder} is not in {report:#?}"))
}

pub(crate) fn ids(store: &ModelStore) -> Vec<String> {
    store.list().unwrap().0.iter().map(|model| model.id.to_string()).collect()
}

#[test]
fn each_kind_of_folder_becomes_what_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = build_all(folder.path());
    let (before, seen) = (tree(folder.path()), seen_by_the_old_app(folder.path()));
    let world = first_start(folder.path(), Files::default());
    let reports = world.migrations.list();
    let [report] = reports.as_slice() else { panic!("{reports:#?}") };
    assert_eq!(report.state, "done");
    assert_eq!(report.findings.len(), CASES.len(), "each folder is told, and nothing else");
    for (name, _, result, id, weights, reason) in CASES {
        let found = finding(report, &format!("models/{name}"));
        assert_eq!((found.result, found.id.as_deref()), (*result, *id), "{name}: {found:#?}");
        let expected = weights.map(|weights| legacy.path("models").join(weights));
        let real = |path: &Path| fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        assert_eq!(found.weights.as_deref().map(real), expected.as_deref().map(real), "{name}");
        assert!(found.reason.as_deref().unwrap_or_default().contains(reason), "{name}: {found:#?}");
        assert_eq!(found.result == Outcome::Unresolved, found.hint.is_some(), "{name}: {found:#?}");
        let listed = world.store.resolve(id.unwrap_or(name)).ok();
        assert_eq!(listed.is_some(), *result == Outcome::Registered, "{name}");
        if let Some(model) = listed {
            assert_eq!(Some(model.id.as_str()), *id);
            let state = world.store.current(model.id.as_str()).unwrap().state();
            let missing = *name == "gone";
            assert_eq!(state, if missing { ModelState::Missing } else { ModelState::Ready }, "{name}");
        }
    }
    assert_eq!(tree(folder.path()), before, "nothing of the user's was touched");
    assert_eq!(seen_by_the_old_app(folder.path()), seen, "the old app sees what it saw");
    // Once more: everything is known.
    let again = world.migrations.migrate(&Migrate::default()).unwrap();
    assert_eq!(again.findings.iter().filter(|it| it.result == Outcome::Registered).count(), 0, "{again:#?}");
}

#[test]
fn settings_survive_and_win_over_the_header() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.downloaded("tiny", "tiny", "t.gguf");
    legacy.json(
        "vision",
        &json!({"id": "vision", "engine": "nitro", "settings": {"llama_model_path": "v.gguf", "mmproj": "mm.gguf"}}),
    );
    legacy.file("vision/v.gguf", gguf());
    legacy.file("vision/mm.gguf", gguf());
    let world = first_start(folder.path(), Files::default());
    let yaml = world.store.current("tiny").unwrap().yaml().unwrap();
    for (key, value) in
        [("ctx_len", 2048.0), ("ngl", 33.0), ("max_tokens", 99.0), ("temperature", 0.25), ("top_p", 0.5)]
    {
        assert_eq!(yaml.number(key), Some(value), "{key}");
    }
    assert_eq!(yaml.text("prompt_template"), Some("<u>{prompt}<a>"));
    assert_eq!(yaml.text("name"), Some("The tiny"));
    // What makes no sense is told.
    let mut odd = downloadable("odd", "o.gguf");
    odd["parameters"]["temperature"] = json!(-1);
    legacy.json("odd", &odd);
    legacy.file("odd/o.gguf", gguf());
    let report = world.migrations.migrate(&Migrate::default()).unwrap();
    assert!(finding(&report, "odd").reason.as_ref().unwrap().contains("temperature is -1"), "{report:#?}");
    // Its own end of text and that of the header.
    assert_eq!(yaml.texts("stop"), ["</s>", "<end>"]);
    assert_eq!((yaml.text("architecture"), yaml.number("seed")), (Some("llama"), Some(-1.0)));
    let vision = world.store.current("vision").unwrap().yaml().unwrap();
    assert_eq!(vision.text("mmproj"), Some("models/vision/mm.gguf"));
    // The next start knows the same.
    drop(world);
    let world = first_start(folder.path(), Files::default());
    assert_eq!(world.store.current("tiny").unwrap().yaml().unwrap().number("ctx_len"), Some(2048.0));
}

#[test]
fn of_two_folders_with_one_id_the_first_counts() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    let first = legacy.downloaded("a", "same", "a.gguf");
    legacy.downloaded("b", "same", "b.gguf");
    // Two ids may share one file.
    legacy.json("c", &json!({"id": "shares", "sources": [{"url": first}]}));
    let world = first_start(folder.path(), Files::default());
    let report = world.migrations.list().remove(0);
    let second = finding(&report, "b");
    assert_eq!(second.result, Outcome::Unresolved);
    assert!(second.reason.as_ref().unwrap().contains("is also that of"), "{second:?}");
    assert!(second.hint.as_ref().unwrap().starts_with("`cortex import --id b "), "{second:?}");
    let path = |id: &str| world.store.resolve(id).unwrap().path.clone();
    assert_eq!((path("same"), path("shares")), (first.clone(), first));
}

#[test]
fn what_the_old_app_does_meanwhile_is_seen_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.downloaded("one", "one", "1.gguf");
    legacy.downloaded("two", "two", "2.gguf");
    let world = first_start(folder.path(), Files::default());
    world.store.update("one", json!({"temperature": 0.75}).as_object().unwrap()).unwrap();
    world.store.remove("two", false).unwrap();
    legacy.downloaded("three", "three", "3.gguf");
    fs_err::remove_file(legacy.path("models/one/1.gguf")).unwrap();
    let before = tree(folder.path());
    let report = world.migrations.migrate(&Migrate::default()).unwrap();
    assert_eq!(finding(&report, "three").result, Outcome::Registered);
    let deleted = finding(&report, "two");
    assert_eq!((deleted.result, deleted.reason.as_deref()), (Outcome::Skipped, Some("`two` was deleted")));
    assert_eq!(ids(&world.store), ["one", "three"]);
    assert_eq!(world.store.current("one").unwrap().state(), ModelState::Missing);
    let report = world.migrations.migrate(&Migrate { include_deleted: true, ..Migrate::default() }).unwrap();
    assert_eq!(finding(&report, "two").result, Outcome::Registered);
    // It is not brought back a second time when it was deleted and came back.
    let report = world.migrations.migrate(&Migrate::default()).unwrap();
    assert_eq!(finding(&report, "two").result, Outcome::AlreadyKnown);
    assert_eq!(tree(folder.path()), before);
    let yaml = world.store.resolve("one").unwrap();
    assert_eq!(yaml.id.as_str(), "one");
}

#[test]
fn a_migration_is_taken_back_and_does_not_come_again() {
    let folder = tempfile::tempdir().unwrap();
    build_all(folder.path());
    let before = tree(folder.path());
    let world = first_start(folder.path(), Files::default());
    let id = world.migrations.list()[0].id.clone().unwrap();
    // Used and changed, as people do.
    world.store.update("downloaded", json!({"temperature": 0.75}).as_object().unwrap()).unwrap();
    for id in ids(&world.store) {
        let _ = world.store.current(&id);
    }
    let undone = world.migrations.undo(Some(&id)).unwrap();
    assert_eq!((undone.state, undone.left.len()), ("undone", 0));
    assert!(ids(&world.store).is_empty());
    assert!(matches!(world.migrations.undo(Some(&id)), Err(MigrateError::NothingToUndo { .. })));
    assert!(matches!(world.migrations.undo(Some("other")), Err(MigrateError::Unknown { .. })));
    drop(world);
    let world = first_start(folder.path(), Files::default());
    assert!(ids(&world.store).is_empty(), "it does not come by itself");
    world.store.look_at_files(Duration::from_secs(10));
    assert_eq!(tree(folder.path()), before);
    for ours in ["models/models.list", "models/.models.list.lock", "models/imported"] {
        assert!(!folder.path().join(ours).exists(), "{ours}");
    }
    // Only when somebody asks for it.
    let report = world.migrations.migrate(&Migrate::default()).unwrap();
    assert!(finding(&report, "downloaded").result == Outcome::Registered && world.store.resolve("downloaded").is_ok());
}

#[test]
fn an_undo_leaves_what_is_another_model_by_now() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.downloaded("one", "one", "1.gguf");
    legacy.downloaded("two", "two", "2.gguf");
    let world = first_start(folder.path(), Files::default());
    let list = folder.path().join("models/models.list");
    let text = fs_err::read_to_string(&list).unwrap().replace("models/one/1.gguf", "models/two/2.gguf");
    fs_err::write(&list, text + "mine /my/own.gguf\n").unwrap();
    let undone = world.migrations.undo(None).unwrap();
    assert_eq!(undone.left, [ModelId::existing("one")]);
    assert_eq!(ids(&world.store), ["one", "mine"]);
}

#[test]
fn another_folder_is_migrated_on_request_and_a_dry_run_changes_nothing() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build_all(folder.path());
    let before = tree(folder.path());
    let world = first_start(data.path(), Files::default());
    assert!(world.migrations.list().is_empty());
    let request = Migrate { from: Some(folder.path().to_owned()), dry_run: true, ..Migrate::default() };
    let report = world.migrations.migrate(&request).unwrap();
    assert_eq!((report.state, &report.id), ("dry_run", &None));
    assert!(ids(&world.store).is_empty() && !data.path().join("models/models.list").exists());
    // The folder of models itself will do.
    let request = Migrate { from: Some(folder.path().join("models")), ..Migrate::default() };
    let report = world.migrations.migrate(&request).unwrap();
    assert_eq!(report.state, "done");
    let model = world.store.current("downloaded").unwrap();
    assert!(model.path.starts_with(folder.path()) && model.state() == ModelState::Ready);
    assert_eq!(model.yaml().unwrap().number("ctx_len"), Some(2048.0));
    assert_eq!(tree(folder.path()), before);
    // So will the folder of one model.
    world.migrations.undo(None).unwrap();
    let request = Migrate { from: Some(folder.path().join("models/other-folder")), ..Migrate::default() };
    world.migrations.migrate(&request).unwrap();
    assert_eq!(ids(&world.store), ["The Id (1).Q4+x"]);
    for (path, is) in [("relative", "not absolute"), ("/no-such-folder", "no folder `models`")] {
        let error = world.migrations.migrate(&Migrate { from: Some(path.into()), ..Migrate::default() }).unwrap_err();
        assert!(error.to_string().contains(is), "{error}");
    }
}

#[test]
fn a_list_that_a_client_gives_is_taken_without_a_search() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let legacy = Legacy::new(folder.path());
    let weights = legacy.file("x/x.gguf", gguf());
    let world = first_start(data.path(), Files::default());
    let given = |id: &str, weights: &Path| GivenModel {
        id: ModelId::existing(id),
        weights: weights.to_owned(),
        settings: json!({"ctx_len": 77}).as_object().unwrap().clone(),
    };
    let list = vec![given("a", &weights), given("a", &weights), given("gone", Path::new("/no/such.gguf"))];
    let report = world.migrations.take_list(list.clone(), false).unwrap();
    let results: Vec<Outcome> = report.findings.iter().map(|finding| finding.result).collect();
    assert_eq!(results, [Outcome::Registered, Outcome::Unresolved, Outcome::Registered]);
    assert_eq!(world.store.current("a").unwrap().yaml().unwrap().number("ctx_len"), Some(77.0));
    assert_eq!(world.store.current("gone").unwrap().state(), ModelState::Missing);
    let again = world.migrations.take_list(list, false).unwrap();
    assert!(again.id.is_none() && again.findings[0].result == Outcome::AlreadyKnown, "{again:#?}");
    let relative = world.migrations.take_list(vec![given("b", Path::new("b.gguf"))], false);
    assert!(matches!(relative, Err(MigrateError::NotAbsolute { .. })));
}

#[test]
fn a_folder_that_cannot_be_written_is_told_and_registered_from_another_one() {
    use std::os::unix::fs::PermissionsExt;
    let (older, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let legacy = Legacy::new(older.path());
    legacy.downloaded("one", "one", "1.gguf");
    let read_only = |mode: u32| {
        for folder in ["", "models", "models/one"] {
            fs_err::set_permissions(older.path().join(folder), std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    read_only(0o555);
    let (before, seen) = (tree(older.path()), seen_by_the_old_app(older.path()));
    // As its own folder: a disk that takes nothing, also when it is root who tries.
    let world = first_start(older.path(), Files::failing_after(0));
    let error = world.migrations.migrate(&Migrate::default()).unwrap_err();
    assert!(matches!(error, MigrateError::Journal(_)) && error.hint().is_some(), "{error}");
    assert!(ids(&world.store).is_empty());
    drop(world);
    let world = first_start(data.path(), Files::default());
    let request = Migrate { from: Some(older.path().to_owned()), ..Migrate::default() };
    let report = world.migrations.migrate(&request).unwrap();
    assert_eq!(finding(&report, "one").result, Outcome::Registered);
    assert_eq!(world.store.current("one").unwrap().state(), ModelState::Ready);
    assert_eq!((tree(older.path()), seen_by_the_old_app(older.path())), (before, seen));
    read_only(0o755);
    // And one that is not there at all.
    for place in ["nowhere", "models/one/1.gguf"] {
        let request = Migrate { from: Some(older.path().join(place)), ..Migrate::default() };
        let error = world.migrations.migrate(&request).unwrap_err();
        assert!(matches!(error, MigrateError::NoModels { .. }) && error.hint().is_some(), "{place}: {error}");
    }
}

#[test]
fn a_truncated_file_is_listed_as_broken_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.json("cut", &downloadable("cut", "c.gguf"));
    let mut whole = gguf();
    whole.truncate(whole.len() - 64);
    legacy.file("cut/c.gguf", whole);
    legacy.downloaded("good", "good", "g.gguf");
    let world = first_start(folder.path(), Files::default());
    assert!(matches!(world.store.current("cut").unwrap().state(), ModelState::Broken { .. }));
    assert_eq!(world.store.current("good").unwrap().state(), ModelState::Ready);
    let report = world.migrations.list().remove(0);
    let cut = finding(&report, "cut");
    assert!(cut.reason.as_ref().unwrap().contains("cannot be used") && cut.hint.is_some(), "{cut:?}");
}

/// What a folder of the property test holds.
fn folders() -> impl Strategy<Value = Vec<(usize, bool)>> {
    proptest::collection::vec((0..CASES.len(), any::<bool>()), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Whatever lies there: nothing of it is touched, the old app sees the same, and a second migration finds
    /// nothing to do.
    #[test]
    fn a_second_migration_has_nothing_to_do(cases in folders()) {
        let folder = tempfile::tempdir().unwrap();
        let legacy = Legacy::new(folder.path());
        for (at, linked) in cases {
            let (name, build, ..) = CASES[at];
            build(&legacy);
            let (place, away) = (legacy.path("models").join(name), legacy.path("away").join(name));
            if linked && place.exists() && !place.is_symlink() && !away.exists() {
                // On another drive, with a link in its place.
                fs_err::create_dir_all(away.parent().unwrap()).unwrap();
                std::process::Command::new("mv").arg(&place).arg(&away).status().unwrap();
                std::os::unix::fs::symlink(&away, &place).unwrap();
            }
        }
        let (before, seen) = (tree(folder.path()), seen_by_the_old_app(folder.path()));
        let world = first_start(folder.path(), Files::default());
        let registered = ids(&world.store);
        let again = world.migrations.migrate(&Migrate::default()).unwrap();
        prop_assert!(again.findings.iter().all(|finding| finding.result != Outcome::Registered), "{again:#?}");
        prop_assert_eq!(ids(&world.store), registered);
        prop_assert_eq!(tree(folder.path()), before);
        prop_assert_eq!(seen_by_the_old_app(folder.path()), seen);
    }
}

#[test]
fn entries_that_no_list_can_hold_and_links_to_nowhere_are_told_and_stop_nobody() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.downloaded("good", "good", "g.gguf");
    legacy.downloaded(".hidden", ".hidden", "h.gguf");
    legacy.file("loose.gguf", gguf());
    let odd = legacy.path("models").join(std::ffi::OsStr::from_bytes(b"inv\xff"));
    fs_err::create_dir(&odd).unwrap();
    fs_err::write(odd.join("m.gguf"), gguf()).unwrap();
    std::os::unix::fs::symlink("/no-such-drive/models/x", legacy.path("models/away")).unwrap();
    std::os::unix::fs::symlink(".", legacy.path("models/itself")).unwrap();
    legacy.downloaded("control", "two\nlines", "c.gguf");
    let pipe = legacy.path("models/pipe");
    legacy.json("pipe", &downloadable("pipe", "p.gguf"));
    assert!(std::process::Command::new("mkfifo").arg(pipe.join("p.gguf")).status().unwrap().success());
    let before = tree(folder.path());
    let world = first_start(folder.path(), Files::default());
    assert!(world.store.resolve("good").is_ok() && world.store.resolve(".hidden").is_ok());
    let report = world.migrations.list().remove(0);
    for (place, result, word) in [
        ("inv\u{fffd}", Outcome::Unresolved, "letters that no list can hold"),
        ("away", Outcome::Unresolved, "/no-such-drive/models/x, which is not there"),
        ("control", Outcome::Unresolved, "control characters"),
        ("loose.gguf", Outcome::Skipped, "in no folder of its own"),
        ("pipe", Outcome::Unresolved, "no GGUF file"),
    ] {
        let found = finding(&report, &format!("models/{place}"));
        assert_eq!(found.result, result, "{found:?}");
        let reason = found.reason.as_ref().unwrap();
        assert!(reason.contains(word) && !reason.contains("; "), "{found:?}");
    }
    assert_eq!(tree(folder.path()), before);
}

#[test]
fn a_yaml_that_was_there_before_counts_and_stays_after_an_undo() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.downloaded("s", "s", "s.gguf");
    let yaml = legacy.file("imported/s.yaml", "temperature: 1.5\n");
    let world = first_start(folder.path(), Files::default());
    let report = world.migrations.list().remove(0);
    assert!(finding(&report, "models/s").reason.as_ref().unwrap().contains("is there already"), "{report:#?}");
    assert_eq!(world.store.current("s").unwrap().yaml().unwrap().number("temperature"), Some(1.5));
    world.migrations.undo(None).unwrap();
    assert_eq!(fs_err::read_to_string(yaml).unwrap(), "temperature: 1.5\n");
}

#[test]
fn the_last_of_several_in_one_second_is_taken_back_first() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let legacy = Legacy::new(folder.path());
    let weights = legacy.file("x/x.gguf", gguf());
    let world = first_start(data.path(), Files::default());
    let all = ["a", "b", "c", "d"];
    for id in all {
        let given =
            GivenModel { id: ModelId::existing(id), weights: weights.clone(), settings: serde_json::Map::new() };
        world.migrations.take_list(vec![given], false).unwrap();
    }
    for left in (0..all.len()).rev() {
        world.migrations.undo(None).unwrap();
        assert_eq!(ids(&world.store), all[..left]);
    }
    assert!(matches!(world.migrations.undo(None), Err(MigrateError::NoneLeft)));
}
