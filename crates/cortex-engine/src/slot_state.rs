//! The life of one model, as a pure function. The supervisor performs the actions; it decides nothing.
//!
//! Never awaits, never looks at a clock, never touches a process.

/// Distinguishes a worker from its predecessors: late news of an old one changes nothing.
pub(crate) type Generation = u64;

/// Where a model is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// No worker. Nothing is held.
    #[default]
    Idle,
    /// A worker is loading; `waiting` requests share this one load.
    Loading { generation: Generation, waiting: usize },
    /// Answering; `leases` requests hold it.
    Ready { generation: Generation, leases: usize },
    /// Told to stop once the last lease is back; `waiting` requests came later and get the next worker.
    Draining { generation: Generation, leases: usize, waiting: usize },
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request wants the model. A new worker would get this generation.
    Acquire { next: Generation },
    /// The worker is ready.
    Loaded(Generation),
    /// The worker is gone, or could not be loaded. A new one would get the second generation.
    Exited(Generation, Generation),
    /// A lease came back. It names its worker: one that outlived a crash must not count against the next.
    Released(Generation),
    /// The model should leave.
    Unload,
}

/// What the supervisor must do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a worker.
    Start(Generation),
    /// End the worker; its exit will be reported.
    Stop(Generation),
    /// Give a lease to the request that just came.
    GrantOne,
    /// Give leases to all that wait.
    GrantWaiting,
    /// Tell all that wait why there is no worker.
    FailWaiting,
}

