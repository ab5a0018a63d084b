//! The permission to use a loaded model.

use crate::{slot_state::Generation, supervisor::Command, worker::Session};
use cortex_api::worker::Timings;
use cortex_models::ModelId;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// Holds a loaded model in memory. Dropping it gives it back.
pub(crate) struct Lease {
    pub(crate) session: Arc<Session>,
    id: ModelId,
    generation: Generation,
    supervisor: UnboundedSender<Command>,
}

impl Lease {
    pub(crate) fn new(
        session: Arc<Session>,
        id: ModelId,
        generation: Generation,
        supervisor: UnboundedSender<Command>,
    ) -> Self {
        Self { session, id, generation, supervisor }
    }

    /// Tells what an answer has cost.
    pub(crate) fn answered(&self, timings: Timings) {
        let (id, generation) = (self.id.clone(), self.generation);
        // A supervisor that is gone learns nothing any more.
        let _ = self.supervisor.send(Command::Answered { id, generation, timings });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A supervisor that is gone counts no leases.
        let _ = self.supervisor.send(Command::Released { id: self.id.clone(), generation: self.generation });
    }
}
