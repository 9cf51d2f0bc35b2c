//! Where a control plane listens.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::Uri;
use http::uri::Scheme;

/// istiod's TLS port, for an address without one.
const PORT: u16 = 15012;
/// Longest address accepted, in bytes: a host name has 253 at most.
const ADDRESS_MAX: usize = 512;

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a URL of a host.
    #[error("expected https://host:port")]
    Form,
    /// Plaintext beyond this machine: token and answers could be read and changed on the way.
    #[error("http is allowed only to an address of the loopback; use https")]
    Plaintext,
}

/// `https://host[:port]`, or `http://` with an address of the loopback.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    uri: Uri,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    is_plaintext: bool,
}

impl Address {
    /// Parses an address; a missing scheme is `https`, a missing port 15012.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_MAX {
            return Err(AddressError::Form);
        }
        let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let parts = full.parse::<Uri>().map_err(|_| AddressError::Form)?.into_parts();
        let authority = parts.authority.ok_or(AddressError::Form)?;
        let path = parts.path_and_query.map_or_else(String::new, |p| p.to_string());
        // A user name would be ignored: better to say so. So would a path.
        if authority.as_str().contains('@') || !matches!(path.as_str(), "" | "/") {
            return Err(AddressError::Form);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // The crate drops a port that is no number.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => PORT,
            Some(rest) => rest
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port != 0)
                .ok_or(AddressError::Form)?,
            None => return Err(AddressError::Form),
        };
        if host.is_empty() {
            return Err(AddressError::Form);
        }
        let is_plaintext = match parts.scheme.as_ref().map(Scheme::as_str) {
            Some("https") => false,
            // A name, `localhost` included, is whatever the resolver says.
            Some("http") if host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()) => true,
            Some("http") => return Err(AddressError::Plaintext),
            Some(_) | None => return Err(AddressError::Form),
        };
        let scheme = if is_plaintext { "http" } else { "https" };
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let uri = format!("{scheme}://{shown}:{port}").parse().map_err(|_| AddressError::Form)?;
        Ok(Self { uri, host, port, is_plaintext })
    }

    /// The host: a name or an address, the latter without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(crate) fn is_plaintext(&self) -> bool {
        self.is_plaintext
    }

    /// The socket addresses, from the system's resolver.
    pub(crate) async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_plaintext { "http" } else { "https" };
        let authority = self.uri.authority().map_or("", |a| a.as_str());
        write!(f, "{scheme}://{authority}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_whole_or_refused() {
        use AddressError::{Form, Plaintext};
        for (text, want) in [
            ("https://istiod.istio-system.svc:15012", Ok("https://istiod.istio-system.svc:15012")),
            ("https://istiod.istio-system.svc", Ok("https://istiod.istio-system.svc:15012")),
            ("istiod.istio-system.svc:443", Ok("https://istiod.istio-system.svc:443")),
            ("https://istiod/", Ok("https://istiod:15012")),
            ("https://[::1]:7", Ok("https://[::1]:7")),
            ("http://127.0.0.1:15010", Ok("http://127.0.0.1:15010")),
            ("http://[::1]:15010", Ok("http://[::1]:15010")),
            ("http://localhost:15010", Err(Plaintext)),
            ("http://10.0.0.1:15010", Err(Plaintext)),
            ("http://istiod:15010", Err(Plaintext)),
            ("ftp://istiod", Err(Form)),
            ("unix:///run/ca", Err(Form)),
            ("https://istiod:0", Err(Form)),
            ("https://istiod:", Err(Form)),
            ("https://istiod:70000", Err(Form)),
            ("https://user@istiod", Err(Form)),
            ("https://istiod/path", Err(Form)),
            ("https://", Err(Form)),
            ("", Err(Form)),
        ] {
            let got = Address::parse(text).map(|address| address.to_string());
            assert_eq!(got, want.map(str::to_owned), "{text}");
        }
        assert_eq!(Address::parse("https://[::1]:7").expect("valid").host(), "::1");
        assert!(Address::parse(&"a".repeat(600)).is_err());
    }
}
