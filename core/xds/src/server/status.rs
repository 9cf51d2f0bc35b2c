//! Where a client stands, for people.

use super::kind::ResourceType;

/// Bytes kept of the text with which a client refused a response; the rest is cut off.
pub const REJECTION_BYTES_MAX: usize = 1024;

/// What a client follows of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything.
    Everything,
    /// The workloads of its node, and what it asked for.
    NodeAndAsked,
    /// What it asked for, with what belongs to that.
    Asked,
}

/// Where a client stands with a type that it subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeStatus {
    /// The type.
    pub kind: ResourceType,
    /// What it follows.
    pub reach: Reach,
    /// Names it asked for.
    pub names: usize,
    /// Resources that it has to be told about.
    pub pending: usize,
    /// The catalogue it was sent last and has not answered yet.
    pub in_flight: Option<u64>,
    /// The catalogue of the last response that it answered.
    pub answered: Option<u64>,
    /// Responses of which it refused something.
    pub rejections: u64,
    /// What it said about the last of them.
    pub last_rejection: Option<String>,
}
