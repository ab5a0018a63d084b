//! The worker: one process, one loaded GGUF, requests as JSON lines on standard input.
//!
//! Never speaks HTTP, never knows OpenAI, never reads settings or the data folder.

mod answering;
mod chain;
mod constraint;
mod draft_model;
mod drafting;
mod embedding;
mod generation;
mod guesser;
mod idle;
mod images;
mod llama;
mod load_log;
mod load_signs;
mod lookup;
mod measure;
mod mtp;
mod sampling;
mod saved;
mod schedule;
mod serve;
mod slot;
mod stdio;
mod text;
mod threads;
mod trial;
mod trial_model;
mod vocabulary;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let lines = match stdio::claim_stdout() {
        Ok(lines) => lines,
        Err(error) => return stdio::fail(&format!("cannot take standard output: {error}")),
    };
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => serve::serve(lines),
        ["trial", scratch, backend] => trial::run(lines, scratch, backend, None),
        ["trial", scratch, backend, graphics, device] => {
            trial::run(lines, scratch, backend, Some(trial::Graphics { backend: graphics, device }))
        }
        ["measure", scratch, backend, threads, memory] => measure::run(lines, scratch, backend, threads, memory),
        ["devices", backends @ ..] => trial::list_devices(lines, backends),
        _ => stdio::fail(
            "usage: cortex-llamacpp [devices BACKEND... | trial SCRATCH-FILE BACKEND [GRAPHICS-BACKEND DEVICE] | measure \
             SCRATCH-FILE BACKEND THREADS MEBIBYTES]; it is started by cortex-server",
        ),
    }
}
