//! The command line of cortex.cpp, row by row: flags, texts, tables, as scripts know them. What asks a person is tested at a terminal
//! (`tests/terminal`).

use crate::{
    engines::cli,
    http::{MODEL, get, post},
};
use cortex_test::{
    daemon::{Options, TestDaemon},
    dist,
    hub::FakeHub,
};
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Only what goes to standard output, and the exit code.
fn printed(daemon: &TestDaemon, arguments: &[&str]) -> (Option<i32>, String) {
    let output = daemon.cli(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// The cells of each row of a table with lines, the head first.
fn cells(table: &str) -> Vec<Vec<String>> {
    let row = |line: &str| {
        let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(inner.split(" | ").map(|cell| cell.trim().to_owned()).collect())
    };
    table.lines().filter_map(row).collect()
}

#[test]
fn models_are_imported_listed_started_and_run_with_the_flags_of_scripts() {
    let daemon = TestDaemon::start();
    let model = dist::model().display().to_string();
    // Two spaces, as ever.
    assert_eq!(
        printed(&daemon, &["models", "import", "--model_id", MODEL, "--model_path", &model]),
        (Some(0), format!("Successfully import model from  '{model}' for modelID '{MODEL}'.\n"))
    );
    let (code, list) = printed(&daemon, &["models", "list"]);
    assert_eq!(
        (code, cells(&list)),
        (Some(0), vec![vec!["(Index)".into(), "ID".into()], vec!["1".into(), MODEL.to_owned()]])
    );
    assert_eq!(cells(&printed(&daemon, &["models", "list", "SMOL"]).1).len(), 2);
    assert_eq!(cells(&printed(&daemon, &["models", "list", "nobody"]).1).len(), 1);
    assert_eq!(cells(&printed(&daemon, &["models", "list", "--available"]).1).len(), 1);
    let start = format!("{MODEL} model started successfully. Use `cortex run {MODEL}` for interactive chat shell\n");
    assert_eq!(printed(&daemon, &["models", "start", MODEL, "--ctx_len", "512"]), (Some(0), start.clone()));
    // After a load it is known what it takes.
    let (_, wide) = printed(&daemon, &["models", "list", "-e", "-v", "--cpu_mode", "--gpu_mode"]);
    let wide = cells(&wide);
    assert_eq!(wide[0], ["(Index)", "ID", "Engine", "Version", "CPU Mode", "GPU Mode"]);
    assert!(wide[1][2] == "llama-cpp" && wide[1][4].starts_with("RAM: ") && wide[1][4].ends_with(" MiB"), "{wide:?}");
    let (_, one) = printed(&daemon, &["models", "get", MODEL]);
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap()["id"], MODEL);
    assert!(one.starts_with("{\n"), "it is printed for people");
    let (_, ps) = printed(&daemon, &["ps"]);
    let ps = cells(&ps);
    assert_eq!(ps[0][..5], ["Model", "Engine", "RAM", "VRAM", "Up time"]);
    assert!(ps[1][0] == MODEL && ps[1][1] == "llama-cpp" && ps[1][2].ends_with("MiB"), "{ps:?}");
    assert_eq!(ps[1][7], "4 × 512");
    assert_eq!(printed(&daemon, &["models", "stop", MODEL]), (Some(0), "Model stopped!\n".into()));
    // `run` only loads with -d, by a part of the id.
    for detach in ["-d", "--detach"] {
        assert_eq!(printed(&daemon, &["run", "smol", detach, "--ctx_len", "256"]), (Some(0), start.clone()));
        assert!(cells(&printed(&daemon, &["ps"]).1)[1][7].ends_with("256"));
    }
    // There is no graphics processor with the number 7, and the number 0 only where there is one.
    let (code, said) = cli(&daemon, &["run", MODEL, "-d", "--gpus", "[7]"]);
    assert!(code == Some(1) && said.contains("Invalid GPU index"), "{said}");
    let (code, said) = cli(&daemon, &["run", MODEL, "-d", "--gpus", "[]"]);
    assert!(code == Some(0) && said.ends_with(&start), "{said}");
    let update = ["models", "update", "--model_id", MODEL, "--temperature", "0.1", "--stop", "a,b", "--model", "other"];
    assert_eq!(printed(&daemon, &update), (Some(0), format!("Successfully updated model ID '{MODEL}'!\n")));
    let (_, one) = printed(&daemon, &["models", "get", MODEL]);
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap()["stop"], json!(["a", "b"]));
    assert_eq!(
        printed(&daemon, &["models", "delete", MODEL]),
        (Some(0), format!("Model {MODEL} deleted successfully\n"))
    );
    for failing in [["models", "delete", "nobody"], ["models", "stop", "nobody"], ["models", "start", "nobody"]] {
        let (code, said) = cli(&daemon, &failing);
        assert!(code == Some(1) && said.starts_with("error: ") && said.contains("nobody"), "{failing:?}: {said}");
    }
    let (code, said) = cli(&daemon, &["run"]);
    assert!(
        code == Some(2) && said.contains("No local models available!") || said.contains("the input is empty"),
        "{said}"
    );
}

