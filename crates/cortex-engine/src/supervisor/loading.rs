//! From a model that was admitted to its worker.

use super::{Command, Supervisor, entry::Measure};
use crate::{
    EngineError,
    slot_state::Generation,
    worker::{Launch, Session, load},
};
use cortex_api::worker::Load;
use cortex_hardware::ModelShape;
use cortex_models::ModelId;
use std::{path::Path, sync::Arc};
use tokio::sync::oneshot;

impl Supervisor {
    /// Starts the worker of a model that was admitted; what becomes of it comes back as commands.
    pub(super) fn start_worker(&mut self, id: &ModelId, generation: Generation) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(size) = entry.size else { return };
        let (stop_sender, stop) = oneshot::channel();
        entry.stop = Some(stop_sender);
        entry.session = None;
        let load_settings = entry.load;
        let weights = entry.weights.clone();
        let (config, commands, id) = (self.config.clone(), self.commands.clone(), id.clone());
        let (variants, report, tasks) = (Arc::clone(&self.variants), self.report.clone(), self.tasks.clone());
        let cores = u32::try_from(self.cores).unwrap_or(1);
        let died = self.variant_died.take();
        tracing::info!(model = %id, context = size.context, parallel = size.parallel, bytes = size.bytes, "loading");
        self.tasks.spawn(async move {
            let backend = {
                let mut variants = variants.lock().await;
                let backend =
                    if config.worker_program.is_file() { variants.choose(died.as_deref()).await } else { None };
                report.send_replace(Arc::new(variants.report().clone()));
                backend
            };
            let result = match backend {
                None if config.worker_program.is_file() => Err(EngineError::NoVariant),
                None => Err(EngineError::WorkerMissing { program: config.worker_program.clone() }),
                Some(backend) => {
                    let threads = if load_settings.threads == 0 { cores } else { load_settings.threads };
                    let launch = Launch {
                        program: config.worker_program,
                        model: id.clone(),
                        load: Load {
                            model: text(&weights),
                            backends: vec![text(&backend)],
                            context_length: size.context,
                            parallel: size.parallel,
                            is_exact: load_settings.fixed_context || load_settings.fixed_parallel,
                            threads,
                            threads_batch: threads,
                            batch: config.batch,
                        },
                        silence_limit: config.silence_limit,
                    };
                    let (started, exits) = ((commands.clone(), id.clone()), (commands.clone(), id.clone()));
                    let on_start = move |pid| {
                        let _ = started.0.send(Command::Started { id: started.1, generation, pid });
                    };
                    let on_exit = move |error| {
                        let _ = exits.0.send(Command::Exited { id: exits.1, generation, error });
                    };
                    load(launch, &tasks, stop, on_start, on_exit).await
                }
            };
            // A supervisor that is gone has ended its workers.
            let _ = commands.send(Command::Loaded { id, generation, result });
        });
    }
}

/// How a model is built, as far as its file says it.
pub(super) fn shape(weights: &Path) -> ModelShape {
    if let Ok((architecture, weight_bytes)) = cortex_models::shape(weights) {
        return ModelShape { weight_bytes, architecture, ..ModelShape::default() };
    }
    // The engine may understand it all the same; if not, it says why better than we could.
    let weight_bytes = fs_err::metadata(weights).map_or(0, |metadata| metadata.len());
    ModelShape { weight_bytes, ..ModelShape::default() }
}

/// Bytes of memory that a worker has and will have; `None` when it reports nothing.
pub(super) fn reported(session: &Session, measure: &Measure) -> Option<u64> {
    let buffers: u64 = session.facts.buffers.iter().map(|buffer| buffer.bytes).sum();
    let process = match measure {
        Measure::Known(need) => need.process_bytes(),
        Measure::Unknown | Measure::Asked(_) => 0,
    };
    (buffers > 0).then(|| buffers.saturating_add(process))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
