//! Model sources: repositories of the hub whose models are shown among one's own, ready to be downloaded; and
//! what the hub has besides.
//!
//! Which sources there are is the user's, and kept in `state/sources.json`. What the hub said of them is a copy
//! in `cache/`: it may be deleted, it is asked for again after a while, and without the hub it is what there is.

mod cache;
mod error;
mod owner;

pub use cache::HubAnswer;
pub use error::SourcesError;
pub use owner::{Downloadable, ModelSource, Sources};
