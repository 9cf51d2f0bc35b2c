//! The `:authority` of a CONNECT: where the stream wants to go.
//!
//! Either `ip:port` (IPv6 in brackets) or `hostname:port`. The parser is strict, because this is
//! the one header that selects a destination: what is not exactly one of the two forms is refused,
//! and a value that looks like a broken IPv4 address is never taken for a host name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use model::canonical_ip;

/// Longest authority read, in bytes: a DNS name of 253, a colon and a port of 5 digits (RFC 1035,
/// section 2.3.4). A longer one is refused unread.
pub const AUTHORITY_MAX: usize = HOST_MAX + 6;
/// Longest host name, in bytes (RFC 1035, section 2.3.4, in its text form).
pub(crate) const HOST_MAX: usize = 253;
/// Longest label of a host name, in bytes (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;

/// A parsed `:authority`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address, never v4-mapped, and a port other than 0.
    Address(SocketAddr),
    /// A host name in lower case, without a trailing dot.
    Host {
        /// The name.
        name: Box<str>,
        /// The service's port.
        port: NonZeroU16,
    },
}

/// Why an authority was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// More than [`AUTHORITY_MAX`] bytes.
    #[error("the authority is longer than {AUTHORITY_MAX} bytes")]
    TooLong,
    /// No `:port`.
    #[error("the authority has no port")]
    NoPort,
    /// Not 1 to 65535 in plain decimal.
    #[error("the authority's port is not 1 to 65535")]
    Port,
    /// Neither an address nor a host name.
    #[error("the authority's host is neither an address nor a host name")]
    Host,
}

impl Authority {
    /// Parses `ip:port`, `[ipv6]:port` or `hostname:port` (RFC 9113, section 8.5).
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.len() > AUTHORITY_MAX {
            return Err(AuthorityError::TooLong);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, rest) = rest.split_once(']').ok_or(AuthorityError::Host)?;
            let port = rest.strip_prefix(':').ok_or(AuthorityError::NoPort)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| AuthorityError::Host)?;
            return Ok(Self::address(IpAddr::V6(ip), parse_port(port)?));
        }
        let (host, port) = text.split_once(':').ok_or(AuthorityError::NoPort)?;
        let port = parse_port(port)?;
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return Ok(Self::address(IpAddr::V4(ip), port));
        }
        if !is_host_name(host) {
            return Err(AuthorityError::Host);
        }
        Ok(Self::Host { name: host.to_ascii_lowercase().into(), port })
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => port.get(),
        }
    }

    fn address(ip: IpAddr, port: NonZeroU16) -> Self {
        Self::Address(SocketAddr::new(canonical_ip(ip), port.get()))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// Digits only: `str::parse` alone would take a sign, and leading zeros have no meaning.
fn parse_port(text: &str) -> Result<NonZeroU16, AuthorityError> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().map_err(|_| AuthorityError::Port) } else { Err(AuthorityError::Port) }
}

/// Labels of letters, digits, `-` and `_`; the last one not a number, so that `10.0.0.256` and
/// `2130706433` are not names (WHATWG URL, "ends in a number").
pub(crate) fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| {
        let digits = label.strip_prefix("0x").or(label.strip_prefix("0X"));
        digits.map_or_else(
            || label.bytes().all(|b| b.is_ascii_digit()),
            |hex| hex.bytes().all(|b| b.is_ascii_hexdigit()),
        )
    };
    host.len() <= HOST_MAX
        && host.split('.').all(label)
        && !host.rsplit('.').next().is_some_and(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_the_two_forms() {
        for (text, shown) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("10.0.0.1:65535", "10.0.0.1:65535"),
            ("[fd00::1]:8080", "[fd00::1]:8080"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("cart.shop.svc.cluster.local:80", "cart.shop.svc.cluster.local:80"),
            ("Cart:1", "cart:1"),
            ("a_b.c-d:443", "a_b.c-d:443"),
            ("1password.com:443", "1password.com:443"),
        ] {
            assert_eq!(Authority::parse(text).expect(text).to_string(), shown);
        }
    }

    #[test]
    fn refuses_everything_else() {
        use AuthorityError::{Host, NoPort, Port, TooLong};
        let long = format!("{}:80", "a.".repeat(140));
        for (text, error) in [
            ("", NoPort),
            ("10.0.0.1", NoPort),
            ("[::1]", NoPort),
            ("[::1]80", NoPort),
            ("10.0.0.1:", Port),
            ("10.0.0.1:0", Port),
            ("10.0.0.1:080", Port),
            ("10.0.0.1:+80", Port),
            ("10.0.0.1:65536", Port),
            ("10.0.0.1:80:80", Port),
            ("10.0.0.1: 80", Port),
            ("::1:80", Port),
            (":80", Host),
            ("[::1:80", Host),
            ("[fe80::1%eth0]:80", Host),
            ("[10.0.0.1]:80", Host),
            ("10.0.0.256:80", Host),
            ("10.1:80", Host),
            ("2130706433:80", Host),
            ("0x7f000001:80", Host),
            ("010.0.0.1:80", Host),
            ("a..b:80", Host),
            ("a.:80", Host),
            ("-a:80", Host),
            ("user@host:80", Host),
            ("höst:80", Host),
            ("a b:80", Host),
            ("a/b:80", Host),
            (long.as_str(), TooLong),
        ] {
            assert_eq!(Authority::parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,300}") {
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
            }
        }

        #[test]
        fn round_trip(ip: IpAddr, port in 1_u16.., name in "[a-z][a-z0-9_]{0,20}(\\.[a-z]{1,9}){0,4}") {
            let address = Authority::Address(SocketAddr::new(ip.to_canonical(), port));
            prop_assert_eq!(Authority::parse(&address.to_string()), Ok(address));
            let port = NonZeroU16::new(port).expect("from 1");
            let host = Authority::Host { name: name.into(), port };
            prop_assert_eq!(Authority::parse(&host.to_string()), Ok(host));
        }
    }
}
