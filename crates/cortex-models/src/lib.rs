//! The truth on disk about models, and the ways it changes.
//!
//! Never starts a process, serves HTTP, or leaves a half-written model visible. All IO is synchronous:
//! callers run it where blocking is allowed.
#![forbid(unsafe_code)]

mod atomic;
mod error;
mod gguf;
mod import;
mod model_yaml;
mod models_list;
mod name;
mod store;

pub use atomic::write as write_atomically;
pub use error::ErrorKind;
pub use gguf::{Gguf, GgufError, TensorInfo, Value as GgufValue};
pub use import::{Import, ImportError, Imported};
pub use model_yaml::{ModelYaml, YamlError};
pub use models_list::ListProblem;
pub use name::{InvalidId, ModelId};
pub use store::{Config, DescribeError, Model, ModelState, ModelStore, ResolveError, StoreError};
