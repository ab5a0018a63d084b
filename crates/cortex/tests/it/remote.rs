//! Engines on other machines: another daemon with the real model, and a strict fake of Anthropic's.

use crate::{
    http::{Events, MODEL, client, fold, get, import, post, question, until},
    registry::send,
};
use cortex_test::{
    anthropic::FakeAnthropic,
    daemon::{Options, TestDaemon},
};
use serde_json::{Value, json};

const KEY: &str = "key-of-the-other";

/// Another daemon, which wants a key and has the model.
async fn other() -> TestDaemon {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    send(&daemon, "PATCH", "/v1/configs", Some(&json!({"api_keys": [KEY]}))).await;
    daemon
}

async fn add_engine(daemon: &TestDaemon, engine: &Value) -> Value {
    let (status, answer) = post(daemon, "/v1/engines", engine).await;
    assert_eq!((status, answer["message"].as_str()), (200, Some("Remote Engine install successfully!")), "{answer}");
    answer
}

#[tokio::test]
async fn a_model_of_another_machine_is_used_as_one_that_is_here() {
    let (there, here) = (other().await, TestDaemon::start());
    let engine = json!({
        "engine": "second", "type": "remote", "api_key": KEY, "url": there.url(""), "version": "1",
        "metadata": {"get_models_url": there.url("/v1/models"), "header_template": "Authorization: Bearer {{api_key}}"},
    });
    assert_eq!(add_engine(&here, &engine).await.get("warning"), None);
    assert_eq!(post(&here, "/engines/engines", &engine).await.0, 400);
    // The key is nowhere to be seen, and in a file for its owner.
    for path in ["/v1/engines", "/v1/engines/second", "/Engines/second"] {
        let (status, shown) = get(&here, path).await;
        assert!(status == 200 && !shown.to_string().contains(KEY) && shown.to_string().contains("********"), "{shown}");
    }
    let file = here.data().join("state/remote.json");
    assert!(fs_err::read_to_string(&file).unwrap().contains(KEY));
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs_err::metadata(&file).unwrap().permissions()) & 0o777, 0o600);
    let (status, list) = get(&here, "/v1/models/remote/second").await;
    assert_eq!((status, list["data"][0]["id"].as_str()), (200, Some(MODEL)));
    // As Jan adds it, under another name.
    let model =
        json!({"id": "far", "model": MODEL, "engine": "second", "inference_params": {"max_tokens": 3, "stream": true}});
    let (status, added) = post(&here, "/v1/models/add", &model).await;
    assert_eq!((status, added["modelHandle"].as_str()), (200, Some("far")), "{added}");
    assert_eq!(post(&here, "/v1/models/add", &model).await.0, 400);
    let (_, listed) = get(&here, "/v1/models?limit=-1").await;
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["engine"], &listed["data"][0]["status"]),
        (&json!("far"), &json!("second"), &json!("remote"))
    );
    // `run` knows it as any other.
    let ran = here
        .cli(&["run", "far", "What is the capital of France?", "--max-tokens", "48", "--temperature", "0"])
        .output();
    let ran = ran.unwrap();
    assert!(ran.status.success() && ran.stdout.len() > 20, "{ran:?}");
    // What the request does not say, the model's parameters do.
    let mut body = question("What is the capital of France?");
    body["model"] = "far".into();
    body["engine"] = "second".into();
    let (status, whole) = post(&here, "/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{whole}");
    let mut direct = body.clone();
    direct["model"] = MODEL.into();
    direct.as_object_mut().unwrap().remove("engine");
    let asked = client().post(there.url("/v1/chat/completions")).bearer_auth(KEY).json(&direct);
    let same: Value = asked.send().await.unwrap().json().await.unwrap();
    assert_eq!(whole["choices"], same["choices"]);
    body.as_object_mut().unwrap().remove("max_tokens");
    let (_, short) = post(&here, "/v1/chat/completions", &body).await;
    assert_eq!(
        (&short["usage"]["completion_tokens"], &short["choices"][0]["finish_reason"]),
        (&json!(3), &json!("length"))
    );
    body["max_tokens"] = 48.into();
    body["stream"] = true.into();
    let (status, events) = Events::open(&here, &body).await;
    let events = events.rest().await;
    assert_eq!(status, 200);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(fold(&events).0, whole["choices"][0]["message"]["content"].as_str().unwrap());
    // A text that goes on, and what that engine refuses.
    let (status, text) =
        post(&here, "/v1/completions", &json!({"model": "far", "prompt": "Once", "max_tokens": 2})).await;
    assert!(status == 200 && text["choices"][0]["text"].is_string(), "{text}");
    let (status, refused) = post(&here, "/v1/embeddings", &json!({"model": "far", "input": "a"})).await;
    assert!(
        status == 400 && refused["message"].as_str().unwrap().contains("the remote engine `second` answered 400"),
        "{refused}"
    );
    // Started and stopped, in words: there is nothing to load.
    assert_eq!(get(&here, "/v1/models/status/far").await.0, 400);
    assert_eq!(post(&here, "/v1/models/start", &json!({"model": "far"})).await.0, 200);
    assert_eq!(get(&here, "/v1/models/status/far").await.0, 200);
    let (_, running) = get(&here, "/inferences/server/models").await;
    assert_eq!((&running["data"][0]["id"], &running["data"][0]["engine"]), (&json!("far"), &json!("second")));
    assert_eq!(post(&here, "/v1/models/stop", &json!({"model": "far"})).await.0, 200);
    let (status, changed) =
        send(&here, "PATCH", "/v1/models/far", Some(&json!({"inference_params": {"max_tokens": 1}}))).await;
    assert_eq!((status, changed["result"].as_str()), (200, Some("Updated successfully!")));
    assert_eq!(get(&here, "/v1/models/far").await.1["inference_params"], json!({"max_tokens": 1}));
    // It is still there after a restart; then it goes.
    let data = here.data();
    let kept = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(kept.path().join("state")).unwrap();
    fs_err::copy(data.join("state/remote.json"), kept.path().join("state/remote.json")).unwrap();
    let again = TestDaemon::with(Options { data: Some(kept.path().to_owned()), ..Options::default() });
    assert_eq!(get(&again, "/v1/models/far").await.0, 200);
    assert_eq!(send(&again, "DELETE", "/v1/models/far", None).await.0, 200);
    assert_eq!(get(&again, "/v1/models/far").await.0, 404);
    assert_eq!(send(&again, "DELETE", "/v1/engines/second/install", None).await.0, 200);
    assert_eq!(get(&again, "/v1/engines/second").await, (200, json!([])));
}

