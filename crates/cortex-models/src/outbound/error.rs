//! Why another machine gave no answer that can be used, told apart as far as can be known.

use super::address::Verdict;
use crate::ErrorKind;
use std::{error::Error, fmt, io, time::Duration};

/// Why a request to another machine failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// The host is not one that models may come from.
    #[error("models may not be downloaded from `{host}`")]
    NotAllowed {
        /// With its port, where one is given.
        host: String,
        /// A redirect led there.
        redirected: bool,
    },
    /// It would not be encrypted.
    #[error("`{url}` is not encrypted")]
    Insecure {
        /// Where to.
        url: String,
    },
    /// A name leads to this machine or its network.
    #[error("`{host}` leads to the private address {address}")]
    Private {
        /// Which name.
        host: String,
        /// What it stands for.
        address: String,
    },
    /// Redirects that do not end, or lead nowhere.
    #[error("`{host}` redirects {why}")]
    Redirect {
        /// Who.
        host: String,
        /// How.
        why: &'static str,
    },
    /// The name is not known.
    #[error("the name `{host}` cannot be resolved: {reason}")]
    Dns {
        /// Which name.
        host: String,
        /// What the system says.
        reason: String,
    },
    /// Nobody answers there.
    #[error("`{host}` cannot be reached: {reason}")]
    Connect {
        /// Who.
        host: String,
        /// What the system says.
        reason: String,
    },
    /// The connection is not the one that it should be.
    #[error("no secure connection to `{host}`: {reason}")]
    Tls {
        /// Who.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The proxy does not do what it should.
    #[error("the proxy {proxy} does not pass the request on: {reason}")]
    Proxy {
        /// Which, without its password.
        proxy: String,
        /// What it says.
        reason: String,
    },
    /// It took too long.
    #[error("`{host}` did not answer in time")]
    Timeout {
        /// Who.
        host: String,
    },
    /// The connection ended amid an answer.
    #[error("the connection to `{host}` broke: {reason}")]
    Broken {
        /// Who.
        host: String,
        /// What the system says.
        reason: String,
    },
    /// An answer that is a refusal.
    #[error("`{host}` answered {}", Answered { status: *status, message })]
    Status {
        /// Who.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The hub's own code.
        code: String,
        /// What it said.
        message: String,
        /// How long to wait before asking again.
        retry_after: Option<Duration>,
        /// A token was sent.
        with_token: bool,
    },
    /// An answer that is longer than any good one.
    #[error("the answer of `{host}` is longer than {limit} bytes")]
    TooLong {
        /// Who.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// An answer that is not what was asked for.
    #[error("the answer of `{host}` makes no sense: {reason}")]
    Nonsense {
        /// Who.
        host: String,
        /// What is wrong.
        reason: String,
    },
}

struct Answered<'message> {
    status: u16,
    message: &'message str,
}

impl fmt::Display for Answered<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.status {
            401 => " (not authorised)",
            403 => " (forbidden)",
            404 => " (not found)",
            429 => " (too many requests)",
            500.. => " (an error of its own)",
            _ => "",
        };
        write!(formatter, "{}{family}", self.status)?;
        if self.message.is_empty() { Ok(()) } else { write!(formatter, ": {}", self.message) }
    }
}

