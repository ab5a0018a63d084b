//! What is predicted of a model's memory, against what llama.cpp reports once it is loaded.

use crate::http::{MODEL, get, import, post};
use cortex_test::{
    daemon::{Options, TestDaemon},
    gguf::{GgufBuilder, Size},
};
use serde_json::{Value, json};

/// Loads a model as it was predicted, and returns both: what was predicted, and what was reported.
async fn both(daemon: &TestDaemon, model: &str, (context, parallel): (u32, u32)) -> (Value, Value) {
    let asked = json!({"model": model, "ctx_len": context, "n_parallel": parallel});
    let (status, fit) = post(daemon, "/v1/models/fit", &asked).await;
    assert_eq!(status, 200, "{fit}");
    let (status, started) = post(daemon, "/v1/models/start", &asked).await;
    assert_eq!(status, 200, "{started}");
    let (_, loaded) = get(daemon, "/inferences/server/models").await;
    let loaded = loaded["data"].as_array().unwrap().iter().find(|it| it["id"] == model).unwrap().clone();
    assert_eq!(loaded["context_length"], context, "{loaded}");
    let (status, _) = post(daemon, "/v1/models/stop", &json!({"model": model})).await;
    assert_eq!(status, 200);
    (fit, loaded)
}

#[track_caller]
fn near(fit: &Value, loaded: &Value, kind: &str, percent: f64) {
    let of = |it: &Value| it["memory"][kind].as_f64().unwrap();
    let (predicted, reported) = (of(fit), of(loaded));
    // Reports are rounded to hundredths of a MiB.
    let off = (predicted - reported).abs();
    assert!(
        off <= (reported * percent / 100.0).max(8192.0),
        "{kind}: {predicted} predicted, {reported} reported\n{fit}"
    );
}

#[tokio::test]
async fn what_is_predicted_of_the_small_model_is_what_it_takes() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    for run in [(512, 1), (2048, 1), (8192, 1), (512, 8), (2048, 8)] {
        let (fit, loaded) = both(&daemon, MODEL, run).await;
        near(&fit, &loaded, "weights", 1.0);
        near(&fit, &loaded, "cache", 1.0);
        near(&fit, &loaded, "compute", 10.0);
        near(&fit, &loaded, "output", 10.0);
        let sum = |it: &Value| it["memory"].as_object().unwrap().values().filter_map(Value::as_f64).sum::<f64>();
        assert!((sum(&fit) - sum(&loaded)).abs() <= sum(&loaded) * 0.05, "{run:?}: {fit} {loaded}");
        assert_eq!((&fit["fits"], &fit["trained_context"]), (&json!(true), &json!(8192)));
    }
}

#[tokio::test]
async fn when_memory_runs_out_the_kernel_takes_a_worker_and_not_the_daemon() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let (status, started) = post(&daemon, "/v1/models/start", &json!({"model": MODEL, "ctx_len": 512})).await;
    assert_eq!(status, 200, "{started}");
    let (_, loaded) = get(&daemon, "/inferences/server/models").await;
    let adjustment = |pid: u64| -> i32 {
        fs_err::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    assert_eq!(adjustment(loaded["data"][0]["pid"].as_u64().unwrap()), 1000);
    assert!(adjustment(daemon.pid().into()) < 1000);
}

#[tokio::test]
async fn models_of_other_proportions_are_predicted_too() {
    let daemon = TestDaemon::start();
    let usual = Size {
        vocabulary: 1000,
        embedding: 256,
        feed_forward: 2048,
        layers: 2,
        heads: 8,
        kept_heads: 2,
        context: 8192,
    };
    for (name, size) in [
        ("wide-inside", usual),
        ("many-tokens", Size { vocabulary: 64_000, embedding: 128, feed_forward: 512, ..usual }),
        ("many-heads", Size { kept_heads: 8, feed_forward: 1024, layers: 6, ..usual }),
    ] {
        let path = daemon.scratch().join(format!("{name}.gguf"));
        fs_err::write(&path, GgufBuilder::llama_of(size).build()).unwrap();
        let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": name, "modelPath": path})).await;
        assert_eq!(status, 200, "{body}");
        for run in [(1024, 1), (8192, 2)] {
            let (fit, loaded) = both(&daemon, name, run).await;
            near(&fit, &loaded, "weights", 1.0);
            near(&fit, &loaded, "cache", 1.0);
            near(&fit, &loaded, "compute", 10.0);
        }
    }
}

#[tokio::test]
async fn a_model_that_is_too_large_is_told_with_what_would_fit() {
    let daemon = TestDaemon::with(Options::default());
    import(&daemon).await;
    // A gigabyte of cells for each of so many requests.
    let asked = json!({"model": MODEL, "ctx_len": 8192, "n_parallel": 64});
    let (status, fit) = post(&daemon, "/v1/models/fit", &asked).await;
    assert_eq!(status, 200, "{fit}");
    let fits = fit["needed"].as_u64().unwrap() <= fit["budget"].as_u64().unwrap();
    assert_eq!(fit["fits"], fits, "{fit}");
    assert_eq!(fit["verdict"].as_str().unwrap().starts_with("it fits"), fits, "{fit}");
    let one = post(&daemon, "/v1/models/fit", &json!({"model": MODEL})).await.1;
    assert!(one["memory"]["cache"].as_u64() < fit["memory"]["cache"].as_u64(), "{one}");
    for (body, status) in [
        (json!({}), 409),
        (json!({"model": "nobody"}), 404),
        (json!({"model": MODEL, "ctx_len": 0}), 400),
        (json!({"model": MODEL, "n_parallel": 65}), 400),
    ] {
        let (answered, answer) = post(&daemon, "/v1/models/fit", &body).await;
        assert_eq!(answered, status, "{body}: {answer}");
    }
    let shown = daemon.cli(&["fit", MODEL, "--ctx", "1024", "--parallel", "1"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.contains("context, 1 × 1024 tokens") && text.ends_with("it fits; models run on the processor\n"),
        "{text}"
    );
}
