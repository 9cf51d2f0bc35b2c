//! What a response may hold, and what comes of it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use prost::bytes::Bytes;
use proto::discovery::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use super::lookup::Resubscribe;
use super::{Answer, Client, WaiterId};
use crate::kind::Kind;
use crate::parse::{Problem, TEXT_BYTES_MAX, shortened};

/// Resources of one type held at once: ten times the largest mesh that Warren is measured with. A
/// response that would lead beyond is refused as a whole, and so is one with more names than that.
pub const RESOURCES_HELD_MAX: usize = 1_000_000;
/// Further names of one resource. A resource with more is rejected.
pub const ALIASES_MAX: usize = 128;

/// A resource that was not accepted. An address keeps its old version, if it has one; a policy
/// counts as unreadable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedResource {
    /// The name it was sent under, shortened.
    pub name: String,
    /// What is wrong with it.
    pub cause: String,
}

impl RejectedResource {
    pub(super) fn new(name: &str, cause: impl fmt::Display) -> Self {
        Self { name: shortened(name), cause: cause.to_string() }
    }
}

impl fmt::Display for RejectedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.name, self.cause)
    }
}

/// Why a response was refused as a whole. Nothing of it is in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody asked for that type.
    #[error("the type {0:?} is not subscribed to")]
    UnknownType(String),
    /// This stream has had that nonce.
    #[error("the nonce was used before in this stream")]
    OldNonce,
    /// More than [`RESOURCES_HELD_MAX`].
    #[error("{0} names in one response are more than {RESOURCES_HELD_MAX}")]
    TooManyNames(usize),
    /// More than [`RESOURCES_HELD_MAX`] would be held.
    #[error("with this response, {0} resources would be held, more than {RESOURCES_HELD_MAX}")]
    TooManyHeld(usize),
    /// A policy cannot be left out, and is not held under such a name.
    #[error("a policy's name of {0} bytes is longer than {TEXT_BYTES_MAX}")]
    LongName(usize),
}

/// What the protocol does not allow. There is no answer to it but the end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A response cannot be answered without it.
    #[error("a response without a nonce")]
    NoNonce,
    /// It would have to be sent back.
    #[error("a response with a nonce of {0} bytes")]
    LongNonce(usize),
    /// There is no stream.
    #[error("a response without a stream")]
    NotOpen,
}

/// What came of a response.
#[derive(Debug, Default)]
pub struct Received {
    /// To send, in this order; the first accepts or refuses the response.
    pub requests: Vec<DeltaDiscoveryRequest>,
    /// The type, if the response was applied.
    pub kind: Option<Kind>,
    /// There is a new state.
    pub published: bool,
    /// What was not accepted.
    pub rejected: Vec<RejectedResource>,
    /// Why nothing was.
    pub refusal: Option<Refusal>,
    /// Look-ups that ended. To be told after the new state was published.
    pub released: Vec<(WaiterId, Answer)>,
    /// What a copy of the state has to change.
    pub records: Vec<Record>,
}

/// One difference for a copy of the state, in the form in which it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Type.
    pub kind: Kind,
    /// Name.
    pub name: String,
    /// `None`: it is gone.
    pub body: Option<RecordBody>,
}

impl Record {
    /// The resource as it was sent; `None` if it is gone.
    #[must_use]
    pub fn into_resource(self) -> Option<Resource> {
        let RecordBody { version, aliases, bytes } = self.body?;
        let any = Any { type_url: self.kind.url().to_owned(), value: bytes };
        Some(Resource { version, resource: Some(any), name: self.name, aliases })
    }

    /// The record of a resource; `None` if its type is not known.
    #[must_use]
    pub fn from_resource(resource: Resource) -> Option<Self> {
        let Resource { version, resource, name, aliases } = resource;
        let Any { type_url, value: bytes } = resource?;
        let body = Some(RecordBody { version, aliases, bytes });
        Some(Self { kind: Kind::of(&type_url)?, name, body })
    }
}

/// A resource in the form in which it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBody {
    /// Version; may be empty.
    pub version: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// The encoded message. A slice of the response it came in, which it keeps alive.
    pub bytes: Bytes,
}

/// What was done with a response.
#[derive(Default)]
pub(super) struct Applied {
    pub(super) changed: bool,
    pub(super) rejected: Vec<RejectedResource>,
    pub(super) released: Vec<(WaiterId, Answer)>,
    pub(super) records: Vec<Record>,
    pub(super) changes: Resubscribe,
}

impl Client {
    /// Whether a response fits, before anything of it is read.
    pub(super) fn check_bounds(
        &self,
        kind: Kind,
        response: &DeltaDiscoveryResponse,
    ) -> Result<(), Refusal> {
        let names = response.resources.len().saturating_add(response.removed_resources.len());
        if names > RESOURCES_HELD_MAX {
            return Err(Refusal::TooManyNames(names));
        }
        let names = response.resources.iter().map(|resource| resource.name.as_str());
        let held = match kind {
            Kind::Address => {
                let held = &self.addresses.by_name;
                held.len() + names.filter(|name| !held.holds(name)).count()
            }
            Kind::Authorization => {
                let longest = names.clone().map(str::len).max().unwrap_or(0);
                if longest > TEXT_BYTES_MAX {
                    return Err(Refusal::LongName(longest));
                }
                self.policies.len() + names.filter(|name| !self.policies.holds(name)).count()
            }
        };
        // What is removed is not counted off: one response more, and it fits.
        if held > RESOURCES_HELD_MAX { Err(Refusal::TooManyHeld(held)) } else { Ok(()) }
    }
}

/// Names of which a response says two things at once.
pub(super) fn ambiguous(response: &DeltaDiscoveryResponse) -> HashMap<String, Problem> {
    let removed: HashSet<&str> = response.removed_resources.iter().map(String::as_str).collect();
    let mut sent = HashSet::with_capacity(response.resources.len());
    let mut ambiguous = HashMap::new();
    for name in response.resources.iter().map(|resource| resource.name.as_str()) {
        if !sent.insert(name) {
            ambiguous.insert(name.to_owned(), Problem::Twice);
        } else if removed.contains(name) {
            ambiguous.insert(name.to_owned(), Problem::Contradiction);
        }
    }
    ambiguous
}

/// The encoded message of a resource, if its envelope is in order.
pub(super) fn payload(kind: Kind, resource: &Resource) -> Result<Bytes, Problem> {
    let any = resource.resource.as_ref().ok_or(Problem::Missing)?;
    if any.type_url != kind.url() {
        return Err(Problem::Type(shortened(&any.type_url)));
    }
    Ok(any.value.clone())
}
