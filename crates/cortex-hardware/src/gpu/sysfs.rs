//! The cards that the kernel knows. Source: `/sys/class/drm` and `/sys/bus/pci` of Linux, amdgpu's documentation.

use super::Gpu;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const NVIDIA: &str = "0x10de";
const AMD: &str = "0x1002";
const INTEL: &str = "0x8086";
/// Where the names of PCI devices are kept.
const NAMES: &[&str] = &["usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids"];

/// Where cards are looked for.
pub(crate) struct Cards {
    root: PathBuf,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Those of AMD and Intel.
    pub(crate) gpus: Vec<Gpu>,
    /// Cards of NVIDIA: their driver tells of them.
    pub(crate) nvidia: usize,
    pub(crate) problems: Vec<String>,
}

impl Cards {
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn look(&self) -> Seen {
        let mut seen = Seen::default();
        let mut driven = BTreeSet::new();
        for card in folders(&self.root.join("sys/class/drm")) {
            let name = card.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // `card0`; `card0-HDMI-A-1` is one of its sockets.
            if !name.strip_prefix("card").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit())) {
                continue;
            }
            let device = card.join("device");
            let bus = slot(&device);
            match text(&device, "vendor").as_str() {
                AMD => seen.gpus.push(self.amd(&device, &bus)),
                INTEL => seen.gpus.push(self.intel(&device, &bus)),
                _ => {}
            }
            driven.insert(bus);
        }
        seen.gpus.sort_by(|left, right| left.bus.cmp(&right.bus));
        for device in folders(&self.root.join("sys/bus/pci/devices")) {
            // Displays and 3D controllers.
            if !text(&device, "class").starts_with("0x03") {
                continue;
            }
            let bus = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match text(&device, "vendor").as_str() {
                NVIDIA => seen.nvidia += 1,
                vendor @ (AMD | INTEL) if !driven.contains(&bus) => {
                    let name = self.name(vendor, &text(&device, "device"));
                    seen.problems.push(format!("{name} at {bus} has no driver of the kernel"));
                }
                _ => {}
            }
        }
        seen
    }

    fn amd(&self, device: &Path, bus: &str) -> Gpu {
        let bytes = |name: &str| text(device, name).parse::<u64>().ok();
        let total = bytes("mem_info_vram_total").unwrap_or(0);
        let product = Some(text(device, "product_name")).filter(|name| !name.is_empty());
        Gpu {
            name: product.unwrap_or_else(|| self.name(AMD, &text(device, "device"))),
            vendor: "AMD".into(),
            uuid: Some(text(device, "unique_id")).filter(|id| !id.is_empty()).unwrap_or_else(|| bus.to_owned()),
            bus: bus.to_owned(),
            driver: driver(device),
            total,
            free: bytes("mem_info_vram_used").map(|used| total.saturating_sub(used)),
            usage: text(device, "gpu_busy_percent").parse().ok(),
            ..Gpu::default()
        }
    }

    fn intel(&self, device: &Path, bus: &str) -> Gpu {
        // Only cards with memory of their own have this.
        let total = text(device, "lmem_total_bytes").parse().unwrap_or(0);
        Gpu {
            name: self.name(INTEL, &text(device, "device")),
            vendor: "Intel".into(),
            uuid: bus.to_owned(),
            bus: bus.to_owned(),
            driver: driver(device),
            total,
            free: text(device, "lmem_avail_bytes").parse().ok(),
            ..Gpu::default()
        }
    }

    /// What people call a device; its numbers when no list of names is there.
    fn name(&self, vendor: &str, device: &str) -> String {
        let short = |id: &str| id.trim_start_matches("0x").to_owned();
        let maker = match vendor {
            AMD => "AMD",
            INTEL => "Intel",
            _ => "NVIDIA",
        };
        let names = NAMES.iter().find_map(|path| fs_err::read(self.root.join(path)).ok()).unwrap_or_default();
        let known = device_name(&String::from_utf8_lossy(&names), &short(vendor), &short(device));
        known.map_or_else(
            || format!("{maker} graphics {}:{}", short(vendor), short(device)),
            |name| format!("{maker} {name}"),
        )
    }
}

