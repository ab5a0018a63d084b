//! Graphics processors that models may use: what the compute modules for them find, whether each computes what it
//! should, and which of them a person has switched off.
//!
//! A driver may hang or crash whoever asks it, so a process of its own asks, and another one proves each device with a
//! tiny model. What was switched off is kept by where a device is on the bus, so that it holds when another is put in.

use crate::{
    Config,
    modules::{self, Modules},
    worker::{Question, Scratch, Unanswered},
};
use cortex_api::worker::{Device, TrialResult};
use cortex_hardware::{Cpu, Graphics};
use cortex_models::write_atomically;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Time for listing the devices: a driver that is used the first time may compile something.
const LIST_LIMIT: Duration = Duration::from_secs(20);
/// Time for the proof of one device: its driver compiles what it needs for it.
const PROOF_LIMIT: Duration = Duration::from_mins(2);

/// What was found out about graphics processors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcceleratorReport {
    /// They were not asked yet.
    pub is_pending: bool,
    /// The compute modules for graphics processors that are installed: `vulkan`.
    pub modules: Vec<String>,
    /// What they can compute on.
    pub devices: Vec<Accelerator>,
    /// Sentences about what went wrong.
    pub problems: Vec<String>,
    /// Those that a person has switched off, also such as are not there now.
    off: BTreeSet<String>,
}

/// A graphics processor that a compute module can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    /// The compute module for it.
    pub module: PathBuf,
    /// What the module tells of it.
    pub device: Device,
    /// What it is known by: where it is on the bus, or its name and number when the driver does not say.
    pub key: String,
    /// Why it cannot be used, when it was proven that it computes nonsense or nothing.
    pub fault: Option<String>,
}

impl AcceleratorReport {
    /// Whether a person lets models use the one with this key.
    pub fn is_on(&self, key: &str) -> bool {
        !self.off.contains(key)
    }

    /// Those that models use: with memory of their own if there are such, as those without are slower.
    pub fn used(&self) -> Vec<&Accelerator> {
        let usable = |is_integrated: bool| {
            self.devices
                .iter()
                .filter(move |it| it.device.is_integrated == is_integrated && it.fault.is_none() && self.is_on(&it.key))
        };
        let own: Vec<&Accelerator> = usable(false).collect();
        if own.is_empty() { usable(true).collect() } else { own }
    }

    /// The engine's names for those that models use.
    pub(crate) fn names(&self) -> Vec<String> {
        self.used().iter().map(|it| it.device.name.clone()).collect()
    }

    /// What models may have there, all of them together.
    pub(crate) fn graphics(&self) -> Graphics {
        let used = self.used();
        match used.first() {
            None => Graphics::None,
            Some(first) if first.device.is_integrated => Graphics::Shared,
            Some(_) => Graphics::Own(used.iter().map(|it| for_models(&it.device)).fold(0, u64::saturating_add)),
        }
    }

    /// Why models do not use a graphics processor; `None` when they do.
    pub fn why_not(&self) -> Option<String> {
        if !self.used().is_empty() {
            return None;
        }
        let faults: Vec<String> = self
            .devices
            .iter()
            .filter_map(|it| it.fault.as_ref().map(|fault| format!("{}: {fault}", it.device.description)))
            .collect();
        Some(if self.is_pending {
            "the drivers of graphics processors have not answered yet".into()
        } else if self.modules.is_empty() {
            "no compute module for graphics processors is installed".into()
        } else if self.devices.is_empty() {
            format!("the compute module for {} found no graphics processor", self.modules.join(" and "))
        } else if !faults.is_empty() {
            faults.join("; ")
        } else {
            "all graphics processors are switched off (`cortex hardware activate`)".into()
        })
    }
}

/// Bytes of a device that models may have: what was free, but for what its driver and a screen may need.
fn for_models(device: &Device) -> u64 {
    let kept = (device.total / 20).clamp(128 << 20, 1 << 30);
    device.free.saturating_sub(kept)
}

