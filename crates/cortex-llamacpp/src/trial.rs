//! Proves one compute module on this machine, or one graphics processor: loads it, loads a tiny model through llama.cpp, computes
//! one batch of 32 tokens and 8 single tokens, and times both.
//!
//! A module that the processor cannot run kills this process with SIGILL. That is the answer.

use crate::{
    llama::{self, Context, Entry, LlamaError},
    stdio::{self, Lines},
    trial_model,
};
use cortex_api::worker::{Load, TrialResult};
use serde::Serialize;
use std::{process::ExitCode, time::Instant};

/// Length of the timed batch.
const BATCH: u32 = 32;
/// Timed single tokens.
const SINGLES: u32 = 8;
/// More layers than a model has.
const ALL_LAYERS: u32 = 1000;
/// Repetitions of the timed part; the fastest counts, the others were disturbed.
const REPETITIONS: u32 = 5;

/// A graphics processor to prove, beside the module for the processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Graphics<'name> {
    /// Its compute module.
    pub(crate) backend: &'name str,
    /// The engine's name for it.
    pub(crate) device: &'name str,
}

/// Runs the trial and prints its one line.
pub(crate) fn run(lines: Lines, scratch: &str, backend: &str, graphics: Option<Graphics<'_>>) -> ExitCode {
    print(lines, measure(scratch, backend, graphics))
}

/// Prints what the modules for graphics processors can compute on.
pub(crate) fn list_devices(lines: Lines, backends: &[&str]) -> ExitCode {
    let mut failed: Vec<LlamaError> =
        backends.iter().filter_map(|backend| llama::load_backend(backend).err()).collect();
    if failed.len() == backends.len()
        && let Some(error) = failed.pop()
    {
        return print(lines, Err::<(), _>(error));
    }
    // One that cannot be loaded, because its driver is not installed, does not hide the others.
    for LlamaError(message) in failed {
        stdio::warn(&message);
    }
    print(lines, Ok(llama::devices()))
}

pub(crate) fn print(mut lines: Lines, result: Result<impl Serialize, LlamaError>) -> ExitCode {
    let text = result.and_then(|result| serde_json::to_string(&result).map_err(|why| LlamaError(why.to_string())));
    match text {
        Ok(line) => {
            lines.send_text(&line);
            ExitCode::SUCCESS
        }
        Err(LlamaError(message)) => stdio::fail(&message),
    }
}

fn measure(scratch: &str, backend: &str, graphics: Option<Graphics<'_>>) -> Result<TrialResult, LlamaError> {
    let failed = |why: &dyn std::fmt::Display| LlamaError(why.to_string());
    fs_err::write(scratch, trial_model::bytes()).map_err(|why| failed(&why))?;
    let load = Load {
        model: scratch.into(),
        backends: [Some(backend), graphics.map(|it| it.backend)].into_iter().flatten().map(str::to_owned).collect(),
        context_length: 256,
        parallel: 1,
        // Threads that wait for one another would measure what else the machine does: two trials at once
        // on two cores, of two threads each, took 6 s instead of 40 ms.
        threads: 1,
        threads_batch: 1,
        batch: 64,
        is_exact: true,
        devices: graphics.iter().map(|it| it.device.to_owned()).collect(),
        device_layers: if graphics.is_some() { ALL_LAYERS } else { 0 },
        ..Load::default()
    };
    for backend in &load.backends {
        llama::load_backend(backend)?;
    }
    let engine = llama::start()?;
    let model = llama::load_model(&engine, &load, |_| ())?;
    let mut context = Context::new(&model, &load, (256, 1), None)?;
    let mut best = TrialResult { batch_microseconds: u64::MAX, single_microseconds: u64::MAX };
    for _ in 0..REPETITIONS {
        context.truncate(0, 0);
        let batch: Vec<Entry> = (0..BATCH).map(|position| entry(position, position + 1 == BATCH)).collect();
        let started = Instant::now();
        context.compute(&batch)?;
        check(context.logits(batch.len() - 1))?;
        best.batch_microseconds = best.batch_microseconds.min(microseconds(started));
        let started = Instant::now();
        for position in BATCH..BATCH + SINGLES {
            context.compute(&[entry(position, true)])?;
            check(context.logits(0))?;
        }
        best.single_microseconds = best.single_microseconds.min(microseconds(started) / u64::from(SINGLES));
    }
    Ok(best)
}

fn entry(position: u32, wants_logits: bool) -> Entry {
    Entry { token: position.cast_signed() % trial_model::VOCABULARY, position, sequence: 0, wants_logits }
}

fn check(logits: &[f32]) -> Result<(), LlamaError> {
    let differ = logits.windows(2).any(|pair| pair[0].to_bits() != pair[1].to_bits());
    if logits.iter().all(|logit| logit.is_finite()) && differ {
        Ok(())
    } else {
        Err(LlamaError("the module computes numbers that are none, or all the same".into()))
    }
}

fn microseconds(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}
