//! What belongs to the machine besides its processors and memory: its system, its disks, its power.
//! Sources: os-release(5), `/sys/class/power_supply`, `/sys/firmware/acpi`, `/sys/dev/block` of Linux.

use std::path::Path;

/// The operating system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatingSystem {
    /// Its name and version, as people know it.
    pub name: String,
    /// Its version; that of the kernel when it has none.
    pub version: String,
}

impl OperatingSystem {
    pub(crate) fn below(root: &Path, kernel: &str) -> Self {
        let read = |path: &str| fs_err::read_to_string(root.join(path)).ok();
        let text = read("etc/os-release").or_else(|| read("usr/lib/os-release")).unwrap_or_default();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            Some(line.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
        };
        Self {
            name: value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| std::env::consts::OS.to_owned()),
            version: value("VERSION_ID").unwrap_or_else(|| kernel.to_owned()),
        }
    }
}

/// The disk that a folder is on; bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Storage {
    /// All of it.
    pub total: u64,
    /// What is left for this user.
    pub available: u64,
    /// `SSD`, `HDD`; empty when the system does not say.
    pub kind: String,
}

impl Storage {
    /// Asks the system; zeros when it does not tell.
    pub fn of(folder: &Path) -> Self {
        Self::below(Path::new("/"), folder)
    }

    fn below(root: &Path, folder: &Path) -> Self {
        let Ok(space) = rustix::fs::statvfs(folder) else { return Self::default() };
        let unit = space.f_frsize.max(1);
        let device = rustix::fs::stat(folder).map(|stat| stat.st_dev);
        let kind = device
            .map(|device| kind_of_disk(root, &format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))));
        Self {
            total: space.f_blocks.saturating_mul(unit),
            available: space.f_bavail.saturating_mul(unit),
            kind: kind.unwrap_or_default().to_owned(),
        }
    }
}

fn kind_of_disk(root: &Path, number: &str) -> &'static str {
    let device = root.join("sys/dev/block").join(number);
    // A partition has no queue of its own: its disk, which is the folder above, has.
    let disk = fs_err::canonicalize(&device).unwrap_or(device);
    let turns = |folder: &Path| fs_err::read_to_string(folder.join("queue/rotational")).ok();
    match turns(&disk).or_else(|| turns(disk.parent()?)).as_deref().map(str::trim) {
        Some("0") => "SSD",
        Some("1") => "HDD",
        _ => "",
    }
}

/// Power of a portable machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Power {
    /// Percent that are left; `None` without a battery.
    pub battery: Option<u8>,
    /// `Charging`, `Discharging`, `Full`, `Not charging`; empty without a battery.
    pub charging: String,
    /// The machine saves power at the cost of speed.
    pub is_saving: bool,
}

impl Power {
    pub(crate) fn below(root: &Path) -> Self {
        let supplies = fs_err::read_dir(root.join("sys/class/power_supply"));
        let mut folders: Vec<_> =
            supplies.map_or_else(|_| vec![], |entries| entries.flatten().map(|entry| entry.path()).collect());
        folders.sort();
        let text = |folder: &Path, name: &str| {
            fs_err::read_to_string(folder.join(name)).map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        // A mouse has a battery too: its scope is `Device`.
        let is_battery = |folder: &Path| text(folder, "type") == "Battery" && text(folder, "scope") != "Device";
        let battery = folders.iter().find(|folder| is_battery(folder));
        Self {
            battery: battery
                .and_then(|folder| text(folder, "capacity").parse().ok())
                .map(|percent: u8| percent.min(100)),
            charging: battery.map(|folder| text(folder, "status")).unwrap_or_default(),
            is_saving: text(&root.join("sys/firmware/acpi"), "platform_profile") == "low-power",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    #[test]
    fn the_system_says_its_name() {
        let root =
            tree(&[("etc/os-release", "NAME=\"Some Linux\"\nPRETTY_NAME=\"Some Linux 12\"\nVERSION_ID=\"12\"\n")]);
        let system = OperatingSystem::below(root.path(), "6.1");
        assert_eq!((system.name.as_str(), system.version.as_str()), ("Some Linux 12", "12"));
        let rolling = tree(&[("usr/lib/os-release", "NAME=Rolling\n")]);
        assert_eq!(OperatingSystem::below(rolling.path(), "6.1").version, "6.1");
        assert_eq!(OperatingSystem::below(Path::new("/no/such"), "6.1").name, std::env::consts::OS);
    }

    #[test]
    fn the_battery_of_the_machine_is_told_and_that_of_a_mouse_is_not() {
        let root = tree(&[
            ("sys/class/power_supply/AC/type", "Mains\n"),
            ("sys/class/power_supply/AA-mouse/type", "Battery\n"),
            ("sys/class/power_supply/AA-mouse/scope", "Device\n"),
            ("sys/class/power_supply/BAT0/type", "Battery\n"),
            ("sys/class/power_supply/BAT0/capacity", "81\n"),
            ("sys/class/power_supply/BAT0/status", "Discharging\n"),
            ("sys/firmware/acpi/platform_profile", "low-power\n"),
        ]);
        let power = Power { battery: Some(81), charging: "Discharging".into(), is_saving: true };
        assert_eq!(Power::below(root.path()), power);
        assert_eq!(Power::below(Path::new("/no/such")), Power::default());
    }

    #[test]
    fn the_disk_of_a_folder_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::of(folder.path());
        assert!(storage.total >= storage.available && storage.total > 0, "{storage:?}");
        assert_eq!(Storage::of(Path::new("/no/such/folder")), Storage::default());
        let root = tree(&[("sys/dev/block/8:0/queue/rotational", "1\n"), ("sys/dev/block/8:0/8:1/size", "1\n")]);
        assert_eq!(kind_of_disk(root.path(), "8:0"), "HDD");
        assert_eq!(kind_of_disk(root.path(), "9:9"), "");
    }
}