/// The owner of what is known of graphics processors.
pub(crate) struct Accelerators {
    program: PathBuf,
    modules: Arc<Modules>,
    /// What is wrong with the file of the choice.
    choice_problem: Option<String>,
    /// One look at a time.
    looking: tokio::sync::Mutex<()>,
    environment: Vec<(String, String)>,
    cache: PathBuf,
    folder: PathBuf,
    /// The file with what was switched off.
    choice: PathBuf,
    proves: bool,
    /// One change of the choice at a time.
    changing: Mutex<()>,
    report: watch::Sender<Arc<AcceleratorReport>>,
}

/// The file with what was switched off.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Choice {
    /// Keys of devices.
    off: BTreeSet<String>,
}

/// What was proven on this machine with this build: the fault of each device, or none.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Proofs {
    identity: String,
    devices: BTreeMap<String, Option<String>>,
}

impl Accelerators {
    pub(crate) fn new(config: &Config, modules: Arc<Modules>) -> Self {
        let (off, choice_problem) = read_choice(&config.graphics_choice);
        let names: Vec<String> = modules.of_graphics().into_iter().map(|module| module.name).collect();
        let report = AcceleratorReport {
            is_pending: !names.is_empty(),
            modules: names,
            off,
            problems: choice_problem.iter().cloned().collect(),
            ..AcceleratorReport::default()
        };
        Self {
            program: config.worker_program.clone(),
            modules,
            choice_problem,
            looking: tokio::sync::Mutex::default(),
            environment: config.driver_environment.clone(),
            cache: config.cache_folder.join("accelerators.json"),
            folder: config.cache_folder.clone(),
            choice: config.graphics_choice.clone(),
            proves: config.variant_trial,
            changing: Mutex::default(),
            report: watch::Sender::new(Arc::new(report)),
        }
    }

