//! The settings: defaults, then the file, then the environment, then the command line.

mod file;
mod owner;

pub(crate) use owner::{Live, SettingsOwner};

use crate::env;
use cortex_hardware::CacheType;
use cortex_models::{OutboundConfig, ProxyConfig, PullsConfig};
use cortex_server::{ApiKey, Tls};
use file::File;
use serde_json::Value;
use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) data_folder: Option<PathBuf>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) api_keys: Option<Vec<String>>,
    pub(crate) cors: Option<bool>,
    pub(crate) allowed_origins: Option<Vec<String>>,
    pub(crate) log: Option<String>,
}

/// Everything that can be set, resolved.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) config_file: PathBuf,
    pub(crate) data_folder: PathBuf,
    pub(crate) logs_folder: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) api_keys: Vec<ApiKey>,
    /// The files of the certificate and its key; either may be missing until [`Settings::tls`] looks.
    pub(crate) tls_files: (Option<PathBuf>, Option<PathBuf>),
    pub(crate) cors: bool,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) allowed_hosts: Vec<String>,
    /// Hosts that images may be fetched from.
    pub(crate) allowed_image_hosts: Vec<String>,
    pub(crate) log: String,
    /// Where more compute modules can be had.
    pub(crate) engine_index: Option<String>,
    pub(crate) worker_program: PathBuf,
    /// 0 is as many as fit into memory.
    pub(crate) max_loaded: usize,
    pub(crate) memory_limit: Option<u64>,
    /// Bytes on disk that beginnings of prompts may take.
    pub(crate) prompt_cache_bytes: u64,
    pub(crate) memory_lock: bool,
    pub(crate) max_queued: usize,
    pub(crate) patience: Duration,
    pub(crate) preload: Vec<String>,
    pub(crate) idle_unload: Duration,
    pub(crate) worker_silence: Duration,
    pub(crate) context_length: u32,
    pub(crate) parallel: u32,
    pub(crate) threads: u32,
    pub(crate) cache_type: CacheType,
    pub(crate) body_limit: usize,
    pub(crate) shutdown_grace: Duration,
    pub(crate) entry_cost: Option<u32>,
    pub(crate) variant_trial: bool,
    pub(crate) outbound: OutboundConfig,
    pub(crate) pulls: PullsConfig,
    /// Who said what a setting is, where it is not the default.
    origins: HashMap<&'static str, Origin>,
    /// Things to tell once logging works.
    pub(crate) warnings: Vec<String>,
    /// The file did not exist.
    fresh: bool,
}

/// Who said what a setting is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody.
    Default,
    /// The settings file.
    File,
    /// An environment variable.
    Environment(&'static str),
    /// An argument.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File => formatter.write_str("settings file"),
            Self::Environment(name) => write!(formatter, "environment: {name}"),
            Self::CommandLine => formatter.write_str("command line"),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("neither HOME nor --config-file and --data-folder say where things lie")]
    NoHome,
    #[error("cannot use the settings file: {0}")]
    Io(#[source] io::Error),
    #[error("the settings file {} is not valid: {reason}", path.display())]
    Syntax { path: PathBuf, reason: String },
    #[error("the setting `{key}` is {value}; {expected}")]
    Value { key: &'static str, value: String, expected: Cow<'static, str> },
    #[error("the setting `{key}` cannot be used: {reason}")]
    Tls { key: &'static str, reason: String },
    #[error("{address} can be reached from other machines, and no API key is set")]
    Exposed { address: SocketAddr },
}

impl SettingsError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { .. } => Some("set `apiKeys` in the settings file, or listen on 127.0.0.1".into()),
            Self::Syntax { path, .. } => Some(format!("correct it, or delete it: {}", path.display())),
            Self::Tls { .. } => Some("set both `sslCertPath` and `sslKeyPath` to PEM files, or neither".into()),
            Self::NoHome | Self::Io(_) | Self::Value { .. } => None,
        }
    }
}

