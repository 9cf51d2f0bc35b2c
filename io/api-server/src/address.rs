//! The address of an API server.

use http::Uri;

use crate::ApiError;

/// Of an address without a port.
const PORT: u16 = 443;
/// Longest address accepted, in bytes: a host name has 253 at most.
const ADDRESS_MAX: usize = 512;

/// A parsed `https://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        read(text).ok_or_else(|| ApiError::Server(text.chars().take(ADDRESS_MAX).collect()))
    }

    /// As the `Host` header has it.
    pub(crate) fn authority(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

fn read(text: &str) -> Option<Address> {
    if text.len() > ADDRESS_MAX {
        return None;
    }
    let parts = text.parse::<Uri>().ok()?.into_parts();
    let authority = parts.authority?;
    let path = parts.path_and_query.map_or_else(String::new, |path| path.to_string());
    let is_https = parts.scheme.is_some_and(|scheme| scheme.as_str() == "https");
    // A user name or a path would be ignored: better to say so.
    if !is_https || authority.as_str().contains('@') || !matches!(path.as_str(), "" | "/") {
        return None;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    // The crate drops a port that is no number.
    let port = match authority.as_str().strip_prefix(authority.host())? {
        "" => PORT,
        rest => rest.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    (!host.is_empty()).then_some(Address { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_whole_or_refused() {
        for (text, want) in [
            ("https://10.0.0.1:6443", Some("10.0.0.1:6443")),
            ("https://kubernetes.default.svc", Some("kubernetes.default.svc:443")),
            ("https://api/", Some("api:443")),
            ("https://[fd00::1]:443", Some("[fd00::1]:443")),
            ("https://[fd00::1]", Some("[fd00::1]:443")),
            ("http://10.0.0.1:6443", None),
            ("10.0.0.1:6443", None),
            ("https://me@api", None),
            ("https://api/path", None),
            ("https://api:0", None),
            ("https://api:70000", None),
            ("https://", None),
            ("", None),
        ] {
            let got = Address::parse(text).ok().map(|address| address.authority());
            assert_eq!(got.as_deref(), want, "{text}");
        }
        let long = format!("https://{}", "a".repeat(600));
        assert!(
            matches!(Address::parse(&long), Err(ApiError::Server(shown)) if shown.len() == 512)
        );
    }
}
