//! Downloads as clients see them: over HTTP, the WebSocket, events, and on the command line. The hub is the
//! fake one; the sockets, the daemon and the files are real.

use crate::http::{client, get, post};
use cortex_test::{
    daemon::{Options, TestDaemon},
    gguf::GgufBuilder,
    hub::{FakeHub, Faults},
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{ffi::OsString, process::Output};
use tokio_tungstenite::tungstenite::Message;

const REPO: &str = "maker/tiny-GGUF";
const ID: &str = "maker:tiny-GGUF:tiny-Q4_K_M.gguf";

fn model(rows: u64) -> Vec<u8> {
    GgufBuilder::llama().tensor("padding", vec![32, rows]).build()
}

fn start() -> (FakeHub, TestDaemon) {
    let hub = FakeHub::start();
    hub.add_file(REPO, "main", "tiny-Q4_K_M.gguf", model(60_000));
    hub.add_file(REPO, "main", "tiny-Q8_0.gguf", model(90_000));
    let daemon = TestDaemon::with(Options {
        environment: vec![("HF_ENDPOINT".into(), OsString::from(hub.url()))],
        settings: Some(format!("allowedDownloadHosts: ['{}']\n", hub.content_url())),
        ..Options::default()
    });
    (hub, daemon)
}

async fn socket(daemon: &TestDaemon) -> impl futures::Stream<Item = Value> + Unpin {
    let (socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/events", daemon.address)).await.unwrap();
    Box::pin(socket.filter_map(async |message| match message {
        Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
        _ => None,
    }))
}

/// The frames up to the one that ends it.
async fn to_the_end(frames: &mut (impl futures::Stream<Item = Value> + Unpin)) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let frame = frames.next().await.expect("a frame that ends it");
        let kind = frame["type"].as_str().unwrap().to_owned();
        seen.push(frame);
        if !matches!(kind.as_str(), "DownloadStarted" | "DownloadUpdated") {
            return seen;
        }
    }
}

fn kinds(frames: &[Value]) -> Vec<&str> {
    frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect()
}

