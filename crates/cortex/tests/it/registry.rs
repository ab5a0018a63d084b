//! The registry as clients see it: over HTTP, as Jan asks, and on the command line. The worker is the one
//! without an engine: what a model says does not matter here.

use crate::http::{client, get, post};
use cortex_test::{
    daemon::{Options, TestDaemon},
    fake_worker,
    gguf::GgufBuilder,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn start() -> (tempfile::TempDir, TestDaemon) {
    let folder = tempfile::tempdir().unwrap();
    let environment = vec![("CORTEX_WORKER".into(), fake_worker::lay_out(folder.path()).into())];
    let daemon = TestDaemon::with(Options { environment, ..Options::default() });
    (folder, daemon)
}

fn weights(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("{name}.gguf"));
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(&path, GgufBuilder::llama().build()).unwrap();
    path
}

async fn import(daemon: &TestDaemon, id: &str, path: &Path) {
    let (status, body) = post(daemon, "/v1/models/import", &json!({"model": id, "modelPath": path})).await;
    assert_eq!(status, 200, "{body}");
}

pub(crate) async fn send(daemon: &TestDaemon, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let mut request = client().request(method.parse().unwrap(), daemon.url(path));
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The path of a request is sent as it is: some clients do not encode it.
async fn raw(daemon: &TestDaemon, method: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(&daemon.address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", daemon.address);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[tokio::test]
async fn jan_works_with_the_registry_as_it_always_did() {
    let (folder, daemon) = start();
    let id = "TheBloke:Mistral-7B-GGUF:mistral-7b.Q4_K_M.gguf";
    let path = weights(folder.path(), "mistral-7b.Q4_K_M");
    for option in ["symlink", "SYMLINK"] {
        let body = json!({"model": id, "modelPath": path, "name": "Mistral 7B", "option": option});
        let (status, answer) = send(&daemon, "POST", "/v1/models/import", Some(&body)).await;
        assert_eq!((status, &answer["result"], &answer["modelHandle"]), (200, &json!("OK"), &json!(id)), "{answer}");
    }
    let (status, list) = get(&daemon, "/v1/models?limit=-1").await;
    assert_eq!((status, list["data"].as_array().unwrap().len()), (200, 1));
    let model = &list["data"][0];
    assert_eq!((&model["id"], &model["model"], &model["name"]), (&json!(id), &json!(id), &json!("Mistral 7B")));
    assert_eq!((&model["engine"], &model["status"]), (&json!("llama-cpp"), &json!("downloaded")));
    assert_eq!(model["size"], fs_err::metadata(&path).unwrap().len());
    assert!(
        model["files"].is_array() && model["ctx_len"].is_u64() && model["stop"].is_array() && model["stream"] == true
    );
    assert!(model["temperature"].is_f64() && model["max_tokens"].is_u64() && model["ngl"].is_u64());

    let (status, _) = raw(&daemon, "GET", &format!("/v1/models/{id}")).await;
    assert_eq!(status, 200);
    let change = json!({
        "id": id, "ctx_len": 64, "ngl": 3, "prompt_template": "{system_message}\n{prompt}", "stop": ["</s>", "User:"],
        "temperature": 0.25, "top_p": 0.5, "max_tokens": 99, "stream": true, "vision_model": false,
        "llama_model_path": "x.gguf", "engine": "llama-cpp", "frequency_penalty": 0.5, "presence_penalty": 0,
    });
    let (status, answer) = send(&daemon, "PATCH", &format!("/v1/models/{id}"), Some(&change)).await;
    assert_eq!((status, &answer["result"]), (200, &json!("Updated successfully!")), "{answer}");
    let (_, model) = get(&daemon, &format!("/v1/models/{id}")).await;
    for key in
        ["ctx_len", "ngl", "prompt_template", "stop", "temperature", "max_tokens", "vision_model", "llama_model_path"]
    {
        assert_eq!(model[key], change[key], "{key}");
    }
    let wrong = json!({"temperature": 99, "ctx_len": 32, "aliases": ["short"]});
    let (status, answer) = send(&daemon, "PATCH", &format!("/v1/models/{id}"), Some(&wrong)).await;
    assert_eq!(
        (status, &answer["result"], &answer["error"]["param"]),
        (400, &json!("Updated failed!"), &json!("temperature"))
    );
    let (_, model) = get(&daemon, &format!("/v1/models/{id}")).await;
    assert_eq!((&model["ctx_len"], &model["aliases"]), (&json!(64), &json!([])), "all or nothing");
    let typo = json!({"aliases": ["short"], "temprature": 0.1, "size": 1});
    let (status, answer) = send(&daemon, "PATCH", &format!("/v1/models/{id}"), Some(&typo)).await;
    assert_eq!((status, &answer["ignored"]), (200, &json!(["temprature"])), "{answer}");
    // What it reads may be sent back; something else would have no effect.
    let (_, read) = get(&daemon, &format!("/v1/models/{id}")).await;
    let back = json!({"id": read["id"], "model": read["model"], "files": read["files"], "mmproj": ""});
    let (_, answer) = send(&daemon, "PATCH", &format!("/v1/models/{id}"), Some(&back)).await;
    assert_eq!(answer.get("ignored"), None, "{back} {answer}");
    let others = json!({"files": ["/etc/passwd"], "mmproj": "/nope.gguf", "id": "x"});
    let (_, answer) = send(&daemon, "PATCH", &format!("/v1/models/{id}"), Some(&others)).await;
    assert_eq!(answer["ignored"], json!(["id", "files", "mmproj"]), "{answer}");
    let (status, _) = send(&daemon, "PATCH", "/v1/models/short", Some(&json!({"aliases": null}))).await;
    assert_eq!((status, get(&daemon, "/v1/models/short").await.0), (200, 404));

    let start = json!({
        "model": id, "engine": "nitro", "ctx_len": 64, "ngl": 33, "n_parallel": "2", "cpu_threads": 0, "cont_batching": true,
        "caching_enabled": true, "flash_attn": true, "cache_type": "f16", "use_mmap": true, "prompt_template": "{prompt}",
        "llama_model_path": path, "mmproj": "", "vision_model": false, "text_model": true,
    });
    for _ in 0..2 {
        let (status, answer) = post(&daemon, "/v1/models/start", &start).await;
        assert_eq!((status, &answer["message"]), (200, &json!("Started successfully!")), "{answer}");
    }
    assert_eq!(get(&daemon, &format!("/v1/models/status/{id}")).await.0, 200);
    let (_, loaded) = get(&daemon, "/inferences/server/models").await;
    assert_eq!((&loaded["data"][0]["id"], &loaded["data"][0]["engine"]), (&json!(id), &json!("llama-cpp")));

    let (status, answer) = send(&daemon, "DELETE", &format!("/models/{id}"), None).await;
    assert_eq!((status, &answer["message"]), (200, &json!("Deleted successfully!")), "{answer}");
    assert_eq!(get(&daemon, "/inferences/server/models").await.1["data"], json!([]));
    assert_eq!(get(&daemon, "/v1/models?limit=-1").await.1["data"], json!([]));
    assert!(path.is_file());
    let (status, answer) = send(&daemon, "DELETE", &format!("/v1/models/{id}"), None).await;
    assert_eq!(status, 400);
    assert!(answer["message"].as_str().unwrap().starts_with(&format!("Model not found: {id}")), "{answer}");
    assert_eq!(get(&daemon, &format!("/v1/models/{id}")).await.0, 404);
}

#[tokio::test]
async fn a_client_that_knows_the_list_is_told_so_and_hears_of_changes() {
    let (folder, daemon) = start();
    import(&daemon, "one", &weights(folder.path(), "one")).await;
    let events = client().get(daemon.url("/v1/events?types=models")).send().await.unwrap();
    let mut events = events.bytes_stream();
    let mut heard = String::new();
    let ask = async |tag: Option<&str>| {
        let mut request = client().get(daemon.url("/v1/models"));
        if let Some(tag) = tag {
            request = request.header("If-None-Match", format!("W/\"other\", {tag}"));
        }
        let answer = request.send().await.unwrap();
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), tag, answer.bytes().await.unwrap())
    };
    let (_, tag, _) = ask(None).await;
    // The background may still have found something out; then the tag is another one once.
    let (mut status, mut tag, mut body) = ask(Some(&tag)).await;
    while status != 304 {
        (status, tag, body) = ask(Some(&tag)).await;
    }
    assert!(body.is_empty());
    import(&daemon, "two", &weights(folder.path(), "two")).await;
    let (status, changed, body) = ask(Some(&tag)).await;
    assert!(status == 200 && changed != tag && !body.is_empty());
    let revision = |tag: &str| u64::from_str_radix(tag.trim_matches('"').split('-').next().unwrap(), 16).unwrap();
    while !heard.contains(&format!("id: {}\n", revision(&changed))) {
        let piece = tokio::time::timeout(std::time::Duration::from_secs(20), events.next()).await;
        heard.push_str(std::str::from_utf8(&piece.expect("an event").unwrap().unwrap()).unwrap());
    }
    assert!(heard.contains("event: models\ndata: {\"type\":\"models\",\"revision\":"), "{heard}");
    assert_eq!(get(&daemon, "/v1/events?types=weather").await.0, 400);
    post(&daemon, "/v1/models/start", &json!({"model": "one"})).await;
    let (status, _, body) = ask(Some(&changed)).await;
    assert_eq!(status, 200, "what is loaded shows in the list");
    let list: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(list["data"][0]["state"], "loaded");
}

#[tokio::test]
async fn the_list_is_paged_and_filtered() {
    let (folder, daemon) = start();
    for id in ["a", "b", "c", "d"] {
        import(&daemon, id, &weights(folder.path(), id)).await;
    }
    fs_err::remove_file(folder.path().join("c.gguf")).unwrap();
    assert_eq!(get(&daemon, "/v1/models/c").await.1["state"], "missing");
    let ids = async |query: &str| {
        let (status, list) = get(&daemon, &format!("/v1/models?{query}")).await;
        assert_eq!(status, 200, "{list}");
        let ids: Vec<String> =
            list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().into()).collect();
        (ids.concat(), list["has_more"].as_bool().unwrap())
    };
    assert_eq!(ids("limit=2").await, ("ab".into(), true));
    assert_eq!(ids("limit=2&after=b").await, ("cd".into(), false));
    assert_eq!(ids("state=missing").await, ("c".into(), false));
    assert_eq!(ids("state=ready&limit=300").await, ("abd".into(), false));
    assert_eq!(ids("engine=llama.cpp").await.0, "abcd");
    assert_eq!(ids("engine=openai").await.0, "");
    assert_eq!(ids("status=downloadable").await.0, "");
    assert_eq!(get(&daemon, "/v1/models?limit=many").await.0, 400);
    assert_eq!(get(&daemon, "/v1/models?state=happy").await.0, 400);
    let (status, body) = get(&daemon, "/v1/models?limit=1&limit=2").await;
    assert!(status == 400 && body["error"]["code"] == "invalid_query", "{body}");
    assert_eq!(get(&daemon, "/v1/models?after=nobody").await.0, 400);
}

