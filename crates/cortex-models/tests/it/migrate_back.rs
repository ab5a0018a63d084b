//! The way back to an older Jan: it shows what it showed, and on request the newer models too.

use crate::{
    legacy::{Legacy, gguf, seen_by_the_old_app, tree},
    migrate::{finding, first_start, ids},
};
use cortex_models::{Down, Files, Import, Migrate, MigrateError, MigrationReport, Mode, Model, ModelId, Outcome};
use serde_json::Value;
use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

#[expect(clippy::unnecessary_wraps, reason = "of others, none can be made")]
fn template(model: &Model) -> Option<String> {
    Some(format!("<{}>{{prompt}}", model.id))
}

fn registered(report: &MigrationReport) -> Vec<&str> {
    let added = report.findings.iter().filter(|finding| finding.result == Outcome::Registered);
    added.filter_map(|finding| finding.id.as_deref()).collect()
}

fn import(world: &crate::migrate::World, id: &str, path: &Path) {
    let id = ModelId::new(id).unwrap();
    world.store.import(&Import { id, path: path.to_owned(), name: None, mode: Mode::Reference }).unwrap();
}

#[test]
fn the_old_app_shows_newer_models_when_it_is_asked_for_and_not_after_an_undo() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.downloaded("one", "one", "1.gguf");
    let elsewhere = legacy.file("../elsewhere/new (1).gguf", gguf()).canonicalize().unwrap();
    let world = first_start(folder.path(), Files::default());
    import(&world, "maker:repo:new.gguf", &elsewhere);
    import(&world, "a/b", &elsewhere);
    let before = tree(folder.path());

    let told = world.migrations.migrate_down(&Down::default(), template).unwrap();
    assert_eq!((told.state, told.id.as_deref(), registered(&told)), ("dry_run", None, vec!["maker:repo:new.gguf"]));
    assert_eq!(finding(&told, "models/one").result, Outcome::AlreadyKnown);
    let nameless = finding(&told, "a/b");
    assert_eq!((nameless.result, nameless.hint.is_some()), (Outcome::Skipped, true), "{nameless:?}");
    assert_eq!(tree(folder.path()), before, "it only says so");
    assert_eq!(seen_by_the_old_app(folder.path()), ["one"]);

    let done = world.migrations.migrate_down(&Down { write: true, folder: None }, template).unwrap();
    assert_eq!((done.state, registered(&done)), ("done", vec!["maker:repo:new.gguf"]));
    assert_eq!(seen_by_the_old_app(folder.path()), ["maker:repo:new.gguf", "one"]);
    let path = legacy.path("models/maker:repo:new.gguf/model.json");
    let json: Value = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(json["sources"][0]["url"], elsewhere.to_str().unwrap());
    assert_eq!(json["settings"]["prompt_template"], "<maker:repo:new.gguf>{prompt}");
    let mut after = tree(folder.path());
    after.retain(|place, _| !place.starts_with("models/maker:repo:new.gguf"));
    assert_eq!(after, before, "nothing else was touched");
    // Once more, and up again: everything is known.
    let again = world.migrations.migrate_down(&Down { write: true, folder: None }, template).unwrap();
    assert_eq!((again.id.as_deref(), registered(&again)), (None, vec![]));
    let up = world.migrations.migrate(&Migrate::default()).unwrap();
    assert_eq!(finding(&up, "maker:repo:new.gguf").result, Outcome::AlreadyKnown);

    let undone = world.migrations.undo(None).unwrap();
    assert_eq!((undone.id, undone.left.len()), (done.id, 0));
    assert_eq!(tree(folder.path()), before);
    assert_eq!(ids(&world.store), ["one", "maker:repo:new.gguf", "a/b"], "the list stays");
}