#[test]
fn every_field_of_a_model_can_be_updated() {
    let daemon = TestDaemon::start();
    assert_eq!(cli(&daemon, &["import", &dist::model().display().to_string(), "--id", "m"]).0, Some(0));
    for (field, value) in [
        ("name", "n"),
        ("version", "2"),
        ("stop", "x"),
        ("top_p", "0.5"),
        ("temperature", "0.5"),
        ("frequency_penalty", "0.5"),
        ("presence_penalty", "0.5"),
        ("max_tokens", "9"),
        ("stream", "false"),
        ("ngl", "3"),
        ("ctx_len", "512"),
        ("n_parallel", "2"),
        ("cpu_threads", "1"),
        ("engine", "llama-cpp"),
        ("prompt_template", "{prompt}"),
        ("system_template", "s"),
        ("user_template", "u"),
        ("ai_template", "a"),
        ("os", "linux"),
        ("gpu_arch", "x"),
        ("quantization_method", "q"),
        ("precision", "p"),
        ("tp", "1"),
        ("trtllm_version", "1"),
        ("text_model", "false"),
        ("object", "model"),
        ("owned_by", "me"),
        ("created", "1"),
        ("seed", "7"),
        ("dynatemp_range", "0.1"),
        ("dynatemp_exponent", "1.5"),
        ("top_k", "9"),
        ("min_p", "0.1"),
        ("tfs_z", "1"),
        ("typ_p", "0.9"),
        ("repeat_last_n", "5"),
        ("repeat_penalty", "1.1"),
        ("mirostat", "false"),
        ("mirostat_tau", "4"),
        ("mirostat_eta", "0.2"),
        ("penalize_nl", "true"),
        ("ignore_eos", "false"),
        ("n_probs", "1"),
        ("min_keep", "1"),
        ("grammar", ""),
    ] {
        let (code, said) = cli(&daemon, &["models", "update", "--model_id", "m", &format!("--{field}"), value]);
        assert!(code == Some(0) && said.contains("Successfully updated model ID 'm'!"), "{field}: {said}");
    }
}

#[test]
fn the_machine_is_shown_in_tables_part_by_part() {
    let daemon = TestDaemon::start();
    let gpu = [
        "#",
        "GPU ID",
        "Name",
        "Version",
        "Total (MiB)",
        "Available (MiB)",
        "Driver Version",
        "Compute Capability",
        "Activated",
    ];
    let parts: [(&str, &str, &[&str]); 6] = [
        ("--cpu", "CPU", &["#", "Arch", "Cores", "Model", "Usage", "Instructions"]),
        ("--os", "OS", &["#", "Version", "Name"]),
        ("--ram", "RAM", &["#", "Total (MiB)", "Available (MiB)"]),
        ("--gpu", "GPU", &gpu),
        ("--storage", "Storage", &["#", "Total (GiB)", "Available (GiB)"]),
        ("--power", "Power", &["#", "Battery Life", "Charging Status", "Power Saving"]),
    ];
    let (_, all) = printed(&daemon, &["hardware", "list"]);
    for (flag, title, head) in parts {
        let (code, part) = printed(&daemon, &["hardware", "list", flag]);
        assert!(code == Some(0) && part.starts_with(&format!("{title} Information:\n+-")), "{part}");
        assert_eq!(cells(&part)[0], head, "{flag}");
        assert_eq!(part.matches("Information:").count(), 1);
        assert!(all.contains(&format!("{title} Information:\n")), "{all}");
    }
    assert_eq!(printed(&daemon, &["hardware", "activate", "--gpus", "[]"]).1, "Deactivated all GPUs!\n");
}

