//! The programs as a user runs them: real daemon, real worker, real model.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod api;
mod beside;
mod cli;
mod cli_rows;
mod configs;
mod edge;
mod engine_packages;
mod engines;
mod faults;
mod files;
mod fit;
mod graphics;
mod hardware;
mod http;
mod http_rows;
mod jan;
mod memory;
mod migrate;
mod packages;
mod prompts;
mod pulls;
mod registry;
mod remote;
mod soak;
mod sources;
mod threads;
mod tls;
