//! Jan's own calls in Jan's order, with its literal bodies and headers, read as Jan reads them: the Tauri app of 2025, whose start hands
//! a key over on the command line.

use crate::http::client;
use cortex_test::{
    daemon::{Options, TestDaemon},
    dist,
    gguf::GgufBuilder,
    hub::{FakeHub, Faults},
};
use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};
use std::{ffi::OsString, path::Path, time::Duration};
use tokio_tungstenite::tungstenite::Message;

const TOKEN: &str = "8f2b1c9e-random-per-run";
const ORIGINS: &str = "http://localhost:3000,http://localhost:1420,tauri://localhost,http://tauri.localhost";
const MODEL: &str = "menlo:smollm2:smollm2-135m-q4_1.gguf";

struct Jan {
    daemon: TestDaemon,
}

impl Jan {
    fn spawn(hub: &FakeHub, data: &Path) -> Self {
        let arguments = [
            "--start-server",
            "--loglevel",
            "DEBUG",
            "--cors",
            "ON",
            "--allowed_origins",
            ORIGINS,
            "config",
            "--api_keys",
            TOKEN,
        ];
        let daemon = TestDaemon::with(Options {
            arguments: arguments.map(OsString::from).to_vec(),
            environment: vec![("HF_ENDPOINT".into(), OsString::from(hub.url()))],
            settings: Some(format!("allowedDownloadHosts: ['{}']\n", hub.content_url())),
            data: Some(data.to_owned()),
            ..Options::default()
        });
        Self { daemon }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        client()
            .request(method.parse().unwrap(), self.daemon.url(path))
            .bearer_auth(TOKEN)
            .header("accept", "application/json")
    }

    /// What its HTTP library gives it: the JSON of a good answer, or the error's `message`.
    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        let mut request = self.request(method, path).timeout(Duration::from_secs(10));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let json: Value = answer.json().await.expect("every answer is JSON");
        assert!(status.as_u16() != 500, "{method} {path} would be asked ten times more: {json}");
        if status.is_success() { Ok(json) } else { Err(json["message"].as_str().expect("a message").to_owned()) }
    }

    async fn good(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.call(method, path, body).await.unwrap_or_else(|message| panic!("{method} {path}: {message}"))
    }

    async fn socket(&self) -> impl futures::Stream<Item = Value> + Unpin + use<> {
        // The WebSocket of a browser carries no key.
        let (socket, _) =
            tokio_tungstenite::connect_async(format!("ws://{}/events", self.daemon.address)).await.unwrap();
        Box::pin(socket.filter_map(async |message| match message {
            Ok(Message::Text(text)) => Some(serde_json::from_str::<Value>(&text).expect("every frame is JSON")),
            _ => None,
        }))
    }
}

/// The frames of a task, read as Jan reads them, up to its end.
async fn until_over(frames: &mut (impl futures::Stream<Item = Value> + Unpin), id: &str) -> String {
    loop {
        let frame = frames.next().await.expect("a frame that ends it");
        let items = frame["task"]["items"].as_array().expect("every frame has items");
        let sum = |key: &str| items.iter().map(|item| item[key].as_u64().expect("a number")).sum::<u64>();
        assert!(sum("downloadedBytes") <= sum("bytes"));
        assert!(frame["task"]["type"].is_string());
        let kind = frame["type"].as_str().unwrap();
        if frame["task"]["id"] == id && !matches!(kind, "DownloadStarted" | "DownloadUpdated") {
            return kind.to_owned();
        }
    }
}

