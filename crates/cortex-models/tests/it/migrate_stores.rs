//! Migrations from other programs: Ollama, LM Studio, the Hugging Face cache, `GPT4All`, any folder of GGUF files.

use crate::{
    legacy::{gguf, tree},
    migrate::{finding, first_start, ids},
};
use cortex_models::{Files, Migrate, ModelState, Outcome};
use serde_json::json;
use std::path::Path;

/// A model as Ollama keeps it: a manifest and its blobs.
fn ollama(root: &Path, name: &str, tag: &str, weights: &[u8]) {
    let digest = |number: usize| format!("sha256:{number:064x}");
    let blob = |number: usize, content: &[u8]| {
        let path = root.join("blobs").join(digest(number).replace(':', "-"));
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
        json!({"digest": digest(number), "size": content.len()})
    };
    let base = name.len() * 100 + tag.len() * 10;
    let layers: Vec<serde_json::Value> = [
        ("model", weights.to_vec()),
        ("template", b"{{ .System }} {{ .Prompt }}".to_vec()),
        ("system", b"You are kind.".to_vec()),
        ("params", br#"{"temperature": 0.25, "num_ctx": 2048, "stop": ["<end>"]}"#.to_vec()),
        ("license", b"free".to_vec()),
    ]
    .iter()
    .enumerate()
    .map(|(at, (kind, content))| {
        let mut layer = blob(base + at, content);
        layer["mediaType"] = format!("application/vnd.ollama.image.{kind}").into();
        layer
    })
    .collect();
    let manifest = root.join("manifests/registry.ollama.ai").join(name).join(tag);
    fs_err::create_dir_all(manifest.parent().unwrap()).unwrap();
    fs_err::write(manifest, json!({"schemaVersion": 2, "layers": layers}).to_string()).unwrap();
}

#[test]
fn the_models_of_ollama_are_registered_with_their_parameters() {
    let (theirs, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = theirs.path().join("models");
    ollama(&root, "library/tiny", "latest", &gguf());
    ollama(&root, "maker/other", "7b-q4", &gguf());
    ollama(&root, "library/safe", "tensors", b"no gguf at all");
    fs_err::write(root.join("manifests/registry.ollama.ai/library/tiny/torn"), "{\"layers\": [").unwrap();
    let before = tree(theirs.path());
    let world = first_start(data.path(), Files::default());
    // The folder above will do as well.
    for from in [theirs.path().to_owned(), root.clone()] {
        let request = Migrate { from: Some(from), dry_run: true, ..Migrate::default() };
        let report = world.migrations.migrate(&request).unwrap();
        assert_eq!(report.findings.iter().filter(|it| it.result == Outcome::Registered).count(), 2, "{report:#?}");
    }
    let report = world.migrations.migrate(&Migrate { from: Some(root), ..Migrate::default() }).unwrap();
    assert_eq!(finding(&report, "tiny/torn").result, Outcome::Unresolved);
    assert_eq!(finding(&report, "safe/tensors").result, Outcome::Skipped);
    assert_eq!(ids(&world.store), ["tiny:latest", "maker/other:7b-q4"]);
    let model = world.store.current("tiny:latest").unwrap();
    assert_eq!(model.state(), ModelState::Ready);
    let yaml = model.yaml().unwrap();
    assert_eq!((yaml.number("temperature"), yaml.number("ctx_len")), (Some(0.25), Some(2048.0)));
    assert_eq!(yaml.texts("stop"), ["</s>", "<end>"]);
    assert_eq!(yaml.text("ollama_template"), Some("{{ .System }} {{ .Prompt }}"));
    assert_eq!(yaml.text("ollama_system"), Some("You are kind."));
    assert_eq!(tree(theirs.path()), before);
    world.migrations.undo(None).unwrap();
    assert!(ids(&world.store).is_empty());
    assert_eq!(tree(theirs.path()), before);
}

#[test]
fn the_models_of_other_programs_are_found_by_the_looks_of_their_folders() {
    let (theirs, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |path: &str, content: &[u8]| {
        let path = theirs.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        path
    };
    write("lm/maker/tiny-GGUF/tiny-Q4_0.gguf", &gguf());
    write("lm/maker/tiny-GGUF/mmproj-tiny.gguf", &gguf());
    write("lm/maker/empty/none.gguf", b"");
    let blob = write("hub/models--maker--tiny-GGUF/blobs/aa", &gguf());
    let commit = "hub/models--maker--tiny-GGUF/snapshots/c0ffee";
    write("hub/models--maker--tiny-GGUF/refs/main", b"c0ffee");
    fs_err::create_dir_all(theirs.path().join(commit)).unwrap();
    std::os::unix::fs::symlink(blob, theirs.path().join(commit).join("tiny-Q8_0.gguf")).unwrap();
    write("hub/models--maker--tiny-GGUF/snapshots/older/old.gguf", &gguf());
    write("lm/maker/mlx/weights.safetensors", b"x");
    write("hub/models--maker--tensors/snapshots/c0/weights.safetensors", b"x");
    write("hub/datasets--maker--texts/snapshots/c0/texts.parquet", b"x");
    write("hub/.locks/models--maker--tiny-GGUF/aa.lock", b"");
    write("gpt4all/Some Model.Q4_0.gguf", &gguf());
    let before = tree(theirs.path());
    let world = first_start(data.path(), Files::default());
    for (folder, ids, skipped) in [
        ("lm", vec!["maker/tiny-GGUF/tiny-Q4_0"], vec!["lm/maker/mlx"]),
        (
            "hub",
            vec!["maker:tiny-GGUF:tiny-Q8_0.gguf"],
            vec!["hub/models--maker--tensors", "hub/datasets--maker--texts"],
        ),
        ("gpt4all", vec!["Some Model.Q4_0"], vec![]),
    ] {
        let request = Migrate { from: Some(theirs.path().join(folder)), ..Migrate::default() };
        let report = world.migrations.migrate(&request).unwrap();
        let registered: Vec<&str> = report
            .findings
            .iter()
            .filter(|finding| finding.result == Outcome::Registered)
            .filter_map(|finding| finding.id.as_deref())
            .collect();
        assert_eq!(registered, ids, "{folder}: {report:#?}");
        for place in &skipped {
            let finding = finding(&report, place);
            let told = (finding.result, finding.reason.as_deref());
            assert_eq!(told, (Outcome::Skipped, Some("it holds no GGUF file")), "{finding:?}");
        }
        let count = report.findings.iter().filter(|it| it.result == Outcome::Skipped).count();
        assert_eq!(count, skipped.len(), "{report:#?}");
        for id in ids {
            assert_eq!(world.store.current(id).unwrap().state(), ModelState::Ready, "{id}");
        }
    }
    assert_eq!(tree(theirs.path()), before);
    let nobody = world.migrations.migrate(&Migrate { from: Some("lmstudio".into()), ..Migrate::default() });
    let error = nobody.unwrap_err();
    assert!(error.to_string().starts_with("lmstudio keeps no models on this machine"), "{error}");
}

#[test]
fn every_gguf_below_a_folder_is_found_and_told() {
    let (theirs, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for path in ["a.gguf", "pub/loose.gguf", "pub/repo/x-Q4.gguf", "s/t/u/v/deep.gguf"] {
        let path = theirs.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, gguf()).unwrap();
    }
    fs_err::write(theirs.path().join("incomplete-b.gguf"), gguf()).unwrap();
    std::os::unix::fs::symlink("/no/such.gguf", theirs.path().join("gone.gguf")).unwrap();
    // A folder on another drive, and links that lead in a circle.
    let drive = tempfile::tempdir().unwrap();
    fs_err::create_dir(drive.path().join("repo")).unwrap();
    fs_err::write(drive.path().join("repo/far.gguf"), gguf()).unwrap();
    std::os::unix::fs::symlink(drive.path(), theirs.path().join("zdrive")).unwrap();
    std::os::unix::fs::symlink("../..", theirs.path().join("pub/repo/up")).unwrap();
    std::os::unix::fs::symlink(theirs.path(), drive.path().join("back")).unwrap();
    let world = first_start(data.path(), Files::default());
    let report =
        world.migrations.migrate(&Migrate { from: Some(theirs.path().to_owned()), ..Migrate::default() }).unwrap();
    assert_eq!(ids(&world.store), ["a", "pub/loose", "pub/repo/x-Q4", "s/t/u/v/deep", "zdrive/repo/far"]);
    for name in ["incomplete-b.gguf", "gone.gguf"] {
        assert_eq!(finding(&report, name).result, Outcome::Unresolved);
    }
}
