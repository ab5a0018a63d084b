use cortex_test::{
    daemon::{Options, TestDaemon},
    dist,
};
use std::{
    io::{Read, Write},
    process::{Output, Stdio},
};

fn run(daemon: &TestDaemon, arguments: &[&str]) -> Output {
    daemon.cli(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_model_is_imported_listed_run_and_stopped() {
    let daemon = TestDaemon::start();
    let model = dist::model().display().to_string();
    let imported = run(&daemon, &["import", &model, "--id", "My Model/1"]);
    assert!(imported.status.success(), "{imported:?}");
    assert!(text(&run(&daemon, &["list"]).stdout).contains("My Model/1"));
    let answer = run(
        &daemon,
        &[
            "run",
            "my model",
            "What is the capital of France? Answer in one sentence.",
            "--temperature",
            "0",
            "--max-tokens",
            "48",
        ],
    );
    assert!(text(&answer.stdout).contains("Paris"), "{answer:?}");
    assert!(text(&run(&daemon, &["ps"]).stdout).contains("My Model/1"));
    assert!(run(&daemon, &["models", "status", "My Model/1"]).status.success());
    assert_eq!(text(&run(&daemon, &["models", "stop", "My Model/1"]).stdout), "Model stopped!\n");
    assert_eq!(text(&run(&daemon, &["ps"]).stdout), "No models loaded!\n");
    assert!(run(&daemon, &["doctor"]).status.success());
    assert!(text(&run(&daemon, &["logs", "-n", "1000"]).stdout).contains("loaded"));
    assert!(!daemon.log().contains("capital"), "a prompt is in the log");
    let stopped = run(&daemon, &["stop"]);
    assert_eq!(text(&stopped.stdout), "Server stopped!\n");
    assert_eq!(run(&daemon, &["ps"]).status.code(), Some(3));
}

#[test]
fn piped_input_is_the_prompt_and_the_answer_comes_in_pieces() {
    let daemon = TestDaemon::start();
    assert!(run(&daemon, &["import", &dist::model().display().to_string(), "--id", "m"]).status.success());
    assert!(run(&daemon, &["models", "start", "m"]).status.success());
    let mut child =
        daemon.cli(&["run", "m", "--max-tokens", "40"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Write a story about the sea.").unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut reads = 0;
    let mut buffer = [0; 4096];
    while stdout.read(&mut buffer).unwrap() > 0 {
        reads += 1;
    }
    assert!(child.wait().unwrap().success());
    assert!(reads >= 10, "{reads} pieces");
}

#[test]
fn failures_say_what_to_do_and_have_exit_codes() {
    let daemon = TestDaemon::start();
    let port = daemon.address.rsplit(':').next().unwrap().to_owned();
    let unknown = run(&daemon, &["run", "nobody", "hello"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("nobody"), "{unknown:?}");
    let bad = run(&daemon, &["import", "/dev/null"]);
    assert_eq!(bad.status.code(), Some(1));
    assert_eq!(run(&daemon, &["nonsense"]).status.code(), Some(2));
    assert_eq!(run(&daemon, &["run", "m"]).status.code(), Some(2));
    // The same address, then the same folder.
    let other = tempfile::tempdir().unwrap();
    let taken = std::process::Command::new(dist::program("cortex-server"))
        .arg("--data_folder_path")
        .arg(other.path())
        .arg("--config_file_path")
        .arg(other.path().join("rc"))
        .args(["--port", &port])
        .output()
        .unwrap();
    assert_eq!(taken.status.code(), Some(4));
    assert!(text(&taken.stderr).contains("in use"), "{taken:?}");
    let folder = std::process::Command::new(dist::program("cortex-server"))
        .arg("--data_folder_path")
        .arg(daemon.data())
        .arg("--config_file_path")
        .arg(other.path().join("rc"))
        .args(["--port", "0"])
        .output()
        .unwrap();
    assert_eq!(folder.status.code(), Some(4));
}

#[test]
fn the_settings_are_shown_with_who_said_so_and_without_secrets() {
    let secret = "very-secret";
    let daemon = TestDaemon::with(Options {
        settings: Some(format!("parallel: 3\napiKeys: ['{secret}']\nhuggingFaceToken: {secret}\nmystery: 1\n")),
        ..Options::default()
    });
    let shown = daemon.cli(&["config", "show"]).env("HF_ENDPOINT", "http://127.0.0.1:9").output().unwrap();
    let said = text(&shown.stdout);
    let row = |key: &str| said.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    for (key, words) in [
        ("parallel", &["3", "settings file"][..]),
        ("contextLength", &["0", "default"]),
        ("apiServerHost", &["127.0.0.1", "command line"]),
        ("huggingFaceEndpoint", &["http://127.0.0.1:9/", "environment: HF_ENDPOINT"]),
        ("apiKeys", &["(set, not shown)", "settings file"]),
        ("proxyPassword", &["default"]),
    ] {
        let row = row(key);
        assert!(words.iter().all(|word| row.contains(word)), "{key}: {row}\n{said}");
    }
    assert!(!said.contains(secret) && text(&shown.stderr).contains("mystery"), "{shown:?}");
    let json = daemon.cli(&["config", "show", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        json["settings"].as_array().unwrap().iter().filter(|it| it["setting"] == "threads").count(),
        1,
        "{json}"
    );
}
