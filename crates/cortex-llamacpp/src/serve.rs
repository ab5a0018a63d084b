//! The life of a worker: hello, load, then steps of the engine until it is told to stop.
//!
//! Two threads. The reader takes lines from standard input and ends the process when it closes; the
//! main thread owns llama.cpp and writes the answers of a step in one go, so that a token needs no
//! further hop.

use crate::{
    answering::Worker,
    draft_model::Drafter,
    embedding::Embedder,
    guesser::Guesser,
    images::Images,
    llama::{self, Adapter, Context, LONGEST_EMBEDDED, LlamaError},
    load_signs::LoadSigns,
    mtp::Mtp,
    saved::SavedPrompts,
    stdio::{self, Lines},
    threads::Threads,
    vocabulary::Vocabulary,
};
use cortex_api::worker::{FromWorker, Load, LoadFault, Loaded, PROTOCOL, ToWorker};
use llama_cpp_2::{llama_backend::LlamaBackend, model::LlamaModel};
use std::{
    io::BufRead,
    process::ExitCode,
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};

/// How often a busy worker gives a sign of life.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);
/// Lines that may wait while a step is computed.
const INBOX: usize = 1024;

/// Runs until standard input closes or `shutdown` comes.
pub(crate) fn serve(mut lines: Lines) -> ExitCode {
    lines.send(&FromWorker::Hello { protocol: PROTOCOL, build: build() });
    let (sender, inbox) = sync_channel(INBOX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str::<ToWorker>(&line) {
                Ok(message) => {
                    if sender.send(message).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    stdio::fail(&format!("a line that is not of the protocol: {error}"));
                    llama::end_process(2);
                }
            }
        }
        // The daemon is gone: nobody is left to answer to, even amid a computation.
        llama::end_process(0);
    });
    let load = match inbox.recv() {
        Ok(ToWorker::Load(load)) => load,
        Ok(ToWorker::Shutdown) | Err(_) => return ExitCode::SUCCESS,
        Ok(_) => return stdio::fail("the first line must be `load`"),
    };
    volunteer();
    match run(&load, &mut lines, &inbox) {
        Ok(()) => ExitCode::SUCCESS,
        Err(LoadError { fault, message }) => {
            lines.send(&FromWorker::LoadFailed { message, fault });
            ExitCode::FAILURE
        }
    }
}

/// Why a model cannot be loaded.
struct LoadError {
    fault: LoadFault,
    message: String,
}

impl LoadError {
    fn settings(message: impl Into<String>) -> Self {
        Self { fault: LoadFault::Settings, message: message.into() }
    }
}

impl From<LlamaError> for LoadError {
    fn from(LlamaError(message): LlamaError) -> Self {
        Self { fault: LoadFault::Engine, message }
    }
}

/// The versions of this program and of the engine inside.
fn build() -> String {
    format!("cortex-llamacpp {} (llama.cpp {})", env!("CARGO_PKG_VERSION"), llama::version())
}

/// When memory runs out, the kernel takes this process and not the daemon or a program of the user's: here is most of the
/// memory, and the next request loads the model again. Source: proc(5), `oom_score_adj`.
fn volunteer() {
    if let Err(error) = fs_err::write("/proc/self/oom_score_adj", "1000") {
        stdio::warn(&format!("the kernel was not told to take this process first: {error}"));
    }
}