#[tokio::test]
async fn a_repository_without_gguf_is_told_and_no_failure() {
    let hub = FakeHub::start();
    hub.add_file("maker/other", "main", "model.safetensors", b"x".to_vec());
    let daemon = TestDaemon::with(Options {
        environment: vec![("HF_ENDPOINT".into(), OsString::from(hub.url()))],
        ..Options::default()
    });
    let (code, said) = printed(&daemon, &["pull", "maker/other"]);
    let sentence = "Not a GGUF model. Currently, only GGUF single file is supported.";
    assert!(code == Some(0) && said.starts_with(sentence), "{said}");
    let (status, answer) = post(&daemon, "/models/pull/info", &json!({"model": "maker/other"})).await;
    assert!(status == 400 && answer["message"].as_str().unwrap().starts_with(sentence), "{answer}");
    let (code, said) = cli(&daemon, &["pull", "nobody/nothing"]);
    assert!(code == Some(1) && said.contains("Model nobody/nothing not found"), "{said}");
    // The forms that need no question to the hub.
    for (model, id, url) in [
        ("a:b:c.gguf", "a:b:c.gguf", "a:b:c.gguf"),
        ("https://huggingface.co/a/b/blob/main/c.gguf", "a:b:c.gguf", "https://huggingface.co/a/b/resolve/main/c.gguf"),
    ] {
        let (status, info) = post(&daemon, "/models/pull/info", &json!({"model": model})).await;
        assert_eq!(
            (status, &info["id"], &info["downloadUrl"], &info["downloadedModels"], &info["availableModels"]),
            (200, &json!(id), &json!(url), &json!([]), &json!([])),
            "{info}"
        );
    }
}

/// The program with a folder of its own, and no daemon yet.
struct Alone {
    folder: tempfile::TempDir,
    port: String,
}

