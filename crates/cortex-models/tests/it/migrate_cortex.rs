//! Migrations from cortex.cpp: its database in all of its schemas, also locked or damaged, and its older list.

use crate::{
    legacy::{Legacy, gguf, tree},
    migrate::{finding, first_start, ids},
};
use cortex_models::{Files, Migrate, ModelState, Outcome};
use rusqlite::Connection;
use serde_json::json;
use std::path::Path;

/// The table of models in each version of the schema.
const COLUMNS: &[&str] = &[
    "model_id TEXT PRIMARY KEY, author_repo_id TEXT, branch_name TEXT, path_to_model_yaml TEXT, model_alias TEXT",
    "model_id TEXT PRIMARY KEY, author_repo_id TEXT, branch_name TEXT, path_to_model_yaml TEXT, model_alias TEXT, model_format TEXT, model_source TEXT, status TEXT, engine TEXT",
    "model_id TEXT PRIMARY KEY, author_repo_id TEXT, branch_name TEXT, path_to_model_yaml TEXT, model_alias TEXT, model_format TEXT, model_source TEXT, status TEXT, engine TEXT, metadata TEXT",
    "model_id TEXT PRIMARY KEY, author_repo_id TEXT, branch_name TEXT, path_to_model_yaml TEXT, model_alias TEXT, model_format TEXT, model_source TEXT, status TEXT, engine TEXT, metadata TEXT",
];

