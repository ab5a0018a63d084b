//! How much context fits into memory. Pure.

/// Fewer tokens than this are no use to anybody.
const SHORTEST: u32 = 256;

/// The context of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Tokens that one request may use.
    pub(crate) length: u32,
    /// Requests that run at the same time.
    pub(crate) sequences: u32,
}

/// The attention of a model, as far as its cells need memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CellShape {
    /// Layers.
    pub(crate) layers: u64,
    /// Heads that have keys and values of their own.
    pub(crate) heads: u64,
    /// Numbers in the key of a head.
    pub(crate) key_length: u64,
    /// Numbers in the value of a head.
    pub(crate) value_length: u64,
}

impl CellShape {
    /// Bytes of one cell: a key and a value for each layer and head, two bytes a number (`llama_kv_cache`
    /// with its default type F16). Layers with a sliding window need less, so this is an upper bound.
    pub(crate) fn bytes(self) -> u64 {
        self.layers
            .saturating_mul(self.heads)
            .saturating_mul(self.key_length.saturating_add(self.value_length))
            .saturating_mul(2)
    }
}

/// The largest room that fits: first fewer requests at a time, then a shorter context. `None` when not
/// even the shortest does.
pub(crate) fn fitting(wanted: Room, cell_bytes: u64, memory: Option<u64>) -> Option<Room> {
    let Some(memory) = memory else { return Some(wanted) };
    let cells = memory / cell_bytes.max(1);
    let sequences = u32::try_from(cells / u64::from(wanted.length.max(1))).unwrap_or(u32::MAX).min(wanted.sequences);
    if sequences > 0 {
        return Some(Room { sequences, ..wanted });
    }
    let length = u32::try_from(cells).unwrap_or(u32::MAX) / SHORTEST * SHORTEST;
    (length > 0).then_some(Room { length, sequences: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_a_key_and_a_value_for_each_layer_and_head() {
        // SmolLM2-135M: 30 layers, 3 heads of 64; llama.cpp reports 22.5 KiB a token.
        assert_eq!(CellShape { layers: 30, heads: 3, key_length: 64, value_length: 64 }.bytes(), 23_040);
    }

    #[test]
    fn fewer_requests_come_before_a_shorter_context() {
        let wanted = Room { length: 8192, sequences: 4 };
        for (cells, expected) in [
            (32_768, Some((8192, 4))),
            (32_767, Some((8192, 3))),
            (8192, Some((8192, 1))),
            (8191, Some((7936, 1))),
            (256, Some((256, 1))),
            (255, None),
        ] {
            let found = fitting(wanted, 1000, Some(cells * 1000));
            assert_eq!(found.map(|room| (room.length, room.sequences)), expected, "{cells} cells");
        }
        assert_eq!(fitting(wanted, 1000, None), Some(wanted));
        assert_eq!(fitting(Room { length: 100, sequences: 1 }, 0, Some(0)), None);
    }
}
