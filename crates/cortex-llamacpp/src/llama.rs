//! The engine, the model and its context: everything that calls C or needs `unsafe`.
//!
//! llama.cpp aborts or corrupts memory on a wrong sequence id, position or count, so every call
//! here checks its numbers first and answers with an error instead.

#![expect(unsafe_code, reason = "the one file that calls C; each block says why it is sound")]

use crate::{chain::Chain, drafting::MOST_DRAFTED, load_log};
use cortex_api::worker::{Buffer, BufferKind, CacheType, Device, Embeds, Load, PlacedLayers};
use llama_cpp_2::{
    context::{
        LlamaContext,
        params::{KvCacheType, LlamaContextParams},
        session::LlamaStateSeqFlags,
    },
    list_llama_ggml_backend_devices,
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};
use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, Write},
    num::NonZeroU32,
    os::fd::FromRawFd,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// A token id of the loaded model.
pub(crate) type Token = i32;

/// Why llama.cpp could not do something, in words for a log or a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LlamaError(pub(crate) String);

pub(crate) fn error<T>(message: impl Into<String>) -> Result<T, LlamaError> {
    Err(LlamaError(message.into()))
}

/// Moves standard output to a private descriptor and points descriptor 1 at standard error.
pub(crate) fn redirect_stdout_to_stderr() -> io::Result<File> {
    // SAFETY: plain descriptor calls; the new descriptor is owned by nobody else.
    unsafe {
        let private = libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3);
        if private < 0 || libc::dup2(2, 1) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(private))
    }
}

/// Ends the process now, also amid a computation of another thread: no destructors run.
pub(crate) fn end_process(code: i32) -> ! {
    // SAFETY: _exit takes no locks and runs no handlers.
    unsafe { libc::_exit(code) }
}

/// Version of the engine inside.
pub(crate) fn version() -> String {
    // SAFETY: a static, NUL-terminated string or NULL.
    unsafe {
        let text = llama_cpp_sys_2::llama_version();
        if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

/// Loads one compute module (a shared library with ggml's entry points). May die with SIGILL when
/// the processor does not have what the module needs: that is what trials are for.
pub(crate) fn load_backend(path: &str) -> Result<(), LlamaError> {
    let Ok(c_path) = CString::new(path) else { return error("the path of the module holds a NUL byte") };
    // SAFETY: a valid C string that outlives the call.
    let registry = unsafe { llama_cpp_sys_2::ggml_backend_load(c_path.as_ptr()) };
    if registry.is_null() { error(format!("{path} cannot run on this processor, or is damaged")) } else { Ok(()) }
}

/// The engine, started once in a process.
pub(crate) fn start() -> Result<LlamaBackend, LlamaError> {
    LlamaBackend::init().map_err(|why| LlamaError(why.to_string()))
}

/// What the compute modules that are loaded can compute on, the processor itself left out.
pub(crate) fn devices() -> Vec<Device> {
    // SAFETY: the number of devices, and each below it; modules stay loaded.
    let count = unsafe { llama_cpp_sys_2::ggml_backend_dev_count() };
    (0..count).filter_map(device).collect()
}

/// Renderers that compute graphics on the processor. They say that they have memory of their own.
const SOFTWARE: &[&str] = &["llvmpipe", "swiftshader"];

fn device(at: usize) -> Option<Device> {
    // SAFETY: `at` is below the number of devices, and the module fills the structure; all zeros is a valid one.
    let props = unsafe {
        let mut props: llama_cpp_sys_2::ggml_backend_dev_props = std::mem::zeroed();
        llama_cpp_sys_2::ggml_backend_dev_get_props(llama_cpp_sys_2::ggml_backend_dev_get(at), &raw mut props);
        props
    };
    let text = |text: *const std::os::raw::c_char| {
        if text.is_null() {
            return String::new();
        }
        // SAFETY: a NUL-terminated text of the module, which stays loaded.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    let is_integrated = match props.type_ {
        llama_cpp_sys_2::GGML_BACKEND_DEVICE_TYPE_GPU => false,
        llama_cpp_sys_2::GGML_BACKEND_DEVICE_TYPE_IGPU => true,
        _ => return None,
    };
    let description = text(props.description);
    let is_software = SOFTWARE.iter().any(|name| description.to_ascii_lowercase().contains(name));
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Some(Device {
        name: text(props.name),
        description,
        bus: text(props.device_id),
        is_integrated: is_integrated || is_software,
        total: bytes(props.memory_total),
        free: bytes(props.memory_free),
    })
}

/// What the log of a load tells and no function does.
pub(crate) struct LoadLog(Mutex<Told>);

#[derive(Default)]
struct Told {
    buffers: Vec<Buffer>,
    placement: Vec<PlacedLayers>,
}

impl LoadLog {
    /// Listens from now on to what llama.cpp and its modules say; all of it goes on to standard error.
    pub(crate) fn listen() -> &'static Self {
        // llama.cpp may say something until the process ends.
        let log: &'static Self = Box::leak(Box::new(Self(Mutex::default())));
        let data = std::ptr::from_ref(log).cast_mut().cast();
        // SAFETY: the callback has the right type, and what the pointer leads to is never freed.
        unsafe {
            llama_cpp_sys_2::llama_log_set(Some(heard), data);
        }
        log
    }

    /// The context is freed: its buffers are no more.
    pub(crate) fn forget_context(&self) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.buffers.retain(|buffer| buffer.kind == BufferKind::Weights);
    }

    /// The buffers that were heard of so far.
    pub(crate) fn buffers(&self) -> Vec<Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).buffers.clone()
    }

    /// Where the layers are that were heard of so far.
    pub(crate) fn placement(&self) -> Vec<PlacedLayers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).placement.clone()
    }
}

