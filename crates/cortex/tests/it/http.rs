//! A small client.

use cortex_test::{daemon::TestDaemon, dist};
use futures::StreamExt;
use serde_json::{Value, json};

pub(crate) const MODEL: &str = "smollm2:135m";

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub(crate) async fn post(daemon: &TestDaemon, path: &str, body: &Value) -> (u16, Value) {
    let answer = client().post(daemon.url(path)).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

pub(crate) async fn get(daemon: &TestDaemon, path: &str) -> (u16, Value) {
    let answer = client().get(daemon.url(path)).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Asks again until the answer is as it should be.
pub(crate) async fn until(daemon: &TestDaemon, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let (_, body) = get(daemon, path).await;
            if is_so(&body) {
                return body;
            }
            tokio::task::yield_now().await;
        }
    };
    if let Ok(body) = tokio::time::timeout(std::time::Duration::from_secs(20), asking).await {
        return body;
    }
    panic!("{path} still says {}", get(daemon, path).await.1)
}

/// Takes the small model in.
pub(crate) async fn import(daemon: &TestDaemon) {
    let (status, body) = post(daemon, "/v1/models/import", &json!({"model": MODEL, "modelPath": dist::model()})).await;
    assert_eq!(status, 200, "{body}");
}

pub(crate) fn question(text: &str) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 48})
}

/// The events of a stream, as they come.
pub(crate) struct Events {
    body: futures::stream::BoxStream<'static, reqwest::Result<Vec<u8>>>,
    buffer: String,
}

impl Events {
    pub(crate) async fn open(daemon: &TestDaemon, body: &Value) -> (u16, Self) {
        let answer = client().post(daemon.url("/v1/chat/completions")).json(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.bytes_stream().map(|piece| piece.map(|bytes| bytes.to_vec())).boxed();
        (status, Self { body, buffer: String::new() })
    }

    /// The data of the next event; `None` at the end of the body, also when that breaks off.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.find('\n') {
                let line: String = self.buffer.drain(..=end).collect();
                if let Some(data) = line.trim_end().strip_prefix("data: ") {
                    return Some(data.to_owned());
                }
                continue;
            }
            let piece = self.body.next().await?.ok()?;
            self.buffer.push_str(&String::from_utf8(piece).unwrap());
        }
    }

    pub(crate) async fn rest(mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

/// The text, finish reason and usage of a stream.
pub(crate) fn fold(events: &[String]) -> (String, Option<String>, Option<Value>) {
    let mut text = String::new();
    let (mut reason, mut usage) = (None, None);
    for event in events {
        let Ok(event) = serde_json::from_str::<Value>(event) else { continue };
        text.push_str(event["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        reason = event["choices"][0]["finish_reason"].as_str().map(str::to_owned).or(reason);
        usage = event.get("usage").filter(|usage| !usage.is_null()).cloned().or(usage);
    }
    (text, reason, usage)
}
