//! Questions about memory that the supervisor asks before it changes anything.

use super::{
    Supervisor,
    entry::{Entry, Measure},
};
use crate::{EngineError, LoadSettings, admission::Shortage, ledger, need::Size};
use cortex_hardware::{Budget, Graphics, Memory};
use cortex_models::ModelId;

impl Supervisor {
    /// Whether a loaded model would be loaded in another way now: what is ordered differs, or more fits than it has.
    pub(super) fn has_other_size(&self, id: &ModelId, load: LoadSettings) -> bool {
        let Some(entry) = self.entries.get(id) else { return false };
        let (Some(session), Measure::Known(need), Some(size)) = (&entry.session, &entry.measure, entry.size) else {
            return false;
        };
        let most_layers = |load: LoadSettings| load.device_layers.unwrap_or(u32::MAX).min(need.layers());
        let is_stored_otherwise = entry.load.cache_type != load.cache_type
            || most_layers(entry.load) != most_layers(load) && self.accelerators.report().graphics() != Graphics::None;
        let is_elsewhere = size.layers > 0 && entry.devices != self.accelerators.report().names();
        let need = need.with(load);
        let (context, parallel) = need.whole();
        let facts = (session.facts.context_length, session.facts.parallel);
        if is_stored_otherwise
            || is_elsewhere
            || load.fixed_context && facts.0 != context
            || load.fixed_parallel && facts.1 != parallel
        {
            return true;
        }
        // Nobody has to leave for it.
        let is_more = |larger: Size| {
            facts != (context, parallel) && (larger.context, larger.parallel) > (size.context, size.parallel)
                || (larger.context, larger.parallel) >= facts && larger.layers > size.layers
        };
        need.within(self.room_beside(id, |_| true)).is_some_and(is_more)
    }

    /// Whether a model that is loaded could be loaded in another way.
    pub(super) fn could_be(&self, id: &ModelId, load: LoadSettings) -> Result<(), EngineError> {
        let Some(Measure::Known(need)) = self.entries.get(id).map(|entry| &entry.measure) else { return Ok(()) };
        let most = self.room_beside(id, |entry| entry.pinned);
        let need = need.with(load);
        match need.within(most) {
            Some(_) => Ok(()),
            None => Err(self.does_not_fit(id, need.least(most.graphics), most)),
        }
    }

    /// What a model could have beside those others that stay.
    fn room_beside(&self, id: &ModelId, stays: impl Fn(&Entry) -> bool) -> Budget {
        let mut memory = Memory::probe();
        let mut staying = Vec::new();
        for (other, entry) in &self.entries {
            let Some(holding) = entry.holding() else { continue };
            if other != id && stays(entry) {
                staying.push(holding);
            } else {
                memory.available = memory.available.saturating_add(holding.taken).min(memory.total);
            }
        }
        let free = ledger::free(memory, self.config.memory_limit, &staying);
        Budget {
            memory: u64::try_from(free).unwrap_or(0),
            graphics: ledger::free_graphics(self.accelerators.report().graphics(), &staying),
        }
    }

    pub(super) fn shortage(&self, id: &ModelId, shortage: Shortage) -> EngineError {
        let pinned = || self.entries.iter().filter(|(_, entry)| entry.pinned && entry.holding().is_some());
        match shortage {
            Shortage::Places => EngineError::Overloaded { loaded: pinned().count() },
            Shortage::Memory(available) => {
                let least = match self.entries.get(id).map(|entry| &entry.measure) {
                    Some(Measure::Known(need)) => need.least(available.graphics),
                    _ => Size::default(),
                };
                self.does_not_fit(id, least, available)
            }
        }
    }

    fn does_not_fit(&self, id: &ModelId, least: Size, available: Budget) -> EngineError {
        let is_pinned = |(other, entry): &(&ModelId, &Entry)| *other != id && entry.pinned && entry.holding().is_some();
        EngineError::DoesNotFit {
            model: id.to_string(),
            context: least.context,
            parallel: least.parallel,
            needed: least.bytes,
            available: available.memory,
            pinned: self.entries.iter().filter(is_pinned).map(|(id, _)| id.to_string()).collect(),
        }
    }
}
