//! Requests to other machines: redirects checked one by one, addresses checked as they are dialled.

use super::{
    address::{self, AllowedHost, Hosts, Verdict},
    error::{OutboundError, ResolveFailure, host_of},
};
use reqwest::{
    Method, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header,
};
use serde::de::DeserializeOwned;
use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Bytes of an answer that is read whole.
const LONGEST_ANSWER: usize = 32 << 20;
/// Bytes of a refusal that are read for their message.
const LONGEST_MESSAGE: usize = 4096;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Silence after which an answer is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// What the settings say about other machines.
#[derive(Debug, Clone)]
pub struct OutboundConfig {
    /// The hub; a mirror's address where one is set.
    pub endpoint: Url,
    /// The token for the hub. It is sent to the hub alone.
    pub token: Option<String>,
    /// Hosts, besides the hub's, that models may come from: `host`, `host:port`, `http://host`.
    pub allowed_hosts: Vec<String>,
    /// What stands between.
    pub proxy: Option<ProxyConfig>,
    /// Whether certificates are checked. They are, unless somebody insists.
    pub verify_certificates: bool,
    /// Silence after which an answer is given up.
    pub silence_limit: Duration,
}

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `http://host:port`, `https://…` or `socks5://…`.
    pub url: String,
    /// Its user.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// Hosts that are asked without it, separated by commas. This machine always is.
    pub no_proxy: String,
}

impl std::fmt::Debug for ProxyConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ProxyConfig").field("no_proxy", &self.no_proxy).finish_non_exhaustive()
    }
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            endpoint: Url::parse("https://huggingface.co").expect("it is a URL"),
            token: None,
            allowed_hosts: vec![],
            proxy: None,
            verify_certificates: true,
            silence_limit: SILENCE_LIMIT,
        }
    }
}

/// What to ask for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    /// `bytes=0-99`.
    pub(crate) range: Option<String>,
    /// Only of this version.
    pub(crate) if_range: Option<String>,
}

/// An answer, and who gave it in the end.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) response: Response,
    pub(crate) url: Url,
    /// What the first answer said of the file, before any redirect: large files are kept elsewhere.
    pub(crate) linked_tag: Option<String>,
}

/// An answer that is read piece by piece.
#[derive(Debug)]
pub struct Download {
    outbound: Outbound,
    received: Received,
    start: u64,
}

impl Download {
    /// The number of its first byte: what was asked for, or 0 where parts cannot be had.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When it breaks off, or nothing comes for long.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, OutboundError> {
        self.outbound.chunk(&mut self.received).await
    }
}

struct Inner {
    config: OutboundConfig,
    hosts: Arc<Hosts>,
    /// The proxy, as it can be shown.
    proxy_name: Option<String>,
    /// Made at the first request: reading the certificates of the system takes time.
    client: OnceLock<Result<reqwest::Client, OutboundError>>,
}

/// The way out. Cheap to clone; all clones follow a change of the settings.
#[derive(Clone)]
pub struct Outbound(Arc<RwLock<Arc<Inner>>>);

impl std::fmt::Debug for Outbound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Outbound").finish_non_exhaustive()
    }
}

