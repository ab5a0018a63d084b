//! A user of an older Jan starts the new daemon on the same folder: real daemon, real model.

use crate::http::{client, get, post};
use cortex_test::{
    daemon::{Options, TestDaemon},
    dist,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Output,
};

const CHATML: &str =
    "<|im_start|>system\n{system_message}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant";
const PLAIN: &str = "### Question:\n{prompt}\n### Answer:\n";

/// A data folder with the small model, downloaded, and imported once more by its path; a thread names the second.
fn legacy(data: &Path) {
    let write = |path: &str, content: &str| {
        let path = data.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    };
    let weights = data.join("models/smol-135m/SmolLM2.gguf");
    fs_err::create_dir_all(weights.parent().unwrap()).unwrap();
    fs_err::copy(dist::model(), &weights).unwrap();
    let downloaded = json!({
        "sources": [{"filename": "SmolLM2.gguf", "url": "https://hub.example/maker/smol/resolve/main/SmolLM2.gguf"}],
        "id": "smol-135m", "name": "Smol", "engine": "nitro", "format": "gguf",
        "settings": {"ctx_len": 1024, "prompt_template": CHATML, "llama_model_path": "SmolLM2.gguf"},
        "parameters": {"temperature": 0, "max_tokens": 200, "stop": ["<|im_end|>"]},
    });
    write("models/smol-135m/model.json", &downloaded.to_string());
    let imported = json!({
        "sources": [{"filename": "model.gguf", "url": dist::model()}],
        "id": "My Import (1).Q4", "engine": "nitro", "metadata": {"author": "User"},
        "settings": {"ctx_len": 512, "prompt_template": PLAIN, "llama_model_path": "model.gguf"},
        "parameters": {"temperature": 0, "stop": ["###"]},
    });
    write("models/My Import (1).Q4/model.json", &imported.to_string());
    write(
        "models/offered/model.json",
        r#"{"id": "offered", "engine": "nitro", "sources": [{"url": "https://hub.example/o.gguf"}]}"#,
    );
    write(
        "models/far/model.json",
        r#"{"id": "far-1", "name": "Far", "engine": "groq", "sources": [{"url": "https://far.example"}]}"#,
    );
    write(
        "settings/@janhq/inference-groq-extension/settings.json",
        r#"[{"key": "groq-api-key", "controllerProps": {"value": "gsk_secret"}}, {"key": "chat-completions-endpoint", "controllerProps": {"value": "x"}}]"#,
    );
    write(
        "threads/jan_1700000000/thread.json",
        r#"{"id": "jan_1700000000", "assistants": [{"model": {"id": "My Import (1).Q4"}}]}"#,
    );
}

fn on(data: &Path) -> TestDaemon {
    TestDaemon::with(Options { data: Some(data.to_owned()), ..Options::default() })
}

