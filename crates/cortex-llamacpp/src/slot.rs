//! One sequence of the context: what its cells hold, and who uses it.

use crate::{generation::Generation, llama::Token};

/// One sequence of the context.
#[derive(Default)]
pub(crate) struct Slot {
    /// The tokens whose keys and values the cells hold, in order.
    pub(crate) cells: Vec<Token>,
    /// The request that runs here.
    pub(crate) generation: Option<Generation>,
    /// When a request last left, in steps of the engine: the least recently used slot is given away first.
    pub(crate) last_used: u64,
}

impl Slot {
    /// The request leaves; the cells keep what it computed.
    pub(crate) fn leave(&mut self, steps: u64) -> Option<Generation> {
        let generation = self.generation.take();
        if generation.is_some() {
            self.last_used = steps;
        }
        generation
    }
}

/// The free slot that a prompt should go to, and how many of its first tokens the slot already holds.
/// The longest common beginning wins, then the slot that was unused for longest.
pub(crate) fn choose_slot(slots: &[Slot], prompt: &[Token]) -> Option<(usize, usize)> {
    slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.generation.is_none())
        .map(|(index, slot)| (index, common_prefix(&slot.cells, prompt), slot.last_used))
        .max_by(|left, right| left.1.cmp(&right.1).then(right.2.cmp(&left.2)).then(right.0.cmp(&left.0)))
        .map(|(index, common, _)| (index, common))
}

fn common_prefix(left: &[Token], right: &[Token]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(cells: &[Token], last_used: u64) -> Slot {
        Slot { cells: cells.to_vec(), last_used, generation: None }
    }

    #[test]
    fn the_longest_common_beginning_wins_then_the_oldest() {
        let slots = [slot(&[1, 2, 9], 1), slot(&[1, 2, 3], 5), slot(&[], 0)];
        assert_eq!(choose_slot(&slots, &[1, 2, 3, 4]), Some((1, 3)));
        assert_eq!(choose_slot(&slots, &[7]), Some((2, 0)));
        assert_eq!(choose_slot(&[], &[7]), None);
    }
}