async fn start_up(jan: &Jan) {
    assert!(client().get(jan.daemon.url("/healthz")).send().await.unwrap().status().is_success());
    // A burst, all at the same time.
    let burst = [
        ("PATCH", "/v1/configs", Some(json!({"proxy_url": "", "verify_peer_ssl": false}))),
        ("PATCH", "/v1/configs", Some(json!({"huggingface_token": ""}))),
        ("GET", "/v1/configs", None),
        ("GET", "/v1/models?limit=-1", None),
        ("GET", "/v1/models/sources", None),
        ("GET", "/v1/models/hub?author=cortexso&tag=cortex.cpp", None),
        ("GET", "/v1/engines", None),
        ("GET", "/v1/engines/llama-cpp", None),
        ("GET", "/v1/hardware", None),
        ("GET", "/v1/threads?limit=-1", None),
    ];
    let answers = join_all(burst.iter().map(|(method, path, body)| jan.call(method, path, body.clone()))).await;
    let of = |at: usize| answers[at].as_ref().unwrap_or_else(|message| panic!("{}: {message}", burst[at].1));
    assert_eq!(of(0)["config"]["proxy_url"], "");
    assert!(of(2)["huggingface_token"].is_string());
    for at in [3, 4, 5, 9] {
        assert!(of(at)["data"].is_array(), "{}", burst[at].1);
    }
    let engine = &of(6)["llama-cpp"][0];
    assert!(["engine", "name", "version"].iter().all(|key| engine[key].is_string()), "{engine}");
    assert_eq!(of(6)["llama-cpp"], *of(7));
    // Without the key, or with another one.
    assert_eq!(client().get(jan.daemon.url("/v1/models")).send().await.unwrap().status().as_u16(), 401);
    assert_eq!(
        client().get(jan.daemon.url("/v1/models")).bearer_auth("x").send().await.unwrap().status().as_u16(),
        401
    );
    // A page of the app asks first, with a header that is none of a request.
    let wanted = "authorization,content-type,access-control-allow-origin";
    let preflight = client()
        .request("OPTIONS".parse().unwrap(), jan.daemon.url("/v1/chat/completions"))
        .header("origin", "http://localhost:1420")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", wanted)
        .send()
        .await
        .unwrap();
    assert!(preflight.status().is_success());
    assert_eq!(preflight.headers()["access-control-allow-origin"], "http://localhost:1420");
    assert_eq!(preflight.headers()["access-control-allow-headers"], wanted);
}

async fn hardware_and_engines(jan: &Jan) {
    for _ in 0..3 {
        let hardware = jan.good("GET", "/v1/hardware", None).await;
        for (part, keys) in [
            ("cpu", vec!["arch", "cores", "instructions", "model", "usage"]),
            ("os", vec!["name", "version"]),
            ("power", vec!["battery_life", "charging_status", "is_power_saving"]),
            ("ram", vec!["total", "available", "type"]),
            ("storage", vec![]),
        ] {
            assert!(keys.iter().all(|key| !hardware[part][key].is_null()), "{part}: {hardware}");
        }
        assert!(
            hardware["gpus"].is_array() && hardware["ram"]["total"].as_u64() > hardware["ram"]["available"].as_u64()
        );
    }
    let default = jan.good("GET", "/v1/engines/llama-cpp/default", None).await;
    let (variant, version) = (default["variant"].as_str().unwrap(), default["version"].as_str().unwrap());
    let latest = jan.good("GET", "/v1/engines/llama-cpp/releases/latest", None).await;
    let of_platform =
        latest.as_array().unwrap().iter().find(|it| it["name"].as_str().unwrap().contains("linux-")).unwrap();
    assert!(of_platform["created_at"].is_string() && of_platform["size"].is_number());
    let install = json!({"variant": variant, "version": version});
    jan.good("POST", "/v1/engines/llama-cpp/install", Some(install.clone())).await;
    jan.good("POST", "/v1/engines/llama-cpp/default", Some(install)).await;
    assert!(jan.call("POST", "/v1/engines/llama-cpp/update", None).await.unwrap_err().contains("already up-to-date"));
    // An engine on another machine, as Jan describes OpenAI's.
    let metadata = json!({
        "get_models_url": "http://127.0.0.1:1/v1/models",
        "header_template": "Authorization: Bearer {{api_key}}",
        "transform_req": {"chat_completions": {"url": "http://127.0.0.1:1/v1/chat/completions", "template": "{ {% set first = true %} {% for key, value in input_request %} {% if key == \"messages\" or key == \"model\" %} {% if not first %},{% endif %} \"{{ key }}\": {{ tojson(value) }} {% set first = false %} {% endif %} {% endfor %} }"}},
        "transform_resp": {"chat_completions": {"template": "{ {%- set first = true -%} {%- for key, value in input_request -%} {%- if key == \"id\" or key == \"choices\" -%} {%- if not first -%},{%- endif -%} \"{{ key }}\": {{ tojson(value) }} {%- set first = false -%} {%- endif -%} {%- endfor -%} }"}},
    });
    let engine = json!({"id": "openai", "engine": "openai", "type": "remote", "url": "https://platform.openai.com", "api_key": "", "metadata": metadata});
    jan.good("POST", "/v1/engines", Some(engine)).await;
    let remote = jan.good("GET", "/v1/engines", None).await["openai"][0].clone();
    assert_eq!(
        (&remote["type"], &remote["metadata"]["get_models_url"]),
        (&json!("remote"), &json!("http://127.0.0.1:1/v1/models"))
    );
    jan.good("POST", "/v1/engines/openai/update", Some(json!({"api_key": "sk-x"}))).await;
    assert!(jan.call("GET", "/v1/models/remote/openai", None).await.is_err());
    let model = json!({
        "id": "gpt-4o", "model": "gpt-4o", "object": "model", "engine": "openai", "version": "1.0",
        "inference_params": {"max_tokens": 4096, "temperature": 0.7, "top_p": 0.95, "stream": true, "frequency_penalty": 0, "presence_penalty": 0},
    });
    jan.good("POST", "/v1/models/add", Some(model)).await;
}

