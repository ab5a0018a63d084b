//! Many clients of all kinds for a while, after which nothing is left of them.
//!
//! A short one with every run of the tests; `CORTEX_SOAK_SECONDS=600` for a long one.

use crate::http::{MODEL, client, get, import, post, question, until};
use cortex_test::{
    daemon::{Options, TestDaemon},
    numbers::Numbers,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const CLIENTS: u64 = 32;
const PARALLEL: usize = 4;

/// What a process has: bytes of its own in memory, open files, threads.
#[derive(Debug, Clone, Copy)]
struct Held {
    bytes: u64,
    files: usize,
    threads: usize,
}

fn held(pid: u64) -> Held {
    let of = |name: &str| format!("/proc/{pid}/{name}");
    let status = fs_err::read_to_string(of("status")).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kibibytes: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    let count = |name: &str| fs_err::read_dir(of(name)).unwrap().count();
    Held { bytes: kibibytes << 10, files: count("fd"), threads: count("task") }
}

/// A number of `/metrics`.
async fn metric(daemon: &TestDaemon, name: &str) -> u64 {
    let text = client().get(daemon.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.trim().parse().unwrap()
}

/// One request of a client; what it was, for the count.
async fn act(http: &reqwest::Client, url: &str, numbers: &mut Numbers) -> &'static str {
    let number = numbers.below(1_000_000);
    let words = |count: u64| {
        let all: Vec<String> = (0..count).map(|at| format!("word{}", (at * 7919 + number) % 9973)).collect();
        all.join(" ")
    };
    let chat = |text: String, more: Value| {
        let mut body = question(&text);
        body["max_tokens"] = json!(8);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let kind = numbers.below(12);
    let chats = format!("{url}/v1/chat/completions");
    let (name, request, expected) = match kind {
        0 | 1 => ("whole", http.post(&chats).json(&chat(format!("Say {number}."), json!({}))), 200),
        2 => ("streamed", http.post(&chats).json(&chat(format!("Say {number}."), json!({"stream": true}))), 200),
        3 | 4 => {
            let body =
                chat("Write a long story.".into(), json!({"stream": true, "max_tokens": 300, "ignore_eos": true}));
            let mut answer = http.post(&chats).json(&body).send().await.unwrap();
            for _ in 0..numbers.below(6) {
                answer.chunk().await.unwrap();
            }
            return "left";
        }
        5 => {
            let request = http.post(&chats).json(&chat(words(60), json!({}))).send();
            // Gone before there is an answer, or perhaps after.
            let _ = tokio::time::timeout(Duration::from_millis(numbers.below(500)), request).await;
            return "disconnected";
        }
        6 => ("long", http.post(&chats).json(&chat(words(60 + number % 30), json!({"max_tokens": 40}))), 200),
        7 => ("bad", http.post(&chats).header("content-type", "application/json").body("{\"model\": "), 400),
        8 => ("wrong", http.post(&chats).json(&chat("x".into(), json!({"temperature": "hot"}))), 400),
        9 => ("too long", http.post(&chats).json(&chat(words(600), json!({}))), 400),
        10 => {
            let schema =
                json!({"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]});
            let more = json!({"n": 2, "logprobs": true, "temperature": 1, "max_tokens": 12, "json_schema": schema});
            ("several", http.post(&chats).json(&chat(format!("Say {number}."), more)), 200)
        }
        _ => (
            "nobody",
            http.post(&chats).json(&json!({"model": "nobody", "messages": [{"role": "user", "content": "x"}]})),
            404,
        ),
    };
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    assert_eq!(status, expected, "{name}: {text}");
    // A token of an answer may be that word too.
    assert!(!text.contains("\"error\":") || expected >= 400, "{name}: {text}");
    name
}

#[expect(clippy::disallowed_methods, reason = "a test may be told how long it takes")]
fn seconds() -> u64 {
    std::env::var("CORTEX_SOAK_SECONDS").map_or(24, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_many_clients_nothing_is_left_of_them() {
    let seconds = seconds();
    let settings = format!("contextLength: 512\nparallel: {PARALLEL}\n");
    let daemon = Arc::new(TestDaemon::with(Options { settings: Some(settings), ..Options::default() }));
    import(&daemon).await;
    let (status, body) = post(&daemon, "/v1/chat/completions", &question("Hello")).await;
    assert_eq!(status, 200, "{body}");
    let worker = || async { get(&daemon, "/inferences/server/models").await.1["data"][0]["pid"].as_u64().unwrap() };
    let (first_worker, daemon_pid) = (worker().await, u64::from(daemon.pid()));
    let tasks = metric(&daemon, "cortex_tasks ").await;
    let soak = async |seconds: u64, seed: u64| {
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let url = daemon.url("");
            clients.spawn(async move {
                // Some keep their connections.
                let kept = client();
                let mut numbers = Numbers(seed * 1000 + number);
                let mut counts = BTreeMap::<&str, u64>::new();
                while Instant::now() < until {
                    let http = if number % 2 == 0 { kept.clone() } else { client() };
                    *counts.entry(act(&http, url.trim_end_matches('/'), &mut numbers).await).or_default() += 1;
                }
                counts
            });
        }
        let mut all = BTreeMap::<&str, u64>::new();
        while let Some(counts) = clients.join_next().await {
            for (name, count) in counts.unwrap() {
                *all.entry(name).or_default() += count;
            }
        }
        // Whoever left is noticed, and what was asked for ends.
        until_quiet(&daemon).await;
        all
    };
    // What is allocated once is there after a while.
    soak(seconds / 4, 1).await;
    let before = [held(daemon_pid), held(first_worker)];
    let counts = soak(seconds - seconds / 4, 2).await;
    let after = [held(daemon_pid), held(first_worker)];
    println!("{seconds} s: {counts:?}\nbefore {before:?}\nafter  {after:?}");
    assert_eq!(worker().await, first_worker, "no worker died");
    for (before, after) in before.iter().zip(&after) {
        // Buffers that grow with what comes together are of some megabytes.
        assert!(after.bytes <= before.bytes + before.bytes / 10 + (24 << 20), "{before:?} {after:?}");
        assert!(after.files <= before.files + 2, "{before:?} {after:?}");
        assert!(after.threads <= before.threads + 2, "{before:?} {after:?}");
    }
    // Connections that a client keeps have a task each; they are closed by now.
    let left = metric(&daemon, "cortex_tasks ").await;
    assert!(left <= tasks + 3, "{tasks} tasks before, {left} after");
    assert_eq!(unfinished(&daemon.data()), Vec::<String>::new());
    // Every slot takes as much as it should.
    let mut full = JoinSet::new();
    for slot in 0..PARALLEL {
        let daemon = Arc::clone(&daemon);
        full.spawn(async move {
            let words: Vec<String> = (0..100).map(|at| format!("word{}", (at * 31 + slot * 7) % 97)).collect();
            let mut body = question(&words.join(" "));
            (body["max_tokens"], body["ignore_eos"]) = (json!(60), json!(true));
            post(&daemon, "/v1/chat/completions", &body).await
        });
    }
    while let Some(answer) = full.join_next().await {
        let (status, body) = answer.unwrap();
        assert_eq!((status, &body["usage"]["completion_tokens"]), (200, &json!(60)), "{body}");
    }
    until_quiet(&daemon).await;
}

async fn until_quiet(daemon: &TestDaemon) {
    until(daemon, "/inferences/server/models", |body| {
        let model = &body["data"][0];
        model["id"] == MODEL && model["requests"] == 0 && model["waiting"].as_u64().unwrap_or(0) == 0
    })
    .await;
}

/// Files that somebody has begun and not finished.
fn unfinished(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(unfinished(&path));
        } else if path.extension().is_some_and(|ending| ending == "tmp" || ending == "part") {
            found.push(path.display().to_string());
        }
    }
    found
}
