use crate::http::{Events, MODEL, client, fold, get, import, post, question};
use cortex_test::{
    daemon::{Options, TestDaemon},
    dist, fake_worker,
    gguf::GgufBuilder,
};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

fn signal(pid: u64, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

async fn worker_pid(daemon: &TestDaemon) -> u64 {
    get(daemon, "/inferences/server/models").await.1["data"][0]["pid"].as_u64().unwrap()
}

#[tokio::test]
async fn a_killed_worker_is_told_to_every_stream_and_the_next_request_works() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let mut body = question("Write a long story.");
    body["stream"] = json!(true);
    body["max_tokens"] = json!(2000);
    body["ignore_eos"] = json!(true);
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(Events::open(&daemon, &body).await.1);
    }
    for stream in &mut streams {
        // The role, then the first text: every one is running.
        stream.next().await.unwrap();
        stream.next().await.unwrap();
    }
    signal(worker_pid(&daemon).await, "-9");
    for stream in streams {
        let last = stream.rest().await.pop().unwrap();
        assert!(last.contains("worker_died") && last.contains("signal 9"), "{last}");
    }
    let (status, body) =
        post(&daemon, "/v1/chat/completions", &question("What is the capital of France? Answer in one sentence."))
            .await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_request_that_has_shown_nothing_is_sent_again() {
    let daemon = TestDaemon::with(Options { settings: Some("parallel: 1\n".into()), ..Options::default() });
    import(&daemon).await;
    let mut busy = question("Write a long story.");
    busy["stream"] = json!(true);
    busy["max_tokens"] = json!(2000);
    busy["ignore_eos"] = json!(true);
    let mut first = Events::open(&daemon, &busy).await.1;
    first.next().await.unwrap();
    first.next().await.unwrap();
    // The one slot is taken: this request is accepted and waits.
    let mut waiting = question("What is the capital of France? Answer in one sentence.");
    waiting["stream"] = json!(true);
    let waiting = Events::open(&daemon, &waiting).await.1;
    signal(worker_pid(&daemon).await, "-9");
    let (text, reason, _) = fold(&waiting.rest().await);
    assert!(text.contains("Paris") && reason.as_deref() == Some("stop"), "{text}");
    assert!(first.rest().await.pop().unwrap().contains("worker_died"));
}

#[tokio::test]
async fn an_answer_that_is_shown_whole_begins_anew_until_its_end() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let mut asked = question("Write a long story.");
    asked["max_tokens"] = json!(300);
    asked["n"] = json!(2);
    asked["ignore_eos"] = json!(true);
    asked["temperature"] = json!(0);
    let has_begun = async || {
        let metrics = client().get(daemon.url("/metrics")).send().await.unwrap().text().await.unwrap();
        let count = metrics.lines().find_map(|line| line.strip_prefix("cortex_time_to_first_token_seconds_count "));
        count.is_some_and(|count| count.trim().parse::<u64>().unwrap() > 0)
    };
    let ask = async || post(&daemon, "/v1/chat/completions", &asked).await;
    let kill = async {
        while !has_begun().await {
            tokio::task::yield_now().await;
        }
        signal(worker_pid(&daemon).await, "-9");
    };
    let ((status, answer), ()) = tokio::join!(ask(), kill);
    assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(600)), "{answer}");
    // Nothing of the first beginning is left in them: they begin as one that nobody disturbed, and that once.
    let text = |answer: &Value, at: usize| answer["choices"][at]["message"]["content"].as_str().unwrap().to_owned();
    let (_, again) = ask().await;
    let beginning: String = text(&again, 0).chars().take(60).collect();
    for at in 0..2 {
        assert_eq!(text(&answer, at).matches(&beginning).count(), 1, "{answer}\n{again}");
        assert!(text(&answer, at).starts_with(&beginning), "{answer}\n{again}");
    }
    let metrics = client().get(daemon.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.lines().any(|line| line == "cortex_lost_workers_total 1"), "{metrics}");
}

#[tokio::test]
async fn a_stream_that_is_left_frees_its_slot() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let mut body = question("Write a long story.");
    body["stream"] = json!(true);
    body["max_tokens"] = json!(8000);
    body["ignore_eos"] = json!(true);
    let mut stream = Events::open(&daemon, &body).await.1;
    stream.next().await.unwrap();
    stream.next().await.unwrap();
    drop(stream);
    let freed = async {
        while get(&daemon, "/inferences/server/models").await.1["data"][0]["requests"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), freed).await.expect("the slot is freed");
}

#[tokio::test]
async fn without_the_worker_the_error_says_so() {
    let daemon = TestDaemon::with(Options {
        environment: vec![("CORTEX_WORKER".into(), "/nowhere/cortex-llamacpp".into())],
        ..Options::default()
    });
    import(&daemon).await;
    let (status, body) = post(&daemon, "/v1/chat/completions", &question("x")).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("worker_missing")), "{body}");
}

