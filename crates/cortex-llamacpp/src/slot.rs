//! One sequence of the context: what its cells hold, and who uses it.

use crate::{
    generation::Generation,
    llama::{AdapterSet, Token},
};
use std::sync::Arc;

/// What the recurrent layers held of a sequence when it had fewer tokens.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    /// How many those were.
    pub(crate) tokens: usize,
    /// As llama.cpp writes it. Slots that begin alike share it.
    pub(crate) state: Arc<Vec<u8>>,
}

/// What the next turn of a conversation has behind what is there, and can be computed before it comes.
pub(crate) struct Ahead {
    /// How many tokens are there.
    pub(crate) at: usize,
    /// Those behind them.
    pub(crate) tokens: Vec<Token>,
    /// The adapters that count.
    pub(crate) adapters: AdapterSet,
}

/// One sequence of the context.
#[derive(Default)]
pub(crate) struct Slot {
    /// The tokens whose keys and values the cells hold, in order.
    pub(crate) cells: Vec<Token>,
    /// Where it can be cut when its layers are recurrent, the shortest first; none is longer than the cells.
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// How many of them the last prompt had before what makes the model answer: there the next turn goes on, whatever the answer was.
    pub(crate) turn: usize,
    /// The cells are those of another slot, and llama.cpp copies them with the next step only: nothing can be read here before.
    pub(crate) is_unsettled: bool,
    /// Whose they are: only requests with the same number may use them; without one, nobody.
    pub(crate) scope: Option<u64>,
    /// The request that runs here.
    pub(crate) generation: Option<Generation>,
    /// What will most likely come next, when nothing runs here.
    pub(crate) ahead: Option<Ahead>,
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

    /// Keeps the first tokens only.
    pub(crate) fn cut(&mut self, keep: usize) {
        self.cells.truncate(keep);
        self.turn = self.turn.min(keep);
        self.checkpoints.retain(|it| it.tokens <= keep);
    }

    /// The last checkpoint that has no more tokens than these.
    pub(crate) fn checkpoint(&self, most: usize) -> Option<&Checkpoint> {
        self.checkpoints.iter().rfind(|it| it.tokens <= most)
    }
}

/// Forgets checkpoints until no more than so many bytes are left: the ones that save the fewest tokens first, because another one
/// stands shortly before them. The last one of each slot is the place where its conversation goes on, and goes last.
pub(crate) fn thin(slots: &mut [Slot], most: u64) {
    loop {
        let mut known: Vec<(&Arc<Vec<u8>>, bool, usize)> = Vec::new();
        for slot in slots.iter() {
            let mut before = 0;
            for (at, it) in slot.checkpoints.iter().enumerate() {
                let (is_last, saves) = (at + 1 == slot.checkpoints.len(), it.tokens - before);
                before = it.tokens;
                match known.iter_mut().find(|(state, ..)| Arc::ptr_eq(state, &it.state)) {
                    Some(shared) => *shared = (shared.0, shared.1 || is_last, shared.2.max(saves)),
                    None => known.push((&it.state, is_last, saves)),
                }
            }
        }
        let bytes: u64 = known.iter().map(|(state, ..)| state.len() as u64).sum();
        let least = known.into_iter().min_by_key(|(_, is_last, saves)| (*is_last, *saves));
        let Some((state, ..)) = least.filter(|_| bytes > most) else { return };
        let state = state.clone();
        for slot in slots.iter_mut() {
            slot.checkpoints.retain(|it| !Arc::ptr_eq(&it.state, &state));
        }
    }
}

/// Fewer tokens than this are computed sooner than copied or waited for.
pub(crate) const WORTH: usize = 32;
/// At the end of a prompt, so many tokens at most make the model answer: the name of who speaks next, and what it begins with.
pub(crate) const TAIL: usize = 16;
/// Of what another slot holds, at least this share has to be of use: all of it is copied.
const SHARE: usize = 64;

