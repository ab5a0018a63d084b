//! Who has how much memory. Pure.

use cortex_hardware::{Budget, Graphics, Memory};

/// What one loaded model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Bytes that it was promised; what its worker has reported, once it is loaded.
    pub(crate) reserved: u64,
    /// Of which so many are its own already: the system no longer counts them as available. Weights are not among them,
    /// which are mapped from their file: the system would give them up, and the model would read them again and again.
    pub(crate) taken: u64,
    /// Bytes that it was promised of the memory that graphics processors have of their own, or has there.
    pub(crate) graphics: u64,
}

impl Holding {
    /// Bytes that are free again when it has left.
    pub(crate) fn bytes(self) -> u64 {
        self.reserved.max(self.taken)
    }

    /// Bytes that still look available, and are not.
    fn promised(self) -> u64 {
        self.reserved.saturating_sub(self.taken)
    }
}

/// Bytes that a further model may have. Less than nothing when others took what was promised. `limit` is the most that
/// all models may have together; memory that the system does not tell is taken for endless.
pub(crate) fn free(memory: Memory, limit: Option<u64>, holdings: &[Holding]) -> i64 {
    let sum = |of: fn(Holding) -> u64| holdings.iter().map(|it| signed(of(*it))).fold(0, i64::saturating_add);
    let of_machine = match memory.total {
        0 => i64::MAX,
        _ => signed(memory.available) - signed(memory.kept_free()),
    };
    let of_machine = of_machine.saturating_sub(sum(Holding::promised));
    let of_limit = limit.map_or(i64::MAX, signed).saturating_sub(sum(Holding::bytes));
    of_machine.min(of_limit)
}

/// What there is for models on a machine where nothing else runs.
pub(crate) fn all(memory: Memory, limit: Option<u64>, graphics: Graphics) -> Budget {
    let of_machine = match memory.total {
        0 => u64::MAX,
        total => total.saturating_sub(memory.kept_free()),
    };
    Budget { memory: of_machine.min(limit.unwrap_or(u64::MAX)), graphics }
}

/// What a further model may have of graphics processors.
pub(crate) fn free_graphics(all: Graphics, holdings: &[Holding]) -> Graphics {
    match all {
        Graphics::Own(bytes) => Graphics::Own(holdings.iter().fold(bytes, |left, it| left.saturating_sub(it.graphics))),
        Graphics::None | Graphics::Shared => all,
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_promised_and_not_yet_taken_is_not_free() {
        let memory = Memory { total: 10 * GIB, available: 8 * GIB };
        let mapped = Holding { reserved: 3 * GIB, taken: GIB, graphics: GIB };
        for (limit, holdings, expected) in [
            (None, &[][..], 7 * signed(GIB)),
            (None, &[mapped], 5 * signed(GIB)),
            (None, &[mapped, Holding { reserved: 7 * GIB, taken: 0, graphics: 0 }], -2 * signed(GIB)),
            // It took more than it said.
            (None, &[Holding { reserved: GIB, taken: 2 * GIB, graphics: 0 }], 7 * signed(GIB)),
            (Some(4 * GIB), &[mapped], signed(GIB)),
            (Some(4 * GIB), &[Holding { reserved: GIB, taken: 2 * GIB, graphics: 0 }], 2 * signed(GIB)),
            (Some(100 * GIB), &[], 7 * signed(GIB)),
        ] {
            assert_eq!(free(memory, limit, holdings), expected, "{limit:?} {holdings:?}");
        }
        assert!(free(Memory::default(), None, &[mapped]) > 1 << 60, "unknown memory is endless");
        assert_eq!(free(Memory::default(), Some(5 * GIB), &[mapped]), 2 * signed(GIB));
        assert_eq!(free_graphics(Graphics::Own(3 * GIB), &[mapped, mapped]), Graphics::Own(GIB));
        assert_eq!(free_graphics(Graphics::Own(GIB), &[mapped, mapped]), Graphics::Own(0));
        assert_eq!(free_graphics(Graphics::Shared, &[mapped]), Graphics::Shared);
    }
}
