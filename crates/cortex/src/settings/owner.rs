//! The owner of the settings while the daemon runs: it alone changes the file, and tells the parts that go by it.

use super::{Origin, Overrides, Settings, SettingsError, file};
use cortex_models::{Outbound, OutboundConfig, write_atomically};
use cortex_remote::Remotes;
use cortex_server::{ApiKey, Config, HIDDEN, SettingsRefusal, SettingsRequest, ShownSettings};
use reqwest::Url;
use serde_json::{Map, Value, json};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::{mpsc, watch};

/// The parts that follow a change at once.
pub(crate) struct Live {
    pub(crate) edge: watch::Sender<Arc<Config>>,
    pub(crate) outbound: Outbound,
    pub(crate) images: Option<Outbound>,
    pub(crate) packages: Outbound,
    pub(crate) remotes: Remotes,
}

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Truth,
    Text,
    Texts,
    Keys,
}

/// The settings of `/v1/configs`: their names there, and in the file.
const NAMES: &[(&str, &str, Kind)] = &[
    ("cors", "enableCors", Kind::Truth),
    ("allowed_origins", "allowedOrigins", Kind::Texts),
    ("verify_proxy_ssl", "verifyProxySsl", Kind::Truth),
    ("verify_proxy_host_ssl", "verifyProxyHostSsl", Kind::Truth),
    ("proxy_url", "proxyUrl", Kind::Text),
    ("proxy_username", "proxyUsername", Kind::Text),
    ("proxy_password", "proxyPassword", Kind::Text),
    ("no_proxy", "noProxy", Kind::Text),
    ("verify_peer_ssl", "verifyPeerSsl", Kind::Truth),
    ("verify_host_ssl", "verifyHostSsl", Kind::Truth),
    ("huggingface_token", "huggingFaceToken", Kind::Text),
    ("github_token", "gitHubToken", Kind::Text),
    ("api_keys", "apiKeys", Kind::Keys),
];

/// The owner. Everything it does may wait for the disk.
pub(crate) struct SettingsOwner {
    overrides: Overrides,
    settings: Settings,
    /// None where only the file is changed.
    live: Option<Live>,
}

impl SettingsOwner {
    /// Of settings that were given to the parts, if any, as they are.
    pub(crate) fn new(overrides: Overrides, settings: Settings, live: Option<Live>) -> Self {
        Self { overrides, settings, live }
    }

