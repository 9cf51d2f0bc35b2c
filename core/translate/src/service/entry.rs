//! Service entries: a service for each host.

use std::net::IpAddr;

use cluster::service_entry::{Resolution, ServiceEntryPort};
use cluster::{ServiceEntry, Text};
use ipnet::IpNet;
use proto::workload as wire;

use super::{Translated, balancing, bounded, ingress_use_waypoint};
use crate::changes::Assignment;
use crate::condition::Condition;
use crate::names;
use crate::problem::Problem;
use crate::service::protocol;
use crate::settings::EntryVisibility;
use crate::text;
use crate::waypoint::{Binding, Traffic, bind, condition};
use crate::wire_value::{network_address, parse_ip, parse_net, service_name};
use crate::world::World;

/// Hosts of one entry that are published. Those after them are left out.
const HOSTS_MAX: usize = 4096;
/// Identities of one service that an agent reads. An entry with more is published with none of
/// them, so that its endpoints are believed less rather than more.
const IDENTITIES_MAX: usize = 4096;

/// Where a host's addresses are from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Vip {
    /// The entry or its status says so, or it has none.
    Own(Vec<IpNet>),
    /// They are given to it.
    Automatic,
}

/// Hosts that an entry claims, each once.
pub(crate) fn hosts(entry: &ServiceEntry, problems: &mut Vec<Problem>) -> Vec<Text> {
    const FIELD: &str = "spec.hosts";
    let mut hosts: Vec<Text> = Vec::new();
    for host in &entry.spec.hosts {
        if !text::is_host(host) {
            problems.push(Problem::name(FIELD, host));
        } else if hosts.contains(host) {
            problems.push(Problem::twice(FIELD, host));
        } else if hosts.len() >= HOSTS_MAX {
            let found = entry.spec.hosts.len();
            problems.push(Problem::TooMany { what: "hosts", found, max: HOSTS_MAX });
            break;
        } else {
            hosts.push(host.clone());
        }
    }
    hosts
}

/// Whether a host of an entry may have an automatic address at all.
fn is_eligible(entry: &ServiceEntry, host: &str) -> bool {
    let opts_out = entry.metadata.label(names::AUTOALLOCATE) == Some("false");
    let resolution = entry.spec.resolution;
    let is_wildcard = host.starts_with('*');
    !opts_out
        && entry.spec.addresses.is_empty()
        && resolution != Resolution::None
        && (!is_wildcard || resolution == Resolution::DynamicDns)
}

/// Addresses that an entry's status names for a host.
pub(crate) fn pins(entry: &ServiceEntry, host: &str) -> Vec<IpAddr> {
    if !is_eligible(entry, host) {
        return Vec::new();
    }
    let of_host = entry.status.addresses.iter().filter(|assigned| {
        assigned.host.as_deref().is_none_or(|named| named.is_empty() || named == host)
    });
    let mut pins: Vec<IpAddr> = of_host.filter_map(|assigned| parse_ip(&assigned.value)).collect();
    pins.sort_unstable();
    pins.dedup();
    pins
}

/// Whether a host has to be given an address.
pub(crate) fn wants_address(entry: &ServiceEntry, host: &str) -> bool {
    is_eligible(entry, host) && pins(entry, host).is_empty()
}

fn vip(entry: &ServiceEntry, host: &str, problems: &mut Vec<Problem>) -> Vip {
    if wants_address(entry, host) {
        return Vip::Automatic;
    }
    if entry.spec.addresses.is_empty() {
        return Vip::Own(pins(entry, host).into_iter().map(IpNet::from).collect());
    }
    let mut nets: Vec<IpNet> = Vec::new();
    for text in &entry.spec.addresses {
        match parse_net(text) {
            None => problems.push(Problem::block("spec.addresses", text)),
            Some(net) if nets.contains(&net) => {}
            Some(net) => nets.push(net),
        }
    }
    Vip::Own(bounded(nets, problems))
}

/// Ports that carry connections.
pub(crate) fn tcp_ports(entry: &ServiceEntry) -> impl Iterator<Item = &ServiceEntryPort> {
    let ports = entry.spec.ports.iter();
    ports.filter(|port| !port.protocol.eq_ignore_ascii_case("UDP") && port.number > 0)
}

