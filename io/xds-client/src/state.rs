//! What is published.

use std::sync::Arc;
use std::time::SystemTime;

use authz::PolicyStore;
use resolve::Snapshot;

/// How far a state can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing complete has arrived and nothing was stored: nothing may be decided.
    Waiting,
    /// What an earlier agent stored; the control plane has not confirmed it.
    Stored {
        /// When the control plane last confirmed it.
        as_of: SystemTime,
    },
    /// As the control plane says.
    Live,
}

/// The mesh as the control plane describes it. Immutable.
#[derive(Clone, Debug)]
pub struct State {
    /// Workloads and services.
    pub snapshot: Arc<Snapshot>,
    /// Policies.
    pub policies: Arc<PolicyStore>,
    /// Counts states from 1; 0 is the one before any.
    pub revision: u64,
    /// When it was made.
    pub applied_at: SystemTime,
    /// How far it can be trusted.
    pub sync: Sync,
}