#[tokio::test]
async fn a_batch_answers_for_each_entry() {
    let (folder, daemon) = start();
    let good = weights(folder.path(), "good");
    let bad = folder.path().join("bad.gguf");
    fs_err::write(&bad, "no model").unwrap();
    let absent = folder.path().join("absent.gguf");
    let body = json!({"models": [{"modelPath": good}, {"model": "bad", "modelPath": bad}, {"model": "x", "modelPath": absent}]});
    let (status, answer) = post(&daemon, "/v1/models/import", &body).await;
    assert_eq!((status, &answer["imported"], &answer["failed"]), (200, &json!(2), &json!(1)), "{answer}");
    assert_eq!(answer["data"][0]["modelHandle"], "good");
    assert!(answer["data"][2]["message"].as_str().unwrap().contains("not a readable file"), "{answer}");
    // Its header was not read yet; whoever asks for it, learns.
    let (status, broken) = get(&daemon, "/v1/models/bad").await;
    assert_eq!((status, &broken["state"]), (200, &json!("broken")), "{broken}");
    assert!(broken["reason"].as_str().unwrap().contains("not a GGUF file"), "{broken}");
    let (status, body) = post(&daemon, "/v1/models/start", &json!({"model": "bad"})).await;
    assert!(status == 503 && body["message"].as_str().unwrap().contains("broken"), "{body}");
    let (_, health) = get(&daemon, "/v1/models/health").await;
    assert_eq!((&health["models"], &health["unusable"][0]["id"]), (&json!(2), &json!("bad")), "{health}");
}

