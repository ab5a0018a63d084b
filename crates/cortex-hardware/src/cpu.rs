//! The processor. Sources: `/proc/cpuinfo`, `/proc/stat`, `/sys/devices` of Linux.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Instruction sets that make a difference to a model, by the kernel's names for them. Others are left out of what
/// people are shown.
const INSTRUCTION_SETS: &[&str] = &[
    "mmx",
    "sse",
    "sse2",
    "pni",
    "ssse3",
    "sse4_1",
    "sse4_2",
    "sse4a",
    "pclmulqdq",
    "aes",
    "popcnt",
    "movbe",
    "f16c",
    "fma",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "avx_vnni",
    "avx_vnni_int8",
    "avx_ne_convert",
    "avx512f",
    "avx512dq",
    "avx512cd",
    "avx512bw",
    "avx512vl",
    "avx512ifma",
    "avx512vbmi",
    "avx512_vbmi2",
    "avx512_vnni",
    "avx512_bitalg",
    "avx512_vpopcntdq",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "gfni",
    "vaes",
    "vpclmulqdq",
    "sha_ni",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
    "sme2",
    "neon",
];

/// Facts about the processor, as the system tells them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpu {
    /// The name that the maker gave it; empty when the system does not say.
    pub model: String,
    /// Instruction set extensions that it announces. An announcement is no proof: virtual machines lie.
    pub flags: Vec<String>,
    /// Cores that compute, hyper-threads not counted, and no more than this process may use.
    pub cores: usize,
    /// Release of the running kernel.
    pub kernel: String,
}

impl Cpu {
    /// Asks the system. What it does not tell stays empty.
    pub fn probe() -> Self {
        Self::below(Path::new("/"))
    }

    pub(crate) fn below(root: &Path) -> Self {
        let text = fs_err::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let kernel = fs_err::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
        let usable = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cores: physical_cores(&text).unwrap_or(usable).min(usable),
            kernel: kernel.trim().to_owned(),
            ..from_cpuinfo(&text)
        }
    }

    /// A text that changes when the processor or the kernel does: what was tried here may not hold there.
    pub fn identity(&self) -> String {
        format!("{} | {} | {}", self.model, self.flags.join(" "), self.kernel)
    }

    /// The instruction sets that make a difference to a model, by the kernel's names but for one that nobody knows.
    pub fn instruction_sets(&self) -> impl Iterator<Item = &str> {
        let known = self.flags.iter().map(String::as_str).filter(|flag| INSTRUCTION_SETS.contains(flag));
        known.map(|flag| if flag == "pni" { "sse3" } else { flag })
    }
}

/// A cache of the first core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// 1 is the nearest.
    pub level: u32,
    /// `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// Bytes.
    pub size: u64,
}

/// How the processor is built.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// Threads that run at the same time, and that this process may use.
    pub threads: usize,
    /// Cores of the fast kind; 0 when all are alike.
    pub performance_cores: usize,
    /// Cores of the frugal kind; 0 when all are alike.
    pub efficiency_cores: usize,
    /// The caches of the first core.
    pub caches: Vec<Cache>,
}

impl Topology {
    /// Asks the system. What it does not tell is 0 or empty.
    pub fn probe() -> Self {
        Self::below(Path::new("/"))
    }

    pub(crate) fn below(root: &Path) -> Self {
        let cores = |kind: &str| {
            let text = fs_err::read_to_string(root.join("sys/devices").join(kind).join("cpus")).unwrap_or_default();
            first_threads(root, &numbers(&text))
        };
        let (mut performance_cores, mut efficiency_cores) = (cores("cpu_core"), cores("cpu_atom"));
        if efficiency_cores == 0 {
            (performance_cores, efficiency_cores) = by_capacity(root);
        }
        Self {
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            performance_cores: if efficiency_cores == 0 { 0 } else { performance_cores },
            efficiency_cores,
            caches: caches(root),
        }
    }
}

/// Of each core only its first thread counts.
fn first_threads(root: &Path, threads: &[usize]) -> usize {
    let of_core = |thread: &&usize| {
        let path = folder_of(root, **thread).join("topology/thread_siblings_list");
        let siblings = numbers(&fs_err::read_to_string(path).unwrap_or_default());
        siblings.first().is_none_or(|first| first == *thread)
    };
    threads.iter().filter(of_core).count()
}

/// Cores of ARM that differ say how much each can do.
fn by_capacity(root: &Path) -> (usize, usize) {
    let capacity = |thread: usize| {
        let text = fs_err::read_to_string(folder_of(root, thread).join("cpu_capacity")).ok()?;
        text.trim().parse::<u32>().ok()
    };
    let capacities: Vec<u32> = (0..4096).map_while(capacity).collect();
    let most = capacities.iter().max().copied().unwrap_or(0);
    // Kinds of fast cores differ by a few percent, frugal ones have half or less.
    let fast = capacities.iter().filter(|&&capacity| capacity * 10 >= most * 7).count();
    if fast == capacities.len() { (0, 0) } else { (fast, capacities.len() - fast) }
}

fn folder_of(root: &Path, thread: usize) -> PathBuf {
    root.join(format!("sys/devices/system/cpu/cpu{thread}"))
}

