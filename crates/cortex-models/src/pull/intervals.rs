//! Which bytes of a file are there. Pure.

use std::{collections::BTreeMap, ops::Range};

/// A set of bytes as ranges that neither touch nor overlap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Intervals {
    /// Start and end.
    ranges: BTreeMap<u64, u64>,
}

impl Intervals {
    /// Adds a range; an empty one adds nothing.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        if start >= end {
            return;
        }
        // Those that touch or overlap become one with it.
        while let Some((&at, &until)) = self.ranges.range(..=end).next_back()
            && until >= start
        {
            self.ranges.remove(&at);
            start = start.min(at);
            end = end.max(until);
        }
        self.ranges.insert(start, end);
    }

    /// Takes a range away.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        while let Some((&at, &until)) = self.ranges.range(..range.end).next_back()
            && until > range.start
        {
            self.ranges.remove(&at);
            if at < range.start {
                self.ranges.insert(at, range.start);
            }
            if until > range.end {
                self.ranges.insert(range.end, until);
            }
        }
    }

    /// Adds all of another set.
    pub(crate) fn insert_all(&mut self, other: &Self) {
        for range in other.iter() {
            self.insert(range);
        }
    }

    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// How many bytes there are.
    pub(crate) fn total(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether nothing is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The first byte from `at` on that is not there.
    pub(crate) fn end_from(&self, at: u64) -> u64 {
        match self.ranges.range(..=at).next_back() {
            Some((_, &end)) if end > at => end,
            _ => at,
        }
    }

    /// The first range within `bounds` that is not there, at most so long.
    pub(crate) fn first_gap(&self, bounds: Range<u64>, longest: u64) -> Option<Range<u64>> {
        let start = self.end_from(bounds.start);
        if start >= bounds.end || longest == 0 {
            return None;
        }
        let next = self.ranges.range(start..).next().map_or(bounds.end, |(&next, _)| next.min(bounds.end));
        Some(start..next.min(start.saturating_add(longest)))
    }
}

impl FromIterator<Range<u64>> for Intervals {
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: usize = 40;

    fn model(set: &Intervals) -> [bool; SPACE] {
        let mut bytes = [false; SPACE];
        for range in set.iter() {
            for at in range {
                bytes[usize::try_from(at).unwrap()] = true;
            }
        }
        bytes
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..SPACE as u64, 0..SPACE as u64).prop_map(|(one, two)| one.min(two)..one.max(two))
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_its_bytes(acts in prop::collection::vec((any::<bool>(), range()), 0..20), at in 0..SPACE as u64, bounds in range(), longest in 0u64..10) {
            let mut set = Intervals::default();
            let mut bytes = [false; SPACE];
            for (insert, range) in acts {
                if insert { set.insert(range.clone()) } else { set.remove(range.clone()) }
                for at in range {
                    bytes[usize::try_from(at).unwrap()] = insert;
                }
            }
            prop_assert_eq!(model(&set), bytes);
            prop_assert_eq!(set.total(), bytes.iter().filter(|&&there| there).count() as u64);
            prop_assert!(set.iter().zip(set.iter().skip(1)).all(|(one, two)| one.end < two.start));
            let missing = |at: u64| bytes.get(usize::try_from(at).unwrap()).is_none_or(|there| !there);
            let end = (at..=SPACE as u64).find(|&at| missing(at)).unwrap();
            prop_assert_eq!(set.end_from(at), end);
            let start = bounds.clone().find(|&at| missing(at));
            let gap = start.filter(|_| longest > 0).map(|start| {
                let end = (start..bounds.end).take_while(|&at| missing(at)).take(usize::try_from(longest).unwrap()).last().unwrap() + 1;
                start..end
            });
            prop_assert_eq!(set.first_gap(bounds, longest), gap);
        }
    }
}
