//! What is loaded beside a model: what lets it see, and adapters.

use crate::http::{MODEL, client, get, import, post, question};
use cortex_test::{
    daemon::{Options, TestDaemon},
    dist,
    made::{self, Projector, picture},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const BLUE: [u8; 3] = [10, 40, 230];
const GREEN: [u8; 3] = [20, 220, 60];

/// The small model in a folder of its own, with a projector beside it when it shall see.
async fn import_from(daemon: &TestDaemon, folder: &Path, projector: Option<&[u8]>) {
    let model = folder.join("model.gguf");
    if fs_err::hard_link(dist::model(), &model).is_err() {
        fs_err::copy(dist::model(), &model).unwrap();
    }
    if let Some(projector) = projector {
        fs_err::write(folder.join("mmproj-model-f32.gguf"), projector).unwrap();
    }
    let (status, body) = post(daemon, "/v1/models/import", &json!({"model": MODEL, "modelPath": model})).await;
    assert_eq!(status, 200, "{body}");
}

/// A question about images, with the words before, between and behind them.
fn seeing(urls: &[String]) -> Value {
    let mut parts = vec![json!({"type": "text", "text": "Look at this:"})];
    for url in urls {
        parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
        parts.push(json!({"type": "text", "text": "What is it?"}));
    }
    json!({"model": MODEL, "temperature": 0, "max_tokens": 8, "logprobs": true,
           "messages": [{"role": "user", "content": parts}]})
}

fn url(colour: [u8; 3]) -> String {
    format!("data:image/png;base64,{}", picture(colour, (64, 48)))
}

/// How probable the first token was: another prompt has another one.
fn probability(body: &Value) -> f64 {
    body["choices"][0]["logprobs"]["content"][0]["logprob"].as_f64().unwrap()
}

#[tokio::test]
async fn a_model_with_a_projector_beside_it_sees() {
    let (daemon, folder) = (TestDaemon::start(), tempfile::tempdir().unwrap());
    import_from(&daemon, folder.path(), Some(&made::projector(Projector::Llava, 576))).await;
    let ask = async |urls: &[String]| {
        let (status, body) = post(&daemon, "/v1/chat/completions", &seeing(urls)).await;
        assert_eq!(status, 200, "{body}");
        body
    };
    let (none, blue) = (ask(&[]).await, ask(&[url(BLUE)]).await);
    let (green, both) = (ask(&[url(GREEN)]).await, ask(&[url(BLUE), url(GREEN)]).await);
    let tokens = |body: &Value| body["usage"]["prompt_tokens"].as_u64().unwrap();
    // The words around them are tokens too: five for the question.
    assert_eq!(tokens(&both) - tokens(&blue), tokens(&blue) - tokens(&none), "{both} {blue} {none}");
    assert!(tokens(&blue) - tokens(&none) >= 16, "{blue}");
    assert!((probability(&blue) - probability(&green)).abs() > 0.01, "{blue} {green}");
    // Asked again, the image is known.
    let again = ask(&[url(BLUE), url(GREEN)]).await;
    assert_eq!(
        again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap(),
        tokens(&both) - 1,
        "{again}"
    );
    // As a stream, and several answers.
    let mut several = seeing(&[url(BLUE)]);
    several["stream"] = json!(true);
    several["n"] = json!(2);
    let stream = client().post(daemon.url("/v1/chat/completions")).json(&several).send().await.unwrap();
    let stream = stream.text().await.unwrap();
    assert!(stream.contains("\"index\":1") && stream.ends_with("data: [DONE]\n\n"), "{stream}");
    let (_, shown) = post(&daemon, "/apply-template", &seeing(&[url(BLUE)])).await;
    assert!(shown["prompt"].as_str().unwrap().contains("Look at this:<__media__>What is it?"), "{shown}");
    for (wrong, why) in [
        ("data:image/png;base64,AAAA", "image 1: it cannot be read"),
        ("data:image/png;base64,%%", "image 1: it is not base64"),
        ("https://example.com/ship.png", "allowedImageHosts"),
    ] {
        let (status, body) = post(&daemon, "/v1/chat/completions", &seeing(&[wrong.to_owned()])).await;
        assert_eq!(status, 400, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(why), "{body}");
    }
    // The memory that it takes is known before.
    let (_, fit) = post(&daemon, "/v1/models/fit", &json!({"model": MODEL})).await;
    let (_, of_file) = post(&daemon, "/v1/models/fit", &json!({"model": dist::model()})).await;
    let needed = |fit: &Value| fit["process"].as_u64().unwrap();
    assert!(needed(&fit) > needed(&of_file) + 150_000, "{fit} {of_file}");
}

/// A server that gives one image, whatever it is asked for.
fn serve_image() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The request ends with an empty line.
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(&stream));
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let image = made::png(BLUE, (64, 48));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", image.len());
            std::io::Write::write_all(&mut stream, &[head.into_bytes(), image].concat()).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn images_are_fetched_from_hosts_that_the_settings_name() {
    let address = serve_image();
    let settings = format!("allowedImageHosts: [\"http://{address}\"]\n");
    let daemon = TestDaemon::with(Options { settings: Some(settings), ..Options::default() });
    let folder = tempfile::tempdir().unwrap();
    import_from(&daemon, folder.path(), Some(&made::projector(Projector::Llava, 576))).await;
    let ask = async |url: String| post(&daemon, "/v1/chat/completions", &seeing(&[url])).await;
    let (status, fetched) = ask(format!("http://{address}/ship.png?size=1")).await;
    assert_eq!(status, 200, "{fetched}");
    let (_, sent) = ask(url(BLUE)).await;
    assert_eq!(sent["usage"]["prompt_tokens"], fetched["usage"]["prompt_tokens"]);
    assert_eq!(
        sent["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() + 1,
        sent["usage"]["prompt_tokens"].as_u64().unwrap(),
        "the same image: {sent}"
    );
    // Others are not asked, whatever they are called.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    for wrong in [format!("http://{}/a.png", other.local_addr().unwrap()), "http://169.254.169.254/latest".to_owned()] {
        let (status, body) = ask(wrong).await;
        assert_eq!((status, body["error"]["code"].as_str()), (400, Some("image_not_fetched")), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("images may not be fetched from"), "{body}");
    }
    let (status, body) = ask(format!("HTTP://{address}/ship.png")).await;
    assert_eq!(status, 200, "a scheme is the same in capitals: {body}");
    assert!(other.accept().is_err(), "nobody came");
}

