//! Which compute module runs on this processor: found by trial, not by what the processor announces.
//!
//! Virtual machines announce instructions that fault. So each candidate loads and runs a tiny model in a
//! process of its own; one that dies, hangs or computes nonsense is dropped, with its reason. Of the
//! first three that pass, the fastest is taken. The result is kept for this processor, kernel and build.

use crate::{
    Config,
    worker::{Question, Scratch, Unanswered},
};
use cortex_api::worker::TrialResult;
use cortex_hardware::Cpu;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Mutex, watch};

/// Time for one trial, which takes 40 ms on a machine at rest: in the first round, and in the second, which
/// is only for a machine so busy that no module passed the first.
const LIMITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(1)];
/// Candidates that are timed.
const TIMED: usize = 3;
/// A candidate that comes later must be this much faster to be taken: the order is llama.cpp's own.
const CLEARLY_FASTER: f64 = 0.97;
const PREFIX: &str = "libggml-cpu-";

/// llama.cpp's order: the most demanding first. A module that is not named here is newer than this
/// list and is tried before all others.
const ORDER: &[&str] = &[
    "sapphirerapids",
    "zen4",
    "cooperlake",
    "icelake",
    "cascadelake",
    "cannonlake",
    "skylakex",
    "alderlake",
    "haswell",
    "piledriver",
    "ivybridge",
    "sandybridge",
    "sse42",
    "x64",
];

/// What was found out about the compute modules.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VariantReport {
    /// Processor, kernel and build for which this holds; empty before the first trial.
    pub identity: String,
    /// The module in use; `None` when none works, or none was needed yet.
    pub chosen: Option<String>,
    /// Modules that passed, with their times.
    pub passed: Vec<Passed>,
    /// Modules that were tried and dropped.
    pub dropped: Vec<Dropped>,
}

/// A module that passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Its name, such as `haswell`.
    pub name: String,
    /// Its times on a tiny model.
    pub times: TrialResult,
}

/// A module that does not work here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// What happened.
    pub reason: String,
}

/// The owner of the choice: loads and measurements ask it, and one of them at a time has it tried.
pub(crate) struct ModuleChoice {
    variants: Mutex<Variants>,
    report: watch::Sender<Arc<VariantReport>>,
}

impl ModuleChoice {
    pub(crate) fn new(config: &Config) -> Self {
        Self { variants: Mutex::new(Variants::new(config)), report: watch::Sender::default() }
    }

    /// What is known, now and later.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<VariantReport>> {
        self.report.subscribe()
    }

    /// See [`Variants::choose`]; what was found out is published.
    pub(crate) async fn choose(&self, died: Option<&str>) -> Option<PathBuf> {
        let mut variants = self.variants.lock().await;
        let chosen = variants.choose(died).await;
        self.report.send_replace(Arc::new(variants.report.clone()));
        chosen
    }

    /// The modules that are there, the most demanding first.
    pub(crate) async fn installed(&self) -> Vec<String> {
        self.variants.lock().await.candidates()
    }

    /// Takes this module from now on where it works, or the best one again; the choice is kept. Writes a file.
    pub(crate) async fn pin(&self, name: Option<&str>) -> io::Result<()> {
        let mut variants = self.variants.lock().await;
        variants.keep_pin(name)?;
        variants.pinned = name.map(str::to_owned);
        Ok(())
    }
}

/// The modules beside a worker.
struct Variants {
    program: PathBuf,
    modules: PathBuf,
    cache: PathBuf,
    folder: PathBuf,
    trial: bool,
    limits: [Duration; 2],
    report: VariantReport,
    /// The module that somebody chose, and where that is kept.
    pinned: Option<String>,
    pin_file: PathBuf,
}

impl Variants {
    fn new(config: &Config) -> Self {
        let folder = config.worker_program.parent().unwrap_or(Path::new(".")).to_owned();
        Self {
            program: config.worker_program.clone(),
            modules: folder.join("backends"),
            cache: config.cache_folder.join("variants.json"),
            folder: config.cache_folder.clone(),
            trial: config.variant_trial,
            limits: LIMITS,
            report: VariantReport::default(),
            pinned: fs_err::read_to_string(&config.variant_choice).ok().map(|name| name.trim().to_owned()),
            pin_file: config.variant_choice.clone(),
        }
    }