async fn models(jan: &Jan, hub: &FakeHub) {
    jan.good("POST", "/v1/models/sources", Some(json!({"source": "https://huggingface.co/maker/tiny-GGUF"}))).await;
    let sources = jan.good("GET", "/v1/models/sources", None).await;
    let source = &sources["data"][0];
    assert!(source["metadata"]["siblings"].is_array() && source["models"][0]["size"].is_number(), "{source}");
    // A pull, and one that is stopped: the task's id is the id that was sent.
    let mut frames = jan.socket().await;
    let pull = |file: &str, id: &str| json!({"model": format!("https://huggingface.co/maker/tiny-GGUF/resolve/main/{file}"), "id": id, "name": "Tiny"});
    jan.good("POST", "/v1/models/pull", Some(pull("tiny-Q4_K_M.gguf", "tiny:q4"))).await;
    assert_eq!(until_over(&mut frames, "tiny:q4").await, "DownloadSuccess");
    let list = jan.good("GET", "/v1/models?limit=-1", None).await;
    assert!(
        list["data"].as_array().unwrap().iter().any(|model| model["id"] == "tiny:q4"),
        "it is there with the frame"
    );
    hub.set_faults(Faults { bytes_per_second: Some(1 << 20), ..Faults::default() });
    jan.good("POST", "/v1/models/pull", Some(pull("tiny-large.gguf", "tiny:large"))).await;
    let stopped = jan.good("DELETE", "/v1/models/pull", Some(json!({"taskId": "tiny:large"}))).await;
    assert_eq!(stopped["taskId"], "tiny:large");
    assert_eq!(until_over(&mut frames, "tiny:large").await, "DownloadStopped");
    assert!(
        jan.call("POST", "/v1/models/pull", Some(json!({"model": "nonsense", "id": "x", "name": ""}))).await.is_err()
    );
    // What the old app has is imported, and again; then its settings follow, flat.
    let import = json!({"model": MODEL, "modelPath": dist::model(), "name": "SmolLM2", "option": "symlink"});
    jan.good("POST", "/v1/models/import", Some(import.clone())).await;
    jan.good("POST", "/v1/models/import", Some(import)).await;
    let settings = json!({
        "id": MODEL, "ctx_len": 2048, "ngl": 33, "prompt_template": "<|im_start|>system\n{system_message}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        "llama_model_path": dist::model(), "temperature": 0.7, "top_p": 0.95, "stream": true, "max_tokens": 1024, "stop": ["<|im_end|>"],
        "frequency_penalty": 0, "presence_penalty": 0, "vision_model": false, "text_model": false,
    });
    let path = format!("/v1/models/{MODEL}");
    jan.good("PATCH", &path, Some(settings)).await;
    let model = jan.good("GET", &path, None).await;
    assert_eq!(
        (&model["id"], &model["model"], &model["engine"], &model["name"]),
        (&json!(MODEL), &json!(MODEL), &json!("llama-cpp"), &json!("SmolLM2"))
    );
    assert_eq!(
        (&model["ctx_len"], &model["stop"], &model["max_tokens"]),
        (&json!(2048), &json!(["<|im_end|>"]), &json!(1024))
    );
    assert!(model["size"].as_u64() > Some(90_000_000) && model["files"].is_array() && model["status"] == "downloaded");
    assert!((model["temperature"].as_f64().unwrap() - 0.7).abs() < 1e-9 && model["ngl"].is_number(), "{model}");
}

