//! What others see of the models that are loaded or wanted.

use cortex_api::worker::{Buffer, PlacedLayers};
use cortex_hardware::CacheType;
use cortex_models::ModelId;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

/// A model that is loaded, or that requests wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    /// Which.
    pub id: ModelId,
    /// When it became ready.
    pub since: SystemTime,
    /// Requests that it answers.
    pub requests: usize,
    /// Requests that wait until it is loaded.
    pub waiting: usize,
    /// Tokens that one request may use.
    pub context_length: u32,
    /// Tokens that were asked for.
    pub requested_context: u32,
    /// Where the length of the context comes from.
    pub context_origin: ContextOrigin,
    /// How its keys and values are stored.
    pub cache_type: CacheType,
    /// Requests that it answers at the same time.
    pub parallel: u32,
    /// Requests at the same time that were asked for.
    pub requested_parallel: u32,
    /// Threads that compute single tokens, and prompts; 0 before it is loaded.
    pub threads: (u32, u32),
    /// Bytes of weights.
    pub model_bytes: u64,
    /// What its worker has allocated.
    pub buffers: Vec<Buffer>,
    /// Bytes of memory that are set aside for it: predicted before it is loaded, then as reported.
    pub reserved: u64,
    /// Bytes that are set aside for it of the memory that graphics processors have of their own.
    pub graphics: u64,
    /// Where its layers are, once it is loaded.
    pub placement: Vec<PlacedLayers>,
    /// Why not all of them are on graphics processors; `None` when they are.
    pub why_not_graphics: Option<String>,
    /// The worker's process id; 0 before it has one.
    pub pid: u32,
    /// Whether it never leaves to make room for another.
    pub pinned: bool,
    /// When it leaves if nobody uses it; `None` while it is used, or when it stays.
    pub leaves_at: Option<SystemTime>,
    /// Where it is in its life.
    pub phase: Phase,
}

/// Where the length of a model's context comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextOrigin {
    /// Nothing is known yet.
    Unknown,
    /// A start request.
    Order,
    /// The model's own settings.
    Model,
    /// The daemon's settings.
    Settings,
    /// It is all that the model was trained with.
    Trained,
    /// It is what fits comfortably.
    Comfortable,
    /// There was no memory for more.
    Memory,
}

/// Where a model is in its life, for those who look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Requests wait until there is room for it.
    Waiting,
    /// Its worker is not ready yet; nothing else is known of it.
    Loading,
    /// It answers.
    Ready,
    /// It leaves once its last answer has ended.
    Leaving,
}

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Models that were loaded.
    pub loads: Count,
    /// Loads that failed.
    pub failed_loads: Count,
    /// Models that left to make room for another.
    pub evictions: Count,
    /// Models that left because nobody used them.
    pub idle_unloads: Count,
    /// Workers that were ready, and ended without being asked.
    pub lost_workers: Count,
    /// Requests that were refused because too many waited.
    pub refused_requests: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