    /// The module to use; runs the trial when it was not run for this machine and build. `died` says
    /// why the one in use until now must not be used again.
    async fn choose(&mut self, died: Option<&str>) -> Option<PathBuf> {
        if let Some(reason) = died {
            self.drop_chosen(reason);
        }
        let names = self.candidates();
        if !self.trial {
            let first = self.pinned.iter().find(|name| names.contains(name)).or(names.first()).cloned();
            self.report = VariantReport { chosen: first.clone(), ..VariantReport::default() };
            return first.map(|name| self.path(&name));
        }
        let identity = self.identity(&names);
        if self.report.identity != identity {
            self.report = self.remembered(&identity).unwrap_or_default();
        }
        if self.report.identity != identity {
            self.report = VariantReport { identity, ..VariantReport::default() };
            let slow = self.run_trials(&names).await;
            // A machine that was too busy for a trial says nothing about its processor: next time, again.
            if self.report.chosen.is_none() {
                self.report.identity.clear();
            } else if !slow {
                self.remember();
            }
        }
        if let Some(name) = self.pinned.clone().filter(|name| names.contains(name)) {
            self.try_pinned(&name).await;
        } else if !self.report.identity.is_empty() {
            self.report.chosen = fastest(&self.report.passed);
        }
        self.report.chosen.clone().map(|name| self.path(&name))
    }

    /// Takes the module that somebody chose, if it works here.
    async fn try_pinned(&mut self, name: &str) {
        let is_known = |report: &VariantReport| report.passed.iter().any(|passed| passed.name == name);
        if self.report.dropped.iter().any(|dropped| dropped.name == name) {
            return;
        }
        if !is_known(&self.report) {
            let scratch = Scratch::new(&self.folder, "trial");
            match self.try_one(name, self.limits[1], scratch.path()).await {
                Ok(times) => self.report.passed.push(Passed { name: name.to_owned(), times }),
                Err(Unanswered { reason, .. }) => {
                    tracing::warn!(variant = %name, %reason, "the chosen compute module does not work here");
                    self.report.dropped.push(Dropped { name: name.to_owned(), reason });
                    return;
                }
            }
        }
        self.report.chosen = Some(name.to_owned());
    }

    fn keep_pin(&self, name: Option<&str>) -> io::Result<()> {
        let Some(name) = name else {
            return match fs_err::remove_file(&self.pin_file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let folder = self.pin_file.parent().unwrap_or(Path::new("."));
        fs_err::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, name.as_bytes())?;
        file.persist(&self.pin_file)?;
        Ok(())
    }

    /// A worker died of an instruction that its module should not have used: the next best is taken.
    fn drop_chosen(&mut self, reason: &str) {
        let Some(name) = self.report.chosen.take() else { return };
        tracing::warn!(variant = %name, reason, "the compute module is dropped");
        self.report.passed.retain(|passed| passed.name != name);
        self.report.dropped.push(Dropped { name, reason: reason.to_owned() });
        self.report.chosen = fastest(&self.report.passed);
        if self.report.chosen.is_none() {
            // None that was timed is left: the next request tries those behind them.
            self.report.identity.clear();
        }
        self.remember();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.modules.join(format!("{PREFIX}{name}.so"))
    }

    fn candidates(&self) -> Vec<String> {
        let Ok(entries) = fs_err::read_dir(&self.modules) else { return vec![] };
        let names = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some(name.strip_prefix(PREFIX)?.strip_suffix(".so")?.to_owned())
            })
            .collect();
        in_order(names)
    }

    fn identity(&self, names: &[String]) -> String {
        let build = fs_err::metadata(&self.program)
            .ok()
            .and_then(|metadata| Some((metadata.len(), metadata.modified().ok()?)))
            .map_or_else(String::new, |(length, modified)| format!("{length} {modified:?}"));
        format!("{} | {build} | {}", Cpu::probe().identity(), names.join(" "))
    }

    fn remembered(&self, identity: &str) -> Option<VariantReport> {
        let report: VariantReport = serde_json::from_slice(&fs_err::read(&self.cache).ok()?).ok()?;
        (report.identity == identity).then_some(report)
    }

    fn remember(&self) {
        let Some(folder) = self.cache.parent() else { return };
        // The cache saves a second at the next start. Without it everything works the same.
        let _ = fs_err::create_dir_all(folder);
        let Ok(text) = serde_json::to_vec_pretty(&self.report) else { return };
        let written = tempfile::NamedTempFile::new_in(folder)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &text).map(|()| file))
            .and_then(|file| file.persist(&self.cache).map_err(Into::into));
        if let Err(error) = written {
            tracing::warn!(%error, "the result of the trial could not be kept");
        }
    }

    /// Tries the modules in order; true when one gave no result in time.
    async fn run_trials(&mut self, names: &[String]) -> bool {
        let [limit, patient] = self.limits;
        let slow = self.run_round(names, limit, TIMED).await;
        if self.report.passed.is_empty() && !slow.is_empty() {
            // They may all work. Which is the fastest cannot be found out now: the first that works is taken.
            self.report.dropped.retain(|dropped| !slow.contains(&dropped.name));
            self.run_round(&slow, patient, 1).await;
        }
        self.report.chosen = fastest(&self.report.passed);
        tracing::info!(chosen = ?self.report.chosen, passed = self.report.passed.len(), "compute modules were tried");
        !slow.is_empty()
    }

    /// Tries modules in order until `enough` have passed; those that were only too slow are the answer.
    async fn run_round(&mut self, names: &[String], limit: Duration, enough: usize) -> Vec<String> {
        let mut slow = vec![];
        let scratch = Scratch::new(&self.folder, "trial");
        for name in names {
            match self.try_one(name, limit, scratch.path()).await {
                Ok(times) => self.report.passed.push(Passed { name: name.clone(), times }),
                Err(Unanswered { reason, is_late }) => {
                    if is_late {
                        slow.push(name.clone());
                    }
                    tracing::info!(variant = %name, %reason, "the compute module is dropped");
                    self.report.dropped.push(Dropped { name: name.clone(), reason });
                }
            }
            if self.report.passed.len() == enough {
                break;
            }
        }
        slow
    }

    async fn try_one(&self, name: &str, limit: Duration, scratch: &Path) -> Result<TrialResult, Unanswered> {
        let question = Question {
            program: &self.program,
            arguments: vec!["trial".into(), scratch.into(), self.path(name).into()],
            environment: vec![],
            limit,
        };
        question.ask().await
    }
}