impl Alone {
    fn new() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        Self { folder: tempfile::tempdir().unwrap(), port }
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        Command::new(program)
            .arg("--config_file_path")
            .arg(self.folder.path().join("rc"))
            .arg("--data_folder_path")
            .arg(self.folder.path().join("data"))
            .args(["--port", &self.port])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The exit code, standard output and standard error.
    fn cortex(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        told(&self.run(&dist::program("cortex"), arguments))
    }
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_daemon_is_started_where_it_is_needed_and_missed_where_it_is_not() {
    let alone = Alone::new();
    let address = format!("http://127.0.0.1:{}", alone.port);
    // `ps` and `stop` start nothing.
    let (code, out, err) = alone.cortex(&["ps"]);
    assert!(code == Some(3) && out == "No models loaded!\n" && err.contains("does not answer"), "{out}{err}");
    assert_eq!(alone.cortex(&["stop"]).1, "The server is not running\n");
    assert!(!alone.folder.path().join("data").exists());
    let (code, out, err) = alone.cortex(&["models", "list"]);
    assert!(code == Some(0) && out.contains("(Index)"), "{out}");
    assert!(err.starts_with("Starting server ...\nServer started\n"), "{err}");
    assert_eq!(alone.cortex(&["start"]).1, "The server has already started\n");
    assert_eq!(alone.cortex(&["stop"]), (Some(0), "Server stopped!\n".into(), String::new()));
    let (code, out, _) = alone.cortex(&["start"]);
    assert_eq!((code, out), (Some(0), format!("Server started\nAPI Documentation available at: {address}\n")));
    assert_eq!(alone.cortex(&["stop"]).0, Some(0));
    // The program alone, without the daemon's beside it.
    let lonely = alone.folder.path().join("cortex");
    fs_err::copy(dist::program("cortex"), &lonely).unwrap();
    let (code, out, err) = told(&alone.run(&lonely, &["start"]));
    assert!(
        code == Some(1) && out.is_empty() && err.contains("Could not start server: ") && err.contains("cortex-server"),
        "{err}"
    );
    let (code, _, err) = told(&alone.run(&lonely, &["models", "list"]));
    assert!(code == Some(1) && err.contains("Could not start server"), "{err}");
}

#[test]
fn what_start_is_told_stands_in_the_settings() {
    let alone = Alone::new();
    let logs = alone.folder.path().join("elsewhere");
    let logs = logs.to_string_lossy();
    let (code, out, err) = alone.cortex(&[
        "start",
        "--host",
        "127.0.0.1",
        "--logspath",
        &logs,
        "--logsllama",
        "x",
        "--logsonnx",
        "y",
        "--datapath",
        "z",
        "--loglines",
        "9",
        "--hf-token",
        "hf_1",
        "--gh-agent",
        "agent",
        "--gh-token",
        "gh_1",
        "--cors",
        "true",
        "--origins",
        "http://a,http://b",
        "--proxy-url",
        "http://proxy:1",
        "--verify-proxy",
        "0",
        "--verify-proxy-host",
        "false",
        "--proxy-username",
        "u",
        "--proxy-password",
        "p",
        "--no-proxy",
        "intranet",
        "--verify-ssl-peer",
        "1",
        "--verify-ssl-host",
        "true",
        "--loglevel",
        "INFO",
    ]);
    assert!(code == Some(0) && out.starts_with("Server started\n"), "{out}{err}");
    let text = fs_err::read_to_string(alone.folder.path().join("rc")).unwrap();
    for line in [
        "apiServerHost: \"127.0.0.1\"",
        "huggingFaceToken: \"hf_1\"",
        "gitHubToken: \"gh_1\"",
        "enableCors: true",
        "allowedOrigins: [\"http://a\",\"http://b\"]",
        "proxyUrl: \"http://proxy:1\"",
        "verifyProxySsl: false",
        "verifyProxyHostSsl: false",
        "proxyUsername: \"u\"",
        "proxyPassword: \"p\"",
        "noProxy: \"intranet\"",
        "verifyPeerSsl: true",
        "verifyHostSsl: true",
        &format!("logFolderPath: \"{logs}\""),
        &format!("apiServerPort: \"{}\"", alone.port),
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    // Secrets are not shown, lists have a row for each of their items.
    let (_, status, _) = alone.cortex(&["config", "status"]);
    let rows = cells(&status);
    assert_eq!(rows[0], ["Config name", "Value"]);
    assert_eq!(rows.iter().filter(|row| row[0] == "allowed_origins").count(), 2);
    assert!(!status.contains("hf_1") && !status.contains("gh_1"), "{status}");
    assert_eq!(alone.cortex(&["stop"]).0, Some(0));
    // A half of TLS is no start.
    let (code, _, err) = alone.cortex(&["start", "--ssl-cert-path", "/none"]);
    assert!(code != Some(0) && err.contains("ssl"), "{err}");
}

#[tokio::test]
async fn each_setting_of_config_is_changed() {
    let daemon = TestDaemon::start();
    for (flag, value, shown) in [
        ("--cors", "off", json!(false)),
        ("--allowed_origins", "http://a,http://b", json!(["http://a", "http://b"])),
        ("--proxy_url", "http://proxy:1", Value::Null),
        ("--proxy_username", "u", Value::Null),
        ("--proxy_password", "p", Value::Null),
        ("--verify_proxy_ssl", "off", json!(false)),
        ("--verify_proxy_host_ssl", "off", json!(false)),
        ("--no_proxy", "a,b", json!("a,b")),
        ("--verify_peer_ssl", "on", json!(true)),
        ("--verify_host_ssl", "on", json!(true)),
        ("--huggingface_token", "hf_x", json!("********")),
        ("--github_token", "gh_x", json!("********")),
    ] {
        let (code, out) = printed(&daemon, &["config", flag, value]);
        assert_eq!((code, out.as_str()), (Some(0), "Configuration updated successfully!\n"), "{flag}");
        let now = get(&daemon, "/v1/configs").await.1;
        let now = &now[flag.trim_start_matches("--")];
        assert!(shown.is_null() && !now.is_null() || *now == shown, "{flag}: {now}");
    }
    let (code, out) = cli(&daemon, &["config", "--json"]);
    assert!(code == Some(2) && out.contains("Invalid configuration options provided"), "{out}");
}

#[test]
fn what_is_missing_or_asked_for_is_told() {
    let alone = Alone::new();
    // Help where nothing is said, and the name of what is missing.
    for (arguments, words) in [
        (&[] as &[&str], "Usage: cortex"),
        (&["engines"], "Usage: cortex engines"),
        (&["models"], "Usage: cortex models"),
        (&["config"], "Usage: cortex config"),
        (&["models", "start"], "<ID>"),
        (&["models", "get"], "<ID>"),
        (&["models", "delete"], "<ID>"),
        (&["models", "sources", "add"], "<"),
        (&["models", "import"], "required"),
        (&["hardware", "activate"], "--gpus"),
        (&["engines", "get"], "<NAME>"),
    ] {
        let (code, _, err) = alone.cortex(arguments);
        assert!(code == Some(2) && err.contains(words), "{arguments:?}: {code:?} {err}");
    }
    for arguments in [&["-v"] as &[&str], &["--version"], &["--verbose", "-v"]] {
        assert_eq!(alone.cortex(arguments).1, concat!("cortex ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    for arguments in [&["update"] as &[&str], &["update", "-v", "1.0.0"], &["update", "--server"]] {
        let (code, out, _) = alone.cortex(arguments);
        assert!(code == Some(0) && out.contains(env!("CARGO_PKG_VERSION")), "{out}");
    }
    assert!(!alone.folder.path().join("data").exists(), "none of these needs a daemon");
}
