//! `workloads`: `istio.workload.Workload` as Istio's ztunnel writes it in YAML.

use std::sync::Arc;

use model::{
    Health, Locality, Network, NetworkMode, PolicyName, PortMapping, ServiceName, TrustDomain,
    TunnelProtocol, Workload, WorkloadKey, WorkloadType, WorkloadUid,
};

use crate::Defaults;
use crate::error::Collector;
use crate::gateway::{application_tunnel, gateway};
use crate::node::Node;
use crate::read::{
    Object, Path, boolean, decimal, entries, explained, host_name, ip, list, owned_text, parsed,
    port_mappings, service_name, word,
};

/// What the control plane means by an empty `serviceAccount`.
const SERVICE_ACCOUNT: &str = "default";

/// `None`: part of the shape, and not supported yet.
const PROTOCOLS: &[(&str, Option<TunnelProtocol>)] = &[
    ("TCP", Some(TunnelProtocol::None)),
    ("HBONE", Some(TunnelProtocol::Hbone)),
    ("LEGACY_ISTIO_MTLS", None),
];
const MODES: &[(&str, NetworkMode)] =
    &[("Standard", NetworkMode::Standard), ("HostNetwork", NetworkMode::HostNetwork)];
pub(crate) const STATUS: &[(&str, Health)] =
    &[("Healthy", Health::Healthy), ("Unhealthy", Health::Unhealthy)];
const TYPES: &[(&str, WorkloadType)] = &[
    ("deployment", WorkloadType::Deployment),
    ("cronjob", WorkloadType::CronJob),
    ("pod", WorkloadType::Pod),
    ("job", WorkloadType::Job),
    ("", WorkloadType::Deployment),
];

pub(crate) fn workload(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
    defaults: &Defaults,
) -> Option<Workload> {
    let mut object = Object::open(errors, node, path)?;
    let o = &mut object;
    let key = key(errors, o);
    let cluster = or_if_empty(word_text(errors, o, "clusterId"), &defaults.cluster);
    let uid = word_text(errors, o, "uid");
    let addresses = o.required(errors, "workloadIps", list(ip));
    let protocol = o.optional(errors, "protocol", protocol).unwrap_or_default();
    let network_mode = o.optional(errors, "networkMode", word(MODES)).unwrap_or_default();
    let trust_domain = o.optional(
        errors,
        "trustDomain",
        explained(|text| match text {
            "" => Ok(defaults.trust_domain.clone()),
            _ => TrustDomain::parse(text),
        }),
    );
    let network = Network(word_text(errors, o, "network"));
    let node_name = word_text(errors, o, "node");
    let canonical_name = word_text(errors, o, "canonicalName");
    let canonical_revision = word_text(errors, o, "canonicalRevision");
    let workload_type = o.optional(errors, "workloadType", word(TYPES)).unwrap_or_default();
    let workload_name = word_text(errors, o, "workloadName");
    let health = o.optional(errors, "status", word(STATUS)).unwrap_or_default();
    let locality = o.optional(errors, "locality", locality).unwrap_or_default();
    let policies = o.optional(errors, "authorizationPolicies", list(policy_name));
    let services = o.optional(errors, "services", entries(service)).unwrap_or_default();
    let capacity =
        o.optional(errors, "capacity", parsed("a number from 0 to 4294967295", decimal::<u32>));
    let native_tunnel = o.optional(errors, "nativeTunnel", boolean).unwrap_or(false);
    let waypoint = o.nullable(errors, "waypoint", gateway);
    let network_gateway = o.nullable(errors, "networkGateway", gateway);
    let application_tunnel = o.nullable(errors, "applicationTunnel", application_tunnel);
    let hostname = o.optional(errors, "hostname", parsed("a host name, or nothing", host_name));
    object.finish(errors);

    let key = key?;
    let uid = match &*uid {
        "" => format!("{cluster}//Pod/{}/{}", key.namespace, key.name).into(),
        _ => uid,
    };
    Some(Workload {
        uid: WorkloadUid(uid),
        key,
        trust_domain: trust_domain.unwrap_or_else(|| defaults.trust_domain.clone()),
        addresses: addresses?,
        network,
        protocol,
        network_mode,
        node: node_name,
        cluster,
        canonical_name,
        canonical_revision,
        workload_type,
        workload_name,
        health,
        locality,
        policies: policies.unwrap_or_default(),
        services: services.into_iter().collect(),
        capacity: capacity.unwrap_or(1),
        native_tunnel,
        waypoint,
        network_gateway,
        application_tunnel,
        hostname: hostname.filter(|name| !name.is_empty()),
    })
}

/// A text that may be absent, which is the same as empty.
fn word_text(
    errors: &mut Collector<'_>,
    object: &mut Object<'_, '_>,
    key: &'static str,
) -> Arc<str> {
    object.optional(errors, key, owned_text).unwrap_or_default().into()
}

fn or_if_empty(text: Arc<str>, default: &str) -> Arc<str> {
    if text.is_empty() { default.into() } else { text }
}

/// Namespace, name and service account, each reported under its own key.
fn key(errors: &mut Collector<'_>, object: &mut Object<'_, '_>) -> Option<WorkloadKey> {
    let part =
        |text: &str| WorkloadKey::parse(&format!("{text}/x/x")).ok().map(|key| key.namespace);
    let what = "a Kubernetes name: a-z, 0-9, - and ., at most 253 characters";
    let namespace = object.required(errors, "namespace", parsed(what, part));
    let name = object.required(errors, "name", parsed(what, part));
    let account = object.optional(
        errors,
        "serviceAccount",
        parsed(what, |text| part(if text.is_empty() { SERVICE_ACCOUNT } else { text })),
    );
    Some(WorkloadKey {
        namespace: namespace?,
        name: name?,
        service_account: account.unwrap_or_else(|| SERVICE_ACCOUNT.into()),
    })
}

fn protocol(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<TunnelProtocol> {
    let protocol = word(PROTOCOLS)(errors, node, path)?;
    if protocol.is_none() {
        errors.push(node.position, path, None, "not supported yet");
    }
    protocol
}

fn locality(errors: &mut Collector<'_>, node: &Node, path: &Path<'_>) -> Option<Locality> {
    let mut object = Object::open(errors, node, path)?;
    let locality = Locality {
        region: word_text(errors, &mut object, "region"),
        zone: word_text(errors, &mut object, "zone"),
        subzone: word_text(errors, &mut object, "subzone"),
    };
    object.finish(errors);
    Some(locality)
}

pub(crate) fn policy_name(
    errors: &mut Collector<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<PolicyName> {
    parsed("namespace/name", PolicyName::parse)(errors, node, path)
}

fn service(
    errors: &mut Collector<'_>,
    key: &str,
    node: &Node,
    path: &Path<'_>,
) -> Option<(ServiceName, Vec<PortMapping>)> {
    let name = service_name(key);
    if name.is_none() {
        errors.push(node.position, path, Some(key), "expected namespace/hostname");
    }
    let ports = port_mappings(errors, node, path);
    Some((name?, ports?))
}