#[tokio::test]
async fn an_answer_that_nobody_reads_ends_over_there_too() {
    let (there, here) = (other().await, TestDaemon::start());
    let engine = json!({"engine": "second", "type": "remote", "api_key": KEY, "url": there.url("/v1")});
    assert!(add_engine(&here, &engine).await["warning"].as_str().unwrap().contains("get_models_url"));
    post(&here, "/v1/models/add", &json!({"model": MODEL, "engine": "second"})).await;
    let body = json!({"model": MODEL, "stream": true, "max_tokens": 4000, "messages": [{"role": "user", "content": "Count to ten thousand"}], "ignore_eos": true});
    let (status, mut events) = Events::open(&here, &body).await;
    assert_eq!(status, 200);
    events.next().await.unwrap();
    drop(events);
    let free = async {
        loop {
            let asked = client().get(there.url("/inferences/server/models")).bearer_auth(KEY).send().await.unwrap();
            let running: Value = asked.json().await.unwrap();
            if running["data"][0]["requests"] == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), free).await.expect("the answer ended");
}

#[tokio::test]
async fn what_goes_wrong_over_there_is_told_as_that() {
    let (there, here) = (other().await, TestDaemon::start());
    let engine = json!({"engine": "second", "type": "remote", "api_key": "wrong-key", "url": there.url("")});
    add_engine(&here, &engine).await;
    post(&here, "/v1/models/add", &json!({"model": MODEL, "engine": "second"})).await;
    let body = question("Hello");
    // A wrong key over there is no wrong key here.
    let (status, refused) = post(&here, "/v1/chat/completions", &body).await;
    assert_eq!((status, refused["error"]["code"].as_str()), (502, Some("remote_engine_refused")), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("/v1/engines/second/update"), "{refused}");
    let (status, updated) = post(&here, "/v1/engines/second/update", &json!({"api_key": KEY})).await;
    assert_eq!((status, updated["message"].as_str()), (200, Some("Remote Engine update successfully!")));
    assert_eq!(post(&here, "/v1/chat/completions", &body).await.0, 200);
    // Nobody answers.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let elsewhere = json!({"url": format!("http://{nobody}")});
    let (status, refused) = post(&here, "/v1/engines/second/update", &elsewhere).await;
    assert!(status == 400 && refused["message"].as_str().unwrap().contains("send its key again"), "{refused}");
    post(&here, "/v1/engines/second/update", &json!({"url": format!("http://{nobody}"), "api_key": KEY})).await;
    // Round in a circle.
    let circle = json!({"engine": "me", "type": "remote", "url": here.url("")});
    add_engine(&here, &circle).await;
    post(&here, "/v1/models/add", &json!({"model": "me", "engine": "me"})).await;
    let (status, refused) = post(
        &here,
        "/v1/chat/completions",
        &question("Hello")
            .as_object()
            .map(|it| {
                let mut it = it.clone();
                it.insert("model".into(), "me".into());
                Value::from(it)
            })
            .unwrap(),
    )
    .await;
    assert!(status == 502 && refused["message"].as_str().unwrap().contains("leads back here"), "{refused}");
    // The id of a model elsewhere is taken here too.
    let import = json!({"model": "me", "modelPath": cortex_test::dist::model()});
    assert_eq!(post(&here, "/v1/models/import", &import).await.0, 400);
    let (status, refused) = post(&here, "/v1/chat/completions", &body).await;
    assert_eq!((status, refused["error"]["code"].as_str()), (502, Some("remote_engine_unreachable")), "{refused}");
    for (path, body, status, said) in [
        ("/v1/engines", json!({"type": "remote", "url": "http://a"}), 409, "No engine field in request body"),
        ("/v1/engines", json!({"engine": "x", "url": "http://a"}), 400, "Engine name, type are required"),
        (
            "/v1/engines",
            json!({"engine": "x", "type": "remote", "url": "http://a", "metadata": 1}),
            400,
            "metadata must be object",
        ),
        (
            "/v1/engines",
            json!({"engine": "second", "type": "remote", "url": "http://a"}),
            400,
            "Engine 'second' already exists",
        ),
        ("/v1/engines/none/update", json!({"url": "http://a"}), 400, "Remote engine 'none' is not installed"),
        ("/v1/models/add", json!({"model": "m"}), 409, "No engine field in request body"),
        ("/v1/models/add", json!({"model": "m", "engine": "none"}), 400, "Remote engine 'none' is not installed"),
    ] {
        let (found, answer) = post(&here, path, &body).await;
        assert_eq!((found, answer["message"].as_str()), (status, Some(said)), "{path} {body}");
    }
    assert_eq!(get(&here, "/v1/models/remote/llama-cpp").await.1["message"], "Not a remote engine: llama-cpp");
    assert_eq!(get(&here, "/v1/models/remote/none").await.1["message"], "Remote engine 'none' is not installed");
    // A damaged file is left alone, and told.
    let data = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(data.path().join("state")).unwrap();
    fs_err::write(data.path().join("state/remote.json"), "{ \"engines\": [").unwrap();
    let damaged = TestDaemon::with(Options { data: Some(data.path().to_owned()), ..Options::default() });
    let (status, refused) = post(&damaged, "/v1/engines", &engine).await;
    assert!(status == 500 && refused["message"].as_str().unwrap().contains("remote.json is damaged"), "{refused}");
    assert_eq!(fs_err::read_to_string(data.path().join("state/remote.json")).unwrap(), "{ \"engines\": [");
    assert_eq!(get(&damaged, "/v1/models").await.0, 200);
}