fn caches(root: &Path) -> Vec<Cache> {
    let one = |index: usize| {
        let folder = folder_of(root, 0).join(format!("cache/index{index}"));
        let text = |name: &str| fs_err::read_to_string(folder.join(name)).ok().map(|text| text.trim().to_owned());
        let size = text("size")?;
        let (number, unit) = size.split_at(size.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(size.len()));
        let unit = match unit {
            "K" => 1024,
            "M" => 1 << 20,
            _ => 1,
        };
        Some(Cache {
            level: text("level")?.parse().ok()?,
            kind: text("type")?,
            size: number.parse::<u64>().ok()? * unit,
        })
    };
    (0..16).map_while(one).collect()
}

/// `0-3,8` are five numbers.
fn numbers(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<Vec<usize>> {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        (to >= from && to - from < 1 << 16).then(|| (from..=to).collect())
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// How long the machine has computed, and how long it could have; in ticks since its start.
pub(crate) fn ticks(root: &Path) -> Option<(u64, u64)> {
    let text = fs_err::read_to_string(root.join("proc/stat")).ok()?;
    from_stat(&text)
}

/// Seconds that all processors together were busy since the system started; `None` when it does not tell. Source: proc(5), in
/// hundredths of a second on Linux.
pub fn busy_seconds() -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "hundredths of a second")]
    ticks(Path::new("/")).map(|(busy, _)| busy as f64 / 100.0)
}

fn from_stat(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; the guests are in user already.
    let all: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3)?.saturating_add(*ticks.get(4).unwrap_or(&0));
    Some((all.saturating_sub(idle), all))
}

fn field<'text>(text: &'text str, names: &[&str]) -> Option<&'text str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        names.contains(&name.trim()).then_some(value.trim())
    })
}

fn from_cpuinfo(text: &str) -> Cpu {
    Cpu {
        model: field(text, &["model name", "Model", "Hardware"]).unwrap_or_default().to_owned(),
        flags: field(text, &["flags", "Features"]).unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        cores: 0,
        kernel: String::new(),
    }
}

/// Distinct pairs of socket and core; `None` when the system does not tell.
fn physical_cores(text: &str) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for processor in text.split("\n\n") {
        let socket = field(processor, &["physical id"]);
        let core = field(processor, &["core id"]);
        if let (Some(socket), Some(core)) = (socket, core) {
            cores.insert((socket, core));
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_CORES_FOUR_THREADS: &str = "processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: sse2 pni avx2 nonsense\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 1\nphysical id\t: 0\ncore id\t\t: 1\n\nprocessor\t: 2\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 3\nphysical id\t: 0\ncore id\t\t: 1\n";

    #[test]
    fn threads_of_one_core_count_once() {
        assert_eq!(physical_cores(TWO_CORES_FOUR_THREADS), Some(2));
        assert_eq!(physical_cores("processor : 0\n"), None);
    }

    #[test]
    fn the_name_and_the_flags_are_read() {
        let cpu = from_cpuinfo(TWO_CORES_FOUR_THREADS);
        assert_eq!((cpu.model.as_str(), cpu.flags.len()), ("Test CPU", 4));
        assert_eq!(cpu.instruction_sets().collect::<Vec<_>>(), ["sse2", "sse3", "avx2"]);
        assert_eq!(from_cpuinfo("").model, "");
    }

    #[test]
    fn kinds_of_cores_and_caches_are_told_apart() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join("sys/devices").join(path);
            fs_err::create_dir_all(path.parent().expect("a folder above")).expect("made");
            fs_err::write(path, text).expect("written");
        };
        // Two fast cores with two threads each, four frugal ones.
        write("cpu_core/cpus", "0-3\n");
        write("cpu_atom/cpus", "4-7\n");
        for (thread, siblings) in [(0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3"), (4, "4")] {
            write(&format!("system/cpu/cpu{thread}/topology/thread_siblings_list"), siblings);
        }
        for (index, (level, kind, size)) in
            [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")].into_iter().enumerate()
        {
            write(&format!("system/cpu/cpu0/cache/index{index}/level"), level);
            write(&format!("system/cpu/cpu0/cache/index{index}/type"), kind);
            write(&format!("system/cpu/cpu0/cache/index{index}/size"), size);
        }
        let found = Topology::below(root.path());
        assert_eq!((found.performance_cores, found.efficiency_cores), (2, 4));
        assert_eq!(found.caches.len(), 3);
        assert_eq!(found.caches[2], Cache { level: 2, kind: "Unified".into(), size: 2 << 20 });
        let arm = tempfile::tempdir().expect("a folder");
        for (thread, capacity) in [(0, 446), (1, 446), (2, 871), (3, 1024)] {
            let path = arm.path().join(format!("sys/devices/system/cpu/cpu{thread}/cpu_capacity"));
            fs_err::create_dir_all(path.parent().expect("a folder above")).expect("made");
            fs_err::write(path, format!("{capacity}\n")).expect("written");
        }
        let found = Topology::below(arm.path());
        assert_eq!((found.performance_cores, found.efficiency_cores), (2, 2));
        let found = Topology::below(Path::new("/no/such/folder"));
        assert_eq!((found.performance_cores, found.efficiency_cores, found.caches.len()), (0, 0, 0));
    }

    #[test]
    fn ticks_and_lists_of_numbers_are_read() {
        assert_eq!(from_stat("cpu  10 0 5 80 5 0 0 0 7 0\ncpu0 1\n"), Some((15, 100)));
        assert_eq!(from_stat(""), None);
        assert_eq!(numbers("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers("3-1,x,"), Vec::<usize>::new());
    }
}
