use crate::http::{Events, MODEL, fold, get, import, post, question};
use cortex_test::{
    daemon::{Options, TestDaemon},
    dist,
};
use serde_json::json;
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

#[tokio::test]
async fn damaged_files_never_hurt_the_daemon() {
    let daemon = TestDaemon::start();
    let whole = fs_err::read(dist::model()).unwrap();
    let gguf = cortex_models::Gguf::open(&dist::model()).unwrap();
    let header = usize::try_from(gguf.data_offset).unwrap();
    let path = daemon.scratch().join("m.gguf");
    let import = async |bytes: &[u8], id: String| {
        fs_err::write(&path, bytes).unwrap();
        post(&daemon, "/v1/models/import", &json!({"model": id, "modelPath": path})).await
    };
    let mut place: u64 = 88_172_645_463_325_252;
    let mut random = move |limit: usize| {
        place ^= place << 13;
        place ^= place >> 7;
        place ^= place << 17;
        usize::try_from(place % limit as u64).unwrap()
    };
    let before = resident(daemon.pid());
    for at in 0..100 {
        let (status, body) = import(&whole[..random(whole.len())], format!("cut{at}")).await;
        assert_eq!(status, 400, "{body}");
    }
    // The header, and as many zeros as there were weights: written once, then only bytes are changed.
    let mut header_bytes = whole[..header].to_vec();
    let sparse = fs_err::OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
    sparse.set_len(whole.len() as u64).unwrap();
    drop(sparse);
    let (mut refused, mut accepted) = (0, 0);
    for at in 0..1000 {
        let place = random(header);
        let flip = u8::try_from(1 + random(255)).unwrap();
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
