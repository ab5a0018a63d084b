//! Which models are loaded next, and which leave for them. Pure: it knows no clock and no process.
//!
//! The rules, in the order in which they win:
//! 1. What is promised never exceeds the memory. Nothing that loads or is pinned leaves.
//! 2. The model whose request waits longest comes first. Others may pass it only with memory that it cannot use yet.
//! 3. A model leaves when it is idle, least recently used first. One whose requests come faster than it could be loaded
//!    again counts as in use between them, so that three models with room for two do not drive each other out.
//! 4. A request that has waited for longer than the patience takes the memory of models in use too: they answer what they
//!    have begun, and what comes for them later waits.

mod demand;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub(crate) use demand::Demand;

use crate::need::{Need, Size};
use cortex_hardware::{Budget, Graphics};
use std::{cmp::Reverse, time::Duration};

/// A model that is in memory, or wanted.
#[derive(Debug)]
pub(crate) enum Model<'need> {
    /// Requests wait for it.
    Waiting {
        /// What it needs.
        need: &'need Need,
        /// How long the oldest request has waited.
        since: Duration,
    },
    /// It has memory, or was promised some.
    Held {
        /// Bytes of memory that are free again without it.
        bytes: u64,
        /// Bytes that graphics processors have again without it.
        graphics: u64,
        /// What it does.
        hold: Hold,
        /// It never leaves for another.
        pinned: bool,
        /// How long it has not been asked.
        unused: Duration,
    },
}

/// What a model in memory does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It comes.
    Loading,
    /// It answers.
    Busy,
    /// Nobody uses it; for so long it still counts as in use.
    Idle { expected: Duration },
    /// It goes.
    Leaving,
}

/// What there is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes that nobody has and nobody was promised. Less than nothing when others took what was promised.
    pub(crate) free: i64,
    /// Graphics processors; of those with memory of their own, the bytes that nobody has.
    pub(crate) graphics: Graphics,
    /// Models that may be loaded beside those that are.
    pub(crate) places: usize,
    /// How long a request waits for models in use.
    pub(crate) patience: Duration,
}

/// What to do. Numbers are places in the list of models.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Load these.
    pub(crate) load: Vec<(usize, Size)>,
    /// Let these go.
    pub(crate) leave: Vec<usize>,
    /// These can never be loaded beside what is pinned.
    pub(crate) refuse: Vec<(usize, Shortage)>,
    /// Ask again after this time, if nothing happens before.
    pub(crate) again: Option<Duration>,
}

/// Why a model can never be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Every place is taken by a pinned model.
    Places,
    /// What it could have if all left that may.
    Memory(Budget),
}

/// Memory and places, of those that are free or will be.
#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    bytes: i64,
    graphics: i64,
    places: usize,
}

impl Amount {
    fn of(bytes: u64, graphics: u64) -> Self {
        Self { bytes: signed(bytes), graphics: signed(graphics), places: 1 }
    }

