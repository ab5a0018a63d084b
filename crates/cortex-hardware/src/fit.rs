//! How much memory a model needs, and whether it fits this machine. Pure.
//!
//! What is counted is what llama.cpp allocates for a model, by the names that its load log gives the buffers: weights,
//! the cache of keys and values (`KV`, and `RS` for recurrent layers), the buffers of the computation, and its output.

use crate::Hardware;

/// llama.cpp gives each sequence a multiple of so many cells.
const CELLS: u64 = 256;
/// Most tokens that are computed at once (`n_ubatch`): the buffers of the computation grow with it.
const BATCH: u64 = 512;
/// What a worker takes besides: its code, the vocabulary and the tables of its allocator. Measured: 27 MiB with the
/// vocabulary of 49,152 tokens of `SmolLM2`.
const PROCESS: u64 = 16 << 20;
/// Of which so many bytes for each token of the vocabulary.
const PROCESS_TOKEN: u64 = 224;

/// What is known of a model that decides how much memory it needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelShape {
    /// Bytes of its weights; those of its files before the header was read.
    pub weight_bytes: u64,
    /// How it is built; `None` before its header was read.
    pub architecture: Option<Architecture>,
    /// Tokens of context that one request may use.
    pub context: u32,
    /// Requests that run at the same time, each with a context of its own; 0 counts as 1.
    pub parallel: u32,
    /// How keys and values are stored.
    pub cache_type: CacheType,
}

/// How a model is built, as far as its memory is concerned. Widths are numbers for each token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Architecture {
    /// Tokens that it knows.
    pub vocabulary: u64,
    /// Width between the layers.
    pub embedding: u64,
    /// Width inside of a layer: of experts, those that a token passes together.
    pub feed_forward: u64,
    /// Context that it was trained with; 0 when it does not say.
    pub trained_context: u32,
    /// Its layers.
    pub layers: Vec<Layer>,
}

/// What one layer keeps between tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layer {
    /// Numbers in the keys of a token; 0 when it has no attention.
    pub keys: u64,
    /// Numbers in the values of a token; 0 where they are a part of the keys (multi-head latent attention).
    pub values: u64,
    /// The layer looks back no further than so many tokens. Its cells are kept for the whole context all the same, so
    /// that an earlier part of a prompt can be used again.
    pub window: Option<u32>,
    /// Numbers in the state of a recurrent layer, for each sequence.
    pub state: u64,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheType {
    /// Two bytes a number.
    #[default]
    F16,
    /// 34 bytes for 32 numbers.
    Q8,
    /// 18 bytes for 32 numbers.
    Q4,
}

impl CacheType {
    fn bytes(self, numbers: u64) -> u64 {
        match self {
            Self::F16 => numbers.saturating_mul(2),
            Self::Q8 => numbers.saturating_mul(34) / 32,
            Self::Q4 => numbers.saturating_mul(18) / 32,
        }
    }
}

/// How a model fits. Amounts are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Its weights.
    pub weights: u64,
    /// The cache of keys and values, and the states of recurrent layers.
    pub cache: u64,
    /// The buffers of the computation.
    pub compute: u64,
    /// The results of the last step.
    pub output: u64,
    /// What the process takes besides.
    pub process: u64,
    /// All of it.
    pub needed: u64,
    /// Bytes that it may have.
    pub budget: u64,
    /// Tokens of context that one request can have on this machine, in steps of 256, and not more than the model was
    /// trained with; `None` when not even 256 fit, or the model is not known well enough.
    pub largest_context: Option<u32>,
}

impl Fit {
    /// Whether it does.
    pub fn fits(self) -> bool {
        self.needed <= self.budget
    }
}

/// How a model fits a machine.
pub fn fit(shape: &ModelShape, hardware: &Hardware) -> Fit {
    let budget = hardware.memory.for_models();
    let trained = shape.architecture.as_ref().map(|it| it.trained_context);
    let most = trained.map(|trained| if trained == 0 { shape.context } else { trained });
    let largest_context = most.and_then(|most| shape.largest_context(most, budget));
    Fit { budget, largest_context, ..shape.sum() }
}

impl ModelShape {
    /// Bytes that it needs.
    pub fn needed(&self) -> u64 {
        self.sum().needed
    }

    /// Of which what the worker process takes beside the engine's buffers.
    pub fn process_bytes(&self) -> u64 {
        let vocabulary = self.architecture.as_ref().map(|it| it.vocabulary);
        vocabulary.map_or(0, |tokens| PROCESS.saturating_add(tokens.saturating_mul(PROCESS_TOKEN)))
    }

    /// The largest context, in steps of 256 tokens and not more than `most`, with which it needs no more than so many
    /// bytes; `None` when not even 256 tokens fit.
    pub fn largest_context(&self, most: u32, bytes: u64) -> Option<u32> {
        let of_context = |context: u32| ModelShape { context, ..self.clone() }.needed();
        // More tokens never need less, so the largest that fits is found by halving.
        let (mut fitting, mut too_many) = (0, most / 256 + 1);
        while fitting + 1 < too_many {
            let middle = u32::midpoint(fitting, too_many);
            if of_context(middle * 256) <= bytes { fitting = middle } else { too_many = middle }
        }
        (fitting > 0).then_some(fitting * 256)
    }

