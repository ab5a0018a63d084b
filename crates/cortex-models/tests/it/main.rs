//! The store and the reader of GGUF files, with real files.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests do to files what a person could do")]

mod crash;
mod fixture;
mod gguf;
mod legacy;
mod migrate;
mod migrate_back;
mod migrate_cases;
mod migrate_cortex;
mod migrate_crash;
mod migrate_stores;
mod proxy;
mod pull;
mod pull_resume;
mod pull_world;
mod shape;
mod sources;
mod store;
