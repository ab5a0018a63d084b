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
    /// No worker yet: `waiting` requests wait until there is room for one.
    Queued { waiting: usize },
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
    /// A request wants the model.
    Acquire,
    /// A request that waited for room has left.
    Left,
    /// There is room: a worker of this generation may start.
    Admitted(Generation),
    /// There will be no room.
    Refused,
    /// The worker is ready.
    Loaded(Generation),
    /// The worker is gone, or could not be loaded.
    Exited(Generation),
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
    use State::{Draining, Idle, Loading, Queued, Ready};
    match (state, event) {
        (Idle, Event::Acquire) => (Queued { waiting: 1 }, vec![]),
        (Queued { waiting }, Event::Acquire) => (Queued { waiting: waiting + 1 }, vec![]),
        (Loading { generation, waiting }, Event::Acquire) => (Loading { generation, waiting: waiting + 1 }, vec![]),
        (Ready { generation, leases }, Event::Acquire) => {
            (Ready { generation, leases: leases + 1 }, vec![Action::GrantOne])
        }
        (Draining { generation, leases, waiting }, Event::Acquire) => {
            (Draining { generation, leases, waiting: waiting + 1 }, vec![])
        }

        (Queued { waiting: ..=1 }, Event::Left) => (Idle, vec![]),
        (Queued { waiting }, Event::Left) => (Queued { waiting: waiting - 1 }, vec![]),
        (Queued { waiting }, Event::Admitted(generation)) => {
            (Loading { generation, waiting }, vec![Action::Start(generation)])
        }
        (Queued { .. }, Event::Refused | Event::Unload) => (Idle, vec![Action::FailWaiting]),

        (Loading { generation, waiting }, Event::Loaded(loaded)) if loaded == generation => {
            (Ready { generation, leases: waiting }, vec![Action::GrantWaiting])
        }
        (Loading { generation, .. }, Event::Exited(exited)) if exited == generation => {
            (Idle, vec![Action::FailWaiting])
        }
        (Ready { generation, .. }, Event::Exited(exited)) if exited == generation => (Idle, vec![]),
        (Draining { generation, waiting: 0, .. }, Event::Exited(exited)) if exited == generation => (Idle, vec![]),
        (Draining { generation, waiting, .. }, Event::Exited(exited)) if exited == generation => {
            (Queued { waiting }, vec![])
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

        // Late news of an older worker, a lease returned after a crash, a second unload, or a decision about a model
        // that waits no longer.
        (
            _,
            Event::Loaded(_)
            | Event::Exited(..)
            | Event::Released(_)
            | Event::Unload
            | Event::Left
            | Event::Admitted(_)
            | Event::Refused,
        ) => (state, vec![]),
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

    const ACQUIRE: Event = Event::Acquire;

    #[test]
    fn two_requests_share_one_load() {
        check(
            &[ACQUIRE, Event::Admitted(1), ACQUIRE, Event::Loaded(1)],
            State::Ready { generation: 1, leases: 2 },
            &[Action::Start(1), Action::GrantWaiting],
        );
    }

    #[test]
    fn nothing_is_loaded_before_there_is_room_or_for_nobody() {
        check(&[ACQUIRE, ACQUIRE], State::Queued { waiting: 2 }, &[]);
        check(&[ACQUIRE, ACQUIRE, Event::Left], State::Queued { waiting: 1 }, &[]);
        check(&[ACQUIRE, Event::Left, Event::Admitted(1)], State::Idle, &[]);
        check(&[ACQUIRE, Event::Refused], State::Idle, &[Action::FailWaiting]);
        check(&[ACQUIRE, Event::Unload], State::Idle, &[Action::FailWaiting]);
    }

    #[test]
    fn a_crash_while_loading_fails_every_waiter_and_allows_another_try() {
        check(
            &[ACQUIRE, ACQUIRE, Event::Admitted(1), Event::Exited(1), ACQUIRE, Event::Admitted(3)],
            State::Loading { generation: 3, waiting: 1 },
            &[Action::Start(1), Action::FailWaiting, Action::Start(3)],
        );
    }

    #[test]
    fn the_exit_of_an_older_worker_changes_nothing() {
        check(
            &[
                ACQUIRE,
                Event::Admitted(1),
                Event::Exited(1),
                ACQUIRE,
                Event::Admitted(2),
                Event::Loaded(2),
                Event::Exited(1),
            ],
            State::Ready { generation: 2, leases: 1 },
            &[Action::Start(1), Action::FailWaiting, Action::Start(2), Action::GrantWaiting],
        );
    }

    #[test]
    fn unload_waits_for_the_last_lease_and_later_requests_wait_for_room_again() {
        check(
            &[
                ACQUIRE,
                Event::Admitted(1),
                Event::Loaded(1),
                Event::Unload,
                ACQUIRE,
                Event::Released(1),
                Event::Exited(1),
            ],
            State::Queued { waiting: 1 },
            &[Action::Start(1), Action::GrantWaiting, Action::Stop(1)],
        );
    }

    #[test]
    fn a_lease_that_outlived_a_crash_does_not_count_against_the_next_worker() {
        check(
            &[
                ACQUIRE,
                Event::Admitted(1),
                Event::Loaded(1),
                Event::Exited(1),
                ACQUIRE,
                Event::Admitted(2),
                Event::Loaded(2),
                Event::Released(1),
            ],
            State::Ready { generation: 2, leases: 1 },
            &[Action::Start(1), Action::GrantWaiting, Action::Start(2), Action::GrantWaiting],
        );
    }

    proptest! {
        /// Whatever happens in whatever order: every request is granted, failed or waits, and no lease is counted twice.
        #[test]
        fn every_request_is_accounted_for(choices in prop::collection::vec((0u8..8, 0u64..6), 0..60)) {
            let mut state = State::default();
            let (mut asked, mut granted, mut failed, mut left) = (0usize, 0usize, 0usize, 0usize);
            let mut waiting = 0usize;
            for (at, (choice, generation)) in choices.into_iter().enumerate() {
                let next = 100 + at as u64;
                let current = match state {
                    State::Idle | State::Queued { .. } => generation,
                    State::Loading { generation, .. } | State::Ready { generation, .. } | State::Draining { generation, .. } => generation,
                };
                let event = match choice {
                    0 => { asked += 1; waiting += 1; ACQUIRE }
                    1 => Event::Loaded(current),
                    2 => Event::Exited(current),
                    3 => Event::Released(current),
                    4 => Event::Admitted(next),
                    5 => Event::Refused,
                    6 => {
                        if matches!(state, State::Queued { .. }) { left += 1; waiting -= 1; }
                        Event::Left
                    }
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
                    State::Queued { waiting } | State::Loading { waiting, .. } | State::Draining { waiting, .. } => waiting,
                    State::Idle | State::Ready { .. } => 0,
                };
                prop_assert_eq!(held, waiting);
                prop_assert_eq!(asked, granted + failed + left + waiting);
            }
        }
    }
}
