//! The truth on disk about models, and the ways it changes.
//!
//! Never starts a process, serves HTTP, or leaves a half-written model visible. All IO is synchronous:
//! callers run it where blocking is allowed. What nobody waits for is done by a thread of the store's own.
#![forbid(unsafe_code)]

mod background;
mod cache;
mod deletions;
mod describe;
mod details;
mod downloads;
mod error;
mod files;
mod gguf;
mod import;
mod keep_alive;
mod layout;
mod migrate;
mod model;
mod model_yaml;
mod models_list;
mod name;
mod outbound;
mod pull;
mod reindex;
mod remove;
mod shards;
mod source;
mod sources;
mod store;
mod store_error;
mod tasks;
mod turns;
mod update;
mod weights;

pub use downloads::{Manifest, ManifestFile, TakeInError};
pub use error::ErrorKind;
pub use files::{Files, move_into_place, write_atomically};
pub use gguf::{Gguf, GgufError, TensorInfo, Value as GgufValue};
pub use import::{BatchEntry, BatchOutcome, Import, ImportError, Imported, Mode};
pub use keep_alive::KeepAlive;
pub use migrate::{
    Down, Finding, GivenModel, Homes, LegacyRemotes, Migrate, MigrateError, MigrationReport, Migrations, Outcome,
    Template,
};
pub use model::{GuesserError, Model, ModelFiles, ModelState};
pub use model_yaml::{ModelYaml, YamlError};
pub use models_list::ListProblem;
pub use name::{InvalidId, ModelId};
pub use outbound::{
    Download, Exchange, Exchanged, Outbound, OutboundConfig, OutboundError, ProxyConfig, is_allowed_host,
};
pub use pull::{
    DownloadError, Patience, PlannedFile, PullError, PullEvent, PullEventKind, PullPlan, PullSnapshot, PullState,
    Pulls, PullsConfig, Role,
};
pub use reindex::Reindexed;
pub use remove::{Left, RemoveError, Removed, WhyLeft};
pub use source::{
    Choice, HubModel, HubQuery, Offered, OfferedShape, OfferedShapes, PullRequest, ReferenceError, RepositoryError,
    SourceError,
};
pub use sources::{Downloadable, HubAnswer, ModelSource, Sources, SourcesError};
pub use store::{Config, ModelStore};
pub use store_error::{DescribeError, ResolveError, StoreError};
pub use tasks::{Shutdown, Tasks, tasks};
pub use update::{LARGEST_SCALE, UpdateError, check_settings, is_read_only, is_setting, settings, settings_schema};
pub use weights::{WeightsError, is_first_of_model, shape};
