//! The log: one file in the data folder, one line for each event. No prompts, no answers, no secrets.

use crate::settings::Settings;
use std::{io, sync::Mutex};
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

/// A log that has grown larger is set aside at the next start.
const LARGEST: u64 = 16 << 20;

/// Starts logging to `<logs>/cortex.log`.
pub(crate) fn start(settings: &Settings) -> io::Result<()> {
    fs_err::create_dir_all(&settings.logs_folder)?;
    let path = settings.logs_folder.join("cortex.log");
    if fs_err::metadata(&path).is_ok_and(|metadata| metadata.len() > LARGEST) {
        #[expect(clippy::disallowed_methods, reason = "a log is no state: losing the race loses nothing")]
        fs_err::rename(&path, settings.logs_folder.join("cortex.log.1"))?;
    }
    let mut options = fs_err::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path)?.into_file();
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Mutex::new(file)).with_filter(filter);
    // A second daemon in one process, as in a test, keeps the first log.
    let _ = Registry::default().with(layer).try_init();
    Ok(())
}
