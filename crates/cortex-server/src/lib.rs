//! HTTP in, domain calls, HTTP out.
//!
//! Never holds state of its own, never touches the disk, never decides policy.
#![forbid(unsafe_code)]

mod app;
mod convert;
mod edge;
mod error;
mod json;
mod keys;
mod metrics;
mod openapi;
mod router;
mod routes;
mod serve;
mod settings;
mod sse;
mod tls;

pub use app::{App, Config};
pub use keys::{ApiKey, Scope};
pub use metrics::Metrics;
pub use openapi::document as openapi;
pub use router::router;
pub use routes::{engines::platform, models::preload};
pub use serve::serve;
pub use settings::{HIDDEN, SettingsHandle, SettingsRefusal, SettingsRequest, ShownSettings};
pub use tls::Tls;
