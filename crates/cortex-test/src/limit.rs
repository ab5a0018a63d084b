//! A limit of memory that bites: processes in a control group, of which the kernel kills one when they want more.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// A control group with a limit of memory. Processes are begun in it with [`MemoryLimit::wrapper`].
#[derive(Debug)]
pub struct MemoryLimit {
    wrapper: Vec<OsString>,
    /// The group, when we made it; systemd removes its own.
    folder: Option<PathBuf>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl MemoryLimit {
    /// Makes one: as root by itself, else with the user's systemd.
    ///
    /// # Panics
    /// When neither works here.
    pub fn new(bytes: u64) -> Self {
        // Numbers of processes come again, and groups of earlier ones may still be there.
        let moment = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_nanos());
        let name = format!("cortex-test-{}-{moment}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let limits = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.swappiness"),
            ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
        ];
        for (mount, limit, swap) in limits {
            let folder = Path::new(mount).join(&name);
            if fs_err::create_dir(&folder).is_err() {
                continue;
            }
            // A plain folder, where groups are mounted elsewhere, would take the number and limit nothing.
            let is_group = folder.join("cgroup.procs").is_file();
            if is_group && fs_err::write(folder.join(limit), bytes.to_string()).is_ok() {
                // Where there is no swap there is no such file.
                let _ = fs_err::write(folder.join(swap), "0");
                let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", folder.display());
                let wrapper = ["sh", "-c", &enter, "sh"].map(OsString::from).to_vec();
                return Self { wrapper, folder: Some(folder) };
            }
            let _ = fs_err::remove_dir(&folder);
        }
        let limit = format!("MemoryMax={bytes}");
        let wrapper = ["systemd-run", "--user", "--scope", "--quiet", "-p", &limit, "-p", "MemorySwapMax=0"];
        let works = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").stderr(Stdio::null()).status();
        assert!(
            works.is_ok_and(|status| status.success()),
            "a control group with a limit of memory cannot be made: run the tests as root, or where `systemd-run --user` works"
        );
        Self { wrapper: wrapper.map(OsString::from).to_vec(), folder: None }
    }

    /// What stands before a program and its arguments to begin it in the group.
    pub fn wrapper(&self) -> &[OsString] {
        &self.wrapper
    }

    /// How many processes the kernel has killed in the group that a process is in.
    ///
    /// # Panics
    /// When the group does not say.
    pub fn kills(pid: u32) -> u64 {
        let groups = fs_err::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
        let counter = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            let file = match controllers {
                "" => Path::new("/sys/fs/cgroup").join(path).join("memory.events"),
                "memory" => Path::new("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"),
                _ => return None,
            };
            let text = fs_err::read_to_string(file).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        });
        counter.expect("the group counts what was killed")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // Its processes may still be ending; an empty group harms nobody.
            let _ = fs_err::remove_dir(folder);
        }
    }
}
