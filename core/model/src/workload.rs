//! Workloads: the pods (or machines) that send and receive traffic.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::{
    ApplicationTunnel, Gateway, IdentityError, Network, ServedServices, ServiceName, SpiffeId,
    TrustDomain,
};

/// The control plane's name of a workload, such as `Kubernetes//Pod/shop/cart-1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub Arc<str>);

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The instance of a pod on this node: Kubernetes' Pod UID. Not the control plane's `uid`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

/// A Pod UID that is not `[A-Za-z0-9-]{1,63}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUidError(pub String);

impl fmt::Display for PodUidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod uid {:?} is not 1 to 63 of A-Z, a-z, 0-9 and -", self.0)
    }
}

impl std::error::Error for PodUidError {}

impl PodUid {
    /// Parses `[A-Za-z0-9-]{1,63}`. The set keeps it safe as a file name.
    pub fn parse(uid: &str) -> Result<Self, PodUidError> {
        let valid = (1..=63).contains(&uid.len())
            && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if valid { Ok(Self(uid.into())) } else { Err(PodUidError(uid.to_owned())) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How an enrolled pod names its workload: `namespace/name/service-account`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name within the namespace.
    pub name: Arc<str>,
    /// Service account the workload runs as.
    pub service_account: Arc<str>,
}

/// A workload key that is not `namespace/name/service-account`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadKeyError(pub String);

impl fmt::Display for WorkloadKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workload {:?} is not namespace/name/service-account", self.0)
    }
}

impl std::error::Error for WorkloadKeyError {}

impl WorkloadKey {
    /// Parses `namespace/name/service-account`; each part is a Kubernetes name.
    pub fn parse(text: &str) -> Result<Self, WorkloadKeyError> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(name), Some(account), None)
                if [namespace, name, account].into_iter().all(is_kubernetes_name) =>
            {
                Ok(Self {
                    namespace: namespace.into(),
                    name: name.into(),
                    service_account: account.into(),
                })
            }
            _ => Err(WorkloadKeyError(text.to_owned())),
        }
    }
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.name, self.service_account)
    }
}

/// An RFC 1123 subdomain of at most 253 characters.
fn is_kubernetes_name(part: &str) -> bool {
    (1..=253).contains(&part.len())
        && part
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

/// `namespace/name` of an authorization policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name within the namespace.
    pub name: Arc<str>,
}

impl PolicyName {
    /// Builds a name from its parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Parses `namespace/name`; the namespace may not be empty, the name may hold no `/`.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        let (namespace, name) = key.split_once('/')?;
        let valid = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
        valid.then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How traffic for a workload travels on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP: the workload is not in the mesh.
    #[default]
    None,
    /// HTTP/2 CONNECT over mutual TLS, port 15008.
    Hbone,
}

/// Readiness as the control plane sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// May receive traffic.
    #[default]
    Healthy,
    /// Receives traffic only where a service allows unhealthy endpoints.
    Unhealthy,
}

/// Which network namespace a workload's addresses live in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// Its own.
    #[default]
    Standard,
    /// The node's: the address does not identify the workload.
    HostNetwork,
}

/// The kind of object that owns the workload; used for telemetry only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkloadType {
    /// Deployment.
    #[default]
    Deployment,
    /// CronJob.
    CronJob,
    /// Bare Pod.
    Pod,
    /// Job.
    Job,
}

impl WorkloadType {
    /// The name used in baggage keys: `k8s.<this>.name`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Where a workload runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Subzone.
    pub subzone: Arc<str>,
}

/// One workload, as the control plane describes it (`istio.workload.Workload`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The control plane's name.
    pub uid: WorkloadUid,
    /// Namespace, name and service account.
    pub key: WorkloadKey,
    /// SPIFFE trust domain.
    pub trust_domain: TrustDomain,
    /// Addresses, none in v4-mapped form. Empty for a workload known by host name only.
    pub addresses: Vec<IpAddr>,
    /// Network of those addresses.
    pub network: Network,
    /// How it is reached.
    pub protocol: TunnelProtocol,
    /// Whose network namespace it uses.
    pub network_mode: NetworkMode,
    /// The node it runs on; may be empty. Never used to choose a route.
    pub node: Arc<str>,
    /// Cluster; `Kubernetes` where unset.
    pub cluster: Arc<str>,
    /// Canonical service name, for telemetry.
    pub canonical_name: Arc<str>,
    /// Canonical service revision, for telemetry.
    pub canonical_revision: Arc<str>,
    /// Kind of owner, for telemetry.
    pub workload_type: WorkloadType,
    /// Name of the owner, for telemetry.
    pub workload_name: Arc<str>,
    /// Readiness.
    pub health: Health,
    /// Region and zone.
    pub locality: Locality,
    /// Policies bound to it by selector.
    pub policies: Vec<PolicyName>,
    /// Services it is an endpoint of, with the ports it serves for each.
    pub services: ServedServices,
    /// Share of a service's traffic relative to its siblings; 0 takes none.
    pub capacity: u32,
    /// Its own proxy speaks HBONE on 15008: no agent captures it, tunnels go straight to it.
    pub native_tunnel: bool,
    /// The waypoint that connections to its addresses must take.
    pub waypoint: Option<Gateway>,
    /// How it is reached from another network.
    pub network_gateway: Option<Gateway>,
    /// How its application takes connections, if not as plain bytes on the port that was asked for.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Host name to look up where it has no address.
    pub hostname: Option<Arc<str>>,
}

impl Workload {
    /// The SPIFFE identity its certificate must carry.
    pub fn identity(&self) -> Result<SpiffeId, IdentityError> {
        SpiffeId::new(&self.trust_domain, &self.key.namespace, &self.key.service_account)
    }

    /// The port this workload serves for `service_port` of `service`.
    #[must_use]
    pub fn target_port(&self, service: &ServiceName, service_port: u16) -> Option<NonZeroU16> {
        let ports = self.services.get(service)?;
        ports.iter().find(|p| p.service_port.get() == service_port).and_then(|p| p.target_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_uid_is_a_safe_file_name() {
        for good in ["a", "6c1f0f0e-8c1d-4b0c-9d0e-000000000001", &"x".repeat(63)] {
            assert_eq!(PodUid::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", "..", "a/b", "a.b", "a b", "ü", "a\0", &"x".repeat(64)] {
            assert!(PodUid::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn workload_key_has_exactly_three_names() {
        let key = WorkloadKey::parse("shop/cart-1/cart").expect("valid");
        assert_eq!(key.to_string(), "shop/cart-1/cart");
        for bad in ["", "a/b", "a/b/c/d", "a//c", "A/b/c", "a/b/c ", "../b/c\n"] {
            assert!(WorkloadKey::parse(bad).is_err(), "{bad}");
        }
    }
}
