//! What this machine has, its processor and its memory, and whether a model fits it.
//!
//! Never reads a model file, never changes the machine.
#![forbid(unsafe_code)]

mod cgroup;
mod cpu;
mod fit;
mod gpu;
mod memory;
mod monitor;
mod shape;
mod speed;
mod system;
#[cfg(test)]
mod tree;

pub use cpu::{Cache, Cpu, Topology, busy_seconds};
pub use fit::{BATCH, Budget, Fit, Graphics, Parts, Placed, fit};
pub use gpu::{Gpu, Gpus};
pub use memory::{Memory, out_of_memory_kills, process_anonymous_bytes, process_resident_bytes};
pub use monitor::{Facts, Machine, Monitor};
pub use shape::{Architecture, CacheType, Layer, ModelShape};
pub use speed::{Bound, Rates, Speed, TypeRate, Weights, speed};
pub use system::{OperatingSystem, Power, Storage};

/// The machine, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardware {
    /// Its processor.
    pub cpu: Cpu,
    /// Its memory.
    pub memory: Memory,
}

impl Hardware {
    /// Asks the system.
    pub fn probe() -> Self {
        Self { cpu: Cpu::probe(), memory: Memory::probe() }
    }
}