    /// Answers until nobody can ask any more.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<SettingsRequest>) {
        while let Some(request) = requests.recv().await {
            let work = tokio::task::spawn_blocking(move || {
                let answer = match &request.changes {
                    None => self.shown(vec![]),
                    Some(changes) => self.change(changes),
                };
                // Who asked may be gone.
                let _ = request.answer.send(answer);
                self
            });
            let Ok(owner) = work.await else { return };
            self = owner;
        }
    }

    /// Changes what is named; all of it or nothing.
    pub(crate) fn change(&mut self, changes: &Map<String, Value>) -> Result<ShownSettings, SettingsRefusal> {
        let path = self.settings.config_file.clone();
        let unusable = |error: &SettingsError| {
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            SettingsRefusal::Invalid(format!("{error}{hint}"))
        };
        // People edit it too: what they wrote since the start counts.
        let text = file::read_text(&path).map_err(|error| SettingsRefusal::File(error.to_string()))?;
        let mut text = text.unwrap_or_default();
        let before = file::values(&path, Some(&text)).map_err(|error| unusable(&error))?;
        let (mut wanted, mut warnings, mut is_named) = (before.clone(), vec![], false);
        for (name, value) in changes {
            let Some(&(_, key, kind)) = NAMES.iter().find(|(known, ..)| known == name) else {
                warnings.push(format!("`{name}` is no setting that can be changed here"));
                continue;
            };
            match accepted(kind, value, before.get(key)) {
                Err(expected) => warnings.push(format!("`{name}` must be {expected}; it was left as it is")),
                Ok(new) => {
                    is_named = true;
                    if let Some(new) = new
                        && before.get(key) != Some(&new)
                    {
                        text = file::changed(&text, key, &new).map_err(SettingsRefusal::Invalid)?;
                        wanted.insert(key.to_owned(), new);
                    }
                }
            }
        }
        if !is_named {
            return Err(SettingsRefusal::Nothing(warnings));
        }
        let mut overrides = self.overrides.clone();
        let is_taken =
            |name: &str| changes.contains_key(name) && !warnings.iter().any(|it| it.starts_with(&format!("`{name}`")));
        // What is said now counts more than what the command line said at the start.
        for (name, forget) in [
            ("cors", (|it| it.cors = None) as fn(&mut Overrides)),
            ("allowed_origins", |it| it.allowed_origins = None),
            ("api_keys", |it| it.api_keys = None),
        ] {
            if is_taken(name) {
                forget(&mut overrides);
            }
        }
        let settings = Settings::resolve(&overrides, &path, Some(&text)).map_err(|error| unusable(&error))?;
        settings.check_exposure().map_err(|error| unusable(&error))?;
        if settings.api_keys.is_empty() && !self.settings.api_keys.is_empty() && !is_taken("api_keys") {
            let why = "the settings file has lost its keys, and everybody could use the daemon: put them back, or send `api_keys` too";
            return Err(SettingsRefusal::File(why.into()));
        }
        if wanted != before {
            // A link stays one: people keep their settings elsewhere.
            let target = fs_err::canonicalize(&path).unwrap_or(path);
            write_atomically(&target, text.as_bytes()).map_err(|error| {
                SettingsRefusal::File(format!("the settings file could not be written, and nothing changed: {error}"))
            })?;
        }
        for (name, key, _) in NAMES {
            if let (true, Origin::Environment(variable)) = (changes.contains_key(*name), settings.origin(key)) {
                warnings.push(format!("`{name}` was written, but {variable} of the environment counts"));
            }
        }
        warnings.extend(
            settings.warnings.iter().filter(|it| it.contains('*') && changes.contains_key("allowed_origins")).cloned(),
        );
        if !settings.outbound.verify_certificates {
            warnings.push("the certificates of other machines are not checked".into());
        }
        self.apply(settings, overrides);
        tracing::info!(settings = ?changes.keys().collect::<Vec<_>>(), "settings changed");
        self.shown(warnings)
    }

    fn apply(&mut self, settings: Settings, overrides: Overrides) {
        if let Some(live) = &self.live {
            let (address, token) = {
                let now = live.edge.borrow();
                (now.address, now.local_token.clone())
            };
            live.edge.send_replace(Arc::new(settings.edge(address, token)));
            live.outbound.configure(settings.outbound.clone());
            live.packages.configure(settings.outbound_for_packages());
            if let Some(images) = &live.images {
                images.configure(settings.outbound_for_images());
            }
            live.remotes.configure(settings.outbound.clone());
        }
        (self.settings, self.overrides) = (settings, overrides);
    }

    /// What is in effect, without secrets.
    fn shown(&self, warnings: Vec<String>) -> Result<ShownSettings, SettingsRefusal> {
        let settings = &self.settings;
        let text = file::read_text(&settings.config_file).map_err(|error| SettingsRefusal::File(error.to_string()))?;
        let kept = file::values(&settings.config_file, text.as_deref()).unwrap_or_default();
        let hidden = |is_set: bool| json!(if is_set { HIDDEN } else { "" });
        let is_set = |key: &str| kept.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        let proxy = settings.outbound.proxy.as_ref();
        let value = |key: &str, kind: Kind| match key {
            "enableCors" => json!(settings.cors),
            "allowedOrigins" => json!(settings.allowed_origins),
            "proxyUrl" => json!(proxy.map_or_else(String::new, |proxy| without_password(&proxy.url))),
            "noProxy" => json!(kept.get(key).and_then(Value::as_str).unwrap_or_default()),
            "huggingFaceToken" => hidden(settings.outbound.token.is_some()),
            "proxyUsername" | "proxyPassword" | "gitHubToken" => hidden(is_set(key)),
            "apiKeys" => settings.api_keys.iter().map(shown_key).collect(),
            _ if kind == Kind::Truth => json!(kept.get(key).and_then(Value::as_bool).unwrap_or(true)),
            _ => kept.get(key).cloned().unwrap_or_default(),
        };
        let values = NAMES.iter().map(|&(name, key, kind)| (name.to_owned(), value(key, kind))).collect();
        Ok(ShownSettings { values, warnings })
    }
}

impl Settings {
    /// What the edge goes by.
    pub(crate) fn edge(&self, address: SocketAddr, local_token: String) -> Config {
        Config {
            address,
            allowed_hosts: self.allowed_hosts.clone(),
            allowed_origins: self.allowed_origins.clone(),
            cors: self.cors,
            api_keys: self.api_keys.clone(),
            local_token,
            is_tls: self.tls_files.0.is_some(),
            body_limit: self.body_limit,
            data_folder: self.data_folder.clone(),
        }
    }