    pub(crate) fn report(&self) -> Arc<AcceleratorReport> {
        self.report.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<AcceleratorReport>> {
        self.report.subscribe()
    }

    /// Whether there is anybody to ask.
    pub(crate) fn has_modules(&self) -> bool {
        !self.modules.of_graphics().is_empty()
    }

    /// Other modules may be there: what is known of them is not, until they were asked. Models that load meanwhile wait.
    pub(crate) fn expect_others(&self) {
        let modules = self.modules.of_graphics();
        self.report.send_modify(|known| {
            let mut devices = known.devices.clone();
            // What is gone computes nothing.
            devices.retain(|device| modules.iter().any(|module| module.path == device.module));
            *known = Arc::new(AcceleratorReport {
                is_pending: !modules.is_empty(),
                modules: modules.into_iter().map(|module| module.name).collect(),
                devices,
                ..AcceleratorReport::clone(known)
            });
        });
    }

    /// Asks a module that is not in use yet what it finds, and proves each device of it; the reason when it does not answer, or one
    /// computes nonsense.
    pub(crate) async fn try_module(&self, module: &Path, processor: Option<&Path>) -> Result<(), String> {
        let devices: Vec<Device> = self.ask(&[Path::new("devices"), module], LIST_LIMIT).await?;
        let Some(processor) = processor.filter(|_| self.proves) else { return Ok(()) };
        for device in devices {
            let scratch = Scratch::new(&self.folder, "proof");
            let arguments = [Path::new("trial"), scratch.path(), processor, module, Path::new(&device.name)];
            let proof: Result<TrialResult, String> = self.ask(&arguments, PROOF_LIMIT).await;
            proof.map_err(|why| format!("{}: {why}", device.description))?;
        }
        Ok(())
    }

    /// Asks the drivers, and proves what was not proven before. `processor` is the module for the processor, which each
    /// model needs too.
    pub(crate) async fn look(&self, processor: Option<&Path>) {
        let _turn = self.looking.lock().await;
        let (devices, problems) = loop {
            let modules = self.paths();
            let mut problems: Vec<String> = self.choice_problem.iter().cloned().collect();
            let mut devices = self.list(&modules, &mut problems).await;
            match processor {
                Some(processor) if self.proves => self.prove(&modules, &mut devices, processor).await,
                _ => {}
            }
            // What was found of modules that are gone meanwhile is no use.
            if self.paths() == modules {
                break (devices, problems);
            }
        };
        for it in &devices {
            if let Some(fault) = &it.fault {
                tracing::warn!(device = %it.device.description, %fault, "the graphics processor is not used");
            }
        }
        self.report.send_modify(|known| {
            *known =
                Arc::new(AcceleratorReport { is_pending: false, devices, problems, ..AcceleratorReport::clone(known) });
        });
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.modules.of_graphics().into_iter().map(|module| module.path).collect()
    }

    /// Nobody will answer: models do without.
    pub(crate) fn give_up(&self) {
        self.report.send_modify(|known| {
            let mut given_up = AcceleratorReport { is_pending: false, ..AcceleratorReport::clone(known) };
            given_up.problems.push("the search for graphics processors failed; the log says more".into());
            *known = Arc::new(given_up);
        });
    }

    async fn list(&self, modules: &[PathBuf], problems: &mut Vec<String>) -> Vec<Accelerator> {
        let mut found: Vec<Accelerator> = Vec::new();
        for module in modules {
            let name = modules::name_of(module).unwrap_or_default().0;
            let listed: Vec<Device> = match self.ask(&[Path::new("devices"), module], LIST_LIMIT).await {
                Ok(listed) => listed,
                Err(why) => {
                    problems.push(format!("the compute module for {name} cannot be used: {why}"));
                    continue;
                }
            };
            for device in listed {
                let key = key(&device, &found);
                // Two modules may be able to use the same one: the first is the one made for it.
                if !found.iter().any(|it| it.key == key) {
                    found.push(Accelerator { module: module.clone(), device, key, fault: None });
                }
            }
        }
        found
    }

    async fn prove(&self, modules: &[PathBuf], devices: &mut [Accelerator], processor: &Path) {
        let identity = self.identity(modules);
        let known: Proofs =
            fs_err::read(&self.cache).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut proofs = if known.identity == identity { known } else { Proofs { identity, ..Proofs::default() } };
        let mut is_new = false;
        for it in devices {
            let what = format!("{} | {} | {}", it.key, it.device.description, it.device.total);
            if let Some(fault) = proofs.devices.get(&what) {
                it.fault.clone_from(fault);
                continue;
            }
            let scratch = Scratch::new(&self.folder, "proof");
            let arguments = [Path::new("trial"), scratch.path(), processor, &it.module, Path::new(&it.device.name)];
            let passed: Result<TrialResult, String> = self.ask(&arguments, PROOF_LIMIT).await;
            it.fault = passed.err().map(|why| format!("a trial failed: {why}"));
            proofs.devices.insert(what, it.fault.clone());
            is_new = true;
        }
        if is_new && let Ok(text) = serde_json::to_vec_pretty(&proofs) {
            // The cache saves time at the next start. Without it everything works the same.
            if let Err(error) = write_atomically(&self.cache, &text) {
                tracing::warn!(%error, "what was proven of graphics processors could not be kept");
            }
        }
    }

    /// What a proof holds for: this build, its modules, this kernel with its drivers.
    fn identity(&self, modules: &[PathBuf]) -> String {
        let files = modules.iter().chain([&self.program]).map(|path| {
            let facts = fs_err::metadata(path).ok().and_then(|it| Some((it.len(), it.modified().ok()?)));
            facts.map_or_else(String::new, |(length, modified)| format!("{length} {modified:?}"))
        });
        format!("{} | {} | {:?}", Cpu::probe().identity(), files.collect::<Vec<_>>().join(" | "), self.environment)
    }

    async fn ask<Answer: DeserializeOwned>(&self, arguments: &[&Path], limit: Duration) -> Result<Answer, String> {
        let arguments = arguments.iter().map(|argument| argument.as_os_str().to_owned()).collect();
        let question = Question { program: &self.program, arguments, environment: self.environment.clone(), limit };
        question.ask().await.map_err(|Unanswered { reason, .. }| reason)
    }

    /// Lets models use only those of `all` whose key is in `on`; others that are known stay as they are. False when that
    /// is how it was.
    pub(crate) fn switch(&self, all: &[String], on: &[String]) -> std::io::Result<bool> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.report();
        let mut off = before.off.clone();
        for key in all {
            if on.contains(key) {
                off.remove(key)
            } else {
                off.insert(key.clone())
            };
        }
        if off == before.off {
            return Ok(false);
        }
        let text = serde_json::to_vec_pretty(&Choice { off: off.clone() }).map_err(std::io::Error::other)?;
        if let Some(folder) = self.choice.parent() {
            fs_err::create_dir_all(folder)?;
        }
        write_atomically(&self.choice, &text)?;
        self.report
            .send_modify(|known| *known = Arc::new(AcceleratorReport { off, ..AcceleratorReport::clone(known) }));
        Ok(true)
    }
}

