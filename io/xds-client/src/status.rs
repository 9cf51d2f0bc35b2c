//! How it goes: for `warren status` and for metrics. Numbers only ever grow.

use std::time::{Duration, SystemTime};

use xds::{Kind, RejectedResource, Termination};

use crate::state::Sync;
use crate::stored::StoredStatus;

/// Reasons for the end of a connection, in the order of [`Status::terminations`].
pub const TERMINATIONS: [Termination; 4] = Termination::ALL;
/// Rejected resources kept for people; further ones are only counted.
const REJECTED_MAX: usize = 32;

/// Responses of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The latest thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// When.
    pub at: SystemTime,
    /// What, with its causes.
    pub text: String,
}

/// How a client and its control plane get along.
#[derive(Clone, Debug)]
pub struct Status {
    /// The control plane's address.
    pub control_plane: String,
    /// Since when a stream is open, if one is.
    pub connected_since: Option<SystemTime>,
    /// Since when the state may differ from the control plane's; `None` while it is followed.
    pub stale_since: Option<SystemTime>,
    /// How far the state can be trusted.
    pub sync: Sync,
    /// The state's number.
    pub revision: u64,
    /// When a response was last applied.
    pub last_push: Option<SystemTime>,
    /// What went wrong last.
    pub last_error: Option<LastError>,
    /// Workloads in the state.
    pub workloads: usize,
    /// Services in the state.
    pub services: usize,
    /// Policies in the state, unreadable ones included.
    pub policies: usize,
    /// Connections that ended, by [`TERMINATIONS`] (`istio_xds_connection_terminations`).
    pub terminations: [u64; 4],
    /// Responses of workloads and services (`istio_xds_message`, `istio_xds_message_bytes`).
    pub addresses: Messages,
    /// Responses of policies.
    pub authorizations: Messages,
    /// Responses of any other type.
    pub other_messages: Messages,
    /// Responses answered with a refusal, in part or as a whole.
    pub nacks: u64,
    /// Responses refused as a whole: old nonces, types nobody asked for, floods.
    pub refused: u64,
    /// Resources rejected.
    pub rejected_total: u64,
    /// What the last response of each type that had any rejected: at most some dozens.
    pub rejected: Vec<RejectedResource>,
    /// Look-ups that were not answered in time.
    pub lookups_timed_out: u64,
    /// The copy on disk.
    pub stored: StoredStatus,
}

impl Status {
    pub(crate) fn new(control_plane: String, now: SystemTime) -> Self {
        Self {
            control_plane,
            connected_since: None,
            stale_since: Some(now),
            sync: Sync::Waiting,
            revision: 0,
            last_push: None,
            last_error: None,
            workloads: 0,
            services: 0,
            policies: 0,
            terminations: [0; 4],
            addresses: Messages::default(),
            authorizations: Messages::default(),
            other_messages: Messages::default(),
            nacks: 0,
            refused: 0,
            rejected_total: 0,
            rejected: Vec::new(),
            lookups_timed_out: 0,
            stored: StoredStatus::default(),
        }
    }

    /// How old the state may be.
    #[must_use]
    pub fn staleness(&self, now: SystemTime) -> Duration {
        self.stale_since
            .map_or(Duration::ZERO, |since| now.duration_since(since).unwrap_or_default())
    }

    /// Responses of a type, or of none that is known.
    pub(crate) fn messages(&mut self, kind: Option<Kind>) -> &mut Messages {
        match kind {
            Some(Kind::Address) => &mut self.addresses,
            Some(Kind::Authorization) => &mut self.authorizations,
            None => &mut self.other_messages,
        }
    }

    pub(crate) fn ended(&mut self, reason: Termination) {
        for (count, one) in self.terminations.iter_mut().zip(TERMINATIONS) {
            *count += u64::from(one == reason);
        }
    }

    pub(crate) fn rejected(&mut self, mut rejected: Vec<RejectedResource>) {
        if rejected.is_empty() {
            return;
        }
        self.rejected_total += u64::try_from(rejected.len()).unwrap_or(u64::MAX);
        rejected.truncate(REJECTED_MAX);
        self.rejected = rejected;
    }
}
