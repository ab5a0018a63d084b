//! The daemon of cortex.

use std::process::ExitCode;

fn main() -> ExitCode {
    cortex::server_main(std::env::args_os())
}
