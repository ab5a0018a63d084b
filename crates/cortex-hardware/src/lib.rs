//! What this machine has, its processor and its memory, and whether a model fits it.
//!
//! Never reads a model file, never changes the machine.
#![forbid(unsafe_code)]

mod cpu;
mod fit;
mod memory;

pub use cpu::Cpu;
pub use fit::{Attention, Fit, ModelShape, fit};
pub use memory::{Memory, process_resident_bytes};

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
