//! Server-sent events, out of a stream that comes in any pieces. Pure.

/// Bytes of one event at most.
const LONGEST: usize = 16 << 20;

/// The data of events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: String,
}

impl Events {
    /// The data of the events that are complete now; an error when one is longer than any good one.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, &'static str> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() + self.data.len() > LONGEST {
                return Err("an event is longer than 16 MiB");
            }
            if piece.ends_with(b"\n") {
                events.extend(self.take_line());
            }
        }
        Ok(events)
    }

    /// What is left when the stream has ended.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let last = if self.line.is_empty() { None } else { self.take_line() };
        last.or_else(|| (!self.data.is_empty()).then(|| std::mem::take(&mut self.data)))
    }

    /// Takes a whole line; an empty one ends an event.
    fn take_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return (!self.data.is_empty()).then(|| std::mem::take(&mut self.data));
        }
        if let Some(data) = line.strip_prefix("data:") {
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
        } else if line.starts_with('{') && self.data.is_empty() {
            // An error that comes bare amid a stream.
            self.data.push_str(line);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cutting_of_the_stream_gives_the_same_events() {
        let stream =
            "event: a\r\ndata: {\"a\":\"é\"}\r\n\r\n: comment\n\ndata:1\ndata: 2\n\ndata: [DONE]\n\n{\"error\":1}"
                .as_bytes();
        for cut in 0..stream.len() {
            let mut events = Events::default();
            let mut seen = events.push(&stream[..cut]).unwrap();
            seen.extend(events.push(&stream[cut..]).unwrap());
            seen.extend(events.finish());
            assert_eq!(seen, ["{\"a\":\"é\"}", "1\n2", "[DONE]", "{\"error\":1}"], "{cut}");
        }
        assert!(Events::default().push(&vec![b'a'; LONGEST + 1]).is_err());
    }
}
