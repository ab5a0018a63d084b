//! The command line of cortex.

use std::process::ExitCode;

fn main() -> ExitCode {
    cortex::cortex_main(std::env::args_os())
}
