//! How often a model is asked for. Times are those since any one moment.

use std::time::Duration;

/// What was seen of the requests for a model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Demand {
    last: Option<Duration>,
    /// Between two requests, the later ones counting more.
    gap: Option<Duration>,
}

impl Demand {
    /// A request came.
    pub(crate) fn asked(&mut self, now: Duration) {
        if let Some(last) = self.last {
            let gap = now.saturating_sub(last);
            self.gap = Some(self.gap.map_or(gap, |known| (known + gap) / 2));
        }
        self.last = Some(now);
    }

    /// For how long the next request is worth waiting for: until twice the usual gap has passed, when requests come faster
    /// than the model could be loaded again. No time when they do not.
    pub(crate) fn expected(&self, now: Duration, load: Duration) -> Duration {
        match (self.last, self.gap) {
            (Some(last), Some(gap)) if gap < load => (last + 2 * gap).saturating_sub(now),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_come_faster_than_a_load_are_expected() {
        let (load, at) = (Duration::from_secs(1), Duration::from_millis);
        let mut demand = Demand::default();
        demand.asked(at(0));
        assert_eq!(demand.expected(at(0), load), Duration::ZERO, "one says nothing");
        demand.asked(at(100));
        assert_eq!(demand.expected(at(100), load), at(200));
        assert_eq!(demand.expected(at(250), load), at(50));
        assert_eq!(demand.expected(at(400), load), Duration::ZERO);
        // A slow one: it takes as long as a load.
        demand.asked(at(3000));
        assert_eq!(demand.expected(at(3000), load), Duration::ZERO);
    }
}
