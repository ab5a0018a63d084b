use super::*;
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(5);

const fn room(free: i64) -> Room {
    Room { free, graphics: Graphics::None, places: usize::MAX, patience: PATIENCE }
}

fn waiting(need: &Need, seconds: u64) -> Model<'_> {
    Model::Waiting { need, since: Duration::from_secs(seconds) }
}

fn held(bytes: u64, hold: Hold, unused: u64) -> Model<'static> {
    Model::Held { bytes, graphics: 0, hold, pinned: false, unused: Duration::from_secs(unused) }
}

const IDLE: Hold = Hold::Idle { expected: Duration::ZERO };

/// What is loaded, what leaves, and what is refused.
#[track_caller]
fn check(models: &[Model<'_>], room: Room, load: &[usize], leave: &[usize], refuse: &[usize]) -> Plan {
    let plan = plan(models, room);
    let loaded: Vec<usize> = plan.load.iter().map(|(at, _)| *at).collect();
    let refused: Vec<usize> = plan.refuse.iter().map(|(at, _)| *at).collect();
    assert_eq!((&*loaded, &*plan.leave, &*refused), (load, leave, refuse), "{plan:?}");
    plan
}

#[test]
fn what_fits_is_loaded_and_nothing_leaves_for_it() {
    let need = Need::of_bytes(1100);
    check(&[waiting(&need, 0), held(500, IDLE, 9)], room(1100), &[0], &[], &[]);
    check(&[waiting(&need, 0), waiting(&need, 1)], room(2200), &[1, 0], &[], &[]);
    // The one that waits longer comes first.
    check(&[waiting(&need, 0), waiting(&need, 1)], room(1100), &[1], &[], &[]);
}

#[test]
fn idle_models_leave_least_recently_used_first_and_no_more_than_needed() {
    let need = Need::of_bytes(1100);
    check(&[waiting(&need, 0), held(600, IDLE, 1), held(600, IDLE, 3), held(600, IDLE, 2)], room(0), &[], &[2, 3], &[]);
    // The oldest alone was not enough, and the next one is large enough alone.
    check(&[waiting(&need, 0), held(100, IDLE, 9), held(1200, IDLE, 1)], room(0), &[], &[2], &[]);
    // One is leaving already, and that is enough.
    check(&[waiting(&need, 0), held(1100, Hold::Leaving, 0), held(1100, IDLE, 9)], room(0), &[], &[], &[]);
    // Others took what was promised.
    check(&[waiting(&need, 0), held(1100, IDLE, 2), held(600, IDLE, 1)], room(-500), &[], &[1, 2], &[]);
}

#[test]
fn what_is_in_use_loading_or_pinned_stays() {
    let need = Need::of_bytes(1100);
    let pinned = Model::Held { bytes: 5000, graphics: 0, hold: IDLE, pinned: true, unused: PATIENCE * 9 };
    let plan = check(&[waiting(&need, 1), held(1200, Hold::Busy, 0)], room(0), &[], &[], &[]);
    assert_eq!(plan.again, PATIENCE.checked_sub(Duration::from_secs(1)));
    check(&[waiting(&need, 99), held(1200, Hold::Loading, 0)], room(0), &[], &[], &[]);
    let plan = check(&[waiting(&need, 0), pinned], room(700), &[], &[], &[0]);
    let had = Budget { memory: 700, graphics: Graphics::None };
    assert_eq!(plan.refuse, [(0, Shortage::Memory(had))]);
}

#[test]
fn one_that_is_expected_to_be_asked_again_stays_for_a_while() {
    let need = Need::of_bytes(1100);
    let soon = Duration::from_millis(30);
    let models = [waiting(&need, 0), held(1200, Hold::Idle { expected: soon }, 1)];
    assert_eq!(check(&models, room(0), &[], &[], &[]).again, Some(soon));
    let models = [waiting(&need, 5), held(1200, Hold::Idle { expected: soon }, 1)];
    check(&models, room(0), &[], &[1], &[]);
}

#[test]
fn after_the_patience_models_in_use_leave_too_and_nobody_passes() {
    let (large, small) = (Need::of_bytes(2200), Need::of_bytes(110));
    // Idle ones still go first.
    check(
        &[waiting(&large, 5), held(1500, Hold::Busy, 0), held(1500, IDLE, 0), held(1500, Hold::Busy, 1)],
        room(0),
        &[],
        &[2, 3],
        &[],
    );
    // While it waits for what is in use, a small one takes what is left; not after the patience.
    let others = || [held(2200, Hold::Loading, 0)];
    let [other] = others();
    check(&[waiting(&large, 4), waiting(&small, 0), other], room(110), &[1], &[], &[]);
    let [other] = others();
    check(&[waiting(&large, 5), waiting(&small, 0), other], room(110), &[], &[], &[]);
}

#[test]
fn what_leaves_for_one_is_not_promised_to_another() {
    let need = Need::of_bytes(1100);
    check(
        &[waiting(&need, 2), waiting(&need, 1), held(1100, IDLE, 1), held(1100, IDLE, 0)],
        room(0),
        &[],
        &[2, 3],
        &[],
    );
    check(&[waiting(&need, 2), waiting(&need, 1), held(1100, Hold::Leaving, 1)], room(0), &[], &[], &[]);
    check(&[waiting(&need, 2), waiting(&need, 1), held(1000, IDLE, 1)], room(500), &[], &[2], &[]);
}

#[test]
fn places_are_counted_like_memory() {
    let need = Need::of_bytes(11);
    let full = Room { places: 0, ..room(1 << 40) };
    check(&[waiting(&need, 0), held(10, IDLE, 1), held(10, IDLE, 2)], full, &[], &[2], &[]);
    check(&[waiting(&need, 0), held(10, Hold::Busy, 1)], full, &[], &[], &[]);
    let pinned = Model::Held { bytes: 10, graphics: 0, hold: IDLE, pinned: true, unused: PATIENCE };
    let plan = check(&[waiting(&need, 0), pinned], full, &[], &[], &[0]);
    assert_eq!(plan.refuse, [(0, Shortage::Places)]);
    let one = Room { places: 1, ..full };
    check(&[waiting(&need, 0), waiting(&need, 0)], one, &[0], &[], &[]);
}

fn hold() -> impl Strategy<Value = Hold> {
    prop_oneof![
        Just(Hold::Loading),
        Just(Hold::Busy),
        Just(Hold::Leaving),
        Just(IDLE),
        Just(Hold::Idle { expected: Duration::from_millis(10) }),
    ]
}

proptest! {
    /// Whatever there is: promises stay within the memory, nothing that must stay leaves, and nobody is forgotten.
    #[test]
    fn every_plan_keeps_the_rules(
        held in prop::collection::vec((1u64..100, hold(), prop::bool::ANY, 0u64..20), 0..8),
        wanted in prop::collection::vec((1u64..100, 0u64..9), 0..5),
        free in -50i64..200,
        places in 0usize..4,
    ) {
        let needs: Vec<Need> = wanted.iter().map(|(bytes, _)| Need::of_bytes(bytes * 11)).collect();
        let mut models: Vec<Model<'_>> = held
            .iter()
            .map(|&(bytes, hold, pinned, unused)| Model::Held { bytes: bytes * 11, graphics: 0, hold, pinned, unused: Duration::from_secs(unused) })
            .collect();
        models.extend(needs.iter().zip(&wanted).map(|(need, (_, since))| waiting(need, *since)));
        let room = Room { free, graphics: Graphics::None, places, patience: PATIENCE };
        let plan = plan(&models, room);

        let promised: u64 = plan.load.iter().map(|(_, size)| size.bytes).sum();
        prop_assert!(promised == 0 || i64::try_from(promised).unwrap() <= free, "{plan:?}");
        prop_assert!(plan.load.len() <= places);
        let longest = wanted.iter().map(|(_, since)| *since).max().unwrap_or(0);
        for at in &plan.leave {
            let (_, hold, pinned, _) = held[*at];
            prop_assert!(!pinned, "a pinned one leaves: {plan:?}");
            match hold {
                Hold::Idle { expected } if expected.is_zero() => {}
                Hold::Idle { .. } | Hold::Busy => prop_assert!(longest >= 5, "one in use leaves: {plan:?}"),
                Hold::Loading | Hold::Leaving => prop_assert!(false, "{hold:?} leaves: {plan:?}"),
            }
        }
        let mut named: Vec<usize> = plan.load.iter().map(|(at, _)| *at).chain(plan.refuse.iter().map(|(at, _)| *at)).collect();
        named.extend(&plan.leave);
        let count = named.len();
        named.sort_unstable();
        named.dedup();
        prop_assert_eq!(named.len(), count, "one model, one decision");

        // When nothing will happen by itself, something must happen now.
        let quiet = held.iter().all(|(_, hold, ..)| *hold == IDLE);
        if quiet && !wanted.is_empty() {
            prop_assert!(!plan.load.is_empty() || !plan.leave.is_empty() || !plan.refuse.is_empty(), "{plan:?}");
        }
        // Whoever is refused could not be served if all left that may.
        for (at, shortage) in &plan.refuse {
            let most: i64 = free + held.iter().filter(|(_, hold, pinned, _)| !pinned || *hold == Hold::Leaving).map(|(bytes, ..)| i64::try_from(bytes * 11).unwrap()).sum::<i64>();
            match shortage {
                Shortage::Memory(had) => {
                    prop_assert_eq!(had.memory, u64::try_from(most).unwrap_or(0));
                    prop_assert!(needs[at - held.len()].least(Graphics::None).bytes > had.memory);
                }
                Shortage::Places => prop_assert!(places == 0),
            }
        }
    }
}
