//! Who may talk to the daemon: hosts, origins, keys. Pure decisions; the router applies them.
//!
//! A page on the web can send requests to this machine. It cannot choose its Origin, and with DNS
//! rebinding it can only reach us under its own Host. Both are checked here, for every route.

use crate::{
    Config,
    keys::{self, Scope},
};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// Origins of desktop shells whose pages are the user's own programs.
const SHELL_ORIGINS: &[&str] = &["tauri://localhost", "http://tauri.localhost", "https://tauri.localhost", "file://"];
/// Schemes that only a desktop program can have.
const SHELL_SCHEMES: &[&str] = &["app://", "vscode-webview://"];
/// Paths that need no key: what a starting client must be able to ask.
const PUBLIC_PATHS: &[&str] = &["/", "/openapi.json", "/healthz", "/events", "/processManager/destroy"];

/// Why a request is refused before any route sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The Host header is missing, doubled, or not one of ours.
    Host(String),
    /// A page of a foreign origin wants to change something.
    Origin(String),
    /// The key is missing or wrong.
    Key,
    /// The key is not for this; one of these scopes is needed.
    Scope(&'static [Scope]),
    /// Only programs on this machine may do this.
    NotLocal,
}

/// What was decided about a request that is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// The origin to name in the answer's CORS headers.
    pub(crate) origin: Option<HeaderValue>,
}

/// Decides about a request.
pub(crate) fn admit(
    config: &Config,
    peer: IpAddr,
    (method, path): (&Method, &str),
    (headers, authority): (&HeaderMap, Option<&str>),
) -> Result<Admitted, Refusal> {
    check_host(config, headers, authority)?;
    let origin = check_origin(config, method, headers)?;
    let preflight = method == Method::OPTIONS;
    if path == "/processManager/destroy" && !preflight && !peer.to_canonical().is_loopback() {
        return Err(Refusal::NotLocal);
    }
    if !preflight && !PUBLIC_PATHS.contains(&path) {
        check_key(config, peer, keys::needed(method, path), headers)?;
    }
    Ok(Admitted { origin })
}

fn check_host(config: &Config, headers: &HeaderMap, authority: Option<&str>) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::Host("(missing or doubled)".into()));
    };
    let host = host.to_str().map_err(|_| Refusal::Host("(not text)".into()))?;
    for name in std::iter::once(host).chain(authority) {
        if !is_our_host(config, name) {
            return Err(Refusal::Host(name.to_owned()));
        }
    }
    Ok(())
}

/// Whether a Host header names this daemon.
fn is_our_host(config: &Config, host: &str) -> bool {
    let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" {
        return true;
    }
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return address.to_canonical().is_loopback() || address == config.address.ip();
    }
    config.allowed_hosts.iter().any(|allowed| allowed.trim_end_matches('.').eq_ignore_ascii_case(&name))
}

fn without_port(host: &str) -> &str {
    let Some((name, port)) = host.rsplit_once(':') else { return host };
    // An IPv6 address without brackets is not a Host; with brackets, a colon inside is no port.
    if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() { name } else { host }
}

fn check_origin(config: &Config, method: &Method, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let upgrades = headers.contains_key(header::UPGRADE);
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (first, second) = (origins.next(), origins.next());
    let Some(origin) = first else {
        // Browsers send an Origin with every change; one that hides it still says where it comes from.
        let cross_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
        return if cross_site && (changes || upgrades) { Err(Refusal::Origin("(hidden)".into())) } else { Ok(None) };
    };
    let text = origin.to_str().unwrap_or("null");
    if second.is_none() && is_allowed_origin(config, text) {
        return Ok(Some(origin.clone()));
    }
    if changes || upgrades { Err(Refusal::Origin(text.to_owned())) } else { Ok(None) }
}

/// Whether pages of this origin may use the daemon.
fn is_allowed_origin(config: &Config, origin: &str) -> bool {
    let origin = origin.trim_end_matches('/');
    let same = |allowed: &str| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin);
    if origin.eq_ignore_ascii_case("file:") || SHELL_ORIGINS.iter().any(|allowed| same(allowed)) {
        return true;
    }
    if SHELL_SCHEMES.iter().any(|scheme| origin.len() > scheme.len() && origin.starts_with(scheme)) {
        return true;
    }
    // `*` in an old settings file would open the daemon to every page: it counts as nothing.
    if config.allowed_origins.iter().any(|allowed| allowed != "*" && same(allowed)) {
        return true;
    }
    let port = config.address.port();
    let scheme = if config.is_tls { "https" } else { "http" };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| same(&format!("{scheme}://{host}:{port}")))
}

