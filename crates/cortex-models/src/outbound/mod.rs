//! The only way out to other machines.
//!
//! Never follows a redirect that was not checked, never sends the token to another host than the hub, never
//! reaches an address of this machine or its network that the settings do not name, never reads an answer
//! of unlimited length.

mod address;
mod client;
mod error;
mod exchange;

pub use address::is_allowed_host;
pub(crate) use client::{Ask, Received};
pub use client::{Download, Outbound, OutboundConfig, ProxyConfig};
pub use error::OutboundError;
pub(crate) use error::without_query;
pub use exchange::{Exchange, Exchanged};
