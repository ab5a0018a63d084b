//! What this machine has: its processor and its memory.
//!
//! Never reads a model file, never changes the machine.
#![forbid(unsafe_code)]

mod cpu;
mod memory;

pub use cpu::Cpu;
pub use memory::{Memory, process_resident_bytes};
