//! What every route can reach.

use crate::{ApiKey, Metrics, SettingsHandle};
use cortex_engine::Engines;
use cortex_hardware::Monitor;
use cortex_models::{Migrations, ModelStore, Outbound, Pulls, Sources};
use cortex_packages::Packages;
use cortex_remote::Remotes;
use cortex_threads::Conversations;
use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use tokio_util::sync::CancellationToken;

/// The handles that routes use. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Models on disk.
    pub models: ModelStore,
    /// Downloads.
    pub pulls: Pulls,
    /// Models of older programs.
    pub migrations: Migrations,
    /// Where more models are.
    pub sources: Sources,
    /// Compute modules that are not part of the build.
    pub packages: Packages,
    /// Engines on other machines.
    pub remotes: Remotes,
    /// Loaded models.
    pub engines: Engines,
    /// The way to images that are elsewhere; none where the settings name no host for them.
    pub images: Option<Outbound>,
    /// The machine.
    pub hardware: Monitor,
    /// Threads, messages and assistants.
    pub conversations: Conversations,
    /// What is counted.
    pub metrics: Metrics,
    /// What can be set while the daemon runs.
    pub settings: SettingsHandle,
    /// Cancelled to stop the daemon.
    pub stop: CancellationToken,
}

impl App {
    /// What the settings say about the edge now.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.settings.config()
    }
}

/// Settings of the HTTP edge.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address that is served.
    pub address: SocketAddr,
    /// Names, besides the built-in ones, by which the daemon may be called.
    pub allowed_hosts: Vec<String>,
    /// Origins, besides the built-in ones, whose pages may use the daemon.
    pub allowed_origins: Vec<String>,
    /// Whether answers carry CORS headers.
    pub cors: bool,
    /// Keys, one of which a request must carry; none means that no key is needed.
    pub api_keys: Vec<ApiKey>,
    /// What programs of the same user on this machine may send instead, whatever the keys are; an empty one counts as none.
    pub local_token: String,
    /// Whether it is served over TLS.
    pub is_tls: bool,
    /// Bytes of a request body at most.
    pub body_limit: usize,
    /// Where the data lies, for `GET /health`.
    pub data_folder: PathBuf,
}