/// A data folder of cortex.cpp with this version of the schema.
fn cortex_folder(root: &Path, version: usize) -> (Legacy, Connection) {
    let legacy = Legacy::new(root);
    let yaml = |files: &str, more: &str| {
        format!(
            "# BEGIN\nid: x\nmodel: x\nname: Mine\nfiles:\n  - {files}\nstop:\n  - <end>\nengine: llama-cpp\nctx_len: 1024\ntemperature: 0.25\nngl: 7\n{more}"
        )
    };
    legacy.file("cortex.so/tinyllama/1b/model.gguf", gguf());
    legacy.file(
        "cortex.so/tinyllama/1b/model.yml",
        "model: tinyllama:1b\nctx_len: 512\nprompt_template: \"<u>{prompt}<a>\"\n",
    );
    legacy.file("huggingface.co/maker/tiny-GGUF/tiny.gguf", gguf());
    let fallback = "prompt_template: \"[INST] <<SYS>>\\n{system_message}\\n<</SYS>>\\n{prompt}[/INST]\"\n";
    legacy.file(
        "huggingface.co/maker/tiny-GGUF/tiny.gguf.yml",
        yaml("models/huggingface.co/maker/tiny-GGUF/tiny.gguf", fallback),
    );
    let outside = legacy.file("../elsewhere/my own.gguf", gguf()).canonicalize().unwrap();
    legacy.file("imported/own.yml", yaml(&format!("\"{}\"", outside.display()), ""));
    legacy.file("imported/lost.yml", yaml("/no/such.gguf", ""));
    legacy.file("remote/gpt.yml", "model: gpt\nengine: openai\n");
    let database = Connection::open(root.join("cortex.db")).unwrap();
    let run = |sql: &str| database.execute_batch(sql).unwrap();
    run(&format!(
        "CREATE TABLE schema_version(version INTEGER PRIMARY KEY); INSERT INTO schema_version VALUES ({version});"
    ));
    run(&format!("CREATE TABLE models({});", COLUMNS[version]));
    let insert = |id: &str, path: &str, alias: &str, status: &str| {
        let named = "model_id, author_repo_id, branch_name, path_to_model_yaml, model_alias";
        if version == 0 {
            let sql = format!("INSERT INTO models({named}) VALUES (?1, '', '', ?2, ?3)");
            database.execute(&sql, [id, path, alias]).unwrap();
        } else {
            let sql = format!("INSERT INTO models({named}, status) VALUES (?1, '', '', ?2, ?3, ?4)");
            database.execute(&sql, [id, path, alias, status]).unwrap();
        }
    };
    insert("tinyllama:1b", "models/cortex.so/tinyllama/1b/model.yml", "tinyllama:1b", "downloaded");
    insert("maker:tiny-GGUF:tiny.gguf", "models/huggingface.co/maker/tiny-GGUF/tiny.gguf.yml", "tiny", "");
    insert("own", "models/imported/own.yml", "mine", "downloaded");
    insert("lost", "models/imported/lost.yml", "lost", "downloaded");
    insert("twice", "models/imported/own.yml", "tiny", "downloaded");
    insert("", "models/imported/own.yml", "", "downloaded");
    insert("torn", "models/imported/torn.yml", "torn", "downloaded");
    let pipe = legacy.path("models/imported/pipe.yml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    insert("pipe", "models/imported/pipe.yml", "pipe", "downloaded");
    if version > 0 {
        insert("gpt", "models/remote/gpt.yml", "gpt", "remote");
        insert("offered", "", "", "downloadable");
    }
    (legacy, database)
}

#[test]
fn remote_engines_and_their_models_are_read_from_its_database() {
    let folder = tempfile::tempdir().unwrap();
    let (legacy, database) = cortex_folder(folder.path(), 3);
    database
        .execute_batch(
            "CREATE TABLE engines(id INTEGER PRIMARY KEY AUTOINCREMENT, engine_name TEXT, type TEXT, api_key TEXT, url TEXT,
             version TEXT, variant TEXT, status TEXT, metadata TEXT, date_created TEXT, date_updated TEXT);
             INSERT INTO engines(engine_name, type, api_key, url, version, metadata) VALUES
             ('openai', 'remote', 'sk-1', 'https://api.openai.com/v1/chat/completions', 'v1', '{\"get_models_url\": \"https://x/models\"}'),
             ('llama-cpp', 'local', '', '', 'v1', ''), ('odd', 'Remote', '', '', NULL, 'no json'), (NULL, 'remote', 'k', '', '', '');",
        )
        .unwrap();
    legacy.file("remote/gpt.yml", "model: gpt-4o\nengine: openai\nversion: 1\ninference_params:\n  max_tokens: 9\n");
    let run = |sql: &str| database.execute_batch(sql).unwrap();
    run(
        "INSERT INTO models(model_id, path_to_model_yaml, status, engine) VALUES ('no-file', 'models/remote/none.yml', 'remote', 'openai');",
    );
    database.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;").unwrap();
    // An older Jan in the same folder: what the database says counts.
    let extension = |name: &str, settings: serde_json::Value| {
        let path = folder.path().join(format!("settings/@janhq/{name}"));
        fs_err::create_dir_all(&path).unwrap();
        fs_err::write(path.join("settings.json"), settings.to_string()).unwrap();
    };
    let setting = |key: &str, value: &str| json!({"key": key, "controllerProps": {"value": value}});
    extension("inference-openai-extension", json!([setting("openai-api-key", "sk-other")]));
    extension(
        "inference-groq-extension",
        json!([
            setting("chat-completions-endpoint", "https://groq.example/v1/chat/completions"),
            setting("groq-api-key", " gsk ")
        ]),
    );
    extension("inference-mistral-extension", json!([setting("mistral-api-key", "m-1")]));
    extension("inference-cohere-extension", json!([setting("cohere-api-key", "c-1")]));
    extension("inference-martian-extension", json!([setting("martian-api-key", "")]));
    let before = tree(folder.path());
    let found = cortex_models::LegacyRemotes::read(folder.path());
    assert_eq!(tree(folder.path()), before);
    let engines: Vec<serde_json::Value> = found.engines.iter().cloned().map(Into::into).collect();
    assert_eq!(
        engines,
        [
            json!({"engine": "openai", "type": "remote", "url": "https://api.openai.com/v1/chat/completions", "api_key": "sk-1",
                   "version": "v1", "metadata": {"get_models_url": "https://x/models"}}),
            json!({"engine": "odd", "type": "remote"}),
            json!({"engine": "groq", "type": "remote", "url": "https://groq.example/v1", "api_key": "gsk"}),
            json!({"engine": "mistral", "type": "remote", "url": "https://api.mistral.ai/v1", "api_key": "m-1"}),
        ]
    );
    let models: Vec<serde_json::Value> = found.models.iter().cloned().map(Into::into).collect();
    assert_eq!(
        models,
        [
            json!({"id": "gpt", "model": "gpt-4o", "engine": "openai", "version": 1, "inference_params": {"max_tokens": 9}})
        ]
    );
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    assert!(found.problems[0].contains("`no-file`") && found.problems[1].contains("`cohere`"), "{:?}", found.problems);
    // Keys are in no log.
    assert!(!format!("{found:?}").contains("sk-1"));
    // A database that is none is told, and what Jan has is taken all the same.
    drop(database);
    fs_err::write(folder.path().join("cortex.db"), "no database").unwrap();
    let found = cortex_models::LegacyRemotes::read(folder.path());
    assert!(found.problems[0].contains("cortex.db cannot be read") && found.engines.len() == 3, "{:?}", found.problems);
    assert_eq!(
        cortex_models::LegacyRemotes::read(&folder.path().join("none")),
        cortex_models::LegacyRemotes::default()
    );
}

const REGISTERED: &[&str] = &["tinyllama:1b", "maker:tiny-GGUF:tiny.gguf", "own", "lost", "twice"];

