//! Which compute module runs on this processor: found by trial, not by what the processor announces.
//!
//! Virtual machines announce instructions that fault. So each candidate loads and runs a tiny model in a
//! process of its own; one that dies, hangs or computes nonsense is dropped, with its reason. Of the
//! first three that pass, the fastest is taken. The result is kept for this processor, kernel and build.

use crate::{
    Config,
    modules::{Module, Modules},
    worker::{Question, Scratch, Unanswered},
};
use cortex_api::worker::TrialResult;
use cortex_hardware::Cpu;
use serde::{Deserialize, Serialize};
use std::{
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
    pub(crate) fn new(config: &Config, modules: Arc<Modules>) -> Self {
        Self { variants: Mutex::new(Variants::new(config, modules)), report: watch::Sender::default() }
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

    /// Runs a module for the processor that is not in use yet; the reason when it does not work here.
    pub(crate) async fn try_module(&self, module: &Path) -> Result<(), String> {
        let variants = self.variants.lock().await;
        let scratch = Scratch::new(&variants.folder, "trial");
        let tried = variants.try_one(module, variants.limits[1], scratch.path()).await;
        tried.map(|_| ()).map_err(|unanswered| unanswered.reason)
    }
}

/// The modules for the processor.
struct Variants {
    program: PathBuf,
    modules: Arc<Modules>,
    cache: PathBuf,
    folder: PathBuf,
    trial: bool,
    limits: [Duration; 2],
    report: VariantReport,
}

impl Variants {
    fn new(config: &Config, modules: Arc<Modules>) -> Self {
        Self {
            program: config.worker_program.clone(),
            modules,
            cache: config.cache_folder.join("variants.json"),
            folder: config.cache_folder.clone(),
            trial: config.variant_trial,
            limits: LIMITS,
            report: VariantReport::default(),
        }
    }

    /// The module to use; runs the trial when it was not run for this machine and build. `died` says
    /// why the one in use until now must not be used again.
    async fn choose(&mut self, died: Option<&str>) -> Option<PathBuf> {
        if let Some(reason) = died {
            self.drop_chosen(reason);
        }
        let there = self.candidates();
        let path = |name: &str| there.iter().find(|module| module.name == name).map(|module| module.path.clone());
        let pinned = self.modules.pinned().filter(|name| path(name).is_some());
        if !self.trial {
            let chosen = pinned.or_else(|| there.first().map(|module| module.name.clone()));
            self.report = VariantReport { chosen: chosen.clone(), ..VariantReport::default() };
            return path(&chosen?);
        }
        let identity = self.identity(&there);
        if self.report.identity != identity {
            self.report = self.remembered(&identity).unwrap_or_default();
        }
        if self.report.identity != identity {
            self.report = VariantReport { identity, ..VariantReport::default() };
            let slow = self.run_trials(&there).await;
            // A machine that was too busy for a trial says nothing about its processor: next time, again.
            if self.report.chosen.is_none() {
                self.report.identity.clear();
            } else if !slow {
                self.remember();
            }
        }
        if let Some(module) = there.iter().find(|module| Some(&module.name) == pinned.as_ref()) {
            self.try_pinned(module).await;
        } else if !self.report.identity.is_empty() {
            self.report.chosen = fastest(&self.report.passed);
        }
        self.report.chosen.as_deref().and_then(path)
    }

    /// Takes the module that somebody chose, if it works here.
    async fn try_pinned(&mut self, module: &Module) {
        let name = module.name.as_str();
        let is_known = |report: &VariantReport| report.passed.iter().any(|passed| passed.name == name);
        if self.report.dropped.iter().any(|dropped| dropped.name == name) {
            return;
        }
        if !is_known(&self.report) {
            let scratch = Scratch::new(&self.folder, "trial");
            match self.try_one(&module.path, self.limits[1], scratch.path()).await {
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

    fn candidates(&self) -> Vec<Module> {
        in_order(self.modules.of_processor())
    }

    /// What a result holds for: this processor, kernel and worker, and these modules.
    fn identity(&self, modules: &[Module]) -> String {
        let facts = |path: &Path| {
            let metadata = fs_err::metadata(path).ok();
            metadata
                .and_then(|metadata| Some((metadata.len(), metadata.modified().ok()?)))
                .map_or_else(String::new, |(length, modified)| format!("{length} {modified:?}"))
        };
        let modules = modules.iter().map(|module| {
            // Those of the build change with the worker.
            if module.is_of_build { module.name.clone() } else { format!("{} {}", module.name, facts(&module.path)) }
        });
        let modules: Vec<String> = modules.collect();
        format!("{} | {} | {}", Cpu::probe().identity(), facts(&self.program), modules.join(" "))
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
    async fn run_trials(&mut self, modules: &[Module]) -> bool {
        let [limit, patient] = self.limits;
        let slow = self.run_round(modules, limit, TIMED).await;
        if self.report.passed.is_empty() && !slow.is_empty() {
            // They may all work. Which is the fastest cannot be found out now: the first that works is taken.
            self.report.dropped.retain(|dropped| !slow.iter().any(|module| module.name == dropped.name));
            self.run_round(&slow, patient, 1).await;
        }
        self.report.chosen = fastest(&self.report.passed);
        tracing::info!(chosen = ?self.report.chosen, passed = self.report.passed.len(), "compute modules were tried");
        !slow.is_empty()
    }

    /// Tries modules in order until `enough` have passed; those that were only too slow are the answer.
    async fn run_round(&mut self, modules: &[Module], limit: Duration, enough: usize) -> Vec<Module> {
        let mut slow = vec![];
        let scratch = Scratch::new(&self.folder, "trial");
        for module in modules {
            let name = &module.name;
            match self.try_one(&module.path, limit, scratch.path()).await {
                Ok(times) => self.report.passed.push(Passed { name: name.clone(), times }),
                Err(Unanswered { reason, is_late }) => {
                    if is_late {
                        slow.push(module.clone());
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

    async fn try_one(&self, module: &Path, limit: Duration, scratch: &Path) -> Result<TrialResult, Unanswered> {
        let question = Question {
            program: &self.program,
            arguments: vec!["trial".into(), scratch.into(), module.into()],
            environment: vec![],
            limit,
        };
        question.ask().await
    }
}

/// Unknown modules first, then llama.cpp's order.
pub(crate) fn in_order(mut modules: Vec<Module>) -> Vec<Module> {
    let place = |name: &str| ORDER.iter().position(|known| *known == name).map_or(0, |at| at + 1);
    modules.sort_by_key(|module| (place(&module.name), module.name.clone()));
    modules
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
        let module =
            |name: &str| Module { name: name.into(), is_graphics: false, is_of_build: true, path: PathBuf::new() };
        let ordered = in_order(["x64", "haswell", "novel", "zen4"].map(module).to_vec());
        let names: Vec<&str> = ordered.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["novel", "zen4", "haswell", "x64"]);
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
            fs_err::write(folder.path().join(format!("backends/libggml-cpu-{name}.so")), "").unwrap();
        }
        let mut variants = Variants {
            modules: Arc::new(Modules::of(&folder.path().join("backends"), &folder.path().join("state/variant"))),
            program,
            cache: folder.path().join("variants.json"),
            folder: folder.path().to_owned(),
            trial: true,
            limits: [Duration::from_millis(100), Duration::from_mins(10)],
            report: VariantReport::default(),
        };
        let chosen = variants.choose(None).await.expect("one that works");
        assert!(chosen.ends_with("backends/libggml-cpu-haswell.so"));
        assert_eq!(variants.report.dropped, []);
        assert!(!variants.cache.exists(), "times of a busy machine are not kept");
    }
}
