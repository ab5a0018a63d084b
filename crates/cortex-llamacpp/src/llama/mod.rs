//! The engine, the model and its context: everything that calls C or needs `unsafe`.
//!
//! llama.cpp aborts or corrupts memory on a wrong sequence id, position or count, so every call
//! here checks its numbers first and answers with an error instead.

#![expect(unsafe_code, reason = "the one module that calls C; each block says why it is sound")]

mod context;
mod load;
mod projector;

pub(crate) use context::{Adapter, AdapterSet, Context, Entry, LONGEST_EMBEDDED, Placed};
pub(crate) use load::{load_model, mtp_heads};
pub(crate) use projector::{ImageChunk, ImageLayout, Projector, TokenisedImage};

use crate::load_log;
use cortex_api::worker::{Buffer, BufferKind, Device, PlacedLayers};
use llama_cpp_2::llama_backend::LlamaBackend;
use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, Write},
    os::fd::FromRawFd,
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

    /// How much was heard of so far.
    pub(crate) fn mark(&self) -> (usize, Vec<PlacedLayers>) {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (told.buffers.len(), told.placement.clone())
    }

    /// What was heard of since is of something else.
    pub(crate) fn back_to(&self, (buffers, placement): (usize, Vec<PlacedLayers>)) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.buffers.truncate(buffers);
        told.placement = placement;
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