/// Whether a request proves that its sender may read the files of the user on this machine: it carries the token that lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalUser(pub(crate) bool);

impl LocalUser {
    /// Looks at a request.
    pub(crate) fn of(config: &Config, peer: IpAddr, headers: &HeaderMap) -> Self {
        let is_token = given_key(headers).as_bytes().ct_eq(config.local_token.as_bytes());
        Self(bool::from(is_token) && !config.local_token.is_empty() && peer.to_canonical().is_loopback())
    }
}

/// The origin that may read what a refused request is told: a page that forgot its key should see that, and not a failure of the
/// network.
pub(crate) fn reader(config: &Config, method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    check_origin(config, method, headers).ok().flatten()
}

/// The key of a request; empty when there is none.
fn given_key(headers: &HeaderMap) -> &str {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")))
        .unwrap_or_default()
        .trim()
}

/// Whose beginnings of prompts a request may use: with several keys, those with the same one. How long an answer takes would tell one
/// user what another one has asked.
pub(crate) fn cache_scope(config: &Config, headers: &HeaderMap) -> u64 {
    let key = (config.api_keys.len() > 1).then(|| given_key(headers));
    cortex_engine::cache_scope(key)
}

/// Whether the key of a request is good for one of these.
fn check_key(config: &Config, peer: IpAddr, needed: &'static [Scope], headers: &HeaderMap) -> Result<(), Refusal> {
    if config.api_keys.is_empty() {
        return Ok(());
    }
    let given = given_key(headers);
    let same = |key: &str| key.as_bytes().ct_eq(given.as_bytes()) & subtle::Choice::from(u8::from(!key.is_empty()));
    // Every key is compared, whatever the first ones gave, so that the time says nothing.
    let (mut found, mut allows) = (subtle::Choice::from(0), subtle::Choice::from(0));
    for key in &config.api_keys {
        let is_this = same(&key.key);
        found |= is_this;
        allows |= is_this & subtle::Choice::from(u8::from(needed.iter().any(|&scope| key.allows(scope))));
    }
    let local = same(&config.local_token) & subtle::Choice::from(u8::from(peer.to_canonical().is_loopback()));
    match (bool::from(found | local), bool::from(allows | local)) {
        (_, true) => Ok(()),
        (true, false) => Err(Refusal::Scope(needed)),
        (false, false) => Err(Refusal::Key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ApiKey;

    fn config() -> Config {
        Config {
            address: "127.0.0.1:39281".parse().unwrap(),
            allowed_hosts: vec!["My-Box.local".into()],
            allowed_origins: vec!["https://app.example".into(), "*".into()],
            cors: true,
            api_keys: vec![],
            local_token: String::new(),
            is_tls: false,
            body_limit: 1,
            data_folder: "/".into(),
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_our_own_names_are_hosts() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST.:39281", true),
            ("127.0.0.1:39281", true),
            ("127.9.9.9", true),
            ("[::1]:39281", true),
            ("[::ffff:127.0.0.1]", true),
            ("my-box.local:1", true),
            ("localhost.evil.com", false),
            ("evil.com", false),
            ("127.0.0.1.evil.com", false),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("", false),
            ("localhost:80@evil.com", false),
        ] {
            assert_eq!(is_our_host(&config(), host), expected, "{host}");
        }
        assert!(check_host(&config(), &headers(&[]), None).is_err());
        assert!(check_host(&config(), &headers(&[("host", "localhost"), ("host", "localhost")]), None).is_err());
        assert!(check_host(&config(), &headers(&[("host", "localhost")]), Some("evil.com")).is_err());
    }

    #[test]
    fn foreign_pages_may_look_without_seeing_and_change_nothing() {
        for (origin, allowed) in [
            ("http://127.0.0.1:39281", true),
            ("http://localhost:39281", true),
            ("http://[::1]:39281", true),
            ("tauri://localhost", true),
            ("http://tauri.localhost", true),
            ("file://", true),
            ("app://jan", true),
            ("vscode-webview://abc", true),
            ("https://app.example", true),
            ("http://localhost:3000", false),
            ("https://127.0.0.1:39281", false),
            ("http://evil.com", false),
            ("null", false),
            ("*", false),
            ("app://", false),
            ("http://localhost.evil.com:39281", false),
        ] {
            let headers = headers(&[("origin", origin)]);
            let get = check_origin(&config(), &Method::GET, &headers).expect("a GET is answered");
            assert_eq!(get.is_some(), allowed, "GET {origin}");
            assert_eq!(check_origin(&config(), &Method::POST, &headers).is_ok(), allowed, "POST {origin}");
            assert_eq!(check_origin(&config(), &Method::DELETE, &headers).is_ok(), allowed, "DELETE {origin}");
        }
        assert!(
            check_origin(&config(), &Method::GET, &headers(&[("origin", "null"), ("upgrade", "websocket")])).is_err()
        );
        assert!(check_origin(&config(), &Method::POST, &headers(&[("sec-fetch-site", "cross-site")])).is_err());
        assert_eq!(check_origin(&config(), &Method::POST, &headers(&[])), Ok(None));
    }

    #[test]
    fn each_of_several_keys_has_prompts_of_its_own() {
        let of = |keys: &[&str], key: &str| {
            let config = Config { api_keys: keys.iter().map(|&key| ApiKey::full(key)).collect(), ..config() };
            cache_scope(&config, &headers(&[("authorization", &format!("Bearer {key}"))]))
        };
        assert_eq!((of(&[], "any"), of(&["one"], "one")), (0, 0));
        let both = ["one", "two"];
        assert_ne!(of(&both, "one"), of(&both, "two"));
        assert_eq!(of(&both, "one"), of(&both, "one"));
    }

    #[test]
    fn a_key_is_needed_when_keys_are_set() {
        let reader = ApiKey { key: "reader".into(), scopes: vec![Scope::Read] };
        let config = Config {
            api_keys: vec![ApiKey::full("first"), ApiKey::full("second"), reader],
            local_token: "token".into(),
            ..config()
        };
        let (here, elsewhere) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 168, 1, 9]));
        let check = |config: &Config, peer, key: &str, needed| {
            check_key(config, peer, needed, &headers(&[("authorization", key)]))
        };
        assert_eq!(check(&config, elsewhere, "Bearer second", &[Scope::Manage]), Ok(()));
        assert_eq!(check(&config, here, "Bearer secon", &[Scope::Infer]), Err(Refusal::Key));
        assert_eq!(check(&config, here, "second", &[Scope::Infer]), Err(Refusal::Key));
        assert_eq!(check_key(&config, here, &[Scope::Infer], &headers(&[])), Err(Refusal::Key));
        assert_eq!(check(&config, here, "Bearer ", &[Scope::Infer]), Err(Refusal::Key));
        assert_eq!(check(&config, here, "Bearer reader", &[Scope::Infer, Scope::Read]), Ok(()));
        assert_eq!(check(&config, here, "Bearer reader", &[Scope::Infer]), Err(Refusal::Scope(&[Scope::Infer])));
        // The token of the machine is for the machine.
        assert_eq!(check(&config, here, "Bearer token", &[Scope::Manage]), Ok(()));
        assert_eq!(check(&config, elsewhere, "Bearer token", &[Scope::Infer]), Err(Refusal::Key));
        let local = |peer, key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", key.parse().unwrap());
            LocalUser::of(&config, peer, &headers).0
        };
        assert!(local(here, "Bearer token") && !local(here, "Bearer other") && !local(elsewhere, "Bearer token"));
        let without = Config { local_token: String::new(), ..config.clone() };
        assert_eq!(check(&without, here, "Bearer ", &[Scope::Infer]), Err(Refusal::Key));
        assert_eq!(check(&Config { api_keys: vec![], ..config }, elsewhere, "", &[Scope::Manage]), Ok(()));
    }

    #[test]
    fn destroy_is_for_programs_on_this_machine() {
        let headers = headers(&[("host", "localhost")]);
        let path = (&Method::DELETE, "/processManager/destroy");
        assert!(admit(&config(), "127.0.0.1".parse().unwrap(), path, (&headers, None)).is_ok());
        assert_eq!(admit(&config(), "192.168.1.9".parse().unwrap(), path, (&headers, None)), Err(Refusal::NotLocal));
    }
}