async fn chats(jan: &Jan) {
    let start = json!({
        "model": MODEL, "engine": "llama-cpp", "ctx_len": 2048, "ngl": 33, "prompt_template": "", "cont_batching": true, "n_parallel": 1,
        "caching_enabled": true, "flash_attn": true, "cache_type": "f16", "use_mmap": true, "cpu_threads": 1,
    });
    jan.good("POST", "/v1/models/start", Some(start.clone())).await;
    jan.good("POST", "/v1/models/start", Some(start)).await;
    jan.good("GET", &format!("/v1/models/status/{MODEL}"), None).await;
    assert!(jan.call("GET", "/v1/models/status/tiny:q4", None).await.is_err());
    let running = jan.good("GET", "/inferences/server/models", None).await;
    assert_eq!((&running["data"][0]["id"], &running["data"][0]["engine"]), (&json!(MODEL), &json!("llama-cpp")));
    let chat = |tokens: u32| {
        json!({"messages": [{"role": "user", "content": "What is the capital of France?"}], "model": MODEL, "stream": true, "engine": "llama-cpp",
            "temperature": 0, "top_p": 0.95, "max_tokens": tokens, "frequency_penalty": 0, "presence_penalty": 0, "stop": ["<|im_end|>"]})
    };
    let send = async |body: &Value| {
        let request = jan.request("POST", "/v1/chat/completions").header("accept", "text/event-stream");
        let request =
            request.header("access-control-allow-origin", "*").header("origin", "http://tauri.localhost").json(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["access-control-allow-origin"], "http://tauri.localhost");
        answer.bytes_stream()
    };
    // Its parser: each piece that arrives is split into lines, the first `data: ` goes, the rest is JSON.
    let mut pieces = send(&chat(40)).await;
    let (mut text, mut events) = (String::new(), 0);
    while let Some(piece) = pieces.next().await {
        for line in String::from_utf8(piece.unwrap().to_vec()).unwrap().split('\n') {
            let line = line.replacen("data: ", "", 1);
            if line.trim().is_empty() || line.contains("[DONE]") {
                continue;
            }
            let chunk: Value = serde_json::from_str(&line).expect("a line is whole");
            assert!(["error", "message", "detail"].iter().all(|key| chunk.get(key).is_none()), "{chunk}");
            text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
            events += 1;
        }
    }
    assert!(events > 3 && !text.is_empty(), "{text}");
    // Stop: the connection goes.
    let mut pieces = send(&chat(2000)).await;
    pieces.next().await.unwrap().unwrap();
    drop(pieces);
    let free = async {
        while jan.good("GET", "/inferences/server/models", None).await["data"][0]["requests"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), free).await.expect("the answer ends with its connection");
    let message = jan
        .call(
            "POST",
            "/v1/chat/completions",
            Some(json!({"model": "gone", "messages": [{"role": "user", "content": "a"}]})),
        )
        .await;
    assert!(message.unwrap_err().contains("gone"));
}