#[test]
fn every_schema_of_its_database_is_read_and_nothing_is_written() {
    for version in 0..COLUMNS.len() {
        let folder = tempfile::tempdir().unwrap();
        let (_, database) = cortex_folder(folder.path(), version);
        // Somebody holds it: cortex.cpp still runs.
        database.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;").unwrap();
        let before = tree(folder.path());
        let world = first_start(folder.path(), Files::default());
        assert_eq!(ids(&world.store), REGISTERED, "schema {version}");
        assert_eq!(tree(folder.path()), before, "schema {version}");
        let report = world.migrations.list().remove(0);
        assert_eq!(finding(&report, "imported/torn.yml").result, Outcome::Unresolved);
        let pipe = finding(&report, "imported/pipe.yml");
        assert!(pipe.reason.as_ref().unwrap().contains("no regular file"), "{pipe:?}");
        let skipped = report.findings.iter().filter(|finding| finding.result == Outcome::Skipped).count();
        assert_eq!(skipped, if version == 0 { 0 } else { 2 }, "{report:#?}");
        for (id, state) in
            [("tinyllama:1b", ModelState::Ready), ("own", ModelState::Ready), ("lost", ModelState::Missing)]
        {
            assert_eq!(world.store.current(id).unwrap().state(), state, "{id}");
        }
        // A name that two of them have means none of them, and that is told.
        assert!(world.store.current("tiny").is_err());
        let told = finding(&report, "tiny.gguf.yml").reason.clone().unwrap();
        assert!(told.contains("left out: its other name `tiny`"), "{told}");
        let told = finding(&report, "cortex.db").reason.clone().unwrap();
        assert_eq!(told, "1 of its models have no id");
        // By its other name as well.
        let tiny = world.store.current("mine").unwrap();
        assert_eq!(tiny.id.as_str(), "own");
        let tiny = world.store.current("maker:tiny-GGUF:tiny.gguf").unwrap();
        let yaml = tiny.yaml().unwrap();
        assert_eq!(
            (yaml.number("ctx_len"), yaml.number("temperature"), yaml.text("name")),
            (Some(1024.0), Some(0.25), Some("Mine"))
        );
        assert_eq!(yaml.text("prompt_template"), None, "what it wrote for want of a better one is not the user's");
        let named = world.store.current("tinyllama:1b").unwrap().yaml().unwrap();
        assert_eq!((named.text("prompt_template"), named.number("ctx_len")), (Some("<u>{prompt}<a>"), Some(512.0)));
        // Its own files stay as they are also when settings are changed here.
        world.store.update("own", json!({"temperature": 0.75}).as_object().unwrap()).unwrap();
        assert_eq!(tree(folder.path()), before, "schema {version}");
        let again = world.migrations.migrate(&Migrate::default()).unwrap();
        assert!(again.findings.iter().all(|finding| finding.result != Outcome::Registered), "{again:#?}");
        world.migrations.undo(None).unwrap();
        assert_eq!(tree(folder.path()), before, "schema {version}");
    }
}

#[test]
fn with_a_damaged_database_the_models_are_taken_from_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let (legacy, database) = cortex_folder(folder.path(), 3);
    drop(database);
    let path = legacy.path("cortex.db");
    let mut bytes = fs_err::read(&path).unwrap();
    bytes.truncate(bytes.len() / 2);
    bytes[30..200].fill(0xff);
    fs_err::write(&path, bytes).unwrap();
    fs_err::write(legacy.path("models/imported/own.yml"), "model: own\nfiles: [/no/such/own.gguf]\n").unwrap();
    let before = tree(folder.path());
    let world = first_start(folder.path(), Files::default());
    let report = world.migrations.list().remove(0);
    let told = finding(&report, "cortex.db");
    assert_eq!(told.result, Outcome::Unresolved);
    assert!(told.hint.as_ref().unwrap().contains("taken from their model.yml files"), "{told:?}");
    let mut found = ids(&world.store);
    found.sort();
    assert!(found.contains(&"tinyllama:1b".into()) && found.contains(&"own".into()), "{found:?}");
    assert_eq!(tree(folder.path()), before);
}

#[test]
fn a_pipe_in_place_of_its_database_is_told_and_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (legacy, database) = cortex_folder(folder.path(), 3);
    drop(database);
    let path = legacy.path("cortex.db");
    fs_err::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let world = first_start(folder.path(), Files::default());
    let report = world.migrations.list().remove(0);
    assert!(finding(&report, "cortex.db").reason.as_ref().unwrap().contains("no regular file"), "{report:#?}");
    assert!(world.store.resolve("tinyllama:1b").is_ok());
}

#[test]
fn its_older_list_and_a_jan_in_the_same_folder_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Legacy::new(folder.path());
    legacy.downloaded("both", "both", "b.gguf");
    legacy.downloaded("jan-only", "jan-only", "j.gguf");
    legacy.file(
        "imported/both.yml",
        "model: both\nfiles: [models/both/b.gguf]\ntemperature: 0.75\nengine: cortex.llamacpp\n",
    );
    legacy.file("imported/five.yml", "model: five\nfiles: [models/both/b.gguf]\n");
    legacy.file("model.list", "both local imported models/imported/both.yml b READY\nfive local imported models/imported/five.yml five\na line that makes no sense\n");
    let before = tree(folder.path());
    let world = first_start(folder.path(), Files::default());
    assert_eq!(ids(&world.store), ["both", "five", "jan-only"]);
    let yaml = world.store.current("b").unwrap().yaml().unwrap();
    // Its own value, and what only the older file says.
    assert_eq!((yaml.number("temperature"), yaml.number("ctx_len")), (Some(0.75), Some(2048.0)));
    let report = world.migrations.list().remove(0);
    assert_eq!(finding(&report, "models/both").result, Outcome::AlreadyKnown);
    assert_eq!(tree(folder.path()), before);
}
