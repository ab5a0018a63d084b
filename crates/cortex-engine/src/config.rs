//! What the engine is told by the settings.

use cortex_hardware::CacheType;
use cortex_models::KeepAlive;
use std::{path::PathBuf, time::Duration};

/// Settings of the engine. Durations and counts are what a user may change.
#[derive(Debug, Clone)]
pub struct Config {
    /// The worker program; its compute modules lie in `backends/` beside it.
    pub worker_program: PathBuf,
    /// Folders with further compute modules, which come before those of the same name beside the worker.
    pub module_folders: Vec<PathBuf>,
    /// A folder whose content may be deleted at any time.
    pub cache_folder: PathBuf,
    /// The file that says which graphics processors were switched off.
    pub graphics_choice: PathBuf,
    /// The file that says which compute module somebody chose; the daemon chooses where there is none.
    pub variant_choice: PathBuf,
    /// Environment variables that drivers of graphics processors read, for the workers; they get no others.
    pub driver_environment: Vec<(String, String)>,
    /// Loaded models at most; `None` is as many as fit into memory.
    pub max_loaded: Option<usize>,
    /// Bytes that all models may take together; `None` is what the machine has, but for what is kept free.
    pub memory_limit: Option<u64>,
    /// Requests that may wait at a time: for a model, or for a place in one.
    pub max_queued: usize,
    /// How long a request waits for models in use before they have to make room.
    pub patience: Duration,
    /// How long a model stays that nobody uses, where neither it nor a request says otherwise.
    pub keep_alive: KeepAlive,
    /// A busy or loading worker that is silent for longer is taken for dead.
    pub silence_limit: Duration,
    /// Room and threads of a load, where the model does not say otherwise.
    pub load: LoadSettings,
    /// Bytes on disk that beginnings of prompts may take, so that they outlive a model's stay in memory; 0 keeps none.
    pub prompt_cache_bytes: u64,
    /// The weights of models stay in memory, where the system allows that.
    pub locks_memory: bool,
    /// Prompt tokens in a step at most.
    pub batch: u32,
    /// What an entry of a step costs, in percent of a step with one, where it is not to be measured: for tests of guesses, which are made
    /// only where they pay.
    pub entry_cost: Option<u32>,
    /// Whether compute modules are proven before use. Off only in a test that shows what would happen.
    pub variant_trial: bool,
}

/// How a model is loaded, and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadSettings {
    /// Tokens that one request may use; 0 is what fits comfortably. The model's trained context is the upper bound.
    pub context_length: u32,
    /// What the model's own settings say about that, before the daemon's: unless it is what the model was trained with, which is what
    /// they say of themselves.
    pub stored_context: Option<u32>,
    /// Requests that run at the same time.
    pub parallel: u32,
    /// Threads; 0 is one for each core.
    pub threads: u32,
    /// How keys and values are stored.
    pub cache_type: CacheType,
    /// Layers on graphics processors at most, the output among them; `None` is as many as fit.
    pub device_layers: Option<u32>,
    /// A shorter context is no use.
    pub fixed_context: bool,
    /// Fewer requests at the same time are no use.
    pub fixed_parallel: bool,
    /// How long it stays when nobody uses it, as its settings say.
    pub keep_alive: Option<KeepAlive>,
    /// It never leaves to make room for another.
    pub pin: bool,
}

/// What somebody ordered about a load. What is not named is as the model's settings say, also when these change while the order holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOrder {
    /// Tokens that one request may use; fewer are no use.
    pub context_length: Option<u32>,
    /// Requests that run at the same time; fewer are no use.
    pub parallel: Option<u32>,
    /// Threads.
    pub threads: Option<u32>,
    /// How keys and values are stored.
    pub cache_type: Option<CacheType>,
    /// Layers on graphics processors at most; `Some(None)` is as many as fit.
    pub device_layers: Option<Option<u32>>,
}

impl LoadOrder {
    /// This one, and what an earlier one says where it says nothing.
    #[must_use]
    pub fn after(self, earlier: Self) -> Self {
        Self {
            context_length: self.context_length.or(earlier.context_length),
            parallel: self.parallel.or(earlier.parallel),
            threads: self.threads.or(earlier.threads),
            cache_type: self.cache_type.or(earlier.cache_type),
            device_layers: self.device_layers.or(earlier.device_layers),
        }
    }

    /// A load with these settings, where nothing else is ordered.
    pub fn over(self, stored: LoadSettings) -> LoadSettings {
        LoadSettings {
            context_length: self.context_length.unwrap_or(stored.context_length),
            fixed_context: self.context_length.is_some() || stored.fixed_context,
            parallel: self.parallel.unwrap_or(stored.parallel),
            fixed_parallel: self.parallel.is_some() || stored.fixed_parallel,
            threads: self.threads.unwrap_or(stored.threads),
            cache_type: self.cache_type.unwrap_or(stored.cache_type),
            device_layers: self.device_layers.unwrap_or(stored.device_layers),
            ..stored
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_what_was_named_last_over_the_settings() {
        let stored = LoadSettings { context_length: 8192, parallel: 4, device_layers: Some(3), ..Default::default() };
        let context = LoadOrder { context_length: Some(512), ..LoadOrder::default() };
        let all = LoadOrder { device_layers: Some(None), ..LoadOrder::default() };
        assert_eq!(LoadOrder::default().over(stored), stored);
        let ordered = LoadSettings { context_length: 512, fixed_context: true, ..stored };
        assert_eq!(context.over(stored), ordered);
        assert_eq!(all.after(context).over(stored), LoadSettings { device_layers: None, ..ordered });
        let longer = LoadOrder { context_length: Some(1024), ..LoadOrder::default() };
        assert_eq!(longer.after(context), longer);
    }
}
