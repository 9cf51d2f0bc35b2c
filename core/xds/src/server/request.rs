//! Reading a request: what is in it is counted before any of it is decoded.
//!
//! Decoded, a request takes many times the memory of its bytes: two bytes can be a name. So the
//! bytes are walked once, without keeping anything, and what no client needs is refused there.

use prost::Message;
use proto::discovery::DeltaDiscoveryRequest;

/// Names and aliases that a client may ask for at once in each type: what Warren's own would. The
/// stream of one that asks for more ends.
pub const SUBSCRIBED_MAX: usize = 65_536;
/// Longest name that may be asked for, in bytes; the longest that there can be is that of an endpoint
/// of a service entry: cluster (256), kind (40), namespace (63), name (253), host (253). The stream of
/// a client with a longer one ends.
pub const NAME_BYTES_MAX: usize = 1024;
/// Resources that a client may say it holds: more than twice the largest mesh that this is made for
/// (100,000 pods and 10,000 services). The stream of one with more ends.
pub const VERSIONS_MAX: usize = 262_144;
/// Longest version, in bytes; ours have 16. The stream of a client with a longer one ends.
pub const VERSION_BYTES_MAX: usize = 128;
/// Everything else in a request, in bytes: who the client is, and what it refused. The stream of one
/// that says more ends.
pub const OTHER_BYTES_MAX: usize = 1 << 20;
/// Largest request, in bytes: as many names and versions as there may be, each of a good length, and
/// all else. The name of a pod has some 90 bytes and its version 16. A larger one is not read at all.
pub const REQUEST_BYTES_MAX: usize = (VERSIONS_MAX + SUBSCRIBED_MAX) * 128 + OTHER_BYTES_MAX;

/// What a name and a version take beside their own bytes.
const ENTRY_FRAME_MAX: usize = 8;

/// Field numbers of `DeltaDiscoveryRequest`.
const SUBSCRIBE: u64 = 3;
const UNSUBSCRIBE: u64 = 4;
const VERSIONS: u64 = 5;

/// What no client of this protocol sends. The stream must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestViolation {
    /// More than [`SUBSCRIBED_MAX`].
    #[error("{0} names are subscribed to, more than {SUBSCRIBED_MAX}")]
    TooManyNames(usize),
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("a name of {0} bytes is longer than {NAME_BYTES_MAX}")]
    LongName(usize),
    /// More than [`VERSIONS_MAX`].
    #[error("{0} resources are said to be held, more than {VERSIONS_MAX}")]
    TooManyVersions(usize),
    /// A name and a version are longer together than they may be.
    #[error("a version of {0} bytes with its name")]
    LongVersion(usize),
    /// More than [`OTHER_BYTES_MAX`].
    #[error("{0} bytes beside names and versions, more than {OTHER_BYTES_MAX}")]
    TooMuchElse(usize),
    /// Not a request.
    #[error("the request cannot be decoded")]
    Undecodable,
}

/// Reads a request, if it is one that a client of this protocol may send.
pub fn decode(bytes: &[u8]) -> Result<DeltaDiscoveryRequest, RequestViolation> {
    count(bytes)?;
    DeltaDiscoveryRequest::decode(bytes).map_err(|_| RequestViolation::Undecodable)
}

fn count(mut rest: &[u8]) -> Result<(), RequestViolation> {
    const WIRE_TYPES: u64 = 8;
    let (mut subscribed, mut unsubscribed, mut versions, mut other) = (0, 0, 0, 0);
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let length = match key % WIRE_TYPES {
            0 => varint(&mut rest).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).map_err(|_| RequestViolation::Undecodable)?,
            5 => 4,
            // Groups are not of this protocol.
            _ => return Err(RequestViolation::Undecodable),
        };
        rest = rest.get(length..).ok_or(RequestViolation::Undecodable)?;
        match key / WIRE_TYPES {
            field @ (SUBSCRIBE | UNSUBSCRIBE) => {
                let names = if field == SUBSCRIBE { &mut subscribed } else { &mut unsubscribed };
                *names += 1;
                if *names > SUBSCRIBED_MAX {
                    return Err(RequestViolation::TooManyNames(*names));
                }
                if length > NAME_BYTES_MAX {
                    return Err(RequestViolation::LongName(length));
                }
            }
            VERSIONS => {
                versions += 1;
                if versions > VERSIONS_MAX {
                    return Err(RequestViolation::TooManyVersions(versions));
                }
                if length > NAME_BYTES_MAX + VERSION_BYTES_MAX + ENTRY_FRAME_MAX {
                    return Err(RequestViolation::LongVersion(length));
                }
            }
            _ => {
                other += length + 1;
                if other > OTHER_BYTES_MAX {
                    return Err(RequestViolation::TooMuchElse(other));
                }
            }
        }
    }
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Result<u64, RequestViolation> {
    prost::encoding::decode_varint(rest).map_err(|_| RequestViolation::Undecodable)
}