impl Outbound {
    /// Nothing is opened before the first request.
    pub fn new(config: OutboundConfig) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Inner::new(config)))))
    }

    /// What is asked from now on follows these settings; what is under way ends as it began.
    pub fn configure(&self, config: OutboundConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Inner::new(config));
    }

    fn now(&self) -> Arc<Inner> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The address of the hub.
    pub fn endpoint(&self) -> Url {
        self.now().config.endpoint.clone()
    }

    /// The URL of a path of the hub; its parts are encoded.
    pub(crate) fn hub_url(&self, parts: &[&str]) -> Url {
        let mut url = self.endpoint();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Whether a URL may be asked at all.
    pub(crate) fn check(&self, url: &Url, redirected: bool) -> Result<Verdict, OutboundError> {
        let verdict = self.now().hosts.judge(url);
        if let Some(error) = OutboundError::of_verdict(verdict, url, redirected) {
            return Err(error);
        }
        if let Some(address) = url.host_str().and_then(address::literal)
            && verdict != Verdict::Configured
            && !address::is_public(address)
        {
            return Err(OutboundError::Private { host: host_of(url), address: address.to_string() });
        }
        Ok(verdict)
    }

    /// Asks, follows redirects, and returns an answer that is none of a failure.
    pub(crate) async fn get(&self, url: &Url, ask: &Ask) -> Result<Received, OutboundError> {
        self.send(Method::GET, url, ask).await
    }

    async fn send(&self, method: Method, url: &Url, ask: &Ask) -> Result<Received, OutboundError> {
        let now = self.now();
        let (mut url, mut linked_tag) = (url.clone(), None);
        for hop in 0..=REDIRECTS {
            self.check(&url, hop > 0)?;
            let mut request = now.client()?.request(method.clone(), url.clone());
            // What is packed would have to be unpacked, to any length.
            request = request.header(header::ACCEPT_ENCODING, "identity");
            if let Some(range) = &ask.range {
                request = request.header(header::RANGE, range);
            }
            if let Some(tag) = &ask.if_range {
                request = request.header(header::IF_RANGE, tag);
            }
            let token = now.token_for(&url);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let failed = |error: reqwest::Error| {
                let proxy = now.proxy_name.as_deref().filter(|_| !is_this_machine(&url));
                OutboundError::of_failure(&error, &url, proxy, false)
            };
            let response = tokio::time::timeout(now.config.silence_limit, request.send())
                .await
                .map_err(|_| OutboundError::Timeout { host: host_of(&url) })?
                .map_err(failed)?;
            let status = response.status();
            if let (StatusCode::PROXY_AUTHENTICATION_REQUIRED, Some(proxy)) = (status, &now.proxy_name) {
                let reason = "it wants a user's name and a password, or others than it got".into();
                return Err(OutboundError::Proxy { proxy: proxy.clone(), reason });
            }
            let text =
                |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            if hop == 0 {
                linked_tag = text("x-linked-etag");
            }
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let bad = |why| OutboundError::Redirect { host: host_of(&url), why };
                let to = text("location").ok_or_else(|| bad("to nowhere"))?;
                let next = url.join(&to).map_err(|_| bad("to something that is no URL"))?;
                if !matches!(next.scheme(), "http" | "https") || !next.username().is_empty() {
                    return Err(bad("to something that is no plain web address"));
                }
                url = next;
                continue;
            }
            if status.is_success() {
                return Ok(Received { response, url, linked_tag });
            }
            return Err(refusal(response, &url, token.is_some()).await);
        }
        Err(OutboundError::Redirect { host: host_of(&url), why: "again and again" })
    }

    pub(super) fn client(&self) -> Result<reqwest::Client, OutboundError> {
        self.now().client().cloned()
    }

    /// Why a request failed.
    pub(super) fn failure(&self, error: &reqwest::Error, url: &Url, amid_answer: bool) -> OutboundError {
        let now = self.now();
        let proxy = now.proxy_name.as_deref().filter(|_| !is_this_machine(url));
        OutboundError::of_failure(error, url, proxy, amid_answer)
    }

    /// What an address gives, of bounded length.
    ///
    /// # Errors
    /// When the address may not be asked, or does not answer, or gives more.
    pub async fn bytes(&self, address: &str, most: usize) -> Result<Vec<u8>, OutboundError> {
        let url = Url::parse(address).map_err(|error| OutboundError::Nonsense {
            host: address.chars().take(80).collect(),
            reason: format!("it is no address: {error}"),
        })?;
        let mut received = self.get(&url, &Ask::default()).await?;
        let host = host_of(&received.url);
        let bytes = self.body(&mut received, most).await?;
        if bytes.len() > most { Err(OutboundError::TooLong { host, limit: most }) } else { Ok(bytes) }
    }

    /// What an address gives from this byte on, to be read piece by piece.
    ///
    /// # Errors
    /// When the address may not be asked, or does not answer.
    pub async fn open(&self, url: &Url, from: u64) -> Result<Download, OutboundError> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let received = self.get(url, &Ask { range, if_range: None }).await?;
        let start = if received.response.status() == StatusCode::PARTIAL_CONTENT { from } else { 0 };
        Ok(Download { outbound: self.clone(), received, start })
    }

    /// An answer of bounded length.
    pub(crate) async fn text(&self, url: &Url) -> Result<(String, Received), OutboundError> {
        let mut received = self.get(url, &Ask::default()).await?;
        let host = host_of(&received.url);
        let bytes = self.body(&mut received, LONGEST_ANSWER).await?;
        if bytes.len() > LONGEST_ANSWER {
            return Err(OutboundError::TooLong { host, limit: LONGEST_ANSWER });
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| OutboundError::Nonsense { host, reason: "it is not UTF-8 text".into() })?;
        Ok((text, received))
    }

    /// JSON of bounded length.
    pub(crate) async fn json<T: DeserializeOwned>(&self, url: &Url) -> Result<T, OutboundError> {
        let (text, received) = self.text(url).await?;
        serde_json::from_str(&text).map_err(|error| {
            let html = text.trim_start().starts_with('<');
            let reason = if html { "it is a web page".into() } else { format!("it is not the expected JSON: {error}") };
            OutboundError::Nonsense { host: host_of(&received.url), reason }
        })
    }

    /// The first bytes of an answer: no more than `limit`, and one piece.
    async fn body(&self, received: &mut Received, limit: usize) -> Result<Vec<u8>, OutboundError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(received).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > limit {
                break;
            }
        }
        Ok(bytes)
    }

    /// The next piece of an answer; `None` at its end.
    pub(crate) async fn chunk(&self, received: &mut Received) -> Result<Option<bytes::Bytes>, OutboundError> {
        let url = &received.url;
        let limit = self.now().config.silence_limit;
        tokio::time::timeout(limit, received.response.chunk())
            .await
            .map_err(|_| OutboundError::Timeout { host: host_of(url) })?
            .map_err(|error| OutboundError::of_failure(&error, url, None, true))
    }
}

