//! Migrations that fail or are interrupted: the next start ends them, and an undo stays one.

use crate::{
    legacy::{Legacy, seen_by_the_old_app, tree},
    migrate::{first_start, ids},
};
use cortex_models::{Files, Migrate, MigrateError};

#[test]
fn one_that_failed_is_ended_once_and_does_not_come_back_after_an_undo() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.downloaded("one", "one", "1.gguf");
    // Something of the user's is where our settings would be.
    let in_the_way = legacy.file("imported", "mine");
    let world = first_start(folder.path(), Files::default());
    assert_eq!(world.migrations.list()[0].state, "unfinished");
    let error = world.migrations.migrate(&Migrate::default()).unwrap_err();
    assert!(matches!(error, MigrateError::Unfinished { .. }) && error.hint().is_some(), "{error}");
    assert_eq!(world.migrations.list().len(), 1, "no second one is begun");
    fs_err::remove_file(in_the_way).unwrap();
    let before = tree(folder.path());
    world.migrations.migrate(&Migrate::default()).unwrap();
    assert_eq!(ids(&world.store), ["one"]);
    world.migrations.undo(None).unwrap();
    drop(world);
    let world = first_start(folder.path(), Files::default());
    assert_eq!((ids(&world.store), tree(folder.path())), (vec![], before));
}

#[test]
fn an_undo_that_was_interrupted_is_ended_by_the_next_start() {
    for steps in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let legacy = Legacy::new(folder.path());
        legacy.downloaded("one", "one", "1.gguf");
        legacy.downloaded("two", "two", "2.gguf");
        drop(first_start(folder.path(), Files::default()));
        let before = tree(folder.path());
        let undone = first_start(folder.path(), Files::failing_after(steps)).migrations.undo(None).is_ok();
        let world = first_start(folder.path(), Files::default());
        let report = world.migrations.list().remove(0);
        // Begun is ended: all of them are here, or none.
        let expected = if report.state == "undone" { vec![] } else { vec!["one", "two"] };
        assert_eq!(ids(&world.store), expected, "after {steps} steps: {}", report.state);
        assert_eq!(tree(folder.path()), before, "after {steps} steps");
        if undone {
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn a_crash_at_any_step_is_ended_by_the_next_start() {
    let mut reached = false;
    for steps in 0..60 {
        let folder = tempfile::tempdir().unwrap();
        let legacy = Legacy::new(folder.path());
        for number in 0..3 {
            legacy.downloaded(&format!("m{number}"), &format!("m{number}"), "x.gguf");
        }
        let (before, seen) = (tree(folder.path()), seen_by_the_old_app(folder.path()));
        let crashed = first_start(folder.path(), Files::failing_after(steps));
        let whole = ids(&crashed.store).len() == 3;
        drop(crashed);
        assert_eq!(tree(folder.path()), before, "after {steps} steps");
        assert_eq!(seen_by_the_old_app(folder.path()), seen);
        let world = first_start(folder.path(), Files::default());
        assert_eq!(ids(&world.store), ["m0", "m1", "m2"], "after {steps} steps");
        for id in ["m0", "m1", "m2"] {
            let yaml = world.store.current(id).unwrap().yaml().unwrap();
            assert_eq!(yaml.number("ctx_len"), Some(2048.0), "{id} after {steps} steps");
        }
        assert_eq!(tree(folder.path()), before, "after {steps} steps");
        let undone = world.migrations.undo(None).unwrap();
        assert_eq!(undone.left, [], "after {steps} steps");
        assert!(ids(&world.store).is_empty());
        let left: Vec<_> =
            fs_err::read_dir(folder.path().join("models")).unwrap().flatten().map(|it| it.file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?} after {steps} steps");
        if whole && steps > 10 {
            reached = true;
            break;
        }
    }
    assert!(reached, "no number of steps was enough");
}