    /// The way to images: the hub's token is for the hub.
    pub(crate) fn outbound_for_images(&self) -> OutboundConfig {
        OutboundConfig {
            endpoint: OutboundConfig::default().endpoint,
            token: None,
            allowed_hosts: self.allowed_image_hosts.clone(),
            ..self.outbound.clone()
        }
    }

    /// The way to the index of compute modules, and to what it names: its own host, and those that models may come from.
    pub(crate) fn outbound_for_packages(&self) -> OutboundConfig {
        let address = self.engine_index.as_deref().and_then(|text| text.split_once("://"));
        let host = address.map(|(scheme, rest)| (scheme, rest.split(['/', '?', '#']).next().unwrap_or_default()));
        // What GitHub tells of lies elsewhere.
        let of_github = ["github.com", "objects.githubusercontent.com", "release-assets.githubusercontent.com"];
        let is_github = host.is_some_and(|(_, host)| host.eq_ignore_ascii_case("api.github.com"));
        let more = of_github.iter().filter(|_| is_github).map(|&host| host.to_owned());
        OutboundConfig {
            endpoint: OutboundConfig::default().endpoint,
            token: None,
            allowed_hosts: host
                .map(|(scheme, host)| format!("{scheme}://{host}"))
                .into_iter()
                .chain(more)
                .chain(self.outbound.allowed_hosts.clone())
                .collect(),
            ..self.outbound.clone()
        }
    }
}

impl Settings {
    /// Writes texts into the settings file, by their names there.
    pub(crate) fn write_values(path: &std::path::Path, values: &[(&str, &str)]) -> Result<(), SettingsError> {
        let mut text = file::read_text(path)?.unwrap_or_default();
        for &(key, value) in values {
            let value = Value::from(value);
            text = file::changed(&text, key, &value)
                .map_err(|reason| SettingsError::Syntax { path: path.to_owned(), reason })?;
        }
        let target = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        write_atomically(&target, text.as_bytes()).map_err(SettingsError::Io)
    }
}

/// A value as it goes into the file; nothing when it stands for the one that is there. Otherwise what it must be.
fn accepted(kind: Kind, value: &Value, before: Option<&Value>) -> Result<Option<Value>, &'static str> {
    match (kind, value) {
        (Kind::Truth, Value::Bool(_)) => Ok(Some(value.clone())),
        (Kind::Text, Value::String(text)) if text.len() > LONGEST_TEXT => Err("a text of at most 8 KiB"),
        (Kind::Text, Value::String(text)) => {
            // What was shown leaves it as it is; nothing else can be said with it.
            let shown = before.and_then(Value::as_str).map(without_password);
            if text == HIDDEN || shown.as_ref() == Some(text) {
                return Ok(None);
            }
            if text.contains(HIDDEN) {
                return Err("a whole address: `********` stands for what is there only where nothing else is changed");
            }
            Ok(Some(value.clone()))
        }
        (Kind::Texts, Value::Array(items)) if items.iter().all(Value::is_string) => Ok(Some(value.clone())),
        (Kind::Keys, Value::Array(items)) => {
            let old = before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let is_hidden = |item: &Value| item == HIDDEN || item["key"] == HIDDEN;
            let kept = |(at, item): (usize, &Value)| match (is_hidden(item), old.get(at)) {
                (false, _) => Some(item.clone()),
                // Other scopes of a key that is there.
                (true, Some(Value::String(before))) if item["scopes"].is_array() => {
                    Some(json!({"key": before, "scopes": item["scopes"]}))
                }
                (true, Some(Value::Object(before))) if item["scopes"].is_array() => Some(
                    before
                        .iter()
                        .map(|(name, value)| {
                            (name.clone(), if name == "scopes" { item[name].clone() } else { value.clone() })
                        })
                        .collect(),
                ),
                (true, before) => before.cloned(),
            };
            let new: Option<Vec<Value>> = items.iter().enumerate().map(kept).collect();
            let new = Value::from(new.ok_or("a list in which `********` stands for a key that is there")?);
            keys(&new).map(|_| Some(new)).ok_or(KEYS)
        }
        (Kind::Truth, _) => Err("true or false"),
        (Kind::Text, _) => Err("a text"),
        (Kind::Texts, _) => Err("a list of texts"),
        (Kind::Keys, _) => Err(KEYS),
    }
}

/// Bytes of a text.
const LONGEST_TEXT: usize = 8 << 10;

/// What `apiKeys` must be.
pub(super) const KEYS: &str = "a list of texts without blanks, or of objects such as {\"key\": …, \"scopes\": [\"infer\", \"read\"]} with the scopes infer, read and manage";

