//! What is predicted of a model's memory, against what llama.cpp reports once it is loaded.

use crate::{
    http::{MODEL, get, import, post, until},
    registry::send,
};
use cortex_hardware::process_anonymous_bytes;
use cortex_test::{
    daemon::{Options, TestDaemon},
    dist,
    gguf::{GgufBuilder, Size},
    hub::FakeHub,
    made,
};
use serde_json::{Value, json};

/// Loads a model as it was predicted, and returns both: what was predicted, and what was reported.
async fn both(daemon: &TestDaemon, model: &str, (context, parallel): (u32, u32), cache_type: &str) -> (Value, Value) {
    let asked = json!({"model": model, "ctx_len": context, "n_parallel": parallel, "cache_type": cache_type});
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
    for (run, cache_type) in [
        ((512, 1), "f16"),
        ((2048, 1), "f16"),
        ((8192, 1), "f16"),
        ((512, 8), "f16"),
        ((2048, 8), "f16"),
        ((512, 1), "q8_0"),
        ((8192, 1), "q8_0"),
        ((2048, 8), "q8_0"),
        ((2048, 1), "q4_0"),
    ] {
        let (fit, loaded) = both(&daemon, MODEL, run, cache_type).await;
        assert_eq!(fit["cache_type"], cache_type);
        near(&fit, &loaded, "weights", 1.0);
        near(&fit, &loaded, "cache", 1.0);
        near(&fit, &loaded, "compute", 10.0);
        // At the load there is room for a result of each sequence; it grows when guesses are first computed with them.
        let (_, sequences) = run;
        let output = |it: &Value| it["memory"]["output"].as_f64().unwrap();
        let grown = output(&loaded) * f64::from(sequences + 16) / f64::from(sequences);
        assert!((output(&fit) - grown).abs() < grown * 0.1, "{run:?}: {fit} {loaded}");
        let sum = |it: &Value| it["memory"].as_object().unwrap().values().filter_map(Value::as_f64).sum::<f64>();
        assert!((sum(&fit) - sum(&loaded)).abs() <= sum(&loaded) * 0.05, "{run:?}: {fit} {loaded}");
        assert_eq!((&fit["fits"], &fit["trained_context"]), (&json!(true), &json!(8192)));
    }
}

#[tokio::test]
async fn the_list_says_of_models_that_are_known_whether_they_fit() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let entry = async || get(&daemon, "/v1/models").await.1["data"][0].clone();
    assert_eq!(entry().await["compatibility"], Value::Null, "no file is opened for it");
    let fit = post(&daemon, "/v1/models/fit", &json!({"model": MODEL})).await.1;
    let known = entry().await;
    let compatibility = &known["compatibility"];
    assert_eq!(
        (&compatibility["verdict"], &compatibility["needed"], &compatibility["context_length"]),
        (&json!("fits_on_cpu"), &fit["needed"], &fit["context_length"]),
        "{known}"
    );
    let mebibytes = fit["needed"].as_u64().unwrap().div_ceil(1 << 20);
    assert_eq!(known["recommendation"], json!({"cpu_mode": {"ram": mebibytes}, "gpu_mode": []}), "{known}");
    assert_eq!(get(&daemon, &format!("/v1/models/{MODEL}")).await.1["compatibility"], *compatibility);
    // What was only asked for is another question.
    post(&daemon, "/v1/models/fit", &json!({"model": MODEL, "ctx_len": 512})).await;
    assert_eq!(entry().await["compatibility"], *compatibility);
    assert_eq!(post(&daemon, "/v1/models/start", &json!({"model": MODEL, "ctx_len": 512})).await.0, 200);
    assert_eq!(entry().await["compatibility"], *compatibility);
    // What its settings say is not.
    let (status, patched) =
        send(&daemon, "PATCH", &format!("/v1/models/{MODEL}"), Some(&json!({"ctx_len": 700}))).await;
    assert_eq!(status, 200, "{patched}");
    assert_eq!(entry().await["compatibility"]["context_length"], 700);
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
            let (fit, loaded) = both(&daemon, name, run, "f16").await;
            near(&fit, &loaded, "weights", 1.0);
            near(&fit, &loaded, "cache", 1.0);
            near(&fit, &loaded, "compute", 10.0);
        }
    }
}