#[tokio::test]
async fn a_model_without_a_projector_says_that_it_does_not_see() {
    let (daemon, folder) = (TestDaemon::start(), tempfile::tempdir().unwrap());
    import_from(&daemon, folder.path(), None).await;
    let (status, body) = post(&daemon, "/v1/chat/completions", &seeing(&[url(BLUE)])).await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("images_not_supported")), "{body}");
    let loaded = client().get(daemon.url("/inferences/server/models")).send().await.unwrap();
    assert!(!loaded.text().await.unwrap().contains(MODEL), "nothing is loaded for it");
}

#[tokio::test]
async fn a_projector_of_another_model_is_a_wrong_setting() {
    let (daemon, folder) = (TestDaemon::start(), tempfile::tempdir().unwrap());
    let right = made::projector(Projector::Llava, 576);
    import_from(&daemon, folder.path(), Some(&right)).await;
    let ask = async || post(&daemon, "/v1/chat/completions", &question("Who sails?")).await;
    assert_eq!(ask().await.0, 200);
    let projector = folder.path().join("mmproj-model-f32.gguf");
    for wrong in [made::projector(Projector::Llava, 320), b"no model at all".to_vec()] {
        post(&daemon, "/v1/models/stop", &json!({"model": MODEL})).await;
        fs_err::write(&projector, wrong).unwrap();
        let (status, body) = ask().await;
        assert_eq!((status, body["error"]["code"].as_str()), (400, Some("unusable_settings")), "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("mmproj-model-f32.gguf") && message.contains("`mmproj`"), "{body}");
        assert!(!message.contains("load_") && !message.contains('\n'), "no lines of the engine: {body}");
    }
    fs_err::write(&projector, right).unwrap();
    assert_eq!(ask().await.0, 200);
}

#[tokio::test]
async fn adapters_are_settings_of_a_model_and_requests_choose_among_them() {
    let (daemon, folder) = (TestDaemon::start(), tempfile::tempdir().unwrap());
    import(&daemon).await;
    let mut ask = question("Who sails the old ship?");
    ask["logprobs"] = json!(true);
    ask["temperature"] = json!(0);
    let asked = |lora: Option<Value>| {
        let mut ask = ask.clone();
        if let Some(lora) = lora {
            ask["lora"] = lora;
        }
        ask
    };
    let plain = probability(&post(&daemon, "/v1/chat/completions", &asked(None)).await.1);
    let paths: Vec<String> = [1, 2]
        .map(|seed| {
            let path = folder.path().join(format!("adapter-{seed}.gguf"));
            fs_err::write(&path, made::adapter(seed)).unwrap();
            path.display().to_string()
        })
        .to_vec();
    let settings = json!({"lora_adapters": [{"path": paths[0], "scale": 0.5}, paths[1]]});
    let patch = |settings: Value| client().patch(daemon.url(&format!("/v1/models/{MODEL}"))).json(&settings).send();
    assert_eq!(patch(settings).await.unwrap().status(), 200);
    let shown = client().get(daemon.url(&format!("/v1/models/{MODEL}"))).send().await.unwrap();
    let shown: Value = shown.json().await.unwrap();
    assert_eq!(shown["lora_adapters"][1], json!({"path": paths[1], "scale": 1.0}), "{shown}");
    // They count from the next request on, for which the model is loaded anew.
    let mut seen = vec![plain];
    for lora in [None, Some(json!([{"id": 0, "scale": 1.0}])), Some(json!([{"id": 1, "scale": 1.0}]))] {
        let (status, body) = post(&daemon, "/v1/chat/completions", &asked(lora.clone())).await;
        assert_eq!(status, 200, "{body}");
        let found = probability(&body);
        assert!(seen.iter().all(|it| (it - found).abs() > 1e-3), "{lora:?}: {found} {seen:?}");
        seen.push(found);
    }
    let (_, without) = post(&daemon, "/v1/chat/completions", &asked(Some(json!([])))).await;
    assert!((probability(&without) - plain).abs() < 0.2, "{without} {plain}");
    let (_, as_set) =
        post(&daemon, "/v1/chat/completions", &asked(Some(json!([{"id": 1, "scale": 1}, {"id": 0, "scale": 0.5}]))))
            .await;
    assert!((probability(&as_set) - seen[1]).abs() < 0.2, "{as_set} {seen:?}");
    let (status, body) = post(&daemon, "/v1/chat/completions", &asked(Some(json!([{"id": 2, "scale": 1}])))).await;
    assert_eq!((status, body["error"]["param"].as_str()), (400, Some("lora")), "{body}");
    let model = dist::model().display().to_string();
    for path in ["/nowhere/a.gguf", "/etc/passwd", "/dev/zero", &model] {
        let refused = patch(json!({"lora_adapters": [path]})).await.unwrap();
        assert_eq!(refused.status(), 400, "{path}");
        let refused: Value = refused.json().await.unwrap();
        assert_eq!(refused["error"]["param"], "lora_adapters", "{refused}");
        assert!(refused["error"]["message"].as_str().unwrap().contains(path), "{refused}");
    }
    for (wrong, why) in [
        (json!("relative.gguf"), "absolute path"),
        (json!({"path": paths[0], "scales": 1}), "`scales` is not known"),
        (json!({"path": paths[0], "scale": 1e300}), "1e+300 is none"),
    ] {
        let refused: Value = patch(json!({"lora_adapters": [wrong]})).await.unwrap().json().await.unwrap();
        assert!(refused["error"]["message"].as_str().unwrap().contains(why), "{refused}");
    }
    let refused: Value = patch(json!({"draft_model": paths[0]})).await.unwrap().json().await.unwrap();
    assert!(refused["error"]["message"].as_str().unwrap().contains("and no model"), "{refused}");
    // A file that is no adapter any more is named, and the model answers again without it.
    assert_eq!(patch(json!({"lora_adapters": [paths[0]]})).await.unwrap().status(), 200);
    fs_err::write(&paths[0], made::qwen()).unwrap();
    post(&daemon, "/v1/models/stop", &json!({"model": MODEL})).await;
    let (status, body) = post(&daemon, "/v1/chat/completions", &asked(None)).await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("unusable_settings")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("is no LoRA adapter for this model"), "{body}");
    assert_eq!(patch(json!({"lora_adapters": null})).await.unwrap().status(), 200);
    post(&daemon, "/v1/models/start", &json!({"model": MODEL})).await;
    let (status, body) = post(&daemon, "/v1/chat/completions", &asked(None)).await;
    assert_eq!(status, 200, "{body}");
    // Another model that guesses counts from the next request on too: this one for itself, and one that cannot.
    let asked = || json!({"model": MODEL, "messages": [{"role": "user", "content": "Tell me a story"}], "max_tokens": 40, "temperature": 0});
    assert_eq!(patch(json!({"draft_model": dist::model()})).await.unwrap().status(), 200);
    let (_, body) = post(&daemon, "/v1/chat/completions", &asked()).await;
    assert!(body["timings"]["draft_n_accepted"].as_u64().unwrap_or(0) > 0, "{body}");
    let other = folder.path().join("other.gguf");
    fs_err::write(&other, made::qwen()).unwrap();
    let refused = patch(json!({"draft_model": other})).await.unwrap();
    assert_eq!(refused.status(), 400);
    let refused: Value = refused.json().await.unwrap();
    assert!(refused["error"]["message"].as_str().unwrap().contains("has other tokens"), "{refused}");
    assert_eq!(patch(json!({"draft_model": null})).await.unwrap().status(), 200);
    assert_eq!(post(&daemon, "/v1/chat/completions", &asked()).await.0, 200);
}

