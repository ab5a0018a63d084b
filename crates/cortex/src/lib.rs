//! The programs `cortex` (command line) and `cortex-server` (the daemon).
//!
//! Never contains logic that another front end would need.
#![forbid(unsafe_code)]

mod bars;
mod cli;
mod client;
mod commands;
mod daemon;
mod env;
mod error;
mod logging;
mod output;
mod own_certificate;
mod server_arguments;
mod settings;

use clap::Parser;
use error::CliError;
use output::Printer;
use std::{ffi::OsString, process::ExitCode};

/// The command line program.
pub fn cortex_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let printer = Printer::new(cli.global.json, cli.global.quiet);
    let overrides = cli.global.overrides();
    let result = settings::Settings::load(&overrides).map_err(CliError::from).and_then(|settings| {
        match cli.command {
            cli::Command::Serve => daemon::run(settings, &overrides, daemon::Parent::Ignored).map_err(CliError::from),
            command => {
                let runtime = runtime()?;
                let result = runtime.block_on(commands::execute(command, &settings, printer));
                // A question that nobody answers any more must not keep the program.
                runtime.shutdown_background();
                result
            }
        }
    });
    finish(result)
}

/// The daemon program, with the arguments that its clients have always passed.
pub fn server_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = server_arguments::parse(arguments.into_iter().skip(1));
    if let Some(text) = arguments.told {
        return output::told(text);
    }
    let result = settings::Settings::load(&arguments.overrides)
        .map_err(CliError::from)
        .and_then(|settings| daemon::run(settings, &arguments.overrides, arguments.parent).map_err(CliError::from));
    finish(result)
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| CliError::System { action: "cannot start", source })
}

fn finish(result: Result<(), CliError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::failure(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
