//! Lines of bounded length.

use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Longer lines are no protocol: whoever sends them is broken.
const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// Reads one line without its end into `line`; false at the end of the stream.
pub(crate) async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        if let Some(end) = available.iter().position(|&byte| byte == b'\n') {
            line.extend_from_slice(&available[..end]);
            reader.consume(end + 1);
            return Ok(true);
        }
        line.extend_from_slice(available);
        let length = available.len();
        reader.consume(length);
        if line.len() > LONGEST_LINE {
            return Err(io::Error::other("a line without end"));
        }
    }
}

/// The end of what a process wrote to standard error: enough to say why it died.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    text: String,
}

impl Tail {
    /// Bytes that are kept.
    const KEPT: usize = 64 * 1024;
    /// Lines that an error shows.
    const SHOWN: usize = 6;

    pub(crate) fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
        if self.text.len() > 2 * Self::KEPT {
            let mut from = self.text.len() - Self::KEPT;
            while !self.text.is_char_boundary(from) {
                from += 1;
            }
            self.text.drain(..from);
        }
    }

    /// The last lines, on one line.
    pub(crate) fn shown(&self) -> String {
        self.last(|line| !line.trim().is_empty())
    }

    /// The last lines that tell of a failure: between them are many that do not.
    pub(crate) fn failures(&self) -> String {
        self.last(|line| {
            let line = line.to_ascii_lowercase();
            ["error", "fail", "cannot", "unable", "abort", "invalid", "unknown"].iter().any(|word| line.contains(word))
        })
    }

    fn last(&self, is_told: impl Fn(&str) -> bool) -> String {
        let lines: Vec<&str> = self.text.lines().filter(|line| is_told(line)).collect();
        lines[lines.len().saturating_sub(Self::SHOWN)..].join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_one_by_one_and_an_unfinished_last_one_too() {
        let mut reader = tokio::io::BufReader::new(&b"a\n\nlast"[..]);
        let mut line = Vec::new();
        let mut seen = Vec::new();
        while read_line(&mut reader, &mut line).await.expect("reads") {
            seen.push(String::from_utf8(line.clone()).expect("text"));
        }
        assert_eq!(seen, ["a", "", "last"]);
    }

    #[test]
    fn only_the_last_lines_are_shown() {
        let mut tail = Tail::default();
        for number in 0..20_000 {
            tail.push(&format!("line {number} é"));
        }
        assert!(tail.text.len() <= 2 * Tail::KEPT);
        assert!(tail.shown().ends_with("line 19999 é"));
        assert_eq!(tail.shown().matches('|').count(), Tail::SHOWN - 1);
    }
}
