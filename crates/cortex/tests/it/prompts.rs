//! Beginnings of prompts that outlive the daemon, and answers that are guessed ahead.

use crate::http::{MODEL, client, import, post, question};
use cortex_test::{
    daemon::{Options, TestDaemon},
    gguf::{self, GgufBuilder, Size},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A chat with a system prompt of some 400 tokens.
fn chat(edition: usize, text: &str) -> Value {
    let rules: Vec<String> = (1..=20)
        .map(|number| {
            format!("Rule {number} of edition {edition}: ships of {number} masts pay {} coins.", number * edition)
        })
        .collect();
    let mut body = question(text);
    body["messages"].as_array_mut().unwrap().insert(0, json!({"role": "system", "content": rules.join(" ")}));
    body["max_tokens"] = json!(4);
    body
}

async fn timings(daemon: &TestDaemon, body: &Value) -> Value {
    let (status, body) = post(daemon, "/v1/chat/completions", body).await;
    assert_eq!(status, 200, "{body}");
    body["timings"].clone()
}

/// Files of beginnings.
fn kept(daemon: &TestDaemon) -> Vec<PathBuf> {
    let inside = |folder: &Path| -> Vec<PathBuf> {
        fs_err::read_dir(folder).map(|all| all.map(|it| it.unwrap().path()).collect()).unwrap_or_default()
    };
    let models = inside(&daemon.data().join("cache/prompts"));
    models.iter().flat_map(|model| inside(model)).flat_map(|key| inside(&key)).collect()
}

async fn stop(daemon: &TestDaemon) {
    let (status, body) = post(daemon, "/v1/models/stop", &json!({"model": MODEL})).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_beginning_outlives_the_model_in_memory_and_goes_with_the_model() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    assert_eq!(timings(&daemon, &chat(1, "Who pays?")).await["cache_n"], 0);
    stop(&daemon).await;
    assert_eq!(kept(&daemon).len(), 1);
    let again = timings(&daemon, &chat(1, "What do ships of seven masts pay?")).await;
    assert!(again["restored_n"].as_u64().unwrap() > 256 && again["restored_n"] == again["cache_n"], "{again}");
    let metrics = client().get(daemon.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(&format!("cortex_restored_prompt_tokens_total {}", again["restored_n"])), "{metrics}");
    // Who wants nothing kept finds nothing and leaves nothing.
    let mut private = chat(1, "Who pays?");
    private["cache_prompt"] = json!(false);
    assert_eq!(timings(&daemon, &private).await["cache_n"], 0);
    let mut private = chat(2, "Who pays?");
    private["cache_prompt"] = json!(false);
    timings(&daemon, &private).await;
    assert_eq!(timings(&daemon, &chat(2, "Who pays?")).await.get("restored_n"), None);
    let answer = client().delete(daemon.url(&format!("/v1/models/{MODEL}"))).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(kept(&daemon), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn nothing_is_kept_when_that_is_switched_off() {
    let daemon = TestDaemon::with(Options { settings: Some("promptCacheBytes: 0\n".into()), ..Options::default() });
    import(&daemon).await;
    timings(&daemon, &chat(3, "Who pays?")).await;
    stop(&daemon).await;
    assert_eq!(kept(&daemon), Vec::<PathBuf>::new());
    assert_eq!(timings(&daemon, &chat(3, "Who pays?")).await["cache_n"], 0);
}

#[tokio::test]
async fn each_of_several_keys_has_beginnings_of_its_own() {
    let settings = "apiKeys: [first-key, second-key]\n";
    let daemon = TestDaemon::with(Options { settings: Some(settings.into()), ..Options::default() });
    let send = async |key: &str, path: &str, body: &Value| -> Value {
        let answer = client().post(daemon.url(path)).bearer_auth(key).json(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    };
    let import = json!({"model": MODEL, "modelPath": cortex_test::dist::model()});
    send("first-key", "/v1/models/import", &import).await;
    let chats = "/v1/chat/completions";
    let cached =
        async |key: &str| send(key, chats, &chat(4, "Who pays?")).await["timings"]["cache_n"].as_u64().unwrap();
    assert_eq!(cached("first-key").await, 0);
    assert_eq!(cached("second-key").await, 0);
    assert!(cached("first-key").await > 256);
    send("first-key", "/v1/models/stop", &json!({"model": MODEL})).await;
    assert!(cached("second-key").await > 256);
    assert_eq!(kept(&daemon).len(), 2);
}

#[tokio::test]
async fn what_an_answer_is_like_is_guessed_from() {
    // Guesses are made where they pay, which on a busy machine they may not.
    let cheap = vec![("CORTEX_TEST_ENTRY_COST".into(), "20".into())];
    let daemon = TestDaemon::with(Options { environment: cheap, ..Options::default() });
    import(&daemon).await;
    let mut body = question("What is the capital of France? Answer in one sentence.");
    let (_, plain) = post(&daemon, "/v1/chat/completions", &body).await;
    let text = plain["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    body["prediction"] = json!({"type": "content", "content": text});
    let (status, guessed) = post(&daemon, "/v1/chat/completions", &body).await;
    assert_eq!((status, &guessed["choices"][0]["message"]["content"]), (200, &json!(text)));
    assert!(guessed["timings"]["draft_n_accepted"].as_u64().unwrap_or(0) > 0, "{guessed}");
    let details = &guessed["usage"]["completion_tokens_details"];
    assert_eq!(details["accepted_prediction_tokens"], guessed["timings"]["draft_n_accepted"], "{guessed}");
    body["speculative.n_max"] = json!(0);
    let (_, off) = post(&daemon, "/v1/chat/completions", &body).await;
    assert_eq!(off["timings"].get("draft_n"), None, "{off}");
    assert_eq!(off.get("warnings"), None, "{off}");
    // More than fits is not looked at, nor does it hold up anybody.
    let mut long = question("What is the capital of France? Answer in one sentence.");
    long["prediction"] = json!({"type": "content", "content": "é".repeat(10_000_000)});
    assert_eq!(post(&daemon, "/v1/chat/completions", &long).await.0, 200);
    let (status, refused) = post(&daemon, "/v1/chat/completions", &question(&"x".repeat(30_000_000))).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("context_length_exceeded")), "{refused}");
    assert_eq!(refused["error"]["param"], "messages", "{refused}");
    let text = json!({"model": MODEL, "prompt": "x".repeat(30_000_000)});
    let (status, refused) = post(&daemon, "/v1/completions", &text).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("context_length_exceeded")), "{refused}");
    assert_eq!(refused["error"]["param"], "prompt", "{refused}");
    for (field, value) in [
        ("prediction", json!("text")),
        ("prediction", json!({"type": "content", "content": 1})),
        ("speculative.n_max", json!(-1)),
    ] {
        let mut wrong = question("x");
        wrong[field] = value;
        let (status, answer) = post(&daemon, "/v1/chat/completions", &wrong).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{answer}");
    }
}

#[tokio::test]
async fn an_echo_stands_in_front_of_each_answer() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let mut body = json!({"model": MODEL, "prompt": ["One, two,", "A, b,"], "n": 2, "temperature": 0, "max_tokens": 3});
    let (_, plain) = post(&daemon, "/v1/completions", &body).await;
    body["echo"] = json!(true);
    let (status, echoed) = post(&daemon, "/v1/completions", &body).await;
    assert_eq!(status, 200, "{echoed}");
    let text = |of: &Value, index: usize| of["choices"][index]["text"].as_str().unwrap().to_owned();
    for (index, prompt) in ["One, two,", "One, two,", "A, b,", "A, b,"].into_iter().enumerate() {
        assert_eq!(text(&echoed, index), format!("{prompt}{}", text(&plain, index)));
    }
    body["stream"] = json!(true);
    let answer = client().post(daemon.url("/v1/completions")).json(&body).send().await.unwrap().text().await.unwrap();
    let mut texts = vec![String::new(); 4];
    for chunk in answer.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok()) {
        let choice = &chunk["choices"][0];
        texts[usize::try_from(choice["index"].as_u64().unwrap()).unwrap()] += choice["text"].as_str().unwrap();
    }
    assert_eq!(texts, [0, 1, 2, 3].map(|index| text(&echoed, index)));
    for (field, value) in
        [("prompt", json!([1, 2])), ("prompt", json!([[1, 2], [3]])), ("logprobs", json!(1)), ("n_probs", json!(1))]
    {
        let mut wrong = body.clone();
        wrong[field] = value;
        let (status, answer) = post(&daemon, "/v1/completions", &wrong).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("echo")), "{answer}");
    }
}

