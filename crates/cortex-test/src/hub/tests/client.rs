//! An HTTP client that hides nothing: not the end of a body that came too early either.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether all of the body came that was announced.
    pub(super) complete: bool,
}

impl Answer {
    pub(super) fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A connection whose answer has begun.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) answer: Answer,
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// So many bytes as they come, or fewer when there are no more.
    pub(super) fn read_body(&mut self, length: usize) -> Vec<u8> {
        let mut body = Vec::new();
        let _ = self.reader.by_ref().take(length as u64).read_to_end(&mut body);
        body
    }

    /// Whether nothing comes for a while, and the connection stays open.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.reader.get_ref().set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let quiet = self.reader.fill_buf().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.reader.get_ref().set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        quiet
    }

    pub(super) fn finish(mut self) -> Answer {
        let length: Option<usize> =
            self.answer.header("content-length").map(|length| length.parse().expect("a number"));
        if self.answer.header("transfer-encoding") == Some("chunked") {
            self.answer.complete = self.read_chunks().is_some();
        } else {
            self.answer.body = self.read_body(usize::MAX);
            self.answer.complete = length == Some(self.answer.body.len());
        }
        self.answer
    }

    fn read_chunks(&mut self) -> Option<()> {
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            let chunk = self.read_body(length + 2);
            self.answer.body.extend_from_slice(chunk.get(..length)?);
            if length == 0 {
                return Some(());
            }
        }
    }
}

/// Sends a request. The answer has no status when the connection ends before it.
pub(super) fn open(method: &str, url: &str, headers: &[(&str, &str)]) -> Connection {
    let rest = url.strip_prefix("http://").expect("a URL");
    let (host, path) = rest.find('/').map_or((rest, "/"), |place| rest.split_at(place));
    let mut stream = TcpStream::connect(host).expect("the hub listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}\r\n", headers.concat());
    stream.write_all(request.as_bytes()).expect("the hub reads");
    Connection { answer: Answer::default(), reader: BufReader::new(stream) }.begun()
}

impl Connection {
    fn begun(mut self) -> Self {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(length) if length > 0 && !line.trim().is_empty() => lines.push(line),
                _ => break,
            }
        }
        let mut lines = lines.into_iter();
        if let Some(first) = lines.next() {
            self.answer.status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        }
        let header =
            |line: String| line.trim().split_once(": ").map(|(name, value)| (name.to_lowercase(), value.into()));
        self.answer.headers = lines.filter_map(header).collect();
        self
    }
}

/// Sends a request and reads the answer to its end.
pub(super) fn ask(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    open(method, url, headers).finish()
}

pub(super) fn get(url: &str) -> Answer {
    ask("GET", url, &[])
}

pub(super) fn head(url: &str) -> Answer {
    ask("HEAD", url, &[])
}

pub(super) fn json_of(url: &str) -> Value {
    let answer = get(url);
    assert_eq!(answer.status, 200, "{url}");
    answer.json()
}