/// The YAML file in a folder that says this.
fn yaml_with(folder: &Path, words: &str) -> Option<PathBuf> {
    fs_err::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() {
            return yaml_with(&path, words);
        }
        let is_yaml = path.extension().is_some_and(|it| it == "yaml" || it == "yml");
        (is_yaml && fs_err::read_to_string(&path).is_ok_and(|text| text.contains(words))).then_some(path)
    })
}

#[tokio::test]
async fn layers_of_a_model_guess_for_it_when_its_settings_say_so() {
    let cheap = vec![("CORTEX_TEST_ENTRY_COST".into(), "20".into())];
    let daemon = TestDaemon::with(Options { environment: cheap, ..Options::default() });
    let folder = tempfile::tempdir().unwrap();
    let mut plain = vec![];
    for (name, file) in [("predicting", made::predicting()), ("without", made::hybrid())] {
        let path = folder.path().join(format!("{name}.gguf"));
        fs_err::write(&path, file).unwrap();
        let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": name, "modelPath": path})).await;
        assert_eq!(status, 200, "{body}");
    }
    let ask = async |name: &str| {
        let asked = json!({"model": name, "prompt": "<s>Who pays most?</s><s>says: ", "max_tokens": 40, "temperature": 0, "ignore_eos": true});
        post(&daemon, "/v1/completions", &asked).await
    };
    let patch = async |name: &str, settings: Value| {
        let url = daemon.url(&format!("/v1/models/{name}"));
        let answer = client().patch(url).json(&settings).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, body) = ask("predicting").await;
    assert_eq!((status, body["timings"]["draft_n"].as_u64().unwrap_or(0)), (200, 0), "{body}");
    plain.push(body["choices"][0]["text"].clone());
    // It counts from the next request on.
    assert_eq!(patch("predicting", json!({"mtp": true})).await.0, 200);
    let (status, body) = ask("predicting").await;
    assert_eq!(status, 200, "{body}");
    assert!(body["timings"]["draft_n_accepted"].as_u64().unwrap_or(0) > 0, "{body}");
    plain.push(body["choices"][0]["text"].clone());
    assert_eq!(plain[0], plain[1]);
    // What is not possible is refused where it is said, and nothing is changed.
    let other = folder.path().join("without.gguf");
    for (name, settings, param, why) in [
        ("without", json!({"mtp": "yes"}), "mtp", "true or false"),
        ("without", json!({"mtp": true}), "mtp", "has no layers for multi-token prediction"),
        ("predicting", json!({"draft_model": other}), "draft_model", "not both"),
    ] {
        let (status, body) = patch(name, settings).await;
        assert_eq!((status, body["error"]["param"].as_str()), (400, Some(param)), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(why), "{body}");
        assert_eq!(ask(name).await.0, 200);
    }
    // Who writes it into the file is told by all who could know.
    assert_eq!(patch("without", json!({"mtp": false})).await.0, 200);
    let yaml = yaml_with(&daemon.data(), "mtp: false").expect("its model.yaml");
    let before = fs_err::read_to_string(&yaml).unwrap();
    fs_err::write(&yaml, before.replace("mtp: false", "mtp: true")).unwrap();
    let (status, body) = ask("without").await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("unusable_settings")), "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("multi-token prediction") && !message.contains("the engine said"), "{message}");
    let (status, fit) = post(&daemon, "/v1/models/fit", &json!({"model": "without"})).await;
    assert_eq!((status, &fit["loads"]), (200, &json!(false)), "{fit}");
    assert!(fit["verdict"].as_str().unwrap().contains("multi-token prediction"), "{fit}");
    let (_, health) = get(&daemon, "/v1/models/health").await;
    assert!(health["settings"].to_string().contains("multi-token prediction"), "{health}");
    assert_eq!(patch("without", json!({"mtp": null})).await.0, 200);
    assert_eq!(ask("without").await.0, 200);
}