    /// The most requests at the same time, not more than it says and `least` at least, with which it needs no more than
    /// so many bytes.
    pub fn most_parallel(&self, least: u32, bytes: u64) -> Option<u32> {
        let of = |parallel: u32| Self { parallel, ..self.clone() }.needed();
        (least..=self.parallel.max(1)).rev().find(|&parallel| of(parallel) <= bytes)
    }

    /// What it needs.
    ///
    /// Before the header is known, the buffers are taken for a tenth of the weights, and the cache for 1/8 of
    /// the weights at 4096 tokens: 1/9 is right for Llama-3.1-8B in `Q4_K_M`, less for most newer models.
    fn sum(&self) -> Fit {
        let sequences = u64::from(self.parallel.max(1));
        let process = self.process_bytes();
        let (cache, compute, output) = match &self.architecture {
            None => {
                let of_one = (self.weight_bytes / 8 / 4096).saturating_mul(self.context.into());
                (of_one.saturating_mul(sequences), self.weight_bytes / 10, 0)
            }
            Some(architecture) => (
                cache(self, architecture),
                compute(self, architecture),
                architecture.vocabulary.saturating_mul(4).saturating_mul(sequences),
            ),
        };
        let parts = [self.weight_bytes, cache, compute, output, process];
        Fit {
            weights: self.weight_bytes,
            cache,
            compute,
            output,
            process,
            needed: parts.into_iter().fold(0, u64::saturating_add),
            budget: 0,
            largest_context: None,
        }
    }
}

/// Cells of one sequence.
fn cells(shape: &ModelShape) -> u64 {
    u64::from(shape.context.max(1)).next_multiple_of(CELLS)
}

/// A cell holds the keys and values of one token in each layer (`llama_kv_cache`). The states of recurrent layers are F32
/// (`llama_memory_recurrent`).
fn cache(shape: &ModelShape, architecture: &Architecture) -> u64 {
    let sequences = u64::from(shape.parallel.max(1));
    let cells = cells(shape).saturating_mul(sequences);
    let of_layer = |layer: &Layer| {
        let kept = shape.cache_type.bytes(layer.keys).saturating_add(shape.cache_type.bytes(layer.values));
        kept.saturating_mul(cells).saturating_add(layer.state.saturating_mul(4).saturating_mul(sequences))
    };
    architecture.layers.iter().map(of_layer).fold(0, u64::saturating_add)
}