/// Loads and serves. An error is one of the load.
fn run(load: &Load, lines: &mut Lines, inbox: &Receiver<ToWorker>) -> Result<(), LoadError> {
    let log = llama::LoadLog::listen();
    for backend in &load.backends {
        llama::load_backend(backend)?;
    }
    let engine = llama::start()?;
    // Never freed: what the process has goes with it, and the thread of images may need it until then.
    let model: &'static LlamaModel = Box::leak(Box::new(load_with_progress(&engine, load, lines)?));
    let vocabulary = Vocabulary::new(model);
    if !vocabulary.has_texts() {
        let message = "the file has no vocabulary: it is not a model that can be talked to".into();
        return Err(LoadError { fault: LoadFault::Model, message });
    }
    if load.mtp && llama::mtp_heads(model) == 0 {
        return Err(LoadError::settings("its file has no layers for multi-token prediction: `mtp` has to be false"));
    }
    let (control_tokens, embeds) = (vocabulary.control_texts(), vocabulary.embeds());
    let mut load = load.clone();
    let mut adapters: Vec<Adapter<'_>> = Vec::new();
    loop {
        let signs = lines.another().map(LoadSigns::begin).map_err(|why| LlamaError(why.to_string()))?;
        // Once: adapters belong to the model, and a load of the same model has the same ones.
        if adapters.len() != load.adapters.len() {
            let loaded = load.adapters.iter().map(|path| Adapter::load(model, path)).collect::<Result<_, _>>();
            adapters = loaded.map_err(|LlamaError(why)| LoadError::settings(why))?;
        }
        let images = match &load.projector {
            Some(path) if embeds.is_none() => {
                let started = Images::start(model, path, load.threads_batch, load.device_layers > 0);
                Some(started.map_err(|LlamaError(why)| {
                    LoadError::settings(format!("{why} (`mmproj`); without one it loads and takes no images"))
                })?)
            }
            _ => None,
        };
        let (context, mtp) = room_for(model, &load, &vocabulary, log)?;
        let mut context = context.with_adapters(adapters.clone());
        if (load.mtp || load.draft_model.is_some()) && embeds.is_none() && context.rollback() == 0 {
            let setting = if load.mtp { "`mtp` has to be false" } else { "`draft_model` has to be empty" };
            let why = format!("llama.cpp cannot take guesses back for this kind of model: {setting}");
            return Err(LoadError::settings(why));
        }
        let guesser = match &load.draft_model {
            Some(_) if load.mtp => {
                return Err(LoadError::settings("either `draft_model` or `mtp` guesses, not both"));
            }
            Some(path) if embeds.is_none() => {
                Some(Guesser::Model(load_drafter(&engine, &load, path, (&vocabulary, &context), log)?))
            }
            _ => mtp.map(|context| Guesser::Mtp(Mtp::new(context, llama::mtp_heads(model)))),
        };
        let threads = match embeds {
            None => Threads::choose(&mut context, &load, &build()),
            Some(_) => Threads { answer: load.threads, prompt: load.threads_batch },
        };
        drop(signs);
        lines.send(&FromWorker::Loaded(Box::new(Loaded {
            context_length: context.sequence_length,
            parallel: context.sequences,
            trained_context_length: vocabulary.trained_context(),
            vocabulary_size: vocabulary.size.cast_unsigned(),
            chat_template: vocabulary.chat_template(),
            bos_token: vocabulary.bos_text(),
            eos_token: vocabulary.eos_text(),
            control_tokens: control_tokens.clone(),
            infill: vocabulary.infill(),
            backend: load.backends.first().cloned().unwrap_or_default(),
            model_bytes: vocabulary.weight_bytes(),
            buffers: log.buffers(),
            placement: log.placement(),
            embeds,
            sees_images: images.is_some(),
            threads: threads.answer,
            threads_batch: threads.prompt,
        })));
        let end = match embeds {
            None => {
                let is_whole = vocabulary.is_recurrent() || vocabulary.sliding_window() > 0;
                let saved = SavedPrompts::open(&load, &build(), context.sequence_length, is_whole);
                Worker::new(&vocabulary, context, saved, (images, guesser), &load).run(lines, inbox)
            }
            Some(_) => Embedder::new(&vocabulary, context).run(lines, inbox),
        };
        lines.flush();
        match end {
            End::Shutdown => break,
            End::Rest => {
                log.forget_context();
                lines.send(&FromWorker::Rested);
                match until_loaded_again(inbox, &load) {
                    Some(again) => load = again,
                    None => break,
                }
            }
        }
    }
    // The system takes everything back faster than llama.cpp would give it back piece by piece; the next model may wait
    // for the memory.
    llama::end_process(0)
}

