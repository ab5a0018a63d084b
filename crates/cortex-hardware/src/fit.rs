//! How much memory a model needs, and whether it fits this machine. Pure.
//!
//! What is counted is what llama.cpp allocates for a model, by the names that its load log gives the buffers: weights,
//! the cache of keys and values (`KV`, and `RS` for recurrent layers), the buffers of the computation, and its output.

use crate::{
    Memory,
    shape::{Architecture, CacheType, Layer, ModelShape},
};

/// llama.cpp gives each sequence a multiple of so many cells.
const CELLS: u64 = 256;
/// Most tokens that are computed at once (`n_ubatch`): the buffers of the computation grow with it.
pub const BATCH: u64 = 512;
/// Guesses at most that a step computes beside the next tokens (`MOST_DRAFTED` of the worker).
const DRAFTED: u64 = 16;
/// What a worker takes besides: its code, the vocabulary and the tables of its allocator. Measured: 18 to 23 MiB with the
/// vocabulary of 49,152 tokens of `SmolLM2`, of which 3 are for graphs.
const PROCESS: u64 = 8 << 20;
/// Of which so many bytes for each token of the vocabulary.
const PROCESS_TOKEN: u64 = 224;
/// Graphs that a context of llama.cpp keeps room for: the one that buffers are measured with, and those of steps with and without
/// results (`gf_res_reserve`, `gf_res_prev`).
const GRAPHS: u64 = 3;
/// Bytes of a node of a graph: its tensor (`ggml_tensor_overhead`), its places in two lists, and two in a table of 12 bytes each
/// (`ggml_graph_overhead_custom`).
const GRAPH_NODE: u64 = 368 + 2 * 8 + 2 * 12;
/// Nodes for which there is room at least (`graph_max_nodes`).
const LEAST_NODES: u64 = 1024;
/// What the driver of a graphics processor takes in the process that uses it.
const GRAPHICS_PROCESS: u64 = 64 << 20;
/// Earlier states of recurrent layers that are kept beside one for each request at a time: of system prompts, and of turns before the last.
const SHARED_STATES: u64 = 6;
/// States of recurrent layers that each sequence has beside its last one, where guesses are made for it.
const ROLLBACK: u64 = 4;
/// Tokens of an answer whose numbers are kept until a guess is wanted.
const MTP_KEPT: u64 = 512;
/// Bytes for earlier states, even if they are small.
const LEAST_FOR_STATES: u64 = 8 << 20;

/// Contexts that are taken where nobody says otherwise. Longer ones are seldom used, and cost time at each load.
const COMFORTABLE: [u32; 3] = [8192, 16_384, 32_768];

/// Bytes of a model by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
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
}

impl Parts {
    /// All of it.
    pub fn total(self) -> u64 {
        self.plus(Self::default())
    }

    fn plus(self, more: Self) -> u64 {
        [self, more]
            .iter()
            .flat_map(|it| [it.weights, it.cache, it.compute, it.output, it.process])
            .fold(0, u64::saturating_add)
    }
}

/// Graphics processors that models may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Graphics {
    /// None.
    #[default]
    None,
    /// They compute in the memory of the machine.
    Shared,
    /// They have so many bytes of their own to give.
    Own(u64),
}

/// What a model may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Bytes of the machine's memory.
    pub memory: u64,
    /// Graphics processors.
    pub graphics: Graphics,
}

impl From<Memory> for Budget {
    /// What the machine's memory has for models, without graphics processors.
    fn from(memory: Memory) -> Self {
        Self { memory: memory.for_models(), graphics: Graphics::None }
    }
}

/// Where a model is, and what it takes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Placed {
    /// Layers on graphics processors: the last ones, of which the output counts as one.
    pub layers: u32,
    /// In the memory of the machine.
    pub memory: Parts,
    /// In the memory of graphics processors; of those that share the machine's it is a part of that.
    pub graphics: Parts,
    is_shared: bool,
}

