//! The OpenAI shapes, lenient on input and exact on output.

mod chat;
mod completions;
mod embeddings;
mod error;
mod infill;
mod shared;

pub use chat::*;
pub use completions::*;
pub use embeddings::*;
pub use error::*;
pub use infill::*;
pub use shared::*;
