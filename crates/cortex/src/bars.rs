//! How a download looks: bars on a terminal, lines in a log.

use crate::output::{Printer, bytes};
use cortex_api::pulls::Pull;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

/// Letters of a file's name that are shown.
const NAME: usize = 20;
/// In a log, a line comes this often at least.
const SILENCE: Duration = Duration::from_secs(10);
/// In a log, a line comes for each of these steps, in percent.
const STEP: u64 = 10;

/// Shows one download.
pub(crate) enum Bars {
    /// One bar for each file, and one for all.
    Terminal { all: MultiProgress, files: Vec<ProgressBar>, total: Option<ProgressBar>, state: ProgressBar },
    /// Lines.
    Log { printer: Printer, told: Option<(Instant, u64)>, state: String },
}

impl Bars {
    pub(crate) fn new(printer: Printer, pull: &Pull) -> Self {
        if !io::stderr().is_terminal() || printer.json || printer.is_quiet() {
            return Self::Log { printer, told: None, state: String::new() };
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ")
        };
        let bar = |length: u64, name: String, template: &str| {
            let bar = all.add(ProgressBar::new(length));
            bar.set_style(style(template));
            bar.set_prefix(name);
            bar
        };
        let one = pull.items.len() == 1;
        let short = "{prefix:20} [{bar:12}] {percent:>3}%";
        let long = "{prefix:20} [{bar:12}] {percent:>3}% {msg}";
        let files =
            pull.items.iter().map(|item| bar(item.bytes, shorten(&item.id), if one { long } else { short })).collect();
        let total = (!one).then(|| bar(pull.bytes, "total".into(), long));
        let state = all.add(ProgressBar::new_spinner());
        state.set_style(style("{msg}"));
        Self::Terminal { all, files, total, state }
    }

    /// Shows how it is now.
    pub(crate) fn show(&mut self, pull: &Pull) {
        match self {
            Self::Terminal { files, total, state, .. } => {
                for (bar, item) in files.iter().zip(&pull.items) {
                    bar.set_position(item.downloaded_bytes);
                }
                let bar = total.as_ref().or(files.first());
                if let Some(bar) = bar {
                    bar.set_position(pull.downloaded_bytes);
                    bar.set_message(numbers(pull));
                }
                state.set_message(words(pull));
            }
            Self::Log { printer, told, state } => {
                let now = format!("{} {}", pull.state, pull.message.as_deref().unwrap_or_default());
                if *state != now {
                    *state = now;
                    let words = words(pull);
                    if !words.is_empty() {
                        printer.note(&words);
                    }
                }
                if pull.state != "downloading" {
                    return;
                }
                let step = percent(pull) / STEP;
                let due = told.is_none_or(|(at, last)| last != step || at.elapsed() >= SILENCE);
                if due {
                    *told = Some((Instant::now(), step));
                    printer.note(&format!("{}: {}% {}", pull.id, percent(pull), numbers(pull)));
                }
            }
        }
    }

    /// Leaves the last state on the screen.
    pub(crate) fn end(&mut self) {
        if let Self::Terminal { files, total, state, .. } = self {
            state.finish_and_clear();
            for bar in files.iter().chain(total.iter()) {
                bar.abandon();
            }
        }
    }

    /// Makes room for a question, and comes back.
    pub(crate) fn pause<T>(&self, ask: impl FnOnce() -> T) -> T {
        match self {
            Self::Terminal { all, .. } => all.suspend(ask),
            Self::Log { .. } => ask(),
        }
    }
}

fn percent(pull: &Pull) -> u64 {
    pull.downloaded_bytes.saturating_mul(100).checked_div(pull.bytes).unwrap_or(0)
}

/// `12.3 MiB/98.0 MiB, 4.5 MiB/s, 19s left`.
fn numbers(pull: &Pull) -> String {
    let done = format!("{}/{}", bytes(pull.downloaded_bytes), bytes(pull.bytes));
    let rate = (pull.bytes_per_second > 0).then(|| format!("{}/s", bytes(pull.bytes_per_second)));
    let left = pull.seconds_left.filter(|_| pull.downloaded_bytes < pull.bytes);
    let left = left.map(|seconds| format!("{} left", duration(seconds)));
    std::iter::once(done).chain(rate).chain(left).collect::<Vec<_>>().join(", ")
}

fn words(pull: &Pull) -> String {
    match (pull.state.as_str(), &pull.message) {
        ("verifying", _) => "checking what came …".into(),
        ("paused", Some(why)) => format!("paused: {why}"),
        ("paused", None) => "paused".into(),
        ("downloading", Some(why)) => why.clone(),
        _ => String::new(),
    }
}

/// `5s`, `3m 20s`, `1h 5m`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The end of a name says more than its beginning.
fn shorten(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= NAME {
        return name.to_owned();
    }
    std::iter::once('…').chain(letters[letters.len() + 1 - NAME..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times_are_short() {
        assert_eq!(shorten("short.gguf"), "short.gguf");
        let long = shorten("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf");
        assert_eq!((long.chars().count(), long.ends_with("Q4_K_M.gguf")), (NAME, true));
        assert_eq!([duration(5), duration(200), duration(3900)], ["5s", "3m 20s", "1h 5m"]);
    }
}
