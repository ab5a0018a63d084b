//! Installs from an index and from a folder, over a connection that breaks, with modules that do not work.

use super::*;
use crate::{BUILD, MANIFEST, archive::hex};
use cortex_models::{OutboundConfig, tasks};
use cortex_test::archive::{Entry, tarball};
use futures::FutureExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const VARIANT: &str = "linux-amd64-vulkan";

/// Remembers what it was told; a module that holds `broken` does not work.
#[derive(Default)]
struct FakeHost {
    folders: Mutex<Vec<PathBuf>>,
}

impl ModuleHost for FakeHost {
    fn try_module(&self, module: PathBuf) -> BoxFuture<'_, Result<(), String>> {
        let content = fs_err::read(module).unwrap();
        let works = !content.starts_with(b"broken");
        async move { if works { Ok(()) } else { Err("died of SIGILL".into()) } }.boxed()
    }

    fn is_of_build(&self, module: &str) -> bool {
        module == "cuda"
    }

    fn use_folders(&self, folders: Vec<PathBuf>) -> BoxFuture<'_, ()> {
        *self.folders.lock().unwrap() = folders;
        async {}.boxed()
    }
}

struct Setting {
    packages: Packages,
    host: Arc<FakeHost>,
    folder: tempfile::TempDir,
    _shutdown: cortex_models::Shutdown,
}

fn setting(index: &str) -> Setting {
    let folder = tempfile::tempdir().unwrap();
    let (tasks, shutdown) = tasks();
    let allowed =
        reqwest::Url::parse(index).ok().and_then(|url| Some(format!("http://{}:{}", url.host_str()?, url.port()?)));
    let config = PackagesConfig {
        index: Some(index.replace("FOLDER", &folder.path().to_string_lossy())),
        outbound: Outbound::new(OutboundConfig {
            allowed_hosts: allowed.into_iter().collect(),
            ..OutboundConfig::default()
        }),
        platform: "linux-amd64".into(),
        version: "0.1.0".into(),
    };
    let host = Arc::new(FakeHost::default());
    let store = PackageStore::open(&folder.path().join("data"), "linux-amd64");
    let packages = Packages::new(store, config, Arc::clone(&host) as Arc<dyn ModuleHost>, &tasks);
    Setting { packages, host, folder, _shutdown: shutdown }
}

fn archive(version: &str, variant: &str, content: &[u8]) -> Vec<u8> {
    packed(version, variant, "libggml-vulkan.so", content)
}

fn packed(version: &str, variant: &str, file: &str, content: &[u8]) -> Vec<u8> {
    let manifest = json!({
        "engine": "llama-cpp", "version": version, "variant": variant, "build": BUILD, "module": file,
        "files": [{"name": file, "bytes": content.len(), "sha256": hex(&Sha256::digest(content))}],
    });
    tarball(&[Entry::File(MANIFEST, manifest.to_string().as_bytes()), Entry::File(file, content)])
}

/// Bytes that cannot be packed.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn release(version: &str, packed: &[u8]) -> Value {
    let name = archive_name(version, VARIANT);
    let digest = format!("sha256:{}", hex(&Sha256::digest(packed)));
    json!({"tag_name": format!("v{version}"), "assets": [
        {"name": name, "size": packed.len(), "browser_download_url": name, "digest": digest}]})
}

/// The kinds of events until the install is over, and its last message.
async fn followed(packages: &Packages, archive: Archive) -> (String, Option<String>) {
    let (_, mut events) = packages.events();
    packages.begin(archive);
    let mut kinds: Vec<String> = vec![];
    loop {
        let event = events.recv().await.unwrap();
        let kind = format!("{:?}", event.kind);
        if kinds.last() != Some(&kind) {
            kinds.push(kind);
        }
        if !matches!(event.kind, EventKind::Started | EventKind::Updated) {
            return (kinds.join(" "), event.message);
        }
    }
}

/// Answers each request with what is there by that name, in pieces: a connection ends after `most` bytes of content. Counts requests.
async fn serve(files: BTreeMap<String, Vec<u8>>, most: usize) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let (tasks, shutdown) = tasks();
    tasks.spawn(async move {
        // Ends with the runtime of the test.
        let _shutdown = shutdown;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).to_ascii_lowercase();
            let path = request.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(content) = files.get(&path) else {
                stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .await
                    .unwrap();
                continue;
            };
            let from = request.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse().ok());
            let rest = &content[from.unwrap_or(0)..];
            let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", rest.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&rest[..rest.len().min(most)]).await.unwrap();
        }
    });
    (format!("http://{address}/index.json"), asked)
}

