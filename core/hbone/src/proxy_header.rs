//! The PROXY protocol, version 2: what precedes the bytes of a connection that is handed to an
//! application tunnel (HAProxy, "The PROXY protocol", section 2.2).
//!
//! It tells a waypoint who called and what for: the client's address, the address the stream asked
//! for, and in Istio's two extra fields the client's SPIFFE ID and the service's host name. Only a
//! node proxy may be believed here, so a waypoint must take such headers from nobody else.
//!
//! One header has one address family. Where source and destination differ, both are written as
//! IPv6, the IPv4 one in its v4-mapped form. Istio's ztunnel writes family UNSPEC then, and so
//! loses both addresses; a receiver that folds mapped addresses, as ours does, loses nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use model::{SpiffeId, canonical_socket};

use crate::authority::is_host_name;

/// Longest header read or written, in bytes: two IPv6 endpoints, a SPIFFE ID of 2048, a host name of
/// 253, and as much room again for fields of others. A longer one is refused unread.
pub const PROXY_HEADER_MAX: usize = 8 * 1024;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length of the rest.
const FIXED: usize = SIGNATURE.len() + 4;
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;
/// Istio: the SPIFFE ID of the client, verified by the sender.
const FIELD_IDENTITY: u8 = 0xD0;
/// Istio: the host name of the service that the client asked for.
const FIELD_SERVICE: u8 = 0xD1;

/// One header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyHeader {
    /// The client, never v4-mapped.
    pub source: SocketAddr,
    /// What its stream asked for, never v4-mapped.
    pub destination: SocketAddr,
    /// Who the client is.
    pub identity: Option<SpiffeId>,
    /// The service it asked for, in lower case, where that was a host name.
    pub service: Option<Box<str>>,
}

/// Why a header was refused. What follows it cannot be told from what precedes it, so the connection
/// must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// It is not all there yet; so many bytes are needed at least.
    #[error("the PROXY header has {0} bytes or more, and fewer came")]
    Incomplete(usize),
    /// Not the signature of version 2.
    #[error("not a PROXY header of version 2")]
    Signature,
    /// Neither the version nor the command of a proxied connection.
    #[error("the PROXY header's version and command are {0:#04x}, not those of a connection")]
    Command(u8),
    /// Not TCP over IPv4 or IPv6.
    #[error("the PROXY header's family and protocol are {0:#04x}, not TCP over IPv4 or IPv6")]
    Family(u8),
    /// Longer than [`PROXY_HEADER_MAX`].
    #[error("the PROXY header has {0} bytes, more than {PROXY_HEADER_MAX}")]
    TooLong(usize),
    /// The addresses or a field end beyond the header.
    #[error("the PROXY header ends within its addresses or a field")]
    Truncated,
    /// A field of Istio's is there twice.
    #[error("the PROXY header has field {0:#04x} twice")]
    Twice(u8),
    /// The identity is not a SPIFFE ID of a workload.
    #[error("the PROXY header's identity cannot be read")]
    Identity(#[source] Option<model::IdentityError>),
    /// The service is not a host name.
    #[error("the PROXY header's service is not a host name")]
    Service,
}