/// Every byte encoded: some clients do that.
fn percent_encode(id: &str) -> String {
    percent_encoding::percent_encode(id.as_bytes(), percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn every_id_can_be_addressed() {
    let (folder, daemon) = start();
    let long = "x".repeat(300);
    let ids = [
        "a b",
        "author/repo/file",
        "name:branch",
        "CON",
        "end.",
        "😀",
        "Case",
        "case",
        "health",
        "50%",
        "a+b?c#d",
        &long,
    ];
    for (at, id) in ids.iter().enumerate() {
        import(&daemon, id, &weights(folder.path(), &at.to_string())).await;
    }
    for id in ids {
        let encoded = percent_encode(id);
        let (status, by_query) = get(&daemon, &format!("/v1/models?id={encoded}")).await;
        assert_eq!((status, &by_query["id"]), (200, &json!(id)));
        if id != "health" {
            assert_eq!(get(&daemon, &format!("/v1/models/{encoded}")).await.1["id"], id);
        }
        let patch = json!({"top_k": 7});
        assert_eq!(send(&daemon, "PATCH", &format!("/v1/models?id={encoded}"), Some(&patch)).await.0, 200, "{id}");
        let cli = daemon.cli(&["models", "get", id]).output().unwrap();
        let shown: Value = serde_json::from_slice(&cli.stdout).unwrap();
        assert_eq!((&shown["id"], &shown["top_k"]), (&json!(id), &json!(7)));
    }
    for id in ["author/repo/file", "name:branch"] {
        assert_eq!(raw(&daemon, "GET", &format!("/models/{id}")).await.0, 200, "{id}");
    }
    for id in ids {
        let encoded = percent_encode(id);
        assert_eq!(send(&daemon, "DELETE", &format!("/v1/models?id={encoded}"), None).await.0, 200, "{id}");
    }
    assert_eq!(get(&daemon, "/v1/models").await.1["data"], json!([]));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), ids.len() + 1, "nothing of the user's is gone");
}

