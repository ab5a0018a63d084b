//! Talks to the daemon.

use crate::{
    error::CliError,
    own_certificate,
    settings::{Settings, SettingsError},
};
use cortex_api::openai::ErrorBody;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// How long a short request may take.
const SHORT: Duration = Duration::from_secs(10);

/// A daemon to talk to.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base_url: String,
    /// What a request may carry: the token that a daemon of this data folder wrote, and the key of the settings.
    keys: Vec<String>,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self, CliError> {
        // The daemon is on this machine: no proxy stands between, and no certificates are needed.
        let builder = reqwest::Client::builder().no_proxy();
        let builder = match &settings.tls_files.0 {
            None => builder.tls_certs_only([]),
            Some(path) => {
                let failed = |reason: String| CliError::Settings(SettingsError::Tls { key: "sslCertPath", reason });
                let pem = fs_err::read(path).map_err(|error| failed(error.to_string()))?;
                builder.tls_backend_preconfigured(own_certificate::client_config(&pem).map_err(failed)?)
            }
        };
        let http = builder.build().map_err(|error| CliError::Connection(error.to_string()))?;
        let is_here = settings.address.ip().to_canonical().is_loopback();
        let token = fs_err::read_to_string(settings.token_file()).ok().filter(|token| is_here && !token.is_empty());
        let keys = token.into_iter().chain(settings.api_keys.first().map(|key| key.key.clone())).collect();
        Ok(Self { http, base_url: settings.base_url(), keys })
    }

    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Whether a daemon answers.
    pub(crate) async fn is_up(&self) -> bool {
        self.request(Method::GET, "/healthz")
            .timeout(SHORT)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        read(self.send(self.request(Method::GET, path).timeout(SHORT)).await?).await
    }

    /// Without a limit of time: a model may take long to load.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CliError> {
        read(self.send(self.request(Method::POST, path).json(body)).await?).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CliError> {
        read(self.send(self.request(Method::PATCH, path).timeout(SHORT).json(body)).await?).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        read(self.send(self.request(Method::DELETE, path).timeout(SHORT)).await?).await
    }

    pub(crate) async fn delete_with<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        read(self.send(self.request(Method::DELETE, path).timeout(SHORT).json(body)).await?).await
    }

    /// Events that come until the daemon ends them.
    pub(crate) async fn follow(&self, path: &str) -> Result<Response, CliError> {
        self.send(self.request(Method::GET, path)).await
    }

    /// An answer that is read piece by piece.
    pub(crate) async fn stream(&self, path: &str, body: &impl Serialize) -> Result<Response, CliError> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base_url));
        match self.keys.first() {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let failed = |error: reqwest::Error| {
            if error.is_connect() {
                CliError::NotRunning { url: self.base_url.clone() }
            } else {
                CliError::Connection(error.to_string())
            }
        };
        let again = request.try_clone();
        let mut answer = request.send().await.map_err(failed)?;
        // The daemon there may be one of another data folder, which does not know our token.
        if let (StatusCode::UNAUTHORIZED, Some(key), Some(again)) = (answer.status(), self.keys.get(1), again) {
            let mut again = again.build().map_err(failed)?;
            let value =
                format!("Bearer {key}").parse().map_err(|_| CliError::Connection("the key cannot be sent".into()))?;
            again.headers_mut().insert(header::AUTHORIZATION, value);
            answer = self.http.execute(again).await.map_err(failed)?;
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        let body = serde_json::from_str(&text).unwrap_or_else(|_| {
            ErrorBody::new("unknown", "unknown", format!("the daemon answered {status}: {text}"), None)
        });
        Err(CliError::Refused { body: Box::new(body) })
    }
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, CliError> {
    answer.json().await.map_err(|error| CliError::Connection(error.to_string()))
}

/// An id as the value of a query: every id can be one.
pub(crate) fn query_id(id: &str) -> String {
    format!("?id={}", utf8_percent_encode(id, NON_ALPHANUMERIC))
}

/// An id as one part of a path.
pub(crate) fn path_id(id: &str) -> String {
    utf8_percent_encode(id, NON_ALPHANUMERIC).to_string()
}

/// Takes `data:` lines out of a stream that comes in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Events {
    buffer: Vec<u8>,
}

impl Events {
    /// The data of the lines that are complete now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                events.push(data.trim_start().to_owned());
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cutting_of_the_stream_gives_the_same_events() {
        let stream = "data: {\"a\":\"é\"}\n\n\ndata:[DONE]\r\n\n".as_bytes();
        for cut in 0..stream.len() {
            let mut events = Events::default();
            let mut seen = events.push(&stream[..cut]);
            seen.extend(events.push(&stream[cut..]));
            assert_eq!(seen, ["{\"a\":\"é\"}", "[DONE]"]);
        }
    }

    #[test]
    fn every_id_can_be_asked_for() {
        assert_eq!(query_id("a/b:c d&é"), "?id=a%2Fb%3Ac%20d%26%C3%A9");
    }
}