/// The service of one host of an entry.
pub(crate) fn entry(
    world: &World,
    entry: &ServiceEntry,
    host: &Text,
    canonical: bool,
) -> Translated {
    let meta = &entry.metadata;
    let namespace = world.store.namespace(&meta.namespace);
    let mut problems = Vec::new();
    if entry.spec.ports.iter().any(|port| port.number == 0) {
        problems.push(Problem::Port { field: "spec.ports" });
    }
    let nets = match vip(entry, host, &mut problems) {
        Vip::Own(nets) => nets,
        Vip::Automatic => {
            let given = world.vips.get(&service_name(&meta.namespace, host));
            if given.is_none() {
                problems.push(Problem::NoAddressLeft { host: host.clone() });
            }
            given.into_iter().flatten().map(IpNet::from).collect()
        }
    };
    let port = |port: &ServiceEntryPort| wire::Port {
        service_port: port.number.into(),
        target_port: target_port(port).into(),
        app_protocol: protocol::of_name(&port.protocol).into(),
    };
    let load_balancing = match entry.spec.resolution {
        Resolution::None => Some(balancing::passthrough()),
        Resolution::Static
        | Resolution::Dns
        | Resolution::DnsRoundRobin
        | Resolution::DynamicDns => balancing::of_entry(meta, namespace),
    };
    let visibility = world.visibility(entry);
    let binding = bind(world, meta, traffic(visibility));
    let message = wire::Service {
        name: meta.name.to_string(),
        namespace: meta.namespace.to_string(),
        hostname: host.to_string(),
        addresses: nets.iter().map(|net| network_address(&world.network, *net)).collect(),
        ports: tcp_ports(entry).map(port).collect(),
        subject_alt_names: identities(entry, &mut problems),
        waypoint: binding.destination(),
        load_balancing,
        canonical,
        ingress_use_waypoint: ingress_use_waypoint(meta, namespace),
        weighted_waypoints: binding.weighted(),
        visibility: wire_visibility(visibility).into(),
        ..wire::Service::default()
    };
    Translated { message, nets, problems }
}

/// The number at endpoints.
pub(crate) fn target_port(port: &ServiceEntryPort) -> u16 {
    port.target_port.filter(|number| *number > 0).unwrap_or(port.number)
}

fn identities(entry: &ServiceEntry, problems: &mut Vec<Problem>) -> Vec<String> {
    let names = &entry.spec.subject_alt_names;
    if names.len() > IDENTITIES_MAX {
        let (what, found, max) = ("subjectAltNames", names.len(), IDENTITIES_MAX);
        problems.push(Problem::TooMany { what, found, max });
        return Vec::new();
    }
    names.iter().map(ToString::to_string).collect()
}

pub(crate) fn traffic(visibility: EntryVisibility) -> Traffic {
    match visibility {
        EntryVisibility::Public => Traffic::Service,
        EntryVisibility::Namespace | EntryVisibility::None => Traffic::PrivateService,
    }
}

fn wire_visibility(visibility: EntryVisibility) -> wire::service::Visibility {
    match visibility {
        EntryVisibility::Public => wire::service::Visibility::Public,
        EntryVisibility::Namespace | EntryVisibility::None => wire::service::Visibility::Namespace,
    }
}

/// Addresses that were given to an entry's hosts.
pub(crate) fn assignments(world: &World, entry: &ServiceEntry, hosts: &[&Text]) -> Vec<Assignment> {
    let given = |host: &&Text| {
        let addresses = world.vips.get(&service_name(&entry.metadata.namespace, host))?;
        Some(Assignment { host: (*host).clone(), addresses })
    };
    hosts.iter().filter_map(given).collect()
}

/// What an entry's status says.
pub(crate) fn conditions(world: &World, entry: &ServiceEntry) -> Vec<Condition> {
    let meta = &entry.metadata;
    let visibility = world.visibility(entry);
    let mut conditions = Vec::new();
    if !world.settings.entry_visibility.is_empty() {
        conditions.push(visibility_applied(visibility));
    }
    if visibility == EntryVisibility::None {
        return conditions;
    }
    let serves_ingress = ingress_use_waypoint(meta, world.store.namespace(&meta.namespace));
    let binding = bind(world, meta, traffic(visibility));
    conditions.extend(condition(&binding, serves_ingress));
    if matches!(binding, Binding::None | Binding::Failed { .. }) {
        conditions.extend(waypoint_missing(entry));
    }
    conditions
}

fn visibility_applied(visibility: EntryVisibility) -> Condition {
    let (reason, message) = match visibility {
        EntryVisibility::Public => ("Public", "every namespace may see it"),
        EntryVisibility::Namespace => ("Namespace", "only its own namespace may see it"),
        EntryVisibility::None => ("None", "it is not published"),
    };
    Condition { kind: "istio.io/VisibilityApplied", status: true, reason, message: message.into() }
}

/// What needs a waypoint and has none.
fn waypoint_missing(entry: &ServiceEntry) -> Option<Condition> {
    let is_dynamic = entry.spec.resolution == Resolution::DynamicDns;
    let has_wildcard = entry.spec.hosts.iter().any(|host| host.starts_with('*'));
    let races = entry.metadata.annotation(names::CONNECT_STRATEGY) == Some(names::RACE_FIRST);
    let (reason, message) = if is_dynamic && has_wildcard {
        let message = "only a waypoint can tell which host of a wildcard was meant";
        ("NoWaypointForWildcardService", message)
    } else if races {
        let message = "only a waypoint can dial several addresses at once";
        ("NoWaypointForRacingConnectStrategy", message)
    } else {
        return None;
    };
    let kind = "istio.io/WaypointMissing";
    Some(Condition { kind, status: true, reason, message: message.into() })
}
