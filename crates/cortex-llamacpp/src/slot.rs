//! One sequence of the context: what its cells hold, and who uses it.

use crate::{generation::Generation, llama::Token};

/// One sequence of the context.
#[derive(Default)]
pub(crate) struct Slot {
    /// The tokens whose keys and values the cells hold, in order.
    pub(crate) cells: Vec<Token>,
    /// Whose they are: only requests with the same number may use them; without one, nobody.
    pub(crate) scope: Option<u64>,
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

/// Fewer tokens than this are computed sooner than copied or waited for.
const WORTH: usize = 32;
/// Of what another slot holds, at least this share has to be of use: all of it is copied.
const SHARE: usize = 64;

/// A prompt that needs a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'prompt> {
    /// Its tokens; none when nothing that others have computed may be used.
    pub(crate) prompt: &'prompt [Token],
    /// Whose it is.
    pub(crate) scope: Option<u64>,
    /// What a slot holds cannot be cut, as with recurrent models.
    pub(crate) is_whole: bool,
}

/// Where a prompt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// To this free slot, which holds so many of its first tokens.
    Here {
        /// Which slot.
        slot: usize,
        /// Tokens that are there.
        common: usize,
    },
    /// To this free slot, once it has got what another one holds, whose first tokens are those of the prompt.
    Copied {
        /// Which slot.
        slot: usize,
        /// The other one.
        from: usize,
        /// Tokens that are there then.
        common: usize,
    },
    /// To this free slot, once it has got what is on disk.
    Restored {
        /// Which slot.
        slot: usize,
        /// Which beginning on disk.
        saved: usize,
        /// Tokens that are there then.
        common: usize,
    },
    /// Nowhere yet: another prompt is being computed that begins like it, further than anything that is there.
    Later,
}

/// The place of a prompt; nothing when no slot is free. What it shares with others is computed once: the longest common beginning
/// is taken where it is or copied, also from a request that runs, read from disk, and waited for while it is computed. `saved` gives the best
/// beginning on disk that has more tokens than are there, and how many of the prompt's it has.
pub(crate) fn place(
    slots: &[Slot],
    wanted: Wanted<'_>,
    saved: impl FnOnce(usize) -> Option<(usize, usize)>,
) -> Option<Place> {
    let Wanted { prompt, is_whole, .. } = wanted;
    let free = || slots.iter().enumerate().filter(|(_, slot)| slot.generation.is_none());
    // The slot whose loss is the least: the one that was unused for longest.
    let oldest = |but: Option<usize>| {
        free().filter(|(index, _)| Some(*index) != but).min_by_key(|(index, slot)| (slot.last_used, *index))
    };
    let (least, _) = oldest(None)?;
    // Where the fewest tokens are computed, now and later: what another slot than the oldest loses may be wanted again.
    let cost = |(index, slot): (usize, &Slot)| {
        let common = slot.usable(wanted);
        let lost = if index == least { 0 } else { slot.cells.len() - common };
        (prompt.len().saturating_sub(common) + lost, slot.last_used, index, common)
    };
    let (_, _, own, own_common) = free().map(cost).min()?;
    // What is there, wherever; at least so much of it that the copy is worth it.
    let best = slots
        .iter()
        .enumerate()
        .map(|(index, slot)| (index, slot.usable(wanted)))
        .filter(|&(index, common)| common >= slots[index].cells.len() / SHARE)
        .max_by(|left, right| left.1.cmp(&right.1).then(right.0.cmp(&left.0)));
    let there = best.map_or(own_common, |(_, common)| common.max(own_common));
    let saved = saved(there).filter(|(_, common)| *common > there);
    let known = saved.map_or(there, |(_, common)| common);
    let is_being_computed = |slot: &Slot| {
        slot.generation.as_ref().is_some_and(|generation| {
            generation.remaining() > 0
                && !generation.deterministic
                && slot.is_for(wanted)
                && common_prefix(&generation.prompt, prompt).min(prompt.len().saturating_sub(1)) >= known + WORTH
        })
    };
    // A recurrent state is only of use at the end of the other prompt, where it is the answer's already.
    if !is_whole && slots.iter().any(is_being_computed) {
        return Some(Place::Later);
    }
    if let Some((saved, common)) = saved {
        let (slot, _) = oldest(None)?;
        return Some(Place::Restored { slot, saved, common });
    }
    match best {
        Some((from, common)) if common >= own_common + WORTH => {
            let (slot, _) = oldest(None)?;
            Some(Place::Copied { slot, from, common })
        }
        // It is free, and would lose the end of what it holds: that goes on living if an older one can be taken.
        Some((from, common)) if from == own && common >= WORTH && slots[own].cells.len() >= common + WORTH => {
            match oldest(Some(own)).filter(|(_, slot)| slot.last_used < slots[own].last_used || slot.cells.is_empty()) {
                Some((slot, _)) => Some(Place::Copied { slot, from, common }),
                None => Some(Place::Here { slot: own, common: own_common }),
            }
        }
        _ => Some(Place::Here { slot: own, common: own_common }),
    }
}

