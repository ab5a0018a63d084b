//! From a model that was admitted to its worker.

use super::{
    Command, Supervisor,
    entry::{Entry, Measure},
    resting::{Rested, Stamp},
};
use crate::{
    AcceleratorReport, EngineError, LoadedModel, Phase,
    need::Size,
    prompt_cache::PromptCaches,
    slot_state::{Generation, State},
    worker::{Callbacks, Launch, Session, load},
};
use cortex_api::worker::{self, Load, Timings};
use cortex_hardware::{CacheType, ModelShape};
use cortex_models::{ModelFiles, ModelId};
use futures::FutureExt;
use std::{panic::AssertUnwindSafe, path::Path, sync::Arc};
use tokio::sync::oneshot;

impl Supervisor {
    /// Has the drivers of graphics processors asked; models wait until they have answered.
    pub(super) fn look_for_accelerators(&self) {
        let (choice, commands) = (Arc::clone(&self.choice), self.commands.clone());
        let accelerators = Arc::clone(&self.accelerators);
        self.tasks.spawn(async move {
            let look = async {
                // They are proven together with the module for the processor.
                let processor = choice.choose(None).await;
                accelerators.look(processor.as_deref()).await;
            };
            // Models wait for the answer: there has to be one, whatever happens.
            if AssertUnwindSafe(look).catch_unwind().await.is_err() {
                accelerators.give_up();
            }
            let _ = commands.send(Command::Accelerators);
        });
    }

    /// Measures how fast this machine is, when that is not known and nobody is disturbed by it.
    pub(super) fn measure_speed(&self) {
        let is_busy =
            |model: &LoadedModel| model.requests > 0 || matches!(model.phase, Phase::Loading | Phase::Waiting);
        if self.closing || self.loaded.borrow().iter().any(is_busy) || !self.speeds.begin() {
            return;
        }
        let (choice, speeds) = (Arc::clone(&self.choice), Arc::clone(&self.speeds));
        let loaded = self.loaded.subscribe();
        self.tasks.spawn(async move {
            let module = choice.choose(None).await;
            speeds.measure(module.as_deref(), || loaded.borrow().iter().any(is_busy)).await;
        });
    }

    /// Learns from an answer that nothing else disturbed how fast this machine really is.
    pub(super) fn answered(&self, id: &ModelId, generation: Generation, timings: Timings) {
        let Some(entry) = self.entries.get(id) else { return };
        let is_alone = matches!(entry.state, State::Ready { leases: 1, generation: current } if current == generation)
            && entry.size.is_some_and(|size| size.layers == 0)
            // The attention is measured with these.
            && entry.load.cache_type == CacheType::F16
            && entry.load.threads == self.config.load.threads
            && self.entries.iter().all(|(other, entry)| {
                other == id || matches!(entry.state, State::Idle | State::Ready { leases: 0, .. })
            });
        if let (true, Measure::Known(need)) = (is_alone, &entry.measure)
            && let Some(architecture) = need.architecture()
        {
            self.speeds.observe(id, architecture, &timings);
        }
    }