async fn listed(daemon: &TestDaemon) -> Vec<String> {
    let (_, list) = get(daemon, "/v1/models").await;
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

fn run(daemon: &TestDaemon, arguments: &[&str]) -> Output {
    daemon.cli(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn the_models_of_an_older_jan_answer_by_their_ids_and_settings() {
    let folder = tempfile::tempdir().unwrap();
    legacy(folder.path());
    let daemon = on(folder.path());
    // By itself, while everything else is answered.
    while listed(&daemon).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(listed(&daemon).await, ["My Import (1).Q4", "smol-135m"]);
    let (_, downloaded) = get(&daemon, "/v1/models/smol-135m").await;
    assert_eq!(
        (&downloaded["ctx_len"], &downloaded["temperature"], &downloaded["name"]),
        (&json!(1024), &json!(0.0), &json!("Smol"))
    );
    assert_eq!(
        (&downloaded["prompt_template"], &downloaded["prompt_template_used"]),
        (&json!(CHATML), &json!("model"))
    );
    let (_, imported) = get(&daemon, "/v1/models?id=My%20Import%20(1).Q4").await;
    assert_eq!(
        (&imported["ctx_len"], &imported["prompt_template_used"]),
        (&json!(512), &json!("settings")),
        "{imported}"
    );
    assert!(imported["stop"].as_array().unwrap().contains(&json!("###")), "{imported}");

    // What the model is given is what the template makes of the messages, to the letter.
    let question = "What is the capital of France? Answer in one sentence.";
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]);
    let chat = |model: &str| json!({"model": model, "messages": messages, "max_tokens": 24, "deterministic": true});
    let raw =
        |model: &str, prompt: &str| json!({"model": model, "prompt": prompt, "max_tokens": 24, "deterministic": true});
    for (model, prompt) in [
        ("My Import (1).Q4", format!("### Question:\n{question}\n### Answer:\n")),
        (
            "smol-135m",
            format!(
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            ),
        ),
    ] {
        let (status, answer) = post(&daemon, "/v1/chat/completions", &chat(model)).await;
        assert_eq!(status, 200, "{answer}");
        let (status, completion) = post(&daemon, "/v1/completions", &raw(model, &prompt)).await;
        assert_eq!(status, 200, "{completion}");
        assert_eq!(answer["usage"]["prompt_tokens"], completion["usage"]["prompt_tokens"], "{model}");
        assert_eq!(answer["choices"][0]["message"]["content"], completion["choices"][0]["text"], "{model}");
        assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{answer}");
    }
    // What was never downloaded is offered, when somebody asks for it.
    let (_, offered) = get(&daemon, "/v1/models?status=downloadable").await;
    let offered = &offered["data"];
    assert_eq!(
        (offered.as_array().unwrap().len(), &offered[1]["id"], &offered[1]["template"]),
        (2, &json!("offered"), &json!(true))
    );
    // There is a key for the other one, which is told and not shown.
    assert_eq!(
        (&offered[0]["id"], &offered[0]["engine"], &offered[0]["apiKeyFound"], &offered[1]["apiKeyFound"]),
        (&json!("far-1"), &json!("groq"), &json!(true), &Value::Null)
    );
    assert!(!offered.to_string().contains("gsk_secret"));
    assert_eq!(
        (&offered[1]["source"], &offered[1]["engine"]),
        (&json!("https://hub.example/o.gguf"), &json!("llama-cpp"))
    );
    let (_, migrations) = get(&daemon, "/v1/migrations").await;
    let done = &migrations["data"][0];
    assert_eq!(
        (&done["state"], &done["registered"], &done["skipped"]),
        (&json!("done"), &json!(2), &json!(2)),
        "{migrations}"
    );
    let (status, one) = get(&daemon, &format!("/v1/migrations/{}", done["id"].as_str().unwrap())).await;
    assert_eq!((status, &one), (200, done));
    assert_eq!(get(&daemon, "/v1/migrations/nothing").await.0, 404);
}

/// Every file below a folder, with its content, time and rights; and the folders.
fn everything(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let below = path.strip_prefix(root).unwrap().to_owned();
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                found.insert(below, format!("{:o}", metadata.mode()));
                folders.push(path);
            } else {
                let mut hasher = DefaultHasher::new();
                fs_err::read(&path).unwrap().hash(&mut hasher);
                let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.mode());
                found.insert(below, format!("{times:?} {:x}", hasher.finish()));
            }
        }
    }
    found
}

