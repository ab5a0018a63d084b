//! Proves one compute module on this machine: loads it, loads a tiny model through llama.cpp, computes
//! one batch of 32 tokens and 8 single tokens, and times both.
//!
//! A module that the processor cannot run kills this process with SIGILL. That is the answer.

use crate::{
    llama::{self, Context, Entry, LlamaError},
    stdio::{self, Lines},
    trial_model,
};
use cortex_api::worker::{Load, TrialResult};
use std::{process::ExitCode, time::Instant};

/// Length of the timed batch.
const BATCH: u32 = 32;
/// Timed single tokens.
const SINGLES: u32 = 8;
/// Repetitions of the timed part; the fastest counts, the others were disturbed.
const REPETITIONS: u32 = 5;

/// Runs the trial and prints its one line.
pub(crate) fn run(mut lines: Lines, backend: &str, scratch: &str) -> ExitCode {
    match measure(backend, scratch) {
        Ok(result) => match serde_json::to_string(&result) {
            Ok(line) => {
                lines.send_text(&line);
                ExitCode::SUCCESS
            }
            Err(error) => stdio::fail(&error.to_string()),
        },
        Err(LlamaError(message)) => stdio::fail(&message),
    }
}

fn measure(backend: &str, scratch: &str) -> Result<TrialResult, LlamaError> {
    let failed = |why: &dyn std::fmt::Display| LlamaError(why.to_string());
    fs_err::write(scratch, trial_model::bytes()).map_err(|why| failed(&why))?;
    let load = Load {
        model: scratch.into(),
        backends: vec![backend.into()],
        context_length: 256,
        parallel: 1,
        // Threads that wait for one another would measure what else the machine does: two trials at once
        // on two cores, of two threads each, took 6 s instead of 40 ms.
        threads: 1,
        threads_batch: 1,
        batch: 64,
        is_exact: true,
    };
    llama::load_backend(backend)?;
    let engine = llama::start()?;
    let model = llama::load_model(&engine, scratch, |_| ())?;
    let mut context = Context::new(&engine, &model, &load, (256, 1))?;
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
