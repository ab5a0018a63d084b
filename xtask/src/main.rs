//! Chores of this repository: `cargo xtask stage`, `package`, `install` and `tidy`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for developers talks to the terminal")]
#![allow(clippy::disallowed_methods, reason = "the rules for the programs are not those of their tools")]

mod package;
mod stage;
mod tidy;

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["stage"] => stage::stage(&root()),
        ["tidy"] => tidy::tidy(&root()),
        ["package"] => package::package(&root()),
        ["install", prefix] => package::install(&root(), prefix, Path::new("/")),
        ["install", prefix, to] => package::install(&root(), prefix, Path::new(to)),
        _ => bail!("usage: cargo xtask stage | package | install PREFIX [ROOT] | tidy"),
    }
}

/// The folder of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
