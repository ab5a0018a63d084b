//! What an older program knows of other machines comes along.

use super::{Remotes, add_engine, add_model};
use crate::{RemoteError, store::Known};
use cortex_models::LegacyRemotes;
use serde_json::{Map, Value};
use std::{path::Path, sync::PoisonError};

/// What was taken over from an older program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TakenOver {
    /// Names of engines.
    pub engines: Vec<String>,
    /// Ids of models.
    pub models: Vec<String>,
    /// Sentences about what cannot be used.
    pub problems: Vec<String>,
}

impl Remotes {
    /// Takes over what an older program knows, but for names that are there already: the names of the engines and the ids of the
    /// models that are new, and sentences about what cannot be used. `is_taken` says whether an id is that of another model. All of it
    /// or nothing is on disk afterwards. Waits for the disk.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn take_over(&self, old: &LegacyRemotes, is_taken: &dyn Fn(&str) -> bool) -> Result<TakenOver, RemoteError> {
        self.change(|known| Ok(taken_over(known, old, is_taken)))
    }

    /// What [`Remotes::take_over`] would do.
    pub fn would_take_over(&self, old: &LegacyRemotes, is_taken: &dyn Fn(&str) -> bool) -> TakenOver {
        taken_over(&mut self.with(|state| state.known.clone()), old, is_taken)
    }

    /// Takes over what an older program knows in the daemon's own folder, unless something was kept here before. Waits for the
    /// disk.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn take_over_once(
        &self,
        data_folder: &Path,
        is_taken: &dyn Fn(&str) -> bool,
    ) -> Result<TakenOver, RemoteError> {
        if self.0.store.exists() {
            return Ok(TakenOver::default());
        }
        let old = LegacyRemotes::read(data_folder);
        let taken = self.take_over(&old, is_taken)?;
        let _changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.store.exists() && (!old.problems.is_empty() || !old.engines.is_empty()) {
            // Once is enough: what somebody removes later does not come back.
            self.0.store.write(&self.with(|state| state.known.clone()))?;
        }
        Ok(taken)
    }
}

fn taken_over(known: &mut Known, old: &LegacyRemotes, is_taken: &dyn Fn(&str) -> bool) -> TakenOver {
    let mut taken = TakenOver { problems: old.problems.clone(), ..TakenOver::default() };
    let name = |said: &Map<String, Value>, field: &str| said[field].as_str().unwrap_or_default().to_owned();
    for said in &old.engines {
        match add_engine(known, said) {
            Ok(engine) => taken.engines.push(engine.engine),
            Err(RemoteError::EngineExists { .. }) => {}
            Err(error) => taken.problems.push(format!("the engine `{}` is left out: {error}", name(said, "engine"))),
        }
    }
    for said in &old.models {
        let id = name(said, "id");
        match add_model(known, said) {
            _ if is_taken(&id) => {
                known.models.retain(|model| model.id != id);
                taken.problems.push(format!("the model `{id}` is left out: another model has its id"));
            }
            Ok(model) => taken.models.push(model.id),
            Err(RemoteError::ModelExists { .. }) => {}
            Err(error) => taken.problems.push(format!("the model `{id}` is left out: {error}")),
        }
    }
    taken
}
