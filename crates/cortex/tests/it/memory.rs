//! Who is loaded, who waits and who leaves. Workers without an engine, whose models need what their headers say.

use crate::{
    faults::import_fake,
    http::{Events, MODEL, client, get, import, post, question, until},
    registry::send,
};
use cortex_test::{
    daemon::{Options, TestDaemon},
    dist, fake_worker,
    limit::MemoryLimit,
    worker::TestWorker,
};
use serde_json::{Value, json};
use std::{os::unix::process::ExitStatusExt, process::Command, sync::LazyLock};
use tempfile::TempDir;
use tokio::task::JoinSet;

const LOADED: &str = "/inferences/server/models";
const ALL: &str = "/inferences/server/models?all=true";

/// The fake worker, laid out once for all tests.
static WORKER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    fake_worker::lay_out(folder.path());
    folder
});

/// A daemon with these settings, and models of these names.
async fn with(settings: &str, models: &[&str]) -> TestDaemon {
    let daemon = TestDaemon::with(Options {
        environment: vec![("CORTEX_WORKER".into(), WORKER.path().join("fake/cortex-llamacpp").into())],
        settings: Some(settings.into()),
        ..Options::default()
    });
    for name in models {
        import_fake(&daemon, name, name).await;
    }
    daemon
}

/// What one model needs, with a context that is given.
async fn needed(context: u32, parallel: u32) -> u64 {
    let daemon = with("", &["a"]).await;
    let asked = json!({"model": "a", "ctx_len": context, "n_parallel": parallel});
    post(&daemon, "/v1/models/fit", &asked).await.1["needed"].as_u64().unwrap()
}

fn chat(model: &str, prompt: &str) -> Value {
    let mut body = question(prompt);
    body["model"] = json!(model);
    body
}

async fn ask(daemon: &TestDaemon, model: &str) -> (u16, Value) {
    post(daemon, "/v1/chat/completions", &chat(model, "well")).await
}

/// Asks while the test goes on; the status. Dropping it leaves.
fn ask_meanwhile(daemon: &TestDaemon, model: &'static str) -> JoinSet<u16> {
    let url = daemon.url("/v1/chat/completions");
    let mut asking = JoinSet::new();
    asking.spawn(async move { client().post(url).json(&chat(model, "well")).send().await.unwrap().status().as_u16() });
    asking
}

async fn patch(daemon: &TestDaemon, model: &str, body: &Value) -> (u16, Value) {
    send(daemon, "PATCH", &format!("/v1/models/{model}"), Some(body)).await
}

fn ids(models: &Value) -> Vec<&str> {
    models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect()
}

/// A stream that goes on until it is dropped.
async fn hold(daemon: &TestDaemon, model: &str) -> Events {
    let mut body = chat(model, "[hold]");
    body["stream"] = json!(true);
    let (status, mut stream) = Events::open(daemon, &body).await;
    assert_eq!(status, 200);
    stream.next().await.unwrap();
    stream.next().await.unwrap();
    stream
}

