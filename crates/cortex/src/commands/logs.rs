//! `cortex logs`.

use super::Context;
use crate::{cli::LogsArguments, error::CliError};
use std::{
    io::{Read, Seek, SeekFrom},
    time::Duration,
};

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Prints the end of the log, and what comes after it when asked to.
pub(crate) async fn logs(context: &Context<'_>, arguments: &LogsArguments) -> Result<(), CliError> {
    let path = context.settings.logs_folder.join("cortex.log");
    let failed = |source| CliError::System { action: "cannot read the log", source };
    let text = fs_err::read(&path).map_err(failed)?;
    let shown = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = shown.lines().collect();
    for line in &lines[lines.len().saturating_sub(arguments.lines)..] {
        context.printer.line(line)?;
    }
    if !arguments.follow {
        return Ok(());
    }
    let mut seen = text.len() as u64;
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = tokio::signal::ctrl_c() => return Err(CliError::Cancelled),
        }
        // Between two logs there may be none.
        let Ok(mut file) = fs_err::File::open(&path) else { continue };
        let length = file.metadata().map_err(failed)?.len();
        if length < seen {
            seen = 0;
        }
        if length > seen {
            file.seek(SeekFrom::Start(seen)).map_err(failed)?;
            let mut new = Vec::new();
            file.take(length - seen).read_to_end(&mut new).map_err(failed)?;
            seen = length;
            context.printer.answer(&String::from_utf8_lossy(&new))?;
        }
    }
}
