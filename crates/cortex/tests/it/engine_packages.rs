//! Compute modules that are not part of the build: from an index, from a folder, newer, broken, removed; computed with by the real
//! worker.

use crate::{
    engines::cli,
    http::{client, get, import, post, question},
    registry::send,
};
use cortex_packages::{BUILD, MANIFEST, archive_name};
use cortex_test::{
    archive::{Entry, tarball},
    daemon::{Options, TestDaemon},
    dist,
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use tokio_tungstenite::tungstenite::Message;

const MODULE: &str = "libggml-cpu-haswell.so";
const NEW: &str = concat!(env!("CARGO_PKG_VERSION"), "-2");
const NEWER: &str = concat!(env!("CARGO_PKG_VERSION"), "-3");
const BROKEN: &str = concat!(env!("CARGO_PKG_VERSION"), "-4");

fn variant() -> String {
    format!("{}-haswell", cortex_server::platform())
}

fn sha256(content: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A build without its best modules, and a folder where they can be had.
struct Setting {
    folder: tempfile::TempDir,
    module: Vec<u8>,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let worker = dist::worker_copy(folder.path());
        let backends = worker.parent().unwrap().join("backends");
        let module = fs_err::read(backends.join(MODULE)).unwrap();
        for entry in fs_err::read_dir(backends).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !["libggml-cpu-x64.so", "libggml-cpu-sse42.so"].contains(&name.as_str()) {
                fs_err::remove_file(entry.path()).unwrap();
            }
        }
        fs_err::create_dir(folder.path().join("archives")).unwrap();
        Self { folder, module }
    }

    fn archives(&self) -> PathBuf {
        self.folder.path().join("archives")
    }

    /// Packs a module for the processor; what the index says of it.
    fn pack(&self, version: &str, module: &[u8]) -> Value {
        self.pack_as(version, &variant(), MODULE, module)
    }

    fn pack_as(&self, version: &str, variant: &str, file: &str, module: &[u8]) -> Value {
        let manifest = json!({
            "engine": "llama-cpp", "version": version, "variant": variant, "build": BUILD, "module": file,
            "files": [{"name": file, "bytes": module.len(), "sha256": sha256(module)}],
        })
        .to_string();
        let packed = tarball(&[Entry::File(MANIFEST, manifest.as_bytes()), Entry::File(file, module)]);
        let name = archive_name(version, variant);
        fs_err::write(self.archives().join(&name), &packed).unwrap();
        json!({"tag_name": format!("v{version}"), "published_at": "2026-11-27T00:00:00Z", "assets": [{
            "name": name, "size": packed.len(), "browser_download_url": name,
            "digest": format!("sha256:{}", sha256(&packed))}]})
    }

    fn publish(&self, releases: &[&Value]) {
        fs_err::write(self.archives().join("index.json"), json!(releases).to_string()).unwrap();
    }

    fn daemon(&self) -> TestDaemon {
        TestDaemon::with(Options {
            settings: Some(format!("engineIndex: {}", self.archives().join("index.json").display())),
            environment: vec![("CORTEX_WORKER".into(), self.folder.path().join("worker/cortex-llamacpp").into())],
            data: Some(self.folder.path().join("data")),
            ..Options::default()
        })
    }
}

/// The variants with their versions, and which is taken.
async fn shown(daemon: &TestDaemon) -> String {
    let engines = get(daemon, "/v1/engines/llama-cpp").await.1;
    let one = |it: &Value| format!("{} {}", it["name"].as_str().unwrap(), it["version"].as_str().unwrap());
    engines.as_array().unwrap().iter().map(one).collect::<Vec<_>>().join(", ")
}

async fn default(daemon: &TestDaemon) -> String {
    let default = get(daemon, "/v1/engines/llama-cpp/default").await.1;
    format!("{} {}", default["variant"].as_str().unwrap(), default["version"].as_str().unwrap())
}

/// Asks for an install, or an update, and hears what becomes of it: the answer, the kinds of frames, and the last frame.
async fn followed(daemon: &TestDaemon, path: &str, body: &Value) -> (Value, Vec<String>, Value) {
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/events", daemon.address)).await.unwrap();
    let (status, answer) = post(daemon, &format!("/v1/engines/llama-cpp/{path}"), body).await;
    assert_eq!(status, 200, "{answer}");
    let mut kinds: Vec<String> = vec![];
    loop {
        let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["task"]["type"], "Engine");
        assert_eq!(frame["task"]["id"], answer["task"]["id"]);
        let kind = frame["type"].as_str().unwrap().to_owned();
        let is_over = !["DownloadStarted", "DownloadUpdated"].contains(&kind.as_str());
        if kinds.last() != Some(&kind) {
            kinds.push(kind);
        }
        if is_over {
            return (answer, kinds, frame);
        }
    }
}

