//! The processor.

use std::collections::BTreeSet;

/// Facts about the processor, as the system tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        let text = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs_err::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let usable = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cores: physical_cores(&text).unwrap_or(usable).min(usable), kernel, ..from_cpuinfo(&text) }
    }

    /// A text that changes when the processor or the kernel does: what was tried here may not hold there.
    pub fn identity(&self) -> String {
        format!("{} | {} | {}", self.model, self.flags.join(" "), self.kernel)
    }
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

    const TWO_CORES_FOUR_THREADS: &str = "processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: sse2 avx2\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 1\nphysical id\t: 0\ncore id\t\t: 1\n\nprocessor\t: 2\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 3\nphysical id\t: 0\ncore id\t\t: 1\n";

    #[test]
    fn threads_of_one_core_count_once() {
        assert_eq!(physical_cores(TWO_CORES_FOUR_THREADS), Some(2));
        assert_eq!(physical_cores("processor : 0\n"), None);
    }

    #[test]
    fn the_name_and_the_flags_are_read() {
        let cpu = from_cpuinfo(TWO_CORES_FOUR_THREADS);
        assert_eq!((cpu.model.as_str(), cpu.flags.len()), ("Test CPU", 2));
        assert_eq!(from_cpuinfo("").model, "");
    }
}
