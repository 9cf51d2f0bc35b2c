//! The `forwarded` header (RFC 7239): the client's address and the service it dialled.
//!
//! For telemetry only, like [`crate::Baggage`]: the client's address that policy sees is the
//! tunnel's own. So a header that cannot be read is no error; what can be read is taken.

use std::fmt;
use std::net::SocketAddr;

use model::canonical_socket;

use crate::authority::{Authority, is_host_name};

/// Longest header read, in bytes: an address, a host name and room for other parameters.
/// A longer one is not read at all.
pub const FORWARDED_MAX: usize = 1024;
/// Most parameters read; further ones are skipped.
const PARAMETERS_MAX: usize = 16;

/// `for="ip:port";host=name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The client.
    pub client: Option<SocketAddr>,
    /// The host name of the service, in lower case.
    pub host: Option<Box<str>>,
}

impl Forwarded {
    /// What an outbound connection tells. A host that is not a host name is left out.
    #[must_use]
    pub fn new(client: SocketAddr, host: Option<&str>) -> Self {
        let host = host.filter(|host| is_host_name(host));
        Self {
            client: Some(canonical_socket(client)),
            host: host.map(|host| host.to_ascii_lowercase().into()),
        }
    }

    /// Reads the first element of the header; never fails.
    #[must_use]
    pub fn parse(header: &[u8]) -> Self {
        let mut forwarded = Self::default();
        if header.len() > FORWARDED_MAX {
            return forwarded;
        }
        let Ok(text) = str::from_utf8(header) else { return forwarded };
        let mut rest = text;
        for _ in 0..PARAMETERS_MAX {
            let Some((name, value, after)) = parameter(rest) else { break };
            if name.eq_ignore_ascii_case("for") {
                forwarded.client = forwarded.client.or_else(|| socket_address(value));
            } else if name.eq_ignore_ascii_case("host") && is_host_name(value) {
                forwarded.host.get_or_insert_with(|| value.to_ascii_lowercase().into());
            }
            // A comma starts the element of a proxy further on: not ours to read.
            let Some(after) = after.trim_start().strip_prefix(';') else { break };
            rest = after;
        }
        forwarded
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let semicolon = if self.client.is_some() { ";" } else { "" };
        if let Some(client) = self.client {
            write!(f, "for=\"{client}\"")?;
        }
        if let Some(host) = &self.host {
            write!(f, "{semicolon}host={host}")?;
        }
        Ok(())
    }
}

/// One `name=value` or `name="value"`: name, value, and what follows. A quoted pair (`\x`) is
/// refused: none of the values we know may hold one.
fn parameter(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once('=')?;
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, after) = quoted.split_once('"')?;
        return (!value.contains('\\')).then_some((name.trim(), value, after));
    }
    let end = rest.find([';', ',']).unwrap_or(rest.len());
    let (value, after) = rest.split_at(end);
    Some((name.trim(), value.trim(), after))
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    match Authority::parse(text) {
        Ok(Authority::Address(address)) => Some(address),
        Ok(Authority::Host { .. }) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let v4 = "10.0.0.1:40000".parse().expect("valid");
        let v6 = "[fd00::1]:40000".parse().expect("valid");
        let host = Some("cart.shop.svc.cluster.local");
        for (forwarded, text) in [
            (Forwarded::new(v4, None), r#"for="10.0.0.1:40000""#),
            (Forwarded::new(v6, None), r#"for="[fd00::1]:40000""#),
            (Forwarded::new(v4, host), r#"for="10.0.0.1:40000";host=cart.shop.svc.cluster.local"#),
            (Forwarded::new(v4, Some("a\r\nb")), r#"for="10.0.0.1:40000""#),
        ] {
            assert_eq!(forwarded.to_string(), text);
            assert_eq!(Forwarded::parse(text.as_bytes()), forwarded);
        }
    }

    #[test]
    fn reads_what_it_can() {
        let read = |text: &str| {
            let forwarded = Forwarded::parse(text.as_bytes());
            (forwarded.client.map(|c| c.to_string()), forwarded.host.map(String::from))
        };
        let client = |text: &str| Some(text.to_owned());
        for (text, want) in [
            ("", (None, None)),
            (r#"For="10.0.0.1:1" ; HOST="Cart""#, (client("10.0.0.1:1"), client("cart"))),
            ("for=10.0.0.1:1;by=x;host=cart", (client("10.0.0.1:1"), client("cart"))),
            ("for=unknown;host=cart", (None, client("cart"))),
            (r#"for="10.0.0.1:1", for="10.0.0.2:2";host=x"#, (client("10.0.0.1:1"), None)),
            (r#"for="10.0.0.1:1"#, (None, None)),
            (r#"host="a\"b""#, (None, None)),
            ("host=10.0.0.1", (None, None)),
            ("=;=;=", (None, None)),
        ] {
            assert_eq!(read(text), want, "{text}");
        }
        assert_eq!(Forwarded::parse(&[b'a'; FORWARDED_MAX + 1]), Forwarded::default());
    }

    proptest! {
        #[test]
        fn never_panics(header in proptest::collection::vec(any::<u8>(), 0..1100)) {
            let _ = Forwarded::parse(&header);
        }

        #[test]
        fn never_panics_on_near_misses(text in "(for|host|\"|;|=|,|a|[:0-9.]|\\[|\\]|ü){0,40}") {
            let once = Forwarded::parse(text.as_bytes());
            prop_assert_eq!(Forwarded::parse(once.to_string().as_bytes()), once);
        }

        #[test]
        fn round_trip(client: SocketAddr, host in proptest::option::of("[a-z]{1,9}(\\.[a-z]{1,9}){0,3}")) {
            prop_assume!(client.port() != 0);
            let forwarded = Forwarded::new(client, host.as_deref());
            prop_assert_eq!(Forwarded::parse(forwarded.to_string().as_bytes()), forwarded);
        }
    }
}