impl ProxyHeader {
    /// A header about a client that is known by its address alone.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source: canonical_socket(source),
            destination: canonical_socket(destination),
            identity: None,
            service: None,
        }
    }

    /// The bytes. A service that is not a host name is left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut rest = Vec::with_capacity(128);
        let family = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                rest.extend_from_slice(&source.octets());
                rest.extend_from_slice(&destination.octets());
                TCP_V4
            }
            (source, destination) => {
                rest.extend_from_slice(&v6(source).octets());
                rest.extend_from_slice(&v6(destination).octets());
                TCP_V6
            }
        };
        rest.extend_from_slice(&self.source.port().to_be_bytes());
        rest.extend_from_slice(&self.destination.port().to_be_bytes());
        if let Some(identity) = &self.identity {
            put_field(&mut rest, FIELD_IDENTITY, identity.as_str());
        }
        if let Some(service) = self.service.as_deref().filter(|name| is_host_name(name)) {
            put_field(&mut rest, FIELD_SERVICE, service);
        }
        let mut header = Vec::with_capacity(FIXED.saturating_add(rest.len()));
        header.extend_from_slice(&SIGNATURE);
        header.extend_from_slice(&[VERSION_COMMAND, family]);
        header.extend_from_slice(&length(rest.len()));
        header.append(&mut rest);
        header
    }

    /// Reads a header at the start of `bytes`, and tells how many of them it has. Fields of others
    /// are skipped.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), ProxyHeaderError> {
        let known = SIGNATURE.iter().zip(bytes).take_while(|(want, got)| want == got).count();
        if known < SIGNATURE.len().min(bytes.len()) {
            return Err(ProxyHeaderError::Signature);
        }
        let mut reader = Reader(bytes);
        let fixed: [u8; FIXED] = reader.array().ok_or(ProxyHeaderError::Incomplete(FIXED))?;
        let [.., command, family, length_high, length_low] = fixed;
        if command != VERSION_COMMAND {
            return Err(ProxyHeaderError::Command(command));
        }
        let total = FIXED.saturating_add(u16::from_be_bytes([length_high, length_low]).into());
        if total > PROXY_HEADER_MAX {
            return Err(ProxyHeaderError::TooLong(total));
        }
        let rest = bytes.get(FIXED..total).ok_or(ProxyHeaderError::Incomplete(total))?;
        let mut reader = Reader(rest);
        let mut header = reader.addresses(family)?;
        while !reader.0.is_empty() {
            let (kind, value) = reader.field().ok_or(ProxyHeaderError::Truncated)?;
            header.set(kind, value)?;
        }
        Ok((header, total))
    }

    fn set(&mut self, kind: u8, value: &[u8]) -> Result<(), ProxyHeaderError> {
        match kind {
            FIELD_IDENTITY if self.identity.is_none() => {
                let uri = str::from_utf8(value).map_err(|_| ProxyHeaderError::Identity(None))?;
                let id = SpiffeId::parse(uri);
                self.identity = Some(id.map_err(|why| ProxyHeaderError::Identity(Some(why)))?);
            }
            FIELD_SERVICE if self.service.is_none() => {
                let name = str::from_utf8(value).ok().filter(|name| is_host_name(name));
                let name = name.ok_or(ProxyHeaderError::Service)?;
                self.service = Some(name.to_ascii_lowercase().into());
            }
            FIELD_IDENTITY | FIELD_SERVICE => return Err(ProxyHeaderError::Twice(kind)),
            // Checksums, no-ops, what a TLS proxy says of its session: nothing we would use.
            _ => {}
        }
        Ok(())
    }
}

/// What is left to read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (now, later) = self.0.split_at_checked(count)?;
        self.0 = later;
        Some(now)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn addresses(&mut self, family: u8) -> Result<ProxyHeader, ProxyHeaderError> {
        let both = match family {
            TCP_V4 => self.two(|reader| Some(IpAddr::V4(reader.array::<4>()?.into()))),
            TCP_V6 => self.two(|reader| Some(IpAddr::V6(reader.array::<16>()?.into()))),
            other => return Err(ProxyHeaderError::Family(other)),
        };
        let (source, destination) = both.ok_or(ProxyHeaderError::Truncated)?;
        let ports = self.two(|reader| Some(u16::from_be_bytes(reader.array()?)));
        let (from, to) = ports.ok_or(ProxyHeaderError::Truncated)?;
        Ok(ProxyHeader::new(SocketAddr::new(source, from), SocketAddr::new(destination, to)))
    }

    fn two<T>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<(T, T)> {
        let first = one(self)?;
        Some((first, one(self)?))
    }

    fn field(&mut self) -> Option<(u8, &'b [u8])> {
        let [kind, high, low] = self.array()?;
        Some((kind, self.take(u16::from_be_bytes([high, low]).into())?))
    }
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn put_field(header: &mut Vec<u8>, kind: u8, value: &str) {
    header.push(kind);
    header.extend_from_slice(&length(value.len()));
    header.extend_from_slice(value.as_bytes());
}

/// Two bytes of length. Everything written here is bounded by its type far below what they hold.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests;