#[tokio::test]
async fn after_a_round_trip_the_folder_is_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    legacy(folder.path());
    let before = everything(folder.path());
    let mut daemon = on(folder.path());
    while listed(&daemon).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    // Used and changed, as people do; and shown to the old app, which shows all of them anyway.
    let question = json!({"model": "smol-135m", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(post(&daemon, "/v1/chat/completions", &question).await.0, 200);
    let change = client().patch(daemon.url("/v1/models/smol-135m")).json(&json!({"temperature": 0.75}));
    assert_eq!(change.send().await.unwrap().status().as_u16(), 200);
    let back = json!({"to": "jan-legacy", "write": true});
    let (status, back) = post(&daemon, "/v1/migrations", &back).await;
    assert_eq!((status, &back["already_known"], &back["registered"]), (200, &json!(3), &json!(0)), "{back}");
    let (status, undone) = post(&daemon, "/v1/migrations/last/undo", &json!({})).await;
    assert_eq!((status, &undone["registered"]), (200, &json!(2)), "{undone}");
    assert_eq!(listed(&daemon).await, Vec::<String>::new());
    assert_eq!(client().delete(daemon.url("/processManager/destroy")).send().await.unwrap().status().as_u16(), 200);
    assert_eq!(daemon.wait(), Some(0));
    let is_kept = |path: &Path| ["state", "cache", "logs"].iter().any(|folder| path.starts_with(folder));
    let mut after = everything(folder.path());
    after.retain(|path, _| !is_kept(path));
    assert_eq!(after, before);

    // The next start leaves it so; only somebody who asks for it gets the models again.
    let daemon = on(folder.path());
    let (_, migrations) = get(&daemon, "/v1/migrations").await;
    assert_eq!(migrations["data"].as_array().unwrap().len(), 1, "{migrations}");
    // One on request comes after what belongs to the start.
    let (_, dry) = post(&daemon, "/v1/migrations", &json!({"dry_run": true})).await;
    assert_eq!(dry["registered"], 2, "{dry}");
    assert_eq!(listed(&daemon).await, Vec::<String>::new());
    assert_eq!(post(&daemon, "/v1/migrations", &json!({})).await.1["registered"], 2);
}

#[tokio::test]
async fn an_older_jan_is_told_of_newer_models_on_request() {
    let (older, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    legacy(older.path());
    let before = everything(older.path());
    let daemon = on(data.path());
    crate::http::import(&daemon).await;
    let folder = older.path().to_str().unwrap().to_owned();
    let (status, refused) = post(&daemon, "/v1/migrations", &json!({"folder": folder, "write": true})).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("to")), "nothing is migrated by mistake");
    let (status, refused) = post(&daemon, "/v1/migrations", &json!({"to": "ollama"})).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("to")));
    let work = move || {
        let told = run(&daemon, &["migrate", "--to", "jan-legacy", "--folder", &folder]);
        assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
        let (out, notes) = (text(&told.stdout), text(&told.stderr));
        assert!(out.contains("added         smollm2:135m\n"), "{out}");
        assert!(out.contains("shown         smol-135m: it is not on the list here\n"), "{out}");
        assert!(notes.contains("1 would be added, 0 not shown") && notes.contains("`--write` adds them"), "{notes}");
        assert_eq!(everything(Path::new(&folder)), before);
        let done = run(&daemon, &["migrate", "--to", "jan-legacy", "--folder", &folder, "--write"]);
        assert!(text(&done.stderr).contains("1 added"), "{}", text(&done.stderr));
        let json = fs_err::read(Path::new(&folder).join("models/smollm2:135m/model.json")).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["settings"]["prompt_template"], format!("{CHATML}\n"));
        assert_eq!(json["sources"][0]["url"], dist::model().to_str().unwrap());
        let undone = run(&daemon, &["migrate", "--undo"]);
        assert_eq!(text(&undone.stdout), "1 model.json files that were written for the old app are gone\n");
        assert_eq!(everything(Path::new(&folder)), before);
        assert_eq!(text(&run(&daemon, &["list"]).stdout).lines().count(), 2);
        assert_eq!(run(&daemon, &["migrate", "--write"]).status.code(), Some(2));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