/// Called by llama.cpp with a piece of its log.
unsafe extern "C" fn heard(
    _level: llama_cpp_sys_2::ggml_log_level,
    text: *const std::os::raw::c_char,
    log: *mut std::os::raw::c_void,
) {
    if text.is_null() || log.is_null() {
        return;
    }
    // SAFETY: a NUL-terminated text for the time of the call, and the log of [`LoadLog::listen`], which is never freed.
    let (text, log) = unsafe { (CStr::from_ptr(text), &*log.cast::<LoadLog>()) };
    // What cannot be written is lost; a panic must not leave this function.
    let _ = io::stderr().write_all(text.to_bytes());
    // Each of these lines comes in one piece.
    let line = text.to_string_lossy();
    let mut told = log.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(buffer) = load_log::buffer(&line) {
        told.buffers.push(buffer);
    } else if let Some(device) = load_log::layer(&line) {
        match told.placement.iter_mut().find(|placed| placed.device == device) {
            Some(placed) => placed.layers += 1,
            None => told.placement.push(PlacedLayers { device: device.to_owned(), layers: 1 }),
        }
    }
}

/// Loads the weights. `progress` gets 0 to 1.
pub(crate) fn load_model(
    engine: &LlamaBackend,
    load: &Load,
    progress: impl FnMut(f32) + 'static,
) -> Result<LlamaModel, LlamaError> {
    let mut progress = progress;
    let mut params =
        LlamaModelParams::default().with_n_gpu_layers(load.device_layers).with_progress_callback(move |fraction| {
            progress(fraction);
            true
        });
    if !load.devices.is_empty() {
        let known = list_llama_ggml_backend_devices();
        let mut places = Vec::new();
        for wanted in &load.devices {
            match known.iter().find(|device| device.name == *wanted) {
                Some(device) => places.push(device.index),
                None => return error(format!("there is no device {wanted}")),
            }
        }
        params = params.with_devices(&places).map_err(|why| LlamaError(why.to_string()))?;
    }
    LlamaModel::load_from_file(engine, &load.model, &params).map_err(|why| LlamaError(why.to_string()))
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

/// The computing side: key-value cells for every sequence.
pub(crate) struct Context<'model> {
    inner: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    vocabulary_size: i32,
    /// Cells that one sequence has.
    pub(crate) sequence_length: u32,
    /// Sequences.
    pub(crate) sequences: u32,
    batch_size: u32,
    /// Results that one batch may have.
    results: u32,
    embeds: Option<Embeds>,
}

/// Tokens of the longest text that a vector is made of: the whole text is one batch, and its buffers grow with it.
pub(crate) const LONGEST_EMBEDDED: u32 = 4096;

/// A vector of the same direction and of length 1.
fn normalized(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "a number of a vector of length 1")]
    let scaled = |number: &f32| if length > 0.0 { (f64::from(*number) / length) as f32 } else { 0.0 };
    vector.iter().map(scaled).collect()
}

