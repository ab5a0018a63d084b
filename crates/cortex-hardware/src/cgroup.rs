//! Limits of the control group that this process is in: in a container they are the machine.
//! Sources: the kernel's documentation of cgroup v1 and v2.

use std::path::{Path, PathBuf};

/// What a control group allows, and what it has used.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Limits {
    /// Bytes of memory, and those that are used and could not be given back; `None` without a limit.
    pub(crate) memory: Option<(u64, u64)>,
    /// Processors, with fractions; `None` without a limit.
    pub(crate) processors: Option<f64>,
    /// Microseconds that its processes have computed; `None` when that is not told.
    pub(crate) computed: Option<u64>,
}

/// A limit above this is none: version 1 says so with a number near the largest one.
const NO_LIMIT: u64 = 1 << 60;

/// The limits of this process, of its group and of those above it. `root` is `/`.
pub(crate) fn limits(root: &Path) -> Limits {
    let text = fs_err::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let (unified, memory, processors) = paths(&text);
    let mount = root.join("sys/fs/cgroup");
    let mut found = Limits::default();
    let mut narrow = |memory: Option<(u64, u64)>, processors: Option<f64>| {
        if let Some((limit, used)) = memory.filter(|(limit, _)| *limit < NO_LIMIT) {
            let left = |(limit, used): (u64, u64)| limit.saturating_sub(used);
            // The one that leaves the least is the one that counts.
            found.memory = found.memory.into_iter().chain([(limit, used)]).min_by_key(|limits| left(*limits));
        }
        found.processors = found.processors.into_iter().chain(processors).reduce(f64::min);
    };
    for folder in unified.iter().flat_map(|path| upwards(&mount, path)) {
        let memory = number(&folder.join("memory.max")).map(|limit| {
            let used = number(&folder.join("memory.current")).unwrap_or(0);
            (limit, used.saturating_sub(file_pages(&folder, "")))
        });
        narrow(memory, quota(&fs_err::read_to_string(folder.join("cpu.max")).unwrap_or_default()));
    }
    for folder in memory.iter().flat_map(|path| upwards(&mount.join("memory"), path)) {
        let memory = number(&folder.join("memory.limit_in_bytes")).map(|limit| {
            let used = number(&folder.join("memory.usage_in_bytes")).unwrap_or(0);
            (limit, used.saturating_sub(file_pages(&folder, "total_")))
        });
        narrow(memory, None);
    }
    for folder in processors.iter().flat_map(|path| upwards(&mount.join("cpu"), path)) {
        let (quota, period) = (number(&folder.join("cpu.cfs_quota_us")), number(&folder.join("cpu.cfs_period_us")));
        narrow(None, quota.zip(period).filter(|(_, period)| *period > 0).map(|(quota, period)| ratio(quota, period)));
    }
    if found.processors.is_some() {
        let unified = unified.iter().flat_map(|path| upwards(&mount, path)).map(|folder| folder.join("cpu.stat"));
        found.computed = unified.into_iter().find_map(|path| {
            let text = fs_err::read_to_string(path).ok()?;
            text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
        });
    }
    found
}

/// The groups of this process: of version 2, and those of memory and processors of version 1.
fn paths(text: &str) -> (Option<String>, Option<String>, Option<String>) {
    let (mut unified, mut memory, mut processors) = (None, None, None);
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let path = || Some(path.to_owned());
        if number == "0" && controllers.is_empty() {
            unified = path();
        }
        for controller in controllers.split(',') {
            match controller {
                "memory" => memory = path(),
                "cpu" => processors = path(),
                _ => {}
            }
        }
    }
    (unified, memory, processors)
}

/// The folder of a group and those above it. In a container the path is often one of the host's, which is not
/// there: then the mounted root is the container's own group.
fn upwards(mount: &Path, path: &str) -> Vec<PathBuf> {
    let mut found = vec![mount.to_owned()];
    let mut folder = mount.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != "..") {
        folder.push(part);
        found.push(folder.clone());
    }
    found
}

fn number(path: &Path) -> Option<u64> {
    // `max`, and the -1 of version 1, are no limits.
    fs_err::read_to_string(path).ok()?.trim().parse().ok()
}

/// Bytes of files in the memory of a group: the kernel gives them up before it kills anybody. What a model has mapped is
/// among them, active or not; who counts on it (the engine's ledger) counts it by itself.
fn file_pages(group: &Path, prefix: &str) -> u64 {
    let text = fs_err::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| {
        let value = |line: &str| line.strip_prefix(prefix)?.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or(0_u64)
    };
    of("inactive_file").saturating_add(of("active_file"))
}

/// `200000 100000` are two processors; `max 100000` is no limit.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let period: u64 = period.parse().ok().filter(|period| *period > 0)?;
    Some(ratio(quota.parse().ok()?, period))
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a second")]
fn ratio(quota: u64, period: u64) -> f64 {
    quota as f64 / period as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    #[test]
    fn the_narrowest_group_of_version_2_counts() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/memory.current", "900\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 200\nactive_file 100\n"),
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.stat", "usage_usec 77\nuser_usec 1\n"),
        ]);
        let found = limits(root.path());
        assert_eq!((found.memory, found.processors), (Some((1000, 600)), Some(1.5)));
        assert_eq!(found.computed, Some(77));
    }

    #[test]
    fn version_1_is_read_and_the_paths_of_a_host_are_passed_over() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "500\n"),
            ("sys/fs/cgroup/memory/memory.stat", "active_file 1\ntotal_inactive_file 30\ntotal_active_file 20\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        let found = limits(root.path());
        assert_eq!((found.memory, found.processors), (Some((2000, 450)), Some(2.0)));
        let free = tree(&[
            ("proc/self/cgroup", "4:memory:/\n1:cpu:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(limits(free.path()), Limits::default());
        assert_eq!(limits(Path::new("/no/such/folder")), Limits::default());
    }
}
