//! One file for each family of routes.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod configs;
pub(crate) mod embeddings;
pub(crate) mod engines;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod fit;
pub(crate) mod hardware;
pub(crate) mod images;
pub(crate) mod infill;
pub(crate) mod list;
pub(crate) mod metrics;
pub(crate) mod migrations;
pub(crate) mod models;
pub(crate) mod pulls;
pub(crate) mod registry;
pub(crate) mod remote;
pub(crate) mod run;
pub(crate) mod sources;
pub(crate) mod system;
pub(crate) mod threads;
pub(crate) mod tokens;
