//! Model sources, the hub's index and search as clients see them. The hub is the fake one.

use crate::http::{client, get, post};
use cortex_test::{
    daemon::{Options, TestDaemon},
    gguf::GgufBuilder,
    hub::{FakeHub, Faults},
};
use serde_json::{Value, json};
use std::{ffi::OsString, process::Output};

const URL: &str = "https://huggingface.co/maker/tiny-GGUF";
const ID: &str = "maker:tiny-GGUF:tiny-Q4_K_M.gguf";

fn start() -> (FakeHub, TestDaemon) {
    let hub = FakeHub::start();
    let model = || GgufBuilder::llama().tensor("padding", vec![32, 600]).build();
    hub.add_file("maker/tiny-GGUF", "main", "tiny-Q4_K_M.gguf", model());
    hub.add_file("maker/tiny-GGUF", "main", "tiny-Q8_0.gguf", model());
    hub.add_file("maker/tiny-GGUF", "main", "README.md", "# Tiny");
    hub.add_file("cortexso/tinyllama", "1b", "model.gguf", model());
    hub.tag("cortexso/tinyllama", "cortex.cpp");
    hub.add_file("cortexso/other", "main", "README.md", "# Other");
    hub.set_popularity("maker/tiny-GGUF", 12_345, 67);
    let daemon = TestDaemon::with(Options {
        environment: vec![("HF_ENDPOINT".into(), OsString::from(hub.url()))],
        settings: Some(format!("allowedDownloadHosts: ['{}']\n", hub.content_url())),
        ..Options::default()
    });
    (hub, daemon)
}