/// The keys of the settings; nothing when they are none. An empty text is no key.
pub(super) fn keys(value: &Value) -> Option<Vec<ApiKey>> {
    let sendable = |key: &str| key.bytes().all(|byte| byte.is_ascii_graphic());
    let key = |item: &Value| match item {
        Value::String(key) if sendable(key) => Some(ApiKey::full(key)),
        Value::Number(number) => Some(ApiKey::full(number.to_string())),
        Value::Object(fields) if fields.keys().all(|name| name == "key" || name == "scopes") => {
            let key = fields.get("key")?.as_str().filter(|key| sendable(key) && !key.is_empty())?;
            let names = fields.get("scopes")?.as_array()?.iter();
            let scopes = names.map(|name| cortex_server::Scope::of_name(name.as_str()?)).collect::<Option<Vec<_>>>()?;
            (!scopes.is_empty()).then(|| ApiKey { key: key.to_owned(), scopes })
        }
        _ => None,
    };
    let all: Vec<ApiKey> = value.as_array()?.iter().map(key).collect::<Option<_>>()?;
    Some(all.into_iter().filter(|key| !key.key.is_empty()).collect())
}

fn shown_key(key: &ApiKey) -> Value {
    if key.scopes == ApiKey::full("").scopes {
        return json!(HIDDEN);
    }
    json!({"key": HIDDEN, "scopes": key.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>()})
}

