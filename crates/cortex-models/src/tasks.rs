//! Every task of the daemon is spawned here, so that shutdown can ask and then wait.

use std::{future::Future, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The right to spawn. Cheap to clone; a [`Tasks::child`] is cancelled with its parent.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

/// The right to end every task. There is one, and the daemon holds it.
#[derive(Debug)]
pub struct Shutdown(Tasks);

/// Called once, by the daemon.
pub fn tasks() -> (Tasks, Shutdown) {
    let tasks = Tasks { tracker: TaskTracker::new(), token: CancellationToken::new() };
    (tasks.clone(), Shutdown(tasks))
}

impl Tasks {
    /// The same tracker with a narrower token: one per component.
    pub fn child(&self) -> Self {
        Self { tracker: self.tracker.clone(), token: self.token.child_token() }
    }

    /// Ends the tasks of this component and of its children, and nobody else's.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Resolves when this component is told to end.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Runs until done or cancelled; a cancelled future is dropped at its next await.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tracker.spawn(async move {
            token.run_until_cancelled(future).await;
        });
    }
}

/// Runs what blocks where that is allowed.
pub(crate) async fn in_background<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(run).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends: nobody waits for an answer.
            Err(_) => std::future::pending().await,
        },
    }
}

impl Shutdown {
    /// Cancels, then waits. Returns false if the grace period ran out first.
    pub async fn now(self, grace: Duration) -> bool {
        self.0.token.cancel();
        self.0.tracker.close();
        tokio::time::timeout(grace, self.0.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shutdown_ends_a_task_that_would_run_for_ever() {
        let (tasks, shutdown) = tasks();
        tasks.child().spawn(std::future::pending());
        assert!(shutdown.now(Duration::from_secs(1)).await);
    }
}