#[tokio::test]
async fn a_migration_is_shown_and_taken_back_on_the_command_line() {
    let (older, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    legacy(older.path());
    let daemon = on(data.path());
    let from = older.path().to_str().unwrap().to_owned();
    let work = move || {
        let dry = run(&daemon, &["migrate", "--from", &from, "--dry-run"]);
        assert_eq!(dry.status.code(), Some(0), "{}", text(&dry.stderr));
        assert!(text(&dry.stdout).contains("registered    smol-135m\n"), "{}", text(&dry.stdout));
        assert!(text(&dry.stdout).contains("skipped       offered: it was never downloaded\n"));
        assert!(text(&dry.stderr).contains("2 would be registered, 0 known, 2 skipped, 0 to look at"));
        assert_eq!(text(&run(&daemon, &["list"]).stdout).lines().count(), 1);

        let done = run(&daemon, &["--json", "migrate", "--from", &from]);
        let done: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!((&done["registered"], &done["state"]), (&json!(2), &json!("done")));
        let answer = run(&daemon, &["run", "smol-135m", "What is the capital of France? Answer in one sentence."]);
        assert!(text(&answer.stdout).contains("Paris"), "{}", text(&answer.stderr));
        let id = done["id"].as_str().unwrap();
        assert!(text(&run(&daemon, &["migrate", "--list"]).stdout).contains(id));
        let again = run(&daemon, &["migrate", "--from", &from]);
        assert!(text(&again.stderr).contains("0 registered, 2 known, 2 skipped"), "{}", text(&again.stderr));

        // Also while it is loaded.
        let undone = run(&daemon, &["migrate", "--undo"]);
        assert_eq!(text(&undone.stdout), "2 models are no longer on the list; their files are where they were\n");
        assert_eq!(text(&run(&daemon, &["list"]).stdout).lines().count(), 1);
        assert!(Path::new(&from).join("models/smol-135m/SmolLM2.gguf").is_file());
        let again = run(&daemon, &["migrate", "--undo", id]);
        assert_eq!(again.status.code(), Some(1));
        assert!(text(&again.stderr).contains("has nothing to take back"));
        let wrong = run(&daemon, &["migrate", "--from", "/no-such-folder"]);
        assert_eq!(wrong.status.code(), Some(1));
        assert!(text(&wrong.stderr).contains("there is no folder `models` in /no-such-folder"));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

#[tokio::test]
async fn a_list_of_a_client_is_checked_field_by_field() {
    let daemon = TestDaemon::start();
    for (body, status, field) in [
        (json!({"models": [{"path": "/x.gguf"}]}), 409, "models[0].id"),
        (json!({"models": [{"id": "x"}]}), 409, "models[0].path"),
        (json!({"models": [{"id": "..", "path": "/x.gguf"}]}), 400, "models[0].id"),
        (
            json!({"models": [{"id": "x", "path": "/x.gguf", "settings": {"ctx_len": "many"}}]}),
            400,
            "models[0].settings",
        ),
    ] {
        let (answered, answer) = post(&daemon, "/v1/migrations", &body).await;
        assert_eq!((answered, answer["error"]["param"].as_str()), (status, Some(field)), "{body}: {answer}");
    }
    let body = json!({"models": [{"id": "x", "path": dist::model(), "settings": {"ctx_len": 256}}]});
    let (status, answer) = post(&daemon, "/v1/migrations", &body).await;
    assert_eq!((status, &answer["registered"]), (200, &json!(1)), "{answer}");
    assert_eq!(get(&daemon, "/v1/models/x").await.1["ctx_len"], 256);
    let both = json!({"from": "/x", "models": []});
    assert_eq!(post(&daemon, "/v1/migrations", &both).await.1["error"]["param"], "from");
    let folder = json!({"models": [{"id": "folder", "path": "/tmp"}]});
    let (_, answer) = post(&daemon, "/v1/migrations", &folder).await;
    assert_eq!((&answer["registered"], &answer["data"][0]["reason"]), (&json!(0), &json!("it is no regular file")));
    let (status, answer) = post(&daemon, "/v1/migrations", &json!({"from": "relative"})).await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn models_of_ollama_and_lm_studio_answer_where_they_are() {
    let (theirs, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = |path: &str| {
        let path = theirs.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let digest = "a".repeat(64);
    let size = fs_err::metadata(dist::model()).unwrap().len();
    std::os::unix::fs::symlink(dist::model(), place(&format!("ollama/blobs/sha256-{digest}"))).unwrap();
    let params = "b".repeat(64);
    fs_err::write(place(&format!("ollama/blobs/sha256-{params}")), r#"{"temperature": 0, "num_ctx": 1024}"#).unwrap();
    let layer = |kind: &str, digest: &str, size: u64| json!({"mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": format!("sha256:{digest}"), "size": size});
    let manifest = json!({"schemaVersion": 2, "layers": [layer("model", &digest, size), layer("params", &params, 35)]});
    fs_err::write(place("ollama/manifests/registry.ollama.ai/library/smollm2/135m"), manifest.to_string()).unwrap();
    fs_err::copy(dist::model(), place("lm/maker/smol-GGUF/smol-Q4_1.gguf")).unwrap();
    let daemon = on(data.path());
    for (folder, id) in [("ollama", "smollm2:135m"), ("lm", "maker/smol-GGUF/smol-Q4_1")] {
        let (status, report) = post(&daemon, "/v1/migrations", &json!({"from": theirs.path().join(folder)})).await;
        assert_eq!((status, &report["registered"]), (200, &json!(1)), "{report}");
        let question = json!({"model": id, "temperature": 0, "max_tokens": 24,
            "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]});
        let (status, answer) = post(&daemon, "/v1/chat/completions", &question).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{answer}");
    }
    assert_eq!(get(&daemon, "/v1/models?id=smollm2%3A135m").await.1["ctx_len"], 1024);
}
