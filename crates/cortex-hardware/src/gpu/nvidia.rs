//! NVIDIA's management library, which comes with the driver and is opened when it is there.

use super::Gpu;
use nvml_wrapper::{Nvml, cuda_driver_version_major, cuda_driver_version_minor, error::NvmlError};
use std::{
    ffi::OsStr,
    time::{Duration, Instant},
};

/// Names of the library: the second is there with the developers' files only.
const LIBRARIES: &[&str] = &["libnvidia-ml.so.1", "libnvidia-ml.so"];
/// How often a driver that was not there is looked for again.
const AGAIN: Duration = Duration::from_secs(30);

/// Why the driver tells nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Silent {
    /// There is no such library.
    pub(crate) is_absent: bool,
    pub(crate) reason: String,
}

/// The opened library.
#[derive(Default)]
pub(crate) struct Nvidia {
    library: Option<Nvml>,
    failed: Option<(Instant, Silent)>,
}

impl Nvidia {
    /// The cards that the driver knows. One that answers nothing is left out; one that answers in part is told
    /// in part.
    pub(crate) fn look(&mut self) -> Result<Vec<Gpu>, Silent> {
        if self.library.is_none() {
            if let Some((_, why)) = self.failed.as_ref().filter(|(at, _)| at.elapsed() < AGAIN) {
                return Err(why.clone());
            }
            match open() {
                Ok(library) => self.library = Some(library),
                Err(why) => {
                    self.failed = Some((Instant::now(), why.clone()));
                    return Err(why);
                }
            }
        }
        let Some(library) = &self.library else { return Ok(vec![]) };
        let looked = look(library);
        if let Err(why) = &looked {
            // A driver that was updated under us answers nothing any more until it is opened again.
            self.failed = Some((Instant::now(), why.clone()));
            self.library = None;
        }
        looked
    }
}

fn open() -> Result<Nvml, Silent> {
    let mut absent = String::new();
    for name in LIBRARIES {
        match Nvml::builder().lib_path(OsStr::new(name)).init() {
            Ok(library) => return Ok(library),
            Err(NvmlError::LibloadingError(why)) => absent = why.to_string(),
            Err(why) => return Err(Silent { is_absent: false, reason: why.to_string() }),
        }
    }
    Err(Silent { is_absent: true, reason: absent })
}

fn look(library: &Nvml) -> Result<Vec<Gpu>, Silent> {
    let count = library.device_count().map_err(|why| Silent { is_absent: false, reason: why.to_string() })?;
    let driver = library.sys_driver_version().unwrap_or_default();
    let cuda = library
        .sys_cuda_driver_version()
        .map(|version| format!("{}.{}", cuda_driver_version_major(version), cuda_driver_version_minor(version)))
        .unwrap_or_default();
    let one = |index: u32| {
        let device = library.device_by_index(index).ok()?;
        let memory = device.memory_info().ok();
        let capability = device.cuda_compute_capability();
        let bus = device.pci_info().map(|pci| short(&pci.bus_id)).unwrap_or_default();
        Some(Gpu {
            name: device.name().unwrap_or_else(|_| "NVIDIA".to_owned()),
            vendor: "NVIDIA".into(),
            uuid: device.uuid().unwrap_or_else(|_| bus.clone()),
            bus,
            driver: driver.clone(),
            cuda: cuda.clone(),
            compute_capability: capability.map(|it| format!("{}.{}", it.major, it.minor)).unwrap_or_default(),
            total: memory.as_ref().map_or(0, |memory| memory.total),
            free: memory.map(|memory| memory.free),
            usage: device.utilization_rates().ok().and_then(|rates| u8::try_from(rates.gpu.min(100)).ok()),
        })
    };
    Ok((0..count).filter_map(one).collect())
}

/// `00000000:01:00.0` as the kernel writes it.
fn short(bus: &str) -> String {
    bus.strip_prefix("0000").filter(|rest| rest.len() == 12).unwrap_or(bus).to_lowercase()
}
