//! How fast this machine computes with each quantisation, and how fast it reads its memory. From it follows what a
//! model will do that was never loaded here.

use crate::{
    llama::{self, Context, Entry, LlamaError},
    stdio::Lines,
    trial::print,
    trial_model::{self, Kind, Layers, MEASURED},
};
use cortex_api::worker::{CacheType, Load, Measured, MeasuredType};
use llama_cpp_2::llama_backend::LlamaBackend;
use std::{process::ExitCode, time::Instant};

/// Tokens of a timed batch: as many as a prompt gets computed at a time, or nearly.
const BATCH: u32 = 256;
/// Timed single tokens, of which the median counts.
const SINGLES: u32 = 63;
/// Timed batches, of which the median counts.
const BATCHES: u32 = 5;
/// Tokens that are there before the attention is timed that looks back at them.
const FAR: u32 = 1024;
/// Layers of the models that are timed with each quantisation, and of one with more of them.
const LAYERS: u32 = 3;
const MORE_LAYERS: u32 = 9;
/// The quantisation of the models that differ in something else.
const REFERENCE: Kind = Kind::Q4K;

/// Measures and prints the result.
pub(crate) fn run(lines: Lines, scratch: &str, backend: &str, threads: &str, memory: &str) -> ExitCode {
    print(lines, measure(scratch, backend, threads, memory))
}

/// Seconds of a step of one token, and of a batch for each of its tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    single: f64,
    batch: f64,
}

/// What was timed.
struct Timed {
    narrow: Vec<(Kind, Times)>,
    more_layers: Times,
    far: Times,
    wide: Times,
}

fn measure(scratch: &str, backend: &str, threads: &str, memory: &str) -> Result<Measured, LlamaError> {
    let number = |text: &str| text.parse::<u32>().map_err(|why| LlamaError(format!("{text}: {why}")));
    let (threads, mebibytes) = (number(threads)?.clamp(1, 512), number(memory)?);
    llama::load_backend(backend)?;
    let engine = llama::start()?;
    let load = Load {
        model: scratch.into(),
        backends: vec![backend.into()],
        context_length: FAR + 2 * BATCH,
        parallel: 1,
        is_exact: true,
        threads,
        threads_batch: threads,
        batch: BATCH,
        cache_type: CacheType::F16,
        devices: vec![],
        device_layers: 0,
    };
    let mut timed = Timed {
        more_layers: time(&engine, &load, &Layers::narrow(MORE_LAYERS, REFERENCE), 0)?,
        far: time(&engine, &load, &Layers::narrow(LAYERS, REFERENCE), FAR)?,
        wide: time(&engine, &load, &Layers::wide(REFERENCE), 0)?,
        narrow: vec![],
    };
    for kind in MEASURED {
        timed.narrow.push((kind, time(&engine, &load, &Layers::narrow(LAYERS, kind), 0)?));
    }
    let bytes_per_second = bandwidth(threads, mebibytes);
    Ok(Measured { bytes_per_second, processor_seconds: processor_seconds(), ..rates(&timed) })
}