/// The files of the running worker that are compute modules.
async fn modules_in_use(daemon: &TestDaemon) -> String {
    let loaded = get(daemon, "/inferences/server/models").await.1;
    let pid = loaded["data"][0]["pid"].as_u64().unwrap();
    let maps = fs_err::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter(|line| line.contains("libggml-cpu-")).collect()
}

#[tokio::test]
async fn modules_come_from_an_index_verified_tried_and_with_a_way_back() {
    let setting = Setting::new();
    let (new, newer) = (setting.pack(NEW, &setting.module), setting.pack(NEWER, &setting.module));
    let broken = setting.pack(BROKEN, b"this is no library");
    setting.publish(&[&new]);
    let daemon = setting.daemon();
    let of_build = concat!("v", env!("CARGO_PKG_VERSION"));
    let platform = cortex_server::platform();
    let old = format!("{platform}-sse42 {of_build}, {platform}-x64 {of_build}");
    assert_eq!(shown(&daemon).await, old);
    let releases = get(&daemon, "/v1/engines/llama-cpp/releases").await.1;
    assert_eq!(
        (releases[0]["name"].as_str(), releases[1]["name"].as_str()),
        (Some(format!("v{NEW}").as_str()), Some(of_build))
    );
    let latest = get(&daemon, "/v1/engines/llama-cpp/releases/latest").await.1;
    let entry = latest.as_array().unwrap().iter().find(|it| it["name"] == variant()).unwrap();
    assert!(entry["size"].as_u64().unwrap() > 1000 && latest.as_array().unwrap().len() == 3, "{latest}");

    // Installed, tried, told, and taken.
    let body = json!({"variant": variant(), "version": format!("v{NEW}")});
    let (answer, kinds, _) = followed(&daemon, "install", &body).await;
    assert_eq!(answer["message"], "Engine starts installing!");
    assert_eq!(kinds, ["DownloadStarted", "DownloadUpdated", "DownloadSuccess"]);
    assert_eq!(shown(&daemon).await, format!("{old}, {} v{NEW}", variant()));
    let (status, set) = post(&daemon, "/v1/engines/llama-cpp/default", &body).await;
    assert_eq!(
        (status, set["message"].as_str().unwrap()),
        (200, format!("Engine {} {NEW} set as default", variant()).as_str())
    );
    import(&daemon).await;
    let answer_of = async |daemon: &TestDaemon| {
        let (status, answer) = post(daemon, "/v1/chat/completions", &question("Say hello.")).await;
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let said = answer_of(&daemon).await;
    let in_use = modules_in_use(&daemon).await;
    assert!(in_use.contains(&format!("engines/llama-cpp/{}/{NEW}/{MODULE}", variant())), "{in_use}");
    // Again: there is nothing to do, which is told to those who wait.
    let (_, kinds, _) = followed(&daemon, "install", &body).await;
    assert_eq!(kinds, ["DownloadSuccess"]);
    let (status, up_to_date) = send(&daemon, "POST", "/v1/engines/llama-cpp/update", None).await;
    assert!(status == 400 && up_to_date["message"].as_str().unwrap().contains("is already up-to-date"), "{up_to_date}");

    // A newer one; the one before stays, and can be taken again.
    setting.publish(&[&newer, &new]);
    let (answer, kinds, _) = followed(&daemon, "update", &json!({})).await;
    assert_eq!(
        (answer["from"].as_str().unwrap(), answer["to"].as_str().unwrap()),
        (format!("v{NEW}").as_str(), format!("v{NEWER}").as_str())
    );
    assert_eq!(kinds.last().unwrap(), "DownloadSuccess");
    let both = format!("{old}, {0} v{NEWER}, {0} v{NEW}", variant());
    assert_eq!((shown(&daemon).await, default(&daemon).await), (both.clone(), format!("{} v{NEWER}", variant())));

    // One that does not work changes nothing.
    setting.publish(&[&broken]);
    let (_, kinds, last) = followed(&daemon, "update", &json!({})).await;
    let message = last["message"].as_str().unwrap();
    assert!(kinds.last().unwrap() == "DownloadError" && message.contains("does not work on this machine"), "{message}");
    assert_eq!((shown(&daemon).await, default(&daemon).await), (both, format!("{} v{NEWER}", variant())));
    assert_eq!(post(&daemon, "/v1/engines/llama-cpp/default", &body).await.0, 200);
    assert_eq!(default(&daemon).await, format!("{} v{NEW}", variant()));

    // The next daemon goes on with it.
    drop(daemon);
    let daemon = setting.daemon();
    assert_eq!(default(&daemon).await, format!("{} v{NEW}", variant()));
    assert_eq!(answer_of(&daemon).await, said);
    assert!(modules_in_use(&daemon).await.contains(&format!("/{NEW}/")));

    // Removed: the version before the last, then all; the modules of the build stay.
    let path = "/v1/engines/llama-cpp/install";
    let (status, gone) = send(&daemon, "DELETE", path, Some(&body)).await;
    assert_eq!((status, gone["message"].as_str().unwrap()), (200, "Engine llama-cpp uninstalled successfully!"));
    assert_eq!(default(&daemon).await, format!("{} v{NEWER}", variant()));
    assert_eq!(send(&daemon, "DELETE", path, Some(&body)).await.0, 400);
    assert_eq!(send(&daemon, "DELETE", path, None).await.0, 200);
    assert_eq!(shown(&daemon).await, old);
    assert!(send(&daemon, "DELETE", path, None).await.1["message"].as_str().unwrap().contains("part of this build"));
    assert!(!answer_of(&daemon).await.is_empty());

    // An index that cannot be read.
    fs_err::write(setting.archives().join("index.json"), "<html>").unwrap();
    for (method, path, words) in [
        ("POST", "install", "Failed to fetch engine releases: "),
        ("POST", "update", "Failed to get latest version: "),
        ("GET", "releases", "Failed to get engine releases: "),
    ] {
        let body = (path == "install").then_some(&body);
        let (status, answer) = send(&daemon, method, &format!("/v1/engines/llama-cpp/{path}"), body).await;
        assert!(status == 400 && answer["message"].as_str().unwrap().starts_with(words), "{path}: {answer}");
    }
}

#[tokio::test]
async fn archives_of_this_machine_are_for_its_command_line() {
    let setting = Setting::new();
    let release = setting.pack(NEW, &setting.module);
    setting.publish(&[&release]);
    let daemon = setting.daemon();
    let folder = setting.archives().to_string_lossy().into_owned();
    let install = ["engines", "install", "llama-cpp"];
    // What lies there is run: a request alone must not do that.
    let (status, refused) = post(&daemon, "/v1/engines/llama-cpp/install", &json!({"source": folder})).await;
    assert!(status == 403 && refused["message"].as_str().unwrap().contains("-s FOLDER"), "{refused}");
    let page = client().post(daemon.url("/v1/engines/llama-cpp/install")).header("origin", "https://evil.example");
    assert_eq!(page.json(&json!({"source": folder})).send().await.unwrap().status(), 403);
    assert!(!setting.folder.path().join("data/engines").exists());
    assert_eq!(
        cli(&daemon, &[&install[..], &["-s", &folder]].concat()),
        (Some(0), "Engine llama-cpp installed successfully!\n".into())
    );
    assert!(shown(&daemon).await.ends_with(&format!("{} v{NEW}", variant())));
    let (code, list) = cli(&daemon, &["engines", "list"]);
    assert!(code == Some(0) && list.contains(&format!("v{NEW}")) && list.contains("| Status"), "{list}");
    let uninstall = ["engines", "uninstall", "llama-cpp", "--variant", "haswell", "-v", NEW];
    assert_eq!(cli(&daemon, &uninstall), (Some(0), "Engine llama-cpp uninstalled successfully!\n".into()));
    // From the index, by a short name.
    let (code, said) = cli(&daemon, &[&install[..], &["--variant", "haswell"]].concat());
    assert!(code == Some(0) && said.starts_with("Engine llama-cpp downloaded successfully!\n"), "{said}");
    assert_eq!(cli(&daemon, &["engines", "uninstall", "llama-cpp"]).0, Some(0));
    // From menus: the version, then the variant.
    let of_release = get(&daemon, &format!("/v1/engines/llama-cpp/releases/v{NEW}")).await.1;
    assert_eq!((of_release[0]["name"].as_str(), of_release.as_array().unwrap().len()), (Some(variant().as_str()), 1));
    let (code, said) = typed(&daemon, &[&install[..], &["-m"]].concat(), "1\n1\n");
    for words in [
        "Select an option\n    1. v",
        &format!("Selected version: v{NEW}\n"),
        &format!("Selected {} - v{NEW}\n", variant()),
        "Engine llama-cpp downloaded successfully!\n",
    ] {
        assert!(code == Some(0) && said.contains(words), "{said} / {words}");
    }
    let (code, said) = typed(&daemon, &["engines", "use", "llama-cpp"], "3\n");
    assert!(
        code == Some(0)
            && said.contains("Select an option\n")
            && said.ends_with("Engine llama-cpp updated successfully!\n"),
        "{said}"
    );
    assert_eq!(default(&daemon).await, format!("{} v{NEW}", variant()));
    let (code, said) = typed(&daemon, &["engines", "use", "llama-cpp"], "9\n");
    assert!(code == Some(2) && said.contains("Invalid selection"), "{said}");
    // A package may have the name of a module of the build, which can be chosen again; and what was chosen and is gone is no choice.
    let own = format!("{}-mine", cortex_server::platform());
    let folder_of_own = setting.folder.path().join("own");
    fs_err::create_dir(&folder_of_own).unwrap();
    let module = fs_err::read(setting.folder.path().join("worker/backends/libggml-cpu-x64.so")).unwrap();
    setting.pack_as(NEW, &own, "libggml-cpu-x64.so", &module);
    let name = archive_name(NEW, &own);
    fs_err::copy(setting.archives().join(&name), folder_of_own.join(&name)).unwrap();
    fs_err::remove_file(setting.archives().join(&name)).unwrap();
    assert_eq!(cli(&daemon, &[&install[..], &["-s", &folder_of_own.to_string_lossy()]].concat()).0, Some(0));
    for (variant, version) in [
        ("mine", format!("v{NEW}")),
        ("x64", concat!("v", env!("CARGO_PKG_VERSION")).into()),
        ("mine", format!("v{NEW}")),
    ] {
        let (code, said) = cli(&daemon, &["engines", "use", "llama-cpp", "--variant", variant]);
        assert_eq!((code, said.as_str()), (Some(0), "Engine llama-cpp updated successfully!\n"), "{variant}");
        assert_eq!(default(&daemon).await, format!("{}-{variant} {version}", cortex_server::platform()));
    }
    assert_eq!(cli(&daemon, &["engines", "uninstall", "llama-cpp", "--variant", "mine"]).0, Some(0));
    assert!(!setting.folder.path().join("data/state/variant").exists());
    // A module for graphics processors that is none is not installed either.
    let folder_of_own = folder_of_own.to_string_lossy().into_owned();
    let vulkan = format!("{}-vulkan", cortex_server::platform());
    setting.pack_as(NEW, &vulkan, "libggml-vulkan.so", b"this is no library");
    let name = archive_name(NEW, &vulkan);
    fs_err::copy(setting.archives().join(&name), Path::new(&folder_of_own).join(&name)).unwrap();
    fs_err::remove_file(setting.archives().join(&name)).unwrap();
    let (code, said) = cli(&daemon, &[&install[..], &["--variant", "vulkan", "-s", &folder_of_own]].concat());
    assert!(code == Some(1) && said.contains("does not work on this machine"), "{said}");
    assert!(!shown(&daemon).await.contains("vulkan"));
    // A folder without archives leads to the index, as ever.
    let empty = setting.folder.path().join("empty");
    fs_err::create_dir(&empty).unwrap();
    let (code, said) = cli(&daemon, &[&install[..], &["--variant", "cuda", "-s", &empty.to_string_lossy()]].concat());
    assert!(code == Some(1) && said.contains("Failed to find a suitable variant for llama-cpp"), "{said}");
    damaged(&setting.archives().join(archive_name(NEW, &variant())));
    assert_eq!(cli(&daemon, &["engines", "uninstall", "llama-cpp"]).0, Some(0));
    for arguments in [["-s", folder.as_str()], ["--variant", "haswell"]] {
        let (code, said) = cli(&daemon, &[&install[..], &arguments].concat());
        assert!(code == Some(1) && said.contains("cannot be used"), "{said}");
    }
    assert!(!shown(&daemon).await.contains(NEW));
}

/// Changes one byte amid a file.
fn damaged(path: &Path) {
    let mut content = fs_err::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0x55;
    fs_err::write(path, content).unwrap();
}

/// Runs a command that asks, and answers it.
fn typed(daemon: &TestDaemon, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let mut child = daemon
        .cli(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    (output.status.code(), said)
}
