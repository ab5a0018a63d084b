//! Requests over time, with models that take a second to load: what the rules come to. No process, no clock.

use super::*;

const TICK: Duration = Duration::from_millis(10);
const LOAD: Duration = Duration::from_secs(1);
const SERVICE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);
/// All models have this size.
const BYTES: u64 = 1100;

/// One model in the simulation.
#[derive(Default)]
struct Simulated {
    /// When the requests came that wait for it.
    queue: Vec<Duration>,
    /// When it will be loaded.
    loading: Option<Duration>,
    ready: bool,
    /// Closed to new requests.
    leaving: bool,
    /// When the requests that it answers are done, one after the other.
    running: Vec<Duration>,
    last_used: Duration,
    demand: Demand,
}

/// What came of it.
struct Outcome {
    /// When the last answer was there.
    end: Duration,
    /// The longest time from a request to its answer's beginning.
    longest_wait: Duration,
    loads: usize,
}

/// Runs requests, each a time and the number of a model.
fn run(requests: &[(Duration, usize)], models: usize, places: u64) -> Outcome {
    let need = Need::of_bytes(BYTES);
    let mut all: Vec<Simulated> = (0..models).map(|_| Simulated::default()).collect();
    let mut outcome = Outcome { end: Duration::ZERO, longest_wait: Duration::ZERO, loads: 0 };
    let (mut now, mut next) = (Duration::ZERO, 0);
    loop {
        for model in &mut all {
            model.running.retain(|end| *end > now);
            if model.leaving && model.running.is_empty() {
                (model.ready, model.leaving) = (false, false);
            }
            if model.loading.is_some_and(|end| end <= now) {
                (model.loading, model.ready) = (None, true);
            }
        }
        while let Some((_, at)) = requests.get(next).filter(|(when, _)| *when <= now) {
            all[*at].queue.push(now);
            all[*at].demand.asked(now);
            next += 1;
        }
        for model in &mut all {
            if model.ready && !model.leaving {
                for came in std::mem::take(&mut model.queue) {
                    let begin = model.running.last().copied().unwrap_or(now);
                    model.running.push(begin + SERVICE);
                    outcome.end = outcome.end.max(begin + SERVICE);
                    outcome.longest_wait = outcome.longest_wait.max(now.saturating_sub(came));
                    model.last_used = now;
                }
            }
        }
        let views: Vec<Model<'_>> = all
            .iter()
            .filter_map(|model| {
                let hold = match (model.loading, model.ready) {
                    (Some(_), _) => Hold::Loading,
                    (None, true) if model.leaving => Hold::Leaving,
                    (None, true) if model.running.is_empty() => {
                        Hold::Idle { expected: model.demand.expected(now, LOAD) }
                    }
                    (None, true) => Hold::Busy,
                    (None, false) => {
                        return model
                            .queue
                            .first()
                            .map(|came| Model::Waiting { need: &need, since: now.saturating_sub(*came) });
                    }
                };
                Some(Model::Held {
                    bytes: BYTES,
                    graphics: 0,
                    hold,
                    pinned: false,
                    unused: now.saturating_sub(model.last_used),
                })
            })
            .collect();
        let numbers: Vec<usize> =
            (0..models).filter(|&at| all[at].loading.is_some() || all[at].ready || !all[at].queue.is_empty()).collect();
        let taken = views.iter().filter(|view| matches!(view, Model::Held { .. })).count() as u64;
        let free = i64::try_from((places - taken) * BYTES).unwrap();
        let plan = plan(&views, Room { free, graphics: Graphics::None, places: usize::MAX, patience: PATIENCE });
        assert!(plan.refuse.is_empty());
        for (at, _) in plan.load {
            all[numbers[at]].loading = Some(now + LOAD);
            outcome.loads += 1;
        }
        for at in plan.leave {
            all[numbers[at]].leaving = true;
        }
        let is_over = next == requests.len()
            && all.iter().all(|model| model.queue.is_empty() && model.running.is_empty() && model.loading.is_none());
        if is_over {
            return outcome;
        }
        now += TICK;
        assert!(now < Duration::from_mins(10), "somebody starves");
    }
}

/// The same requests strictly in their order: a place that has another model loads first.
fn first_come_first_served(requests: &[(Duration, usize)], places: usize) -> Duration {
    let mut has: Vec<(Option<usize>, Duration)> = vec![(None, Duration::ZERO); places];
    let (mut last_begin, mut end) = (Duration::ZERO, Duration::ZERO);
    for (when, model) in requests {
        let place = has.iter().position(|(has, _)| *has == Some(*model));
        let place = place.unwrap_or_else(|| (0..places).min_by_key(|&at| has[at].1).unwrap());
        let begin = has[place].1.max(*when).max(last_begin);
        let load = if has[place].0 == Some(*model) { Duration::ZERO } else { LOAD };
        has[place] = (Some(*model), begin + load + SERVICE);
        (last_begin, end) = (begin, end.max(begin + load + SERVICE));
    }
    end
}

/// A request at each interval, for the models in turn.
fn in_turn(count: u32, models: usize, interval: Duration) -> Vec<(Duration, usize)> {
    (0..count).map(|at| (interval * at, at as usize % models)).collect()
}

#[test]
fn three_models_with_room_for_two_do_not_drive_each_other_out() {
    let requests = in_turn(60, 3, Duration::from_millis(50));
    let strictly = first_come_first_served(&requests, 2);
    let outcome = run(&requests, 3, 2);
    assert!(outcome.end * 2 <= strictly, "{:?} against {strictly:?} in order", outcome.end);
    assert!(outcome.longest_wait <= PATIENCE + LOAD, "{:?}", outcome.longest_wait);
    assert!(outcome.loads <= 4, "{}", outcome.loads);
}

#[test]
fn nobody_starves_beside_models_that_are_always_in_use() {
    // A minute of requests for two models, and one for a third.
    let mut requests = in_turn(600, 2, Duration::from_millis(100));
    requests.insert(40, (requests[40].0, 2));
    let outcome = run(&requests, 3, 2);
    assert!(outcome.longest_wait <= PATIENCE + LOAD + 2 * SERVICE, "{:?}", outcome.longest_wait);
}

#[test]
fn one_client_that_alternates_waits_for_nothing_but_loads() {
    let requests: Vec<(Duration, usize)> =
        (0..10).map(|at| (Duration::from_millis(1200) * at, at as usize % 2)).collect();
    let outcome = run(&requests, 2, 1);
    assert_eq!(outcome.loads, 10);
    assert!(outcome.longest_wait <= LOAD + 2 * TICK, "{:?}", outcome.longest_wait);
}
