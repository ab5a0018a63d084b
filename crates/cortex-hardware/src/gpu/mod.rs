//! Graphics processors: what each maker's driver tells of them, and why one cannot be told.

mod nvidia;
mod sysfs;

pub(crate) use nvidia::Nvidia;
pub(crate) use sysfs::Cards;

/// A graphics processor with memory of its own, or one that shares the machine's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gpu {
    /// What its driver calls it.
    pub name: String,
    /// `NVIDIA`, `AMD`, `Intel`.
    pub vendor: String,
    /// The maker's lasting name for this one; else where it is on the bus.
    pub uuid: String,
    /// Where it is on the bus: `0000:01:00.0`.
    pub bus: String,
    /// Version of its driver; empty when that does not say.
    pub driver: String,
    /// The newest CUDA that the driver can run: `12.2`; empty for other makers.
    pub cuda: String,
    /// What CUDA programs are compiled for: `8.6`; empty for other makers.
    pub compute_capability: String,
    /// Bytes of its own memory; 0 when it shares the machine's.
    pub total: u64,
    /// Bytes of that which are free; `None` when that cannot be told now.
    pub free: Option<u64>,
    /// Percent of the time that it was busy lately; `None` when that cannot be told.
    pub usage: Option<u8>,
}

/// All that could be told of graphics processors, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gpus {
    /// In the order of the bus, NVIDIA's first: the order in which CUDA counts them.
    pub gpus: Vec<Gpu>,
    /// Sentences about those that are there and cannot be used.
    pub problems: Vec<String>,
}

impl Gpus {
    pub(crate) fn of(nvidia: &mut Nvidia, cards: &Cards) -> Self {
        let seen = cards.look();
        let mut found = Self { gpus: seen.gpus, problems: seen.problems };
        match nvidia.look() {
            Ok(gpus) => {
                let missing = seen.nvidia.saturating_sub(gpus.len());
                if missing > 0 && !gpus.is_empty() {
                    found.problems.push(format!("{missing} NVIDIA cards are not known to the driver"));
                }
                found.gpus.splice(0..0, gpus);
            }
            // Without a card nobody misses a driver.
            Err(why) if seen.nvidia > 0 || !why.is_absent => {
                found.problems.push(format!("the NVIDIA driver cannot be asked: {}", why.reason));
            }
            Err(_) => {}
        }
        found
    }
}
