//! The engine that is here: its compute modules as variants, over HTTP and on the command line; and the class routes.

use crate::{
    http::{MODEL, get, import, post, question},
    registry::send,
};
use cortex_test::daemon::{Options, TestDaemon};
use serde_json::{Value, json};

pub(crate) fn cli(daemon: &TestDaemon, arguments: &[&str]) -> (Option<i32>, String) {
    let output = daemon.cli(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

#[tokio::test]
async fn variants_are_the_modules_of_this_build() {
    let daemon = TestDaemon::start();
    let (status, engines) = get(&daemon, "/v1/engines").await;
    let variants = engines["llama-cpp"].as_array().unwrap();
    assert!(status == 200 && variants.len() > 3, "{engines}");
    let version = variants[0]["version"].as_str().unwrap();
    let (status, default) = get(&daemon, "/v1/engines/llama-cpp/default").await;
    let chosen = default["variant"].as_str().unwrap().to_owned();
    assert_eq!((status, default["version"].as_str()), (200, Some(version)));
    assert!(variants.iter().any(|variant| variant["name"] == chosen.as_str()), "{chosen}");
    assert_eq!(get(&daemon, "/engines/llama.cpp").await.1, engines["llama-cpp"]);
    assert_eq!(get(&daemon, "/v1/engines/none").await, (200, json!([])));
    // Jan reads an array of these.
    let (_, latest) = get(&daemon, "/v1/engines/llama-cpp/releases/latest").await;
    assert_eq!(latest.as_array().map(Vec::len), Some(variants.len()));
    assert!(["created_at", "download_count", "name", "size"].iter().all(|key| latest[0].get(key).is_some()));
    let (_, compatible) = get(&daemon, &format!("/v1/engines/llama-cpp/releases/{version}?show=compatible")).await;
    assert!(compatible.as_array().unwrap().len() <= variants.len() && compatible.to_string().contains(&chosen));
    assert_eq!(get(&daemon, "/v1/engines/llama-cpp/releases").await.1[0]["name"], version);
    // Another one that works is taken, stays so, and unloads what is loaded.
    import(&daemon).await;
    post(&daemon, "/v1/models/start", &json!({"model": MODEL})).await;
    let other = variants.iter().rev().map(|it| it["name"].as_str().unwrap()).find(|name| *name != chosen).unwrap();
    let body = json!({"variant": other, "version": version});
    let (status, set) = post(&daemon, "/v1/engines/llama-cpp/default", &body).await;
    let bare = version.trim_start_matches('v');
    assert_eq!(
        (status, set["message"].as_str().unwrap()),
        (200, format!("Engine {other} {bare} set as default").as_str())
    );
    assert_eq!(get(&daemon, "/v1/engines/llama-cpp/default").await.1["variant"], other);
    assert_eq!(get(&daemon, "/inferences/server/models").await.1["data"], json!([]));
    let (status, answer) = post(&daemon, "/v1/chat/completions", &question("Hello")).await;
    assert_eq!(status, 200, "{answer}");
    let module = other.rsplit('-').next().unwrap();
    assert_eq!(fs_err::read_to_string(daemon.data().join("state/variant")).unwrap(), module);
    for (method, path, body, status, said) in [
        ("POST", "default", None, 400, "Request body is required"),
        ("POST", "default", Some(json!({"version": "1"})), 400, "Variant is required"),
        ("POST", "default", Some(json!({"variant": "x"})), 400, "Version is required"),
        (
            "POST",
            "default",
            Some(json!({"variant": "x", "version": "v1"})),
            400,
            "Engine variant 1-x is not installed yet!",
        ),
        ("POST", "install", Some(json!({"version": "v9.9"})), 400, "No release found for v9.9"),
        ("POST", "install", Some(json!({"variant": "cuda"})), 400, "Failed to find a suitable variant for llama-cpp"),
        ("POST", "install", Some(json!({"variant": chosen, "version": version})), 200, "Engine starts installing!"),
        ("POST", "install", None, 200, "Engine starts installing!"),
        ("DELETE", "install", Some(json!({"version": version})), 400, "No variant provided"),
        ("DELETE", "install", Some(json!({"variant": "x", "version": version})), 400, "Engine variant does not exist!"),
        ("DELETE", "install", None, 400, "the compute modules of llama-cpp are part of this build"),
        ("POST", "update", None, 400, &format!("Engine llama-cpp, {other} is already up-to-date! Version {version}")),
        ("POST", "load", None, 200, "Engine llama-cpp loaded successfully!"),
        ("DELETE", "load", None, 200, "Engine llama-cpp unloaded successfully!"),
    ] {
        let (found, answer) = send(&daemon, method, &format!("/v1/engines/llama-cpp/{path}"), body.as_ref()).await;
        assert!(found == status && answer["message"].as_str().unwrap().starts_with(said), "{method} {path}: {answer}");
    }
    assert_eq!(get(&daemon, "/v1/engines/none/default").await.1["message"], "Engine none is not supported yet!");
    assert!(get(&daemon, "/v1/engines/none/releases").await.1["message"].as_str().unwrap().contains("Not Found"));
    assert_eq!(get(&daemon, "/v1/engines/llama-cpp/releases/latest?show=x").await.0, 400);
    // The next daemon of this folder takes it too.
    let data = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(data.path().join("state")).unwrap();
    fs_err::write(data.path().join("state/variant"), module).unwrap();
    let again = TestDaemon::with(Options { data: Some(data.path().to_owned()), ..Options::default() });
    assert_eq!(get(&again, "/v1/engines/llama-cpp/default").await.1["variant"], other);
}

#[tokio::test]
async fn the_class_routes_load_and_unload() {
    let daemon = TestDaemon::start();
    import(&daemon).await;
    let class = "/inferences/server";
    let model = json!({"model": MODEL, "engine": "llama-cpp"});
    let status = async |path: &str, body: &Value| post(&daemon, &format!("{class}/{path}"), body).await;
    assert_eq!(status("modelstatus", &model).await.1["message"], format!("Model is not loaded yet: {MODEL}"));
    let (code, loaded) = status("loadmodel", &model).await;
    assert!(
        code == 200 && loaded["status"].as_str().unwrap().starts_with("Model loaded successfully with pid: "),
        "{loaded}"
    );
    assert_eq!(status("LoadModel", &model).await.0, 409);
    assert_eq!(status("modelstatus", &model).await, (200, json!({"status": "Model is loaded"})));
    let (code, gone) = status("unloadmodel", &json!({"engine": "llama-cpp", "model_id": MODEL})).await;
    assert!(
        code == 200 && gone["status"].as_str().unwrap().starts_with("Model unloaded successfully with pid: "),
        "{gone}"
    );
    assert_eq!(status("unloadmodel", &model).await.0, 400);
    assert_eq!(status("loadmodel", &json!({"engine": "llama-cpp"})).await.0, 409);
    assert_eq!(status("loadmodel", &json!({"model": "none"})).await.0, 400);
}

#[tokio::test]
async fn engines_and_settings_on_the_command_line() {
    let daemon = TestDaemon::start();
    let (code, list) = cli(&daemon, &["engines", "list"]);
    assert!(
        code == Some(0) && list.contains("| Name ") && list.contains("| Default") && list.contains("| Installed"),
        "{list}"
    );
    let (code, one) = cli(&daemon, &["engines", "get", "llama-cpp"]);
    assert!(code == Some(0) && one.contains("llama-cpp"), "{one}");
    // The failure that scripts of cortex.cpp take for none.
    assert_eq!(
        cli(&daemon, &["engines", "install", "llama-cpp", "-s", "/none"]),
        (Some(0), "Folder does not exist: /none\n".into())
    );
    assert_eq!(cli(&daemon, &["engines", "install", "llama-cpp"]).1, "Engine llama-cpp downloaded successfully!\n");
    let (code, said) = cli(&daemon, &["engines", "use", "llama-cpp", "--variant", "none"]);
    assert!(code == Some(1) && said.contains("is not installed yet!"), "{said}");
    assert!(cli(&daemon, &["engines", "update", "llama-cpp"]).1.contains("already up-to-date"));
    assert_eq!(cli(&daemon, &["engines", "load", "llama-cpp"]).1, "Engine loaded successfully\n");
    assert_eq!(cli(&daemon, &["engines", "unload", "llama-cpp"]).1, "Engine unloaded successfully\n");
    let mut add = daemon.cli(&["engines", "add", "mine", "--url", "http://127.0.0.1:1", "--key-from", "MY_KEY"]);
    let added = add.env("MY_KEY", "sekret").output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let (_, shown) = cli(&daemon, &["--json", "engines", "get", "mine"]);
    assert!(shown.contains("********") && !shown.contains("sekret"), "{shown}");
    assert_eq!(cli(&daemon, &["engines", "update", "mine"]), (Some(0), "Engine mine updated successfully!\n".into()));
    assert_eq!(cli(&daemon, &["engines", "uninstall", "mine"]).1, "Engine mine uninstalled successfully!\n");
    // Settings of the daemon that runs.
    let changed = cli(&daemon, &["config", "--cors", "off", "--huggingface_token", "hf_x", "--api_keys", "one,two"]);
    assert_eq!(changed, (Some(0), "Configuration updated successfully!\n".into()));
    let (code, status) = cli(&daemon, &["config", "status"]);
    assert!(
        code == Some(0) && status.contains("| Config name") && status.matches("| api_keys").count() == 2,
        "{status}"
    );
    assert!(!status.contains("hf_x") && status.contains("| cors"), "{status}");
    assert_eq!(get(&daemon, "/v1/models").await.0, 401);
    assert_eq!(cli(&daemon, &["config", "--api_keys", ""]).0, Some(0));
    assert_eq!(get(&daemon, "/v1/models").await.0, 200);
    let (code, said) = cli(&daemon, &["config", "--cors", "maybe"]);
    assert!(code == Some(2) && said.contains("must be on or off"), "{said}");
}

#[test]
fn settings_are_written_without_a_daemon_and_by_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mine/.cortexrc");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(cortex_test::dist::program("cortex"))
            .arg("--config-file")
            .arg(&config)
            .arg("--data-folder")
            .arg(folder.path().join("data"))
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, said) = run(&["--port", &port, "config", "--api_keys", "k1", "--proxy_url", "http://proxy:1"]);
    assert!(code == Some(0) && said.ends_with("Configuration updated successfully!\n"), "{said}");
    let text = fs_err::read_to_string(&config).unwrap();
    assert!(text.contains("apiKeys: [\"k1\"]") && text.contains("proxyUrl: \"http://proxy:1\""), "{text}");
    let (code, said) =
        run(&["--port", &port, "start", "--origins", "http://a,http://b", "--cors", "on", "--loglevel", "debug"]);
    assert!(code == Some(0) && said.contains("Server started"), "{said}");
    let text = fs_err::read_to_string(&config).unwrap();
    assert!(
        text.contains("allowedOrigins: [\"http://a\",\"http://b\"]")
            && text.contains(&format!("apiServerPort: \"{port}\"")),
        "{text}"
    );
    // Without the port it is found again.
    assert_eq!(run(&["ps"]).0, Some(0));
    assert_eq!(run(&["start"]).1, "The server has already started\n");
    let (code, said) = run(&["stop"]);
    assert!(code == Some(0) && said == "Server stopped!\n", "{said}");
    let log = fs_err::read_to_string(folder.path().join("data/logs/cortex.log")).unwrap();
    assert!(log.contains("DEBUG") && !log.contains("k1"), "{log}");
}
