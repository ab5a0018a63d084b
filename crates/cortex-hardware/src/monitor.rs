//! The machine as it is now, for those who ask again and again. The one owner of what was measured before.

use crate::{
    Cpu, Gpus, Memory, OperatingSystem, Power, Storage, Topology,
    cgroup::{self, Limits},
    cpu,
    gpu::{Cards, Nvidia},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

/// How old the knowledge of graphics processors may be before the next look is begun.
const FRESH: Duration = Duration::from_secs(1);
/// The load of the processors is measured over at least this time.
const WINDOW: Duration = Duration::from_millis(250);

/// All facts of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// What does not change.
    pub facts: Arc<Facts>,
    /// Percent of the processors that was busy between the last two looks; `None` before the second.
    pub usage: Option<f32>,
    /// Memory, within the limit of the control group.
    pub memory: Memory,
    /// Processors that the control group allows, with fractions; `None` without a limit.
    pub processor_limit: Option<f64>,
    /// The memory is that of a control group, and not of the machine.
    pub is_memory_limited: bool,
    /// The disk of the data folder.
    pub storage: Storage,
    /// Power.
    pub power: Power,
    /// Graphics processors, as they were a moment ago; `None` before the first look, which may take seconds.
    pub gpus: Option<Arc<Gpus>>,
}

/// Facts that do not change while the system runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The processor.
    pub cpu: Cpu,
    /// How it is built.
    pub topology: Topology,
    /// The operating system.
    pub system: OperatingSystem,
}

/// A measurement of the load.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    ticks: Option<(u64, u64)>,
    /// Microseconds that the control group has computed, and the processors that it may use.
    group: Option<(u64, f64)>,
}

#[derive(Default)]
struct Load {
    last: Option<Sample>,
    usage: Option<f32>,
}

#[derive(Default)]
struct Looked {
    gpus: Option<Arc<Gpus>>,
    at: Option<Instant>,
}

struct Inner {
    root: PathBuf,
    folder: PathBuf,
    facts: OnceLock<Arc<Facts>>,
    load: Mutex<Load>,
    looked: Arc<Mutex<Looked>>,
    /// Asks for the next look at the graphics processors.
    ask: SyncSender<()>,
}

/// Measures the machine. Cheap to clone.
#[derive(Clone)]
pub struct Monitor(Arc<Inner>);

impl Monitor {
    /// Begins. `folder` is on the disk that is told of. Drivers are asked by a thread of its own, because one that
    /// hangs must hold up nobody; it ends with the last handle.
    pub fn start(folder: &Path) -> Self {
        Self::below(Path::new("/"), folder)
    }

    fn below(root: &Path, folder: &Path) -> Self {
        let (ask, asked) = sync_channel(1);
        let looked = Arc::new(Mutex::new(Looked::default()));
        let (cards, seen) = (Cards::below(root), Arc::clone(&looked));
        let look = move || look_when_asked(&asked, &cards, &seen);
        if let Err(error) = std::thread::Builder::new().name("gpus".into()).spawn(look) {
            tracing::warn!(%error, "graphics processors are not looked for");
        }
        let _ = ask.try_send(());
        let inner = Inner {
            root: root.to_owned(),
            folder: folder.to_owned(),
            facts: OnceLock::new(),
            load: Mutex::default(),
            looked,
            ask,
        };
        Self(Arc::new(inner))
    }

    /// The machine now. Takes a millisecond; never waits for a driver.
    pub fn machine(&self) -> Machine {
        let inner = &*self.0;
        let limits = cgroup::limits(&inner.root);
        Machine {
            facts: Arc::clone(inner.facts.get_or_init(|| {
                let cpu = Cpu::below(&inner.root);
                let system = OperatingSystem::below(&inner.root, &cpu.kernel);
                Arc::new(Facts { topology: Topology::below(&inner.root), cpu, system })
            })),
            usage: self.usage(&limits),
            memory: Memory::below(&inner.root, &limits),
            processor_limit: limits.processors,
            is_memory_limited: limits.memory.is_some(),
            storage: Storage::of(&inner.folder),
            power: Power::below(&inner.root),
            gpus: self.gpus(),
        }
    }

    fn gpus(&self) -> Option<Arc<Gpus>> {
        let looked = self.0.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.at.is_none_or(|at| at.elapsed() > FRESH) {
            // One that is on its way already will do.
            let _ = self.0.ask.try_send(());
        }
        looked.gpus.clone()
    }

    fn usage(&self, limits: &Limits) -> Option<f32> {
        let mut load = self.0.load.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if load.last.is_some_and(|last| now - last.at < WINDOW) {
            return load.usage;
        }
        let sample = Sample { at: now, ticks: cpu::ticks(&self.0.root), group: limits.computed.zip(limits.processors) };
        if let Some(last) = load.last.replace(sample) {
            load.usage = busy(&last, &sample);
        }
        load.usage
    }
}

/// Percent of the time between two measurements that was computed in.
fn busy(before: &Sample, after: &Sample) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a percentage")]
    let percent = |part: u64, whole: f64| ((part as f64 / whole * 100.0) as f32).clamp(0.0, 100.0);
    if let (Some((from, _)), Some((to, processors))) = (before.group, after.group) {
        let possible = (after.at - before.at).as_secs_f64() * 1e6 * processors;
        return (possible > 0.0).then(|| percent(to.saturating_sub(from), possible));
    }
    let (from, to) = before.ticks.zip(after.ticks)?;
    let all = to.1.saturating_sub(from.1);
    #[expect(clippy::cast_precision_loss, reason = "ticks of a few seconds")]
    let possible = all as f64;
    (all > 0).then(|| percent(to.0.saturating_sub(from.0), possible))
}

fn look_when_asked(asked: &Receiver<()>, cards: &Cards, looked: &Mutex<Looked>) {
    let mut nvidia = Nvidia::default();
    while asked.recv().is_ok() {
        let gpus = Gpus::of(&mut nvidia, cards);
        let mut looked = looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.at = Some(Instant::now());
        if looked.gpus.as_deref() != Some(&gpus) {
            looked.gpus = Some(Arc::new(gpus));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let monitor = Monitor::start(folder.path());
        let machine = monitor.machine();
        assert_eq!(machine.usage, None, "nothing was measured yet");
        assert!(machine.memory.total >= machine.memory.available && machine.memory.total > 0);
        assert!(machine.facts.topology.threads >= 1 && machine.facts.cpu.cores >= 1);
        assert!(machine.storage.total > 0 && !machine.facts.system.name.is_empty());
    }

    #[test]
    fn a_machine_that_tells_nothing_fails_nobody() {
        let machine = Monitor::below(Path::new("/no/such/folder"), Path::new("/no/such/folder")).machine();
        assert_eq!((machine.memory, machine.usage), (Memory::default(), None));
        assert_eq!(machine.storage, Storage::default());
    }

    #[test]
    fn the_load_is_what_was_computed_between_two_looks() {
        let start = Instant::now();
        let sample = |seconds, ticks, group| Sample { at: start + Duration::from_secs(seconds), ticks, group };
        for (before, after, expected) in [
            (sample(0, Some((10, 100)), None), sample(1, Some((35, 200)), None), Some(25.0)),
            (sample(0, Some((10, 100)), None), sample(1, Some((10, 100)), None), None),
            (sample(0, None, None), sample(1, Some((10, 100)), None), None),
            // Half of two processors for a second.
            (sample(0, None, Some((0, 2.0))), sample(1, None, Some((1_000_000, 2.0))), Some(50.0)),
        ] {
            assert_eq!(busy(&before, &after), expected);
        }
    }
}