/// The folder of the programs that came before, whose files we read.
const FOLDER: &str = "cortexcpp";
/// Keys of cortex.cpp that have no meaning here yet. They are kept.
const KEPT_KEYS: &[&str] = &[
    "logLlamaCppPath",
    "logOnnxPath",
    "maxLogLines",
    "checkedForUpdateAt",
    "checkedForLlamacppUpdateAt",
    "checkedForSyncHubAt",
    "latestRelease",
    "latestLlamacppRelease",
    "gitHubUserAgent",
    "gitHubToken",
    "llamacppVariant",
    "llamacppVersion",
    "verifyProxySsl",
    "verifyProxyHostSsl",
    "verifyHostSsl",
    "supportedEngines",
];
/// Settings whose values are shown nowhere; an address may hold a password.
pub(crate) const SECRET_KEYS: &[&str] =
    &["apiKeys", "huggingFaceToken", "huggingFaceEndpoint", "proxyUrl", "proxyUsername", "proxyPassword"];
/// The settings, by their names in the file.
pub(crate) const OUR_KEYS: &[&str] = &[
    "dataFolderPath",
    "logFolderPath",
    "apiServerHost",
    "apiServerPort",
    "enableCors",
    "allowedOrigins",
    "allowedHosts",
    "allowedImageHosts",
    "engineIndex",
    "apiKeys",
    "workerPath",
    "maxLoadedModels",
    "memoryLimitBytes",
    "promptCacheBytes",
    "memoryLock",
    "maxQueuedRequests",
    "swapAfterSeconds",
    "preloadModels",
    "idleUnloadSeconds",
    "workerSilenceSeconds",
    "contextLength",
    "parallel",
    "threads",
    "cacheType",
    "bodyLimitBytes",
    "shutdownGraceSeconds",
    "huggingFaceToken",
    "huggingFaceEndpoint",
    "allowedDownloadHosts",
    "downloadConnections",
    "downloadBytesPerSecond",
    "resumeDownloads",
    "proxyUrl",
    "proxyUsername",
    "proxyPassword",
    "noProxy",
    "verifyPeerSsl",
    "sslCertPath",
    "sslKeyPath",
];

impl Settings {
    /// Resolves the settings. Writes nothing.
    pub(crate) fn load(overrides: &Overrides) -> Result<Self, SettingsError> {
        let config_file = Self::file(overrides)?;
        let text = file::read_text(&config_file)?;
        Self::resolve(overrides, &config_file, text.as_deref())
    }

    /// Where the settings file is, or would be.
    fn file(overrides: &Overrides) -> Result<PathBuf, SettingsError> {
        let folder = env::path(env::XDG_CONFIG_HOME).or_else(|| env::path(env::HOME).map(|home| home.join(".config")));
        overrides
            .config_file
            .clone()
            .or_else(|| env::path(env::CORTEX_CONFIG_FILE))
            .or_else(|| folder.map(|folder| folder.join(FOLDER).join(".cortexrc")))
            .ok_or(SettingsError::NoHome)
    }

