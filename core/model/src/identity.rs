//! SPIFFE identities of workloads.

use std::fmt;
use std::sync::Arc;

/// Longest SPIFFE ID accepted, in bytes (SPIFFE-ID standard, section 2.3).
const SPIFFE_ID_MAX: usize = 2048;
/// Longest trust domain name accepted, in bytes (SPIFFE-ID standard, section 2.1).
const TRUST_DOMAIN_MAX: usize = 255;

/// Why a SPIFFE ID or one of its parts was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The value does not have the form `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    Form(String),
    /// A part is empty, too long, or holds a character outside its set.
    Part {
        /// Which part: `trust domain`, `namespace` or `service account`.
        part: &'static str,
        /// The refused value.
        value: String,
    },
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(value) => {
                write!(f, "{value:?} is not spiffe://<trust domain>/ns/<namespace>/sa/<account>")
            }
            Self::Part { part, value } => write!(f, "{value:?} is not a valid {part}"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// A SPIFFE trust domain: lower-case letters, digits, `.`, `-`, `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Istio's default, used where a resource leaves it empty.
    pub const DEFAULT: &str = "cluster.local";

    /// Parses a trust domain name (SPIFFE-ID standard, section 2.1).
    pub fn parse(name: &str) -> Result<Self, IdentityError> {
        let valid = !name.is_empty()
            && name.len() <= TRUST_DOMAIN_MAX
            && name.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
            });
        if valid {
            Ok(Self(name.into()))
        } else {
            Err(IdentityError::Part { part: "trust domain", value: name.to_owned() })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, exactly.
///
/// Who a workload claims to be; not proof of anything. See [`VerifiedIdentity`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain_end: usize,
    namespace_end: usize,
}

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const ACCOUNT: &str = "/sa/";

impl SpiffeId {
    /// Builds the identity of a service account.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        for (part, value) in [("namespace", namespace), ("service account", service_account)] {
            if !is_segment(value) {
                return Err(IdentityError::Part { part, value: value.to_owned() });
            }
        }
        let uri = format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{ACCOUNT}{service_account}");
        if uri.len() > SPIFFE_ID_MAX {
            return Err(IdentityError::Form(uri));
        }
        let trust_domain_end = SCHEME.len() + trust_domain.as_str().len();
        let namespace_end = trust_domain_end + NAMESPACE.len() + namespace.len();
        Ok(Self { uri: uri.into(), trust_domain_end, namespace_end })
    }

    /// Parses a URI of exactly that form; any other path is refused.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(uri.chars().take(SPIFFE_ID_MAX).collect());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(form)?;
        let mut parts = rest.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(&TrustDomain::parse(domain)?, namespace, account)
            }
            _ => Err(form()),
        }
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// How many copies share this value's memory, this one included.
    #[must_use]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.uri)
    }

    /// The URI without `spiffe://`: the form in which Istio's policies name principals.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end]
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> TrustDomain {
        // It was parsed with the URI.
        TrustDomain(self.trust_domain().into())
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.uri[self.trust_domain_end + NAMESPACE.len()..self.namespace_end]
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end + ACCOUNT.len()..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// A path segment of a SPIFFE ID (standard, section 2.2).
fn is_segment(value: &str) -> bool {
    !value.is_empty()
        && !matches!(value, "." | "..")
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// A SPIFFE identity taken from a certificate whose chain, key usage and trust domain were
/// verified.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerifiedIdentity(SpiffeId);

impl VerifiedIdentity {
    /// Asserts that the caller verified the certificate. Only `io/tls` may call this;
    /// `cargo xtask layers` checks.
    #[must_use]
    pub fn assertion(id: SpiffeId) -> Self {
        Self(id)
    }

    /// The SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_its_own_form_and_no_other() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("valid");
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "cart");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
        let long = format!("spiffe://td/ns/{}/sa/x", "a".repeat(3000));
        for bad in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/sa/b/ns/a",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/../sa/b",
            "spiffe://u@td/ns/a/sa/b",
            "spiffe://td:80/ns/a/sa/b",
            "http://td/ns/a/sa/b",
            long.as_str(),
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }
}
