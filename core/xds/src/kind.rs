//! The types of resource.

use proto::security::AUTHORIZATION_TYPE;
use proto::workload::ADDRESS_TYPE;

/// A type of resource that is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Workloads and services.
    Address,
    /// Policies.
    Authorization,
}

impl Kind {
    /// Every type, in the order of subscription.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// Its name on the wire.
    #[must_use]
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS_TYPE,
            Self::Authorization => AUTHORIZATION_TYPE,
        }
    }

    /// The type of that name.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}
