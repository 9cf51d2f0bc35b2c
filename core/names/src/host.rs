//! Host names in the form of the snapshot: lower case, without the final dot.

use hickory_proto::rr::Name;

/// Longest domain, so that names below it still fit into the 255 bytes of RFC 1035.
const DOMAIN_BYTES_MAX: usize = 200;

/// The domain below which Kubernetes puts its services, such as `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterDomain {
    /// `cluster.local`
    domain: Box<str>,
    /// `.svc.cluster.local`
    services: Box<str>,
}

/// A text that is not a domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a domain such as cluster.local")]
pub struct ClusterDomainError(pub String);

impl ClusterDomain {
    /// Parses a domain; case and a final dot do not matter.
    pub fn parse(text: &str) -> Result<Self, ClusterDomainError> {
        let domain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let valid = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_host);
        if domain.len() > DOMAIN_BYTES_MAX || !domain.split('.').all(valid) {
            return Err(ClusterDomainError(text.to_owned()));
        }
        let services = format!(".svc.{domain}").into();
        Ok(Self { domain: domain.into(), services })
    }

    /// The domain, in lower case and without a final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.domain
    }

    /// Whether a host name is one that Kubernetes gives to services.
    pub(crate) fn holds(&self, host: &str) -> bool {
        host.ends_with(&*self.services)
    }
}

impl Default for ClusterDomain {
    fn default() -> Self {
        Self { domain: "cluster.local".into(), services: ".svc.cluster.local".into() }
    }
}

/// A name as services are called; `None` for the root and for names that no service can have.
pub(crate) fn host(name: &Name) -> Option<String> {
    let mut host = String::with_capacity(name.len());
    for label in name {
        if !host.is_empty() {
            host.push('.');
        }
        if label.is_empty() || !label.iter().all(|byte| is_host(*byte)) {
            return None;
        }
        host.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (!host.is_empty()).then_some(host)
}

/// Bytes in the labels of host names; `*` alone is a wildcard's label, and `_` is used in practice.
fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_one_form() {
        for text in ["cluster.local", "Cluster.LOCAL.", "cluster.local."] {
            assert_eq!(ClusterDomain::parse(text), Ok(ClusterDomain::default()), "{text}");
        }
        for bad in ["", ".", "a..b", "a b", "ü.local", &"x.".repeat(101), &"x".repeat(64)] {
            assert!(ClusterDomain::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_no_service_has_are_none() {
        let name = |text: &str| Name::from_ascii(text).expect("a name");
        assert_eq!(host(&name("Cart.SHOP.")), Some("cart.shop".to_owned()));
        assert_eq!(host(&Name::root()), None);
        let odd = Name::from_labels([&b"a.b"[..], b"c"]).expect("labels");
        assert_eq!(host(&odd), None, "a dot within a label separates nothing");
    }
}
