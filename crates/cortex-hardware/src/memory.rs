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

impl Memory {
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
    let bytes = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map_or(0, |kibibytes| kibibytes.saturating_mul(1024))
    };
    Memory { total: bytes("MemTotal:"), available: bytes("MemAvailable:") }
}

fn within(machine: Memory, group: Option<(u64, u64)>) -> Memory {
    let Some((limit, used)) = group else { return machine };
    Memory { total: machine.total.min(limit), available: machine.available.min(limit.saturating_sub(used)) }
}

/// Bytes of memory that a process holds; 0 when the system does not tell.
pub fn process_resident_bytes(pid: u32) -> u64 {
    fs_err::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        })
        .map_or(0, |kibibytes| kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_narrows_the_machine() {
        let machine = from_meminfo("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n");
        assert_eq!(machine, Memory { total: 1_024_000, available: 614_400 });
        assert_eq!(within(machine, None), machine);
        assert_eq!(within(machine, Some((100, 40))), Memory { total: 100, available: 60 });
    }
}