impl Placed {
    /// Bytes of the machine's memory.
    pub fn memory_bytes(self) -> u64 {
        self.memory.plus(if self.is_shared { self.graphics } else { Parts::default() })
    }

    /// Bytes of memory that only graphics processors have.
    pub fn graphics_bytes(self) -> u64 {
        if self.is_shared { 0 } else { self.graphics.total() }
    }

    /// Bytes by what they are for, wherever they are.
    pub fn parts(self) -> Parts {
        let (here, there) = (self.memory, self.graphics);
        Parts {
            weights: here.weights.saturating_add(there.weights),
            cache: here.cache.saturating_add(there.cache),
            compute: here.compute.saturating_add(there.compute),
            output: here.output.saturating_add(there.output),
            process: here.process.saturating_add(there.process),
        }
    }
}

/// How a model fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Where it would be.
    pub placed: Placed,
    /// What it may have.
    pub budget: Budget,
    /// Tokens of context that one request can have on this machine, in steps of 256, and not more than the model was
    /// trained with; `None` when not even 256 fit, or the model is not known well enough.
    pub largest_context: Option<u32>,
}

impl Fit {
    /// Whether it does.
    pub fn fits(self) -> bool {
        self.needed() <= self.budget.memory
    }

    /// Bytes of the machine's memory that it needs.
    pub fn needed(self) -> u64 {
        self.placed.memory_bytes()
    }
}

/// How a model fits a machine.
pub fn fit(shape: &ModelShape, budget: Budget) -> Fit {
    let trained = shape.architecture.as_ref().map(|it| it.trained_context);
    let most = trained.map(|trained| if trained == 0 { shape.context } else { trained });
    let largest_context = most.and_then(|most| shape.largest_context(most, budget));
    Fit { placed: shape.placed(budget.graphics), budget, largest_context }
}

impl ModelShape {
    /// What the worker process takes beside the engine's buffers, and what is loaded beside the weights.
    pub fn process_bytes(&self, is_on_graphics: bool) -> u64 {
        let vocabulary = self.architecture.as_ref().map(|it| it.vocabulary);
        let process = vocabulary.map_or(0, |tokens| PROCESS.saturating_add(tokens.saturating_mul(PROCESS_TOKEN)));
        let process = process.saturating_add(self.graph_bytes());
        let draft = self.draft.as_ref().map_or(0, |draft| {
            let (context, parallel, cache_type) = (self.context, self.parallel, self.cache_type);
            Self { context, parallel, cache_type, ..(**draft).clone() }.placed(Graphics::None).memory_bytes()
        });
        let process = process.saturating_add(self.beside_bytes).saturating_add(draft);
        let process = process.saturating_add(self.checkpoint_bytes()).saturating_add(self.mtp_bytes());
        process.saturating_add(if is_on_graphics { GRAPHICS_PROCESS } else { 0 })
    }

    /// Bytes for the graphs of its contexts: the layers for multi-token prediction have one of their own.
    fn graph_bytes(&self) -> u64 {
        let nodes = self.architecture.as_ref().map_or(0, |it| it.graph_nodes.max(LEAST_NODES));
        nodes.saturating_mul(GRAPHS * GRAPH_NODE * if self.mtp { 2 } else { 1 })
    }

    /// Whether keys and values can be stored as it says: llama.cpp has blocks of 32 numbers in each head.
    pub fn stores_cache(&self) -> bool {
        let is_narrow =
            |architecture: &Option<Architecture>| architecture.as_ref().is_some_and(|it| it.has_narrow_heads);
        let drafts = self.draft.as_ref().is_some_and(|draft| is_narrow(&draft.architecture));
        self.cache_type == CacheType::F16 || !is_narrow(&self.architecture) && !drafts
    }

    /// Bytes of its weights that are loaded.
    fn loaded_weights(&self) -> u64 {
        let layers = self.architecture.iter().filter(|_| !self.mtp).flat_map(|it| &it.mtp_layers);
        self.weight_bytes.saturating_sub(layers.map(|layer| layer.weights).fold(0, u64::saturating_add))
    }