#[tokio::test]
async fn what_its_file_does_not_allow_is_told_and_a_loaded_model_stays() {
    let daemon = TestDaemon::start();
    let path = daemon.scratch().join("narrow.gguf");
    fs_err::write(&path, made::guessing()).unwrap();
    let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": "narrow", "modelPath": path})).await;
    assert_eq!(status, 200, "{body}");
    let ask = async || {
        post(&daemon, "/v1/completions", &json!({"model": "narrow", "prompt": "<s>Who", "max_tokens": 4})).await
    };
    let pid = async || get(&daemon, "/inferences/server/models").await.1["data"][0]["pid"].clone();
    assert_eq!(ask().await.0, 200);
    let before = pid().await;
    let order = json!({"model": "narrow", "cache_type": "q8_0"});
    let (status, body) = post(&daemon, "/v1/models/start", &order).await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("unusable_settings")), "{body}");
    assert_eq!((ask().await.0, pid().await), (200, before));
    let (_, fit) = post(&daemon, "/v1/models/fit", &order).await;
    assert_eq!(fit["loads"], false, "{fit}");
    // Nor is it in the way of the next start.
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": "narrow"})).await.0, 200);
    assert_eq!(post(&daemon, "/v1/models/start", &order).await.0, 400);
    assert_eq!(post(&daemon, "/v1/models/start", &json!({"model": "narrow"})).await.0, 200);
    // A small model that was there and is no more.
    let small = daemon.scratch().join("small.gguf");
    fs_err::write(&small, made::guessing()).unwrap();
    let set = json!({"draft_model": small});
    let set = client().patch(daemon.url("/v1/models/narrow")).json(&set).send().await.unwrap();
    assert_eq!(set.status(), 200);
    assert_eq!(ask().await.0, 200);
    fs_err::remove_file(&small).unwrap();
    post(&daemon, "/v1/models/stop", &json!({"model": "narrow"})).await;
    let (status, body) = ask().await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("unusable_settings")), "{body}");
    let (_, fit) = post(&daemon, "/v1/models/fit", &json!({"model": "narrow"})).await;
    assert_eq!(fit["loads"], false, "{fit}");
    let (_, health) = get(&daemon, "/v1/models/health").await;
    assert!(health["settings"].to_string().contains("draft_model"), "{health}");
}

