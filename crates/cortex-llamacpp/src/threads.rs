//! How many threads compute fastest: measured for a model when it is loaded for the first time, and kept.
//!
//! What is best depends on the model and the machine: single tokens wait for the memory, prompts for the cores; threads that share a
//! core, or run on frugal ones, help or hinder.

use crate::{
    llama::{Context, Entry, LlamaError},
    saved, stdio,
};
use cortex_api::worker::Load;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Single tokens for each number of threads, the first of which does not count.
const SINGLES: u32 = 5;
/// Tokens of a prompt, and how often it is computed for each number of threads.
const PROMPT: u32 = 32;
const PROMPTS: u32 = 2;
/// Another number than the first one has to be so many times as fast.
const CLEARLY: f64 = 1.05;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Threads {
    /// For single tokens.
    pub(crate) answer: u32,
    /// For prompts.
    pub(crate) prompt: u32,
}

impl Threads {
    /// Those of a model: as they were told, as they were measured before, or as they are measured now. The context is empty before
    /// and after, and computes with them.
    pub(crate) fn choose(context: &mut Context<'_>, load: &Load, build: &str) -> Self {
        let told = Self { answer: load.threads, prompt: load.threads_batch };
        if load.thread_choices.len() < 2 {
            return told;
        }
        let path = profile(load, build);
        let known = path.as_deref().and_then(|path| read(path, &load.thread_choices));
        let threads = match known.map_or_else(|| measure(context, &load.thread_choices), Ok) {
            Ok(threads) => threads,
            Err(LlamaError(why)) => {
                stdio::warn(&format!("how many threads are best could not be measured: {why}"));
                return told;
            }
        };
        context.set_threads(threads.answer, threads.prompt);
        if let Some(path) = path.filter(|_| known.is_none())
            && let Err(why) = write(&path, threads)
        {
            // It is measured again the next time.
            stdio::warn(&format!("what was measured of threads is not kept: {}: {why}", path.display()));
        }
        threads
    }
}

/// The file of a model as it is loaded, for these choices.
fn profile(load: &Load, build: &str) -> Option<PathBuf> {
    let folder = Path::new(load.thread_profiles.as_ref()?);
    Some(folder.join(format!("{}.json", saved::key(load, &format!("{build} {:?}", load.thread_choices))?)))
}

fn read(path: &Path, choices: &[u32]) -> Option<Threads> {
    let threads: Threads = serde_json::from_slice(&fs_err::read(path).ok()?).ok()?;
    [threads.answer, threads.prompt].iter().all(|it| choices.contains(it)).then_some(threads)
}

#[expect(clippy::disallowed_methods, reason = "a cache: what is lost with the power is measured again")]
fn write(path: &Path, threads: Threads) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let new = path.with_extension(format!("{}.tmp", std::process::id()));
    fs_err::write(&new, serde_json::to_vec(&threads)?)?;
    fs_err::rename(&new, path)
}

fn measure(context: &mut Context<'_>, choices: &[u32]) -> Result<Threads, LlamaError> {
    let entry = |position: u32, wants_logits| Entry { token: 0, position, sequence: 0, wants_logits };
    let prompt: Vec<Entry> = (0..PROMPT).map(|position| entry(position, position + 1 == PROMPT)).collect();
    let (mut answers, mut prompts) = (Vec::new(), Vec::new());
    for &threads in choices {
        context.set_threads(threads, threads);
        let mut best = Duration::MAX;
        for _ in 0..PROMPTS {
            context.truncate(0, 0);
            best = best.min(timed(|| context.compute(&prompt))?);
        }
        prompts.push((threads, best));
        let mut best = Duration::MAX;
        for number in 0..SINGLES {
            let took = timed(|| context.compute(&[entry(PROMPT + number, true)]))?;
            if number > 0 {
                best = best.min(took);
            }
        }
        answers.push((threads, best));
    }
    context.truncate(0, 0);
    Ok(Threads { answer: fastest(&answers), prompt: fastest(&prompts) })
}

fn timed(work: impl FnOnce() -> Result<(), LlamaError>) -> Result<Duration, LlamaError> {
    let began = Instant::now();
    work().map(|()| began.elapsed())
}

/// The number of threads with the least time; the first one unless another is clearly faster. 0 when there are none.
fn fastest(times: &[(u32, Duration)]) -> u32 {
    let Some(&(first, first_time)) = times.first() else { return 0 };
    let best = times.iter().min_by_key(|(_, time)| *time).filter(|(_, time)| time.mul_f64(CLEARLY) < first_time);
    best.map_or(first, |(threads, _)| *threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wins_unless_another_is_clearly_faster() {
        let of = |times: &[(u32, u64)]| {
            fastest(&times.iter().map(|&(threads, time)| (threads, Duration::from_micros(time))).collect::<Vec<_>>())
        };
        assert_eq!(of(&[(4, 1000), (8, 990)]), 4);
        assert_eq!(of(&[(4, 1000), (8, 900)]), 8);
        assert_eq!(of(&[(4, 1000), (8, 940), (2, 800)]), 2);
        assert_eq!(of(&[]), 0);
    }

    #[test]
    fn a_file_of_other_numbers_does_not_count() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("threads/a.json");
        assert_eq!(read(&path, &[1, 2]), None);
        let threads = Threads { answer: 1, prompt: 2 };
        write(&path, threads).expect("writes");
        assert_eq!(read(&path, &[1, 2]), Some(threads));
        assert_eq!(read(&path, &[2, 4]), None);
        fs_err::write(&path, "{").expect("writes");
        assert_eq!(read(&path, &[1, 2]), None);
    }
}
