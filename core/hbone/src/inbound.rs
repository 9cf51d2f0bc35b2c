//! One inbound stream, from CONNECT to close. The shell feeds an [`Input`] and performs the
//! [`Action`]. A policy change is just another verdict, so there is one code path.

use std::fmt;

use authz::{Denial, Permit, Verdict};
use model::Code;

use crate::status::status_of;

/// Where a stream is in its life.
#[derive(Debug)]
pub enum Stream {
    /// The CONNECT was read; there is no verdict yet.
    Judging,
    /// Allowed; the workload has not accepted yet.
    Dialing,
    /// 200 was sent; bytes flow.
    Relaying,
    /// Over.
    Closed,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Policy spoke, for the first time or again.
    Judged(Verdict),
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
        use Input::{DialFailed, Dialed, DrainElapsed, Judged, PeerGone, PodGone, Relayed};
        use Verdict::{Allow, Deny};
        match (self, input) {
            (Self::Closed, _) | (Self::Relaying, Relayed) => (Self::Closed, Action::Wait),
            (Self::Judging, Judged(Allow(permit))) => (Self::Dialing, Action::Dial(permit)),
            (Self::Dialing, Dialed) => (Self::Relaying, Action::Relay),
            (state @ (Self::Dialing | Self::Relaying), Judged(Allow(_))) => (state, Action::Wait),
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

    fn deny(self, denial: Denial) -> (Self, Action) {
        let code = match self {
            // The client saw the connection work: the log must say that a change ended it.
            Self::Relaying => Code::PolicyRevoked,
            Self::Judging | Self::Dialing | Self::Closed => denial.code,
        };
        self.close(Refusal { code, denial: Some(denial) })
    }

    fn close(self, why: Refusal) -> (Self, Action) {
        match self {
            Self::Relaying => (Self::Closed, Action::Reset(why)),
            Self::Judging | Self::Dialing | Self::Closed => (Self::Closed, Action::Refuse(why)),
        }
    }
}

#[cfg(test)]
mod tests;
