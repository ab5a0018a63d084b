//! The computing side of a model: key-value cells for every sequence, and steps over them.
//!
//! The safe layer of the binding has no batches of vectors and no sets of adapters, so this calls C itself.

mod state;

use super::{LlamaError, Token, error};
use crate::drafting::MOST_DRAFTED;
use cortex_api::worker::{AdapterUse, CacheType, Embeds, Load};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use std::{
    ffi::CString,
    marker::PhantomData,
    ptr::{NonNull, null_mut},
};

/// Tokens of the longest text that a vector is made of: the whole text is one batch, and its buffers grow with it.
pub(crate) const LONGEST_EMBEDDED: u32 = 4096;
/// Numbers that say where a vector of an image stands, in models whose positions have dimensions.
const DIMENSIONS: usize = 4;

/// Tokens that a sequence with recurrent layers can be cut back by without a checkpoint, where guesses are made for it: as many states
/// are kept for each sequence.
const ROLLBACK: u32 = 4;

// Declared in llama.cpp's llama-ext.h for its own programs, which has no names of C: these are C++'s by the Itanium ABI, of the pinned
// version.
unsafe extern "C" {
    #[link_name = "_Z26llama_set_embeddings_nextnP13llama_contextbb"]
    fn llama_set_embeddings_nextn(context: *mut sys::llama_context, value: bool, masked: bool);
    #[link_name = "_Z26llama_get_embeddings_nextnP13llama_context"]
    fn llama_get_embeddings_nextn(context: *mut sys::llama_context) -> *mut f32;
    #[link_name = "_Z30llama_get_embeddings_nextn_ithP13llama_contexti"]
    fn llama_get_embeddings_nextn_ith(context: *mut sys::llama_context, index: i32) -> *mut f32;
}

/// One token to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The token.
    pub(crate) token: Token,
    /// Its position in its sequence.
    pub(crate) position: u32,
    /// Which sequence.
    pub(crate) sequence: u32,
    /// Whether the next token is wanted.
    pub(crate) wants_logits: bool,
}

/// Vectors of an image, in the place of tokens.
pub(crate) struct Placed<'image> {
    /// One after the other, each as wide as the model takes them.
    pub(crate) vectors: &'image [f32],
    /// Where each stands beside the first, as time, row and column; nothing when they stand one behind the other.
    pub(crate) grid: Option<&'image [[u32; 3]]>,
    /// The position of the first one of the image.
    pub(crate) position: u32,
    /// How many of the image come before these.
    pub(crate) offset: usize,
    /// Which sequence.
    pub(crate) sequence: u32,
    /// Whether the token after the last one is wanted.
    pub(crate) wants_logits: bool,
    /// Each looks at all others, also at those behind it.
    pub(crate) look_at_each_other: bool,
}

/// Which adapters count, and how much.
pub(crate) type AdapterSet = Vec<AdapterUse>;

/// Low-rank changes of the weights, which the model owns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adapter<'model>(NonNull<sys::llama_adapter_lora>, PhantomData<&'model LlamaModel>);

impl<'model> Adapter<'model> {
    /// Loads the adapter of a file.
    pub(crate) fn load(model: &'model LlamaModel, path: &str) -> Result<Self, LlamaError> {
        let Ok(c_path) = CString::new(path) else { return error("the path of the adapter holds a NUL byte") };
        if !std::path::Path::new(path).is_file() {
            return error(format!("there is no file {path}, which the model's `lora_adapters` name"));
        }
        // SAFETY: the model lives, and the path is a C string that outlives the call. The model frees its adapters.
        let adapter = unsafe { sys::llama_adapter_lora_init(raw(model), c_path.as_ptr()) };
        let Some(adapter) = NonNull::new(adapter) else {
            return error(format!("{path} is no LoRA adapter for this model; the log says more"));
        };
        // SAFETY: the adapter lives.
        if unsafe { sys::llama_adapter_get_alora_n_invocation_tokens(adapter.as_ptr()) } > 0 {
            return error(format!("{path} is an activated LoRA, which counts from a word on; these are not supported"));
        }
        Ok(Self(adapter, PhantomData))
    }
}

