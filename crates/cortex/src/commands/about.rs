//! What this copy of the program is: completions, manual pages, and where a newer one comes from.

use crate::{cli::Cli, error::CliError, output::Printer};
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// Prints completions for a shell.
pub(crate) fn completions(printer: Printer, shell: Shell) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cortex", &mut text);
    printer.line(String::from_utf8_lossy(&text).trim_end())
}

/// Prints the API reference, as of a daemon at the usual address.
pub(crate) fn openapi(printer: Printer) -> Result<(), CliError> {
    let document = cortex_server::openapi("http://127.0.0.1:39281");
    printer.line(&format!("{document:#}"))
}

/// Writes a manual page for the program and for each of its commands.
pub(crate) fn man(folder: &Path) -> Result<(), CliError> {
    let failed = |source| CliError::System { action: "cannot write the manual", source };
    fs_err::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)
}

/// Says how this copy was installed, and how to update it. Downloads nothing.
pub(crate) fn update(printer: Printer) -> Result<(), CliError> {
    let program = std::env::current_exe().and_then(fs_err::canonicalize);
    let program = program.map_err(|source| CliError::System { action: "cannot find this program", source })?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    let how = if folder.starts_with("/usr/lib") {
        "it came with the Debian package: install a newer one with `sudo apt install ./cortex_VERSION_ARCH.deb`"
    } else if folder.ends_with("lib/cortex") {
        "it was installed with `make install`: get the newer sources, and install again"
    } else {
        "it runs from where it was unpacked or built: unpack or build a newer one in its place"
    };
    printer.line(&format!("cortex {} in {}", env!("CARGO_PKG_VERSION"), folder.display()))?;
    printer.line(&format!("{how}; then `cortex stop`, and the next command starts the new one"))
}