impl Slot {
    /// How many of the first tokens of a prompt the cells hold in a way that is of use to it.
    fn usable(&self, wanted: Wanted<'_>) -> usize {
        if !self.is_for(wanted) {
            return 0;
        }
        let common = common_prefix(&self.cells, wanted.prompt);
        if wanted.is_whole && common < self.cells.len() { 0 } else { common }
    }

    fn is_for(&self, wanted: Wanted<'_>) -> bool {
        self.scope.is_some() && self.scope == wanted.scope
    }
}

/// How many of the first tokens are the same.
pub(crate) fn common_prefix(left: &[Token], right: &[Token]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(range: std::ops::Range<i32>) -> Vec<Token> {
        range.collect()
    }

    fn free(cells: Vec<Token>, last_used: u64) -> Slot {
        Slot { cells, last_used, scope: Some(0), generation: None }
    }

    /// A slot whose request has computed so many tokens of its prompt.
    fn busy(prompt: Vec<Token>, computed: usize) -> Slot {
        let cells = prompt[..computed].to_vec();
        Slot { cells, last_used: 0, scope: Some(0), generation: Some(Generation::for_test(prompt, computed)) }
    }

    fn wanted(prompt: &[Token]) -> Wanted<'_> {
        Wanted { prompt, scope: Some(0), is_whole: false }
    }

    #[track_caller]
    fn check(slots: &[Slot], prompt: &[Token], expected: Option<Place>) {
        assert_eq!(place(slots, wanted(prompt), |_| None), expected);
    }

    #[test]
    fn what_is_on_disk_goes_to_the_oldest_slot_when_it_is_more() {
        let prompt = tokens(0..900);
        let slots = [free(tokens(0..300), 7), free(vec![8; 50], 3)];
        let of = |saved: Option<(usize, usize)>| {
            place(&slots, wanted(&prompt), |there| {
                assert_eq!(there, 300);
                saved
            })
        };
        assert_eq!(of(Some((5, 800))), Some(Place::Restored { slot: 1, saved: 5, common: 800 }));
        assert_eq!(of(None), Some(Place::Here { slot: 0, common: 300 }));
        // Who computes further is waited for.
        let slots = [busy(tokens(0..1000), 10), free(vec![], 0)];
        assert_eq!(place(&slots, wanted(&prompt), |_| Some((5, 800))), Some(Place::Later));
        assert_eq!(
            place(&slots, wanted(&prompt), |_| Some((5, 890))),
            Some(Place::Restored { slot: 1, saved: 5, common: 890 })
        );
    }

    #[test]
    fn what_is_of_another_scope_is_not_there() {
        let prompt = tokens(0..200);
        let of = |scope: Option<u64>, slots: &[Slot]| place(slots, Wanted { scope, ..wanted(&prompt) }, |_| None);
        let mut slots = [free(tokens(0..150), 7), free(vec![], 0)];
        assert_eq!(of(Some(1), &slots), Some(Place::Here { slot: 1, common: 0 }));
        assert_eq!(of(None, &slots), Some(Place::Here { slot: 1, common: 0 }));
        slots[0].scope = None;
        assert_eq!(of(None, &slots), Some(Place::Here { slot: 1, common: 0 }));
        slots[0] = busy(tokens(0..300), 10);
        assert_eq!(of(Some(1), &slots), Some(Place::Here { slot: 1, common: 0 }));
    }

    #[test]
    fn the_longest_common_beginning_wins_then_the_oldest() {
        let slots = [free(vec![1, 2, 9], 1), free(vec![1, 2, 3], 5), free(vec![], 0)];
        check(&slots, &[1, 2, 3, 4], Some(Place::Here { slot: 1, common: 3 }));
        check(&slots, &[7], Some(Place::Here { slot: 2, common: 0 }));
        // A little more in common is not worth the end of what another one holds.
        let recent: Vec<Token> = tokens(0..28).into_iter().chain(vec![9; 14]).collect();
        let old: Vec<Token> = tokens(0..26).into_iter().chain(vec![8; 30]).collect();
        check(&[free(recent, 7), free(old, 3)], &tokens(0..42), Some(Place::Here { slot: 1, common: 26 }));
        check(&[], &[7], None);
        check(&[busy(tokens(0..9), 9)], &[7], None);
    }

    #[test]
    fn what_another_slot_holds_is_copied_and_goes_on_living() {
        let prompt = tokens(0..200);
        // From a request that runs.
        let slots = [busy(tokens(0..150), 150), free(vec![9; 50], 7), free(vec![8; 50], 3)];
        check(&slots, &prompt, Some(Place::Copied { slot: 2, from: 0, common: 150 }));
        // From another conversation, which has more than the prompt.
        let other: Vec<Token> = tokens(0..100).into_iter().chain(vec![9; 100]).collect();
        let slots = [free(other.clone(), 7), free(vec![8; 50], 3)];
        check(&slots, &prompt, Some(Place::Copied { slot: 1, from: 0, common: 100 }));
        // The only one, or the oldest one: there is nothing to lose that is younger.
        check(&[free(other.clone(), 7)], &prompt, Some(Place::Here { slot: 0, common: 100 }));
        check(&[free(other.clone(), 2), free(vec![8; 50], 3)], &prompt, Some(Place::Here { slot: 0, common: 100 }));
        // The next turn of a conversation stays where it is.
        check(&[free(tokens(0..190), 7), free(vec![], 0)], &prompt, Some(Place::Here { slot: 0, common: 190 }));
        // Little is not worth it, nor is little of much.
        check(&[busy(tokens(0..20), 20), free(vec![], 0)], &prompt, Some(Place::Here { slot: 1, common: 0 }));
        let much: Vec<Token> = tokens(0..40).into_iter().chain(vec![9; 10_000]).collect();
        check(&[busy(much, 10_040), free(vec![], 0)], &prompt, Some(Place::Here { slot: 1, common: 0 }));
    }

    #[test]
    fn a_beginning_that_is_being_computed_is_waited_for() {
        let prompt = tokens(0..200);
        let computing = busy(tokens(0..300), 10);
        check(&[computing, free(vec![], 0)], &prompt, Some(Place::Later));
        // It is there.
        check(
            &[busy(tokens(0..300), 250), free(vec![], 0)],
            &prompt,
            Some(Place::Copied { slot: 1, from: 0, common: 200 }),
        );
        // There is as much elsewhere.
        let slots = [busy(tokens(0..300), 10), free(tokens(0..190), 3)];
        check(&slots, &prompt, Some(Place::Here { slot: 1, common: 190 }));
        // It begins in another way.
        check(&[busy(vec![5; 300], 10), free(vec![], 0)], &prompt, Some(Place::Here { slot: 1, common: 0 }));
    }

    #[test]
    fn what_cannot_be_cut_is_of_use_as_a_whole_only() {
        let prompt = tokens(0..200);
        let whole = |slots: &[Slot]| place(slots, Wanted { is_whole: true, ..wanted(&prompt) }, |_| None);
        let slots = [free(tokens(0..150), 7), free(vec![], 0)];
        assert_eq!(whole(&slots), Some(Place::Here { slot: 0, common: 150 }));
        let longer: Vec<Token> = tokens(0..150).into_iter().chain([9]).collect();
        assert_eq!(whole(&[free(longer, 7)]), Some(Place::Here { slot: 0, common: 0 }));
        assert_eq!(whole(&[busy(tokens(0..300), 10), free(vec![], 0)]), Some(Place::Here { slot: 1, common: 0 }));
    }
}
