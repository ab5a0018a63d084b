//! Memory of the machine and of a process.

use crate::cgroup::Limits;
use std::path::Path;

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// All that this process could have: the machine's, or the limit of its control group.
    pub total: u64,
    /// What is left without swapping.
    pub available: u64,
}

/// Of the memory at least so much stays free for what else runs, and so much at most.
const KEPT_FREE: std::ops::RangeInclusive<u64> = (256 << 20)..=(2 << 30);

impl Memory {
    /// Bytes that stay free beside all models: a tenth of the memory, within bounds.
    pub fn kept_free(self) -> u64 {
        (self.total / 10).clamp(*KEPT_FREE.start(), *KEPT_FREE.end())
    }

    /// What models may have of what is available.
    pub fn for_models(self) -> u64 {
        self.available.saturating_sub(self.kept_free())
    }

    /// Asks the system; a control group's limit counts when it is smaller.
    pub fn probe() -> Self {
        let root = Path::new("/");
        Self::below(root, &crate::cgroup::limits(root))
    }

    pub(crate) fn below(root: &Path, limits: &Limits) -> Self {
        let machine = from_meminfo(&fs_err::read_to_string(root.join("proc/meminfo")).unwrap_or_default());
        within(machine, limits.memory)
    }
}

fn from_meminfo(text: &str) -> Memory {
    Memory { total: kibibytes(text, "MemTotal:"), available: kibibytes(text, "MemAvailable:") }
}

fn within(machine: Memory, group: Option<(u64, u64)>) -> Memory {
    let Some((limit, used)) = group else { return machine };
    Memory { total: machine.total.min(limit), available: machine.available.min(limit.saturating_sub(used)) }
}

/// How many processes the kernel has ended since it runs because memory ran out; `None` when it does not tell.
/// Source: `/proc/vmstat`, `oom_kill`, which counts before the signal is sent.
pub fn out_of_memory_kills() -> Option<u64> {
    kills(&fs_err::read_to_string("/proc/vmstat").unwrap_or_default())
}

fn kills(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Bytes of memory that a process holds; 0 when the system does not tell.
pub fn process_resident_bytes(pid: u32) -> u64 {
    of_process(pid, "VmRSS:")
}

/// Of these, the bytes that only its end gives back: without files that it has mapped, which count as available
/// while they are mapped. 0 when the system does not tell.
pub fn process_anonymous_bytes(pid: u32) -> u64 {
    of_process(pid, "RssAnon:")
}

/// A line of `proc_pid_status(5)`.
fn of_process(pid: u32, name: &str) -> u64 {
    let text = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kibibytes(&text, name)
}

fn kibibytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB"));
    line.and_then(|number| number.trim().parse::<u64>().ok()).map_or(0, |number| number.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_what_it_ends_for_want_of_memory() {
        assert_eq!(kills("pgfault 12\noom_kill 7\noom_killer 9\n"), Some(7));
        assert_eq!(kills("pgfault 12\n"), None);
    }

    #[test]
    fn a_control_group_narrows_the_machine() {
        let machine = from_meminfo("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n");
        assert_eq!(machine, Memory { total: 1_024_000, available: 614_400 });
        assert_eq!(kibibytes("VmRSS:\t  12 kB\nRssAnon:\t   5 kB\n", "RssAnon:"), 5 * 1024);
        assert!(process_resident_bytes(std::process::id()) >= process_anonymous_bytes(std::process::id()));
        assert!(process_anonymous_bytes(std::process::id()) > 0);
        assert_eq!(within(machine, None), machine);
        assert_eq!(within(machine, Some((100, 40))), Memory { total: 100, available: 60 });
    }
}
