//! How an operator names the two ends of a connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An address.
    Ip(IpAddr),
    /// `namespace/name` of a workload, or `namespace/hostname` of a service.
    Named {
        /// The namespace.
        namespace: String,
        /// The name or host name.
        name: String,
    },
    /// The uid of an enrolled pod, or the host name of a service.
    Bare(String),
}

/// A name that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Not an address, a namespace and name, or a name.
    #[error("{0:?} is not an IP address, NAMESPACE/NAME or a pod uid")]
    Form(String),
    /// No port from 1 to 65535 after the last colon.
    #[error("{0:?} does not end in :PORT (an IPv6 address needs brackets: [::1]:80)")]
    Port(String),
}

impl Subject {
    /// Parses `10.0.0.1`, `shop/cart-1`, a pod's uid or a service's host name.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        let form = || SubjectError::Form(text.chars().take(300).collect());
        let name = |part: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            (!part.is_empty() && part.bytes().all(allowed)).then(|| part.to_owned())
        };
        match text.split_once('/') {
            None => name(text).map(Self::Bare).ok_or_else(form),
            Some((namespace, rest)) => Ok(Self::Named {
                namespace: name(namespace).ok_or_else(form)?,
                name: name(rest).ok_or_else(form)?,
            }),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Named { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Bare(name) => name.fmt(f),
        }
    }
}

/// The server's end, with its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The server.
    pub host: Subject,
    /// The port the client would dial.
    pub port: u16,
}

impl Target {
    /// Parses `HOST:PORT`; an IPv6 address is in brackets.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        if let Ok(address) = text.parse::<SocketAddr>()
            && address.port() != 0
        {
            let host = Subject::Ip(address.ip().to_canonical());
            return Ok(Self { host, port: address.port() });
        }
        let error = || SubjectError::Port(text.chars().take(300).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        if host.contains(':') {
            return Err(error());
        }
        Ok(Self { host: Subject::parse(host)?, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Subject::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Subject::Named { .. } | Subject::Bare(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, expected) in [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("shop/cart-1:80", Some("shop/cart-1:80")),
            ("shop/cart.shop.svc:80", Some("shop/cart.shop.svc:80")),
            ("cart.shop.svc:80", Some("cart.shop.svc:80")),
            ("fd00::1:80", None),
            ("10.0.0.1", None),
            ("10.0.0.1:0", None),
            ("10.0.0.1:65536", None),
            ("10.0.0.1:http", None),
            (":80", None),
            ("/x:80", None),
            ("a/:80", None),
            ("a/b/c:80", None),
            ("a b:80", None),
        ] {
            let target = Target::parse(text).ok().map(|target| target.to_string());
            assert_eq!(target.as_deref(), expected, "{text}");
        }
        assert_eq!(Subject::parse("::1"), Ok(Subject::Ip([0, 0, 0, 0, 0, 0, 0, 1].into())));
        assert_eq!(Subject::parse("a-b"), Ok(Subject::Bare("a-b".to_owned())));
        assert!(Subject::parse("").is_err());
    }
}
