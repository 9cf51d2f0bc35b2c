//! The state of the mesh, as one immutable value that threads read without a lock.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use authz::PolicyStore;
use resolve::Snapshot;
use tokio::sync::watch;

/// Whether the state is what the control plane says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Nothing complete has arrived, and nothing is stored: not synced is not open.
    Waiting,
    /// The last known good state of an earlier agent.
    Stored,
    /// As the control plane says. It sends piece by piece: what is missing may still come.
    Live,
    /// All there is: the source is a file.
    Complete,
}

impl Sync {
    /// How long it is worth waiting for what this state lacks.
    pub(crate) fn patience(self, most: Duration) -> Duration {
        match self {
            Self::Waiting | Self::Stored | Self::Live => most,
            Self::Complete => Duration::ZERO,
        }
    }
}

/// Everything the control plane said, compiled for decisions.
#[derive(Debug)]
pub(crate) struct MeshState {
    /// Workloads and services.
    pub snapshot: Arc<Snapshot>,
    /// Policies.
    pub policies: Arc<PolicyStore>,
    /// Counts applied states, from 1.
    pub revision: u64,
    /// When it was applied.
    pub applied_at: SystemTime,
    /// How far it can be trusted.
    pub sync: Sync,
}

/// One thread's view: an atomic load tells whether a newer state exists, and only then is the
/// watch's lock taken.
#[derive(Clone, Debug)]
pub(crate) struct MeshView {
    receiver: watch::Receiver<Arc<MeshState>>,
    seen: Arc<MeshState>,
}

impl MeshView {
    /// A view that starts with the current state.
    #[must_use]
    pub(crate) fn new(mut receiver: watch::Receiver<Arc<MeshState>>) -> Self {
        let seen = receiver.borrow_and_update().clone();
        Self { receiver, seen }
    }

    /// The current state.
    pub(crate) fn current(&mut self) -> &Arc<MeshState> {
        if self.receiver.has_changed().unwrap_or(false) {
            self.seen = self.receiver.borrow_and_update().clone();
        }
        &self.seen
    }

    /// The current state, and a receiver that reports every later one.
    ///
    /// Taken together, so that a change between judging a connection and watching it is not lost.
    pub(crate) fn watched(&mut self) -> (Arc<MeshState>, watch::Receiver<Arc<MeshState>>) {
        let mut receiver = self.receiver.clone();
        let state = receiver.borrow_and_update().clone();
        (state, receiver)
    }

    /// Resolves when the state changes; `false` when there will be no other. Cancel safe.
    pub(crate) async fn changed(&mut self) -> bool {
        let changed = self.receiver.changed().await.is_ok();
        if changed {
            self.seen = self.receiver.borrow_and_update().clone();
        }
        changed
    }
}