/// A daemon with the worker that has no engine. Its silence is noticed after a second.
async fn with_fake_worker(folder: &Path) -> TestDaemon {
    let daemon = TestDaemon::with(Options {
        environment: vec![("CORTEX_WORKER".into(), fake_worker::lay_out(folder).into())],
        settings: Some("workerSilenceSeconds: 1\n".into()),
        ..Options::default()
    });
    import_fake(&daemon, MODEL, "good").await;
    daemon
}

pub(crate) async fn import_fake(daemon: &TestDaemon, id: &str, name: &str) {
    let path = fake_worker::model(daemon.scratch(), name);
    let (status, body) = post(daemon, "/v1/models/import", &json!({"model": id, "modelPath": path})).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_worker_that_misbehaves_amid_a_request_is_told_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_fake_worker(folder.path()).await;
    for (prompt, code, said) in [
        ("[hang]", "worker_stuck", "no sign of life for 1 s"),
        ("[garbage]", "worker_died", "not of the protocol"),
        ("[endless]", "worker_died", "a line without end"),
        ("[exit]", "worker_died", "exit code 3); its last words: fake-worker: these are my last words"),
    ] {
        // The request is sent twice: it has shown nothing when the first worker is lost.
        let (status, body) = post(&daemon, "/v1/chat/completions", &question(prompt)).await;
        assert_eq!((status, &body["error"]["code"]), (503, &json!(code)), "{prompt}: {body}");
        assert!(body["message"].as_str().unwrap().contains(said), "{prompt}: {body}");
        let (status, body) = post(&daemon, "/v1/chat/completions", &question("well")).await;
        assert_eq!((status, &body["choices"][0]["finish_reason"]), (200, &json!("length")), "{body}");
    }
}

#[tokio::test]
async fn a_worker_that_misbehaves_at_the_load_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = with_fake_worker(folder.path()).await;
    for (name, code, said) in [
        ("[hang]", "worker_stuck", "no sign of life"),
        ("[garbage]", "worker_died", "not of the protocol"),
        ("[exit]", "worker_died", "exit code 3"),
        ("[old]", "worker_mismatch", "another build"),
    ] {
        import_fake(&daemon, name, name).await;
        let mut body = question("x");
        body["model"] = json!(name);
        let (status, body) = post(&daemon, "/v1/chat/completions", &body).await;
        assert_eq!((status, &body["error"]["code"]), (503, &json!(code)), "{name}: {body}");
        assert!(body["message"].as_str().unwrap().contains(said), "{name}: {body}");
    }
    assert_eq!(get(&daemon, "/inferences/server/models").await.1["data"], json!([]));
}

/// A shared library with ggml's entry points that dies when it is used.
fn deadly_module(folder: &Path) {
    let source = folder.join("deadly.c");
    let code = "#include <signal.h>\nint ggml_backend_score(void) { return 1000; }\nvoid *ggml_backend_init(void) { raise(SIGILL); return 0; }\n";
    fs_err::write(&source, code).unwrap();
    let module = folder.join("worker/backends/libggml-cpu-deadly.so");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(module).arg(source).status().expect("a C compiler");
    assert!(status.success());
}

#[tokio::test]
async fn a_module_that_dies_is_dropped_and_the_first_chat_answers() {
    let folder = tempfile::tempdir().unwrap();
    let worker = dist::worker_copy(folder.path());
    deadly_module(folder.path());
    let start = |trial: &str| {
        TestDaemon::with(Options {
            environment: vec![
                ("CORTEX_WORKER".into(), worker.clone().into()),
                ("CORTEX_TEST_VARIANT_TRIAL".into(), trial.into()),
            ],
            ..Options::default()
        })
    };
    let untried = start("off");
    import(&untried).await;
    let (status, body) = post(&untried, "/v1/chat/completions", &question("x")).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("worker_died")), "{body}");
    assert!(body["message"].as_str().unwrap().contains("SIGILL"), "{body}");

    let daemon = start("on");
    import(&daemon).await;
    let (status, body) =
        post(&daemon, "/v1/chat/completions", &question("What is the capital of France? Answer in one sentence."))
            .await;
    assert_eq!(status, 200, "{body}");
    let said = daemon.cli(&["doctor"]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("compute module deadly: dropped: died of signal 4 SIGILL"), "{said}");
}

#[tokio::test]
async fn the_worker_does_not_outlive_a_killed_daemon() {
    let mut daemon = TestDaemon::start();
    import(&daemon).await;
    assert_eq!(post(&daemon, "/v1/models/start", &json!({"model": MODEL})).await.0, 200);
    let worker = format!("/proc/{}", worker_pid(&daemon).await);
    daemon.kill();
    let gone = async {
        while Path::new(&worker).exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), gone).await.expect("the worker ends too");
}

