//! The answers of cortex.cpp, row by row: statuses and words that its clients know. What needs a model, a hub or another machine is
//! tested beside those.

use crate::http::{client, get, import, post};
use cortex_test::daemon::{Options, TestDaemon};
use serde_json::{Value, json};

/// Method, path, body, status, and what the message begins with.
type Row = (&'static str, &'static str, Option<Value>, u16, &'static str);

fn rows_of_models() -> Vec<Row> {
    vec![
        ("POST", "/v1/models/pull", Some(json!({})), 409, "No model field in request body"),
        ("POST", "/models/pull/info", Some(json!({})), 409, "No model field in request body"),
        ("DELETE", "/models/pull", Some(json!({})), 409, "No taskId field in request body"),
        ("DELETE", "/v1/models/pull", Some(json!({"taskId": "x"})), 400, "Task not found"),
        ("POST", "/v1/models/import", Some(json!({"model": "x"})), 409, "No modelPath field in request body"),
        ("POST", "/models/import", Some(json!({"modelPath": "/x"})), 409, "No model field in request body"),
        (
            "POST",
            "/v1/models/import",
            Some(json!({"model": "x", "modelPath": "/dev/null"})),
            400,
            "Error importing model path '/dev/null' with model_id 'x': ",
        ),
        ("PATCH", "/v1/models/none", Some(json!({"top_p": 1})), 400, "Error updating with model_id 'none': "),
        ("DELETE", "/v1/models/none", None, 400, "Model not found: none"),
        ("GET", "/v1/models/none", None, 404, "the model `none` is not known"),
        ("POST", "/v1/models/start", Some(json!({})), 409, "No model field in request body"),
        ("POST", "/v1/models/start", Some(json!({"model": "none"})), 400, "the model `none` is not known"),
        ("POST", "/models/stop", Some(json!({})), 409, "No model field in request body"),
        ("POST", "/v1/models/stop", Some(json!({"model": "none"})), 400, "the model `none` is not known"),
        ("GET", "/v1/models/status/none", None, 400, "the model `none` is not known"),
        ("POST", "/v1/models/add", Some(json!({"engine": "x"})), 409, "No model field in request body"),
        ("POST", "/models/add", Some(json!({"model": "x"})), 409, "No engine field in request body"),
        (
            "POST",
            "/v1/models/add",
            Some(json!({"model": "m", "engine": "none"})),
            400,
            "Remote engine 'none' is not installed",
        ),
        ("GET", "/v1/models/remote/none", None, 400, "Remote engine 'none' is not installed"),
        ("GET", "/models/remote/llama-cpp", None, 400, "Not a remote engine: llama-cpp"),
        ("POST", "/v1/models/sources", Some(json!({})), 409, "No source field in request body"),
        ("DELETE", "/models/sources", Some(json!({"source": "x"})), 400, "Model source does not exist: x"),
        ("POST", "/v1/chat/completions", None, 400, "Body can't be empty"),
        (
            "POST",
            "/v1/chat/completions",
            Some(json!({"model": "none", "messages": []})),
            404,
            "the model `none` is not known",
        ),
        ("POST", "/v1/embeddings", Some(json!({"model": "none", "input": "x"})), 404, "the model `none` is not known"),
        (
            "POST",
            "/inferences/server/embedding",
            Some(json!({"model": "none", "input": "x"})),
            404,
            "the model `none` is not known",
        ),
        (
            "POST",
            "/inferences/server/modelstatus",
            Some(json!({"model": "none"})),
            400,
            "Model is not loaded yet: none",
        ),
    ]
}

fn rows_of_others() -> Vec<Row> {
    vec![
        ("POST", "/v1/engines", Some(json!({})), 409, "No engine field in request body"),
        ("POST", "/engines/engines", Some(json!({"engine": "x"})), 400, "Engine name, type are required"),
        (
            "GET",
            "/v1/engines/llama-cpp/releases/latest?show=x",
            None,
            400,
            "Invalid show value. Can either be `all` or `compatible` ",
        ),
        ("POST", "/v1/engines/none/update", None, 400, "Remote engine 'none' is not installed"),
        ("POST", "/v1/engines/none/load", None, 400, "Remote engine 'none' is not installed"),
        ("POST", "/v1/hardware/activate", Some(json!({})), 409, "No gpus field in request body"),
        ("POST", "/hardware/hardware/activate", Some(json!({"gpus": [9]})), 400, "Invalid GPU index provided."),
        ("PATCH", "/v1/configs", Some(json!({})), 400, "No configuration updated"),
        ("PATCH", "/configs", None, 400, "Configuration must be provided via JSON body"),
        (
            "POST",
            "/v1/threads",
            Some(json!({"metadata": 1})),
            400,
            "Failed to convert metadata to map: Input json is not an object",
        ),
        ("PATCH", "/v1/threads/none", Some(json!({})), 400, "Metadata can't be empty"),
        ("GET", "/v1/threads/none", None, 400, "Path does not exist: "),
        ("POST", "/v1/assistants/none", Some(json!({})), 400, "Path does not exist: "),
        ("GET", "/v1/files/none", None, 400, "File not found: none"),
        ("GET", "/nothing", None, 404, "there is no route /nothing"),
        ("PUT", "/v1/models", None, 405, "/v1/models is not answered to PUT"),
        ("GET", "/events", None, 400, ""),
    ]
}

#[tokio::test]
async fn answers_are_worded_as_clients_know_them() {
    let daemon = TestDaemon::start();
    for (method, path, body, status, words) in rows_of_models().into_iter().chain(rows_of_others()) {
        let mut request = client().request(method.parse().unwrap(), daemon.url(path));
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let found = answer.status().as_u16();
        let answer: Value = answer.json().await.unwrap();
        let message = answer["message"].as_str().unwrap();
        assert!(found == status && message.starts_with(words), "{method} {path} {body:?}: {found} {answer}");
        // OpenAI's clients read the same.
        assert_eq!(answer["error"]["message"], message, "{method} {path}");
    }
    let (_, unknown) = get(&daemon, "/v1/models/none").await;
    assert_eq!(
        (&unknown["id"], &unknown["object"], &unknown["result"]),
        (&json!("none"), &json!("model"), &json!("Fail to get model information"))
    );
    let (_, added) = post(&daemon, "/v1/models/add", &json!({"model": "m", "engine": "none"})).await;
    assert_eq!((&added["result"], &added["modelHandle"]), (&json!("Add failed!"), &json!("m")));
    let alive = client().get(daemon.url("/HealthZ")).send().await.unwrap();
    assert_eq!((alive.status().as_u16(), alive.text().await.unwrap().as_str()), (200, "cortex-cpp is alive!!!"));
    // `q8`, as Jan writes it.
    import(&daemon).await;
    let start = json!({"model": crate::http::MODEL, "cache_type": "q8", "flash_attn": true});
    assert_eq!(post(&daemon, "/v1/models/start", &start).await.0, 200);
    let loaded = get(&daemon, "/inferences/server/models").await.1;
    assert_eq!(loaded["data"][0]["cache_type"], "q8_0", "{loaded}");
    // The last one: the daemon ends.
    let gone = client().delete(daemon.url("/ProcessManager/Destroy")).send().await.unwrap();
    assert_eq!(gone.json::<Value>().await.unwrap()["message"], "Program is exitting, goodbye!");
}

#[tokio::test]
async fn bodies_have_a_limit_and_refusals_of_keys_can_be_read_by_known_pages() {
    let daemon = TestDaemon::with(Options {
        settings: Some("bodyLimitBytes: 2000\napiKeys: [k]\nallowedOrigins: ['https://app.example']".into()),
        ..Options::default()
    });
    for (origin, key, status, allowed) in [
        ("https://app.example", "", 401, Some("https://app.example")),
        ("https://app.example", "wrong", 401, Some("https://app.example")),
        ("https://app.example", "k", 200, Some("https://app.example")),
        ("https://evil.example", "", 401, None),
        ("https://evil.example", "k", 200, None),
    ] {
        let request = client().get(daemon.url("/v1/models")).header("origin", origin);
        let answer = request.bearer_auth(key).send().await.unwrap();
        let named = answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((answer.status().as_u16(), named.as_deref()), (status, allowed), "{origin} {key}");
        if status == 401 {
            assert_eq!(answer.json::<Value>().await.unwrap()["message"], "Invalid API Key");
        }
    }
    let long = json!({"model": "m", "messages": [{"role": "user", "content": "a".repeat(3000)}]});
    let request = client().post(daemon.url("/v1/chat/completions")).bearer_auth("k").json(&long);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 413);
    assert!(answer.json::<Value>().await.unwrap()["message"].as_str().unwrap().contains("bodyLimitBytes"));
}