/// Unknown modules first, then llama.cpp's order.
fn in_order(mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|name| (ORDER.iter().position(|known| known == name).map_or(0, |at| at + 1), name.clone()));
    names
}

/// The best of those that passed, in their order. Prompts and single tokens count the same.
fn fastest(passed: &[Passed]) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "times of a second at most, in microseconds")]
    let cost = |times: &TrialResult| times.batch_microseconds as f64 * times.single_microseconds as f64;
    let mut best: Option<&Passed> = None;
    for candidate in passed {
        if best.is_none_or(|best| cost(&candidate.times) < cost(&best.times) * CLEARLY_FASTER * CLEARLY_FASTER) {
            best = Some(candidate);
        }
    }
    best.map(|best| best.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(name: &str, batch: u64, single: u64) -> Passed {
        Passed { name: name.into(), times: TrialResult { batch_microseconds: batch, single_microseconds: single } }
    }

    #[test]
    fn unknown_modules_come_first_then_the_most_demanding() {
        let names = ["x64", "haswell", "novel", "zen4"].map(str::to_owned).to_vec();
        assert_eq!(in_order(names), ["novel", "zen4", "haswell", "x64"]);
    }

    #[test]
    fn a_later_module_must_be_clearly_faster() {
        assert_eq!(fastest(&[]), None);
        assert_eq!(fastest(&[passed("a", 100, 100), passed("b", 99, 99)]).as_deref(), Some("a"));
        assert_eq!(fastest(&[passed("a", 100, 100), passed("b", 80, 100)]).as_deref(), Some("b"));
    }

    /// A worker whose trials take a second: none ends within the first limit, and every one within the second.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_machine_that_is_too_busy_gets_a_second_round() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        let answer = serde_json::to_string(&passed("", 1, 1).times).unwrap();
        fs_err::write(&program, format!("#!/bin/sh\nsleep 1\necho '{answer}'\n")).unwrap();
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        // A process that another test starts may hold the file as it was written, for a moment.
        let busy = |error: std::io::Error| error.kind() == std::io::ErrorKind::ExecutableFileBusy;
        while std::process::Command::new(&program).output().is_err_and(busy) {}
        fs_err::create_dir(folder.path().join("backends")).unwrap();
        for name in ["haswell", "x64"] {
            fs_err::write(folder.path().join(format!("backends/{PREFIX}{name}.so")), "").unwrap();
        }
        let mut variants = Variants {
            program,
            modules: folder.path().join("backends"),
            cache: folder.path().join("variants.json"),
            folder: folder.path().to_owned(),
            trial: true,
            limits: [Duration::from_millis(100), Duration::from_mins(10)],
            report: VariantReport::default(),
            pinned: None,
            pin_file: folder.path().join("state/variant"),
        };
        let chosen = variants.choose(None).await.expect("one that works");
        assert!(chosen.ends_with("backends/libggml-cpu-haswell.so"));
        assert_eq!(variants.report.dropped, []);
        assert!(!variants.cache.exists(), "times of a busy machine are not kept");
    }
}