    /// Starts the worker of a model that was admitted; what becomes of it comes back as commands.
    pub(super) fn start_worker(&mut self, id: &ModelId, generation: Generation) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(size) = entry.size else { return };
        let (stop_sender, stop) = oneshot::channel();
        entry.stop = Some(stop_sender);
        entry.session = None;
        let load_settings = entry.load;
        let files = entry.files.clone();
        let rested = self.resting.take(id, &files);
        let (config, commands, id) = (self.config.clone(), self.commands.clone(), id.clone());
        let (choice, tasks) = (Arc::clone(&self.choice), self.tasks.clone());
        let choices = self.thread_choices.clone();
        let died = self.variant_died.take();
        let accelerators = self.accelerators.report();
        let used = if size.layers > 0 { accelerators.used() } else { vec![] };
        let devices = if size.layers > 0 { accelerators.names() } else { vec![] };
        entry.devices.clone_from(&devices);
        let mut modules: Vec<String> = used.iter().map(|it| text(&it.module)).collect();
        modules.dedup();
        tracing::info!(model = %id, context = size.context, parallel = size.parallel, bytes = size.bytes, layers = size.layers, ?devices, "loading");
        self.tasks.spawn(async move {
            let has_program = config.worker_program.is_file();
            let backend = if has_program { choice.choose(died.as_deref()).await } else { None };
            let result = match backend {
                None if has_program => Err(EngineError::NoVariant),
                None => Err(EngineError::WorkerMissing { program: config.worker_program.clone() }),
                Some(backend) => {
                    let is_told = load_settings.threads > 0;
                    let first = choices.first().copied().unwrap_or(1);
                    let threads = if is_told { load_settings.threads } else { first };
                    let launch = Launch {
                        program: config.worker_program,
                        model: id.clone(),
                        load: Load {
                            model: text(&files.weights),
                            backends: [text(&backend)].into_iter().chain(modules).collect(),
                            context_length: size.context,
                            parallel: size.parallel,
                            is_exact: load_settings.fixed_context || load_settings.fixed_parallel,
                            threads,
                            threads_batch: threads,
                            thread_choices: if is_told { vec![] } else { choices },
                            thread_profiles: Some(text(&config.cache_folder.join("threads"))),
                            locks_memory: config.locks_memory,
                            batch: config.batch,
                            cache_type: match load_settings.cache_type {
                                CacheType::F16 => worker::CacheType::F16,
                                CacheType::Q8 => worker::CacheType::Q8_0,
                                CacheType::Q4 => worker::CacheType::Q4_0,
                            },
                            devices,
                            device_layers: size.told_layers,
                            prompt_cache: PromptCaches::new(&config.cache_folder, config.prompt_cache_bytes)
                                .of(&files.weights),
                            checkpoint_bytes: size.checkpoints,
                            projector: files.projector.as_deref().map(text),
                            draft_model: files.draft_model.as_deref().map(text),
                            mtp: files.mtp,
                            entry_cost: config.entry_cost,
                            idle_cores: None,
                            adapters: files.adapters.iter().map(|path| text(path)).collect(),
                        },
                        environment: config.driver_environment,
                        silence_limit: config.silence_limit,
                    };
                    let stamp = Stamp::of(&files);
                    let rested = rested
                        .filter(|it| Some(&it.stamp) == stamp.as_ref() && it.worker.backends == launch.load.backends);
                    let [to_start, to_rest, to_exit] = [(); 3].map(|()| (commands.clone(), id.clone()));
                    let callbacks = Callbacks {
                        started: move |pid| {
                            let _ = to_start.0.send(Command::Started { id: to_start.1.clone(), generation, pid });
                        },
                        rested: move |worker| {
                            // One that may not be used again ends here.
                            if let Some(stamp) = stamp {
                                let rested = Rested::new(to_rest.1, files, stamp, worker);
                                let _ = to_rest.0.send(Command::Rests(Box::new(rested)));
                            }
                        },
                        gone: move |error| {
                            let _ = to_exit.0.send(Command::Exited { id: to_exit.1, generation, error });
                        },
                    };
                    load(launch, rested.map(|it| it.worker), &tasks, stop, callbacks).await
                }
            };
            // A supervisor that is gone has ended its workers.
            let _ = commands.send(Command::Loaded { id, generation, result });
        });
    }
}

/// How a model is built, as far as its files say it.
pub(super) fn shape(files: &ModelFiles) -> ModelShape {
    files.shape().unwrap_or_else(|_| {
        // The engine may understand it all the same; if not, it says why better than we could.
        let weight_bytes = fs_err::metadata(&files.weights).map_or(0, |metadata| metadata.len());
        ModelShape { weight_bytes, beside_bytes: files.beside_bytes(), ..ModelShape::default() }
    })
}

/// Bytes that a worker has and will have, of the machine's memory and of that which graphics processors have of their own;
/// `None` when it reports nothing.
pub(super) fn reported(
    session: &Session,
    measure: &Measure,
    (has_devices, has_own): (bool, bool),
) -> Option<(u64, u64)> {
    // What a driver keeps in the memory of the machine for a device is named after its kind: `Vulkan_Host`.
    let is_there = |name: &str| has_own && !name.starts_with("CPU") && !name.ends_with("_Host");
    let (mut here, mut there) = (0u64, 0u64);
    for buffer in &session.facts.buffers {
        let sum = if is_there(&buffer.device) { &mut there } else { &mut here };
        *sum = sum.saturating_add(buffer.bytes);
    }
    let process = match measure {
        Measure::Known(need) => need.process_bytes(has_devices),
        Measure::Unknown | Measure::Asked(_) => 0,
    };
    (here > 0).then(|| (here.saturating_add(process), there))
}

/// Why not all layers of a model are on graphics processors.
pub(super) fn why_not_graphics(report: &AcceleratorReport, entry: &Entry, size: Size) -> Option<String> {
    if let Some(why) = report.why_not() {
        return Some(why);
    }
    let Measure::Known(need) = &entry.measure else { return None };
    match (need.layers(), size.layers) {
        (0, _) => Some("what its file says does not tell how it could be divided".into()),
        (all, on) if on >= all => None,
        (_, on) if entry.load.device_layers == Some(on) => Some(format!("`ngl` allows {on} layers")),
        (all, 0) => Some(format!("none of its {all} layers has room there")),
        (all, on) => Some(format!("{on} of its {all} layers have room there")),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