    fn of_size(size: Size) -> Self {
        Self::of(size.bytes, size.graphics)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            graphics: self.graphics.saturating_add(other.graphics),
            places: self.places.saturating_add(other.places),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            graphics: self.graphics.saturating_sub(other.graphics),
            places: self.places.saturating_sub(other.places),
        }
    }

    fn at_most(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            graphics: self.graphics.min(other.graphics),
            places: self.places.min(other.places),
        }
    }

    /// What a model may have of it, on a machine with such graphics processors.
    fn budget(self, graphics: Graphics) -> Budget {
        let graphics = match graphics {
            Graphics::Own(_) => Graphics::Own(u64::try_from(self.graphics).unwrap_or(0)),
            other => other,
        };
        Budget { memory: u64::try_from(self.bytes).unwrap_or(0), graphics }
    }

    /// What `need` gets of it, when that is what it waits for.
    fn serves(self, need: &Need, goal: Goal, graphics: Graphics) -> Option<Size> {
        if self.places == 0 {
            return None;
        }
        let budget = self.budget(graphics);
        match goal {
            Goal::WholeContext { layers } => need.whole_context(budget).filter(|size| size.layers >= layers),
            Goal::Size(size) => {
                let has_graphics = match budget.graphics {
                    Graphics::Own(bytes) => size.graphics <= bytes,
                    Graphics::None | Graphics::Shared => true,
                };
                (size.bytes <= budget.memory && has_graphics).then_some(size)
            }
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What a waiting model can reach at best.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// The whole context, for one request or more, with so many layers on graphics processors.
    WholeContext { layers: u32 },
    /// This, and nothing more.
    Size(Size),
}

/// Decides.
pub(crate) fn plan(models: &[Model<'_>], room: Room) -> Plan {
    let mut plan = Plan::default();
    let graphics = match room.graphics {
        Graphics::Own(bytes) => signed(bytes),
        Graphics::None | Graphics::Shared => 0,
    };
    let mut free = Amount { bytes: room.free, graphics, places: room.places };
    let mut coming = Amount::default();
    // What there would be if all left that may.
    let mut most = free;
    for model in models {
        if let Model::Held { bytes, graphics, hold, pinned, .. } = model {
            if *hold == Hold::Leaving {
                coming = coming.plus(Amount::of(*bytes, *graphics));
            }
            if !pinned || *hold == Hold::Leaving {
                most = most.plus(Amount::of(*bytes, *graphics));
            }
        }
    }
    let mut waiting: Vec<(usize, &Need, Duration)> = models
        .iter()
        .enumerate()
        .filter_map(|(at, model)| match model {
            Model::Waiting { need, since } => Some((at, *need, *since)),
            Model::Held { .. } => None,
        })
        .collect();
    waiting.sort_by_key(|(at, _, since)| (Reverse(*since), *at));
    for (at, need, since) in waiting {
        if most.places == 0 {
            plan.refuse.push((at, Shortage::Places));
            continue;
        }
        let best = most.budget(room.graphics);
        let goal = match (need.whole_context(best), need.within(best)) {
            (Some(size), _) => Goal::WholeContext { layers: size.layers },
            (None, Some(size)) => Goal::Size(size),
            (None, None) => {
                plan.refuse.push((at, Shortage::Memory(best)));
                continue;
            }
        };
        if let Some(size) = free.serves(need, goal, room.graphics) {
            free = free.minus(Amount::of_size(size));
            plan.load.push((at, size));
            continue;
        }
        let is_impatient = since >= room.patience;
        let (mut have, mut leaving) = (free.plus(coming), Vec::new());
        for (victim, amount) in victims(models, &plan, is_impatient) {
            if have.serves(need, goal, room.graphics).is_some() {
                break;
            }
            have = have.plus(amount);
            leaving.push((victim, amount));
        }
        let Some(size) = have.serves(need, goal, room.graphics) else {
            // Nobody else may take what it waits for.
            if is_impatient {
                break;
            }
            let until_impatient = room.patience.checked_sub(since);
            let until_unexpected = expected(models, &plan);
            plan.again = plan.again.into_iter().chain(until_impatient).chain(until_unexpected).min();
            continue;
        };
        // A large one may have made a smaller one before it unnecessary.
        leaving.retain(|(victim, amount)| {
            let without = have.minus(*amount);
            let is_needed = without.serves(need, goal, room.graphics).is_none();
            if is_needed {
                plan.leave.push(*victim);
                coming = coming.plus(*amount);
            } else {
                have = without;
            }
            is_needed
        });
        // It waits for what goes, and has a claim on it.
        let claim = Amount::of_size(size);
        let of_coming = claim.at_most(coming);
        coming = coming.minus(of_coming);
        free = free.minus(claim.minus(of_coming));
    }
    plan
}

/// The models that may leave, in the order in which they should, each with what it has.
fn victims(models: &[Model<'_>], plan: &Plan, also_busy: bool) -> Vec<(usize, Amount)> {
    let mut found: Vec<(bool, Reverse<Duration>, usize, Amount)> = models
        .iter()
        .enumerate()
        .filter(|(at, _)| !plan.leave.contains(at))
        .filter_map(|(at, model)| match model {
            Model::Held { bytes, graphics, hold, pinned: false, unused } => {
                let amount = Amount::of(*bytes, *graphics);
                match hold {
                    Hold::Idle { expected } if expected.is_zero() => Some((false, Reverse(*unused), at, amount)),
                    Hold::Idle { .. } | Hold::Busy if also_busy => Some((true, Reverse(*unused), at, amount)),
                    Hold::Idle { .. } | Hold::Busy | Hold::Loading | Hold::Leaving => None,
                }
            }
            Model::Held { .. } | Model::Waiting { .. } => None,
        })
        .collect();
    found.sort_by_key(|(is_used, unused, at, _)| (*is_used, *unused, *at));
    found.into_iter().map(|(_, _, at, amount)| (at, amount)).collect()
}

/// When the next idle model no longer counts as in use.
fn expected(models: &[Model<'_>], plan: &Plan) -> Option<Duration> {
    models
        .iter()
        .enumerate()
        .filter(|(at, _)| !plan.leave.contains(at))
        .filter_map(|(_, model)| match model {
            Model::Held { hold: Hold::Idle { expected }, pinned: false, .. } if !expected.is_zero() => Some(*expected),
            Model::Held { .. } | Model::Waiting { .. } => None,
        })
        .min()
}