fn key(device: &Device, before: &[Accelerator]) -> String {
    if !device.bus.is_empty() {
        return device.bus.to_ascii_lowercase();
    }
    let same = before.iter().filter(|it| it.device.bus.is_empty() && it.device.description == device.description);
    format!("{} {}", device.description, same.count())
}

/// What was switched off; and a sentence when that cannot be read.
fn read_choice(path: &Path) -> (BTreeSet<String>, Option<String>) {
    let text = match fs_err::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (BTreeSet::new(), None),
        Err(error) => return (BTreeSet::new(), Some(format!("all are on: {error}"))),
    };
    match serde_json::from_slice::<Choice>(&text) {
        Ok(choice) => (choice.off, None),
        Err(error) => (BTreeSet::new(), Some(format!("all are on: {} cannot be understood: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, bus: &str, is_integrated: bool, free: u64) -> Accelerator {
        let device = Device {
            name: name.into(),
            description: name.into(),
            bus: bus.into(),
            is_integrated,
            total: 8 << 30,
            free,
        };
        let key = key(&device, &[]);
        Accelerator { module: PathBuf::new(), device, key, fault: None }
    }

    fn report(devices: Vec<Accelerator>, off: &[&str]) -> AcceleratorReport {
        AcceleratorReport {
            modules: vec!["vulkan".into()],
            devices,
            off: off.iter().map(|&key| key.to_owned()).collect(),
            ..AcceleratorReport::default()
        }
    }

    #[test]
    fn those_with_memory_of_their_own_win() {
        let gib = 1 << 30;
        let both =
            report(vec![device("iGPU", "0000:00:02.0", true, gib), device("GPU", "0000:01:00.0", false, 6 * gib)], &[]);
        assert_eq!(both.used().iter().map(|it| it.device.name.as_str()).collect::<Vec<_>>(), ["GPU"]);
        assert_eq!(both.graphics(), Graphics::Own(6 * gib - 8 * gib / 20));
        assert_eq!(both.why_not(), None);
        let without = AcceleratorReport { off: ["0000:01:00.0".to_owned()].into(), ..both.clone() };
        assert_eq!((without.used()[0].device.name.as_str(), without.graphics()), ("iGPU", Graphics::Shared));
        let none = report(both.devices, &["0000:00:02.0", "0000:01:00.0"]);
        assert_eq!((none.used().len(), none.graphics()), (0, Graphics::None));
        assert!(none.why_not().unwrap().contains("switched off"));
    }

    #[test]
    fn why_no_graphics_processor_is_used_is_said() {
        let broken =
            Accelerator { fault: Some("a trial failed: NaN".into()), ..device("GPU", "0000:01:00.0", false, 1) };
        for (report, words) in [
            (AcceleratorReport::default(), "no compute module"),
            (AcceleratorReport { is_pending: true, ..AcceleratorReport::default() }, "not answered"),
            (report(vec![], &[]), "found no graphics processor"),
            (report(vec![broken], &[]), "GPU: a trial failed"),
        ] {
            assert!(report.why_not().unwrap().contains(words), "{:?}", report.why_not());
        }
    }

    #[test]
    fn devices_without_a_place_on_the_bus_are_counted() {
        let first = device("llvmpipe", "", false, 1);
        assert_eq!(first.key, "llvmpipe 0");
        assert_eq!(key(&first.device.clone(), &[first]), "llvmpipe 1");
    }
}
