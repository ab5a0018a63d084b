//! A request with a body to a service that the settings name, and its answer as it comes.

use super::{
    client::Outbound,
    error::{OutboundError, host_of},
};
use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, Url, header::HeaderMap};
use std::time::Duration;
use tokio::time::Instant;

/// What is sent.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// How.
    pub method: Method,
    /// Where to. Redirects are not followed.
    pub url: Url,
    /// What it carries, a key among it.
    pub headers: HeaderMap,
    /// What it says; nothing when it is empty.
    pub body: Bytes,
    /// Silence after which it is given up.
    pub limit: Duration,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Exchanged {
    response: Response,
    host: String,
    limit: Duration,
    /// When something came last. A wait that is dropped and begun again goes on from there.
    heard: Instant,
}

impl Outbound {
    /// Sends it, and waits for the head of the answer.
    ///
    /// # Errors
    /// When the host may not be asked, or does not answer.
    pub async fn exchange(&self, exchange: Exchange) -> Result<Exchanged, OutboundError> {
        let Exchange { method, url, headers, body, limit } = exchange;
        self.check(&url, false)?;
        let mut request = self.client()?.request(method, url.clone()).headers(headers);
        // What is packed would have to be unpacked, to any length.
        request = request.header(reqwest::header::ACCEPT_ENCODING, "identity");
        if !body.is_empty() {
            request = request.body(body);
        }
        let host = host_of(&url);
        let response = tokio::time::timeout(limit, request.send())
            .await
            .map_err(|_| OutboundError::Timeout { host: host.clone() })?
            .map_err(|error| self.failure(&error, &url, false))?;
        Ok(Exchanged { response, host, limit, heard: Instant::now() })
    }
}

impl Exchanged {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next piece; `None` at its end.
    ///
    /// # Errors
    /// When nothing comes for too long, or the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, OutboundError> {
        let piece = tokio::time::timeout_at(self.heard + self.limit, self.response.chunk())
            .await
            .map_err(|_| OutboundError::Timeout { host: self.host.clone() })?
            .map_err(|error| OutboundError::of_failure(&error, self.response.url(), None, true))?;
        self.heard = Instant::now();
        Ok(piece)
    }

    /// All of it.
    ///
    /// # Errors
    /// When it is longer than that, or breaks off.
    pub async fn bytes(&mut self, most: usize) -> Result<Vec<u8>, OutboundError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most {
                return Err(OutboundError::TooLong { host: self.host.clone(), limit: most });
            }
        }
        Ok(bytes)
    }
}