async fn conversations(jan: &Jan) -> String {
    let assistant = json!({"assistant_id": "jan", "assistant_name": "Jan", "instructions": "", "tools": [], "model": {"id": MODEL, "settings": {}, "parameters": {}, "engine": "llama-cpp"}});
    let thread = json!({"id": "jan_1712", "object": "thread", "title": "New Thread", "assistants": [assistant.clone()], "created": 1, "updated": 1, "metadata": {"title": "New Thread", "updated_at": 1}});
    let id = jan.good("POST", "/v1/threads", Some(thread)).await["id"].as_str().unwrap().to_owned();
    jan.good("POST", &format!("/v1/assistants/{id}"), Some(assistant.clone())).await;
    jan.good("PATCH", &format!("/v1/assistants/{id}"), Some(assistant)).await;
    assert_eq!(jan.good("GET", &format!("/v1/assistants/{id}?limit=-1"), None).await["model"]["id"], MODEL);
    let messages = format!("/v1/threads/{id}/messages");
    let content = json!([{"type": "text", "text": {"value": "Hello", "annotations": []}}]);
    jan.good("POST", &messages, Some(json!({"role": "user", "content": content, "metadata": {}}))).await;
    let listed = jan.good("GET", &format!("{messages}?order=asc&limit=-1"), None).await;
    assert_eq!(listed["data"][0]["content"], content);
    let message = listed["data"][0]["id"].as_str().unwrap();
    jan.good(
        "PATCH",
        &format!("{messages}/{message}"),
        Some(json!({"content": content, "metadata": {"edited": true}})),
    )
    .await;
    jan.good("PATCH", &format!("/v1/threads/{id}"), Some(json!({"metadata": {"title": "Hello", "updated_at": 2}})))
        .await;
    id
}

#[tokio::test]
async fn jan_starts_works_and_starts_again() {
    let hub = FakeHub::start();
    let tiny = |rows: u64| GgufBuilder::llama().tensor("padding", vec![32, rows]).build();
    hub.add_file("maker/tiny-GGUF", "main", "tiny-Q4_K_M.gguf", tiny(60_000));
    hub.add_file("maker/tiny-GGUF", "main", "tiny-large.gguf", tiny(900_000));
    let data = tempfile::tempdir().unwrap();
    // Before it spawns, it ends what was left: nothing is there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(client().delete(format!("http://{nobody}/processmanager/destroy")).send().await.is_err());
    let mut jan = Jan::spawn(&hub, data.path());
    start_up(&jan).await;
    hardware_and_engines(&jan).await;
    models(&jan, &hub).await;
    chats(&jan).await;
    let thread = conversations(&jan).await;
    let mut frames = jan.socket().await;
    jan.good("POST", "/v1/models/stop", Some(json!({"model": MODEL}))).await;
    jan.good("DELETE", "/v1/models/tiny:q4", None).await;
    // A reload of the window: it ends within two seconds, with exit code 0, and its sockets with it.
    let destroy = |jan: &Jan| {
        let request = client().delete(jan.daemon.url("/processmanager/destroy")).timeout(Duration::from_secs(2));
        async move { request.send().await.map(|answer| answer.status().is_success()) }
    };
    assert!(matches!(destroy(&jan).await, Ok(true)));
    assert_eq!(jan.daemon.wait(), Some(0));
    assert!(destroy(&jan).await.is_err());
    while frames.next().await.is_some() {}
    // The watchdog spawns it again: everything is as it was.
    let again = Jan::spawn(&hub, data.path());
    let list = again.good("GET", "/v1/models?limit=-1", None).await;
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str()).collect();
    assert!(ids.contains(&MODEL) && ids.contains(&"gpt-4o") && !ids.contains(&"tiny:large"), "{ids:?}");
    assert_eq!(again.good("GET", "/v1/threads?limit=-1", None).await["data"][0]["id"], thread.as_str());
    again.good("DELETE", &format!("/v1/threads/{thread}"), None).await;
    assert!(!again.daemon.log().contains(TOKEN) && !again.daemon.log().contains("sk-x"));
}
