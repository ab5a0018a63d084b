//! Reads the header of a GGUF file: what the model is, and that the file is whole.
//!
//! The file comes from strangers. Nothing in it is believed before it was compared with the length of
//! the file; nothing is kept that the file could make arbitrarily large; tensor data is never read.
//! Source of the format: docs/gguf.md of ggml, versions 2 and 3.

mod check;
mod read;
mod shape;
mod types;

pub use read::{Gguf, GgufError, TensorInfo, Value};
pub(crate) use types::of_quantization;
