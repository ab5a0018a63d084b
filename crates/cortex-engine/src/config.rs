//! What the engine is told by the settings.

use std::{path::PathBuf, time::Duration};

/// Settings of the engine. Durations and counts are what a user may change.
#[derive(Debug, Clone)]
pub struct Config {
    /// The worker program; its compute modules lie in `backends/` beside it.
    pub worker_program: PathBuf,
    /// A folder whose content may be deleted at any time.
    pub cache_folder: PathBuf,
    /// Loaded models at most.
    pub max_loaded: usize,
    /// A model that nobody used for this long leaves.
    pub idle_unload: Duration,
    /// A busy or loading worker that is silent for longer is taken for dead.
    pub silence_limit: Duration,
    /// Room and threads of a load, where the model does not say otherwise.
    pub load: LoadSettings,
    /// Prompt tokens in a step at most.
    pub batch: u32,
    /// Whether compute modules are proven before use. Off only in a test that shows what would happen.
    pub variant_trial: bool,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadSettings {
    /// Tokens that one request may use; the model's trained context is the upper bound.
    pub context_length: u32,
    /// Requests that run at the same time.
    pub parallel: u32,
    /// Threads; 0 is one for each core.
    pub threads: u32,
}
