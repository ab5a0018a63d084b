//! Models that could not be loaded are not tried again and again: each failure in a row makes the pause longer.

use crate::{EngineError, config::LoadSettings};
use cortex_models::{ModelFiles, ModelId};
use std::{collections::HashMap, time::Duration, time::SystemTime};
use tokio::time::Instant;

/// The longest pause.
const LONGEST: Duration = Duration::from_mins(1);
/// Failures that are remembered at most.
const MOST: usize = 1024;

/// The last failure of a model.
struct Failure {
    in_a_row: u32,
    until: Instant,
    /// What is loaded otherwise now is worth another try.
    of: Attempt,
    error: EngineError,
}

/// What was loaded: from which files, as they were then, and with which settings.
#[derive(PartialEq)]
pub(crate) struct Attempt {
    files: ModelFiles,
    changed: Vec<Option<SystemTime>>,
    load: LoadSettings,
}

impl Attempt {
    /// Asks for the times of the files.
    pub(crate) fn now(files: &ModelFiles, load: LoadSettings) -> Self {
        let changed = |path| fs_err::metadata(path).ok()?.modified().ok();
        Self { changed: files.all().map(changed).collect(), files: files.clone(), load }
    }
}

/// What could not be loaded lately.
#[derive(Default)]
pub(crate) struct Failures(HashMap<ModelId, Failure>);

impl Failures {
    /// A load failed.
    pub(crate) fn failed(&mut self, id: &ModelId, of: Attempt, error: &EngineError, now: Instant) {
        if self.0.len() >= MOST {
            self.0.retain(|_, failure| failure.until > now);
        }
        let in_a_row = self.0.get(id).map_or(0, |failure| failure.in_a_row) + 1;
        let failure = Failure { in_a_row, until: now + pause(in_a_row), of, error: error.clone() };
        self.0.insert(id.clone(), failure);
    }

    /// A load went well, or somebody ordered another try.
    pub(crate) fn forget(&mut self, id: &ModelId) {
        self.0.remove(id);
    }

    /// The error that a request gets without a try.
    pub(crate) fn refusal(
        &self,
        id: &ModelId,
        files: &ModelFiles,
        load: LoadSettings,
        now: Instant,
    ) -> Option<EngineError> {
        let failure = self.0.get(id).filter(|failure| failure.until > now)?;
        if Attempt::now(files, load) != failure.of {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_and_ends_with_a_change_or_an_order() {
        let seconds: Vec<u64> = (1..=9).map(|in_a_row| pause(in_a_row).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60]);

        let (file, adapter) =
            (tempfile::NamedTempFile::new().expect("a file"), tempfile::NamedTempFile::new().expect("a file"));
        let files =
            ModelFiles { adapters: vec![adapter.path().to_owned()], ..ModelFiles::of_weights(file.path().to_owned()) };
        let (id, load, now) = (ModelId::existing("m"), LoadSettings::default(), Instant::now());
        let error = EngineError::LoadFailed { model: "m".into(), reason: "no".into() };
        let mut failures = Failures::default();
        failures.failed(&id, Attempt::now(&files, load), &error, now);
        assert_eq!(failures.refusal(&id, &files, load, now), None);
        failures.failed(&id, Attempt::now(&files, load), &error, now);
        let refusal = failures.refusal(&id, &files, load, now).expect("a pause");
        assert_eq!((refusal.code(), refusal.retry_after()), ("model_load_failed", Some(2)));
        assert_eq!(failures.refusal(&id, &files, load, now + Duration::from_secs(1)), None);
        assert_eq!(failures.refusal(&ModelId::existing("other"), &files, load, now), None);
        // Other settings, and fewer files.
        assert_eq!(failures.refusal(&id, &files, LoadSettings { context_length: 5, ..load }, now), None);
        assert_eq!(failures.refusal(&id, &ModelFiles::of_weights(files.weights.clone()), load, now), None);
        // Each file that was changed, or made, or taken away.
        for changed in [&file, &adapter] {
            let before = changed.as_file().metadata().expect("it is there").modified().expect("a time");
            changed.as_file().set_modified(SystemTime::UNIX_EPOCH).expect("another time");
            assert_eq!(failures.refusal(&id, &files, load, now), None);
            changed.as_file().set_modified(before).expect("its time");
            assert!(failures.refusal(&id, &files, load, now).is_some());
        }
        failures.forget(&id);
        assert_eq!(failures.refusal(&id, &files, load, now), None);
    }
}
