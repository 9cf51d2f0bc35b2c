//! Services: names and virtual addresses that stand for workloads.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Gateway, Network, SpiffeId, WeightedWaypoint};

/// `namespace/hostname` of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Host name, such as `cart.shop.svc.cluster.local`.
    pub hostname: Arc<str>,
}

impl ServiceName {
    /// Parses `namespace/hostname`.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        let (namespace, hostname) = key.split_once('/')?;
        let valid = !namespace.is_empty() && !hostname.is_empty() && !hostname.contains('/');
        valid.then(|| Self { namespace: namespace.into(), hostname: hostname.into() })
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// A service that a connection was made to, as reports name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DialledService {
    /// Namespace and host name.
    pub name: ServiceName,
    /// The control plane's short name; it cannot be told from the host name.
    pub short_name: Arc<str>,
}

impl fmt::Display for DialledService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// A virtual address of a service: a single address, or every address of a CIDR block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAddress {
    /// Network.
    pub network: Network,
    /// A full-length prefix for a plain VIP.
    pub net: IpNet,
}

impl ServiceAddress {
    /// A plain VIP.
    #[must_use]
    pub fn host(network: Network, ip: IpAddr) -> Self {
        Self { network, net: IpNet::from(ip) }
    }
}

/// A service port and the port its endpoints serve it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMapping {
    /// The port clients dial.
    pub service_port: NonZeroU16,
    /// `None`: a named target port, which each endpoint resolves for itself.
    pub target_port: Option<NonZeroU16>,
}

/// What a load-balancing preference compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Region.
    Region,
    /// Zone.
    Zone,
    /// Subzone.
    Subzone,
    /// Node.
    Node,
    /// Cluster.
    Cluster,
    /// Network.
    Network,
}

/// How preferences bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancingMode {
    /// Every endpoint is as good as any other.
    #[default]
    Unspecified,
    /// Only endpoints that match every preference.
    Strict,
    /// The endpoints that match the most preferences, in order.
    Failover,
    /// No choice: the original destination is dialled as it is.
    Passthrough,
}

/// Which endpoints count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HealthPolicy {
    /// Healthy ones.
    #[default]
    OnlyHealthy,
    /// All (`publishNotReadyAddresses`).
    AllowAll,
}

/// A service's load-balancing policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// Ordered preferences.
    pub preferences: Vec<Scope>,
    /// How they bind.
    pub mode: LoadBalancingMode,
    /// Which endpoints count.
    pub health: HealthPolicy,
}

/// Address families a service offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IpFamilies {
    /// Whatever its endpoints have.
    #[default]
    Automatic,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

/// Who may see a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Everybody.
    #[default]
    Public,
    /// Its own namespace.
    Namespace,
}

/// One service, as the control plane describes it (`istio.workload.Service`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and host name.
    pub name: ServiceName,
    /// Short name, for telemetry.
    pub short_name: Arc<str>,
    /// Virtual addresses.
    pub addresses: Vec<ServiceAddress>,
    /// Ports.
    pub ports: Vec<PortMapping>,
    /// Identities an endpoint may present besides its own.
    pub subject_alt_names: Vec<SpiffeId>,
    /// Load balancing.
    pub load_balancing: LoadBalancing,
    /// Address families.
    pub ip_families: IpFamilies,
    /// The service that stands for its host name when several share it.
    pub canonical: bool,
    /// Who may see it.
    pub visibility: Visibility,
    /// The waypoint that connections to its virtual addresses must take.
    pub waypoint: Option<Gateway>,
    /// Several of them, by weight; where there are any, they take the place of `waypoint`.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
}

impl Service {
    /// How reports name it.
    #[must_use]
    pub fn dialled(&self) -> DialledService {
        DialledService { name: self.name.clone(), short_name: self.short_name.clone() }
    }
}