#[tokio::test]
async fn the_least_recently_used_leaves_when_memory_is_needed_and_a_pinned_one_stays() {
    let limit = needed(8192, 1).await * 5 / 2;
    let daemon = with(&format!("memoryLimitBytes: {limit}\nparallel: 1\n"), &["a", "b", "c"]).await;
    for model in ["a", "b"] {
        assert_eq!(ask(&daemon, model).await.0, 200);
    }
    let (_, both) = get(&daemon, LOADED).await;
    assert_eq!(ids(&both), ["a", "b"]);
    let sum = both["data"].as_array().unwrap().iter().map(|it| it["reserved"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(both["memory"]["reserved"], sum, "{both}");
    assert_eq!(both["memory"]["free"], limit - sum, "{both}");
    assert_eq!(ask(&daemon, "c").await.0, 200);
    assert_eq!(ids(&get(&daemon, LOADED).await.1), ["b", "c"]);
    assert_eq!(ask(&daemon, "b").await.0, 200);
    assert_eq!(ask(&daemon, "a").await.0, 200);
    assert_eq!(ids(&get(&daemon, LOADED).await.1), ["a", "b"]);

    let (status, body) = post(&daemon, "/v1/models/start", &json!({"model": "a", "pin": true})).await;
    assert_eq!(status, 200, "{body}");
    for model in ["b", "c", "b", "c"] {
        assert_eq!(ask(&daemon, model).await.0, 200);
    }
    let (_, models) = get(&daemon, LOADED).await;
    assert_eq!((ids(&models), &models["data"][0]["pinned"]), (vec!["a", "c"], &json!(true)));
    let shown = String::from_utf8(daemon.cli(&["ps"]).output().unwrap().stdout).unwrap();
    assert!(shown.contains("never (pinned)") && shown.contains("1 × 8192"), "{shown}");
}

/// The worker's process of the only model that is loaded.
async fn only_pid(daemon: &TestDaemon, model: &str) -> u64 {
    let (_, models) = get(daemon, LOADED).await;
    assert_eq!(ids(&models), [model], "{models}");
    models["data"][0]["pid"].as_u64().unwrap()
}

#[tokio::test]
async fn a_model_that_made_room_comes_back_to_its_worker() {
    let daemon = TestDaemon::with(Options {
        settings: Some("maxLoadedModels: 1\nparallel: 1\ncontextLength: 512\n".into()),
        ..Options::default()
    });
    for name in ["a", "b"] {
        let path = daemon.scratch().join(format!("{name}.gguf"));
        fs_err::copy(dist::model(), &path).unwrap();
        let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": name, "modelPath": path})).await;
        assert_eq!(status, 200, "{body}");
    }
    let say = async |model: &str| {
        let body = json!({"model": model, "prompt": "One, two, three,", "max_tokens": 8, "temperature": 0});
        let (status, answer) = post(&daemon, "/v1/completions", &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let first = say("a").await;
    let a = only_pid(&daemon, "a").await;
    assert_eq!(say("b").await, first);
    let b = only_pid(&daemon, "b").await;
    // Its context is free: what it has beside the mapped file is little.
    assert!(cortex_hardware::process_anonymous_bytes(u32::try_from(a).unwrap()) < 64 << 20);
    assert_eq!(say("a").await, first);
    assert_eq!(only_pid(&daemon, "a").await, a);
    // One that rests may die, and nobody notices.
    assert!(std::process::Command::new("kill").args(["-9", &b.to_string()]).status().unwrap().success());
    assert_eq!(say("b").await, first);
    let new = only_pid(&daemon, "b").await;
    assert_ne!(new, b);
    // Of a file that is another one nothing is used.
    let path = daemon.scratch().join("a.gguf");
    fs_err::remove_file(&path).unwrap();
    fs_err::copy(dist::model(), &path).unwrap();
    assert_eq!(say("a").await, first);
    assert_ne!(only_pid(&daemon, "a").await, a);
    // A model that is stopped leaves nothing behind, also when it is not loaded and its worker only rests.
    let (status, _) = post(&daemon, "/v1/models/stop", &json!({"model": "b"})).await;
    assert_eq!(status, 400);
    let is_there = || fs_err::read_to_string(format!("/proc/{new}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    until(&daemon, LOADED, |_| !is_there()).await;
}

#[tokio::test]
async fn what_cannot_fit_is_refused_with_the_numbers_and_nothing_leaves_for_it() {
    let limit = needed(8192, 1).await * 11 / 10;
    let daemon = with(&format!("memoryLimitBytes: {limit}\nparallel: 1\n"), &["a", "b"]).await;
    assert_eq!(ask(&daemon, "a").await.0, 200);
    let order = json!({"model": "b", "n_parallel": 64});
    let (status, body) = post(&daemon, "/v1/models/start", &order).await;
    assert_eq!((status, &body["error"]["code"]), (422, &json!("does_not_fit")), "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("64 × 256 tokens need") && message.contains("MiB") && message.contains("cortex fit"),
        "{body}"
    );
    assert_eq!(ids(&get(&daemon, LOADED).await.1), ["a"]);

    let (status, body) = post(&daemon, "/v1/models/start", &json!({"model": "a", "pin": true})).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = post(&daemon, "/v1/models/start", &json!({"model": "b", "ctx_len": 8191})).await;
    assert_eq!((status, &body["error"]["code"]), (422, &json!("does_not_fit")), "{body}");
    assert!(body["message"].as_str().unwrap().contains("beside what is pinned (a)"), "{body}");
    // The prediction knows about it.
    let (_, fit) = post(&daemon, "/v1/models/fit", &json!({"model": "b"})).await;
    assert_eq!(fit["fits"], false, "{fit}");
    assert_eq!(post(&daemon, "/v1/models/fit", &json!({"model": "a"})).await.1["fits"], true);
}

#[tokio::test]
async fn what_was_only_wished_is_cut_to_what_fits_and_the_answer_says_so() {
    let limit = needed(8192, 2).await + 1;
    let daemon = with(&format!("memoryLimitBytes: {limit}\n"), &["a"]).await;
    assert_eq!(ask(&daemon, "a").await.0, 200);
    let one = get(&daemon, LOADED).await.1["data"][0].clone();
    assert_eq!((&one["parallel"], &one["requested_parallel"]), (&json!(2), &json!(4)), "{one}");
    // An order for another size loads it anew.
    let (status, body) =
        post(&daemon, "/v1/models/start", &json!({"model": "a", "ctx_len": 512, "n_parallel": 3})).await;
    assert_eq!(status, 200, "{body}");
    let one = get(&daemon, LOADED).await.1["data"][0].clone();
    assert_eq!((&one["context_length"], &one["parallel"]), (&json!(512), &json!(3)), "{one}");

    let limit = needed(4096, 1).await;
    let daemon = with(&format!("memoryLimitBytes: {limit}\n"), &["a"]).await;
    assert_eq!(ask(&daemon, "a").await.0, 200);
    let one = get(&daemon, LOADED).await.1["data"][0].clone();
    assert_eq!((&one["context_length"], &one["requested_context_length"]), (&json!(4096), &json!(8192)), "{one}");
}

#[tokio::test]
async fn a_request_waits_for_a_model_in_use_and_gets_its_memory() {
    let daemon = with("maxLoadedModels: 1\nswapAfterSeconds: 3600\n", &["a", "b"]).await;
    let stream = hold(&daemon, "a").await;
    let mut waiting = ask_meanwhile(&daemon, "b");
    let state = |id: &str, wanted: &str, models: &Value| {
        models["data"].as_array().unwrap().iter().any(|model| model["id"] == id && model["state"] == wanted)
    };
    let models = until(&daemon, ALL, |models| state("b", "waiting", models)).await;
    assert!(state("a", "loaded", &models), "{models}");
    assert_eq!(ids(&get(&daemon, LOADED).await.1), ["a"], "clients of cortex.cpp see what is loaded");
    let shown = String::from_utf8(daemon.cli(&["ps"]).output().unwrap().stdout).unwrap();
    assert!(shown.contains("(+1 waiting)"), "{shown}");
    drop(stream);
    assert_eq!(waiting.join_next().await.unwrap().unwrap(), 200);
    assert_eq!(ids(&get(&daemon, LOADED).await.1), ["b"]);
}

#[tokio::test]
async fn a_model_in_use_finishes_what_it_has_begun_and_then_makes_room() {
    // No patience: the model in use is closed to new requests at once.
    let daemon = with("maxLoadedModels: 1\nswapAfterSeconds: 0\n", &["a", "b"]).await;
    let stream = hold(&daemon, "a").await;
    let mut first = ask_meanwhile(&daemon, "b");
    until(&daemon, ALL, |models| models["data"].as_array().unwrap().iter().any(|it| it["state"] == "leaving")).await;
    let mut second = ask_meanwhile(&daemon, "a");
    until(&daemon, ALL, |models| {
        models["data"].as_array().unwrap().iter().any(|it| it["id"] == "a" && it["waiting"] == 1)
    })
    .await;
    drop(stream);
    assert_eq!(first.join_next().await.unwrap().unwrap(), 200);
    assert_eq!(second.join_next().await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn who_leaves_while_waiting_loads_nothing() {
    let daemon = with("maxLoadedModels: 1\nswapAfterSeconds: 3600\n", &["a", "b"]).await;
    let stream = hold(&daemon, "a").await;
    let mut waiting = ask_meanwhile(&daemon, "b");
    until(&daemon, ALL, |models| ids(models).contains(&"b")).await;
    waiting.shutdown().await;
    // The daemon notices a client that left when its connection closes.
    let gone = |models: &Value| !ids(models).contains(&"b");
    drop(stream);
    assert_eq!(ask(&daemon, "a").await.0, 200);
    until(&daemon, ALL, gone).await;
    assert_eq!(ids(&get(&daemon, LOADED).await.1), ["a"]);
}

#[tokio::test]
async fn no_more_requests_wait_than_the_settings_allow() {
    let daemon = with("parallel: 1\nmaxQueuedRequests: 1\n", &["a", "b"]).await;
    let running = hold(&daemon, "a").await;
    let waiting = hold(&daemon, "a").await;
    let answer = client().post(daemon.url("/v1/chat/completions")).json(&chat("b", "x")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 429);
    assert_eq!(answer.headers()["retry-after"], "1");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["code"], "queue_full", "{body}");
    drop((running, waiting));
    until(&daemon, LOADED, |models| models["data"][0]["requests"] == 0).await;
    assert_eq!(ask(&daemon, "b").await.0, 200);
}

#[tokio::test]
async fn a_model_stays_as_long_as_a_request_its_settings_or_the_daemon_say() {
    let daemon = with("idleUnloadSeconds: 600\n", &["a"]).await;
    let leaves_in = |models: &Value| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        models["data"][0]["leaves_at"].as_u64().map(|at| u128::from(at).saturating_sub(now).div_ceil(60_000))
    };
    let with_keep_alive = |value: Value| {
        let mut body = chat("a", "well");
        body["keep_alive"] = value;
        body
    };
    let idle = |models: &Value| models["data"][0]["requests"] == 0;
    let plain = async || {
        assert_eq!(ask(&daemon, "a").await.0, 200);
        leaves_in(&until(&daemon, LOADED, idle).await)
    };
    assert_eq!(plain().await, Some(10));
    // A change of the settings counts at once.
    let (status, body) = patch(&daemon, "a", &json!({"keep_alive": "20m"})).await;
    assert_eq!(status, 200, "{body}");
    until(&daemon, LOADED, |models| leaves_in(models) == Some(20)).await;
    // What a request says counts for itself.
    for (value, minutes) in [(json!("1h"), Some(60)), (json!(90), Some(2)), (json!(-1), None)] {
        assert_eq!(post(&daemon, "/v1/chat/completions", &with_keep_alive(value)).await.0, 200);
        assert_eq!(leaves_in(&until(&daemon, LOADED, idle).await), minutes);
    }
    assert_eq!(plain().await, Some(20));
    assert_eq!(post(&daemon, "/v1/chat/completions", &with_keep_alive(json!(0))).await.0, 200);
    until(&daemon, ALL, |models| ids(models).is_empty()).await;
    assert_eq!(plain().await, Some(20));
    let (status, body) = post(&daemon, "/v1/chat/completions", &with_keep_alive(json!("soon"))).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("keep_alive")), "{body}");
    let (status, body) = patch(&daemon, "a", &json!({"keep_alive": "soon"})).await;
    assert_eq!(status, 400, "{body}");

    // An order holds until the model is stopped.
    let started = daemon.cli(&["models", "start", "a", "--keep-alive", "5m"]).output().unwrap();
    assert!(started.status.success());
    assert_eq!(plain().await, Some(5));
    assert_eq!(post(&daemon, "/v1/models/start", &json!({"model": "a"})).await.0, 200);
    assert_eq!(plain().await, None);
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": "a"})).await.0, 200);
    assert_eq!(plain().await, Some(20));
}

#[tokio::test]
async fn a_pin_counts_at_once_and_outlives_the_worker() {
    let daemon = with("maxLoadedModels: 2\n", &["a", "b", "c"]).await;
    for model in ["a", "b"] {
        assert_eq!(ask(&daemon, model).await.0, 200);
    }
    assert_eq!(patch(&daemon, "a", &json!({"pin": true})).await.0, 200);
    assert_eq!(ask(&daemon, "c").await.0, 200);
    assert_eq!(ids(&get(&daemon, LOADED).await.1), ["a", "c"]);
    assert_eq!(patch(&daemon, "a", &json!({"pin": false})).await.0, 200);
    for model in ["c", "b"] {
        assert_eq!(ask(&daemon, model).await.0, 200);
    }
    assert_eq!(ids(&get(&daemon, LOADED).await.1), ["b", "c"]);

    let order = json!({"model": "b", "pin": true, "ctx_len": 1024});
    let (status, started) = post(&daemon, "/v1/models/start", &order).await;
    assert_eq!((status, &started["context_length"]), (200, &json!(1024)), "{started}");
    let (_, models) = get(&daemon, LOADED).await;
    let worker = models["data"][0]["pid"].as_u64().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &worker.to_string()]).status().unwrap().success());
    until(&daemon, ALL, |models| ids(models) == ["c"]).await;
    assert_eq!(ask(&daemon, "b").await.0, 200);
    let one = get(&daemon, LOADED).await.1["data"][0].clone();
    assert_eq!((&one["pinned"], &one["context_length"]), (&json!(true), &json!(1024)), "{one}");
    assert_eq!(post(&daemon, "/v1/models/start", &json!({"model": "b", "pin": false})).await.0, 200);
    until(&daemon, LOADED, |models| models["data"][0]["pinned"] == false).await;
}

#[tokio::test]
async fn an_order_is_carried_out_whatever_else_the_model_does() {
    let daemon = with("", &["a", "[slow]"]).await;
    // While it is being loaded in another way.
    let mut chat = ask_meanwhile(&daemon, "[slow]");
    until(&daemon, ALL, |models| models["data"][0]["state"] == "loading").await;
    let order = |model: &str, tokens: u32| json!({"model": model, "ctx_len": tokens});
    let (status, started) = post(&daemon, "/v1/models/start", &order("[slow]", 1024)).await;
    assert_eq!((status, &started["context_length"]), (200, &json!(1024)), "{started}");
    assert_eq!(chat.join_next().await.unwrap().unwrap(), 200);

    // While it answers, with more requests to come.
    let stream = hold(&daemon, "a").await;
    let url = daemon.url("/v1/models/start");
    let mut starting = JoinSet::new();
    let body = order("a", 2048);
    starting.spawn(async move { client().post(url).json(&body).send().await.unwrap().json::<Value>().await.unwrap() });
    until(&daemon, ALL, |models| models["data"].as_array().unwrap().iter().any(|it| it["state"] == "leaving")).await;
    let mut chat = ask_meanwhile(&daemon, "a");
    until(&daemon, ALL, |models| models["data"].as_array().unwrap().iter().any(|it| it["waiting"] == 2)).await;
    drop(stream);
    assert_eq!(starting.join_next().await.unwrap().unwrap()["context_length"], 2048);
    assert_eq!(chat.join_next().await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn who_rests_takes_nothing_from_a_model_that_is_wanted() {
    // Room for all that one wants, and not for a worker that rests beside it.
    let limit = needed(8192, 2).await;
    let daemon = with(&format!("memoryLimitBytes: {limit}\nparallel: 2\n"), &["a", "b", "c"]).await;
    for model in ["a", "b", "c", "a", "b"] {
        assert_eq!(ask(&daemon, model).await.0, 200);
        let (_, models) = get(&daemon, LOADED).await;
        let (context, parallel) = (&models["data"][0]["context_length"], &models["data"][0]["parallel"]);
        assert_eq!((ids(&models), context, parallel), (vec![model], &json!(8192), &json!(2)), "{models}");
    }
}

#[tokio::test]
async fn an_order_that_was_followed_holds_also_when_there_was_no_room_for_a_while() {
    let limit = needed(8192, 1).await;
    let daemon = with(&format!("memoryLimitBytes: {limit}\nparallel: 1\n"), &["a", "b"]).await;
    let order = json!({"model": "b", "ctx_len": 1000, "n_parallel": 1});
    assert_eq!(post(&daemon, "/v1/models/start", &order).await.0, 200);
    assert_eq!(post(&daemon, "/v1/models/start", &json!({"model": "a", "pin": true})).await.0, 200);
    assert_eq!(ask(&daemon, "b").await.0, 422);
    assert_eq!(post(&daemon, "/v1/models/start", &json!({"model": "a", "pin": false})).await.0, 200);
    assert_eq!(ask(&daemon, "b").await.0, 200);
    let (_, models) = get(&daemon, LOADED).await;
    assert_eq!((ids(&models), &models["data"][0]["context_length"]), (vec!["b"], &json!(1000)), "{models}");
    // Started again without a word about its size, it is what it was.
    let (_, again) =
        post(&daemon, "/v1/models/start", &json!({"model": "b", "ctx_len": 1000, "keep_alive": "2h"})).await;
    assert_eq!((&again["context_length"], &again["requested_parallel"]), (&json!(1000), &json!(1)), "{again}");
}

#[tokio::test]
async fn an_order_holds_for_what_it_names_and_the_settings_count_for_the_rest() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let patch = async |settings: Value| {
        let url = daemon.url(&format!("/v1/models/{MODEL}"));
        assert_eq!(client().patch(url).json(&settings).send().await.unwrap().status(), 200);
    };
    let start = async |order: Value| {
        let mut asked = json!({"model": MODEL});
        asked.as_object_mut().unwrap().extend(order.as_object().unwrap().clone());
        let (status, body) = post(&daemon, "/v1/models/start", &asked).await;
        assert_eq!(status, 200, "{body}");
        (body["context_length"].as_u64().unwrap(), body["parallel"].as_u64().unwrap())
    };
    patch(json!({"ctx_len": 512, "n_parallel": 3})).await;
    assert_eq!(start(json!({})).await, (512, 3));
    // Fewer, too: a start takes the settings as they are now.
    patch(json!({"n_parallel": 2})).await;
    assert_eq!(start(json!({})).await, (512, 2));
    // What was ordered stays when the rest changes, also for a worker that comes after another has died.
    assert_eq!(start(json!({"ctx_len": 768})).await, (768, 2));
    patch(json!({"ctx_len": 1024, "n_parallel": 1})).await;
    let loaded = async || get(&daemon, "/inferences/server/models").await.1["data"][0].clone();
    let pid = loaded().await["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    assert_eq!(post(&daemon, "/v1/chat/completions", &question("x")).await.0, 200);
    let now = loaded().await;
    assert_eq!((&now["context_length"], &now["parallel"]), (&json!(768), &json!(1)), "{now}");
    // A start that names something else adds to it, until somebody stops the model.
    assert_eq!(start(json!({"pin": true})).await, (768, 1));
    assert_eq!(start(json!({"n_parallel": 2})).await, (768, 2));
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": MODEL})).await.0, 200);
    assert_eq!(start(json!({})).await, (1024, 1));
}

#[tokio::test]
async fn what_was_cut_is_given_when_there_is_room_again() {
    let limit = needed(8192, 4).await + needed(8192, 1).await / 2;
    let daemon = with(&format!("memoryLimitBytes: {limit}\n"), &["a", "b"]).await;
    assert_eq!(post(&daemon, "/v1/models/start", &json!({"model": "b", "pin": true, "n_parallel": 1})).await.0, 200);
    assert_eq!(ask(&daemon, "a").await.0, 200);
    let parallel = |models: &Value| models["data"][0]["parallel"].as_u64().unwrap();
    assert!(parallel(&get(&daemon, LOADED).await.1) < 4);
    // Nothing is gained yet, so it is not loaded anew.
    let before = get(&daemon, LOADED).await.1["data"][0]["pid"].clone();
    let (_, started) = post(&daemon, "/v1/models/start", &json!({"model": "a", "n_parallel": 4})).await;
    assert!(started["parallel"].as_u64() < started["requested_parallel"].as_u64(), "{started}");
    assert_eq!(get(&daemon, LOADED).await.1["data"][0]["pid"], before);
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": "b"})).await.0, 200);
    let (_, started) = post(&daemon, "/v1/models/start", &json!({"model": "a", "n_parallel": 4})).await;
    assert_eq!(started["parallel"], 4, "{started}");
}

#[tokio::test]
async fn a_prompt_that_needs_the_context_that_was_cut_gets_it_when_there_is_room_again() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let mut sum = 0;
    for context in [1024, 512] {
        let asked = json!({"model": MODEL, "ctx_len": context, "n_parallel": 1});
        sum += post(&daemon, "/v1/models/fit", &asked).await.1["needed"].as_u64().unwrap();
    }
    drop(daemon);
    let settings = format!("memoryLimitBytes: {sum}\ncontextLength: 2048\nparallel: 1\n");
    let daemon = TestDaemon::with(Options { settings: Some(settings), ..Options::default() });
    import(&daemon).await;
    let second = json!({"model": "second", "modelPath": dist::model()});
    assert_eq!(post(&daemon, "/v1/models/import", &second).await.0, 200);
    let (status, body) =
        post(&daemon, "/v1/models/start", &json!({"model": "second", "pin": true, "ctx_len": 512})).await;
    assert_eq!(status, 200, "{body}");
    let mut long = question(&"lorem ipsum ".repeat(240));
    long["max_tokens"] = json!(1);
    let (status, body) = post(&daemon, "/v1/chat/completions", &long).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("context_length_exceeded")), "{body}");
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": "second"})).await.0, 200);
    let (status, body) = post(&daemon, "/v1/chat/completions", &long).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(get(&daemon, LOADED).await.1["data"][0]["context_length"], 2048);
}

