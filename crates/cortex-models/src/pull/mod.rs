//! Downloads that finish: planned, resumed, verified, and then taken in all at once.
//!
//! Never shows a model before all of its bytes were checked, never asks the network without the outbound
//! client, never writes outside of the data folder.

mod disk;
mod download;
mod error;
mod intervals;
mod job;
mod journal;
mod pace;
pub(crate) mod plan;
mod pulls;
mod snapshot;

pub(crate) use disk::hex;
pub use download::{DownloadError, Patience};
pub use error::PullError;
pub use plan::{PlannedFile, PullPlan, Role};
pub use pulls::{Pulls, PullsConfig};
pub use snapshot::{PullEvent, PullEventKind, PullSnapshot, PullState};