fn without_password(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) if url.username().is_empty() && url.password().is_none() => {
            url.as_str().trim_end_matches('/').to_owned()
        }
        Ok(mut url) => {
            let cleaned = url.set_password(None).and_then(|()| url.set_username(HIDDEN));
            if cleaned.is_ok() { url.as_str().trim_end_matches('/').to_owned() } else { HIDDEN.to_owned() }
        }
        Err(_) => HIDDEN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> (SettingsOwner, watch::Receiver<Arc<Config>>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".cortexrc");
        fs_err::write(&path, text).unwrap();
        let overrides = Overrides {
            config_file: Some(path),
            data_folder: Some(folder.path().to_owned()),
            api_keys: Some(vec![]),
            ..Overrides::default()
        };
        let settings = Settings::load(&overrides).unwrap();
        let (edge, seen) = watch::channel(Arc::new(settings.edge(settings.address, "token".into())));
        let remotes = Remotes::open(folder.path(), settings.outbound.clone());
        let live = Live {
            edge,
            outbound: Outbound::new(settings.outbound.clone()),
            images: None,
            packages: Outbound::new(settings.outbound.clone()),
            remotes,
        };
        (SettingsOwner::new(overrides, settings, Some(live)), seen, folder)
    }

    fn change(owner: &mut SettingsOwner, changes: &Value) -> Result<ShownSettings, SettingsRefusal> {
        owner.change(changes.as_object().unwrap())
    }

    fn text(folder: &tempfile::TempDir) -> String {
        fs_err::read_to_string(folder.path().join(".cortexrc")).unwrap()
    }

    #[test]
    fn a_change_is_in_effect_and_in_the_file_and_shown_without_secrets() {
        let (mut owner, seen, folder) = owner("# mine\nmystery: [1]\nhuggingFaceToken: old\n");
        let changes = json!({
            "cors": false, "allowed_origins": ["http://a"], "api_keys": ["one", {"key": "two", "scopes": ["infer"]}],
            "proxy_url": "http://user:secret@proxy:1", "huggingface_token": "hf_x", "github_token": "gh", "nonsense": 1, "no_proxy": 3,
        });
        let shown = change(&mut owner, &changes).unwrap();
        assert_eq!(shown.warnings.len(), 2, "{:?}", shown.warnings);
        assert_eq!(shown.values["api_keys"], json!([HIDDEN, {"key": HIDDEN, "scopes": ["infer"]}]));
        assert_eq!(shown.values["proxy_url"], "http://********@proxy:1");
        assert_eq!(
            (&shown.values["huggingface_token"], &shown.values["github_token"]),
            (&json!(HIDDEN), &json!(HIDDEN))
        );
        assert_eq!((&shown.values["verify_peer_ssl"], &shown.values["cors"]), (&json!(true), &json!(false)));
        for secret in ["one", "two", "secret", "hf_x", "\"gh\""] {
            assert!(!Value::from(shown.values.clone()).to_string().contains(secret), "{secret}");
        }
        let now = seen.borrow().clone();
        assert_eq!((now.api_keys.len(), now.cors, now.local_token.as_str()), (2, false, "token"));
        assert!(text(&folder).starts_with("# mine\nmystery: [1]\nhuggingFaceToken: \"hf_x\"\n"), "{}", text(&folder));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs_err::metadata(folder.path().join(".cortexrc")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        // What was shown can be sent back: nothing is lost.
        let before = text(&folder);
        change(&mut owner, &Value::from(shown.values)).unwrap();
        assert!(text(&folder).starts_with(&before), "{}", text(&folder));
        // A key is taken away, and the scopes of another change.
        change(&mut owner, &json!({"api_keys": [HIDDEN, {"key": HIDDEN, "scopes": ["read"]}]})).unwrap();
        assert_eq!(seen.borrow().api_keys[1].scopes, [cortex_server::Scope::Read]);
        // An address that was shown says nothing new.
        let other = change(&mut owner, &json!({"cors": true, "proxy_url": "http://********@other:2"})).unwrap();
        assert!(other.warnings[0].contains("whole address"), "{:?}", other.warnings);
        change(&mut owner, &json!({"api_keys": []})).unwrap();
        assert_eq!(seen.borrow().api_keys, []);
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        let (mut owner, seen, folder) = owner("apiServerHost: 0.0.0.0\napiKeys: [k]\n");
        owner.overrides.api_keys = None;
        let before = (text(&folder), seen.borrow().clone());
        for (changes, said) in [
            (json!({"unknown": 1}), "No configuration updated: `unknown`"),
            (json!({}), "No configuration updated"),
            (json!({"cors": "yes"}), "must be true or false"),
            (json!({"api_keys": []}), "no API key is set"),
            (json!({"api_keys": ["a b"]}), "a list of texts without blanks"),
            (json!({"api_keys": [{"key": "", "scopes": ["read"]}]}), "a list of texts without blanks"),
            (json!({"api_keys": [{"key": "k", "scopes": []}]}), "scopes"),
            (json!({"huggingface_token": "x".repeat(9000)}), "at most 8 KiB"),
            (json!({"api_keys": [{"key": "k", "scopes": ["all"]}]}), "scopes"),
            (json!({"api_keys": [HIDDEN, HIDDEN]}), "stands for a key that is there"),
            (json!({"cors": true, "proxy_url": "://"}), "proxyUrl"),
            (json!({"huggingface_token": "a b"}), "huggingFaceToken"),
        ] {
            let refusal = change(&mut owner, &changes).expect_err(said).to_string();
            assert!(refusal.contains(said), "{changes}: {refusal}");
        }
        assert_eq!(text(&folder), before.0);
        assert!(Arc::ptr_eq(&seen.borrow(), &before.1));
    }

    #[test]
    fn what_an_old_app_says_about_its_proxy_leaves_certificates_checked() {
        let (mut owner, ..) = owner("");
        let shown = change(&mut owner, &json!({"proxy_url": "", "verify_peer_ssl": false})).unwrap();
        assert_eq!((shown.values["verify_peer_ssl"].clone(), shown.warnings), (json!(false), vec![]));
        assert!(owner.settings.outbound.verify_certificates);
        let shown = change(&mut owner, &json!({"proxy_url": "http://proxy:1"})).unwrap();
        assert!(!owner.settings.outbound.verify_certificates && shown.warnings.len() == 1);
    }

    #[test]
    fn what_was_edited_meanwhile_is_kept_and_a_broken_file_is_left_alone() {
        let (mut owner, _, folder) = owner("");
        let path = folder.path().join(".cortexrc");
        fs_err::write(&path, "idleUnloadSeconds: 7\n").unwrap();
        change(&mut owner, &json!({"cors": false})).unwrap();
        assert_eq!(text(&folder), "idleUnloadSeconds: 7\nenableCors: false\n");
        // A file that was emptied does not open what had keys.
        owner.settings.api_keys = vec![ApiKey::full("k")];
        owner.overrides.api_keys = None;
        fs_err::write(&path, "").unwrap();
        assert!(matches!(change(&mut owner, &json!({"cors": true})), Err(SettingsRefusal::File(_))));
        owner.settings.api_keys = vec![];
        fs_err::write(&path, "a: [\n").unwrap();
        assert!(matches!(change(&mut owner, &json!({"cors": true})), Err(SettingsRefusal::Invalid(_))));
        assert_eq!(text(&folder), "a: [\n");
        fs_err::remove_file(&path).unwrap();
        change(&mut owner, &json!({"cors": true})).unwrap();
        assert_eq!(text(&folder), "enableCors: true\n");
    }
}