/// Processor time of this process so far; 0 where the system does not tell. Source: proc(5), the 14th and 15th field of `stat`,
/// in hundredths of a second on Linux.
fn processor_seconds() -> f64 {
    let text = fs_err::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = after_name.split(' ').skip(11).take(2).filter_map(|number| number.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// What follows from the times. A step takes `step + weights × time of a weight + attention`: two numbers of layers tell the
/// step, two lengths of the context the attention, and the rest is what weights take.
fn rates(timed: &Timed) -> Measured {
    let (few, more) = (f64::from(LAYERS), f64::from(MORE_LAYERS));
    let (narrow, wide) = (Layers::narrow(LAYERS, REFERENCE), Layers::wide(REFERENCE));
    let near = timed.narrow.iter().find(|(kind, _)| *kind == REFERENCE).map_or(timed.far, |(_, times)| *times);
    let rest =
        |few_layers: f64, more_layers: f64| (few_layers - few * (more_layers - few_layers) / (more - few)).max(0.0);
    let step = rest(near.single, timed.more_layers.single);
    let batch_step = rest(near.batch, timed.more_layers.batch);
    let looked_back = narrow.attention() * f64::from(FAR);
    let of_weight = |time: f64, step: f64, layers: &Layers| (time - step).max(time / 10.0) / layers.weights();
    let types = timed.narrow.iter().map(|(kind, times)| MeasuredType {
        kind: kind.id(),
        single: of_weight(times.single, step, &narrow),
        batch: of_weight(times.batch, batch_step, &narrow),
    });
    Measured {
        processor_seconds: 0.0,
        bytes_per_second: 0.0,
        step,
        attention: ((timed.far.single - near.single) / looked_back).max(0.0),
        batch_attention: ((timed.far.batch - near.batch) / looked_back).max(0.0),
        types: types.collect(),
        wide: of_weight(timed.wide.single, step, &wide) / of_weight(near.single, step, &narrow),
        batch_wide: of_weight(timed.wide.batch, batch_step, &wide) / of_weight(near.batch, batch_step, &narrow),
    }
}

/// Times a model whose context holds so many tokens already.
fn time(engine: &LlamaBackend, load: &Load, layers: &Layers, before: u32) -> Result<Times, LlamaError> {
    fs_err::write(&load.model, layers.file()).map_err(|why| LlamaError(why.to_string()))?;
    let model = llama::load_model(engine, load, |_| ())?;
    let mut context = Context::new(engine, &model, load, (load.context_length, 1))?;
    let entry = |position: u32, wants_logits: bool| Entry {
        token: position.cast_signed() % trial_model::VOCABULARY,
        position,
        sequence: 0,
        wants_logits,
    };
    let seconds = |context: &mut Context<'_>, from: u32, count: u32| -> Result<f64, LlamaError> {
        let batch: Vec<Entry> =
            (from..from + count).map(|position| entry(position, position + 1 == from + count)).collect();
        let started = Instant::now();
        context.compute(&batch)?;
        // The results are there only when somebody looks at them.
        context.logits(batch.len() - 1);
        Ok(started.elapsed().as_secs_f64())
    };
    let mut filled = 0;
    while filled < before {
        seconds(&mut context, filled, BATCH)?;
        filled += BATCH;
    }
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        context.truncate(0, filled);
        batches.push(seconds(&mut context, filled, BATCH)? / f64::from(BATCH));
    }
    let mut singles = Vec::new();
    context.truncate(0, filled);
    for position in filled..filled + SINGLES {
        singles.push(seconds(&mut context, position, 1)?);
    }
    Ok(Times { single: median(singles), batch: median(batches) })
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes of memory that the threads read in a second, from a block that is larger than the caches of most processors.
fn bandwidth(threads: u32, mebibytes: u32) -> f64 {
    let words = (mebibytes.max(1) as usize) << 17;
    // Not zeros: those may all be the same page.
    let block: Vec<u64> = (0..words as u64).collect();
    let part = words.div_ceil(threads as usize);
    let mut times = Vec::new();
    for _ in 0..BATCHES {
        let started = Instant::now();
        let sum = std::thread::scope(|scope| {
            let readers: Vec<_> =
                block.chunks(part).map(|part| scope.spawn(|| part.iter().fold(0u64, |sum, word| sum ^ word))).collect();
            readers.into_iter().map(|reader| reader.join().unwrap_or(0)).fold(0, |sum, part| sum ^ part)
        });
        std::hint::black_box(sum);
        times.push(started.elapsed().as_secs_f64());
    }
    f64::from(mebibytes.max(1)) * 1_048_576.0 / median(times).max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out() {
        let (step, attention, batch_attention) = (3e-6, 2e-10, 1e-10);
        let of = |kind: Kind| (f64::from(kind.id()) + 1.0) * 1e-11;
        let times = |layers: &Layers, kind: Kind, before: u32, share: f64| Times {
            single: step + layers.weights() * of(kind) * share + layers.attention() * f64::from(before) * attention,
            batch: layers.weights() * of(kind) / 10.0 * share
                + layers.attention() * f64::from(before) * batch_attention,
        };
        let narrow = |kind| times(&Layers::narrow(LAYERS, kind), kind, 0, 1.0);
        let found = rates(&Timed {
            more_layers: times(&Layers::narrow(MORE_LAYERS, REFERENCE), REFERENCE, 0, 1.0),
            far: times(&Layers::narrow(LAYERS, REFERENCE), REFERENCE, FAR, 1.0),
            wide: times(&Layers::wide(REFERENCE), REFERENCE, 0, 0.75),
            narrow: MEASURED.map(|kind| (kind, narrow(kind))).to_vec(),
        });
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
        for (found, expected) in [
            (found.step, step),
            (found.attention, attention),
            (found.batch_attention, batch_attention),
            (found.wide, 0.75),
            (found.batch_wide, 0.75),
        ] {
            near(found, expected);
        }
        for (kind, measured) in MEASURED.iter().zip(&found.types) {
            near(measured.single, of(*kind));
            near(measured.batch, of(*kind) / 10.0);
        }
    }
}