#[tokio::test]
async fn models_with_states_and_layers_that_guess_take_what_is_predicted() {
    let daemon = TestDaemon::start();
    for (name, file) in [("hybrid", made::hybrid()), ("predicting", made::predicting())] {
        let path = daemon.scratch().join(format!("{name}.gguf"));
        fs_err::write(&path, file).unwrap();
        let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": name, "modelPath": path})).await;
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(send(&daemon, "PATCH", "/v1/models/predicting", Some(&json!({"mtp": true}))).await.0, 200);
    for (name, context, parallel) in [("hybrid", 2048, 8), ("predicting", 512, 1), ("predicting", 2048, 32_usize)] {
        let asked = json!({"model": name, "ctx_len": context, "n_parallel": parallel});
        let (_, fit) = post(&daemon, "/v1/models/fit", &asked).await;
        assert_eq!(post(&daemon, "/v1/models/start", &asked).await.0, 200);
        // Half of the context for each place.
        let asked = json!({"model": name, "prompt": "To be or not. ".repeat(context / 40), "n": parallel.min(8), "max_tokens": 64, "ignore_eos": true, "temperature": 0});
        for _ in 0..parallel.div_ceil(8) {
            let (status, body) = post(&daemon, "/v1/completions", &asked).await;
            assert_eq!(status, 200, "{body}");
        }
        let (_, loaded) = get(&daemon, "/inferences/server/models").await;
        let loaded = loaded["data"].as_array().unwrap().iter().find(|it| it["id"] == name).unwrap().clone();
        near(&fit, &loaded, "cache", 1.0);
        near(&fit, &loaded, "compute", 50.0);
        let taken = process_anonymous_bytes(u32::try_from(loaded["pid"].as_u64().unwrap()).unwrap());
        let needed = fit["needed"].as_u64().unwrap();
        // Of the room for earlier states a little is used.
        assert!(needed > taken * 9 / 10 && needed < taken * 3 / 2 + (8 << 20), "{taken} taken\n{fit}\n{loaded}");
        assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": name})).await.0, 200);
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
        (json!({"model": MODEL, "ctx_len": -1}), 400),
        (json!({"model": "/no/such/file.gguf"}), 400),
        (json!({"model": "/etc/hostname"}), 400),
        (json!({"model": MODEL, "n_parallel": 65}), 400),
    ] {
        let (answered, answer) = post(&daemon, "/v1/models/fit", &body).await;
        assert_eq!(answered, status, "{body}: {answer}");
    }
    // All of a model's context is given to who means it, and not to who only sends it back.
    let daemon = TestDaemon::with(Options { settings: Some("contextLength: 1024\n".into()), ..Options::default() });
    import(&daemon).await;
    for (body, context) in [
        (json!({"model": MODEL, "ctx_len": 8192, "n_parallel": 1}), 1024),
        (json!({"model": MODEL, "ctx_len": 0, "n_parallel": 1}), 1024),
        (json!({"model": MODEL, "ctx_len": 8192, "n_parallel": 1, "exact": true}), 8192),
    ] {
        assert_eq!(post(&daemon, "/v1/models/fit", &body).await.1["context_length"], context, "{body}");
        assert_eq!(post(&daemon, "/v1/models/start", &body).await.1["context_length"], context, "{body}");
    }
    let shown = daemon.cli(&["fit", MODEL, "--ctx", "1024", "--parallel", "1"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    // A file that is no model yet, by a path from where the command runs.
    let file = dist::model();
    let mut command =
        daemon.cli(&["fit", file.file_name().unwrap().to_str().unwrap(), "--ctx", "100000", "--parallel", "1"]);
    let of_file = command.current_dir(file.parent().unwrap()).output().unwrap();
    let of_file = String::from_utf8_lossy(&of_file.stdout).into_owned();
    assert!(
        of_file.contains("1 × 8192 tokens") && of_file.contains("trained with 8192 tokens of context"),
        "{of_file}"
    );
    assert!(
        text.contains("context, 1 × 1024 tokens") && text.contains("\nit fits; models run on the processor\n"),
        "{text}"
    );
}

#[tokio::test]
async fn models_on_the_hub_are_predicted_from_the_first_bytes_of_their_files() {
    let hub = FakeHub::start();
    let size = Size {
        vocabulary: 64_000,
        embedding: 128,
        feed_forward: 512,
        layers: 4,
        heads: 8,
        kept_heads: 8,
        context: 8192,
    };
    let file = || GgufBuilder::llama_of(size).build();
    for kind in ["Q4_K_M", "Q8_0", "Q2_K"] {
        hub.add_file("maker/many-tokens-GGUF", "main", &format!("many-tokens-{kind}.gguf"), file());
    }
    hub.add_file("maker/real-GGUF", "main", "real-Q4_1.gguf", fs_err::read(dist::model()).unwrap());
    hub.add_file("maker/empty", "main", "README.md", "# Nothing");
    let daemon = TestDaemon::with(Options {
        environment: vec![("HF_ENDPOINT".into(), hub.url().into())],
        settings: Some(format!("allowedDownloadHosts: ['{}']\n", hub.content_url())),
        ..Options::default()
    });
    let ask = |body: Value| {
        let daemon = &daemon;
        async move { post(daemon, "/v1/models/fit", &body).await }
    };

    // One header tells of all quantisations, and its tokens are not read.
    let (status, list) = ask(json!({"model": "maker/many-tokens-GGUF", "ctx_len": 1024, "n_parallel": 1})).await;
    assert_eq!(status, 200, "{list}");
    assert!((1..=256 << 10).contains(&hub.bytes_sent()), "{} bytes", hub.bytes_sent());
    assert_eq!(list["data"].as_array().unwrap().len(), 3, "{list}");
    assert_eq!(list["recommended"], "maker:many-tokens-GGUF:many-tokens-Q4_K_M.gguf", "{list}");
    // The second question asks for no header again.
    hub.reset_bytes_sent();
    let (_, again) = ask(json!({"model": "maker/many-tokens-GGUF:Q8_0", "ctx_len": 1024, "n_parallel": 1})).await;
    assert_eq!((&again["object"], &again["quantization"]), (&json!("fit"), &json!("Q8_0")), "{again}");
    assert_eq!(hub.bytes_sent(), 0);

    // What is predicted before a download is what is predicted of the file.
    for (name, path) in
        [("maker:many-tokens-GGUF:many-tokens-Q8_0.gguf", None), ("maker/real-GGUF:Q4_1", Some(dist::model()))]
    {
        let path = path.unwrap_or_else(|| {
            let path = daemon.scratch().join("here.gguf");
            fs_err::write(&path, file()).unwrap();
            path
        });
        let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": "here", "modelPath": path})).await;
        assert_eq!(status, 200, "{body}");
        let size = |model: &str| json!({"model": model, "ctx_len": 2048, "n_parallel": 2});
        let ((_, there), (_, here)) = (ask(size(name)).await, ask(size("here")).await);
        for kind in ["cache", "compute", "output"] {
            assert_eq!(there["memory"][kind], here["memory"][kind], "{there} {here}");
        }
        near(&there, &here, "weights", 3.0);
        assert_eq!((&there["process"], &there["trained_context"]), (&here["process"], &here["trained_context"]));
        assert_eq!(crate::registry::send(&daemon, "DELETE", "/v1/models/here", None).await.0, 200);
    }

    let shown = daemon.cli(&["fit", "maker/many-tokens-GGUF"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.lines().any(|line| line.contains("Q4_K_M") && line.contains("yes") && line.ends_with("recommended")),
        "{text}"
    );
    for (name, status, code) in [
        ("maker/empty", 400, "not_gguf"),
        ("maker/many-tokens-GGUF:Q5_K_M", 400, "no_such_file"),
        ("maker/nothing-like-it", 400, "model_not_found"),
        ("not-here", 404, "model_not_found"),
    ] {
        let (answered, body) = ask(json!({"model": name})).await;
        println!("{name}: {answered} {body}");
        assert_eq!((answered, &body["error"]["code"]), (status, &json!(code)), "{name}: {body}");
    }
}

#[tokio::test]
async fn a_model_whose_tokenizer_comes_first_is_read_further() {
    let hub = FakeHub::start();
    let size =
        Size { vocabulary: 60_000, embedding: 64, feed_forward: 64, layers: 2, heads: 2, kept_heads: 2, context: 4096 };
    hub.add_file("maker/late", "main", "late-Q8_0.gguf", GgufBuilder::llama_of(size).keys_last("llama.").build());
    let daemon = TestDaemon::with(Options {
        environment: vec![("HF_ENDPOINT".into(), hub.url().into())],
        settings: Some(format!("allowedDownloadHosts: ['{}']\n", hub.content_url())),
        ..Options::default()
    });
    let (status, fit) = post(&daemon, "/v1/models/fit", &json!({"model": "maker/late:Q8_0"})).await;
    assert_eq!((status, &fit["trained_context"]), (200, &json!(4096)), "{fit}");
    assert!(hub.bytes_sent() > 256 << 10, "{} bytes", hub.bytes_sent());
}

#[tokio::test]
async fn the_speed_is_measured_when_somebody_asks_and_corrected_by_answers() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let asked = json!({"model": MODEL});
    let first = post(&daemon, "/v1/models/fit", &asked).await.1;
    assert_eq!((&first["speed"], &first["speed_pending"]), (&Value::Null, &json!(true)), "{first}");
    let said = daemon.cli(&["fit", MODEL]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("tokens a second of an answer") && said.contains("estimated"), "{said}");
    let known = post(&daemon, "/v1/models/fit", &asked).await.1;
    // Other tests run beside this one, which is told.
    let source = known["speed"]["source"].as_str().unwrap();
    assert!(source.starts_with("estimated") && known["speed_pending"] == false, "{known}");
    for field in ["prompt_per_second", "predicted_per_second"] {
        assert!(known["speed"][field].as_f64().unwrap() > 0.0, "{known}");
    }
    let body = json!({"model": MODEL, "prompt": "well", "max_tokens": 32, "ignore_eos": true});
    let (status, answer) = post(&daemon, "/v1/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    until(&daemon, "/inferences/server/models", |models| models["data"][0]["requests"] == 0).await;
    let corrected = post(&daemon, "/v1/models/fit", &asked).await.1;
    assert_eq!(corrected["speed"]["source"], "measured", "{corrected}");
}