/// A prompt that needs a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'prompt> {
    /// Its tokens; none when nothing that others have computed may be used.
    pub(crate) prompt: &'prompt [Token],
    /// Whose it is.
    pub(crate) scope: Option<u64>,
    /// What a slot holds can be cut at its checkpoints only, as with recurrent models.
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
    Later {
        /// Whose it is.
        slot: usize,
        /// Tokens that both begin with.
        common: usize,
    },
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
    let is_being_computed = |(index, slot): (usize, &Slot)| {
        let generation = slot.generation.as_ref().filter(|it| it.remaining() > 0 && !it.deterministic)?;
        let common = common_prefix(&generation.prompt, prompt).min(prompt.len().saturating_sub(1));
        // What cannot be cut there any more is of no use.
        let is_ahead = !is_whole || common > generation.computed;
        (slot.is_for(wanted) && is_ahead && common >= known + WORTH).then_some(Place::Later { slot: index, common })
    };
    if let Some(later) = slots.iter().enumerate().find_map(is_being_computed) {
        return Some(later);
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

/// How many of the first tokens of a prompt a slot holds, whether they are of use or not: what comes later may part from it there too.
pub(crate) fn parting(slots: &[Slot], wanted: Wanted<'_>) -> usize {
    let common = |slot: &Slot| common_prefix(&slot.cells, wanted.prompt);
    slots.iter().filter(|slot| slot.is_for(wanted)).map(common).max().unwrap_or(0)
}

impl Slot {
    /// How many of the first tokens of a prompt the cells hold in a way that is of use to it.
    fn usable(&self, wanted: Wanted<'_>) -> usize {
        if !self.is_for(wanted) {
            return 0;
        }
        let common = common_prefix(&self.cells, wanted.prompt);
        // The last token of a prompt is computed in any case.
        let most = common.min(wanted.prompt.len().saturating_sub(1));
        if !wanted.is_whole || common == self.cells.len() && most == common {
            return common;
        }
        self.checkpoint(most).map_or(0, |it| it.tokens)
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
        Slot { cells, last_used, scope: Some(0), ..Slot::default() }
    }

    /// A slot whose request has computed so many tokens of its prompt.
    fn busy(prompt: Vec<Token>, computed: usize) -> Slot {
        let cells = prompt[..computed].to_vec();
        Slot { cells, scope: Some(0), generation: Some(Generation::for_test(prompt, computed)), ..Slot::default() }
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
        assert_eq!(place(&slots, wanted(&prompt), |_| Some((5, 800))), Some(Place::Later { slot: 0, common: 899 }));
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
        check(&[computing, free(vec![], 0)], &prompt, Some(Place::Later { slot: 0, common: 199 }));
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

    /// The same with checkpoints after so many tokens.
    fn with(slot: Slot, checkpoints: &[usize]) -> Slot {
        let checkpoint = |&tokens: &usize| Checkpoint { tokens, state: Arc::new(vec![0; 10]) };
        Slot { checkpoints: checkpoints.iter().map(checkpoint).collect(), ..slot }
    }

    #[test]
    fn what_cannot_be_cut_is_of_use_as_a_whole_or_up_to_a_checkpoint() {
        let prompt = tokens(0..200);
        let whole = |slots: &[Slot]| place(slots, Wanted { is_whole: true, ..wanted(&prompt) }, |_| None);
        let slots = [free(tokens(0..150), 7), free(vec![], 0)];
        assert_eq!(whole(&slots), Some(Place::Here { slot: 0, common: 150 }));
        let longer = || tokens(0..150).into_iter().chain([9]).collect::<Vec<Token>>();
        assert_eq!(whole(&[free(longer(), 7)]), Some(Place::Here { slot: 0, common: 0 }));
        assert_eq!(whole(&[with(free(longer(), 7), &[40, 120])]), Some(Place::Here { slot: 0, common: 120 }));
        // One that lies behind what is common is of no use, nor is the end of the prompt itself.
        assert_eq!(whole(&[with(free(longer(), 7), &[40, 151])]), Some(Place::Here { slot: 0, common: 40 }));
        assert_eq!(whole(&[with(free(tokens(0..200), 7), &[190, 200])]), Some(Place::Here { slot: 0, common: 190 }));
        // From a request that runs, and one that has not come so far.
        let running = with(busy(tokens(0..300), 300), &[100]);
        let expected = Place::Copied { slot: 1, from: 0, common: 100 };
        assert_eq!(whole(&[running, free(vec![], 0)]), Some(expected));
        let slots = [busy(tokens(0..300), 10), free(vec![], 0)];
        assert_eq!(whole(&slots), Some(Place::Later { slot: 0, common: 199 }));
        // It has passed the place.
        let slots = [busy(tokens(0..300), 250), free(vec![], 0)];
        assert_eq!(whole(&slots), Some(Place::Here { slot: 1, common: 0 }));
    }

    #[test]
    fn checkpoints_that_save_little_go_first() {
        let of = |slots: &[Slot]| -> Vec<Vec<usize>> {
            slots.iter().map(|slot| slot.checkpoints.iter().map(|it| it.tokens).collect()).collect()
        };
        let mut slots = [with(free(tokens(0..500), 1), &[100, 130, 400]), with(free(tokens(0..90), 2), &[20])];
        thin(&mut slots, 40);
        assert_eq!(of(&slots), [vec![100, 130, 400], vec![20]]);
        thin(&mut slots, 30);
        assert_eq!(of(&slots), [vec![100, 400], vec![20]]);
        // The last ones go last, and of these the one that saves least.
        thin(&mut slots, 25);
        assert_eq!(of(&slots), [vec![400], vec![20]]);
        thin(&mut slots, 10);
        assert_eq!(of(&slots), [vec![400], vec![]]);
        // What two slots share counts once.
        let shared = slots[0].checkpoints.clone();
        slots[1].checkpoints = shared;
        thin(&mut slots, 10);
        assert_eq!(of(&slots), [vec![400], vec![400]]);
        thin(&mut slots, 0);
        assert_eq!(of(&slots), [vec![], Vec::<usize>::new()]);
    }

    #[test]
    fn what_is_cut_loses_its_checkpoints() {
        let mut slot = with(free(tokens(0..500), 1), &[100, 130, 400]);
        assert_eq!(slot.checkpoint(399).map(|it| it.tokens), Some(130));
        assert_eq!(slot.checkpoint(99).map(|it| it.tokens), None);
        slot.cut(130);
        assert_eq!((slot.cells.len(), slot.checkpoints.len()), (130, 2));
    }
}
