//! Where models come from: what a name means, and which files it stands for.

mod huggingface;
mod reference;
mod resolve;

pub use reference::ReferenceError;
pub(crate) use reference::is_plain as is_plain_name;
pub use resolve::{Choice, Offered, PullRequest, SourceError};
pub(crate) use resolve::{Resolved, Resolver};
