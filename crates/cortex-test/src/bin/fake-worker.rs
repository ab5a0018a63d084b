//! A worker without an engine: it speaks the protocol, and misbehaves when a prompt or the name of the
//! model's file asks for it. What it does is in [`cortex_test::fake_worker`].
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::exit, reason = "it behaves like a program that is broken")]

use cortex_api::worker::{
    FinishReason, FromWorker, Generate, Load, Loaded, PROTOCOL, PlacedLayers, Segment, Stats, Timings, ToWorker,
    TrialResult, encode,
};
use cortex_test::fake_worker::{self, Misbehaviour};
use std::{
    io::{BufRead, Write},
    process::exit,
    sync::mpsc::{Receiver, channel},
    thread::sleep,
    time::Duration,
};

/// What a slow worker takes for a load.
const LOAD: Duration = Duration::from_secs(1);
/// What it takes for an answer.
const SERVICE: Duration = Duration::from_millis(100);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["trial", _, _, _, device] if device.contains(fake_worker::BROKEN) => {
            let _ = writeln!(std::io::stderr(), "cortex-llamacpp: it computes nonsense");
            exit(1);
        }
        ["trial", ..] => {
            say(&encode(&TrialResult { batch_microseconds: 1, single_microseconds: 1 }));
            return;
        }
        ["measure", ..] => return say(&encode(&fake_worker::measured())),
        // A module for graphics processors is a file that says what it finds.
        ["devices", module] => match std::fs::read_to_string(module) {
            Ok(devices) if !devices.is_empty() => return say(&devices),
            _ => std::process::abort(),
        },
        _ => {}
    }
    let (sender, inbox) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str::<ToWorker>(&line).expect("the daemon keeps to the protocol"));
        }
        // Also when it hangs: a test must not leave it behind.
        exit(0);
    });
    serve(&inbox);
}

fn serve(inbox: &Receiver<ToWorker>) {
    let Ok(ToWorker::Load(load)) = inbox.recv() else { exit(1) };
    let misbehaviour = Misbehaviour::asked_by(&load.model);
    let protocol = if misbehaviour == Some(Misbehaviour::OldProtocol) { PROTOCOL - 1 } else { PROTOCOL };
    tell(&FromWorker::Hello { protocol, build: "fake".into() });
    misbehave(misbehaviour);
    let is_slow = misbehaviour == Some(Misbehaviour::Slow);
    if is_slow {
        sleep(LOAD);
    }
    tell(&FromWorker::Loaded(Box::new(facts(&load))));
    while let Ok(message) = inbox.recv() {
        match message {
            ToWorker::Generate(request) => {
                if is_slow {
                    sleep(SERVICE);
                }
                answer(&request);
            }
            ToWorker::Stats => tell(&FromWorker::Stats(Stats::default())),
            ToWorker::Embed { id, .. } => tell(&FromWorker::Embedded { id, vectors: vec![], tokens: vec![] }),
            ToWorker::Detokenize { id, .. } => tell(&FromWorker::Detokenized { id, text: String::new() }),
            ToWorker::Tokenize { id, .. } => tell(&FromWorker::Tokens { id, tokens: vec![], pieces: vec![] }),
            ToWorker::Rest => tell(&FromWorker::Rested),
            ToWorker::Shutdown => exit(0),
            ToWorker::Cancel { id } => {
                tell(&FromWorker::Finished { id, reason: FinishReason::Cancelled, timings: Timings::default() });
            }
            ToWorker::Load(_) => {}
        }
    }
}

fn facts(load: &Load) -> Loaded {
    let on_devices = load.device_layers.min(fake_worker::LAYERS);
    let here = PlacedLayers { device: "CPU".into(), layers: fake_worker::LAYERS - on_devices };
    let there = load.devices.first().map(|device| PlacedLayers { device: device.clone(), layers: on_devices });
    Loaded {
        context_length: load.context_length,
        parallel: load.parallel,
        vocabulary_size: 8,
        placement: [here].into_iter().chain(there).collect(),
        ..Loaded::default()
    }
}

/// One word for each token, in one write.
fn answer(request: &Generate) {
    let mut prompt = String::new();
    for segment in &request.prompt {
        if let Segment::Text { text, .. } = segment {
            prompt.push_str(text);
        }
    }
    let id = request.id;
    tell(&FromWorker::Accepted { id, prompt_tokens: u32::try_from(prompt.split_whitespace().count()).unwrap_or(0) });
    let misbehaviour = Misbehaviour::asked_by(&prompt);
    misbehave(misbehaviour);
    if misbehaviour == Some(Misbehaviour::Hold) {
        tell(&FromWorker::Text { id, text: "word ".into(), tokens: 1, probabilities: vec![] });
        return;
    }
    let tokens = request.max_tokens.unwrap_or(4);
    let mut lines = String::new();
    for _ in 0..tokens {
        lines.push_str(&encode(&FromWorker::Text { id, text: "word ".into(), tokens: 1, probabilities: vec![] }));
    }
    let timings = Timings { answer_tokens: tokens, ..Timings::default() };
    lines.push_str(&encode(&FromWorker::Finished { id, reason: FinishReason::Length, timings }));
    say(&lines);
}

fn misbehave(how: Option<Misbehaviour>) {
    match how {
        None | Some(Misbehaviour::OldProtocol | Misbehaviour::Hold | Misbehaviour::Slow) => {}
        Some(Misbehaviour::Hang) => loop {
            std::thread::park();
        },
        Some(Misbehaviour::Garbage) => say("{\"type\":\"nonsense\"}\n"),
        Some(Misbehaviour::Exit) => {
            let _ = writeln!(std::io::stderr(), "fake-worker: these are my last words");
            exit(3);
        }
        Some(Misbehaviour::Endless) => loop {
            say(&"x".repeat(1 << 20));
        },
    }
}

fn tell(message: &FromWorker) {
    say(&encode(message));
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // The daemon is gone.
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        exit(0);
    }
}
