//! The `baggage` header: who the other side says it is, for telemetry only.
//!
//! Identity comes from the certificate; nothing here may reach a decision. So the parser takes
//! what it knows and skips the rest, within bounds, and the writer leaves out a value that could
//! not stand in a header: Istio's ztunnel neither encodes nor decodes with percent signs.

use std::fmt::Write;
use std::sync::Arc;

use model::{
    Health, Locality, Network, NetworkMode, ServedServices, SpiffeId, TrustDomain, TunnelProtocol,
    Workload, WorkloadKey, WorkloadType, WorkloadUid,
};

/// Longest header read, in bytes (W3C Baggage, section 3.3.2). The rest is not read.
pub const BAGGAGE_MAX: usize = 8192;
/// Most members read; further ones are skipped. A peer sends seven.
pub const BAGGAGE_MEMBERS_MAX: usize = 64;
/// Longest value, in bytes: the longest Kubernetes name. Longer ones are left out.
pub const BAGGAGE_VALUE_MAX: usize = 253;

const CLUSTER: &str = "k8s.cluster.name";
const NAMESPACE: &str = "k8s.namespace.name";
const SERVICE: &str = "service.name";
const REVISION: &str = "service.version";
const REGION: &str = "cloud.region";
const ZONE: &str = "cloud.availability_zone";
const WORKLOAD_TYPES: [WorkloadType; 4] =
    [WorkloadType::Deployment, WorkloadType::CronJob, WorkloadType::Pod, WorkloadType::Job];

/// What a node proxy tells about one of its workloads. An empty text is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// Cluster.
    pub cluster: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Kind of the owner; meaningful only if `workload_name` is not empty.
    pub workload_type: WorkloadType,
    /// Name of the owner.
    pub workload_name: Arc<str>,
    /// Canonical service name.
    pub service: Arc<str>,
    /// Canonical revision.
    pub revision: Arc<str>,
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
}

impl Baggage {
    /// What is told about a workload.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        Self {
            cluster: workload.cluster.clone(),
            namespace: workload.key.namespace.clone(),
            workload_type: workload.workload_type,
            workload_name: workload.workload_name.clone(),
            service: workload.canonical_name.clone(),
            revision: workload.canonical_revision.clone(),
            region: workload.locality.region.clone(),
            zone: workload.locality.zone.clone(),
        }
    }

    /// A workload that this node knows from its own node's words alone, for reports. Who it is, the
    /// certificate says. `None` if nothing is told.
    #[must_use]
    pub fn workload(&self, identity: &SpiffeId) -> Option<Workload> {
        if *self == Self::default() {
            return None;
        }
        Some(Workload {
            uid: WorkloadUid("".into()),
            key: WorkloadKey {
                namespace: identity.namespace().into(),
                name: self.workload_name.clone(),
                service_account: identity.service_account().into(),
            },
            trust_domain: TrustDomain::parse(identity.trust_domain()).unwrap_or_default(),
            addresses: Vec::new(),
            network: Network::default(),
            protocol: TunnelProtocol::Hbone,
            network_mode: NetworkMode::Standard,
            node: "".into(),
            cluster: self.cluster.clone(),
            canonical_name: self.service.clone(),
            canonical_revision: self.revision.clone(),
            workload_type: self.workload_type,
            workload_name: self.workload_name.clone(),
            health: Health::Healthy,
            locality: Locality {
                region: self.region.clone(),
                zone: self.zone.clone(),
                subzone: "".into(),
            },
            policies: Vec::new(),
            services: ServedServices::default(),
            capacity: 0,
            native_tunnel: false,
            waypoint: None,
            network_gateway: None,
            application_tunnel: None,
            hostname: None,
        })
    }

    /// The header's value, in Istio's order; empty if nothing is known.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(256);
        let mut put = |key: &str, value: &str| {
            if is_sendable(value) {
                let comma = if out.is_empty() { "" } else { "," };
                // Writing to a String cannot fail.
                let _ = write!(out, "{comma}{key}={value}");
            }
        };
        put(CLUSTER, &self.cluster);
        put(NAMESPACE, &self.namespace);
        put(workload_key(self.workload_type), &self.workload_name);
        put(SERVICE, &self.service);
        put(REVISION, &self.revision);
        put(REGION, &self.region);
        put(ZONE, &self.zone);
        out
    }

    /// Reads what is known in a header; never fails. The first of two equal keys counts.
    #[must_use]
    pub fn parse(header: &[u8]) -> Self {
        let mut baggage = Self::default();
        let header = &header[..header.len().min(BAGGAGE_MAX)];
        for member in header.split(|b| *b == b',').take(BAGGAGE_MEMBERS_MAX) {
            // Properties after a semicolon are allowed, and mean nothing here.
            let member = member.split(|b| *b == b';').next().unwrap_or_default();
            let Ok(member) = str::from_utf8(member) else { continue };
            let Some((key, value)) = member.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            if is_sendable(value) {
                baggage.set(key, value);
            }
        }
        baggage
    }

    fn set(&mut self, key: &str, value: &str) {
        let slot = match key {
            CLUSTER => &mut self.cluster,
            NAMESPACE => &mut self.namespace,
            SERVICE => &mut self.service,
            REVISION => &mut self.revision,
            REGION => &mut self.region,
            ZONE => &mut self.zone,
            _ => {
                let Some(kind) = WORKLOAD_TYPES.into_iter().find(|t| workload_key(*t) == key)
                else {
                    return;
                };
                if self.workload_name.is_empty() {
                    self.workload_type = kind;
                }
                &mut self.workload_name
            }
        };
        if slot.is_empty() {
            *slot = value.into();
        }
    }
}

