//! What is known of the shapes of models, so that a list can say whether each fits without opening a file.

use cortex_hardware::ModelShape;
use cortex_models::ModelId;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Shapes that are kept: a few kilobytes each.
const MOST: usize = 1024;

/// The shapes of models that were loaded, or asked about, since the start.
#[derive(Debug, Default)]
pub(crate) struct KnownShapes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    shapes: HashMap<ModelId, (PathBuf, ModelShape)>,
    revision: u64,
}

impl KnownShapes {
    /// Keeps what the header of a model says.
    pub(crate) fn remember(&self, id: &ModelId, weights: &Path, shape: ModelShape) {
        if shape.architecture.is_none() {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.shapes.get(id).is_some_and(|(path, before)| path == weights && *before == shape) {
            return;
        }
        if known.shapes.len() >= MOST && !known.shapes.contains_key(id) {
            known.shapes.clear();
        }
        known.shapes.insert(id.clone(), (weights.to_owned(), shape));
        known.revision += 1;
    }

    /// All of them, each with the file that it was read from; and a number that changes when they do.
    pub(crate) fn all(&self) -> (HashMap<ModelId, (PathBuf, ModelShape)>, u64) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (known.shapes.clone(), known.revision)
    }
}
