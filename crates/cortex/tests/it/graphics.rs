//! Graphics processors: found by the compute modules, proven, used while they have room, switched off and on. Workers without an
//! engine, whose modules find what the test says.

use crate::http::{get, post, question};
use cortex_api::worker::Device;
use cortex_test::{
    daemon::{Options, TestDaemon},
    fake_worker::{self, LAYERS, device},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const LOADED: &str = "/inferences/server/models";
const MIB: u64 = 1 << 20;

/// A worker whose module finds these devices, and a data folder.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn with(devices: &[Device]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fake_worker::lay_out(folder.path());
        fake_worker::lay_out_graphics(folder.path(), devices);
        Self { folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A daemon on it that knows models of these names.
    async fn with_models(&self, names: &[&str]) -> TestDaemon {
        let daemon = self.start();
        for name in names {
            let path = fake_worker::model(self.folder.path(), name);
            let (status, answer) = post(&daemon, "/v1/models/import", &json!({"model": name, "modelPath": path})).await;
            assert_eq!(status, 200, "{answer}");
        }
        daemon
    }

    fn start(&self) -> TestDaemon {
        TestDaemon::with(Options {
            environment: vec![("CORTEX_WORKER".into(), self.folder.path().join("fake/cortex-llamacpp").into())],
            settings: Some("parallel: 1\n".into()),
            data: Some(self.data()),
            ..Options::default()
        })
    }
}

/// The machine, once its drivers have answered.
async fn gpus(daemon: &TestDaemon) -> Vec<Value> {
    loop {
        let (status, mut machine) = get(daemon, "/v1/hardware").await;
        assert_eq!(status, 200, "{machine}");
        if machine["gpus_pending"] == false {
            return machine["gpus"].take().as_array().unwrap().clone();
        }
        tokio::task::yield_now().await;
    }
}

async fn activate(daemon: &TestDaemon, gpus: Value) -> (u16, Value) {
    post(daemon, "/v1/hardware/activate", &json!({ "gpus": gpus })).await
}

async fn ask(daemon: &TestDaemon, model: &str) {
    let mut body = question("well");
    body["model"] = json!(model);
    let (status, answer) = post(daemon, "/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
}

async fn stop(daemon: &TestDaemon, model: &str) {
    let (status, answer) = post(daemon, "/v1/models/stop", &json!({ "model": model })).await;
    assert_eq!(status, 200, "{answer}");
}

/// The models that are loaded, each with its layers on graphics processors and the reason for less than all.
async fn placed(daemon: &TestDaemon) -> Vec<(String, u64, Value)> {
    let (_, models) = get(daemon, LOADED).await;
    let of = |model: &Value| {
        let placement = &model["placement"];
        assert_eq!(placement["layers"], LAYERS, "{model}");
        let layers = placement["device_layers"].as_u64().unwrap();
        (model["id"].as_str().unwrap().to_owned(), layers, placement["reason"].clone())
    };
    models["data"].as_array().unwrap().iter().map(of).collect()
}

async fn fit(daemon: &TestDaemon, more: Value) -> Value {
    let mut body = json!({"model": "a"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, fit) = post(daemon, "/v1/models/fit", &body).await;
    assert_eq!(status, 200, "{fit}");
    fit
}

/// Bytes that all of a model takes on a graphics processor.
async fn needed() -> u64 {
    let machine = Machine::with(&[device("GPU0", "0000:01:00.0", 1 << 30)]);
    let daemon = machine.with_models(&["a"]).await;
    gpus(&daemon).await;
    fit(&daemon, json!({})).await["graphics"]["needed"].as_u64().unwrap()
}

#[tokio::test]
async fn models_use_a_graphics_processor_and_leave_it_for_others() {
    let needed = needed().await;
    let machine = Machine::with(&[device("GPU0", "0000:01:00.0", needed * 3 / 2)]);
    let daemon = machine.with_models(&["a", "b"]).await;
    ask(&daemon, "a").await;
    let listed = gpus(&daemon).await;
    let shown = &listed[0];
    assert_eq!(
        (&shown["id"], &shown["name"], &shown["device"], &shown["activated"], &shown["problem"]),
        (&json!("0"), &json!("Test GPU0"), &json!("GPU0"), &json!(true), &Value::Null),
        "{shown}"
    );
    assert_eq!((&shown["uuid"], &shown["total_vram"]), (&json!("0000:01:00.0"), &json!(2048)), "{shown}");
    let all = u64::from(LAYERS);
    assert_eq!(placed(&daemon).await, [("a".into(), all, Value::Null)]);
    let before = fit(&daemon, json!({})).await;
    assert_eq!(before["verdict"], "it fits on the graphics processor");
    assert!(
        before["needed"].as_u64().unwrap() < before["graphics"]["needed"].as_u64().unwrap() + 100 * MIB,
        "{before}"
    );
    // There is memory for both, but not there: who is idle leaves.
    ask(&daemon, "b").await;
    assert_eq!(placed(&daemon).await, [("b".into(), all, Value::Null)]);
    let (status, body) = post(&daemon, "/v1/models/start", &json!({"model": "b", "pin": true})).await;
    assert_eq!(status, 200, "{body}");
    // Who is pinned stays, and the other takes what is left.
    ask(&daemon, "a").await;
    let both = placed(&daemon).await;
    assert_eq!((both[1].0.as_str(), both[1].1), ("b", all), "{both:?}");
    assert!((1..all).contains(&both[0].1), "{both:?}");
    assert_eq!(both[0].2, format!("{} of its {LAYERS} layers have room there", both[0].1));
    let partly = fit(&daemon, json!({})).await;
    assert_eq!(partly["graphics"]["device_layers"], both[0].1, "{partly}");
    assert!(partly["verdict"].as_str().unwrap().contains("the rest on the processor"), "{partly}");
    // What the settings of a model say is the most.
    stop(&daemon, "a").await;
    let (status, answer) = post(&daemon, "/v1/models/start", &json!({"model": "a", "ngl": 0})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(placed(&daemon).await[0], ("a".into(), 0, json!("`ngl` allows 0 layers")));
    assert_eq!(fit(&daemon, json!({"ngl": 2})).await["graphics"]["device_layers"], 2);
    let (status, answer) = post(&daemon, "/v1/models/start", &json!({"model": "a", "ngl": -2})).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("ngl")), "{answer}");
}

#[tokio::test]
async fn what_was_switched_off_stays_off() {
    let machine = Machine::with(&[device("GPU0", "0000:01:00.0", 1 << 30), device("GPU1", "0000:02:00.0", 1 << 30)]);
    let daemon = machine.with_models(&["a"]).await;
    ask(&daemon, "a").await;
    let all = u64::from(LAYERS);
    for (gpus, status, message, active) in [
        (json!([0, 1]), 200, "The hardware configuration is already up to date.", json!([0, 1])),
        (json!([1]), 200, "The hardware configuration has been activated.", json!([1])),
        (json!(["1"]), 200, "The hardware configuration is already up to date.", json!([1])),
        (json!([2]), 400, "Invalid GPU index provided.", Value::Null),
        (json!([-1]), 400, "Invalid GPU index provided.", Value::Null),
        (json!(["one"]), 400, "Invalid GPU index provided.", Value::Null),
        (json!([0.5]), 400, "Invalid GPU index provided.", Value::Null),
        (json!([[0]]), 400, "Invalid GPU index provided.", Value::Null),
        (json!([]), 200, "The hardware configuration has been activated.", json!([])),
    ] {
        let (found, answer) = activate(&daemon, gpus.clone()).await;
        assert_eq!((found, &answer["message"]), (status, &json!(message)), "{gpus}: {answer}");
        assert_eq!(answer["activated_gpus"], active, "{gpus}: {answer}");
    }
    for (body, status) in [(json!({}), 409), (json!({"gpus": null}), 409), (json!({"gpus": 0}), 400), (json!([]), 400)]
    {
        assert_eq!(post(&daemon, "/v1/hardware/activate", &body).await.0, status, "{body}");
    }
    // What is loaded stays where it is; the next load is elsewhere.
    assert_eq!(placed(&daemon).await[0].1, all);
    stop(&daemon, "a").await;
    ask(&daemon, "a").await;
    let off = placed(&daemon).await;
    assert!(off[0].1 == 0 && off[0].2.as_str().unwrap().contains("switched off"), "{off:?}");
    assert_eq!(fit(&daemon, json!({})).await["graphics"], Value::Null);
    drop(daemon);

    let daemon = machine.start();
    let active: Vec<Value> = gpus(&daemon).await.iter().map(|gpu| gpu["activated"].clone()).collect();
    assert_eq!(active, [json!(false), json!(false)]);
    let said = daemon.cli(&["hardware", "activate", "--gpus", "[1]"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "Activated GPUs: 1", "{said:?}");
    ask(&daemon, "a").await;
    assert_eq!(placed(&daemon).await, [("a".into(), all, Value::Null)]);
    let said = daemon.cli(&["hardware", "activate", "--gpus", "[]"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "Deactivated all GPUs!", "{said:?}");
    // An order to load it is obeyed with what is chosen now.
    let said = daemon.cli(&["models", "start", "a", "--gpus", "0"]).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let (_, models) = get(&daemon, LOADED).await;
    assert_eq!(models["data"][0]["placement"]["devices"][1]["device"], "GPU0", "{models}");
    for wrong in ["", "x", "[0", "0]", "[0,x]"] {
        assert_eq!(
            daemon.cli(&["hardware", "activate", "--gpus", wrong]).output().unwrap().status.code(),
            Some(2),
            "{wrong}"
        );
    }
    // A choice that cannot be read is none, and is told.
    drop(daemon);
    fs_err::write(machine.data().join("state/graphics.json"), "{").unwrap();
    let daemon = machine.start();
    assert!(gpus(&daemon).await.iter().all(|gpu| gpu["activated"] == true));
    let doctor = daemon.cli(&["doctor"]).output().unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("graphics.json cannot be understood"), "{doctor:?}");
    // A folder in its place stays as it is, and so does the choice.
    drop(daemon);
    fs_err::remove_file(machine.data().join("state/graphics.json")).unwrap();
    fs_err::create_dir_all(machine.data().join("state/graphics.json/x")).unwrap();
    // What a killed daemon left behind goes.
    let scratch = machine.data().join("cache/speed-1.gguf");
    fs_err::write(&scratch, "x").unwrap();
    let daemon = machine.start();
    gpus(&daemon).await;
    let (status, answer) = activate(&daemon, json!([])).await;
    assert!(status == 500 && answer["message"].as_str().unwrap().contains("nothing was changed"), "{answer}");
    assert!(gpus(&daemon).await.iter().all(|gpu| gpu["activated"] == true));
    assert!(!scratch.exists());
}

#[tokio::test]
async fn what_does_not_work_is_not_used_and_told() {
    let broken = Machine::with(&[device("broken0", "0000:01:00.0", 1 << 30)]);
    let daemon = broken.with_models(&["a"]).await;
    ask(&daemon, "a").await;
    let fault = "a trial failed: it computes nonsense";
    assert_eq!(placed(&daemon).await, [("a".into(), 0, json!(format!("Test broken0: {fault}")))]);
    let listed = gpus(&daemon).await;
    assert_eq!((&listed[0]["activated"], &listed[0]["problem"]), (&json!(false), &json!(fault)), "{listed:?}");
    let (_, answer) = activate(&daemon, json!([0])).await;
    assert_eq!(answer["activated_gpus"], json!([]), "{answer}");
    let doctor = daemon.cli(&["doctor"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&doctor.stdout).contains(&format!("Test broken0: not used: {fault}")),
        "{doctor:?}"
    );

    let crashing = Machine::with(&[]);
    let daemon = crashing.with_models(&["a"]).await;
    ask(&daemon, "a").await;
    assert!(gpus(&daemon).await.is_empty());
    let (_, machine) = get(&daemon, "/v1/hardware").await;
    let problem = machine["gpu_problems"].as_array().unwrap().iter().any(|it| it.as_str().unwrap().contains("SIGABRT"));
    assert!(problem, "{machine}");
    let placed = placed(&daemon).await;
    assert!(placed[0].2.as_str().unwrap().contains("found no graphics processor"), "{placed:?}");
}

#[tokio::test]
async fn one_without_memory_of_its_own_counts_in_the_memory_of_the_machine() {
    let integrated = Device { is_integrated: true, ..device("GPU0", "", 1 << 30) };
    let machine = Machine::with(&[integrated]);
    let daemon = machine.with_models(&["a"]).await;
    gpus(&daemon).await;
    let with = fit(&daemon, json!({})).await;
    let without = fit(&daemon, json!({"ngl": 0})).await;
    assert_eq!(
        (&with["graphics"]["budget"], &with["graphics"]["device_layers"]),
        (&Value::Null, &json!(LAYERS)),
        "{with}"
    );
    assert!(with["needed"].as_u64() > without["needed"].as_u64(), "{with} {without}");
    ask(&daemon, "a").await;
    let (_, models) = get(&daemon, LOADED).await;
    assert_eq!(models["data"][0]["reserved"], with["needed"], "{models}");
    assert_eq!(Path::new(models["data"][0]["placement"]["devices"][1]["device"].as_str().unwrap()), Path::new("GPU0"));
}