/// The only place where a model changes state.
pub(crate) fn step(state: State, event: Event) -> (State, Vec<Action>) {
    use State::{Draining, Idle, Loading, Ready};
    match (state, event) {
        (Idle, Event::Acquire { next }) => (Loading { generation: next, waiting: 1 }, vec![Action::Start(next)]),
        (Loading { generation, waiting }, Event::Acquire { .. }) => {
            (Loading { generation, waiting: waiting + 1 }, vec![])
        }
        (Ready { generation, leases }, Event::Acquire { .. }) => {
            (Ready { generation, leases: leases + 1 }, vec![Action::GrantOne])
        }
        (Draining { generation, leases, waiting }, Event::Acquire { .. }) => {
            (Draining { generation, leases, waiting: waiting + 1 }, vec![])
        }

        (Loading { generation, waiting }, Event::Loaded(loaded)) if loaded == generation => {
            (Ready { generation, leases: waiting }, vec![Action::GrantWaiting])
        }
        (Loading { generation, .. }, Event::Exited(exited, _)) if exited == generation => {
            (Idle, vec![Action::FailWaiting])
        }
        (Ready { generation, .. }, Event::Exited(exited, _)) if exited == generation => (Idle, vec![]),
        (Draining { generation, waiting: 0, .. }, Event::Exited(exited, _)) if exited == generation => (Idle, vec![]),
        (Draining { generation, waiting, .. }, Event::Exited(exited, next)) if exited == generation => {
            (Loading { generation: next, waiting }, vec![Action::Start(next)])
        }

        (Ready { generation, leases }, Event::Released(released)) if released == generation && leases > 0 => {
            (Ready { generation, leases: leases - 1 }, vec![])
        }
        (Draining { generation, leases: 1, waiting }, Event::Released(released)) if released == generation => {
            (Draining { generation, leases: 0, waiting }, vec![Action::Stop(generation)])
        }
        (Draining { generation, leases, waiting }, Event::Released(released))
            if released == generation && leases > 0 =>
        {
            (Draining { generation, leases: leases - 1, waiting }, vec![])
        }

        (Loading { generation, .. }, Event::Unload) => {
            (Draining { generation, leases: 0, waiting: 0 }, vec![Action::FailWaiting, Action::Stop(generation)])
        }
        (Ready { generation, leases: 0 }, Event::Unload) => {
            (Draining { generation, leases: 0, waiting: 0 }, vec![Action::Stop(generation)])
        }
        (Ready { generation, leases }, Event::Unload) => (Draining { generation, leases, waiting: 0 }, vec![]),

        // Late news of an older worker, a lease returned after a crash, or a second unload.
        (_, Event::Loaded(_) | Event::Exited(..) | Event::Released(_) | Event::Unload) => (state, vec![]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The single place that knows the API; every test below is data.
    #[track_caller]
    fn check(events: &[Event], expected: State, actions: &[Action]) {
        let mut state = State::default();
        let mut seen = vec![];
        for &event in events {
            let (next, mut actions) = step(state, event);
            state = next;
            seen.append(&mut actions);
        }
        assert_eq!((state, seen.as_slice()), (expected, actions));
    }

    const fn acquire(next: Generation) -> Event {
        Event::Acquire { next }
    }

    #[test]
    fn two_requests_share_one_load() {
        check(
            &[acquire(1), acquire(2), Event::Loaded(1)],
            State::Ready { generation: 1, leases: 2 },
            &[Action::Start(1), Action::GrantWaiting],
        );
    }

    #[test]
    fn a_crash_while_loading_fails_every_waiter_and_allows_another_try() {
        check(
            &[acquire(1), acquire(2), Event::Exited(1, 2), acquire(3)],
            State::Loading { generation: 3, waiting: 1 },
            &[Action::Start(1), Action::FailWaiting, Action::Start(3)],
        );
    }

    #[test]
    fn the_exit_of_an_older_worker_changes_nothing() {
        check(
            &[acquire(1), Event::Exited(1, 2), acquire(2), Event::Loaded(2), Event::Exited(1, 3)],
            State::Ready { generation: 2, leases: 1 },
            &[Action::Start(1), Action::FailWaiting, Action::Start(2), Action::GrantWaiting],
        );
    }

    #[test]
    fn unload_waits_for_the_last_lease_and_later_requests_get_the_next_worker() {
        check(
            &[acquire(1), Event::Loaded(1), Event::Unload, acquire(2), Event::Released(1), Event::Exited(1, 3)],
            State::Loading { generation: 3, waiting: 1 },
            &[Action::Start(1), Action::GrantWaiting, Action::Stop(1), Action::Start(3)],
        );
    }

    #[test]
    fn a_lease_that_outlived_a_crash_does_not_count_against_the_next_worker() {
        check(
            &[acquire(1), Event::Loaded(1), Event::Exited(1, 2), acquire(2), Event::Loaded(2), Event::Released(1)],
            State::Ready { generation: 2, leases: 1 },
            &[Action::Start(1), Action::GrantWaiting, Action::Start(2), Action::GrantWaiting],
        );
    }

    proptest! {
        /// Whatever happens in whatever order: every request is granted, failed or waits, and no lease is counted twice.
        #[test]
        fn every_request_is_accounted_for(choices in prop::collection::vec((0u8..5, 0u64..6), 0..60)) {
            let mut state = State::default();
            let (mut asked, mut granted, mut failed) = (0usize, 0usize, 0usize);
            let mut waiting = 0usize;
            for (at, (choice, generation)) in choices.into_iter().enumerate() {
                let next = 100 + at as u64;
                let current = match state {
                    State::Idle => generation,
                    State::Loading { generation, .. } | State::Ready { generation, .. } | State::Draining { generation, .. } => generation,
                };
                let event = match choice {
                    0 => { asked += 1; waiting += 1; acquire(next) }
                    1 => Event::Loaded(current),
                    2 => Event::Exited(current, next),
                    3 => Event::Released(current),
                    _ => Event::Unload,
                };
                let (after, actions) = step(state, event);
                state = after;
                for action in actions {
                    match action {
                        Action::GrantOne => { granted += 1; waiting -= 1; }
                        Action::GrantWaiting => { granted += waiting; waiting = 0; }
                        Action::FailWaiting => { failed += waiting; waiting = 0; }
                        Action::Start(_) | Action::Stop(_) => {}
                    }
                }
                let held = match state {
                    State::Loading { waiting, .. } | State::Draining { waiting, .. } => waiting,
                    State::Idle | State::Ready { .. } => 0,
                };
                prop_assert_eq!(held, waiting);
                prop_assert_eq!(asked, granted + failed + waiting);
            }
        }
    }
}