#[tokio::test]
async fn templates_of_old_engines_say_requests_and_answers_in_other_words() {
    let (there, here) = (other().await, TestDaemon::start());
    let request = "{ \"model\": {{ tojson(input_request.model) }}, \"max_tokens\": 2, \"temperature\": 0, \"stream\": {{ default(input_request.stream, false) }}, \"messages\": [{% for message in input_request.messages %}{% if not loop.is_first %},{% endif %}{\"role\": \"{{ message.role }}\", \"content\": {{ tojson(message.content) }}}{% endfor %}] }";
    let answer = "{ \"id\": \"{{ input_request.id }}\", \"choices\": {{ tojson(input_request.choices) }}, \"said_by\": \"template\" }";
    let engine = json!({
        "engine": "old", "type": "remote", "api_key": KEY, "url": there.url(""),
        "metadata": {
            "header_template": "Authorization: Bearer {{api_key}}",
            "transform_req": {"chat_completions": {"url": there.url("/v1/chat/completions"), "template": request}},
            "transform_resp": {"chat_completions": {"template": answer}},
        },
    });
    add_engine(&here, &engine).await;
    post(&here, "/v1/models/add", &json!({"model": MODEL, "engine": "old"})).await;
    let mut body = question("Say \"hi\"");
    let (status, whole) = post(&here, "/v1/chat/completions", &body).await;
    assert_eq!(
        (status, whole["said_by"].as_str(), whole["choices"][0]["finish_reason"].as_str()),
        (200, Some("template"), Some("length")),
        "{whole}"
    );
    body["stream"] = true.into();
    let (_, events) = Events::open(&here, &body).await;
    let events = events.rest().await;
    assert!(events.len() > 2 && events[0].contains("\"said_by\":\"template\""), "{events:?}");
    assert_eq!(fold(&events).0, whole["choices"][0]["message"]["content"].as_str().unwrap());
    let broken = json!({"metadata": {"transform_req": {"chat_completions": {"url": there.url("/x"), "template": "{ \"a\": 1, }"}}}});
    assert_eq!(post(&here, "/v1/engines/old/update", &broken).await.0, 200);
    let (status, refused) = post(&here, "/v1/chat/completions", &body).await;
    assert!(status == 400 && refused["message"].as_str().unwrap().contains("no JSON"), "{refused}");
}

