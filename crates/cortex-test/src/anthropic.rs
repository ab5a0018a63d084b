//! A strict fake of Anthropic's `POST /v1/messages` and `GET /v1/models`: it refuses what the real one refuses, as its reference
//! says, and answers with what it was asked.
//!
//! What it leaves out: batches, files, documents, citations, limits of rates, and everything behind a `beta` header.

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::stream;
use serde_json::{Map, Value, json};
use std::{
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};
use tokio::sync::oneshot;

/// Fields of a request that are known.
const FIELDS: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "system",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "stream",
    "metadata",
    "tools",
    "tool_choice",
];

#[derive(Default)]
struct Shared {
    key: String,
    seen: Mutex<Vec<Value>>,
}

/// A running fake; dropping it ends it.
pub struct FakeAnthropic {
    shared: Arc<Shared>,
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeAnthropic {
    /// Starts one that takes this key, on a free port.
    ///
    /// # Panics
    /// When this machine has no port or no thread for it.
    pub fn start(key: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let shared = Arc::new(Shared { key: key.to_owned(), seen: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let router = Router::new()
            .route("/v1/messages", post(messages))
            .route("/v1/models", get(models))
            .with_state(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("fake-anthropic".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    listener.set_nonblocking(true).expect("a socket");
                    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                    let serving = axum::serve(listener, router).into_future();
                    futures::future::select(std::pin::pin!(serving), stopped).await;
                });
            })
            .expect("a thread");
        Self { shared, url, stop: Some(stop), thread: Some(thread) }
    }

    /// Its address, without a path.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bodies that it took.
    pub fn seen(&self) -> Vec<Value> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeAnthropic {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A refusal in its words.
fn refused(status: u16, kind: &str, message: &str) -> Response {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}});
    (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
}

fn check_headers(shared: &Shared, headers: &HeaderMap) -> Result<(), Box<Response>> {
    let of = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if of("x-api-key") != shared.key {
        let message = format!("invalid x-api-key {}", of("x-api-key"));
        return Err(refused(401, "authentication_error", &message).into());
    }
    if of("anthropic-version") != "2023-06-01" {
        return Err(refused(400, "invalid_request_error", "anthropic-version: header is required").into());
    }
    if headers.contains_key(header::AUTHORIZATION) {
        return Err(refused(400, "invalid_request_error", "authorization: not expected").into());
    }
    Ok(())
}

async fn models(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = check_headers(&shared, &headers) {
        return *refusal;
    }
    let model =
        json!({"type": "model", "id": "claude-test", "display_name": "Test", "created_at": "2025-01-01T00:00:00Z"});
    Json(json!({"data": [model], "has_more": false, "first_id": "claude-test", "last_id": "claude-test"}))
        .into_response()
}

async fn messages(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refusal) = check_headers(&shared, &headers) {
        return *refusal;
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return refused(400, "invalid_request_error", "content-type must be application/json");
    }
    let request: Map<String, Value> = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refused(400, "invalid_request_error", &error.to_string()),
    };
    if let Err(why) = check(&request) {
        return refused(400, "invalid_request_error", &why);
    }
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone().into());
    match request["model"].as_str() {
        Some("overloaded") => return refused(529, "overloaded_error", "Overloaded"),
        Some("busy") => {
            let mut refusal = refused(429, "rate_limit_error", "slow down");
            refusal.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("7"));
            return refusal;
        }
        _ => {}
    }
    let last = request["messages"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
    let text = last["content"][0]["text"].as_str().or(last["content"].as_str()).unwrap_or("a tool").to_owned();
    let calls = request.get("tools").is_some() && last["content"][0]["type"] != "tool_result";
    if request.get("stream") == Some(&json!(true)) {
        streamed(&request, &text, calls)
    } else {
        whole(&request, &text, calls)
    }
}