fn run(daemon: &TestDaemon, arguments: &[&str]) -> Output {
    daemon.cli(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn jan_pulls_a_model_as_it_always_did() {
    let (_hub, daemon) = start();
    let mut frames = socket(&daemon).await;
    let url = "https://huggingface.co/maker/tiny-GGUF/resolve/main/tiny-Q4_K_M.gguf";
    let (status, body) = post(&daemon, "/v1/models/pull", &json!({"model": url, "id": ID, "name": "Tiny"})).await;
    assert_eq!((status, body["message"].as_str()), (200, Some("Model start downloading!")), "{body}");
    assert_eq!((body["task"]["id"].as_str(), body["task"]["type"].as_str()), (Some(ID), Some("Model")));
    let seen = to_the_end(&mut frames).await;
    assert_eq!((kinds(&seen).first(), kinds(&seen).last()), (Some(&"DownloadStarted"), Some(&"DownloadSuccess")));
    // The list has it when the frame comes.
    let (_, list) = get(&daemon, "/v1/models?limit=-1").await;
    assert_eq!(list["data"][0]["id"], ID);
    assert_eq!(
        (list["data"][0]["status"].as_str(), list["data"][0]["name"].as_str()),
        (Some("downloaded"), Some("Tiny"))
    );
    let mut before = 0;
    for frame in &seen {
        assert_eq!(frame.as_object().unwrap().keys().collect::<Vec<_>>(), ["task", "type"]);
        assert_eq!(frame["task"].as_object().unwrap().keys().collect::<Vec<_>>(), ["id", "items", "type"]);
        let item = frame["task"]["items"][0].as_object().unwrap();
        let keys = ["bytes", "checksum", "downloadUrl", "downloadedBytes", "id", "localPath"];
        assert_eq!(item.keys().collect::<Vec<_>>(), keys);
        let there = item["downloadedBytes"].as_u64().unwrap();
        assert!(there >= before, "progress never goes backwards");
        before = there;
    }
    let item = &seen.last().unwrap()["task"]["items"][0];
    assert_eq!(item["downloadedBytes"], item["bytes"]);
    assert!(std::path::Path::new(item["localPath"].as_str().unwrap()).is_file());
    // Again: the contract's words.
    let (status, body) = post(&daemon, "/models/pull", &json!({"model": url})).await;
    assert_eq!((status, body["message"].as_str()), (400, Some("Please delete the model before downloading again")));
}

#[tokio::test]
async fn clients_of_any_time_hear_the_same_and_how_it_ends() {
    let (hub, daemon) = start();
    hub.set_faults(Faults { bytes_per_second: Some(1 << 20), ..Faults::default() });
    let (mut one, mut two) = (socket(&daemon).await, socket(&daemon).await);
    let (status, _) = post(&daemon, "/v1/models/pull", &json!({"model": REPO})).await;
    assert_eq!(status, 200);
    // Connected after it began.
    let mut late = socket(&daemon).await;
    let first = late.next().await.unwrap();
    assert_eq!((first["type"].as_str(), first["task"]["id"].as_str()), (Some("DownloadUpdated"), Some(ID)));
    let (one, two) = (to_the_end(&mut one).await, to_the_end(&mut two).await);
    assert_eq!(one, two);
    assert_eq!(to_the_end(&mut late).await.last(), one.last());
    // Connected after it ended.
    let mut after = socket(&daemon).await;
    assert_eq!(kinds(&to_the_end(&mut after).await), ["DownloadSuccess"]);
}

#[tokio::test]
async fn a_failure_says_why_on_every_way() {
    let (hub, daemon) = start();
    let mut frames = socket(&daemon).await;
    hub.set_faults(Faults { wrong_digest: true, ..Faults::default() });
    assert_eq!(post(&daemon, "/v1/models/pull", &json!({"model": ID})).await.0, 200);
    let seen = to_the_end(&mut frames).await;
    let end = seen.last().unwrap();
    assert_eq!(end["type"], "DownloadError");
    assert!(end["message"].as_str().unwrap().contains("is not what the hub promises"), "{end}");
    let (_, list) = get(&daemon, "/v1/models/pulls").await;
    assert_eq!(
        (list["data"][0]["state"].as_str(), list["data"][0]["code"].as_str()),
        (Some("failed"), Some("wrong_digest"))
    );
    assert_eq!(get(&daemon, "/v1/models").await.1["data"], json!([]));
    for (body, status, message) in [
        (json!({}), 409, "No model field in request body"),
        (json!({"model": ""}), 400, "model is empty"),
        (json!({"model": "a b"}), 400, "Invalid model handle or not supported!"),
        (json!({"model": "nobody/nothing"}), 400, "Model nobody/nothing not found"),
        (json!({"model": "https://huggingface.co/a/b/blob"}), 400, "Invalid url: https://huggingface.co/a/b/blob"),
        (json!({"model": "https://example.org/x.gguf"}), 400, "models may not be downloaded from `example.org`"),
    ] {
        let (got, answer) = post(&daemon, "/v1/models/pull", &body).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert!(answer["message"].as_str().unwrap().starts_with(message), "{answer}");
    }
    let cancel = client().delete(daemon.url("/v1/models/pull")).json(&json!({"taskId": "other"})).send().await.unwrap();
    assert_eq!(cancel.status(), 400);
    assert!(cancel.text().await.unwrap().contains("Task not found"));
}

#[tokio::test]
async fn a_download_is_followed_paused_resumed_and_cancelled_over_http() {
    let (hub, daemon) = start();
    hub.set_faults(Faults { bytes_per_second: Some(1 << 19), ..Faults::default() });
    let mut frames = socket(&daemon).await;
    post(&daemon, "/v1/models/pull", &json!({"model": ID})).await;
    assert_eq!(frames.next().await.unwrap()["type"], "DownloadStarted");
    let path = format!("/v1/models/pulls/{}/events", ID.replace(':', "%3A"));
    let follow = client().get(daemon.url(&path)).send().await.unwrap();
    assert_eq!(follow.headers()["content-type"], "text/event-stream");
    for (route, state) in [("pause", "paused"), ("resume", "downloading"), ("pause", "paused")] {
        let (status, body) = post(&daemon, &format!("/v1/models/pulls/{route}"), &json!({"taskId": ID})).await;
        assert_eq!((status, body["taskId"].as_str()), (200, Some(ID)), "{body}");
        assert_eq!(get(&daemon, "/v1/models/pulls").await.1["data"][0]["state"], state);
    }
    let cancel = client().delete(daemon.url("/models/pull")).json(&json!({"taskId": ID})).send().await.unwrap();
    let body: Value = cancel.json().await.unwrap();
    assert_eq!(body, json!({"message": "Download stopped successfully", "taskId": ID}));
    // Waiting sends no frame of its own, going on is another start, and the end comes once.
    let seen = to_the_end(&mut frames).await;
    let (last, others) = seen.split_last().unwrap();
    assert_eq!(last["type"], "DownloadStopped");
    assert!(others.iter().all(|frame| frame["type"] == "DownloadStarted" || frame["type"] == "DownloadUpdated"));
    let events = follow.text().await.unwrap();
    let states: Vec<String> = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states.last().map(String::as_str), Some("cancelled"), "{events}");
}

#[tokio::test]
async fn what_a_name_offers_is_told() {
    let (_hub, daemon) = start();
    let (status, body) = post(&daemon, "/models/pull/info", &json!({"model": REPO})).await;
    assert_eq!((status, body["id"].as_str()), (200, Some("maker:tiny-GGUF")), "{body}");
    assert_eq!(body["availableModels"], json!(["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]));
    assert_eq!(body["downloadUrl"], "https://huggingface.co/maker/tiny-GGUF/resolve/main/");
    assert_eq!(
        (body["recommended"].as_u64(), body["message"].as_str()),
        (Some(0), Some("Get model pull information successfully"))
    );
    let (status, body) = post(&daemon, "/models/pull/info", &json!({"model": "a b"})).await;
    assert_eq!(status, 400);
    assert!(body["message"].as_str().unwrap().starts_with("Input must be Cortex Model Hub handle or HuggingFace url!"));
}

#[tokio::test]
async fn the_command_line_pulls_into_a_log() {
    let (hub, daemon) = start();
    let pulled = tokio::task::spawn_blocking(move || {
        let pulled = run(&daemon, &["pull", REPO]);
        (daemon, pulled)
    });
    let (daemon, pulled) = pulled.await.unwrap();
    assert_eq!(pulled.status.code(), Some(0), "{}", text(&pulled.stderr));
    assert_eq!(text(&pulled.stdout), format!("Model {ID} downloaded successfully!\n"));
    let said = text(&pulled.stderr);
    assert!(said.contains("Q4_K_M is the first choice") && said.contains(&format!("{ID}: 0%")), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\r'), "a log has no bars: {said:?}");
    let again = run(&daemon, &["pull", REPO]);
    assert_eq!((again.status.code(), text(&again.stdout)), (Some(0), String::new()));
    assert!(text(&again.stderr).contains("the model is there already"));
    let list = run(&daemon, &["pull"]);
    assert!(text(&list.stdout).contains("succeeded"), "{}", text(&list.stdout));
    hub.set_faults(Faults { content_status: Some(404), ..Faults::default() });
    let failed = run(&daemon, &["pull", "maker/tiny-GGUF:Q8_0"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("answered 404 (not found)"), "{}", text(&failed.stderr));
    let unknown = run(&daemon, &["pull", "--cancel", "nothing"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("Task not found"));
}

/// Killed again and again, with -9, at moments that nobody chose: it always goes on by itself, the digest is right,
/// and each kill costs a fiftieth of the file, or 8 MiB, at most. The hub counts what it sends.
/// `CORTEX_PULL_KILLS` and `CORTEX_PULL_MIB` ask for more than an ordinary run.
#[tokio::test]
async fn a_killed_daemon_goes_on_and_asks_for_little_twice() {
    #[expect(clippy::disallowed_methods, reason = "a long run is asked for by the environment")]
    let number = |name: &str, usual: u64| std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let (kills, mebibytes) = (number("CORTEX_PULL_KILLS", 4), number("CORTEX_PULL_MIB", 96));
    let hub = FakeHub::start();
    let content = model(mebibytes * 8192);
    let size = content.len() as u64;
    hub.add_file(REPO, "main", "tiny-Q4_K_M.gguf", content.clone());
    // Slow enough for all connections to be open at each kill.
    let rate = size / (10 * kills.max(4));
    hub.set_faults(Faults { bytes_per_second: Some(rate), ..Faults::default() });
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        TestDaemon::with(Options {
            environment: vec![("HF_ENDPOINT".into(), OsString::from(hub.url()))],
            settings: Some(format!("allowedDownloadHosts: ['{}']\ndownloadConnections: 16\n", hub.content_url())),
            data: Some(folder.path().to_owned()),
            ..Options::default()
        })
    };
    let there = async |daemon: &TestDaemon| {
        let (_, list) = get(daemon, "/v1/models/pulls").await;
        (list["data"][0]["downloaded_bytes"].as_u64().unwrap_or(0), list["data"][0]["state"].clone())
    };
    let mut daemon = start();
    assert_eq!(post(&daemon, "/v1/models/pull", &json!({"model": ID})).await.0, 200);
    let (mut cost, mut last, mut wide, mut seed) = (0, 0, 0, 0x1234_5678_9abc_def0u64);
    'kills: for kill in 1..=kills {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Somewhere within this part of the file.
        let part = size / 20 * 19 / kills;
        let until = part * (kill - 1) + (seed >> 33) % part;
        loop {
            let (bytes, state) = there(&daemon).await;
            if bytes >= until && (hub.connections() >= 16 || bytes >= until + part) || state == "succeeded" {
                break;
            }
            tokio::task::yield_now().await;
        }
        wide += u64::from(hub.connections() >= 16);
        daemon.kill();
        let sent = hub.bytes_sent();
        daemon = start();
        let begun = loop {
            let (bytes, state) = there(&daemon).await;
            if state.is_null() && get(&daemon, "/v1/models").await.1["data"][0]["id"] == ID {
                // The last kill came when it was ready.
                break 'kills;
            }
            if state == "downloading" || state == "verifying" || state == "succeeded" {
                break bytes;
            }
        };
        assert!(begun >= last, "what was journalled is never lost: {begun} of {last}, after {until}");
        last = begun;
        cost = cost.max(sent.saturating_sub(begun));
    }
    hub.set_faults(Faults::default());
    while get(&daemon, "/v1/models").await.1["data"][0]["id"] != ID {
        assert_ne!(there(&daemon).await.1, "failed");
        tokio::task::yield_now().await;
    }
    let (_, model) = get(&daemon, &format!("/v1/models/{ID}")).await;
    assert_eq!(model["size"], size, "{model}");
    let lies = folder.path().join("models/huggingface.co/maker/tiny-GGUF/tiny-Q4_K_M/tiny-Q4_K_M.gguf");
    assert!(fs_err::read(lies).unwrap() == content, "the bytes are those of the hub");
    let (twice, allowed) = (hub.bytes_sent() - size, kills * (size / 50).max(8 << 20));
    println!(
        "{kills} kills of a pull of {mebibytes} MiB, {wide} of them amid 16 connections: {twice} bytes were sent twice, {} a kill; {allowed} are allowed",
        twice / kills
    );
    assert!(twice <= allowed, "{twice} bytes were sent twice, {allowed} are allowed");
}
