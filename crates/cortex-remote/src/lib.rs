//! Engines on other machines: who they are, which of their models are known here, and how they are asked.
//!
//! Never shows a key, never follows a redirect with one, never runs a template outside of a sandbox.
#![forbid(unsafe_code)]

mod anthropic;
mod engine;
mod error;
mod events;
mod openai;
mod remotes;
mod store;
mod template;

pub use engine::{HIDDEN, RemoteEngine};
pub use error::RemoteError;
pub use remotes::{Call, HOPS, Remotes, Reply, ReplyStream, TakenOver};
pub use store::RemoteModel;
