//! A store, its pulls, and the fake hub that they ask.

use cortex_models::{
    Config, Files, ModelStore, Outbound, OutboundConfig, Patience, ProxyConfig, PullError, PullRequest, PullSnapshot,
    Pulls, PullsConfig, Shutdown, Sources, tasks,
};
use cortex_test::{gguf::GgufBuilder, hub::FakeHub};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;

/// A store, its pulls, and the hub that they ask.
pub(crate) struct World {
    pub(crate) hub: FakeHub,
    pub(crate) folder: TempDir,
    pub(crate) store: ModelStore,
    pub(crate) pulls: Pulls,
    pub(crate) sources: Sources,
    pub(crate) shutdown: Option<Shutdown>,
}

/// What a test changes.
pub(crate) struct Setup {
    /// Hosts that the settings allow, besides the hub: its content host when absent.
    pub(crate) allowed: Option<Vec<String>>,
    pub(crate) token: Option<&'static str>,
    pub(crate) silence: Duration,
    pub(crate) give_up: Duration,
    pub(crate) rate: Option<u64>,
    pub(crate) width: usize,
    /// A proxy, and the address of the hub behind it.
    pub(crate) proxy: Option<(ProxyConfig, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            allowed: None,
            token: None,
            silence: Duration::from_secs(20),
            give_up: Duration::from_mins(1),
            rate: None,
            width: 8,
            proxy: None,
        }
    }
}

impl World {
    pub(crate) fn new(hub: FakeHub, setup: &Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::on(hub, folder, setup, Files::default())
    }

    pub(crate) fn on(hub: FakeHub, folder: TempDir, setup: &Setup, files: Files) -> Self {
        let (tasks, shutdown) = tasks();
        let store = ModelStore::open(Config { files, ..Config::new(folder.path()) });
        let outbound = Outbound::new(OutboundConfig {
            endpoint: setup.proxy.as_ref().map_or(hub.url(), |(_, url)| url.clone()).parse().unwrap(),
            proxy: setup.proxy.as_ref().map(|(proxy, _)| proxy.clone()),
            token: setup.token.map(str::to_owned),
            allowed_hosts: setup.allowed.clone().unwrap_or_else(|| vec![hub.content_url()]),
            silence_limit: setup.silence,
            ..OutboundConfig::default()
        });
        let patience = Patience {
            look: Duration::from_millis(20),
            backoff: Duration::from_millis(5),
            give_up: setup.give_up,
            room: Duration::from_millis(50),
        };
        let config = PullsConfig { patience, rate: setup.rate, width: setup.width, ..PullsConfig::default() };
        let sources = Sources::new(&store, outbound.clone(), &tasks, config.resolve_limit);
        let pulls = Pulls::start(config, store.clone(), outbound, &tasks);
        Self { hub, folder, store, pulls, sources, shutdown: Some(shutdown) }
    }

    pub(crate) async fn pull(&self, model: &str) -> Result<Arc<PullSnapshot>, PullError> {
        self.pulls.pull(PullRequest { model: model.into(), ..PullRequest::default() }, false).await
    }

    /// How a pull ends.
    pub(crate) async fn end(&self, id: &str) -> PullSnapshot {
        self.until(id, |pull| pull.state.is_over()).await
    }

    /// The pull when it is as wanted. What does not come at all fails the test.
    pub(crate) async fn until(&self, id: &str, wanted: impl Fn(&PullSnapshot) -> bool) -> PullSnapshot {
        let mut watch = self.pulls.watch(id).await.expect("there is such a pull");
        let waiting = watch.wait_for(|pull| wanted(pull));
        let Ok(pull) = tokio::time::timeout(Duration::from_mins(1), waiting).await else {
            panic!("it never became so: {:?}", self.pulls.list().await);
        };
        PullSnapshot::clone(&pull.expect("it is watched"))
    }

    /// Pulls to the end.
    pub(crate) async fn whole(&self, model: &str) -> PullSnapshot {
        let begun = self.pull(model).await.expect("it begins");
        self.end(begun.id().as_str()).await
    }

    /// What lies in the data folder, without the registry's own files.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(&folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(self.folder.path()).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        found.retain(|path| !path.starts_with("cache/") && !path.ends_with(".models.list.lock"));
        found.sort();
        found
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Ends the daemon's part, as a stop does.
    pub(crate) async fn stop(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            assert!(shutdown.now(Duration::from_secs(10)).await);
        }
    }
}

/// A GGUF that is at least so long.
pub(crate) fn model(bytes: usize) -> Vec<u8> {
    let rows = (bytes / 4 / 32).max(1) as u64;
    let mut file = GgufBuilder::llama().tensor("padding", vec![32, rows]).build();
    // Zeros would be the same wherever they land.
    let start = file.len() - bytes.min(file.len() / 2);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for byte in &mut file[start..] {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = u8::try_from(seed >> 56).unwrap();
    }
    file
}

pub(crate) const REPO: &str = "maker/tiny-GGUF";
pub(crate) const ID: &str = "maker:tiny-GGUF:tiny-Q4_K_M.gguf";
pub(crate) const FOLDER: &str = "models/huggingface.co/maker/tiny-GGUF/tiny-Q4_K_M";

/// A hub with one model of so many bytes.
pub(crate) fn hub_with(bytes: usize) -> (FakeHub, Vec<u8>) {
    let hub = FakeHub::start();
    let content = model(bytes);
    hub.add_file(REPO, "main", "README.md", "# tiny");
    hub.add_file(REPO, "main", "tiny-Q4_K_M.gguf", content.clone());
    (hub, content)
}
