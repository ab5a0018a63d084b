//! Where models come from: what a name means, and which files it stands for.

mod catalog;
mod headers;
mod huggingface;
mod reference;
mod resolve;
mod shapes;

pub(crate) use catalog::{Catalog, Offering};
pub use huggingface::{HubModel, HubQuery};
pub(crate) use huggingface::{search, search_url};
pub use reference::{ReferenceError, RepositoryError};
pub(crate) use reference::{Repository, is_plain as is_plain_name, parse_repository};
pub use resolve::{Choice, Offered, PullRequest, SourceError};
pub(crate) use resolve::{Resolved, Resolver, folder};
pub use shapes::{OfferedShape, OfferedShapes};
