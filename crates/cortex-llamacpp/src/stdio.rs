//! The private line to the daemon. Standard output belongs to the protocol alone: whatever a C
//! library prints there goes to standard error.

use crate::llama;
use cortex_api::worker::{FromWorker, encode};
use std::{
    fs::File,
    io::{self, Write},
    process::ExitCode,
};

/// Where protocol lines go. Lines are collected and written together, so that one step of the
/// engine is one write.
pub(crate) struct Lines {
    out: File,
    buffer: String,
}

/// Takes standard output away from everything else in this process. Call it before the engine starts.
pub(crate) fn claim_stdout() -> io::Result<Lines> {
    Ok(Lines { out: llama::redirect_stdout_to_stderr()?, buffer: String::new() })
}

impl Lines {
    /// A second writer to the same line, for a callback that cannot borrow the first.
    pub(crate) fn another(&self) -> io::Result<Self> {
        Ok(Self { out: self.out.try_clone()?, buffer: String::new() })
    }

    /// Adds a line to what the next [`Lines::flush`] writes.
    pub(crate) fn push(&mut self, message: &FromWorker) {
        self.buffer.push_str(&encode(message));
    }

    /// Writes what was collected. A daemon that is gone ends the process: there is nobody to work for.
    pub(crate) fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.out.write_all(self.buffer.as_bytes()).is_err() {
            llama::end_process(0);
        }
        self.buffer.clear();
    }

    /// Writes one line at once.
    pub(crate) fn send(&mut self, message: &FromWorker) {
        self.push(message);
        self.flush();
    }

    /// Writes a line that is not part of the protocol: the result of a trial.
    pub(crate) fn send_text(&mut self, line: &str) {
        self.buffer.push_str(line);
        self.buffer.push('\n');
        self.flush();
    }
}

/// Says why on standard error and gives the exit code for it.
pub(crate) fn fail(message: &str) -> ExitCode {
    warn(message);
    ExitCode::FAILURE
}

/// Says something on standard error, which the daemon keeps.
pub(crate) fn warn(message: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr(), "cortex-llamacpp: {message}");
}