#[tokio::test]
async fn edits_by_hand_show_and_mistakes_are_reported() {
    let (folder, daemon) = start();
    let path = weights(folder.path(), "with space");
    import(&daemon, "first", &path).await;
    let list = daemon.data().join("models/models.list");
    let text = format!("\u{feff}# mine\r\nby-hand \"{}\"\r\nfirst too many words for a line here\r\n", path.display());
    fs_err::write(&list, &text).unwrap();
    let (_, models) = get(&daemon, "/v1/models").await;
    let ids: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["by-hand"]);
    let (_, health) = get(&daemon, "/v1/models/health").await;
    assert_eq!(health["lines"][0]["line"], 3, "{health}");
    let doctor = daemon.cli(&["doctor"]).output().unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("line 3"), "{doctor:?}");
    import(&daemon, "second", &path).await;
    assert!(fs_err::read_to_string(&list).unwrap().starts_with(&text));
}

#[tokio::test]
async fn a_busy_model_is_deleted_at_once_and_its_request_is_told() {
    let (folder, daemon) = start();
    import(&daemon, "m", &weights(folder.path(), "m")).await;
    let ask = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "[hang]"}]});
    let stream = client().post(daemon.url("/v1/chat/completions")).json(&ask).send().await.unwrap();
    assert_eq!(get(&daemon, "/v1/models/m").await.1["state"], "loaded");
    let (status, answer) = send(&daemon, "DELETE", "/v1/models/m", None).await;
    assert_eq!((status, &answer["deleted"]), (200, &json!(true)), "{answer}");
    let said = stream.text().await.unwrap();
    assert!(said.contains("the model `m` was stopped"), "{said}");
    assert_eq!(get(&daemon, "/inferences/server/models").await.1["data"], json!([]));
    assert_eq!(get(&daemon, "/v1/models").await.1["data"], json!([]));
}