fn workload_key(kind: WorkloadType) -> &'static str {
    match kind {
        WorkloadType::Deployment => "k8s.deployment.name",
        WorkloadType::CronJob => "k8s.cronjob.name",
        WorkloadType::Pod => "k8s.pod.name",
        WorkloadType::Job => "k8s.job.name",
    }
}

/// Is the value worth sending, and made of baggage octets only (W3C Baggage, section 3.3.1.3)?
fn is_sendable(value: &str) -> bool {
    (1..=BAGGAGE_VALUE_MAX).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,\
        k8s.deployment.name=cart,service.name=cart,service.version=v1,cloud.region=r1,\
        cloud.availability_zone=z1";

    fn full() -> Baggage {
        Baggage {
            cluster: "Kubernetes".into(),
            namespace: "shop".into(),
            workload_type: WorkloadType::Deployment,
            workload_name: "cart".into(),
            service: "cart".into(),
            revision: "v1".into(),
            region: "r1".into(),
            zone: "z1".into(),
        }
    }

    #[test]
    fn order_is_istios() {
        assert_eq!(full().encode(), GOLDEN);
        assert_eq!(Baggage::parse(GOLDEN.as_bytes()), full());
        assert_eq!(Baggage::default().encode(), "");
    }

    #[test]
    fn a_workload_known_by_its_words_has_the_certificates_identity() {
        let id = SpiffeId::parse("spiffe://td/ns/true/sa/account").expect("valid");
        let told = full().workload(&id).expect("told");
        assert_eq!(told.identity(), Ok(id.clone()));
        let claimed = Baggage { namespace: "true".into(), ..full() };
        assert_eq!(Baggage::of(&told), claimed);
        assert_eq!(Baggage::default().workload(&id), None);
    }

    #[test]
    fn keys_of_the_kinds() {
        for kind in WORKLOAD_TYPES {
            let one =
                Baggage { workload_type: kind, workload_name: "w".into(), ..Baggage::default() };
            assert_eq!(one.encode(), format!("k8s.{}.name=w", kind.as_str()));
            assert_eq!(Baggage::parse(one.encode().as_bytes()), one);
        }
    }

    #[test]
    fn unsafe_values_are_left_out() {
        for bad in ["", "a,b", "a\r\nx: y", "a b", "a;b", "\"a\"", "ü", "a\0", &"x".repeat(254)] {
            let baggage = Baggage { cluster: bad.into(), zone: "z".into(), ..Baggage::default() };
            assert_eq!(baggage.encode(), "cloud.availability_zone=z", "{bad}");
        }
    }

    #[test]
    fn parser_skips_what_it_does_not_know() {
        let text = b" k8s.namespace.name = shop ;p=1,junk,=,a=b,k8s.namespace.name=second,\xff=1,\
            service.name=,k8s.job.name=j,k8s.pod.name=p";
        let baggage = Baggage::parse(text);
        assert_eq!(&*baggage.namespace, "shop");
        assert_eq!(&*baggage.service, "");
        assert_eq!((&*baggage.workload_name, baggage.workload_type), ("j", WorkloadType::Job));
        let late = format!("{}service.name=x", "a=b,".repeat(BAGGAGE_MEMBERS_MAX));
        assert_eq!(Baggage::parse(late.as_bytes()), Baggage::default());
    }

    proptest! {
        #[test]
        fn never_panics(header in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let once = Baggage::parse(&header);
            prop_assert_eq!(Baggage::parse(once.encode().as_bytes()).encode(), once.encode());
        }

        #[test]
        fn round_trip(v in proptest::array::uniform7("[!#-+\\--:<-\\[\\]-~]{0,40}"), kind in 0..4_usize) {
            let [cluster, namespace, workload_name, service, revision, region, zone] =
                v.map(Arc::<str>::from);
            let workload_type =
                if workload_name.is_empty() { WorkloadType::default() } else { WORKLOAD_TYPES[kind] };
            let baggage = Baggage {
                cluster, namespace, workload_type, workload_name, service, revision, region, zone,
            };
            prop_assert_eq!(Baggage::parse(baggage.encode().as_bytes()), baggage);
        }
    }
}