#[tokio::test]
async fn an_archive_comes_over_a_connection_that_breaks_and_is_verified() {
    let content = noise(300_000);
    let packed = archive("0.1.0", VARIANT, &content);
    let index = json!([release("0.1.0", &packed)]).to_string().into_bytes();
    let files = [("index.json".to_owned(), index), (archive_name("0.1.0", VARIANT), packed)];
    let (url, asked) = serve(files.into(), 120_000).await;
    let setting = setting(&url);
    let offer = setting.packages.offer("vulkan", None).await.unwrap();
    assert_eq!(followed(&setting.packages, offer).await, ("Started Updated Succeeded".into(), None));
    // The index, and three parts of the archive.
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 4);
    let installed = setting.packages.installed();
    assert_eq!(fs_err::read(installed[0].folder.join("libggml-vulkan.so")).unwrap(), content);
    assert_eq!(*setting.host.folders.lock().unwrap(), [installed[0].folder.clone()]);
    assert!(setting.packages.remove(Some(VARIANT), Some("v0.1.0")).await.unwrap());
    assert!(setting.host.folders.lock().unwrap().is_empty() && setting.packages.installed().is_empty());
}

#[tokio::test]
async fn what_is_not_what_the_index_promises_is_not_installed() {
    let packed = archive("0.1.0", VARIANT, b"module");
    let name = archive_name("0.1.0", VARIANT);
    let good = release("0.1.0", &packed);
    let changed = |key: &str, value: Value| {
        let mut release = good.clone();
        release["assets"][0][key] = value;
        release
    };
    for (release, words) in [
        (changed("digest", Value::Null), "the index promises no SHA-256"),
        (changed("digest", json!(format!("sha256:{}", "0".repeat(64)))), "and the index says 0000"),
        (changed("size", json!(10)), "longer than the 10 bytes of the index"),
        (changed("browser_download_url", json!("gone.tar.gz")), "404 (not found)"),
        (changed("browser_download_url", json!("https://elsewhere.example/a")), "may not be downloaded from"),
    ] {
        let index = json!([release]).to_string().into_bytes();
        let (url, _) = serve([("index.json".into(), index), (name.clone(), packed.clone())].into(), usize::MAX).await;
        let setting = setting(&url);
        let offer = setting.packages.offer("vulkan", None).await.unwrap();
        let (kinds, message) = followed(&setting.packages, offer).await;
        let message = message.unwrap();
        assert!(kinds.ends_with("Failed") && message.contains(words), "{kinds}: {message} / {words}");
        assert!(setting.packages.installed().is_empty());
    }
    let (url, _) = serve(BTreeMap::new(), usize::MAX).await;
    let said = setting(&url).packages.releases().await.unwrap_err().to_string();
    assert!(said.starts_with("Failed to fetch engine releases: ") && said.contains("404"), "{said}");
    for (index, words) in [
        ("index.json", "neither an http address"),
        ("/none/index.json", "/none/index.json"),
        ("http://example.org:80/index.json", "is not encrypted"),
    ] {
        let said = setting(index).packages.releases().await.unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn a_folder_with_archives_is_an_index_too_and_what_does_not_work_changes_nothing() {
    let setting = setting("FOLDER/index.json");
    let folder = setting.folder.path().to_owned();
    let write = |version: &str, content: &[u8]| {
        let packed = archive(version, VARIANT, content);
        fs_err::write(folder.join(archive_name(version, VARIANT)), &packed).unwrap();
        release(version, &packed)
    };
    let index = json!([write("0.1.0", b"module"), write("0.1.0-2", b"broken")]);
    fs_err::write(folder.join("index.json"), index.to_string()).unwrap();
    let packages = &setting.packages;
    let offer = packages.offer(VARIANT, Some("v0.1.0")).await.unwrap();
    assert_eq!(followed(packages, offer).await, ("Started Updated Succeeded".into(), None));
    let before = packages.installed();
    let newest = packages.offer(VARIANT, Some("latest")).await.unwrap();
    assert_eq!(newest.version, "0.1.0-2");
    let (kinds, message) = followed(packages, newest).await;
    assert_eq!(kinds, "Started Updated Failed");
    assert_eq!(message.unwrap(), format!("{VARIANT} does not work on this machine: died of SIGILL"));
    assert_eq!(packages.installed(), before);
    assert!(packages.events().0.is_empty() && !packages.stop("none"));
}

#[tokio::test]
async fn archives_of_a_folder_are_chosen_by_their_names_and_believed_by_their_content() {
    let setting = setting("FOLDER/index.json");
    let folder = setting.folder.path().join("archives");
    fs_err::create_dir(&folder).unwrap();
    let from = async |variant: Option<&str>, version: Option<&str>| {
        let installed = setting.packages.install_from(&folder, variant, version).await;
        installed.map(|it| it.map(|it| it.version)).map_err(|error| error.to_string())
    };
    // Archives of the older program are none of ours.
    fs_err::write(folder.join("llama-b4932-bin-linux-avx-x64.tar.gz"), "x").unwrap();
    assert_eq!(from(None, None).await, Ok(None));
    for version in ["0.1.0", "0.1.0-2", "0.9.0"] {
        fs_err::write(folder.join(archive_name(version, VARIANT)), archive(version, VARIANT, b"module")).unwrap();
    }
    assert_eq!(from(None, None).await, Ok(Some("0.1.0-2".into())));
    assert_eq!(from(Some("vulkan"), Some("v0.1.0")).await, Ok(Some("0.1.0".into())));
    assert!(from(Some("cuda"), None).await.unwrap_err().contains("has no archive such as cortex-llama-cpp-0.1.0-cuda"));
    let other = "linux-amd64-cuda";
    fs_err::write(folder.join(archive_name("0.1.0", other)), archive("0.1.0", VARIANT, b"module")).unwrap();
    let said = from(None, None).await.unwrap_err();
    assert!(
        said.contains("several archives: linux-amd64-cuda, linux-amd64-vulkan; say which one with --variant"),
        "{said}"
    );
    assert!(from(Some("cuda"), None).await.unwrap_err().contains("it holds linux-amd64-vulkan 0.1.0"));
    assert!(from(Some("vulkan"), Some("0.9.0")).await.unwrap_err().contains("0.9.0 is for another cortex"));
    fs_err::write(folder.join(archive_name("0.1.0-7", VARIANT)), archive("0.1.0-2", VARIANT, b"module")).unwrap();
    assert!(from(Some("vulkan"), None).await.unwrap_err().contains("it holds linux-amd64-vulkan 0.1.0-2"));
    // What is part of the build is not installed beside it, unless it is newer.
    for (version, refusal) in [("0.1.0", Some("is part of this build")), ("0.1.0-2", None)] {
        let cuda = packed(version, other, "libggml-cuda.so", b"module");
        fs_err::write(folder.join(archive_name(version, other)), cuda).unwrap();
        let result = from(Some("cuda"), Some(version)).await;
        match refusal {
            Some(words) => assert!(result.unwrap_err().contains(words)),
            None => assert_eq!(result, Ok(Some(version.into()))),
        }
    }
    let gone = setting.packages.install_from(&folder.join("none"), None, None).await.unwrap_err();
    assert!(gone.to_string().contains("cannot read the folder"), "{gone}");
}

#[tokio::test]
async fn an_install_can_be_stopped_and_is_joined_by_others() {
    // A server that takes the request and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/index.json", listener.local_addr().unwrap());
    let setting = setting(&url);
    let place = Place::parse(&url).unwrap();
    let index = json!([release("0.1.0", b"x")]).to_string();
    let offer = index::read(index.as_bytes(), &place, "linux-amd64").unwrap()[0].archives[0].clone();
    let (_, mut events) = setting.packages.events();
    let begun = setting.packages.begin(offer.clone());
    assert_eq!(setting.packages.begin(offer), begun);
    // Somebody who comes late hears of it.
    assert_eq!(setting.packages.events().0[0].progress, begun);
    // It has asked, and waits.
    let (_silent, _) = listener.accept().await.unwrap();
    assert!(setting.packages.stop(&begun.name));
    let kinds = [events.recv().await.unwrap().kind, events.recv().await.unwrap().kind];
    assert_eq!(kinds, [EventKind::Started, EventKind::Stopped]);
    assert!(setting.packages.events().0.is_empty() && setting.packages.installed().is_empty());
}