/// Loads the small model that guesses; one that is there and cannot is a wrong setting. What it takes is not told: the daemon counts it beside the model.
fn load_drafter(
    engine: &LlamaBackend,
    load: &Load,
    path: &str,
    (vocabulary, context): (&Vocabulary<'_>, &Context<'_>),
    log: &llama::LoadLog,
) -> Result<Drafter, LoadError> {
    let before = log.mark();
    let named = |LlamaError(why)| LlamaError(format!("{path}, which should guess for it (`draft_model`): {why}"));
    if !std::path::Path::new(path).is_file() {
        return Err(LoadError::settings(format!("there is no file {path}, which `draft_model` names")));
    }
    let small = Load { model: path.into(), ..load.clone() };
    let model: &'static LlamaModel = Box::leak(Box::new(llama::load_model(engine, &small, |_| ()).map_err(named)?));
    let room = (context.sequence_length, context.sequences);
    let common = Drafter::check(model, vocabulary)
        .map_err(|LlamaError(why)| LoadError::settings(format!("{path} cannot guess for it (`draft_model`): {why}")))?;
    let drafter = Drafter::new(model, common, &small, room).map_err(named)?;
    log.back_to(before);
    Ok(drafter)
}

/// Why a worker does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Shutdown,
    Rest,
}

/// Rests until the same model is wanted again; nothing when the process should end.
fn until_loaded_again(inbox: &Receiver<ToWorker>, before: &Load) -> Option<Load> {
    loop {
        match inbox.recv() {
            // What a model that guesses has mapped would stay.
            Ok(ToWorker::Load(load))
                if load.model == before.model
                    && load.adapters == before.adapters
                    && before.draft_model.is_none()
                    && load.draft_model.is_none()
                    && !before.mtp
                    && !load.mtp =>
            {
                return Some(*load);
            }
            Ok(ToWorker::Load(load)) => {
                stdio::warn(&format!("{} is wanted of a process that has {}", load.model, before.model));
                return None;
            }
            Ok(ToWorker::Shutdown) | Err(_) => return None,
            // Of requests that were left.
            Ok(_) => {}
        }
    }
}

fn load_with_progress(engine: &LlamaBackend, load: &Load, lines: &Lines) -> Result<LlamaModel, LlamaError> {
    // The callback may outlive a borrow of the lines, so it has its own.
    let mut progress_lines = lines.another().map_err(|why| LlamaError(why.to_string()))?;
    let mut last: Option<Instant> = None;
    llama::load_model(engine, load, move |fraction| {
        if last.is_none_or(|at| at.elapsed() > Duration::from_millis(100)) {
            last = Some(Instant::now());
            progress_lines.send(&FromWorker::Loading { fraction });
        }
    })
}

/// Allocates the context, and that of layers for multi-token prediction where they are wanted. The system may refuse what was predicted to fit; then less is tried, unless that is no use.
fn room_for<'model>(
    model: &'model LlamaModel,
    load: &Load,
    vocabulary: &Vocabulary<'_>,
    log: &llama::LoadLog,
) -> Result<(Context<'model>, Option<Context<'model>>), LlamaError> {
    let trained = match vocabulary.trained_context() {
        0 => u32::MAX,
        trained => trained,
    };
    let embeds = vocabulary.embeds();
    let (mut length, mut sequences) = (load.context_length.clamp(1, trained), load.parallel.clamp(1, 64));
    if embeds.is_some() {
        length = length.min(LONGEST_EMBEDDED);
    }
    let own_and_mtp = |room| {
        let own = Context::new(model, load, room, embeds)?;
        let mtp = (load.mtp && embeds.is_none()).then(|| {
            let named = |LlamaError(why)| LlamaError(format!("the layers for multi-token prediction (`mtp`): {why}"));
            Context::of_mtp(model, load, &own).map_err(named)
        });
        Ok((own, mtp.transpose()?))
    };
    loop {
        match own_and_mtp((length, sequences)) {
            Ok(contexts) => return Ok(contexts),
            Err(error) if load.is_exact => return Err(error),
            Err(_) if sequences > 1 => sequences /= 2,
            Err(_) if length > 512 => length /= 2,
            Err(error) => return Err(error),
        }
        // What it said of buffers is of what is freed again.
        log.forget_context();
        stdio::warn(&format!("memory is short: {sequences} × {length} tokens of context are tried"));
    }
}