#[tokio::test]
async fn a_loaded_model_answers_when_its_file_is_gone() {
    let (folder, daemon) = start();
    let path = weights(folder.path(), "m");
    import(&daemon, "m", &path).await;
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
    assert_eq!(post(&daemon, "/v1/chat/completions", &ask).await.0, 200);
    fs_err::remove_file(&path).unwrap();
    assert_eq!(post(&daemon, "/v1/chat/completions", &ask).await.0, 200);
    assert_eq!(get(&daemon, "/v1/models/m").await.1["state"], "loaded");
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": "m"})).await.0, 200);
    let (status, body) = post(&daemon, "/v1/chat/completions", &ask).await;
    assert!(status == 503 && body["message"].as_str().unwrap().contains("is missing"), "{body}");
}

/// The cache is a pipe here: reading it waits until somebody writes into it.
#[tokio::test]
async fn the_daemon_is_alive_before_it_knows_its_models() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = weights(folder.path(), "one");
    fs_err::create_dir_all(data.join("cache")).unwrap();
    fs_err::create_dir_all(data.join("models")).unwrap();
    fs_err::write(data.join("models/models.list"), format!("one {}\n", path.display())).unwrap();
    let cache = data.join("cache/models.cache");
    assert!(std::process::Command::new("mkfifo").arg(&cache).status().unwrap().success());
    let daemon = TestDaemon::with(Options { data: Some(data), ..Options::default() });
    let mut list = std::pin::pin!(get(&daemon, "/v1/models"));
    tokio::select! {
        answer = &mut list => panic!("it cannot know: {answer:?}"),
        answer = client().get(daemon.url("/healthz")).send() => assert_eq!(answer.unwrap().status(), 200),
    }
    fs_err::write(cache, "").unwrap();
    assert_eq!(list.await.1["data"][0]["id"], "one");
}

#[tokio::test]
async fn who_listens_hears_of_an_edit_by_hand_and_the_report_knows_which_files_are_there() {
    let (folder, daemon) = start();
    let path = weights(folder.path(), "one");
    import(&daemon, "one", &path).await;
    // What the import leaves to the background is over when two reports in a row find nothing new.
    get(&daemon, "/v1/models/health").await;
    get(&daemon, "/v1/models/health").await;
    let events = client().get(daemon.url("/v1/events")).send().await.unwrap();
    let mut events = events.bytes_stream();
    let mut next = async || {
        let piece = tokio::time::timeout(std::time::Duration::from_secs(20), events.next()).await;
        String::from_utf8(piece.expect("an event").unwrap().unwrap().to_vec()).unwrap()
    };
    assert!(next().await.contains("event: models"));
    // Nobody asks for the list: an event comes all the same.
    let list = daemon.data().join("models/models.list");
    let text = fs_err::read_to_string(&list).unwrap();
    fs_err::write(&list, format!("{text}two {}\n", path.display())).unwrap();
    assert!(next().await.contains("event: models"));
    fs_err::remove_file(&path).unwrap();
    let (_, health) = get(&daemon, "/v1/models/health").await;
    assert_eq!(health["unusable"][0]["state"], "missing", "{health}");
    fs_err::write(&path, GgufBuilder::llama().build()).unwrap();
    assert_eq!(get(&daemon, "/v1/models/health").await.1["unusable"], json!([]));
}

