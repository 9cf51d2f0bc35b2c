//! The types that are served, and where their resources are.

use proto::security::AUTHORIZATION_TYPE;
use proto::workload::ADDRESS_TYPE;

/// Type of workloads alone, which waypoints and gateways subscribe to.
pub const WORKLOAD_TYPE: &str = "type.googleapis.com/istio.workload.Workload";

/// A type that can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// Policies.
    Authorization,
    /// Workloads and services.
    Address,
    /// The workloads among them.
    Workload,
}

impl ResourceType {
    /// Every type, in the order in which responses are due: policies first.
    pub const ALL: [Self; 3] = [Self::Authorization, Self::Address, Self::Workload];

    /// Its name on the wire.
    #[must_use]
    pub fn url(self) -> &'static str {
        match self {
            Self::Authorization => AUTHORIZATION_TYPE,
            Self::Address => ADDRESS_TYPE,
            Self::Workload => WORKLOAD_TYPE,
        }
    }

    /// Its name without the package: a label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Address => "address",
            Self::Workload => "workload",
        }
    }

    /// The type of that name.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// Where its resources are.
    #[must_use]
    pub fn collection(self) -> Collection {
        match self {
            Self::Authorization => Collection::Policies,
            Self::Address | Self::Workload => Collection::Addresses,
        }
    }

    pub(super) fn place(self) -> usize {
        match self {
            Self::Authorization => 0,
            Self::Address => 1,
            Self::Workload => 2,
        }
    }
}

/// Resources that share one space of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collection {
    /// Workloads by uid, services by `namespace/hostname`.
    Addresses,
    /// Policies by `namespace/name`.
    Policies,
}