/// Tells llama.cpp that a batch gives no more results than these: without it, room is set aside for the result
/// of every token of a batch, which is most of the buffer of a model with many tokens.
fn set_most_outputs(params: &mut LlamaContextParams, results: u32) {
    // The safe layer has no setter for it. The pinned version's only field is this structure.
    const _: () = assert!(size_of::<LlamaContextParams>() == size_of::<llama_cpp_sys_2::llama_context_params>());
    // SAFETY: the parameters consist of nothing but this structure, so it begins where they do.
    unsafe {
        (*std::ptr::from_mut(params).cast::<llama_cpp_sys_2::llama_context_params>()).n_outputs_max = results;
    }
}

impl<'model> Context<'model> {
    /// Allocates `sequences` × `sequence_length` cells.
    pub(crate) fn new(
        engine: &LlamaBackend,
        model: &'model LlamaModel,
        load: &Load,
        (sequence_length, sequences): (u32, u32),
        embeds: Option<Embeds>,
    ) -> Result<Self, LlamaError> {
        let Some(cells) = sequence_length.checked_mul(sequences) else {
            return error("the context is too large");
        };
        // A text whose tokens all look at each other is computed in one piece.
        let least = if embeds.is_some() { sequence_length.min(LONGEST_EMBEDDED) } else { 32 };
        // The next token of each sequence, and what was guessed of those after them.
        let results = sequences + u32::try_from(MOST_DRAFTED).unwrap_or(0);
        let batch_size = load.batch.clamp(32, 4096).max(results).max(least);
        let cache_type = match load.cache_type {
            CacheType::F16 => KvCacheType::F16,
            CacheType::Q8_0 => KvCacheType::Q8_0,
            CacheType::Q4_0 => KvCacheType::Q4_0,
        };
        let threads = |count: u32| i32::try_from(count.clamp(1, 512)).unwrap_or(1);
        let mut params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(cells))
            .with_n_seq_max(sequences)
            .with_n_batch(batch_size)
            .with_n_ubatch(if embeds.is_some() { batch_size } else { batch_size.min(512).max(results) })
            .with_n_threads(threads(load.threads))
            .with_n_threads_batch(threads(load.threads_batch))
            .with_kv_unified(false)
            .with_type_k(cache_type)
            .with_type_v(cache_type)
            .with_embeddings(embeds.is_some())
            .with_no_perf(true);
        if embeds.is_none() {
            set_most_outputs(&mut params, results);
        }
        let inner = model
            .new_context(engine, params)
            .map_err(|why| LlamaError(format!("no memory for {sequences} × {sequence_length} tokens: {why}")))?;
        let batch = LlamaBatch::new(batch_size as usize, 1);
        Ok(Self {
            inner,
            batch,
            vocabulary_size: model.n_vocab(),
            sequence_length,
            sequences,
            batch_size,
            results,
            embeds,
        })
    }

    /// Most entries of one [`Context::compute`].
    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size as usize
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
        self.batch.clear();
        for entry in entries {
            if entry.sequence >= self.sequences
                || entry.position >= self.sequence_length
                || entry.token < 0
                || entry.token >= self.vocabulary_size
            {
                return error(format!("{entry:?} is outside of the context"));
            }
            self.batch
                .add(
                    LlamaToken(entry.token),
                    entry.position.cast_signed(),
                    &[entry.sequence.cast_signed()],
                    entry.wants_logits,
                )
                .map_err(|why| LlamaError(why.to_string()))?;
        }
        self.inner.decode(&mut self.batch).map_err(|why| LlamaError(why.to_string()))?;
        if results > 0 {
            // They are wanted at once; so the time of this call is that of the step, on a graphics processor too.
            self.inner.synchronize();
        }
        Ok(())
    }

    /// The vectors of texts, each of length 1, or their ranks as they are. All texts together have no more tokens than a batch.
    pub(crate) fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<Vec<f32>>, LlamaError> {
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        if texts.is_empty() || texts.len() > self.sequences as usize || tokens > self.batch_size() {
            return error(format!("{} texts of {tokens} tokens are no batch", texts.len()));
        }
        self.batch.clear();
        for (sequence, text) in (0i32..).zip(texts) {
            for (position, &token) in (0i32..).zip(*text) {
                if token < 0 || token >= self.vocabulary_size {
                    return error(format!("token {token} is not in the vocabulary"));
                }
                self.batch
                    .add(LlamaToken(token), position, &[sequence], true)
                    .map_err(|why| LlamaError(why.to_string()))?;
            }
        }
        // What the batch before it left.
        self.inner.clear_kv_cache();
        self.inner.decode(&mut self.batch).map_err(|why| LlamaError(why.to_string()))?;
        (0i32..)
            .zip(texts)
            .map(|(sequence, _)| {
                let vector = self.inner.embeddings_seq_ith(sequence).map_err(|why| LlamaError(why.to_string()))?;
                if vector.iter().any(|number| !number.is_finite()) {
                    return error("the model gives vectors that are not numbers");
                }
                Ok(if self.embeds == Some(Embeds::Ranks) { vector.to_vec() } else { normalized(vector) })
            })
            .collect()
    }

    /// Gives a sequence what another one holds. On an error it is empty.
    pub(crate) fn copy(&mut self, from: u32, to: u32) -> Result<(), LlamaError> {
        if from >= self.sequences || to >= self.sequences || from == to {
            return error(format!("sequence {from} cannot be copied to {to}"));
        }
        self.truncate(to, 0);
        // Only the cells that are in use; the engine's own copy between sequences takes all that there are.
        let flags = LlamaStateSeqFlags::empty();
        let copied = self
            .inner
            .state_seq_get(from.cast_signed(), flags)
            .and_then(|state| self.inner.state_seq_set(&state, to.cast_signed()));
        copied.map_err(|why| {
            self.truncate(to, 0);
            LlamaError(why.to_string())
        })
    }

    /// Bytes that [`Context::save`] would write.
    pub(crate) fn state_bytes(&self, sequence: u32) -> u64 {
        if sequence >= self.sequences {
            return 0;
        }
        let bytes = self.inner.state_seq_get_size_ext(sequence.cast_signed(), LlamaStateSeqFlags::empty());
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Writes what a sequence holds to a file, with the tokens that it was computed from.
    pub(crate) fn save(&self, path: &Path, sequence: u32, tokens: &[Token]) -> Result<(), LlamaError> {
        if sequence >= self.sequences {
            return error(format!("there is no sequence {sequence}"));
        }
        let tokens: Vec<LlamaToken> = tokens.iter().map(|&token| LlamaToken(token)).collect();
        let written = self.inner.state_seq_save_file(path, sequence.cast_signed(), &tokens);
        written.map(|_| ()).map_err(|why| LlamaError(why.to_string()))
    }

    /// Gives a sequence what a file holds. The file must be one that [`Context::save`] has written, of these tokens: llama.cpp does not check
    /// all of it. On an error the sequence is empty.
    pub(crate) fn restore(&mut self, path: &Path, sequence: u32, tokens: &[Token]) -> Result<(), LlamaError> {
        if sequence >= self.sequences || tokens.len() > self.sequence_length as usize {
            return error(format!("{} tokens do not fit into sequence {sequence}", tokens.len()));
        }
        self.truncate(sequence, 0);
        let read = self.inner.state_seq_load_file(path, sequence.cast_signed(), tokens.len());
        let result = match read {
            Ok((found, _)) if found.iter().map(|token| token.0).eq(tokens.iter().copied()) => Ok(()),
            Ok(_) => error("its tokens are others"),
            Err(why) => error(why.to_string()),
        };
        if result.is_err() {
            self.truncate(sequence, 0);
        }
        result
    }

    /// Cuts a sequence back to its first `length` tokens. False when the model cannot do that; the
    /// sequence is then empty.
    pub(crate) fn truncate(&mut self, sequence: u32, length: u32) -> bool {
        if sequence >= self.sequences {
            return false;
        }
        if length > 0 && matches!(self.inner.clear_kv_cache_seq(Some(sequence), Some(length), None), Ok(true)) {
            return true;
        }
        // Removing a whole sequence cannot fail.
        let _ = self.inner.clear_kv_cache_seq(Some(sequence), None, None);
        length == 0
    }

    /// The first position that a sequence still holds; sliding-window layers drop older ones.
    pub(crate) fn first_position(&self, sequence: u32) -> i32 {
        if sequence >= self.sequences {
            return -1;
        }
        self.inner.kv_cache_seq_pos_min(sequence.cast_signed())
    }

    /// The logits of an entry of the last [`Context::compute`] that wanted them, by its index there.
    pub(crate) fn logits(&self, index: usize) -> &[f32] {
        self.inner.get_logits_ith(i32::try_from(index).unwrap_or(i32::MAX))
    }

    /// Lets a chain choose the next token from the logits of entry `index`.
    pub(crate) fn choose(&self, chain: &mut Chain, index: usize) -> Token {
        chain.choose(&self.inner, index)
    }
}