/// What a request must be.
fn check(request: &Map<String, Value>) -> Result<(), String> {
    if let Some(unknown) = request.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(format!("{unknown}: Extra inputs are not permitted"));
    }
    if request.get("model").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("model: Field required".into());
    }
    if request.get("max_tokens").and_then(Value::as_u64).is_none_or(|most| most == 0) {
        return Err("max_tokens: Field required".into());
    }
    if request.get("temperature").is_some_and(|it| it.as_f64().is_none_or(|number| !(0.0..=1.0).contains(&number))) {
        return Err("temperature: range: 0..1".into());
    }
    if request.get("system").is_some_and(|it| !it.is_string() && !it.is_array()) {
        return Err("system: Input should be a valid string".into());
    }
    let messages = request.get("messages").and_then(Value::as_array).filter(|all| !all.is_empty());
    let messages = messages.ok_or("messages: at least one message is required")?;
    let mut calls: Vec<&Value> = vec![];
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if role != "user" && role != "assistant" {
            return Err(format!("messages.{at}.role: Input should be 'user' or 'assistant'"));
        }
        if at == 0 && role != "user" {
            return Err("messages: first message must use the \"user\" role".into());
        }
        let content = &message["content"];
        if content.as_str().is_some_and(str::is_empty) || content.as_array().is_some_and(Vec::is_empty) {
            return Err(format!("messages.{at}: must have non-empty content"));
        }
        let mut results = vec![];
        for block in content.as_array().into_iter().flatten() {
            match block["type"].as_str().unwrap_or_default() {
                "text" if block["text"].as_str().is_some_and(|text| !text.is_empty()) => {}
                "image" if matches!(block["source"]["type"].as_str(), Some("base64" | "url")) => {}
                "tool_use" if role == "assistant" && block["input"].is_object() && block["id"].is_string() => {
                    calls.push(&block["id"]);
                }
                "tool_result" if role == "user" && block["tool_use_id"].is_string() => {
                    results.push(&block["tool_use_id"]);
                }
                other => return Err(format!("messages.{at}.content: a block `{other}` is not valid")),
            }
        }
        if role == "user" && !calls.is_empty() && calls.iter().any(|call| !results.contains(call)) {
            return Err("`tool_use` ids were found without `tool_result` blocks immediately after".into());
        }
        if role == "user" {
            calls.clear();
        }
    }
    for tool in request.get("tools").and_then(Value::as_array).into_iter().flatten() {
        if !tool["name"].is_string() || tool["input_schema"]["type"] != "object" {
            return Err("tools.0.input_schema: Field required".into());
        }
    }
    Ok(())
}

fn whole(request: &Map<String, Value>, text: &str, calls: bool) -> Response {
    let mut content = vec![json!({"type": "text", "text": format!("You said: {text}")})];
    if calls {
        content.push(
            json!({"type": "tool_use", "id": "toolu_1", "name": request["tools"][0]["name"], "input": {"of": text}}),
        );
    }
    let reason = if calls { "tool_use" } else { "end_turn" };
    Json(json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": request["model"], "content": content,
        "stop_reason": reason, "stop_sequence": null, "usage": {"input_tokens": 11, "output_tokens": 5},
    }))
    .into_response()
}

fn streamed(request: &Map<String, Value>, text: &str, calls: bool) -> Response {
    let mut events = vec![
        json!({"type": "message_start", "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": request["model"], "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 11, "output_tokens": 1},
        }}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
    ];
    for word in ["You said: ", text] {
        let delta = json!({"type": "text_delta", "text": word});
        events.push(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
    }
    events.push(json!({"type": "content_block_stop", "index": 0}));
    if calls {
        let block = json!({"type": "tool_use", "id": "toolu_1", "name": request["tools"][0]["name"], "input": {}});
        events.push(json!({"type": "content_block_start", "index": 1, "content_block": block}));
        for part in ["{\"of\":", "\"it\"}"] {
            let delta = json!({"type": "input_json_delta", "partial_json": part});
            events.push(json!({"type": "content_block_delta", "index": 1, "delta": delta}));
        }
        events.push(json!({"type": "content_block_stop", "index": 1}));
    }
    if request["model"] == "breaks" {
        events.push(json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}));
    } else {
        let reason = if calls { "tool_use" } else { "end_turn" };
        events.push(json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": {"output_tokens": 5}}));
        events.push(json!({"type": "message_stop"}));
    }
    let pieces = events.into_iter().map(|event| {
        let kind = event["type"].as_str().unwrap_or_default();
        Ok::<_, std::convert::Infallible>(format!("event: {kind}\ndata: {event}\n\n"))
    });
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(stream::iter(pieces)))
        .into_response()
}