#[test]
fn what_was_changed_in_the_old_app_stays_after_an_undo() {
    let (older, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let legacy = Legacy::new(older.path());
    let weights = Legacy::new(data.path()).file("../w.gguf", gguf()).canonicalize().unwrap();
    let world = first_start(data.path(), Files::default());
    for id in ["kept", "gone", "same"] {
        import(&world, id, &weights);
    }
    let down = Down { folder: Some(older.path().to_owned()), write: true };
    let done = world.migrations.migrate_down(&down, template).unwrap();
    assert_eq!(registered(&done), ["kept", "gone", "same"]);
    legacy.file("kept/model.json", "{\"id\": \"kept\", \"name\": \"Mine\"}");
    fs_err::remove_dir_all(legacy.path("models/gone")).unwrap();
    legacy.file("same/notes.txt", "mine");
    let undone = world.migrations.undo(done.id.as_deref()).unwrap();
    assert_eq!(undone.left, [ModelId::existing("kept")]);
    assert!(legacy.path("models/kept/model.json").is_file() && legacy.path("models/same/notes.txt").is_file());
    assert!(!legacy.path("models/same/model.json").exists());
    let nowhere = Down { folder: Some(older.path().join("nowhere")), write: true };
    assert!(matches!(world.migrations.migrate_down(&nowhere, template), Err(MigrateError::NoModels { .. })));
}

#[test]
fn what_lies_in_the_way_is_left_as_it_is_and_stops_nobody() {
    use std::os::unix::fs::symlink;
    let (older, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let legacy = Legacy::new(older.path());
    let weights = Legacy::new(data.path()).file("../w.gguf", gguf()).canonicalize().unwrap();
    let world = first_start(data.path(), Files::default());
    let taken = ["empty", "file", "pipe", "device", "lost", "loop", "own"];
    for id in taken.iter().chain(&["last"]) {
        import(&world, id, &weights);
    }
    fs_err::create_dir(legacy.path("models/empty")).unwrap();
    legacy.file("file", "mine");
    legacy.file("own/notes.txt", "mine");
    for folder in ["pipe", "device"] {
        fs_err::create_dir(legacy.path("models").join(folder)).unwrap();
    }
    let pipe = legacy.path("models/pipe/model.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    symlink("/dev/null", legacy.path("models/device/model.json")).unwrap();
    symlink("/no/such/folder", legacy.path("models/lost")).unwrap();
    symlink("loop", legacy.path("models/loop")).unwrap();
    let before = tree(older.path());
    let down = Down { folder: Some(older.path().to_owned()), write: true };
    let done = world.migrations.migrate_down(&down, template).unwrap();
    assert_eq!(registered(&done), ["last"]);
    for id in taken {
        let told = finding(&done, &format!("models/{id}"));
        assert!(told.result == Outcome::Skipped && told.reason.is_some(), "{told:?}");
    }
    // While the drive is away nothing can be said, and so nothing is.
    let away = older.path().with_extension("away");
    fs_err::rename(older.path(), &away).unwrap();
    let error = world.migrations.undo(None).unwrap_err();
    assert!(matches!(error, MigrateError::Unreadable { .. }), "{error}");
    fs_err::rename(&away, older.path()).unwrap();
    assert_eq!(world.migrations.undo(None).unwrap().left, []);
    assert_eq!(tree(older.path()), before);
}

#[test]
fn a_file_that_cannot_be_written_is_told_and_the_others_are() {
    let mut partly = None;
    for room in (0..20_000).step_by(200) {
        let folder = tempfile::tempdir().unwrap();
        let legacy = Legacy::new(folder.path());
        let weights = legacy.file("../w.gguf", gguf()).canonicalize().unwrap();
        let world = first_start(folder.path(), Files::default());
        for id in ["first", "last"] {
            import(&world, id, &weights);
        }
        drop(world);
        // The disk has room for the journal and for one of them.
        let world = first_start(folder.path(), Files::with_room(Arc::new(AtomicU64::new(room))));
        let done = world.migrations.migrate_down(&Down { write: true, folder: None }, template);
        let Ok(done) = done else { continue };
        if registered(&done) == ["first"] {
            partly = Some(done);
            assert_eq!(seen_by_the_old_app(folder.path()), ["first"]);
            world.migrations.undo(None).unwrap();
            assert_eq!(seen_by_the_old_app(folder.path()), Vec::<String>::new());
            break;
        }
    }
    let done = partly.expect("a room in which one fits");
    let last = finding(&done, "models/last");
    assert_eq!((done.state, last.result), ("done", Outcome::Skipped));
    assert!(last.reason.as_ref().unwrap().contains("No space left"), "{last:?}");
}

#[test]
fn a_crash_amid_the_writing_is_ended_by_the_next_start() {
    for steps in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let legacy = Legacy::new(folder.path());
        legacy.downloaded("one", "one", "1.gguf");
        let weights = legacy.file("../w.gguf", gguf()).canonicalize().unwrap();
        {
            let world = first_start(folder.path(), Files::default());
            for id in ["two", "three"] {
                import(&world, id, &weights);
            }
        }
        let before = tree(folder.path());
        let done = {
            let world = first_start(folder.path(), Files::failing_after(steps));
            world.migrations.migrate_down(&Down { write: true, folder: None }, template).is_ok()
        };
        let world = first_start(folder.path(), Files::default());
        let back = world.migrations.list().into_iter().find(|report| report.to.is_some());
        assert!(back.is_none_or(|report| report.state == "done"), "after {steps} steps");
        let seen = seen_by_the_old_app(folder.path());
        assert!(seen.len() == 1 || seen.len() == 3, "after {steps} steps: {seen:?}");
        if seen.len() == 3 {
            world.migrations.undo(None).unwrap();
        }
        assert_eq!(tree(folder.path()), before, "after {steps} steps");
        if done {
            return;
        }
    }
    panic!("it never came to its end");
}