    /// Bytes of the processor's memory for layers for multi-token prediction: what the model holds of each token of a step, and what is
    /// kept of answers until a guess is wanted.
    fn mtp_bytes(&self) -> u64 {
        let Some(architecture) = self.architecture.as_ref().filter(|_| self.mtp) else { return 0 };
        let tokens = BATCH.saturating_mul(2).saturating_add(MTP_KEPT.saturating_mul(sequences(self)));
        architecture.embedding.saturating_mul(tokens).saturating_mul(4)
    }

    /// Layers that graphics processors are told to take for so many of those that are counted here: llama.cpp counts those for multi-token
    /// prediction, too, which stand between the others and the output.
    pub fn told_layers(&self, layers: u32) -> u32 {
        let mtp = self.architecture.as_ref().map_or(0, |it| u32::try_from(it.mtp_layers.len()).unwrap_or(0));
        if layers > 1 { layers.saturating_add(mtp) } else { layers }
    }

    /// Bytes for earlier states of recurrent layers: one for each request at a time, and a few for what several begin with; small
    /// ones may be many.
    pub fn checkpoint_bytes(&self) -> u64 {
        let numbers = |architecture: &Architecture| {
            architecture.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.state))
        };
        match self.architecture.as_ref().map_or(0, numbers).saturating_mul(4) {
            0 => 0,
            state => state.saturating_mul(sequences(self).saturating_add(SHARED_STATES)).max(LEAST_FOR_STATES),
        }
    }

    /// Layers that can be on a graphics processor, the output among them; 0 when they are not known.
    pub fn layers(&self) -> u32 {
        self.architecture.as_ref().map_or(0, |it| u32::try_from(it.layers.len()).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// The largest context, in steps of 256 tokens and not more than `most`, with which it fits; `None` when not even 256
    /// tokens do.
    pub fn largest_context(&self, most: u32, budget: Budget) -> Option<u32> {
        let fits = |context: u32| ModelShape { context, ..self.clone() }.fits(budget);
        // More tokens never need less, so the largest that fits is found by halving.
        let (mut fitting, mut too_many) = (0, most / 256 + 1);
        while fitting + 1 < too_many {
            let middle = u32::midpoint(fitting, too_many);
            if fits(middle * 256) { fitting = middle } else { too_many = middle }
        }
        (fitting > 0).then_some(fitting * 256)
    }

    /// The most requests at the same time, not more than it says and `least` at least, with which it fits, and no fewer of
    /// its layers are on graphics processors than with `least`.
    pub fn most_parallel(&self, least: u32, budget: Budget) -> Option<u32> {
        let of = |parallel: u32| Self { parallel, ..self.clone() };
        let layers = of(least).placed(budget.graphics).layers;
        (least..=self.parallel.max(1)).rev().find(|&parallel| {
            let placed = of(parallel).placed(budget.graphics);
            placed.layers >= layers && placed.memory_bytes() <= budget.memory
        })
    }

    /// The context that one request gets where nobody says otherwise: the longest of a few lengths whose cache takes no more than a
    /// quarter of what is there for models beside the weights, so that there is room for more requests, and other models. Not
    /// more than the model was trained with, and not less than the shortest of the lengths, whatever there is.
    pub fn comfortable_context(&self, budget: Budget) -> u32 {
        let Some(architecture) = &self.architecture else { return COMFORTABLE[0] };
        let bytes = match budget.graphics {
            // Layers should not leave a graphics processor for a longer context.
            Graphics::Own(bytes) if bytes > self.weight_bytes => bytes,
            Graphics::Own(_) | Graphics::None | Graphics::Shared => budget.memory,
        };
        let most = bytes.saturating_sub(self.weight_bytes) / 4;
        let of = |context: u32| {
            let shape = Self { context, parallel: 1, ..self.clone() };
            architecture.layers.iter().map(|layer| cache(&shape, layer)).fold(0, u64::saturating_add)
        };
        let longest = COMFORTABLE.iter().rev().find(|&&context| of(context) <= most).copied().unwrap_or(COMFORTABLE[0]);
        match architecture.trained_context {
            0 => longest,
            trained => longest.min(trained),
        }
    }

    fn fits(&self, budget: Budget) -> bool {
        self.placed(budget.graphics).memory_bytes() <= budget.memory
    }

    /// What it takes with as many layers on graphics processors as fit there.
    ///
    /// Before the header is known, the buffers are taken for a tenth of the weights, and the cache for 1/8 of
    /// the weights at 4096 tokens: 1/9 is right for Llama-3.1-8B in `Q4_K_M`, less for most newer models. Such a model
    /// is left to the processor.
    pub fn placed(&self, graphics: Graphics) -> Placed {
        let process = self.process_bytes(false);
        let Some(architecture) = &self.architecture else {
            let of_one = (self.weight_bytes / 8 / 4096).saturating_mul(self.context.into());
            let cache = of_one.saturating_mul(sequences(self));
            let memory =
                Parts { weights: self.weight_bytes, cache, compute: self.weight_bytes / 10, output: 0, process };
            return Placed { memory, ..Placed::default() };
        };
        let sum = |layers: &[Layer], of: &dyn Fn(&Layer) -> u64| layers.iter().map(of).fold(0, u64::saturating_add);
        let mtp_layers: &[Layer] = if self.mtp { &architecture.mtp_layers } else { &[] };
        let of_mtp = (sum(mtp_layers, &|layer| layer.weights), sum(mtp_layers, &|layer| cache(self, layer)));
        let all = sum(&architecture.layers, &|layer| cache(self, layer)).saturating_add(of_mtp.1);
        // The layers for multi-token prediction have buffers of their own.
        let contexts = if self.mtp { 2 } else { 1 };
        let step = compute(self, architecture).saturating_mul(contexts);
        let output = architecture.vocabulary.saturating_mul(4 * contexts).saturating_mul(results(self));
        let mut placed = Placed {
            layers: 0,
            memory: Parts { weights: self.loaded_weights(), cache: all, compute: step, output, process },
            graphics: Parts::default(),
            is_shared: graphics == Graphics::Shared,
        };
        let most = match graphics {
            Graphics::None => return placed,
            Graphics::Shared => u64::MAX,
            Graphics::Own(bytes) => bytes,
        };
        let known: u64 = architecture.layers.iter().map(|layer| layer.weights).fold(0, u64::saturating_add);
        // Of a model of which only the first keys were read, the layers count as alike.
        let evenly = self.weight_bytes / u64::from(self.layers());
        // The output comes first, and then the layers from the last to the first.
        let output_weights = if known > 0 { architecture.output_weights } else { evenly };
        let wanted = usize::try_from(self.most_layers.unwrap_or(u32::MAX)).unwrap_or(usize::MAX);
        let layers = architecture.layers.iter().rev();
        let from_the_end = layers.map(|layer| (if known > 0 { layer.weights } else { evenly }, cache(self, layer)));
        let mut there = Parts { compute: step, ..Parts::default() };
        for (at, (weights, cache)) in std::iter::once((output_weights, 0)).chain(from_the_end).take(wanted).enumerate()
        {
            let (with_it, cells) = if at == 1 { of_mtp } else { (0, 0) };
            there.weights = there.weights.saturating_add(weights).saturating_add(with_it);
            there.cache = there.cache.saturating_add(cache).saturating_add(cells);
            if there.total() > most {
                break;
            }
            placed.layers += 1;
            placed.graphics = there;
        }
        if placed.layers == 0 {
            return placed;
        }
        placed.memory.process = self.process_bytes(true);
        // An output that has no weights of its own is a copy of what turns tokens into numbers, which stays.
        let copied = if architecture.output_is_copied { output_weights } else { 0 };
        let moved = placed.graphics.weights.saturating_sub(copied);
        placed.memory.weights = self.loaded_weights().saturating_sub(moved);
        placed.memory.cache = all.saturating_sub(placed.graphics.cache);
        if placed.layers == self.layers() {
            placed.memory.compute = beside(self, architecture);
        }
        placed
    }
}

/// Results of one step at most: the next token of each sequence, and guesses of those after it.
fn results(shape: &ModelShape) -> u64 {
    sequences(shape).saturating_add(DRAFTED)
}

/// Requests at the same time.
fn sequences(shape: &ModelShape) -> u64 {
    u64::from(shape.parallel.max(1))
}

/// Cells of one sequence.
fn cells(shape: &ModelShape) -> u64 {
    u64::from(shape.context.max(1)).next_multiple_of(CELLS)
}

/// A cell holds the keys and values of one token in a layer (`llama_kv_cache`). The states of recurrent layers are F32
/// (`llama_memory_recurrent`).
fn cache(shape: &ModelShape, layer: &Layer) -> u64 {
    let cells = cells(shape).saturating_mul(sequences(shape));
    let kept = shape.cache_type.bytes(layer.keys).saturating_add(shape.cache_type.bytes(layer.values));
    let states = sequences(shape).saturating_mul(if shape.mtp || shape.draft.is_some() { 1 + ROLLBACK } else { 1 });
    kept.saturating_mul(cells).saturating_add(layer.state.saturating_mul(4).saturating_mul(states))
}

/// The buffers of a step with [`BATCH`] tokens, with flash attention. Two stages are the widest: the inside of a layer, with
/// three widths of it, and the last one, with a number for each token of the vocabulary and each sequence (a step has no
/// more results) and each guess; four embeddings are alive beside them. Fitted to what llama.cpp reports for models of seven shapes; the test of the worker
/// compares them.
fn compute(shape: &ModelShape, architecture: &Architecture) -> u64 {
    let float = BATCH * 4;
    let embedding = architecture.embedding.saturating_mul(float);
    let inside = architecture.feed_forward.saturating_mul(float);
    let results = results(shape).min(BATCH);
    let last =
        architecture.vocabulary.saturating_mul(4).saturating_mul(results).saturating_add(embedding.saturating_mul(4));
    // Narrow layers fit into what the attention before them has left.
    let beside = if inside > embedding { 5 } else { 3 };
    let layer = inside.saturating_mul(3).saturating_add(embedding.saturating_mul(beside));
    last.max(layer).saturating_add(masks(shape, architecture))
}

/// The buffers of the processor when all layers are on graphics processors: the tokens as numbers, and the masks.
fn beside(shape: &ModelShape, architecture: &Architecture) -> u64 {
    architecture.embedding.saturating_mul(BATCH * 4).saturating_add(masks(shape, architecture))
}

/// Which cell each token of a step may see: two bytes each, once more for layers with a window. The tokens of a step are spread
/// over the sequences, each of which has its own cells.
fn masks(shape: &ModelShape, architecture: &Architecture) -> u64 {
    let has =
        |is_window: bool| architecture.layers.iter().any(|layer| layer.keys > 0 && layer.window.is_some() == is_window);
    let kinds = u64::from(has(true)) + u64::from(has(false));
    cells(shape).saturating_mul(BATCH).saturating_mul(2).saturating_mul(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn machine(available: u64) -> Budget {
        Memory { total: available, available }.into()
    }

    fn smollm2() -> Architecture {
        Architecture {
            vocabulary: 49_152,
            embedding: 576,
            feed_forward: 1536,
            trained_context: 8192,
            layers: vec![Layer { keys: 192, values: 192, weights: 2_236_416, ..Layer::default() }; 30],
            output_weights: 30_081_024,
            output_is_copied: true,
            ..Architecture::default()
        }
    }

    fn of(architecture: Architecture, context: u32, parallel: u32) -> ModelShape {
        ModelShape {
            weight_bytes: 96_574_464,
            architecture: Some(architecture),
            context,
            parallel,
            ..ModelShape::default()
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
            [(512, 1, 11.25, 15.14, 3.19), (8192, 1, 180.0, 22.64, 3.19), (2048, 8, 360.0, 16.64, 4.5)]
        {
            let fit = fit(&of(smollm2(), context, parallel), machine(0));
            let parts = fit.placed.memory;
            assert!(near(parts.cache, cache, 0.1), "{context} × {parallel}: {fit:?}");
            assert!(near(parts.compute, compute, 10.0), "{context} × {parallel}: {fit:?}");
            assert!(near(parts.output, output, 2.0), "{context} × {parallel}: {fit:?}");
            let sum = parts.weights + parts.cache + parts.compute + parts.output + parts.process;
            assert_eq!((fit.needed(), fit.placed.graphics_bytes()), (sum, 0));
        }
    }

    #[test]
    fn each_kind_of_layer_keeps_what_it_should() {
        let layers = |layer: Layer| Architecture { layers: vec![layer; 2], ..smollm2() };
        let cache =
            |layer, context, parallel| fit(&of(layers(layer), context, parallel), machine(0)).placed.memory.cache;
        let attention = Layer { keys: 64, values: 32, ..Layer::default() };
        assert_eq!(cache(attention, 256, 1), 2 * 256 * 96 * 2);
        // A multiple of 256 for each sequence.
        assert_eq!(cache(attention, 257, 3), 2 * 512 * 3 * 96 * 2);
        // The state of a recurrent layer grows with the sequences and not with the context.
        let recurrent = Layer { state: 1000, ..Layer::default() };
        let shape = of(layers(recurrent), 256, 2);
        // Two layers of 1000 numbers of four bytes are little; a hundred times as much is not.
        assert_eq!(shape.checkpoint_bytes(), LEAST_FOR_STATES);
        let large = of(layers(Layer { state: 1_000_000, ..Layer::default() }), 256, 2);
        assert_eq!(large.checkpoint_bytes(), 8_000_000 * (2 + 6));
        assert_eq!(of(layers(Layer::default()), 256, 2).checkpoint_bytes(), 0);
        // Layers for multi-token prediction: their weights, and what they compute with, when they are wanted.
        let ahead = Layer { keys: 64, values: 64, weights: 1000, ..Layer::default() };
        let architecture = Architecture { mtp_layers: vec![ahead], ..layers(recurrent) };
        let without = of(architecture, 256, 1);
        let with = ModelShape { mtp: true, ..without.clone() };
        let parts = |shape: &ModelShape| shape.placed(Graphics::None).memory;
        assert_eq!(parts(&with).weights - parts(&without).weights, 1000);
        assert_eq!(parts(&with).cache - parts(&without).cache, 256 * 2 * 128 + 4 * 2 * 4000);
        assert_eq!(parts(&with).compute, 2 * parts(&without).compute);
        assert_eq!(parts(&with).output, 2 * parts(&without).output);
        let graphs = 3 * 1024 * 408;
        assert_eq!(parts(&with).process - parts(&without).process, graphs + 4 * 576 * (2 * 512 + 512));
        let many = Architecture { graph_nodes: 20_480, ..layers(recurrent) };
        assert_eq!(parts(&of(many, 256, 1)).process - parts(&without).process, graphs * 19);
        let on_graphics = |shape: &ModelShape| shape.placed(Graphics::Own(u64::MAX));
        assert_eq!((on_graphics(&with).layers, with.told_layers(3), with.told_layers(1)), (3, 4, 1));
        assert_eq!(on_graphics(&with).graphics.cache, parts(&with).cache);
        assert_eq!((cache(recurrent, 256, 1), cache(recurrent, 8192, 4)), (2 * 4000, 4 * 2 * 4000));
        // Latent attention has no values of its own.
        assert_eq!(cache(Layer { keys: 576, ..Layer::default() }, 256, 1), 2 * 256 * 576 * 2);
        let shape = ModelShape { cache_type: CacheType::Q8, ..of(layers(attention), 256, 1) };
        assert_eq!(fit(&shape, machine(0)).placed.memory.cache, 2 * 256 * (68 + 34));
        let shape = ModelShape { cache_type: CacheType::Q4, ..shape };
        assert_eq!(fit(&shape, machine(0)).placed.memory.cache, 2 * 256 * (36 + 18));
    }

    #[test]
    fn the_largest_context_is_the_last_that_fits() {
        let all = fit(&of(smollm2(), 8192, 1), machine(1 << 40));
        assert_eq!(all.largest_context, Some(8192));
        for available in [300 * MIB, 460 * MIB, 510 * MIB, 560 * MIB] {
            let found = fit(&of(smollm2(), 8192, 1), machine(available)).largest_context;
            let fits = |context| fit(&of(smollm2(), context, 1), machine(available)).fits();
            match found {
                None => assert!(!fits(256)),
                Some(context) => assert!(fits(context) && (context == 8192 || !fits(context + 256)), "{context}"),
            }
        }
        assert_eq!(fit(&of(smollm2(), 8192, 1), machine(0)).largest_context, None);
    }

    #[test]
    fn the_usual_context_leaves_room_for_others() {
        // A token of it takes 23,040 bytes.
        let shape = |trained| {
            let architecture = Architecture { trained_context: trained, ..smollm2() };
            of(architecture, 0, 4)
        };
        let budget = |mebibytes: u64| Budget { memory: mebibytes * MIB, graphics: Graphics::None };
        for (trained, mebibytes, expected) in [
            (131_072, 100_000, 32_768),
            (8192, 100_000, 8192),
            (20_000, 100_000, 20_000),
            (0, 100_000, 32_768),
            (131_072, 4 * 720 + 93, 32_768),
            (131_072, 4 * 720 + 91, 16_384),
            (131_072, 200, 8192),
            (131_072, 0, 8192),
        ] {
            assert_eq!(shape(trained).comfortable_context(budget(mebibytes)), expected, "{trained} {mebibytes}");
        }
        // What is there on a graphics processor decides, when the model is on it.
        let own = |mebibytes: u64| Budget { graphics: Graphics::Own(mebibytes * MIB), ..budget(100_000) };
        assert_eq!(shape(131_072).comfortable_context(own(4 * 360 + 93)), 16_384);
        assert_eq!(shape(131_072).comfortable_context(own(10)), 32_768);
        assert_eq!(ModelShape::default().comfortable_context(budget(100_000)), 8192);
    }

    #[test]
    fn before_the_header_is_read_the_size_of_the_file_must_do() {
        let gib = 1 << 30;
        let shape = |weight_bytes, context| ModelShape { weight_bytes, context, ..ModelShape::default() };
        assert_eq!(fit(&shape(8 * gib, 4096), machine(0)).needed(), 8 * gib + 8 * gib / 10 + gib);
        let needed = fit(&shape(gib, 4096), machine(0)).needed();
        let with = |available: u64| Memory { total: available, available };
        let enough = needed + with(needed).kept_free() + needed / 8;
        assert!(fit(&shape(gib, 4096), machine(enough)).fits());
        assert!(!fit(&shape(gib, 4096), machine(needed + needed / 20)).fits());
        let four = ModelShape { parallel: 4, ..shape(gib, 4096) };
        assert_eq!(fit(&four, machine(0)).needed() - needed, 3 * (gib / 8));
        // Of what is not known well enough nothing is put on a graphics processor.
        assert_eq!(four.placed(Graphics::Own(u64::MAX)).layers, 0);
    }

    #[test]
    fn as_many_layers_as_fit_are_on_a_graphics_processor() {
        let shape = of(smollm2(), 8192, 1);
        let on_processor = shape.placed(Graphics::None);
        assert_eq!((shape.layers(), on_processor.layers, on_processor.graphics_bytes()), (31, 0, 0));
        let all = shape.placed(Graphics::Own(u64::MAX));
        // The output is a copy: what turns tokens into numbers stays.
        assert_eq!(all.layers, 31);
        assert_eq!(all.graphics.weights, 30_081_024 + 30 * 2_236_416);
        assert_eq!(all.memory.weights, 96_574_464 - 30 * 2_236_416);
        assert_eq!((all.memory.cache, all.graphics.cache), (0, on_processor.memory.cache));
        assert!(all.memory.compute < on_processor.memory.compute);
        let mut before = 0;
        for own in (0..400 * MIB).step_by(5 << 20) {
            let placed = shape.placed(Graphics::Own(own));
            assert!(placed.graphics_bytes() <= own && placed.layers >= before, "{own}: {placed:?}");
            assert_eq!(placed.memory.cache + placed.graphics.cache, on_processor.memory.cache);
            before = placed.layers;
        }
        assert_eq!(before, 31);
        assert_eq!(shape.placed(Graphics::Own(0)), on_processor);
        let half = ModelShape { most_layers: Some(15), ..shape.clone() };
        assert_eq!(half.placed(Graphics::Own(u64::MAX)).layers, 15);
        assert_eq!(ModelShape { most_layers: Some(0), ..half }.placed(Graphics::Shared).layers, 0);
        // What has no memory of its own takes that of the machine.
        let shared = shape.placed(Graphics::Shared);
        assert_eq!((shared.layers, shared.graphics_bytes()), (31, 0));
        assert_eq!(shared.memory_bytes(), all.memory.total() + all.graphics.total());
        let fits = |memory, graphics| fit(&shape, Budget { memory, graphics }).fits();
        assert!(fits(150 * MIB, Graphics::Own(u64::MAX)) && !fits(150 * MIB, Graphics::None));
    }

    #[test]
    fn requests_at_the_same_time_do_not_drive_layers_from_a_graphics_processor() {
        let shape = of(smollm2(), 8192, 4);
        let one = ModelShape { parallel: 1, ..shape.clone() }.placed(Graphics::Own(u64::MAX)).graphics_bytes();
        let budget = |graphics| Budget { memory: u64::MAX, graphics: Graphics::Own(graphics) };
        assert_eq!(shape.most_parallel(1, budget(one)), Some(1));
        assert_eq!(shape.most_parallel(1, budget(u64::MAX)), Some(4));
        // None of it fits there: then it is no reason.
        assert_eq!(shape.most_parallel(1, budget(0)), Some(4));
    }

    #[test]
    fn nonsense_does_not_overflow() {
        let layer = Layer {
            keys: u64::MAX,
            values: u64::MAX,
            window: Some(u32::MAX),
            state: u64::MAX,
            weights: u64::MAX,
            attention: u64::MAX,
        };
        let architecture = Architecture {
            vocabulary: u64::MAX,
            embedding: u64::MAX,
            feed_forward: u64::MAX,
            trained_context: u32::MAX,
            layers: vec![layer],
            output_weights: u64::MAX,
            output_is_copied: true,
            graph_nodes: u64::MAX,
            ..Architecture::default()
        };
        let shape = ModelShape {
            weight_bytes: u64::MAX,
            architecture: Some(architecture),
            context: u32::MAX,
            parallel: u32::MAX,
            cache_type: CacheType::Q8,
            most_layers: None,
            beside_bytes: 0,
            mtp: true,
            draft: None,
        };
        assert!(!fit(&shape, machine(u64::MAX)).fits());
        assert!(
            !fit(&ModelShape { weight_bytes: u64::MAX, context: u32::MAX, ..ModelShape::default() }, machine(1)).fits()
        );
    }
}
