//! How fast this machine computes with each quantisation, and how fast it reads its memory. From it follows what a
//! model will do that was never loaded here.

use crate::{
    llama::{self, Context, Entry, LlamaError},
    stdio::Lines,
    trial::print,
    trial_model::{self, Kind, Layers, MEASURED},
};
use cortex_api::worker::{Load, Measured, MeasuredType};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// Tokens of a timed batch: as many as a prompt gets computed at a time, or nearly.
const BATCH: u32 = 256;
/// Rounds through all models. What else the machine does comes and goes within seconds: so the times of each model are taken all
/// over the measurement, and their median counts.
const ROUNDS: u32 = 7;
/// Time after which no other round begins; on a machine at rest all of them take five seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Timed single tokens of a model in each round.
const SINGLES: u32 = 9;
/// Tokens that are there before the attention is timed that looks back at them.
const FAR: u32 = 1024;
/// Layers of the models that are timed with each quantisation, and of one with more of them.
const LAYERS: u32 = 3;
const MORE_LAYERS: u32 = 9;
/// Layers of one that no cache holds which belongs to two cores: 62 MiB.
const MANY_LAYERS: u32 = 36;
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
    many_layers: f64,
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
        ..Load::default()
    };
    let mut kinds = vec![
        (Layers::narrow(MORE_LAYERS, REFERENCE), 0),
        (Layers::narrow(MANY_LAYERS, REFERENCE), 0),
        (Layers::narrow(LAYERS, REFERENCE), FAR),
        (Layers::wide(REFERENCE), 0),
    ];
    kinds.extend(MEASURED.map(|kind| (Layers::narrow(LAYERS, kind), 0)));
    let mut models = Vec::new();
    for (layers, _) in &kinds {
        fs_err::write(scratch, layers.file()).map_err(|why| LlamaError(why.to_string()))?;
        models.push(llama::load_model(&engine, &load, |_| ())?);
        // The model has it mapped, and the next one must not write into it.
        fs_err::remove_file(scratch).map_err(|why| LlamaError(why.to_string()))?;
    }
    let mut subjects = Vec::new();
    for (model, (_, before)) in models.iter().zip(&kinds) {
        subjects.push(Subject::new(Context::new(model, &load, (load.context_length, 1), None)?, *before)?);
    }
    let began = Instant::now();
    for round in 0..ROUNDS {
        // A machine that computes something else takes many times as long, and what it gives is rough anyway.
        if round > 0 && began.elapsed() > PATIENCE {
            break;
        }
        for (subject, (layers, _)) in subjects.iter_mut().zip(&kinds) {
            // A batch through the many layers takes as long as all else, and says nothing that is not known.
            subject.time(layers.count() < MANY_LAYERS)?;
        }
    }
    let mut medians = subjects.into_iter().map(Subject::times);
    let mut next = || medians.next().ok_or_else(|| LlamaError("nothing was timed".into()));
    let timed = Timed {
        more_layers: next()?,
        many_layers: next()?.single,
        far: next()?,
        wide: next()?,
        narrow: MEASURED.into_iter().zip(medians).collect(),
    };
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
/// step, two lengths of the context the attention, and the rest is what weights take. A model that is larger than the caches takes
/// longer than that; what it takes more is the way of its bytes from memory.
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
    let many = Layers::narrow(MANY_LAYERS, REFERENCE);
    let cached = step + many.weights() * of_weight(near.single, step, &narrow);
    let types = timed.narrow.iter().map(|(kind, times)| MeasuredType {
        kind: kind.id(),
        single: of_weight(times.single, step, &narrow),
        batch: of_weight(times.batch, batch_step, &narrow),
    });
    Measured {
        processor_seconds: 0.0,
        bytes_per_second: 0.0,
        step,
        from_memory: ((timed.many_layers - cached) / many.bytes()).max(0.0),
        sizes: (Layers::narrow(MORE_LAYERS, REFERENCE).bytes(), many.bytes()),
        attention: ((timed.far.single - near.single) / looked_back).max(0.0),
        batch_attention: ((timed.far.batch - near.batch) / looked_back).max(0.0),
        types: types.collect(),
        wide: of_weight(timed.wide.single, step, &wide) / of_weight(near.single, step, &narrow),
        batch_wide: of_weight(timed.wide.batch, batch_step, &wide) / of_weight(near.batch, batch_step, &narrow),
    }
}

/// A model that is timed.
struct Subject<'a> {
    context: Context<'a>,
    /// Tokens that its context holds when the timing begins.
    before: u32,
    singles: Vec<f64>,
    batches: Vec<f64>,
}

impl<'a> Subject<'a> {
    fn new(context: Context<'a>, before: u32) -> Result<Self, LlamaError> {
        let mut subject = Self { context, before, singles: vec![], batches: vec![] };
        for from in (0..before).step_by(BATCH as usize) {
            subject.seconds(from, BATCH)?;
        }
        Ok(subject)
    }

    /// The seconds that so many tokens take from this position on.
    fn seconds(&mut self, from: u32, count: u32) -> Result<f64, LlamaError> {
        let entry = |position: u32| Entry {
            token: position.cast_signed() % trial_model::VOCABULARY,
            position,
            sequence: 0,
            wants_logits: position + 1 == from + count,
        };
        let batch: Vec<Entry> = (from..from + count).map(entry).collect();
        let started = Instant::now();
        self.context.compute(&batch)?;
        // The results are there only when somebody looks at them.
        self.context.logits(batch.len() - 1);
        Ok(started.elapsed().as_secs_f64())
    }

    /// One round.
    fn time(&mut self, has_batch: bool) -> Result<(), LlamaError> {
        self.context.truncate(0, self.before);
        if has_batch {
            let seconds = self.seconds(self.before, BATCH)?;
            self.batches.push(seconds / f64::from(BATCH));
            self.context.truncate(0, self.before);
        }
        // The first one is not timed: the caches are still those of the model before it.
        self.seconds(self.before, 1)?;
        for position in self.before + 1..=self.before + SINGLES {
            let seconds = self.seconds(position, 1)?;
            self.singles.push(seconds);
        }
        Ok(())
    }

    fn times(self) -> Times {
        Times { single: median(self.singles), batch: median(self.batches) }
    }
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
    for _ in 0..ROUNDS {
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
        let many = Layers::narrow(MANY_LAYERS, REFERENCE);
        let narrow = |kind| times(&Layers::narrow(LAYERS, kind), kind, 0, 1.0);
        let found = rates(&Timed {
            more_layers: times(&Layers::narrow(MORE_LAYERS, REFERENCE), REFERENCE, 0, 1.0),
            many_layers: times(&many, REFERENCE, 0, 1.0).single + many.bytes() * 1e-10,
            far: times(&Layers::narrow(LAYERS, REFERENCE), REFERENCE, FAR, 1.0),
            wide: times(&Layers::wide(REFERENCE), REFERENCE, 0, 0.75),
            narrow: MEASURED.map(|kind| (kind, narrow(kind))).to_vec(),
        });
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
        for (found, expected) in [
            (found.step, step),
            (found.attention, attention),
            (found.batch_attention, batch_attention),
            (found.from_memory, 1e-10),
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