/// The buffers of a step with [`BATCH`] tokens, with flash attention. Two stages are the widest: the inside of a layer, with
/// three widths of it, and the last one, with a number for each token of the vocabulary and each sequence (a step has no
/// more results); five embeddings are alive beside them. The mask says which cell each token may see: two bytes each, once
/// more for layers with a window. Fitted to what llama.cpp reports for models of seven shapes; the test of the worker
/// compares them.
fn compute(shape: &ModelShape, architecture: &Architecture) -> u64 {
    let float = BATCH * 4;
    let embedding = architecture.embedding.saturating_mul(float);
    let inside = architecture.feed_forward.saturating_mul(float);
    let results = u64::from(shape.parallel.max(1)).min(BATCH);
    let last =
        architecture.vocabulary.saturating_mul(4).saturating_mul(results).saturating_add(embedding.saturating_mul(5));
    // Narrow layers fit into what the attention before them has left.
    let beside = if inside > embedding { 5 } else { 3 };
    let layer = inside.saturating_mul(3).saturating_add(embedding.saturating_mul(beside));
    let has =
        |is_window: bool| architecture.layers.iter().any(|layer| layer.keys > 0 && layer.window.is_some() == is_window);
    let masks = u64::from(has(true)) + u64::from(has(false));
    // The tokens of a step are spread over the sequences, each of which has its own cells.
    let mask = cells(shape).saturating_mul(BATCH).saturating_mul(2).saturating_mul(masks);
    last.max(layer).saturating_add(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, Memory};

    const MIB: u64 = 1 << 20;

    fn machine(available: u64) -> Hardware {
        let cpu = Cpu { model: String::new(), flags: vec![], cores: 1, kernel: String::new() };
        Hardware { cpu, memory: Memory { total: available, available } }
    }

    fn smollm2() -> Architecture {
        Architecture {
            vocabulary: 49_152,
            embedding: 576,
            feed_forward: 1536,
            trained_context: 8192,
            layers: vec![Layer { keys: 192, values: 192, ..Layer::default() }; 30],
        }
    }

    fn of(architecture: Architecture, context: u32, parallel: u32) -> ModelShape {
        ModelShape {
            weight_bytes: 96_574_464,
            architecture: Some(architecture),
            context,
            parallel,
            cache_type: CacheType::F16,
        }
    }

    fn near(found: u64, expected: f64, percent: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let found = found as f64 / MIB as f64;
        (found - expected).abs() <= expected * percent / 100.0
    }

    #[test]
    fn the_buffers_of_smollm2_are_those_that_llama_cpp_reports() {
        for (context, parallel, cache, compute, output) in
            [(512, 1, 11.25, 15.14, 0.19), (8192, 1, 180.0, 22.64, 0.19), (2048, 8, 360.0, 16.64, 1.5)]
        {
            let fit = fit(&of(smollm2(), context, parallel), &machine(0));
            assert!(near(fit.cache, cache, 0.1), "{context} × {parallel}: {fit:?}");
            assert!(near(fit.compute, compute, 10.0), "{context} × {parallel}: {fit:?}");
            assert!(near(fit.output, output, 2.0), "{context} × {parallel}: {fit:?}");
            assert_eq!(fit.needed, fit.weights + fit.cache + fit.compute + fit.output + fit.process);
        }
    }

    #[test]
    fn each_kind_of_layer_keeps_what_it_should() {
        let layers = |layer: Layer| Architecture { layers: vec![layer; 2], ..smollm2() };
        let cache = |layer, context, parallel| fit(&of(layers(layer), context, parallel), &machine(0)).cache;
        let attention = Layer { keys: 64, values: 32, ..Layer::default() };
        assert_eq!(cache(attention, 256, 1), 2 * 256 * 96 * 2);
        // A multiple of 256 for each sequence.
        assert_eq!(cache(attention, 257, 3), 2 * 512 * 3 * 96 * 2);
        // The state of a recurrent layer grows with the sequences and not with the context.
        let recurrent = Layer { state: 1000, ..Layer::default() };
        assert_eq!((cache(recurrent, 256, 1), cache(recurrent, 8192, 4)), (2 * 4000, 4 * 2 * 4000));
        // Latent attention has no values of its own.
        assert_eq!(cache(Layer { keys: 576, ..Layer::default() }, 256, 1), 2 * 256 * 576 * 2);
        let shape = ModelShape { cache_type: CacheType::Q8, ..of(layers(attention), 256, 1) };
        assert_eq!(fit(&shape, &machine(0)).cache, 2 * 256 * (68 + 34));
        let shape = ModelShape { cache_type: CacheType::Q4, ..shape };
        assert_eq!(fit(&shape, &machine(0)).cache, 2 * 256 * (36 + 18));
    }

    #[test]
    fn the_largest_context_is_the_last_that_fits() {
        let all = fit(&of(smollm2(), 8192, 1), &machine(1 << 40));
        assert_eq!(all.largest_context, Some(8192));
        for available in [300 * MIB, 460 * MIB, 510 * MIB, 560 * MIB] {
            let found = fit(&of(smollm2(), 8192, 1), &machine(available)).largest_context;
            let fits = |context| fit(&of(smollm2(), context, 1), &machine(available)).fits();
            match found {
                None => assert!(!fits(256)),
                Some(context) => assert!(fits(context) && (context == 8192 || !fits(context + 256)), "{context}"),
            }
        }
        assert_eq!(fit(&of(smollm2(), 8192, 1), &machine(0)).largest_context, None);
    }

    #[test]
    fn before_the_header_is_read_the_size_of_the_file_must_do() {
        let gib = 1 << 30;
        let shape = |weight_bytes, context| ModelShape { weight_bytes, context, ..ModelShape::default() };
        assert_eq!(fit(&shape(8 * gib, 4096), &machine(0)).needed, 8 * gib + 8 * gib / 10 + gib);
        let needed = fit(&shape(gib, 4096), &machine(0)).needed;
        let with = |available: u64| Memory { total: available, available };
        let enough = needed + with(needed).kept_free() + needed / 8;
        assert!(fit(&shape(gib, 4096), &machine(enough)).fits());
        assert!(!fit(&shape(gib, 4096), &machine(needed + needed / 20)).fits());
        let four = ModelShape { parallel: 4, ..shape(gib, 4096) };
        assert_eq!(four.needed() - needed, 3 * (gib / 8));
    }

    #[test]
    fn nonsense_does_not_overflow() {
        let layer = Layer { keys: u64::MAX, values: u64::MAX, window: Some(u32::MAX), state: u64::MAX };
        let architecture = Architecture {
            vocabulary: u64::MAX,
            embedding: u64::MAX,
            feed_forward: u64::MAX,
            trained_context: u32::MAX,
            layers: vec![layer],
        };
        let shape = ModelShape {
            weight_bytes: u64::MAX,
            architecture: Some(architecture),
            context: u32::MAX,
            parallel: u32::MAX,
            cache_type: CacheType::Q8,
        };
        assert!(!fit(&shape, &machine(u64::MAX)).fits());
        assert!(
            !fit(&ModelShape { weight_bytes: u64::MAX, context: u32::MAX, ..ModelShape::default() }, &machine(1))
                .fits()
        );
    }
}
