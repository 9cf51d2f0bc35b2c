//! Readiness: a process is ready when every named task it waits for is done.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// The set of tasks a process still waits for. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// A task that is not done yet; dropping it marks the task done.
#[derive(Debug)]
pub struct Pending {
    readiness: Readiness,
    task: &'static str,
}

impl Readiness {
    /// Registers a task to wait for.
    #[must_use]
    pub fn wait_for(&self, task: &'static str) -> Pending {
        self.pending.lock().insert(task);
        Pending { readiness: self.clone(), task }
    }

    /// The tasks not done, in order of name. Empty means ready.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.lock().iter().copied().collect()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.readiness.pending.lock().remove(self.task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_task_is_done() {
        let readiness = Readiness::default();
        let proxy = readiness.wait_for("proxy");
        let state = readiness.wait_for("state");
        assert_eq!(readiness.pending(), ["proxy", "state"]);
        drop(proxy);
        drop(state);
        assert!(readiness.pending().is_empty());
    }
}