#[tokio::test]
async fn a_load_that_fails_again_and_again_is_not_tried_each_time_and_holds_up_nobody() {
    let daemon = with("", &["[exit]", "good"]).await;
    // The pause grows with each failure: sooner or later a request comes in one.
    let mut refusal = None;
    for _ in 0..8 {
        let (status, body) = ask(&daemon, "[exit]").await;
        assert_eq!((status, &body["error"]["code"]), (503, &json!("worker_died")), "{body}");
        if body["message"].as_str().unwrap().contains("it is tried again in") {
            refusal = Some(body);
            break;
        }
    }
    assert!(refusal.is_some_and(|body| body["message"].as_str().unwrap().contains("cortex models start")));
    assert_eq!(ask(&daemon, "good").await.0, 200);
    // An order is tried at once.
    let (status, body) = post(&daemon, "/v1/models/start", &json!({"model": "[exit]"})).await;
    assert_eq!(status, 503);
    assert!(!body["message"].as_str().unwrap().contains("it is tried again in"), "{body}");
}

#[tokio::test]
async fn models_can_be_there_from_the_start_on() {
    let mut daemon = with("", &["a", "b"]).await;
    let (status, body) = patch(&daemon, "a", &json!({"pin": true})).await;
    assert_eq!(status, 200, "{body}");
    daemon.kill();
    let again = TestDaemon::with(Options {
        environment: vec![("CORTEX_WORKER".into(), WORKER.path().join("fake/cortex-llamacpp").into())],
        settings: Some("preloadModels: [nobody, a]\n".into()),
        data: Some(daemon.data()),
        ..Options::default()
    });
    let models = until(&again, LOADED, |models| !ids(models).is_empty()).await;
    assert_eq!((ids(&models), &models["data"][0]["pinned"]), (vec!["a"], &json!(true)));
    assert!(again.log().contains("nobody"), "{}", again.log());
}

