//! Brings models of older programs in, by reference: not one byte of theirs is moved, written or removed.
//!
//! [`scan`] looks and changes nothing, [`plan`] decides and is pure, [`apply`] puts models on the list and
//! writes what is ours; [`journal`] is what makes the last one whole after a crash, and what an undo reads.

mod apply;
mod cortex_cpp;
mod error;
mod journal;
mod model_json;
mod old_app;
mod owner;
mod places;
mod plan;
mod remote;
mod scan;
mod stores;

pub use error::MigrateError;
pub use owner::{Down, GivenModel, Migrate, MigrationReport, Migrations};
pub use places::Homes;
pub use plan::{Finding, Outcome, Template};
pub use remote::LegacyRemotes;