/// The model as C knows it.
pub(super) fn raw(model: &LlamaModel) -> *mut sys::llama_model {
    const _: () = assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>());
    // SAFETY: the structure of the pinned version is declared to be nothing but this pointer.
    unsafe { *std::ptr::from_ref(model).cast::<*mut sys::llama_model>() }
}

/// A context as C knows it; freed with this.
struct Inner(NonNull<sys::llama_context>);

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: it lives, and nobody else has it.
        unsafe { sys::llama_free(self.0.as_ptr()) }
    }
}

/// The computing side: key-value cells for every sequence.
pub(crate) struct Context<'model> {
    inner: Inner,
    vocabulary_size: i32,
    /// Cells that one sequence has.
    pub(crate) sequence_length: u32,
    /// Sequences.
    pub(crate) sequences: u32,
    batch_size: u32,
    /// Tokens that are computed at once.
    micro_batch: u32,
    /// Results that one batch may have.
    results: u32,
    /// Numbers of a vector that stands for a token.
    input_width: usize,
    /// Numbers that the last layer holds of a token.
    hidden_width: usize,
    /// Results tell these numbers.
    tells_hidden: bool,
    /// Tokens that a sequence can be cut back by, after a step that computed them.
    rollback: usize,
    embeds: Option<Embeds>,
    adapters: Vec<Adapter<'model>>,
    /// Those that count now.
    active: AdapterSet,
    model: PhantomData<&'model LlamaModel>,
}

/// What a batch of C points to.
#[derive(Default)]
struct Arrays {
    tokens: Vec<Token>,
    positions: Vec<i32>,
    counts: Vec<i32>,
    sequences: Vec<i32>,
    results: Vec<i8>,
}

impl Arrays {
    fn push(&mut self, position: i32, sequence: u32, wants_logits: bool) {
        self.positions.push(position);
        self.counts.push(1);
        self.sequences.push(sequence.cast_signed());
        self.results.push(i8::from(wants_logits));
    }

    /// Computes them: tokens, or the vectors if there are any.
    fn decode(mut self, context: &mut Inner, vectors: Option<&[f32]>) -> Result<(), LlamaError> {
        let mut pointers: Vec<*mut i32> = self.sequences.iter_mut().map(std::ptr::from_mut).collect();
        let batch = sys::llama_batch {
            n_tokens: i32::try_from(self.counts.len()).unwrap_or(i32::MAX),
            token: if vectors.is_some() { null_mut() } else { self.tokens.as_mut_ptr() },
            embd: vectors.map_or(null_mut(), |vectors| vectors.as_ptr().cast_mut()),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.counts.as_mut_ptr(),
            seq_id: pointers.as_mut_ptr(),
            logits: self.results.as_mut_ptr(),
        };
        // SAFETY: the arrays are as long as `n_tokens` says, and outlive the call, which does not write to them.
        match unsafe { sys::llama_decode(context.0.as_ptr(), batch) } {
            0 => Ok(()),
            1 => error("there is no room for it"),
            code => error(format!("llama_decode gave {code}")),
        }
    }
}