#[tokio::test]
async fn a_second_daemon_on_the_same_folder_refuses() {
    let (_folder, daemon) = start();
    let mut command = std::process::Command::new(cortex_test::dist::program("cortex-server"));
    command.arg("--data_folder_path").arg(daemon.data()).args(["--host", "127.0.0.1", "--port", "0"]);
    command.arg("--config_file_path").arg(daemon.scratch().join("other-rc"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is in use by another cortex daemon"), "{output:?}");
}

fn cli(daemon: &TestDaemon, arguments: &[&str]) -> (bool, String, String) {
    let output = daemon.cli(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_line_manages_models() {
    let (folder, daemon) = start();
    let models = folder.path().join("my models");
    weights(&models, "sub/a");
    weights(&models, "b");
    fs_err::write(models.join("mmproj-b.gguf"), "x").unwrap();
    fs_err::write(models.join("readme.txt"), "x").unwrap();
    let directory = models.to_str().unwrap();

    let (good, shown, said) = cli(&daemon, &["import", directory]);
    assert!(good && shown.contains("new") && said.contains("nothing was imported"), "{shown}{said}");
    assert_eq!(cli(&daemon, &["models", "list", "--json"]).1.matches("\"id\"").count(), 0);
    let (good, shown, said) = cli(&daemon, &["import", directory, "--yes"]);
    assert!(good && said.contains("2 models were imported, 0 were refused"), "{shown}{said}");
    let (_, shown, _) = cli(&daemon, &["models", "list", "-e"]);
    assert_eq!(
        shown,
        "+---------+----+-----------+\n| (Index) | ID | Engine    |\n+---------+----+-----------+\n| 1       | b  | llama-cpp |\n+---------+----+-----------+\n| 2       | a  | llama-cpp |\n+---------+----+-----------+\n"
    );

    let update = ["models", "update", "--model_id", "a", "--ctx_len", "64", "--stop", "x,y", "--temperature", "0.1"];
    assert_eq!(cli(&daemon, &update).1, "Successfully updated model ID 'a'!\n");
    let model: Value = serde_json::from_str(&cli(&daemon, &["models", "get", "a"]).1).unwrap();
    assert_eq!(
        (&model["ctx_len"], &model["stop"], &model["temperature"]),
        (&json!(64), &json!(["x", "y"]), &json!(0.1))
    );
    let (good, _, said) = cli(&daemon, &["models", "update", "--model_id", "a", "--top_p", "2"]);
    assert!(!good && said.contains("top_p is \"2\"; it must be a number from 0 to 1"), "{said}");

    assert_eq!(cli(&daemon, &["models", "alias", "a", "first", "my model"]).1, "first\nmy model\n");
    assert_eq!(cli(&daemon, &["models", "alias", "a", "first", "--remove"]).1, "my model\n");
    assert!(cli(&daemon, &["models", "start", "my model"]).0);
    assert!(cli(&daemon, &["models", "status", "a"]).0);
    let (good, _, said) = cli(&daemon, &["models", "alias", "b", "a"]);
    assert!(!good && said.contains("already a name of `a`"), "{said}");

    assert_eq!(cli(&daemon, &["models", "delete", "a"]).1, "Model a deleted successfully\n");
    assert!(models.join("sub/a.gguf").is_file());
    let copy = ["import", models.join("b.gguf").to_str().unwrap(), "--id", "copied", "--copy"].map(str::to_owned);
    assert!(cli(&daemon, &copy.each_ref().map(String::as_str)).0);
    fs_err::remove_file(daemon.data().join("models/models.list")).unwrap();
    let (good, shown, said) = cli(&daemon, &["models", "reindex"]);
    let mut added: Vec<&str> = shown.lines().collect();
    added.sort_unstable();
    assert!(good && added == ["b", "copied"] && said.contains("2 models were added"), "{shown}{said}");
    assert!(!cli(&daemon, &["models", "delete", "a"]).0);
}
