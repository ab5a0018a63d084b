//! Which part of a list is asked for.

use crate::ThreadsError;

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The oldest first.
    Ascending,
    /// The newest first.
    #[default]
    Descending,
}

/// Entries of a list when nobody says how many.
const USUAL: i64 = 20;

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// At most so many; none means all.
    pub limit: Option<usize>,
    /// In which order.
    pub order: Order,
    /// Only ids that come behind this one.
    pub after: Option<String>,
    /// Only ids that come before this one.
    pub before: Option<String>,
}

impl Page {
    /// As a query says it: -1, and every other number below zero, is all; without a number it is 20.
    pub fn new(
        limit: Option<i64>,
        order: Option<&str>,
        after: Option<String>,
        before: Option<String>,
    ) -> Result<Self, ThreadsError> {
        let order = match order {
            None | Some("" | "desc") => Order::Descending,
            Some("asc") => Order::Ascending,
            Some(other) => {
                return Err(ThreadsError::Invalid { message: format!("order is `{other}`; it must be asc or desc") });
            }
        };
        let given = |id: Option<String>| id.filter(|id| !id.is_empty());
        let (after, before) = (given(after), given(before));
        if let (Some(after), Some(before)) = (&after, &before)
            && after >= before
        {
            return Err(ThreadsError::invalid("Invalid range: 'after' must be less than 'before'"));
        }
        Ok(Self { limit: usize::try_from(limit.unwrap_or(USUAL)).ok(), order, after, before })
    }

    /// The entries that are asked for of those in ascending order.
    pub(crate) fn of<T>(&self, ascending: Vec<T>, id: impl Fn(&T) -> &str) -> Vec<T> {
        let is_within = |entry: &T| {
            let id = id(entry);
            self.after.as_deref().is_none_or(|after| id > after)
                && self.before.as_deref().is_none_or(|before| id < before)
        };
        let limit = self.limit.unwrap_or(usize::MAX);
        let entries = ascending.into_iter().filter(is_within);
        match self.order {
            Order::Ascending => entries.take(limit).collect(),
            Order::Descending => {
                let mut entries: Vec<T> = entries.collect();
                entries.reverse();
                entries.truncate(limit);
                entries
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_out_of_a_list() {
        let all = || ["a", "b", "c", "d"].to_vec();
        for (limit, order, after, before, expected) in [
            (None, None, None, None, "dcba"),
            (Some(-1), Some("asc"), None, None, "abcd"),
            (Some(2), Some("desc"), None, None, "dc"),
            (Some(2), Some("asc"), Some("a"), None, "bc"),
            (Some(9), Some("asc"), Some("a"), Some("d"), "bc"),
            (Some(1), None, None, Some("c"), "b"),
            (Some(0), None, None, None, ""),
            (None, None, Some(""), Some(""), "dcba"),
        ] {
            let own = |id: Option<&str>| id.map(str::to_owned);
            let page = Page::new(limit, order, own(after), own(before)).unwrap();
            assert_eq!(page.of(all(), |id| id).concat(), expected, "{page:?}");
        }
        assert!(Page::new(None, Some("up"), None, None).is_err());
        assert!(Page::new(None, None, Some("b".into()), Some("b".into())).is_err());
        assert_eq!(Page::new(None, None, None, None).unwrap().limit, Some(20));
    }
}