/// The list has makers at the beginning of a line, their devices behind one tab.
fn device_name(list: &str, vendor: &str, device: &str) -> Option<String> {
    let of_vendor = list.lines().skip_while(|line| !line.starts_with(vendor)).skip(1);
    let mut devices = of_vendor.take_while(|line| line.starts_with('\t') || line.starts_with('#'));
    devices.find_map(|line| Some(line.strip_prefix('\t')?.strip_prefix(device)?.trim().to_owned()))
}

fn driver(device: &Path) -> String {
    let module = fs_err::canonicalize(device.join("driver")).unwrap_or_default();
    module.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Where a device is on the bus.
fn slot(device: &Path) -> String {
    let told = text(device, "uevent");
    let told = told.lines().find_map(|line| line.strip_prefix("PCI_SLOT_NAME=").map(str::to_owned));
    told.unwrap_or_default()
}

fn text(folder: &Path, name: &str) -> String {
    fs_err::read_to_string(folder.join(name)).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs_err::read_dir(folder).map_or_else(|_| vec![], |entries| entries.flatten().map(|it| it.path()).collect());
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs_err::create_dir_all(path.parent().expect("a folder above")).expect("made");
        fs_err::write(path, text).expect("written");
    }

    /// A card as the kernel shows it.
    fn card(root: &Path, number: usize, vendor: &str, more: &[(&str, &str)]) {
        let bus = format!("0000:{number:02x}:00.0");
        let device = format!("sys/class/drm/card{number}/device");
        for (name, text) in [("vendor", vendor), ("device", "0x73bf"), ("uevent", &format!("PCI_SLOT_NAME={bus}\n"))] {
            write(root, &format!("{device}/{name}"), text);
        }
        for (name, text) in more {
            write(root, &format!("{device}/{name}"), text);
        }
        write(root, &format!("sys/bus/pci/devices/{bus}/class"), "0x030000\n");
        write(root, &format!("sys/bus/pci/devices/{bus}/vendor"), vendor);
    }

    #[test]
    fn no_card_and_eight_cards_are_told() {
        assert_eq!(Cards::below(Path::new("/no/such/folder")).look(), Seen::default());
        let root = tempfile::tempdir().expect("a folder");
        for number in 0..8 {
            let used = format!("{}\n", number << 30);
            let memory = [("mem_info_vram_total", "17163091968\n"), ("mem_info_vram_used", used.as_str())];
            card(root.path(), number, AMD, &memory);
        }
        write(root.path(), "sys/class/drm/card0-HDMI-A-1/status", "connected\n");
        write(root.path(), "usr/share/misc/pci.ids", "1002  Advanced\n\t73be  Other\n\t73bf  Navi 21\n10de  NVIDIA\n");
        let seen = Cards::below(root.path()).look();
        assert_eq!((seen.gpus.len(), seen.nvidia, seen.problems.len()), (8, 0, 0), "{seen:?}");
        let third = &seen.gpus[2];
        assert_eq!((third.name.as_str(), third.bus.as_str()), ("AMD Navi 21", "0000:02:00.0"));
        assert_eq!((third.total, third.free), (17_163_091_968, Some(17_163_091_968 - (2 << 30))));
    }

    #[test]
    fn cards_without_memory_or_driver_are_told_as_they_are() {
        let root = tempfile::tempdir().expect("a folder");
        card(root.path(), 0, INTEL, &[]);
        write(root.path(), "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
        write(root.path(), "sys/bus/pci/devices/0000:01:00.0/vendor", NVIDIA);
        write(root.path(), "sys/bus/pci/devices/0000:02:00.0/class", "0x030000\n");
        write(root.path(), "sys/bus/pci/devices/0000:02:00.0/vendor", AMD);
        write(root.path(), "sys/bus/pci/devices/0000:02:00.0/device", "0x1234");
        write(root.path(), "sys/bus/pci/devices/0000:03:00.0/class", "0x020000\n");
        write(root.path(), "sys/bus/pci/devices/0000:03:00.0/vendor", INTEL);
        let seen = Cards::below(root.path()).look();
        assert_eq!((seen.gpus.len(), seen.gpus[0].total, seen.nvidia), (1, 0, 1));
        assert_eq!(seen.problems, ["AMD graphics 1002:1234 at 0000:02:00.0 has no driver of the kernel"]);
    }
}
