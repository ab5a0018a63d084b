//! How many connections a download uses: more while more bring more, fewer when somebody objects. Pure.

use std::time::Duration;

/// Connections at the start.
pub(crate) const FIRST: usize = 4;
/// A wider download must be this much faster, or the step was not worth it.
const WORTH: f64 = 1.08;
/// Looks without a step after which a wider one is tried once more: networks change.
const TRY_AGAIN: u32 = 30;

/// Looks without a step after trouble.
const RECOVERY: u32 = 8;

/// The width of a download.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pace {
    width: usize,
    most: usize,
    /// Bytes a second before the last step, and the width then.
    before: Option<(f64, usize)>,
    /// A server that objected to a width is not asked for it again.
    ceiling: usize,
    /// Looks until the next step.
    resting: u32,
}

impl Pace {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { width: FIRST.min(most), most, before: None, ceiling: most, resting: 0 }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// What the last look saw: bytes a second, over all connections that the width allows.
    pub(crate) fn observe(&mut self, rate: f64) {
        if let Some((before, narrower)) = self.before.take() {
            if rate < before * WORTH {
                // The step brought nothing: back, and stay for a while.
                self.width = narrower;
                self.resting = TRY_AGAIN;
                return;
            }
        } else if self.resting > 0 {
            self.resting -= 1;
            return;
        }
        let wider = (self.width * 2).min(self.ceiling).min(self.most);
        if wider > self.width && rate > 0.0 {
            self.before = Some((rate, self.width));
            self.width = wider;
        }
    }

    /// The server objects to so many (403, 429).
    pub(crate) fn refused(&mut self) {
        self.ceiling = (self.width - 1).max(1);
        self.narrow();
    }

    /// A connection stalled or broke.
    pub(crate) fn troubled(&mut self) {
        self.narrow();
    }

    fn narrow(&mut self) {
        self.width = (self.width / 2).max(1);
        self.before = None;
        self.resting = RECOVERY;
    }
}

/// How long to wait before trying again after so many failures in a row: twice as long each time, up to
/// half a minute, and not the same for all who wait. `chance` is between 0 and 1.
pub(crate) fn backoff(first: Duration, failures: u32, chance: f64) -> Duration {
    let longest = first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(Duration::from_secs(30));
    longest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The widths that follow from what a server gives at each width.
    fn widths(most: usize, looks: usize, server: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut pace = Pace::new(most);
        (0..looks)
            .map(|_| {
                pace.observe(server(pace.width()));
                pace.width()
            })
            .collect()
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn it_grows_while_that_brings_more() {
        assert_eq!(widths(32, 5, |width| width as f64), [8, 16, 32, 32, 32]);
        assert_eq!(widths(32, 4, |_| 1.0), [8, 4, 4, 4]);
        assert_eq!(widths(32, 6, |width| width.min(10) as f64), [8, 16, 32, 16, 16, 16]);
        assert_eq!(widths(1, 3, |width| width as f64), [1, 1, 1]);
        assert_eq!(widths(32, 3, |_| 0.0), [4, 4, 4]);
    }

    #[test]
    fn a_wider_one_is_tried_again_after_a_while() {
        let seen = widths(32, 70, |_| 1.0);
        assert!(seen[1..31].iter().all(|&width| width == 4));
        assert!(seen[31..].contains(&8));
    }

    #[test]
    fn a_server_that_objects_is_not_asked_for_as_many_again() {
        let mut pace = Pace::new(32);
        pace.observe(1.0);
        pace.observe(2.0);
        assert_eq!(pace.width(), 16);
        pace.refused();
        assert_eq!(pace.width(), 8);
        for look in 0..200 {
            pace.observe(f64::from(look) * 100.0);
            assert!(pace.width() < 16);
        }
        for _ in 0..10 {
            pace.troubled();
        }
        assert_eq!(pace.width(), 1);
    }

    #[test]
    fn waiting_grows_and_ends() {
        let first = Duration::from_millis(500);
        assert_eq!(backoff(first, 1, 1.0), first);
        assert_eq!(backoff(first, 3, 0.0), Duration::from_secs(1));
        assert_eq!(backoff(first, 99, 1.0), Duration::from_secs(30));
    }
}
