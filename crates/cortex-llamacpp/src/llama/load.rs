//! The weights of a model. The safe layer of the binding does not load layers for multi-token prediction, so this calls C itself.

use super::{LlamaError, context::raw, error};
use cortex_api::worker::Load;
use llama_cpp_2::{list_llama_ggml_backend_devices, llama_backend::LlamaBackend, model::LlamaModel};
use llama_cpp_sys_2 as sys;
use std::{
    ffi::{CString, c_void},
    ptr::{NonNull, null_mut},
};

const _: () = assert!(size_of::<LlamaModel>() == size_of::<NonNull<sys::llama_model>>());

/// What is told how far a load is, from 0 to 1.
type Progress<'load> = &'load mut dyn FnMut(f32);

/// Loads the weights. `progress` gets 0 to 1.
pub(crate) fn load_model(
    _engine: &LlamaBackend,
    load: &Load,
    mut progress: impl FnMut(f32),
) -> Result<LlamaModel, LlamaError> {
    let Ok(path) = CString::new(load.model.as_str()) else { return error("the path of the model holds a NUL byte") };
    // Ends with a null pointer, and is none when all devices may compute.
    let mut devices = places(load)?;
    let mut progress: Progress<'_> = &mut progress;
    // SAFETY: the function gives a structure with all its fields set.
    let mut params = unsafe { sys::llama_model_default_params() };
    params.n_gpu_layers = i32::try_from(load.device_layers).unwrap_or(i32::MAX);
    params.load_mtp = load.mtp;
    params.progress_callback = Some(tell);
    params.progress_callback_user_data = std::ptr::from_mut(&mut progress).cast();
    if load.locks_memory {
        // llama.cpp goes on without it where the system refuses.
        params.load_mode = sys::LLAMA_LOAD_MODE_MMAP_MLOCK;
    }
    if !devices.is_empty() {
        devices.push(null_mut());
        params.devices = devices.as_mut_ptr();
    }
    // SAFETY: the path is a C string; it, the devices and what is told of progress outlive the call, which keeps none of them.
    let model = unsafe { sys::llama_model_load_from_file(path.as_ptr(), params) };
    let Some(model) = NonNull::new(model) else { return error("the file cannot be loaded; the log says more") };
    // SAFETY: the binding's type is this pointer and nothing else, and frees what it points to; nobody else has this model.
    Ok(unsafe { std::mem::transmute::<NonNull<sys::llama_model>, LlamaModel>(model) })
}

/// The devices that are wanted, by their names.
fn places(load: &Load) -> Result<Vec<sys::ggml_backend_dev_t>, LlamaError> {
    let known = list_llama_ggml_backend_devices();
    let place = |wanted: &String| match known.iter().find(|device| device.name == *wanted) {
        // SAFETY: the index is of a device that is there.
        Some(device) => Ok(unsafe { sys::ggml_backend_dev_get(device.index) }),
        None => error(format!("there is no device {wanted}")),
    };
    load.devices.iter().map(place).collect()
}

/// Tells how far a load is; the load goes on.
unsafe extern "C" fn tell(fraction: f32, progress: *mut c_void) -> bool {
    // SAFETY: llama.cpp gives back what [`load_model`] gave it, which waits for it to return, and asks from one thread.
    let progress = unsafe { &mut *progress.cast::<Progress<'_>>() };
    progress(fraction);
    true
}

/// How many layers a model has for multi-token prediction.
pub(crate) fn mtp_heads(model: &LlamaModel) -> usize {
    // SAFETY: the model lives.
    usize::try_from(unsafe { sys::llama_model_n_layer_nextn(raw(model)) }).unwrap_or(0)
}
