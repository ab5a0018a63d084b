//! Fakes and builders for the tests of the other crates.
//!
//! Tests of the programs run what `cargo xtask stage` laid out in `dist/`: what a user gets.
#![forbid(unsafe_code)]

pub mod anthropic;
pub mod archive;
pub mod daemon;
pub mod dist;
pub mod fake_worker;
pub mod gguf;
pub mod hub;
pub mod limit;
pub mod made;
pub mod numbers;
pub mod worker;