#[tokio::test]
async fn a_gap_is_filled_by_models_that_have_tokens_for_it() {
    let daemon = TestDaemon::start();
    let path = daemon.scratch().join("fills.gguf");
    // Three special tokens, one for each byte, and those around a gap.
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let special = |names: [&str; 3]| names.map(str::to_owned).into_iter();
    let tokens = special(["<unk>", "<s>", "</s>"]).chain(bytes).chain(special(["<pre>", "<suf>", "<mid>"])).collect();
    let kinds = [2, 3, 3].into_iter().chain([6; 256]).chain([3; 3]).collect();
    let size =
        Size { vocabulary: 262, embedding: 64, feed_forward: 128, layers: 1, heads: 2, kept_heads: 2, context: 512 };
    let model = [("pre", 259), ("suf", 260), ("mid", 261)]
        .into_iter()
        .fold(GgufBuilder::llama_of(size), |model, (name, id)| {
            model.value(&format!("tokenizer.ggml.fim_{name}_token_id"), gguf::Value::U32(id))
        })
        .with("tokenizer.ggml.tokens", gguf::Value::Texts(tokens))
        .with("tokenizer.ggml.token_type", gguf::Value::Ints(kinds));
    fs_err::write(&path, model.build()).unwrap();
    for (id, path) in [("fills", path), (MODEL, cortex_test::dist::model())] {
        let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": id, "modelPath": path})).await;
        assert_eq!(status, 200, "{body}");
    }
    // All weights are zeros: what is written has to be said.
    let bias = json!({"68": 50});
    let body =
        |model: &str| json!({"model": model, "prompt": "ab", "suffix": "cde", "max_tokens": 2, "logit_bias": bias});
    let (status, answer) = post(&daemon, "/v1/completions", &body("fills")).await;
    assert_eq!(status, 200, "{answer}");
    let mut plain = body("fills");
    plain["suffix"] = Value::Null;
    let (_, shorter) = post(&daemon, "/v1/completions", &plain).await;
    let tokens = |of: &Value| of["usage"]["prompt_tokens"].as_u64().unwrap();
    // This kind of vocabulary puts a space before each text, here of three bytes.
    assert_eq!(tokens(&answer), tokens(&shorter) + 3 + 6, "{answer} {shorter}");
    let (status, refused) = post(&daemon, "/v1/completions", &body(MODEL)).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("infill_not_supported")), "{refused}");
    // llama-server's route for the same; what is there of the gap stands behind its prefix.
    let gap = json!({"model": "fills", "input_prefix": "a", "prompt": "b", "input_suffix": "cde", "n_predict": 2,
                     "logit_bias": bias});
    let (status, filled) = post(&daemon, "/infill", &gap).await;
    assert_eq!(status, 200, "{filled}");
    assert_eq!(filled["content"], answer["choices"][0]["text"], "{filled} {answer}");
    assert_eq!(filled["tokens_evaluated"], answer["usage"]["prompt_tokens"]);
    assert_eq!((&filled["stop"], &filled["stop_type"]), (&json!(true), &json!("limit")), "{filled}");
    let mut streamed = gap.clone();
    streamed["stream"] = json!(true);
    let stream = client().post(daemon.url("/infill")).json(&streamed).send().await.unwrap().text().await.unwrap();
    let pieces = stream.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    assert_eq!(
        json!(pieces.map(|it| it["content"].as_str().unwrap().to_owned()).collect::<String>()),
        filled["content"]
    );
    let mut with_file = gap.clone();
    with_file["input_extra"] = json!([{"filename": "a.rs", "text": "fn a() {}"}]);
    let (_, longer) = post(&daemon, "/infill", &with_file).await;
    assert!(longer["tokens_evaluated"].as_u64() > filled["tokens_evaluated"].as_u64(), "{longer}");
    for (wrong, field) in
        [(json!({"model": "fills"}), "input_prefix"), (json!({"model": "fills", "input_prefix": "a", "n": 2}), "n")]
    {
        let (status, body) = post(&daemon, "/infill", &wrong).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!(field)), "{body}");
    }
}
