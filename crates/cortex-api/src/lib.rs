//! Every type whose bytes cross a process boundary: HTTP bodies and the worker protocol.
//!
//! Never does IO, never depends on another cortex crate, never holds a default that is policy.
#![forbid(unsafe_code)]

pub mod hardware;
pub mod migrations;
pub mod native;
pub mod openai;
pub mod pulls;
pub mod sources;
pub mod worker;