/// A vector of the same direction and of length 1.
fn normalized(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "a number of a vector of length 1")]
    let scaled = |number: &f32| if length > 0.0 { (f64::from(*number) / length) as f32 } else { 0.0 };
    vector.iter().map(scaled).collect()
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl<'model> Context<'model> {
    /// Allocates `sequences` × `sequence_length` cells.
    pub(crate) fn new(
        model: &'model LlamaModel,
        load: &Load,
        (sequence_length, sequences): (u32, u32),
        embeds: Option<Embeds>,
    ) -> Result<Self, LlamaError> {
        let mut context = Self::create(model, load, (sequence_length, sequences), (embeds, None))?;
        if load.mtp && embeds.is_none() {
            // SAFETY: the context lives. Not only the results are wanted: prompts go through the layers too.
            unsafe { llama_set_embeddings_nextn(context.inner.0.as_ptr(), true, false) }
            context.tells_hidden = true;
        }
        Ok(context)
    }

    /// A context of the model's layers for multi-token prediction, beside its own.
    pub(crate) fn of_mtp(model: &'model LlamaModel, load: &Load, own: &Self) -> Result<Self, LlamaError> {
        let room = (own.sequence_length, own.sequences);
        let mut context = Self::create(model, load, room, (None, Some(own.inner.0)))?;
        // SAFETY: the context lives.
        unsafe { llama_set_embeddings_nextn(context.inner.0.as_ptr(), true, true) }
        context.tells_hidden = true;
        Ok(context)
    }

    /// Allocates a context; `of_mtp` is one of the layers for multi-token prediction beside that one.
    fn create(
        model: &'model LlamaModel,
        load: &Load,
        (sequence_length, sequences): (u32, u32),
        (embeds, of_mtp): (Option<Embeds>, Option<NonNull<sys::llama_context>>),
    ) -> Result<Self, LlamaError> {
        let Some(cells) = sequence_length.checked_mul(sequences) else {
            return error("the context is too large");
        };
        // A text whose tokens all look at each other is computed in one piece.
        let least = if embeds.is_some() { sequence_length.min(LONGEST_EMBEDDED) } else { 32 };
        // The next token of each sequence, and what was guessed of those after them.
        let results = sequences + u32::try_from(MOST_DRAFTED).unwrap_or(0);
        let batch_size = load.batch.clamp(32, 4096).max(results).max(least);
        let micro_batch = if embeds.is_some() { batch_size } else { batch_size.min(512).max(results) };
        let cache_type = match load.cache_type {
            CacheType::F16 => sys::GGML_TYPE_F16,
            CacheType::Q8_0 => sys::GGML_TYPE_Q8_0,
            CacheType::Q4_0 => sys::GGML_TYPE_Q4_0,
        };
        let threads = |count: u32| signed(count.clamp(1, 512));
        // SAFETY: the function gives a structure with all its fields set.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = cells;
        params.n_seq_max = sequences;
        params.n_batch = batch_size;
        params.n_ubatch = micro_batch;
        params.n_threads = threads(load.threads);
        params.n_threads_batch = threads(load.threads_batch);
        params.kv_unified = false;
        params.type_k = cache_type;
        params.type_v = cache_type;
        params.embeddings = embeds.is_some();
        params.no_perf = true;
        if embeds.is_none() {
            // Without it, room is set aside for the result of every token of a batch, which is most of the buffer of a model with
            // many tokens.
            params.n_outputs_max = results;
        }
        if let Some(own) = of_mtp {
            params.ctx_type = sys::LLAMA_CONTEXT_TYPE_MTP;
            params.ctx_other = own.as_ptr();
        } else if (load.mtp || load.draft_model.is_some())
            && embeds.is_none()
            && (model.is_recurrent() || model.is_hybrid())
        {
            params.n_rs_seq = ROLLBACK;
        }
        // SAFETY: the model lives for as long as the context, and the parameters point to nothing.
        let inner = unsafe { sys::llama_init_from_model(raw(model), params) };
        let Some(inner) = NonNull::new(inner) else {
            return error(format!("no memory for {sequences} × {sequence_length} tokens; the log says more"));
        };
        // SAFETY: the model lives.
        let (input_width, hidden_width) =
            unsafe { (sys::llama_model_n_embd_inp(raw(model)), sys::llama_model_n_embd_out(raw(model))) };
        let rollback = if model.is_recurrent() || model.is_hybrid() {
            // SAFETY: the context lives.
            unsafe { sys::llama_n_rs_seq(inner.as_ptr()) as usize }
        } else {
            usize::MAX
        };
        Ok(Self {
            inner: Inner(inner),
            hidden_width: usize::try_from(hidden_width).unwrap_or(0),
            tells_hidden: false,
            rollback,
            vocabulary_size: model.n_vocab(),
            sequence_length,
            sequences,
            batch_size,
            micro_batch,
            results,
            input_width: usize::try_from(input_width).unwrap_or(0),
            embeds,
            adapters: vec![],
            active: vec![],
            model: PhantomData,
        })
    }

    /// With how many threads more than one token of a sequence are computed.
    pub(crate) fn threads(&self) -> u32 {
        // SAFETY: the pointer is that of the context, which lives as long as `self`.
        unsafe { sys::llama_n_threads_batch(self.inner.0.as_ptr()) }.cast_unsigned()
    }

    /// Computes with so many threads from now on: single tokens, and prompts.
    pub(crate) fn set_threads(&mut self, answer: u32, prompt: u32) {
        let threads = |count: u32| signed(count.clamp(1, 512));
        // SAFETY: the context lives.
        unsafe { sys::llama_set_n_threads(self.inner.0.as_ptr(), threads(answer), threads(prompt)) }
    }

    /// Adapters that requests may name by their number here.
    pub(crate) fn with_adapters(mut self, adapters: Vec<Adapter<'model>>) -> Self {
        self.adapters = adapters;
        self
    }

    /// How many adapters there are.
    pub(crate) fn adapters(&self) -> usize {
        self.adapters.len()
    }

    /// Has these adapters count in what is computed from now on, and no others.
    pub(crate) fn use_adapters(&mut self, set: &AdapterSet) -> Result<(), LlamaError> {
        if *set == self.active {
            return Ok(());
        }
        let known = |used: &AdapterUse| self.adapters.get(usize::try_from(used.adapter).unwrap_or(usize::MAX));
        let Some(mut pointers) = set.iter().map(|used| known(used).map(|it| it.0.as_ptr())).collect::<Option<Vec<_>>>()
        else {
            return error(format!("there are {} adapters", self.adapters.len()));
        };
        let mut scales: Vec<f32> = set.iter().map(|used| used.scale).collect();
        // SAFETY: both arrays have as many elements as is said; the adapters are of the context's model, and live as long.
        let result = unsafe {
            sys::llama_set_adapters_lora(
                self.inner.0.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                scales.as_mut_ptr(),
            )
        };
        if result != 0 {
            return error(format!("llama_set_adapters_lora gave {result}"));
        }
        self.active.clone_from(set);
        Ok(())
    }

    /// Most entries of one [`Context::compute`].
    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size as usize
    }

    /// Most vectors of an image that look at each other.
    pub(crate) fn longest_image(&self) -> usize {
        self.micro_batch as usize
    }

    /// Computes the entries in one batch. On an error nothing can be said about the sequences in it:
    /// the caller forgets them.
    pub(crate) fn compute(&mut self, entries: &[Entry]) -> Result<(), LlamaError> {
        if entries.is_empty() || entries.len() > self.batch_size() {
            return error(format!("a batch of {} entries; 1 to {} are possible", entries.len(), self.batch_size));
        }
        let results = entries.iter().filter(|entry| entry.wants_logits).count();
        if results > self.results as usize {
            return error(format!("{results} results of one batch; {} are possible", self.results));
        }
        let mut arrays = Arrays::default();
        for entry in entries {
            if entry.sequence >= self.sequences
                || entry.position >= self.sequence_length
                || entry.token < 0
                || entry.token >= self.vocabulary_size
            {
                return error(format!("{entry:?} is outside of the context"));
            }
            arrays.tokens.push(entry.token);
            arrays.push(entry.position.cast_signed(), entry.sequence, entry.wants_logits);
        }
        arrays.decode(&mut self.inner, None)?;
        if results > 0 {
            // They are wanted at once; so the time of this call is that of the step, on a graphics processor too.
            self.synchronize();
        }
        Ok(())
    }

    /// Computes entries of a context of [`Context::of_mtp`]; `hidden` is what the model held before each.
    pub(crate) fn compute_after(&mut self, entries: &[Entry], hidden: &[f32]) -> Result<(), LlamaError> {
        if entries.is_empty() || entries.len() > self.batch_size() || hidden.len() != entries.len() * self.hidden_width
        {
            return error(format!("{} entries with {} numbers", entries.len(), hidden.len()));
        }
        let context = self.inner.0.as_ptr();
        // SAFETY: the context lives. The batch is freed before this returns, and the numbers outlive it. The functions check what they are
        // given, and say so.
        let code = unsafe {
            let Some(batch) = NonNull::new(sys::llama_batch_ext_init(context)) else { return error("no memory") };
            let batch = batch.as_ptr();
            let mut is_taken = true;
            for (entry, hidden) in entries.iter().zip(hidden.chunks_exact(self.hidden_width)) {
                let index = sys::llama_batch_ext_add_token(batch, entry.sequence.cast_signed(), entry.token);
                let position = [entry.position.cast_signed(), 0, 0, 0];
                let embedding = sys::llama_embd { data: hidden.as_ptr(), n_rows: 1, n_embd: self.hidden_width };
                is_taken &= index >= 0
                    && sys::llama_batch_ext_set_pos(batch, index, position.as_ptr())
                    && sys::llama_batch_ext_set_embd_token(batch, index, embedding)
                    && sys::llama_batch_ext_set_output_logits(batch, index, entry.wants_logits);
            }
            let code = if is_taken { sys::llama_process(context, sys::LLAMA_PROCESS_TYPE_DECODE, batch) } else { -1 };
            sys::llama_batch_ext_free(batch);
            code
        };
        if code != 0 {
            return error(format!("llama_process gave {code}"));
        }
        self.synchronize();
        Ok(())
    }

    /// Numbers that the last layer holds of a token.
    pub(crate) fn hidden_width(&self) -> usize {
        self.hidden_width
    }

    /// What the last layer held of the first entries of the last batch; nothing when that is not told.
    pub(crate) fn hidden(&self, entries: usize) -> &[f32] {
        if !self.tells_hidden || entries > self.batch_size() {
            return &[];
        }
        // SAFETY: the context lives, and has room for that of each entry of a batch, which lives until the next batch.
        unsafe {
            let hidden = llama_get_embeddings_nextn(self.inner.0.as_ptr());
            if hidden.is_null() { &[] } else { std::slice::from_raw_parts(hidden, entries * self.hidden_width) }
        }
    }

    /// What the last layer held of an entry of the last batch that wanted a result; nothing when there is none.
    pub(crate) fn hidden_of(&self, index: usize) -> &[f32] {
        // SAFETY: the context lives, and the function checks the index; what it gives lives until the next batch.
        unsafe {
            let index = i32::try_from(index).unwrap_or(i32::MAX);
            let hidden = llama_get_embeddings_nextn_ith(self.inner.0.as_ptr(), index);
            if hidden.is_null() { &[] } else { std::slice::from_raw_parts(hidden, self.hidden_width) }
        }
    }

    /// Tokens that a sequence can be cut back by after the step that computed them.
    pub(crate) fn rollback(&self) -> usize {
        self.rollback
    }

    /// Computes vectors of an image. On an error nothing can be said about the sequence: the caller forgets it.
    pub(crate) fn compute_image(&mut self, placed: &Placed<'_>) -> Result<(), LlamaError> {
        let count = placed.vectors.len().checked_div(self.input_width).unwrap_or(0);
        let is_whole = count * self.input_width == placed.vectors.len();
        let most = if placed.look_at_each_other { self.longest_image() } else { self.batch_size() };
        if count == 0 || !is_whole || count > most {
            return error(format!("{} numbers are no vectors of {}", placed.vectors.len(), self.input_width));
        }
        let at = |offset: usize| placed.position.checked_add(u32::try_from(placed.offset + offset).ok()?);
        let mut arrays = Arrays::default();
        for offset in 0..count {
            let position = match placed.grid {
                None => at(offset),
                Some(grid) => {
                    grid.get(placed.offset + offset).and_then(|[time, ..]| placed.position.checked_add(*time))
                }
            };
            let position = position.filter(|position| *position < self.sequence_length);
            let (Some(position), true) = (position, placed.sequence < self.sequences) else {
                return error("an image is outside of the context");
            };
            arrays.push(position.cast_signed(), placed.sequence, placed.wants_logits && offset + 1 == count);
        }
        if let Some(grid) = placed.grid {
            // All times, then all rows, all columns, and a dimension that is not used: as llama.cpp's own helper has them.
            let of = |dimension: usize| {
                grid[placed.offset..placed.offset + count].iter().map(move |it| signed(it[dimension] + placed.position))
            };
            arrays.positions.extend(of(1).chain(of(2)).chain(std::iter::repeat_n(0, count)));
            debug_assert_eq!(arrays.positions.len(), count * DIMENSIONS);
        }
        if placed.look_at_each_other {
            self.look_at_each_other(true);
        }
        let result = arrays.decode(&mut self.inner, Some(placed.vectors));
        if placed.look_at_each_other {
            self.look_at_each_other(false);
        }
        self.synchronize();
        result
    }

    fn look_at_each_other(&mut self, all: bool) {
        // SAFETY: the context lives.
        unsafe { sys::llama_set_causal_attn(self.inner.0.as_ptr(), !all) }
    }

    fn synchronize(&self) {
        // SAFETY: the context lives.
        unsafe { sys::llama_synchronize(self.inner.0.as_ptr()) }
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context lives, and so does its memory.
        unsafe { sys::llama_get_memory(self.inner.0.as_ptr()) }
    }

    /// The vectors of texts, each of length 1, or their ranks as they are. All texts together have no more tokens than a batch.
    pub(crate) fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<Vec<f32>>, LlamaError> {
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        if texts.is_empty() || texts.len() > self.sequences as usize || tokens > self.batch_size() {
            return error(format!("{} texts of {tokens} tokens are no batch", texts.len()));
        }
        let mut arrays = Arrays::default();
        for (sequence, text) in (0u32..).zip(texts) {
            for (position, &token) in (0i32..).zip(*text) {
                if token < 0 || token >= self.vocabulary_size {
                    return error(format!("token {token} is not in the vocabulary"));
                }
                arrays.tokens.push(token);
                arrays.push(position, sequence, true);
            }
        }
        // SAFETY: the memory lives. What the batch before it left is cleared; a model without memory has a null pointer, which is
        // checked in there.
        unsafe { sys::llama_memory_clear(self.memory(), true) }
        arrays.decode(&mut self.inner, None)?;
        (0i32..)
            .zip(texts)
            .map(|(sequence, _)| {
                let vector = self.embedding(sequence)?;
                if vector.iter().any(|number| !number.is_finite()) {
                    return error("the model gives vectors that are not numbers");
                }
                Ok(if self.embeds == Some(Embeds::Ranks) { vector.to_vec() } else { normalized(vector) })
            })
            .collect()
    }

    /// The vector of a sequence of the last batch.
    fn embedding(&self, sequence: i32) -> Result<&[f32], LlamaError> {
        let context = self.inner.0.as_ptr();
        // SAFETY: the context and its model live. The vector has the width that the way of pooling says, by llama.h, and lives
        // until the next batch, which needs this context for itself.
        unsafe {
            let model = sys::llama_get_model(context);
            let width = match self.embeds {
                Some(Embeds::Ranks) => i32::try_from(sys::llama_model_n_cls_out(model)).unwrap_or(0),
                _ => sys::llama_model_n_embd_out(model),
            };
            let vector = sys::llama_get_embeddings_seq(context, sequence);
            match usize::try_from(width) {
                Ok(width) if !vector.is_null() => Ok(std::slice::from_raw_parts(vector, width)),
                _ => error("the model gives no vector"),
            }
        }
    }

    /// The logits of an entry of the last batch that wanted them, by its index there; nothing when there are none.
    pub(crate) fn logits(&self, index: usize) -> &[f32] {
        let width = usize::try_from(self.vocabulary_size).unwrap_or(0);
        // SAFETY: the context lives, and the function checks the index. A result has a number for each token, and lives until the
        // next batch, which needs this context for itself.
        unsafe {
            let index = i32::try_from(index).unwrap_or(i32::MAX);
            let logits = sys::llama_get_logits_ith(self.inner.0.as_ptr(), index);
            if logits.is_null() { &[] } else { std::slice::from_raw_parts(logits, width) }
        }
    }
}
