//! One connection, as captured and authenticated.

use std::net::SocketAddr;

use crate::VerifiedIdentity;

/// What policy judges.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client's address, never v4-mapped.
    pub source: SocketAddr,
    /// Who is on the other side.
    pub peer: Peer,
    /// Where the bytes will go: the workload's own address and port, never v4-mapped.
    pub destination: SocketAddr,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// No TLS: nothing is known but the address.
    Plaintext,
    /// A certificate was verified: the peer's on the wire, or this agent's own for a pod whose
    /// kernel objects it holds.
    Verified(VerifiedIdentity),
}

impl Peer {
    /// The identity, if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&VerifiedIdentity> {
        match self {
            Self::Plaintext => None,
            Self::Verified(identity) => Some(identity),
        }
    }
}

/// Which side of a connection reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The client's node.
    Outbound,
    /// The server's node.
    Inbound,
}

impl Direction {
    /// The word in the access log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }

    /// The value of the metric label `reporter`.
    #[must_use]
    pub fn reporter(self) -> &'static str {
        match self {
            Self::Outbound => "source",
            Self::Inbound => "destination",
        }
    }
}

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// In an HBONE tunnel.
    Hbone,
    /// Joined in this process: both pods are on this node.
    Local,
    /// Plain TCP to a destination outside the mesh.
    Passthrough,
    /// Plain TCP from a client outside the mesh.
    Plaintext,
    /// Questions to a resolver, which this process reads: it answers, or asks the resolver.
    Dns,
}

impl Path {
    /// The word in the access log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hbone => "hbone",
            Self::Local => "local",
            Self::Passthrough => "passthrough",
            Self::Plaintext => "plaintext",
            Self::Dns => "dns",
        }
    }
}