async fn delete(daemon: &TestDaemon, path: &str, body: &Value) -> (u16, Value) {
    let answer = client().delete(daemon.url(path)).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn run(daemon: &TestDaemon, arguments: &[&str]) -> Output {
    daemon.cli(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ids(list: &Value) -> Vec<(&str, &str)> {
    let all = list["data"].as_array().unwrap().iter();
    all.map(|model| (model["id"].as_str().unwrap(), model["status"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn jan_adds_a_source_and_pulls_from_it() {
    let (_hub, daemon) = start();
    let source = json!({"source": URL});
    let (status, body) = post(&daemon, "/v1/models/sources", &source).await;
    assert_eq!((status, &body), (200, &json!({"message": "Model source is added successfully!"})));
    let (_, sources) = get(&daemon, "/models/sources").await;
    let only = &sources["data"][0];
    assert_eq!((only["id"].as_str(), only["author"].as_str()), (Some(URL), Some("maker")));
    assert_eq!(only["models"][0]["id"], ID);
    assert!(only["models"][0]["size"].as_u64().unwrap() > 70_000);
    assert_eq!(only["metadata"]["description"], "# Tiny");
    for path in
        ["/v1/models/sources/https%3A%2F%2Fhuggingface.co%2Fmaker%2Ftiny-GGUF", "/v1/models/sources/maker/tiny-GGUF"]
    {
        let (status, one) = get(&daemon, path).await;
        assert_eq!((status, &one), (200, only), "{path}");
    }

    let tag = |answer: &reqwest::Response| answer.headers()["etag"].to_str().unwrap().to_owned();
    let before = client().get(daemon.url("/v1/models")).send().await.unwrap();
    let before_tag = tag(&before);
    let list: Value = before.json().await.unwrap();
    let other = "maker:tiny-GGUF:tiny-Q8_0.gguf";
    assert_eq!(ids(&list), [(ID, "downloadable"), (other, "downloadable")]);
    let entry = &list["data"][0];
    assert_eq!((entry["modelSource"].as_str(), entry["engine"].as_str()), (Some(URL), Some("llama-cpp")));
    let metadata: Value = serde_json::from_str(entry["metadata"].as_str().unwrap()).unwrap();
    assert_eq!(metadata["downloads"], 12_345);

    // What is downloaded is no longer offered, and comes first.
    let pulled = tokio::task::spawn_blocking(move || (run(&daemon, &["pull", other]), daemon));
    let (pulled, daemon) = pulled.await.unwrap();
    assert_eq!(pulled.status.code(), Some(0), "{}", text(&pulled.stderr));
    let after = client().get(daemon.url("/v1/models")).header("if-none-match", &before_tag).send().await.unwrap();
    assert_eq!(after.status(), 200);
    let after_tag = tag(&after);
    assert_eq!(ids(&after.json().await.unwrap()), [(other, "downloaded"), (ID, "downloadable")]);
    let again = client().get(daemon.url("/v1/models")).header("if-none-match", &after_tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    for (query, expected) in [
        ("status=downloaded", vec![(other, "downloaded")]),
        ("status=downloadable", vec![(ID, "downloadable")]),
        ("state=ready", vec![(other, "downloaded")]),
        ("limit=1", vec![(other, "downloaded")]),
        ("engine=llama-cpp&after=maker%3Atiny-GGUF%3Atiny-Q8_0.gguf", vec![(ID, "downloadable")]),
    ] {
        let (_, list) = get(&daemon, &format!("/v1/models?{query}")).await;
        assert_eq!(ids(&list), expected, "{query}");
    }

    let (status, body) = delete(&daemon, "/v1/models/sources", &source).await;
    assert_eq!((status, &body), (200, &json!({"message": "Model source is deleted successfully!"})));
    let (_, list) = get(&daemon, "/v1/models").await;
    assert_eq!(ids(&list), [(other, "downloaded")]);
    let (status, body) = delete(&daemon, "/models/sources", &source).await;
    assert_eq!(status, 400);
    assert!(body["message"].as_str().unwrap().starts_with(&format!("Model source does not exist: {URL}")), "{body}");
    for (body, status) in [(json!({}), 409), (json!({"source": ""}), 400), (json!({"source": 1}), 400)] {
        assert_eq!(post(&daemon, "/v1/models/sources", &body).await.0, status, "{body}");
    }
}

#[tokio::test]
async fn the_index_of_the_hub_is_told_and_kept() {
    let (hub, daemon) = start();
    let (status, body) = get(&daemon, "/v1/models/hub?tag=cortex.cpp").await;
    assert_eq!((status, &body), (200, &json!({"data": ["cortexso/tinyllama"]})));
    let (_, body) = get(&daemon, "/v1/models/hub?author=maker").await;
    assert_eq!(body["data"], json!(["maker/tiny-GGUF"]));
    let asked = hub.seen().len();
    let (_, body) = get(&daemon, "/v1/models/hub?tag=cortex.cpp").await;
    assert_eq!((&body["data"], hub.seen().len()), (&json!(["cortexso/tinyllama"]), asked));
    hub.set_faults(Faults { api_html: true, ..Faults::default() });
    let (status, body) = get(&daemon, "/v1/models/hub?author=nobody").await;
    assert_eq!(status, 503, "{body}");
    assert!(body["message"].as_str().unwrap().contains("it is a web page"), "{body}");
    let (status, body) = get(&daemon, "/v1/models/hub/search").await;
    assert_eq!((status, body["error"]["param"].as_str()), (400, Some("query")));
    assert_eq!(get(&daemon, "/v1/models/hub/search?query=x&limit=1000").await.0, 400);
}

#[tokio::test]
async fn the_command_line_searches_and_shows_what_there_is() {
    let (hub, daemon) = start();
    let work = move || {
        let found = run(&daemon, &["search", "TINY"]);
        let lines: Vec<String> = text(&found.stdout).lines().map(str::to_owned).collect();
        assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
        assert!(lines[1].starts_with("maker/tiny-GGUF     12.3k      67     2025-01-01"), "{lines:?}");
        assert!(lines[2].starts_with("cortexso/tinyllama"), "{lines:?}");
        assert!(text(&run(&daemon, &["search", "nothing", "like", "it"]).stderr).contains("nothing was found"));
        let by = run(&daemon, &["search", "tiny", "--author", "cortexso", "--json"]);
        let by: Value = serde_json::from_slice(&by.stdout).unwrap();
        assert_eq!((by["data"].as_array().unwrap().len(), &by["data"][0]["id"]), (1, &json!("cortexso/tinyllama")));
        assert_eq!(run(&daemon, &["search"]).status.code(), Some(2));

        let added = run(&daemon, &["models", "sources", "add", URL]);
        assert_eq!(text(&added.stdout), format!("Added model source: {URL}\n"), "{}", text(&added.stderr));
        let listed = run(&daemon, &["models", "sources", "list"]);
        assert!(text(&listed.stdout).contains(&format!("| 1 | {URL} | 2      |")), "{}", text(&listed.stdout));
        let available = run(&daemon, &["list", "--available"]);
        assert!(text(&available.stdout).contains(ID) && text(&available.stdout).contains(URL));
        assert!(!text(&run(&daemon, &["list"]).stdout).contains(ID), "what is not here is not among the models");
        let removed = run(&daemon, &["models", "sources", "remove", URL]);
        assert_eq!(text(&removed.stdout), format!("Removed model source: {URL}\n"));
        let again = run(&daemon, &["models", "sources", "remove", URL]);
        assert_eq!(again.status.code(), Some(1));
        assert!(text(&again.stderr).contains("Model source does not exist"));

        // Without the hub, what was found before.
        hub.set_faults(Faults { api_status: Some(500), ..Faults::default() });
        assert_eq!(run(&daemon, &["search", "TINY"]).status.code(), Some(0));
        let other = run(&daemon, &["search", "other"]);
        assert_eq!(other.status.code(), Some(1));
        assert!(text(&other.stderr).contains("the hub cannot be asked"), "{}", text(&other.stderr));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