#[tokio::test(flavor = "multi_thread")]
async fn destroy_ends_running_streams_with_an_error_and_the_daemon_with_0() {
    let mut daemon = TestDaemon::start();
    import(&daemon).await;
    let mut body = question("Write a long story.");
    body["stream"] = json!(true);
    body["max_tokens"] = json!(8000);
    body["ignore_eos"] = json!(true);
    let mut stream = Events::open(&daemon, &body).await.1;
    stream.next().await.unwrap();
    stream.next().await.unwrap();
    let began = std::time::Instant::now();
    let answer = crate::http::client().delete(daemon.url("/processmanager/destroy")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(stream.rest().await.pop().unwrap().contains("shutting_down"));
    assert_eq!(tokio::task::block_in_place(|| daemon.wait()), Some(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(!daemon.data().join("daemon.json").exists());
}

/// Resident memory of a process in kilobytes.
fn resident(pid: u32) -> u64 {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(88_172_645_463_325_252)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    /// A place in the header, and what to flip there.
    fn flip(&mut self, header: usize) -> (usize, u8) {
        (self.below(header), u8::try_from(1 + self.below(255)).unwrap())
    }
}

#[tokio::test]
async fn damaged_files_never_hurt_the_daemon() {
    let daemon = TestDaemon::start();
    let whole = fs_err::read(dist::model()).unwrap();
    let gguf = cortex_models::Gguf::open(&dist::model()).unwrap();
    let header = usize::try_from(gguf.data_offset).unwrap();
    let path = daemon.scratch().join("m.gguf");
    let mut random = Random::new();
    let before = resident(daemon.pid());
    for at in 0..100 {
        fs_err::write(&path, &whole[..random.below(whole.len())]).unwrap();
        let body = json!({"model": format!("cut{at}"), "modelPath": path});
        let (status, body) = post(&daemon, "/v1/models/import", &body).await;
        assert_eq!(status, 400, "{body}");
    }
    // The header, and as many zeros as there were weights: written once, then only bytes are changed.
    let mut header_bytes = whole[..header].to_vec();
    let sparse = fs_err::OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
    sparse.set_len(whole.len() as u64).unwrap();
    drop(sparse);
    let (mut refused, mut accepted) = (0, 0);
    for at in 0..1000 {
        let (place, flip) = random.flip(header);
        header_bytes[place] ^= flip;
        let mut file = fs_err::OpenOptions::new().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, &header_bytes).unwrap();
        let (status, body) =
            post(&daemon, "/v1/models/import", &json!({"model": format!("flip{at}"), "modelPath": path})).await;
        header_bytes[place] ^= flip;
        match status {
            200 => accepted += 1,
            400 => refused += 1,
            other => panic!("{other}: {body}"),
        }
    }
    let grown = resident(daemon.pid()).saturating_sub(before);
    println!("of 1000 flips {refused} were refused, {accepted} accepted; the daemon grew by {grown} kB");
    assert!(grown < 64 * 1024, "{grown} kB");
    assert_eq!(get(&daemon, "/health").await.0, 200);
}

#[tokio::test]
async fn a_damaged_model_is_refused_or_loads_or_says_why_it_does_not() {
    let daemon =
        TestDaemon::with(Options { settings: Some("contextLength: 64\nparallel: 1\n".into()), ..Options::default() });
    let path = daemon.scratch().join("m.gguf");
    let mut bytes = GgufBuilder::loadable_llama().build();
    fs_err::write(&path, &bytes).unwrap();
    let header = usize::try_from(cortex_models::Gguf::open(&path).unwrap().data_offset).unwrap();
    let mut random = Random::new();
    let before = resident(daemon.pid());
    let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
    assert_eq!(post(&daemon, "/v1/models/import", &json!({"model": "whole", "modelPath": path})).await.0, 200);
    let (status, body) = post(&daemon, "/v1/models/start", &json!({"model": "whole"})).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": "whole"})).await.0, 200);
    for at in 0..1000 {
        let (place, flip) = random.flip(header);
        bytes[place] ^= flip;
        fs_err::write(&path, &bytes).unwrap();
        bytes[place] ^= flip;
        let id = format!("flip{at}");
        let (status, body) = post(&daemon, "/v1/models/import", &json!({"model": id, "modelPath": path})).await;
        let outcome = if status == 200 {
            let (status, body) = post(&daemon, "/v1/models/start", &json!({"model": id})).await;
            if status == 200 {
                assert_eq!(post(&daemon, "/v1/models/stop", &json!({"model": id})).await.0, 200);
                "loaded".to_owned()
            } else {
                body["error"]["code"].as_str().unwrap_or_else(|| panic!("{status}: {body}")).to_owned()
            }
        } else {
            assert_eq!(status, 400, "{body}");
            "refused".to_owned()
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    let grown = resident(daemon.pid()).saturating_sub(before);
    println!("1000 flips: {outcomes:?}; the daemon grew by {grown} kB");
    let allowed = ["refused", "loaded", "model_load_failed", "worker_died"];
    assert!(outcomes.keys().all(|outcome| allowed.contains(&outcome.as_str())), "{outcomes:?}");
    assert!(["refused", "loaded"].iter().all(|outcome| outcomes.contains_key(*outcome)), "{outcomes:?}");
    assert!(grown < 64 * 1024, "{grown} kB");
    assert_eq!(get(&daemon, "/health").await.0, 200);
}