    /// What the settings are with this text in the file.
    fn resolve(overrides: &Overrides, config_file: &Path, text: Option<&str>) -> Result<Self, SettingsError> {
        let home = env::path(env::HOME);
        let below = |variable: &str, rest: &str| {
            env::path(variable).or_else(|| home.as_ref().map(|home| home.join(rest))).map(|folder| folder.join(FOLDER))
        };
        let fresh = text.is_none();
        let file = File { path: config_file, values: file::values(config_file, text)? };
        let data_folder = overrides
            .data_folder
            .clone()
            .or_else(|| env::path(env::CORTEX_DATA_FOLDER))
            .or(file.text("dataFolderPath")?.map(PathBuf::from))
            .or_else(|| below(env::XDG_DATA_HOME, ".local/share"))
            .ok_or(SettingsError::NoHome)?;
        let data_folder = std::path::absolute(&data_folder).map_err(SettingsError::Io)?;
        let logs = match (&overrides.data_folder, file.text("logFolderPath")?) {
            (None, Some(folder)) => PathBuf::from(folder),
            _ => data_folder.clone(),
        };
        let mut warnings = file.warnings();
        for key in ["allowedDownloadHosts", "allowedImageHosts"] {
            for host in file.texts(key)?.unwrap_or_default() {
                if !cortex_models::is_allowed_host(&host) {
                    warnings.push(format!("`{host}` in {key} is no host; it allows nothing"));
                }
            }
        }
        let allowed_origins = overrides.allowed_origins.clone().or(file.texts("allowedOrigins")?).unwrap_or_default();
        if allowed_origins.iter().any(|origin| origin == "*") {
            warnings.push(
                "`*` in allowedOrigins would open the daemon to every web page; it is treated as the built-in list"
                    .into(),
            );
        }
        let settings = Self {
            address: address(overrides, &file)?,
            logs_folder: logs.join("logs"),
            api_keys: api_keys(overrides, &file)?,
            tls_files: (file.path("sslCertPath")?, file.path("sslKeyPath")?),
            cors: overrides.cors.or(file.truth("enableCors")?).unwrap_or(true),
            allowed_origins,
            allowed_hosts: file.texts("allowedHosts")?.unwrap_or_default(),
            allowed_image_hosts: file.texts("allowedImageHosts")?.unwrap_or_default(),
            log: overrides.log.clone().or_else(|| env::text(env::CORTEX_LOG)).unwrap_or_else(|| "info".into()),
            engine_index: file.text("engineIndex")?.filter(|text| !text.trim().is_empty()),
            worker_program: env::path(env::CORTEX_WORKER)
                .or(file.text("workerPath")?.filter(|path| !path.is_empty()).map(PathBuf::from))
                .unwrap_or_else(worker_beside_us),
            max_loaded: usize::try_from(file.number("maxLoadedModels", 0, (0, 1024))?).unwrap_or(0),
            prompt_cache_bytes: file.number("promptCacheBytes", 4 << 30, (0, 1 << 50))?,
            memory_lock: file.truth("memoryLock")?.unwrap_or(false),
            memory_limit: Some(file.number("memoryLimitBytes", 0, (0, 1 << 50))?).filter(|&bytes| bytes > 0),
            max_queued: usize::try_from(file.number("maxQueuedRequests", 512, (1, 1 << 20))?).unwrap_or(512),
            patience: Duration::from_secs(file.number("swapAfterSeconds", 5, (0, 86_400))?),
            preload: file.texts("preloadModels")?.unwrap_or_default(),
            idle_unload: Duration::from_secs(file.number("idleUnloadSeconds", 300, (1, 31_536_000))?),
            worker_silence: Duration::from_secs(file.number("workerSilenceSeconds", 30, (1, 3600))?),
            context_length: u32::try_from(file.number("contextLength", 0, (0, 1 << 24))?).unwrap_or(0),
            parallel: u32::try_from(file.number("parallel", 4, (1, 64))?).unwrap_or(4),
            threads: u32::try_from(file.number("threads", 0, (0, 512))?).unwrap_or(0),
            cache_type: match file.text("cacheType")? {
                None => CacheType::F16,
                Some(name) => CacheType::of_name(name.trim()).ok_or(SettingsError::Value {
                    key: "cacheType",
                    value: name,
                    expected: "it must be f16, q8_0 or q4_0".into(),
                })?,
            },
            body_limit: usize::try_from(file.number("bodyLimitBytes", 32 << 20, (1024, 1 << 30))?).unwrap_or(32 << 20),
            shutdown_grace: Duration::from_secs(file.number("shutdownGraceSeconds", 0, (0, 3600))?),
            outbound: outbound(&file)?,
            pulls: pulls(&file)?,
            entry_cost: env::text(env::CORTEX_TEST_ENTRY_COST).and_then(|percent| percent.parse().ok()),
            variant_trial: env::text(env::CORTEX_TEST_VARIANT_TRIAL).is_none_or(|value| value != "off"),
            origins: origins(overrides, &file),
            warnings,
            fresh,
            data_folder,
            config_file: config_file.to_owned(),
        };
        Ok(settings)
    }

