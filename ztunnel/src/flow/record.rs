//! The outcome of one connection while it is being made: filled in by each stage, emitted once.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use model::{Code, Direction, Endpoint, OriginalDst, Outcome, Path, PolicyName};

use crate::relay::{Ending, Meter};
use crate::telemetry::{Counters, OpenGuard, Telemetry};

/// Why a connection ends: the one value that every report is made from.
#[derive(Clone, Debug)]
pub(crate) struct Reason {
    pub(crate) code: Code,
    pub(crate) policy: Option<PolicyName>,
    pub(crate) detail: Option<String>,
}

impl Reason {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, policy: None, detail: Some(detail.into()) }
    }
}

impl Reason {
    /// The same, with what it is about before it.
    pub(crate) fn about(self, what: String) -> Self {
        let detail = match self.detail {
            Some(detail) => format!("{what}: {detail}"),
            None => what,
        };
        Self { detail: Some(detail), ..self }
    }
}

impl From<Code> for Reason {
    fn from(code: Code) -> Self {
        Self { code, policy: None, detail: None }
    }
}

impl From<Ending> for Reason {
    fn from(ending: Ending) -> Self {
        Self { code: ending.code, policy: ending.policy, detail: ending.detail }
    }
}

/// One connection's outcome in the making.
pub(crate) struct Record {
    telemetry: Arc<Telemetry>,
    /// What is known so far.
    pub(crate) outcome: Outcome,
    started: Instant,
    counters: Option<Counters>,
    original_dst: OriginalDst,
    open: Option<OpenGuard>,
    emitted: bool,
}

impl Record {
    /// Starts a record when the connection is accepted.
    pub(crate) fn start(
        telemetry: &Arc<Telemetry>,
        direction: Direction,
        path: Path,
        source: SocketAddr,
        destination: OriginalDst,
    ) -> Self {
        let at = |address| Endpoint { address: Some(address), ..Endpoint::default() };
        Self {
            telemetry: telemetry.clone(),
            outcome: Outcome {
                source: at(source),
                destination: at(destination.0),
                ..Outcome::new(direction, path, Code::Draining)
            },
            started: Instant::now(),
            counters: None,
            original_dst: destination,
            open: None,
            emitted: false,
        }
    }

    /// Counts the connection as open: both legs stand.
    pub(crate) fn established(&mut self) {
        self.counters = Some(self.telemetry.opened(&self.outcome));
        self.open = self.telemetry.enter(&self.outcome, self.original_dst.0);
    }

    /// Emits the outcome.
    pub(crate) fn end(mut self, reason: impl Into<Reason>) {
        let Reason { code, policy, detail } = reason.into();
        self.outcome.code = code;
        self.outcome.policy = policy.or_else(|| self.outcome.policy.take());
        self.outcome.detail = detail;
        self.emit();
    }

    fn emit(&mut self) {
        self.emitted = true;
        self.open = None;
        self.outcome.duration = self.started.elapsed();
        let Outcome { direction, path, code, .. } = self.outcome;
        let outcome = mem::replace(&mut self.outcome, Outcome::new(direction, path, code));
        self.telemetry.finished(outcome, self.counters.as_ref());
    }
}

impl Drop for Record {
    /// A task that is dropped half-way (the agent stops) still leaves its record.
    fn drop(&mut self) {
        if !self.emitted {
            self.emit();
        }
    }
}

impl Meter for Record {
    fn request(&self, bytes: u64) {
        if let Some(counters) = &self.counters {
            counters.add_request(bytes);
        }
    }

    fn response(&self, bytes: u64) {
        if let Some(counters) = &self.counters {
            counters.add_response(bytes);
        }
    }
}

/// Two reports of one connection: same-node traffic has both its ends here.
pub(super) struct Both<'a>(pub(super) &'a Record, pub(super) &'a Record);

impl Meter for Both<'_> {
    fn request(&self, bytes: u64) {
        self.0.request(bytes);
        self.1.request(bytes);
    }

    fn response(&self, bytes: u64) {
        self.0.response(bytes);
        self.1.response(bytes);
    }
}