#[tokio::test]
async fn a_small_model_guesses_for_one_with_a_state_too() {
    let cheap = vec![("CORTEX_TEST_ENTRY_COST".into(), "20".into())];
    let daemon = TestDaemon::with(Options { environment: cheap, ..Options::default() });
    let folder = tempfile::tempdir().unwrap();
    for (name, file) in [("hybrid", made::predicting()), ("small", made::guessing())] {
        let path = folder.path().join(format!("{name}.gguf"));
        fs_err::write(&path, file).unwrap();
        let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": name, "modelPath": path})).await;
        assert_eq!(status, 200, "{body}");
    }
    let ask = async || {
        let asked = json!({"model": "hybrid", "prompt": "<s>Who pays most?</s><s>says: ", "max_tokens": 60, "temperature": 0, "ignore_eos": true});
        post(&daemon, "/v1/completions", &asked).await
    };
    let (status, plain) = ask().await;
    assert_eq!((status, plain["timings"]["draft_n"].as_u64().unwrap_or(0)), (200, 0), "{plain}");
    let small = json!({"draft_model": folder.path().join("small.gguf")});
    let patched = client().patch(daemon.url("/v1/models/hybrid")).json(&small).send().await.unwrap();
    assert_eq!(patched.status(), 200);
    let (status, guessed) = ask().await;
    assert_eq!(status, 200, "{guessed}");
    assert!(guessed["timings"]["draft_n_accepted"].as_u64().unwrap_or(0) > 0, "{guessed}");
    assert_eq!(guessed["choices"][0]["text"], plain["choices"][0]["text"]);
}
