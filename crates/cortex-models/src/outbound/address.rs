//! Which hosts and addresses may be asked. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hosts that models come from: the hub, its mirrors of large files, and whatever lies below them.
const HUB: &[&str] = &["huggingface.co", "hf.co"];

/// A host of the settings: `host`, `host:port`, or `http://host:port` to allow it unencrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AllowedHost {
    host: String,
    port: Option<u16>,
    /// Plain HTTP is fine.
    plain: bool,
}

/// Whether a text of the settings names a host that may be allowed.
pub fn is_allowed_host(text: &str) -> bool {
    AllowedHost::parse(text).is_some_and(|host| !host.host.contains('*'))
}

impl AllowedHost {
    /// Reads an entry; `None` when it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches('/');
        let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
        let url = reqwest::Url::parse(&format!("{scheme}://{rest}")).ok()?;
        let host = url.host_str()?.to_ascii_lowercase();
        (matches!(scheme, "http" | "https") && matches!(url.path(), "" | "/")).then(|| {
            let loopback = host == "localhost" || literal(&host).is_some_and(|address| address.is_loopback());
            Self { port: explicit_port(rest, &url), plain: scheme == "http" || loopback, host }
        })
    }

    /// The host of an address in the settings.
    pub(crate) fn of(url: &reqwest::Url) -> Option<Self> {
        Some(Self {
            host: url.host_str()?.to_ascii_lowercase(),
            port: url.port_or_known_default(),
            plain: url.scheme() == "http",
        })
    }

    fn is(&self, url: &reqwest::Url) -> bool {
        url.host_str().is_some_and(|host| host.eq_ignore_ascii_case(&self.host))
            && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
            && (self.plain || url.scheme() == "https")
    }
}

/// The port that stands there; the one that goes without saying means any.
fn explicit_port(text: &str, url: &reqwest::Url) -> Option<u16> {
    let written = text.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if written { url.port_or_known_default() } else { None }
}

/// What is known of the hosts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts {
    /// Those that the settings name: they may be anywhere.
    pub(crate) allowed: Vec<AllowedHost>,
    /// The host of the proxy, which is dialled and never asked.
    pub(crate) proxy: Option<String>,
}

/// How far a URL is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The settings name it: its address may be private.
    Configured,
    /// A known host, whose address must be public.
    Public,
    /// Unencrypted, and nobody allowed that.
    Insecure,
    /// Not on the list.
    Unknown,
}

impl Hosts {
    pub(crate) fn judge(&self, url: &reqwest::Url) -> Verdict {
        if self.allowed.iter().any(|allowed| allowed.is(url)) {
            return Verdict::Configured;
        }
        let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        let below = |hub: &&str| host == **hub || host.strip_suffix(*hub).is_some_and(|rest| rest.ends_with('.'));
        match (HUB.iter().any(below), url.scheme()) {
            (true, "https") if url.port().is_none() => Verdict::Public,
            (true, "http") => Verdict::Insecure,
            _ if self
                .allowed
                .iter()
                .any(|allowed| allowed.host == host && !allowed.plain && url.scheme() == "http") =>
            {
                Verdict::Insecure
            }
            _ => Verdict::Unknown,
        }
    }

    /// Whether a name may stand for an address of this machine or its network.
    pub(crate) fn may_be_private(&self, name: &str) -> bool {
        let mut names = self.allowed.iter().map(|allowed| &allowed.host).chain(&self.proxy);
        names.any(|allowed| allowed.eq_ignore_ascii_case(name))
    }
}

/// The address that a host is written as, if it is one.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether an address is one of the public internet. Source: the special-purpose registries of IANA.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || first == 0
        || first >= 240
        // Carrier-grade NAT, protocol assignments, 6to4 relays, benchmarks.
        || (first == 100 && (64..128).contains(&second))
        || (first == 192 && second == 0 && third == 0)
        || (first == 192 && second == 88 && third == 99)
        || (first == 198 && (18..20).contains(&second)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    // Addresses that stand for one of version 4 are what that one is.
    let inner = |high: u16, low: u16| {
        let ([one, two], [three, four]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(one, two, three, four))
    };
    match parts {
        // Mapped, and the local translation prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            inner(high, low)
        }
        // Only 2000::/3 is handed out.
        [first, second, ..] => {
            (0x2000..0x4000).contains(&first)
                // Teredo, benchmarks, ORCHID, documentation.
                && !(first == 0x2001 && second < 0x200)
                && !(first == 0x2001 && second == 0xdb8)
                && !(first == 0x3fff && second < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for address in
            ["1.1.1.1", "18.5.0.1", "198.51.99.1", "2606:4700::1", "2a00::1", "64:ff9b::101:101", "2002:101:101::"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "10.1.1.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.1.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "::127.0.0.1",
            "4000::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn hosts_are_allowed_exactly() {
        use Verdict::{Configured, Insecure, Public, Unknown};
        let allowed =
            ["models.example", "box.local:9000", "http://10.0.0.5:8000", "127.0.0.1:7000", "http://plain.example"];
        let hosts =
            Hosts { allowed: allowed.iter().filter_map(|text| AllowedHost::parse(text)).collect(), proxy: None };
        assert_eq!(hosts.allowed.len(), allowed.len());
        for (url, expected) in [
            ("https://huggingface.co/x", Public),
            ("https://HUGGINGFACE.co./x", Public),
            ("https://cdn-lfs-us-1.hf.co/x", Public),
            ("https://cas-bridge.xethub.hf.co/x", Public),
            ("https://huggingface.co:8443/x", Unknown),
            ("http://huggingface.co/x", Insecure),
            ("https://huggingface.co.evil.example/x", Unknown),
            ("https://evilhuggingface.co/x", Unknown),
            ("https://models.example/x", Configured),
            ("https://models.example:444/x", Configured),
            ("http://models.example/x", Insecure),
            ("https://sub.models.example/x", Unknown),
            ("https://box.local:9000/x", Configured),
            ("https://box.local/x", Unknown),
            ("http://10.0.0.5:8000/x", Configured),
            ("http://10.0.0.5:8001/x", Unknown),
            ("http://127.0.0.1:7000/x", Configured),
            ("http://127.0.0.1:7001/x", Unknown),
            ("http://169.254.169.254/latest/meta-data", Unknown),
            ("https://plain.example/x", Configured),
            ("http://plain.example/x", Configured),
        ] {
            assert_eq!(hosts.judge(&reqwest::Url::parse(url).unwrap()), expected, "{url}");
        }
        for nonsense in ["", "://", "ftp://x", "http://x/path", "a b"] {
            assert_eq!(AllowedHost::parse(nonsense), None, "{nonsense}");
        }
    }
}