impl Inner {
    fn new(config: OutboundConfig) -> Self {
        let mut allowed: Vec<AllowedHost> =
            config.allowed_hosts.iter().filter_map(|text| AllowedHost::parse(text)).collect();
        // The hub itself, unless it is where everybody's is: that one must have a public address.
        if Hosts::default().judge(&config.endpoint) != Verdict::Public {
            allowed.extend(AllowedHost::of(&config.endpoint));
        }
        let proxy = config.proxy.as_ref().and_then(|proxy| Url::parse(&proxy.url).ok());
        let proxy = proxy.and_then(|url| url.host_str().map(str::to_owned));
        let proxy_name = config.proxy.as_ref().map(|proxy| {
            Url::parse(&proxy.url).map_or_else(|_| "of the settings".into(), |url| super::error::without_query(&url))
        });
        Self { config, hosts: Arc::new(Hosts { allowed, proxy }), proxy_name, client: OnceLock::new() }
    }

    /// The token is for the hub: the same scheme, host and port, and nobody else.
    fn token_for(&self, url: &Url) -> Option<&str> {
        let hub = &self.config.endpoint;
        let same = url.scheme() == hub.scheme()
            && url.host_str() == hub.host_str()
            && url.port_or_known_default() == hub.port_or_known_default();
        self.config.token.as_deref().filter(|token| same && !token.is_empty())
    }

    fn client(&self) -> Result<&reqwest::Client, OutboundError> {
        self.client.get_or_init(|| self.build()).as_ref().map_err(Clone::clone)
    }

    fn build(&self) -> Result<reqwest::Client, OutboundError> {
        let config = &self.config;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("cortex/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT.min(config.silence_limit))
            .pool_max_idle_per_host(64)
            .dns_resolver(Arc::new(CheckedNames(Arc::clone(&self.hosts))))
            .tls_danger_accept_invalid_certs(!config.verify_certificates)
            // Only the proxy that the settings name.
            .no_proxy();
        if let Some(proxy) = &config.proxy {
            let wrong = |error: &reqwest::Error| OutboundError::Proxy {
                proxy: self.proxy_name.clone().unwrap_or_default(),
                reason: std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string),
            };
            let without = format!("localhost,127.0.0.0/8,::1,{}", proxy.no_proxy);
            let mut way = reqwest::Proxy::all(&proxy.url).map_err(|error| wrong(&error))?;
            if !proxy.username.is_empty() {
                way = way.basic_auth(&proxy.username, &proxy.password);
            }
            builder = builder.proxy(way.no_proxy(reqwest::NoProxy::from_string(&without)));
        }
        builder.build().map_err(|error| OutboundError::Tls {
            host: host_of(&config.endpoint),
            reason: format!("{error}; are certificates installed on this machine (ca-certificates)?"),
        })
    }
}

/// What a refusal says.
async fn refusal(mut response: Response, url: &Url, with_token: bool) -> OutboundError {
    let header =
        |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (code, told, wait) = (header("x-error-code"), header("x-error-message"), header("retry-after"));
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_MESSAGE {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), read).await;
    let body = String::from_utf8_lossy(&body[..body.len().min(LONGEST_MESSAGE)]).into_owned();
    let json: Option<serde_json::Value> = serde_json::from_str(&body).ok();
    let from_json = json.and_then(|json| json.get("error").and_then(|error| error.as_str()).map(str::to_owned));
    let message = if told.is_empty() { from_json.unwrap_or_default() } else { told };
    OutboundError::Status {
        host: host_of(url),
        status,
        code,
        message: message.chars().filter(|letter| !letter.is_control()).take(300).collect(),
        retry_after: wait.trim().parse().ok().map(Duration::from_secs),
        with_token,
    }
}

fn is_this_machine(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host.eq_ignore_ascii_case("localhost") || address::literal(host).is_some_and(|address| address.is_loopback())
    })
}

/// Resolves names, and leaves out addresses that nobody allowed: what was checked is what is dialled.
struct CheckedNames(Arc<Hosts>);

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let hosts = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let failed = |reason: String| ResolveFailure(OutboundError::Dns { host: host.clone(), reason });
            let all: Vec<std::net::SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await.map_err(|error| failed(error.to_string()))?.collect();
            let Some(first) = all.first().map(|address| address.ip().to_string()) else {
                return Err(failed("it has no address".into()).into());
            };
            let any = hosts.may_be_private(&host);
            let good: Vec<std::net::SocketAddr> =
                all.into_iter().filter(|socket| any || address::is_public(socket.ip())).collect();
            if good.is_empty() {
                return Err(ResolveFailure(OutboundError::Private { host, address: first }).into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}
