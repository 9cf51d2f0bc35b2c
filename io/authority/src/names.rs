//! Whom a certificate speaks for.

use model::SpiffeId;
use rcgen::SanType;

/// Most DNS names of one certificate. More are refused.
pub const DNS_NAMES_MAX: usize = 32;
/// Longest DNS name (RFC 1035, 2.3.4) and label.
const DNS_NAME_MAX: usize = 253;
const DNS_LABEL_MAX: usize = 63;

/// Why names were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// Not a host name.
    #[error("{0:?} is not a DNS name")]
    Dns(String),
    /// More than [`DNS_NAMES_MAX`].
    #[error("more than {DNS_NAMES_MAX} DNS names")]
    TooMany,
}

/// One identity, and for a server that is called by name also DNS names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    identity: SpiffeId,
    dns: Vec<Box<str>>,
}

impl Names {
    /// A workload: its identity and nothing else.
    #[must_use]
    pub fn of(identity: SpiffeId) -> Self {
        Self { identity, dns: Vec::new() }
    }

    /// A server that is called by these names.
    pub fn server(identity: SpiffeId, dns: &[impl AsRef<str>]) -> Result<Self, NamesError> {
        if dns.len() > DNS_NAMES_MAX {
            return Err(NamesError::TooMany);
        }
        let check = |name: &str| {
            let is_name =
                !name.is_empty() && name.len() <= DNS_NAME_MAX && name.split('.').all(is_label);
            if is_name { Ok(name.into()) } else { Err(NamesError::Dns(name.to_owned())) }
        };
        let mut names: Vec<Box<str>> =
            dns.iter().map(|name| check(name.as_ref())).collect::<Result<_, _>>()?;
        names.sort_unstable();
        names.dedup();
        Ok(Self { identity, dns: names })
    }

    /// The one identity.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// DNS names, sorted.
    pub fn dns(&self) -> impl Iterator<Item = &str> {
        self.dns.iter().map(|name| &**name)
    }

    /// As the extension has them. The identity is the only URI.
    pub(crate) fn alternative_names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let mut names = vec![SanType::URI(self.identity.as_str().try_into()?)];
        for name in &self.dns {
            names.push(SanType::DnsName((&**name).try_into()?));
        }
        Ok(names)
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= DNS_LABEL_MAX
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
