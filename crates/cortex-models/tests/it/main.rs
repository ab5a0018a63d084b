//! The store and the reader of GGUF files, with real files.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod gguf;
mod store;
