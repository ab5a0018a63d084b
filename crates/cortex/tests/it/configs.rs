//! The settings of a running daemon: who may change them, and what a change does at once.

use crate::{
    http::{client, get},
    registry::send,
};
use cortex_test::{
    daemon::{Options, TestDaemon},
    hub::FakeHub,
};
use serde_json::{Value, json};

async fn with_key(daemon: &TestDaemon, method: &str, path: &str, key: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = client().request(method.parse().unwrap(), daemon.url(path)).bearer_auth(key);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

fn settings(daemon: &TestDaemon) -> String {
    fs_err::read_to_string(daemon.scratch().join("cortexrc")).unwrap()
}

#[tokio::test]
async fn jan_says_its_proxy_at_every_start() {
    let daemon = TestDaemon::start();
    let off = json!({"proxy_url": "", "verify_peer_ssl": false});
    let (status, answer) = send(&daemon, "PATCH", "/v1/configs", Some(&off)).await;
    assert_eq!((status, answer["message"].as_str()), (200, Some("Configuration updated successfully")), "{answer}");
    assert_eq!((&answer["config"]["proxy_url"], &answer["config"]["verify_peer_ssl"]), (&json!(""), &json!(false)));
    let written = settings(&daemon);
    send(&daemon, "PATCH", "/configs", Some(&off)).await;
    assert_eq!(settings(&daemon), written, "the same again is not written again");
    let (status, answer) = send(&daemon, "PATCH", "/v1/configs", Some(&json!({"huggingface_token": "hf_abc"}))).await;
    assert_eq!((status, &answer["config"]["huggingface_token"]), (200, &json!("********")));
    let (status, shown) = get(&daemon, "/v1/configs").await;
    assert_eq!((status, &shown), (200, &answer["config"]));
    assert!(settings(&daemon).contains("huggingFaceToken: \"hf_abc\"") && !daemon.log().contains("hf_abc"));
    for (body, said) in [
        (None, "Configuration must be provided via JSON body"),
        (Some(json!({"nonsense": 1})), "No configuration updated"),
        (Some(json!({"proxy_url": "http://"})), "proxyUrl"),
    ] {
        let (status, answer) = send(&daemon, "PATCH", "/v1/configs", body.as_ref()).await;
        assert!(status == 400 && answer["message"].as_str().unwrap().contains(said), "{answer}");
    }
}

#[tokio::test]
async fn keys_and_what_they_are_good_for_change_at_once() {
    let daemon = TestDaemon::start();
    let keys = json!({"api_keys": ["boss", {"key": "chat", "scopes": ["infer"]}, {"key": "look", "scopes": ["read"]}]});
    let (status, answer) = send(&daemon, "PATCH", "/v1/configs", Some(&keys)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(get(&daemon, "/v1/models").await.0, 401);
    let chat = json!({"model": "none", "messages": [{"role": "user", "content": "a"}]});
    for (key, method, path, body, status) in [
        ("boss", "GET", "/v1/models", None, 200),
        ("chat", "GET", "/v1/models", None, 200),
        ("look", "GET", "/v1/models", None, 200),
        ("other", "GET", "/v1/models", None, 401),
        ("chat", "POST", "/v1/chat/completions", Some(chat.clone()), 404),
        ("look", "POST", "/v1/chat/completions", Some(chat), 403),
        ("chat", "GET", "/v1/threads", None, 403),
        ("look", "GET", "/v1/threads", None, 200),
        ("look", "PATCH", "/v1/configs", Some(json!({"api_keys": []})), 403),
        ("chat", "GET", "/inferences/server/models", None, 403),
    ] {
        let (found, answer) = with_key(&daemon, method, path, key, body).await;
        assert_eq!(found, status, "{key} {method} {path}: {answer}");
        if status == 403 {
            assert!(answer["message"].as_str().unwrap().contains("`manage`"), "{answer}");
        }
    }
    // The command line of the same user needs none of them.
    let listed = daemon.cli(&["models", "list"]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let token = fs_err::read_to_string(daemon.data().join("state/token")).unwrap();
    let (status, _) = with_key(&daemon, "PATCH", "/v1/configs", &token, Some(json!({"api_keys": []}))).await;
    assert_eq!(status, 200);
    assert_eq!(get(&daemon, "/v1/models").await.0, 200);
}

#[tokio::test]
async fn origins_and_the_hub_s_token_change_at_once() {
    let hub = FakeHub::start();
    let environment = vec![("HF_ENDPOINT".to_owned(), hub.url().into())];
    let arguments = vec!["--allowed_origins".into(), "http://first:1".into()];
    let daemon = TestDaemon::with(Options { environment, arguments, ..Options::default() });
    let allowed = async |origin: &str| {
        let answer = client().get(daemon.url("/healthz")).header("origin", origin).send().await.unwrap();
        answer.headers().contains_key("access-control-allow-origin")
    };
    assert!(allowed("http://first:1").await && !allowed("http://second:2").await);
    // What is said now counts more than the command line of the start.
    send(&daemon, "PATCH", "/v1/configs", Some(&json!({"allowed_origins": ["http://second:2"]}))).await;
    assert!(!allowed("http://first:1").await && allowed("http://second:2").await);
    send(&daemon, "PATCH", "/v1/configs", Some(&json!({"cors": false}))).await;
    assert!(!allowed("http://second:2").await);
    let search = "/v1/models/hub?author=somebody";
    get(&daemon, search).await;
    assert_eq!(hub.seen().last().and_then(|seen| seen.authorization.clone()), None);
    send(&daemon, "PATCH", "/v1/configs", Some(&json!({"huggingface_token": "hf_new"}))).await;
    get(&daemon, "/v1/models/hub?author=another").await;
    assert_eq!(hub.seen().last().and_then(|seen| seen.authorization.clone()).as_deref(), Some("Bearer hf_new"));
}
