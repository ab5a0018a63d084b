//! One at a time for each model: two that make or change the same yaml would undo each other's work.

use crate::ModelId;
use std::{
    collections::HashSet,
    sync::{Condvar, Mutex, PoisonError},
};

/// Who works on which model now.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    busy: Mutex<HashSet<ModelId>>,
    freed: Condvar,
}

/// The right to work on one model. Dropping it lets the next one in.
pub(crate) struct Turn<'turns> {
    turns: &'turns Turns,
    id: ModelId,
}

impl Turns {
    /// Waits until nobody works on this model. Not to be asked for twice by the same thread.
    pub(crate) fn take(&self, id: &ModelId) -> Turn<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains(id) {
            busy = self.freed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(id.clone());
        Turn { turns: self, id: id.clone() }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.turns.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn nobody_is_in_twice_and_others_do_not_wait() {
        let (turns, inside) = (Turns::default(), AtomicU32::new(0));
        let other = turns.take(&ModelId::existing("other"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _turn = turns.take(&ModelId::existing("one"));
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        drop(other);
    }
}
