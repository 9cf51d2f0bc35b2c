//! One inbound stream, from CONNECT to close. The shell feeds an [`Input`] and performs the
//! [`Action`]. A policy change is just another verdict, so there is one code path.

use std::fmt;
use std::time::Duration;

use authz::{Denial, Permit, Verdict};
use model::Code;

use crate::status::status_of;

/// How long a stream is held for what would decide it. As long as Istio's ztunnel waits for a workload;
/// then the denial stands.
pub const HOLD_MAX: Duration = Duration::from_secs(5);

/// Where a stream is in its life.
#[derive(Debug)]
pub enum Stream {
    /// The CONNECT was read; there is no verdict yet.
    Judging,
    /// Allowed; the workload has not accepted yet.
    Dialing,
    /// 200 was sent; bytes flow.
    Relaying,
    /// What would decide has not arrived yet. A bounded wait is running; it ends in this denial.
    Held {
        /// How far the stream had come.
        phase: Phase,
        /// What the wait ends in.
        denial: Denial,
    },
    /// Over.
    Closed,
}

/// How far a held stream had come. Nothing new happens to it meanwhile, and nothing is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was never allowed.
    Judging,
    /// It was allowed before, and the workload has not accepted yet.
    Dialing,
    /// The workload accepted during the wait; no byte was relayed.
    Dialed,
    /// Bytes flow.
    Relaying,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Policy spoke, for the first time or again.
    Judged(Verdict),
    /// The bounded wait that [`Action::Hold`] began is over.
    HoldElapsed,
    /// The workload accepted the connection.
    Dialed,
    /// It did not; why.
    DialFailed(Code),
    /// The relay ended by itself.
    Relayed,
    /// The peer gave the stream up, or its tunnel is lost.
    PeerGone,
    /// The time to finish while the agent stops is over.
    DrainElapsed,
    /// The destination pod left.
    PodGone,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Begin the wait for what is missing; [`Input::HoldElapsed`] after [`HOLD_MAX`].
    Hold,
    /// Dial the workload; the permit says where.
    Dial(Permit),
    /// Send 200 and copy both ways.
    Relay,
    /// Send an HTTP status; drop what is being dialled.
    Refuse(Refusal),
    /// Bytes already flow: reset both sides.
    Reset(Refusal),
    /// Nobody is left to answer: drop what is being dialled.
    Abandon,
}

/// Why a stream was refused or cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable reason.
    pub code: Code,
    /// If policy refused: its account.
    pub denial: Option<Denial>,
}

impl Refusal {
    /// The HTTP status that tells the peer.
    #[must_use]
    pub fn status(&self) -> u16 {
        status_of(self.code)
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, denial: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.denial {
            Some(denial) => denial.fmt(f),
            None => self.code.fmt(f),
        }
    }
}

impl Stream {
    /// Consumes the state, so that a stale one cannot be stepped twice.
    #[must_use]
    pub fn step(self, input: Input) -> (Self, Action) {
        use Input::{
            DialFailed, Dialed, DrainElapsed, HoldElapsed, Judged, PeerGone, PodGone, Relayed,
        };
        use Verdict::{Allow, Deny};
        match (self, input) {
            (Self::Held { phase, denial }, input) => Self::step_held(phase, denial, input),
            (Self::Closed, _) | (Self::Relaying, Relayed) => (Self::Closed, Action::Wait),
            (Self::Judging, Judged(Allow(permit))) => (Self::Dialing, Action::Dial(permit)),
            (Self::Dialing, Dialed) => (Self::Relaying, Action::Relay),
            // The wait may be one that nobody needs any more.
            (state @ (Self::Dialing | Self::Relaying), Judged(Allow(_))) | (state, HoldElapsed) => {
                (state, Action::Wait)
            }
            (state, Judged(Deny(denial))) => state.deny(denial),
            (state, DrainElapsed) => state.close(Code::Draining.into()),
            (state, PodGone) => state.close(Code::PodGone.into()),
            (Self::Dialing, DialFailed(code)) => Self::Dialing.close(code.into()),
            (Self::Relaying, PeerGone) => Self::Relaying.close(Code::TunnelLost.into()),
            (Self::Judging | Self::Dialing, PeerGone) => (Self::Closed, Action::Abandon),
            // A wildcard may only fail closed.
            (state, Dialed | DialFailed(_) | Relayed) => state.close(Code::Internal.into()),
        }
    }

    /// A held stream goes on as before once there is a verdict that stands.
    fn step_held(phase: Phase, held: Denial, input: Input) -> (Self, Action) {
        match (phase, input) {
            (_, Input::HoldElapsed) => phase.stream().refuse(held),
            (_, Input::Judged(Verdict::Deny(denial))) if phase.may_hold(&denial) => {
                (Self::Held { phase, denial }, Action::Wait)
            }
            (Phase::Dialing, Input::Dialed) => {
                (Self::Held { phase: Phase::Dialed, denial: held }, Action::Wait)
            }
            (Phase::Dialed, Input::Judged(Verdict::Allow(_))) => (Self::Relaying, Action::Relay),
            (Phase::Dialed, Input::Dialed) => Self::Dialing.close(Code::Internal.into()),
            (_, input) => phase.stream().step(input),
        }
    }

    /// Whether a bounded wait is running.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }

    fn phase(&self) -> Option<Phase> {
        match self {
            Self::Judging => Some(Phase::Judging),
            Self::Dialing => Some(Phase::Dialing),
            Self::Relaying => Some(Phase::Relaying),
            Self::Held { phase, .. } => Some(*phase),
            Self::Closed => None,
        }
    }

    fn deny(self, denial: Denial) -> (Self, Action) {
        match self.phase().filter(|phase| phase.may_hold(&denial)) {
            Some(phase) => (Self::Held { phase, denial }, Action::Hold),
            None => self.refuse(denial),
        }
    }

    fn refuse(self, denial: Denial) -> (Self, Action) {
        let code = match self.phase() {
            // The client saw the connection work: the log must say that a change ended it.
            Some(Phase::Relaying) => Code::PolicyRevoked,
            Some(Phase::Judging | Phase::Dialing | Phase::Dialed) | None => denial.code,
        };
        self.close(Refusal { code, denial: Some(denial) })
    }

    fn close(self, why: Refusal) -> (Self, Action) {
        match self.phase() {
            Some(Phase::Relaying) => (Self::Closed, Action::Reset(why)),
            Some(Phase::Judging | Phase::Dialing | Phase::Dialed) | None => {
                (Self::Closed, Action::Refuse(why))
            }
        }
    }
}

impl Phase {
    /// The stream it was before it was held.
    fn stream(self) -> Stream {
        match self {
            Self::Judging => Stream::Judging,
            Self::Dialing | Self::Dialed => Stream::Dialing,
            Self::Relaying => Stream::Relaying,
        }
    }

    /// Whether a denial only says that something has not arrived yet. Control planes send a workload
    /// before the policies it names, and a pod may start before its workload is sent.
    fn may_hold(self, denial: &Denial) -> bool {
        match self {
            Self::Judging => matches!(denial.code, Code::PolicyUnknown | Code::WorkloadUnknown),
            Self::Dialing | Self::Dialed | Self::Relaying => denial.code == Code::PolicyUnknown,
        }
    }
}

#[cfg(test)]
mod tests;
