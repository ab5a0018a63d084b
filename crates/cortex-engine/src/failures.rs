//! Models that could not be loaded are not tried again and again: each failure in a row makes the pause longer.

use crate::EngineError;
use cortex_models::ModelId;
use std::{collections::HashMap, path::Path, time::Duration, time::SystemTime};
use tokio::time::Instant;

/// The longest pause.
const LONGEST: Duration = Duration::from_mins(1);
/// Failures that are remembered at most.
const MOST: usize = 1024;

/// The last failure of a model.
struct Failure {
    in_a_row: u32,
    until: Instant,
    /// A file that has changed since is worth another try.
    changed: Option<SystemTime>,
    error: EngineError,
}

/// What could not be loaded lately.
#[derive(Default)]
pub(crate) struct Failures(HashMap<ModelId, Failure>);

impl Failures {
    /// A load failed.
    pub(crate) fn failed(&mut self, id: &ModelId, weights: &Path, error: &EngineError, now: Instant) {
        if self.0.len() >= MOST {
            self.0.retain(|_, failure| failure.until > now);
        }
        let in_a_row = self.0.get(id).map_or(0, |failure| failure.in_a_row) + 1;
        let failure =
            Failure { in_a_row, until: now + pause(in_a_row), changed: changed(weights), error: error.clone() };
        self.0.insert(id.clone(), failure);
    }

    /// A load went well, or somebody ordered another try.
    pub(crate) fn forget(&mut self, id: &ModelId) {
        self.0.remove(id);
    }

    /// The error that a request gets without a try.
    pub(crate) fn refusal(&self, id: &ModelId, weights: &Path, now: Instant) -> Option<EngineError> {
        let failure = self.0.get(id).filter(|failure| failure.until > now)?;
        if changed(weights) != failure.changed {
            return None;
        }
        let seconds = u32::try_from((failure.until - now).as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        Some(EngineError::FailedBefore { error: Box::new(failure.error.clone()), seconds })
    }
}

/// The first failure may be chance, and a request is sent again once: no pause. Then a second, and twice as long each time.
fn pause(in_a_row: u32) -> Duration {
    match in_a_row.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => Duration::from_secs(1 << doublings.min(6)).min(LONGEST),
    }
}

fn changed(weights: &Path) -> Option<SystemTime> {
    fs_err::metadata(weights).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_and_ends_with_a_changed_file_or_an_order() {
        let seconds: Vec<u64> = (1..=9).map(|in_a_row| pause(in_a_row).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60]);

        let file = tempfile::NamedTempFile::new().expect("a file");
        let (id, now) = (ModelId::existing("m"), Instant::now());
        let error = EngineError::LoadFailed { model: "m".into(), reason: "no".into() };
        let mut failures = Failures::default();
        failures.failed(&id, file.path(), &error, now);
        assert_eq!(failures.refusal(&id, file.path(), now), None);
        failures.failed(&id, file.path(), &error, now);
        let refusal = failures.refusal(&id, file.path(), now).expect("a pause");
        assert_eq!((refusal.code(), refusal.retry_after()), ("model_load_failed", Some(2)));
        assert_eq!(failures.refusal(&id, file.path(), now + Duration::from_secs(1)), None);
        assert_eq!(failures.refusal(&ModelId::existing("other"), file.path(), now), None);
        file.as_file().set_modified(SystemTime::UNIX_EPOCH).expect("another time");
        assert_eq!(failures.refusal(&id, file.path(), now), None);
        file.as_file().set_modified(SystemTime::now()).expect("another time");
        failures.forget(&id);
        assert_eq!(failures.refusal(&id, file.path(), now), None);
    }
}