impl OutboundError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAllowed { .. } | Self::Insecure { .. } | Self::Private { .. } => ErrorKind::Invalid,
            Self::Status { status: 404, .. } => ErrorKind::NotFound,
            Self::Status { status: 429, .. } => ErrorKind::Busy,
            _ => ErrorKind::Unavailable,
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAllowed { host, redirected: false } => {
                format!("add `{host}` to `allowedDownloadHosts` in the settings, if you trust it")
            }
            Self::NotAllowed { host, redirected: true } => {
                format!("the download was redirected there; add `{host}` to `allowedDownloadHosts` in the settings, if you trust it")
            }
            Self::Insecure { .. } => {
                "use https, or name it as `http://host` in `allowedDownloadHosts` of the settings".into()
            }
            Self::Private { host, .. } => {
                format!("if that is meant, add `{host}` to `allowedDownloadHosts` in the settings")
            }
            Self::Dns { .. } => "look whether this machine is online, and whether a proxy is needed (`proxyUrl`)".into(),
            Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. } => {
                "look whether this machine is online, and whether a proxy or firewall stands between".into()
            }
            Self::Tls { .. } => {
                "a firewall or proxy that reads along has its own certificate: install it on this machine, and look whether its clock is right".into()
            }
            Self::Proxy { .. } => "check `proxyUrl`, `proxyUsername` and `proxyPassword` in the settings".into(),
            Self::Status { status: 401 | 403, with_token: false, .. } => {
                "if it is private or gated, set `huggingFaceToken` in the settings or HF_TOKEN".into()
            }
            Self::Status { status: 401 | 403, .. } => {
                "check that the token is valid and may read this repository".into()
            }
            Self::Status { status: 429, .. } => "wait a while; with a token the limits are higher".into(),
            Self::Nonsense { .. } => "a login page of the network may answer in its place: open a browser".into(),
            Self::Status { .. } | Self::Redirect { .. } | Self::TooLong { .. } => return None,
        })
    }

    /// Whether asking again later may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Proxy { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            Self::NotAllowed { .. }
            | Self::Insecure { .. }
            | Self::Private { .. }
            | Self::Redirect { .. }
            | Self::Tls { .. }
            | Self::TooLong { .. }
            | Self::Nonsense { .. } => false,
        }
    }

    pub(super) fn of_verdict(verdict: Verdict, url: &reqwest::Url, redirected: bool) -> Option<Self> {
        match verdict {
            Verdict::Configured | Verdict::Public => None,
            Verdict::Insecure => Some(Self::Insecure { url: without_query(url) }),
            Verdict::Unknown => Some(Self::NotAllowed { host: host_of(url), redirected }),
        }
    }

    /// What went wrong on the way, as the layers below tell it.
    pub(super) fn of_failure(failure: &reqwest::Error, url: &reqwest::Url, proxy: Option<&str>, amid: bool) -> Self {
        let host = host_of(url);
        let mut layer: Option<&(dyn Error + 'static)> = Some(failure);
        let mut last = String::new();
        let mut refused = false;
        while let Some(error) = layer {
            if let Some(own) = error.downcast_ref::<ResolveFailure>() {
                return own.0.clone();
            }
            if let Some(tls) = tls_reason(error) {
                return Self::Tls { host, reason: tls };
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                refused |= io.kind() == io::ErrorKind::ConnectionRefused;
                // Errors of this kind hide what they wrap from `source`.
                let mut inner = io.get_ref();
                while let Some(error) = inner {
                    if let Some(tls) = tls_reason(error) {
                        return Self::Tls { host, reason: tls };
                    }
                    inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
                }
            }
            last = error.to_string();
            layer = error.source();
        }
        if failure.is_timeout() {
            return Self::Timeout { host };
        }
        if failure.is_connect() {
            return match proxy {
                Some(proxy) => Self::Proxy { proxy: proxy.to_owned(), reason: last },
                None if refused => Self::Connect { host, reason: "the connection was refused".into() },
                None => Self::Connect { host, reason: last },
            };
        }
        let reason = if last.is_empty() { failure.to_string() } else { last };
        if amid || failure.is_body() || failure.is_request() || failure.is_decode() {
            return Self::Broken { host, reason };
        }
        Self::Nonsense { host, reason }
    }
}

fn tls_reason(error: &(dyn Error + 'static)) -> Option<String> {
    error.downcast_ref::<rustls::Error>().map(|error| match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            "its certificate is from an authority that this machine does not know".into()
        }
        rustls::Error::InvalidCertificate(rustls::CertificateError::Expired) => "its certificate has expired".into(),
        other => other.to_string(),
    })
}

/// What our resolver says, carried through the layers.
#[derive(Debug)]
pub(super) struct ResolveFailure(pub(super) OutboundError);

impl fmt::Display for ResolveFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Error for ResolveFailure {}

/// The host as a person may put it into the settings.
pub(super) fn host_of(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A URL that can be shown: signed ones carry secrets in their query.
pub(crate) fn without_query(url: &reqwest::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}