#[tokio::test]
async fn what_happened_is_counted_for_prometheus() {
    let daemon = with("maxLoadedModels: 1\n", &["a", "b", "[exit]"]).await;
    for model in ["a", "b", "a"] {
        assert_eq!(ask(&daemon, model).await.0, 200);
    }
    assert_eq!(ask(&daemon, "[exit]").await.0, 503);
    assert_eq!(ask(&daemon, "nobody").await.0, 404);
    let answer = client().get(daemon.url("/metrics")).send().await.unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = answer.text().await.unwrap();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    for (name, expected) in [
        ("cortex_model_loads_total", 3.0),
        // It is tried a second time, as it is not the request's fault.
        ("cortex_model_load_failures_total", 2.0),
        ("cortex_model_evictions_total", 3.0),
        ("cortex_time_to_first_token_seconds_count", 3.0),
        ("cortex_answer_tokens_total", 3.0 * 48.0),
        ("cortex_http_requests_total{route=\"/v1/chat/completions\",method=\"POST\",status=\"200\"}", 3.0),
        ("cortex_http_requests_total{route=\"/v1/chat/completions\",method=\"POST\",status=\"404\"}", 1.0),
        ("cortex_models{kind=\"loaded\"}", 0.0),
        ("cortex_memory_bytes{kind=\"reserved\"}", 0.0),
        ("cortex_requests_waiting", 0.0),
        ("cortex_pulls{kind=\"downloading\"}", 0.0),
    ] {
        assert!((value(name) - expected).abs() < 0.5, "{name}: {text}");
    }
    assert!(value("cortex_memory_bytes{kind=\"free\"}") > 0.0 && text.ends_with("# EOF\n"), "{text}");
    assert!(!text.contains("nobody") && !text.contains("[exit]"), "no label is of a client's choosing: {text}");
}

