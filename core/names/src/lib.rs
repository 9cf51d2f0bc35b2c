//! Which addresses does a name have for a workload? DNS questions answered from a snapshot.
//!
//! Pure: bytes in, an [`Answer`] out; randomness is an argument. Only what the mesh owns is answered:
//! A and AAAA of hosts of services that the client may see and that have an address for it. Everything
//! else (other types, opcodes and classes, unknown names, several questions, signed or odd messages) is
//! [`Answer::Forward`]: the resolver that the application asked gets the very bytes.
//!
//! **A name means**, first match counts:
//! 1. a service's host name;
//! 2. a pod of a headless service, `cart-0.cart.shop.svc.cluster.local`;
//! 3. a wildcard host `*.x`, the longest first;
//! 4. with up to four labels: what the default search list of a pod would make of it, `<ns>.svc.<domain>`,
//!    `svc.<domain>` and `<domain>`, as 1 or 2.
//!
//! Search domains are not stripped: an application that walks its search list asks for the bare name
//! itself when its resolver knows no other, and what stands in between is not the mesh's to answer.
//!
//! Of several services with one host name, one of the client's namespace counts, then the canonical one,
//! then the first by namespace.

mod addresses;
mod host;
mod lookup;
mod question;
mod reply;
mod wire;

use model::{Network, ServiceName};
use resolve::Snapshot;

pub use host::{ClusterDomain, ClusterDomainError};
pub use question::{Kind, Question};
pub use reply::servfail;
pub use wire::{Header, MESSAGE_BYTES_MAX};

/// Largest reply over UDP, in bytes, whatever the client says it takes: beyond it the reply is
/// truncated, and the client asks again over TCP. Told to clients as what is taken from them.
pub const DATAGRAM_BYTES_MAX: u16 = 4096;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a stream.
    Tcp,
}

impl Transport {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'c> {
    /// Its namespace: short names are its own, and hidden services are visible in it.
    pub namespace: &'c str,
    /// Its network: addresses of other networks are not told.
    pub network: &'c Network,
}

/// One message of a client.
#[derive(Clone, Copy, Debug)]
pub struct Query<'q> {
    /// The message, without the length that goes before it in a stream.
    pub message: &'q [u8],
    /// How it came.
    pub transport: Transport,
    /// Who asks.
    pub client: Client<'q>,
    /// Domain of the cluster's services.
    pub domain: &'q ClusterDomain,
    /// Uniform over its whole range; decides the order of addresses.
    pub random: u64,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The mesh owns the name.
    Reply(Reply),
    /// It does not, or the message asks for something else: to the resolver that was asked, verbatim.
    Forward,
}

/// A reply to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The message.
    pub message: Vec<u8>,
    /// The service whose name was asked for.
    pub service: ServiceName,
    /// Addresses in it; none when the service has none of the family.
    pub addresses: usize,
}

/// Answers one message, or says that it is not the mesh's. Total.
#[must_use]
pub fn answer(snapshot: &Snapshot, query: &Query<'_>) -> Answer {
    let Some(asked) = question::read(query.message) else { return Answer::Forward };
    let Some(owner) = lookup::owner(snapshot, &query.client, query.domain, &asked.host) else {
        return Answer::Forward;
    };
    let service = owner.service();
    let Some(found) = addresses::of(snapshot, &query.client, query.domain, &owner) else {
        return Answer::Forward;
    };
    let mut found = found.of_family(asked.family);
    addresses::shuffle(&mut found, query.random);
    match reply::write(&asked, &found, query.transport) {
        Some((message, addresses)) => {
            Answer::Reply(Reply { message, service: service.name.clone(), addresses })
        }
        // What cannot be written is not answered here; unreachable for names that were read.
        None => Answer::Forward,
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