    /// Who said what a setting is.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).copied().unwrap_or(Origin::Default)
    }

    /// What must hold before the daemon listens.
    pub(crate) fn check_exposure(&self) -> Result<(), SettingsError> {
        let local = self.address.ip().to_canonical().is_loopback();
        if local || !self.api_keys.is_empty() {
            return Ok(());
        }
        Err(SettingsError::Exposed { address: self.address })
    }

    /// Writes a first settings file, for its owner only, when there is none.
    pub(crate) fn write_first_file(&self) -> Result<(), SettingsError> {
        if !self.fresh {
            return Ok(());
        }
        if let Some(folder) = self.config_file.parent() {
            fs_err::create_dir_all(folder).map_err(SettingsError::Io)?;
        }
        let mut options = fs_err::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = match options.open(&self.config_file) {
            Ok(file) => file,
            // Somebody was faster: theirs counts.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(SettingsError::Io(error)),
        };
        let text = format!(
            "# Settings of cortex. Keys that are not here have their default; unknown ones are kept.\napiServerHost: {}\napiServerPort: {}\nenableCors: true\napiKeys: []\n",
            Value::from("127.0.0.1"),
            Value::from("39281"),
        );
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(SettingsError::Io)
    }

    /// The certificate that is served; none when the settings name none.
    ///
    /// # Errors
    /// When only one of the two files is named, or one cannot be used.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, SettingsError> {
        let failed = |key: &'static str| move |reason: String| SettingsError::Tls { key, reason };
        let read =
            |key: &'static str, path: &Path| fs_err::read(path).map_err(|error| error.to_string()).map_err(failed(key));
        match &self.tls_files {
            (None, None) => Ok(None),
            (Some(_), None) => Err(failed("sslCertPath")("`sslKeyPath`, the file of its key, is not set".into())),
            (None, Some(_)) => {
                Err(failed("sslKeyPath")("`sslCertPath`, the file of the certificate, is not set".into()))
            }
            (Some(certificate), Some(key)) => {
                let (certificate, key) = (read("sslCertPath", certificate)?, read("sslKeyPath", key)?);
                Tls::new(&certificate, &key).map(Some).map_err(failed("sslCertPath"))
            }
        }
    }

    /// Where a running daemon tells the command line of the same user how to pass without a key.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.data_folder.join("state/token")
    }

    /// The address as a URL.
    pub(crate) fn base_url(&self) -> String {
        let scheme = if self.tls_files.0.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// Who said what a setting is, in the order in which they win.
fn origins(overrides: &Overrides, file: &File<'_>) -> HashMap<&'static str, Origin> {
    let arguments = [
        ("dataFolderPath", overrides.data_folder.is_some()),
        ("apiServerHost", overrides.host.is_some()),
        ("apiServerPort", overrides.port.is_some()),
        ("apiKeys", overrides.api_keys.is_some()),
        ("enableCors", overrides.cors.is_some()),
        ("allowedOrigins", overrides.allowed_origins.is_some()),
    ];
    let variables: &[(&str, &[&'static str])] = &[
        ("dataFolderPath", &[env::CORTEX_DATA_FOLDER]),
        ("apiServerHost", &[env::CORTEX_HOST]),
        ("apiServerPort", &[env::CORTEX_PORT]),
        ("workerPath", &[env::CORTEX_WORKER]),
        ("huggingFaceEndpoint", &[env::HF_ENDPOINT]),
        ("huggingFaceToken", &[env::HF_TOKEN]),
    ];
    // Of these the file wins.
    let usual: &[(&str, &[&'static str])] = &[("proxyUrl", env::PROXIES), ("noProxy", env::NO_PROXY)];
    let from = |list: &[(&str, &[&'static str])], key: &str| {
        let names = list.iter().find(|(of, _)| *of == key)?.1;
        names.iter().find(|name| env::text(name).is_some()).map(|name| Origin::Environment(name))
    };
    let origin = |key: &'static str| {
        if arguments.contains(&(key, true)) {
            return Some(Origin::CommandLine);
        }
        let in_file = file.get(key).is_some().then_some(Origin::File);
        from(variables, key).or(in_file).or_else(|| from(usual, key))
    };
    OUR_KEYS.iter().filter_map(|&key| Some((key, origin(key)?))).collect()
}

fn address(overrides: &Overrides, file: &File<'_>) -> Result<SocketAddr, SettingsError> {
    let host = overrides
        .host
        .clone()
        .or_else(|| env::text(env::CORTEX_HOST))
        .or(file.text("apiServerHost")?)
        .unwrap_or_else(|| "127.0.0.1".into());
    let port = match overrides.port {
        Some(port) => port,
        None => match env::text(env::CORTEX_PORT).or(file.text("apiServerPort")?) {
            None => 39281,
            Some(text) => text.trim().parse().map_err(|_| SettingsError::Value {
                key: "apiServerPort",
                value: text,
                expected: "it must be a port: 0 to 65535".into(),
            })?,
        },
    };
    let bare = host.trim().trim_start_matches('[').trim_end_matches(']');
    let ip = if bare.eq_ignore_ascii_case("localhost") { Ok(IpAddr::from([127, 0, 0, 1])) } else { bare.parse() };
    let ip = ip.map_err(|_| SettingsError::Value {
        key: "apiServerHost",
        value: host.clone(),
        expected: "it must be an IP address or `localhost`".into(),
    })?;
    Ok(SocketAddr::new(ip, port))
}

fn api_keys(overrides: &Overrides, file: &File<'_>) -> Result<Vec<ApiKey>, SettingsError> {
    if let Some(keys) = &overrides.api_keys {
        return Ok(keys.iter().filter(|key| !key.is_empty()).map(ApiKey::full).collect());
    }
    let Some(value) = file.get("apiKeys") else { return Ok(vec![]) };
    owner::keys(value).map_or_else(|| file.wrong("apiKeys", format!("it must be {}", owner::KEYS)), Ok)
}

/// What other machines may be asked, and how.
fn outbound(file: &File<'_>) -> Result<OutboundConfig, SettingsError> {
    let defaults = OutboundConfig::default();
    let endpoint = match env::text(env::HF_ENDPOINT).or(file.text("huggingFaceEndpoint")?).filter(|it| !it.is_empty()) {
        None => defaults.endpoint.clone(),
        Some(text) => text
            .trim()
            .parse::<reqwest::Url>()
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or(SettingsError::Value {
                key: "huggingFaceEndpoint",
                value: "(not shown)".into(),
                expected: "it must be an address such as https://huggingface.co".into(),
            })?,
    };
    let first = |names: &[&str]| names.iter().find_map(|name| env::text(name));
    let own_proxy = file.text("proxyUrl")?.filter(|url| !url.is_empty());
    let allowed_hosts = file.texts("allowedDownloadHosts")?.unwrap_or_default();
    // Jan says `verifyPeerSsl: false` whenever it has no proxy: it counts where something of the user's stands between.
    let has_own_way = own_proxy.is_some() || endpoint != defaults.endpoint || !allowed_hosts.is_empty();
    let proxy = own_proxy.or_else(|| first(env::PROXIES));
    let no_proxy = file.text("noProxy")?.into_iter().chain(first(env::NO_PROXY)).collect::<Vec<_>>().join(",");
    let proxy = match proxy {
        None => None,
        Some(url) => Some(ProxyConfig {
            url: checked_proxy(url)?,
            username: file.text("proxyUsername")?.unwrap_or_default(),
            password: file.text("proxyPassword")?.unwrap_or_default(),
            no_proxy,
        }),
    };
    let token = env::text(env::HF_TOKEN).or(file.text("huggingFaceToken")?).filter(|token| !token.trim().is_empty());
    let token = token.or_else(token_of_hub).map(|token| token.trim().to_owned());
    if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        let expected = "the token of the settings, HF_TOKEN or the hub's token file must be letters, digits and signs, without blanks";
        return Err(SettingsError::Value {
            key: "huggingFaceToken",
            value: "(not shown)".into(),
            expected: expected.into(),
        });
    }
    Ok(OutboundConfig {
        endpoint,
        token,
        allowed_hosts,
        proxy,
        verify_certificates: file.truth("verifyPeerSsl")?.unwrap_or(true) || !has_own_way,
        ..defaults
    })
}

/// The URL of a proxy; `host:port` alone means plain HTTP to it.
fn checked_proxy(given: String) -> Result<String, SettingsError> {
    let url = if given.contains("://") { given } else { format!("http://{given}") };
    let is_one = url.parse::<reqwest::Url>().is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h") && url.has_host()
    });
    if is_one {
        return Ok(url);
    }
    // It may hold a password.
    let shown = if url.contains('@') { "(not shown)".into() } else { url };
    let expected = "it must be an address such as http://host:8080 or socks5h://host:1080";
    Err(SettingsError::Value { key: "proxyUrl", value: shown, expected: expected.into() })
}

/// The token that the hub's own programs keep.
fn token_of_hub() -> Option<String> {
    let path = env::path(env::HF_TOKEN_PATH)
        .or_else(|| env::path(env::HF_HOME).map(|home| home.join("token")))
        .or_else(|| env::path(env::HOME).map(|home| home.join(".cache/huggingface/token")))?;
    fs_err::read_to_string(path).ok().filter(|token| !token.trim().is_empty())
}

fn pulls(file: &File<'_>) -> Result<PullsConfig, SettingsError> {
    let defaults = PullsConfig::default();
    let connections = file.number("downloadConnections", 96, (1, 1024))?;
    let rate = file.number("downloadBytesPerSecond", 0, (0, 1 << 40))?;
    Ok(PullsConfig {
        connections: usize::try_from(connections).unwrap_or(defaults.connections),
        rate: Some(rate).filter(|&rate| rate > 0),
        resume: file.truth("resumeDownloads")?.unwrap_or(true),
        ..defaults
    })
}

/// `worker/cortex-llamacpp` in the folder of this program.
fn worker_beside_us() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program
        .parent()
        .unwrap_or(Path::new("."))
        .join("worker")
        .join(format!("cortex-llamacpp{}", std::env::consts::EXE_SUFFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, overrides: &Overrides) -> Result<Settings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let config_file = folder.path().join(".cortexrc");
        fs_err::write(&config_file, text).unwrap();
        Settings::load(&Overrides {
            config_file: Some(config_file),
            data_folder: Some(folder.path().to_owned()),
            ..overrides.clone()
        })
    }

    #[test]
    fn the_file_of_cortex_cpp_is_understood() {
        let settings = load(
            "\u{feff}apiServerHost: 127.0.0.1\napiServerPort: \"3928\"\nenableCors: true\nallowedOrigins:\n  - http://localhost:3000\napiKeys: []\nsupportedEngines: [llama-cpp]\nmaxLogLines: 100000\n",
            &Overrides::default(),
        )
        .unwrap();
        assert_eq!(settings.address.port(), 3928);
        assert_eq!(settings.allowed_origins, ["http://localhost:3000"]);
        assert_eq!(settings.warnings, Vec::<String>::new());
    }

    #[test]
    fn the_command_line_wins_and_unknown_keys_are_told() {
        let overrides = Overrides { port: Some(1), host: Some("localhost".into()), ..Overrides::default() };
        let settings = load("apiServerPort: 2\nmystery: 1\nallowedOrigins: ['*']\n", &overrides).unwrap();
        assert_eq!(settings.address, "127.0.0.1:1".parse().unwrap());
        assert_eq!(settings.warnings.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("apiServerPort: never\n", "apiServerPort"),
            ("apiServerHost: example.com\n", "apiServerHost"),
            ("apiKeys: 5\n", "apiKeys"),
            ("maxLoadedModels: many\n", "maxLoadedModels"),
            ("maxQueuedRequests: 0\n", "maxQueuedRequests"),
            ("a: [\n", "not valid"),
            ("apiKeys: sk-SEKRET\n", "apiKeys"),
            ("huggingFaceToken: {a: SEKRET}\n", "huggingFaceToken"),
            ("huggingFaceToken: \"SEKRET\nport: 3\n", "line 1"),
            ("a: b\n huggingFaceToken: SEKRET\n", "line 2"),
            ("huggingFaceEndpoint: SEKRET\n", "huggingFaceEndpoint"),
        ] {
            let error = load(text, &Overrides::default()).expect_err(text).to_string();
            assert!(error.contains(word) && !error.contains("SEKRET"), "{error}");
        }
    }

    #[test]
    fn other_machines_need_a_key() {
        let open = load("apiServerHost: 0.0.0.0\n", &Overrides::default()).unwrap();
        assert!(open.check_exposure().is_err());
        let keyed = load("apiServerHost: 0.0.0.0\napiKeys: [secret]\n", &Overrides::default()).unwrap();
        assert!(keyed.check_exposure().is_ok());
    }
}