/// What the small model needs 8 × 8192 tokens for is 1.6 GiB; the group has this.
const LIMIT: u64 = 900 << 20;

#[test]
fn without_the_ledger_a_load_beyond_the_memory_is_killed() {
    let limit = MemoryLimit::new(LIMIT);
    let mut worker = TestWorker::start_in(limit.wrapper());
    worker.order_load(&dist::model(), 8192, 8);
    while worker.receive().is_some() {}
    assert_eq!(worker.child.wait().unwrap().signal(), Some(9), "the limit bites");
}

#[tokio::test]
async fn with_the_ledger_nobody_is_killed_and_the_answer_says_what_to_do() {
    let limit = MemoryLimit::new(LIMIT);
    let daemon = TestDaemon::with(Options { wrapper: limit.wrapper().to_vec(), ..Options::default() });
    import(&daemon).await;
    let second = json!({"model": "second", "modelPath": dist::model()});
    assert_eq!(post(&daemon, "/v1/models/import", &second).await.0, 200);
    let (_, hardware) = get(&daemon, "/v1/hardware").await;
    assert_eq!(hardware["ram"]["total"], LIMIT >> 20, "the group is the machine: {hardware}");

    let order = json!({"model": MODEL, "ctx_len": 8191, "n_parallel": 8});
    let (status, body) = post(&daemon, "/v1/models/start", &order).await;
    assert_eq!((status, &body["error"]["code"]), (422, &json!("does_not_fit")), "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("8 × 8191 tokens need") && message.contains("choose a smaller"), "{body}");

    // Each is cut to what fits, and makes room for the other.
    for model in [MODEL, "second", MODEL] {
        let mut body = question("What is the capital of France? Answer in one sentence.");
        body["model"] = json!(model);
        let (status, body) = post(&daemon, "/v1/chat/completions", &body).await;
        assert_eq!(status, 200, "{body}");
        assert!(body["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{body}");
        let (_, models) = get(&daemon, LOADED).await;
        assert_eq!(ids(&models), [model]);
        let loaded = &models["data"][0];
        assert!(loaded["parallel"].as_u64() < loaded["requested_parallel"].as_u64(), "{loaded}");
    }
    assert_eq!(MemoryLimit::kills(daemon.pid()), 0);
    let (_, fit) = post(&daemon, "/v1/models/fit", &json!({"model": MODEL})).await;
    assert_eq!(fit["fits"], false, "{fit}");
}
