//! Fakes and builders for the tests of the other crates.
#![forbid(unsafe_code)]

pub mod gguf;
