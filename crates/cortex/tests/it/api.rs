use crate::http::{Events, MODEL, fold, get, import, post, question};
use cortex_test::{daemon::TestDaemon, dist};
use serde_json::json;

#[tokio::test]
async fn a_chat_request_alone_loads_the_model_and_answers() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let (status, body) =
        post(&daemon, "/v1/chat/completions", &question("What is the capital of France? Answer in one sentence."))
            .await;
    assert_eq!(status, 200, "{body}");
    assert!(body["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{body}");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let usage = &body["usage"];
    assert_eq!(
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap(),
        usage["total_tokens"].as_u64().unwrap()
    );
    assert!(body["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0);
    let mut streamed = question("What is the capital of France? Answer in one sentence.");
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let events = Events::open(&daemon, &streamed).await.1.rest().await;
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let (text, reason, usage) = fold(&events);
    assert_eq!(Some(text.as_str()), body["choices"][0]["message"]["content"].as_str());
    assert_eq!(reason.as_deref(), Some("stop"));
    assert!(usage.unwrap()["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 10);
}

#[tokio::test]
async fn what_is_wrong_is_told_before_a_stream_begins() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let mut long = question(&"word ".repeat(9000));
    for stream in [false, true] {
        long["stream"] = json!(stream);
        let (status, body) = post(&daemon, "/v1/chat/completions", &long).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("context_length_exceeded")), "{body}");
        assert!(body["message"].as_str().unwrap().contains("8192"), "{body}");
    }
    let mut unknown = question("x");
    unknown["model"] = json!("nobody");
    let (status, body) = post(&daemon, "/v1/chat/completions", &unknown).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(body["error"]["message"], body["message"]);
    let mut hot = question("x");
    hot["temperature"] = json!(99);
    let (status, body) = post(&daemon, "/v1/chat/completions", &hot).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("temperature")));
}

#[tokio::test]
async fn models_are_listed_started_and_stopped() {
    let daemon = TestDaemon::start();
    assert_eq!(get(&daemon, "/inferences/server/models").await.1["data"], json!([]));
    import(&daemon).await;
    let (_, list) = get(&daemon, "/models?limit=-1").await;
    assert_eq!((list["data"][0]["id"].as_str(), list["data"][0]["state"].as_str()), (Some(MODEL), Some("ready")));
    assert_eq!(get(&daemon, &format!("/v1/models/status/{MODEL}")).await.0, 400);
    assert_eq!(
        post(&daemon, "/v1/models/start", &json!({"model": MODEL, "ctx_len": 512, "n_parallel": 1})).await.0,
        200
    );
    assert_eq!(get(&daemon, &format!("/v1/models/status?id={MODEL}")).await.0, 200);
    let (_, loaded) = get(&daemon, "/inferences/server/models").await;
    assert_eq!(loaded["data"][0]["context_length"], 512, "{loaded}");
    assert_eq!(get(&daemon, &format!("/v1/models/{MODEL}")).await.1["state"], "loaded");
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": MODEL})).await.0, 200);
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": MODEL})).await.0, 400);
    let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": "x"})).await;
    assert_eq!((status, body["message"].as_str()), (409, Some("No modelPath field in request body")));
}

#[tokio::test]
async fn other_weights_answer_otherwise() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let path = daemon.scratch().join("random.gguf");
    let mut bytes = fs_err::read(dist::model()).unwrap();
    let gguf = cortex_models::Gguf::open(&dist::model()).unwrap();
    // Q4_1: the scales stay, every weight becomes another.
    for tensor in gguf.tensors.iter().filter(|tensor| tensor.kind == 3 && tensor.name.starts_with("blk.")) {
        let start = usize::try_from(gguf.data_offset + tensor.offset).unwrap();
        let end = start + usize::try_from(tensor.bytes).unwrap();
        for (at, byte) in bytes[start..end].iter_mut().enumerate() {
            if at % 20 >= 4 {
                *byte = byte.wrapping_mul(167).wrapping_add(u8::try_from(at % 251).unwrap());
            }
        }
    }
    fs_err::write(&path, bytes).unwrap();
    assert_eq!(post(&daemon, "/v1/models/import", &json!({"model": "random", "modelPath": path})).await.0, 200);
    let mut ask = question("What is the capital of France? Answer in one sentence.");
    let real = post(&daemon, "/v1/chat/completions", &ask).await.1;
    ask["model"] = json!("random");
    let random = post(&daemon, "/v1/chat/completions", &ask).await.1;
    assert!(real["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{real}");
    assert!(!random["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{random}");
}

#[tokio::test]
async fn eight_streams_do_not_mix() {
    let daemon = TestDaemon::with(cortex_test::daemon::Options {
        settings: Some("parallel: 8\ncontextLength: 512\n".into()),
        ..Default::default()
    });
    import(&daemon).await;
    let words = ["violin", "pumpkin", "dolphin", "volcano", "umbrella", "penguin", "cactus", "lantern"];
    let request = |word: &str| {
        let mut body = question(&format!("Write a sentence that contains the word {word}."));
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        body
    };
    let mut alone = Vec::new();
    for word in words {
        let mut body = request(word);
        body["deterministic"] = json!(true);
        alone.push(fold(&Events::open(&daemon, &body).await.1.rest().await).0);
    }
    let together = futures::future::join_all(words.map(|word| {
        let (daemon, body) = (&daemon, request(word));
        async move { fold(&Events::open(daemon, &body).await.1.rest().await) }
    }))
    .await;
    let mut own = 0;
    for (at, (text, reason, usage)) in together.iter().enumerate() {
        assert!(reason.is_some() && usage.is_some(), "{text}");
        let lower = text.to_lowercase();
        for (other, word) in words.iter().enumerate() {
            assert!(other == at || !lower.contains(word), "{word} in the answer about {}: {text}", words[at]);
        }
        let holds_own = lower.contains(words[at]);
        own += usize::from(holds_own);
        assert!(holds_own || *text == alone[at], "{}: {text} / {}", words[at], alone[at]);
    }
    assert!(own >= 6, "only {own} answers hold their own word");
}