#[tokio::test]
async fn anthropic_s_models_answer_in_openai_s_words() {
    let (there, here) = (FakeAnthropic::start(KEY), TestDaemon::start());
    let engine = json!({
        "engine": "anthropic", "type": "remote", "api_key": KEY, "url": there.url(),
        "metadata": {
            "get_models_url": format!("{}/v1/models", there.url()),
            "header_template": "x-api-key: {{api_key}} anthropic-version: 2023-06-01",
            "transform_req": {"chat_completions": {"url": format!("{}/v1/messages", there.url())}},
        },
    });
    add_engine(&here, &engine).await;
    let (_, list) = get(&here, "/v1/models/remote/anthropic").await;
    assert_eq!(list["data"][0]["id"], "claude-test");
    for model in ["claude-test", "overloaded", "busy", "breaks"] {
        post(&here, "/v1/models/add", &json!({"model": model, "engine": "anthropic"})).await;
    }
    let ask = |model: &str, more: Value| {
        let mut body = json!({"model": model, "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let chats = "/v1/chat/completions";
    let (status, whole) =
        post(&here, chats, &ask("claude-test", json!({"temperature": 1.3, "seed": 1, "frequency_penalty": 0.5}))).await;
    assert_eq!((status, whole["choices"][0]["message"]["content"].as_str()), (200, Some("You said: Hello")), "{whole}");
    assert_eq!((&whole["usage"]["total_tokens"], &whole["choices"][0]["finish_reason"]), (&json!(16), &json!("stop")));
    assert_eq!(whole["warnings"].as_array().map(Vec::len), Some(3), "{whole}");
    assert_eq!((&there.seen()[0]["system"], &there.seen()[0]["temperature"]), (&json!("Be brief"), &json!(1.0)));
    let (_, events) =
        Events::open(&here, &ask("claude-test", json!({"stream": true, "stream_options": {"include_usage": true}})))
            .await;
    let events = events.rest().await;
    let (text, reason, usage) = fold(&events);
    assert_eq!(
        (text.as_str(), reason.as_deref(), usage.unwrap()["prompt_tokens"].as_u64()),
        ("You said: Hello", Some("stop"), Some(11))
    );
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    // A tool is called, and its result is understood.
    let tools =
        json!({"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]});
    let (_, called) = post(&here, chats, &ask("claude-test", tools.clone())).await;
    let call = &called["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(
        (&call["function"]["name"], &called["choices"][0]["finish_reason"]),
        (&json!("look"), &json!("tool_calls"))
    );
    let mut turn = ask("claude-test", tools);
    let messages = turn["messages"].as_array_mut().unwrap();
    messages.push(called["choices"][0]["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "a cat"}));
    let (status, answered) = post(&here, chats, &turn).await;
    assert_eq!((status, answered["choices"][0]["finish_reason"].as_str()), (200, Some("stop")), "{answered}");
    // Refusals keep their meaning, an error amid a stream is the last event.
    let (status, refused) = post(&here, chats, &ask("overloaded", json!({}))).await;
    assert!(status == 502 && refused["message"].as_str().unwrap().contains("529: Overloaded"), "{refused}");
    let busy = client().post(here.url(chats)).json(&ask("busy", json!({}))).send().await.unwrap();
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    let (_, events) = Events::open(&here, &ask("breaks", json!({"stream": true}))).await;
    let events = events.rest().await;
    assert!(events.iter().any(|event| event.contains("\"error\"") && event.contains("Overloaded")), "{events:?}");
    assert_eq!(post(&here, chats, &ask("claude-test", json!({"n": 2}))).await.0, 400);
    // The other side repeats the wrong key in its refusal: it is not passed on.
    post(&here, "/v1/engines/anthropic/update", &json!({"api_key": "sk-wrong"})).await;
    let (status, refused) = post(&here, chats, &ask("claude-test", json!({}))).await;
    assert!(status == 502 && !refused.to_string().contains("sk-wrong"), "{refused}");
    assert!(!here.log().contains("sk-wrong") && !here.log().contains(KEY));
    until(&here, "/v1/engines/anthropic", |shown| shown[0]["api_key"] == "********").await;
}

/// Gives one answer after the other, whatever it is asked.
async fn canned(answers: Vec<String>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::task::spawn_local(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1 << 16];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn answers_that_make_no_sense_are_told_and_a_cut_one_is_not_taken_for_whole() {
    let head = |kind: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n");
    let chunk = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half\"},\"finish_reason\":null}]}\n\n";
    let whole = chunk.replace("null", "\"stop\"");
    let answers = vec![
        head("text/html") + "<html>log in</html>",
        head("application/json") + "[1]",
        head("text/event-stream") + chunk,
        head("text/event-stream") + &whole,
        head("application/json") + "{\"choices\":[],\"echo\":\"Bearer sk-sekret-0123456789\"}",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            .to_owned(),
    ];
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let here = TestDaemon::start();
            let url = canned(answers).await;
            add_engine(&here, &json!({"engine": "odd", "type": "remote", "url": url, "api_key": "sk-sekret-0123456789"})).await;
            post(&here, "/v1/models/add", &json!({"model": "odd", "engine": "odd"})).await;
            let ask = |stream: bool| json!({"model": "odd", "stream": stream, "messages": [{"role": "user", "content": "a"}]});
            for said in ["it is a web page", "it is no JSON object"] {
                let (status, refused) = post(&here, "/v1/chat/completions", &ask(true)).await;
                assert!(status == 502 && refused["message"].as_str().unwrap().contains(said), "{refused}");
            }
            let cut = Events::open(&here, &ask(true)).await.1.rest().await;
            assert!(cut.len() == 2 && cut[1].contains("ended amid the answer"), "{cut:?}");
            let ended = Events::open(&here, &ask(true)).await.1.rest().await;
            assert_eq!(ended.last().map(String::as_str), Some("[DONE]"), "{ended:?}");
            let (status, echoed) = post(&here, "/v1/chat/completions", &ask(false)).await;
            assert_eq!((status, echoed["echo"].as_str()), (200, Some("Bearer ********")));
            let (status, refused) = post(&here, "/v1/chat/completions", &ask(false)).await;
            assert!(status == 502 && refused["message"].as_str().unwrap().contains("wants to be asked at"), "{refused}");
        })
        .await;
}

/// The settings of an older Jan with a key for an engine.
fn settings_of_jan(data: &std::path::Path, engine: &str, endpoint: &str) {
    let folder = data.join(format!("settings/@janhq/inference-{engine}-extension"));
    fs_err::create_dir_all(&folder).unwrap();
    let setting = |key: &str, value: &str| json!({"key": key, "controllerProps": {"value": value}});
    let settings = json!([setting("chat-completions-endpoint", endpoint), setting(&format!("{engine}-api-key"), KEY)]);
    fs_err::write(folder.join("settings.json"), settings.to_string()).unwrap();
}

#[tokio::test]
async fn engines_of_an_older_program_are_taken_over_once_and_on_request() {
    let there = other().await;
    let data = tempfile::tempdir().unwrap();
    settings_of_jan(data.path(), "second", &there.url("/v1/chat/completions"));
    let with =
        |folder: &std::path::Path| TestDaemon::with(Options { data: Some(folder.to_owned()), ..Options::default() });
    let here = with(data.path());
    until(&here, "/v1/engines/second", |it| it[0]["url"] == there.url("/v1").as_str()).await;
    assert!(!get(&here, "/v1/engines").await.1.to_string().contains(KEY) && !here.log().contains(KEY));
    assert_eq!(post(&here, "/v1/models/add", &json!({"id": "far", "model": MODEL, "engine": "second"})).await.0, 200);
    let mut body = question("What is the capital of France?");
    body["model"] = "far".into();
    let (status, answer) = post(&here, "/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    // What was removed does not come back by itself, and does on request.
    assert_eq!(send(&here, "DELETE", "/v1/engines/second/install", None).await.0, 200);
    drop(here);
    let here = with(data.path());
    assert_eq!(get(&here, "/v1/engines/second").await.1, json!([]));
    let dry = here.cli(&["migrate", "--dry-run"]).output().unwrap();
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(said.contains("would be taken over: the engine `second` on another machine"), "{said}");
    assert_eq!(get(&here, "/v1/engines/second").await.1, json!([]));
    let (status, done) = post(&here, "/v1/migrations", &json!({})).await;
    assert_eq!((status, &done["remote_engines"]), (200, &json!(["second"])), "{done}");
    assert!(!done.to_string().contains(KEY));
    // From a folder elsewhere; what is there already stays as it is.
    let elsewhere = tempfile::tempdir().unwrap();
    settings_of_jan(elsewhere.path(), "second", "https://other.example/v1/chat/completions");
    settings_of_jan(elsewhere.path(), "third", &there.url("/v1/chat/completions"));
    let (status, done) = post(&here, "/v1/migrations", &json!({"from": elsewhere.path()})).await;
    assert_eq!((status, &done["remote_engines"]), (200, &json!(["third"])), "{done}");
    assert_eq!(get(&here, "/v1/engines/second").await.1[0]["url"], there.url("/v1"));
}
