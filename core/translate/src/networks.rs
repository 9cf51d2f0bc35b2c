//! Gateways to other networks: which there are, and whose endpoints are behind them.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use cluster::gateway::GatewayAddress;
use cluster::{Gateway, GatewayClass, Labels, ObjectKey, ObjectName, ServiceEntry, Text};
use proto::workload as wire;

use crate::names;
use crate::problem::Problem;
use crate::text;
use crate::waypoint::{HBONE, HOSTNAME, IP_ADDRESS};
use crate::wire_value::{address_bytes, parse_ip};

/// Addresses of one gateway that are read, as many as its API lets it have. Those after them are left
/// out.
const ENDS_MAX: usize = 16;

/// A gateway to another network, as it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkGateway {
    pub(crate) name: ObjectName,
    /// For telemetry.
    pub(crate) labels: Labels,
    /// When it was made: the oldest counts.
    created: Text,
    /// The network that is behind it.
    pub(crate) network: Text,
    /// The service account of its pods.
    pub(crate) account: Text,
    /// Where it speaks HBONE.
    pub(crate) port: u16,
    /// Where it is reached: at least one, in the order that the gateway has.
    pub(crate) ends: Vec<End>,
}

/// Where a gateway is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Ip(IpAddr),
    Host(Text),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Host(host) => f.write_str(host),
        }
    }
}

/// Which side of the way a gateway's object describes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A gateway elsewhere, which nobody here makes.
    Remote,
    /// A gateway that is made from the object.
    EastWest,
}

impl Side {
    /// By who implements its class; a folder of manifests may lack the class.
    fn of(gateway: &Gateway, class: Option<&GatewayClass>) -> Option<Self> {
        let class_name = &*gateway.spec.gateway_class_name;
        match (class.map(|class| &*class.spec.controller_name), class_name) {
            (Some(names::REMOTE_CONTROLLER), _) | (None, names::REMOTE_CLASS) => Some(Self::Remote),
            (Some(names::EAST_WEST_CONTROLLER), _) | (None, names::EAST_WEST_CLASS) => {
                Some(Self::EastWest)
            }
            (Some(_) | None, _) => None,
        }
    }
}

/// Reads a gateway to another network than `own`. One to `own` is for others: who is in a network
/// dials it without a gateway.
pub(crate) fn read(
    own: &str,
    gateway: &Gateway,
    class: Option<&GatewayClass>,
    problems: &mut Vec<Problem>,
) -> Option<NetworkGateway> {
    let meta = &gateway.metadata;
    let side = Side::of(gateway, class)?;
    let network = meta.label(names::NETWORK).filter(|network| !network.is_empty())?;
    if !text::is_name(network) {
        problems.push(Problem::name(names::NETWORK, network));
        return None;
    }
    if network == own {
        return None;
    }
    let account = meta.annotation(names::GATEWAY_ACCOUNT).filter(|account| !account.is_empty());
    let account: Text = match (account, side) {
        (Some(account), _) if text::is_name(account) => account.into(),
        (Some(account), _) => {
            problems.push(Problem::name(names::GATEWAY_ACCOUNT, account));
            return None;
        }
        (None, Side::Remote) => format!("{}-{}", meta.name, gateway.spec.gateway_class_name).into(),
        (None, Side::EastWest) => meta.name.clone(),
    };
    let mut listeners = gateway.spec.listeners.iter();
    let listener = listeners.find(|listener| *listener.protocol == *HBONE && listener.port > 0);
    let (field, addresses) = match side {
        Side::Remote if !gateway.spec.addresses.is_empty() => {
            ("spec.addresses", &gateway.spec.addresses)
        }
        Side::Remote | Side::EastWest => ("status.addresses", &gateway.status.addresses),
    };
    let ends = ends(field, addresses, problems);
    let lacks = |what| Problem::NetworkGatewayLacks { network: network.into(), what };
    if ends.is_empty() {
        problems.push(lacks("an address"));
    }
    let Some(listener) = listener else {
        problems.push(lacks("a listener of protocol HBONE"));
        return None;
    };
    (!ends.is_empty()).then(|| NetworkGateway {
        name: meta.object_name(),
        labels: meta.labels.clone(),
        created: meta.creation_timestamp.clone(),
        network: network.into(),
        account,
        port: listener.port,
        ends,
    })
}

/// Addresses that can be used, each once. Other kinds than these two are for others to understand.
fn ends(
    field: &'static str,
    addresses: &[GatewayAddress],
    problems: &mut Vec<Problem>,
) -> Vec<End> {
    if addresses.len() > ENDS_MAX {
        let (what, found, max) = ("addresses", addresses.len(), ENDS_MAX);
        problems.push(Problem::TooManyToUse { what, found, max });
    }
    let mut ends = Vec::new();
    for GatewayAddress { kind, value } in addresses.iter().take(ENDS_MAX) {
        let is_host = || text::is_host(value) && !value.starts_with('*');
        let (end, problem) = match kind.as_deref().unwrap_or(IP_ADDRESS) {
            IP_ADDRESS => (parse_ip(value).map(End::Ip), Problem::address(field, value)),
            HOSTNAME => (is_host().then(|| End::Host(value.clone())), Problem::name(field, value)),
            _ => continue,
        };
        match end {
            Some(end) if ends.contains(&end) => {}
            Some(end) => ends.push(end),
            // It may have been found already, when it was asked whether this is a waypoint.
            None if problems.contains(&problem) => {}
            None => problems.push(problem),
        }
    }
    ends
}

impl NetworkGateway {
    /// How an endpoint of its network is reached: by the first of its addresses.
    fn destination(&self) -> Option<wire::GatewayAddress> {
        use wire::gateway_address::Destination;
        let destination = match self.ends.first()? {
            End::Ip(ip) => Destination::Address(wire::NetworkAddress {
                network: self.network.to_string(),
                address: address_bytes(*ip),
                length: None,
            }),
            End::Host(host) => Destination::Hostname(wire::NamespacedHostname {
                namespace: self.name.namespace.to_string(),
                hostname: host.to_string(),
            }),
        };
        let hbone_mtls_port = self.port.into();
        Some(wire::GatewayAddress { destination: Some(destination), hbone_mtls_port })
    }
}

/// Networks that an entry has endpoints in, by its own word.
pub(crate) fn of_endpoints(entry: &ServiceEntry) -> BTreeSet<Text> {
    let networks = entry.spec.endpoints.iter().map(|endpoint| &endpoint.network);
    networks.filter(|network| !network.is_empty()).cloned().collect()
}

/// Gateways, and who is behind them.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    gateways: HashMap<ObjectName, NetworkGateway>,
    /// When each was made and its name, by network.
    by_network: HashMap<Text, BTreeSet<(Text, ObjectName)>>,
    /// Entries that say that they, or endpoints of them, are in a network.
    users: HashMap<Text, BTreeSet<ObjectKey>>,
    /// How endpoints of a network are reached.
    destinations: HashMap<Text, wire::GatewayAddress>,
}

impl Networks {
    /// Replaces what a gateway is. The networks whose gateways are others now.
    pub(crate) fn set(&mut self, name: &ObjectName, new: Option<NetworkGateway>) -> Vec<Text> {
        if self.gateways.get(name) == new.as_ref() {
            return Vec::new();
        }
        let mut changed = Vec::new();
        if let Some(old) = self.gateways.remove(name) {
            remove(&mut self.by_network, &old.network, &(old.created, name.clone()));
            changed.push(old.network);
        }
        if let Some(new) = new {
            let order = (new.created.clone(), name.clone());
            self.by_network.entry(new.network.clone()).or_default().insert(order);
            changed.push(new.network.clone());
            self.gateways.insert(name.clone(), new);
        }
        changed
    }

    /// Gateways of a network, the oldest first; names decide between equals.
    pub(crate) fn gateways(&self, network: &str) -> impl Iterator<Item = &NetworkGateway> {
        let names = self.by_network.get(network).into_iter().flatten();
        names.filter_map(|(_, name)| self.gateways.get(name))
    }

    /// Chooses the gateway of a network: the oldest, so that another one changes nothing. Whether it is
    /// reached in another way now.
    pub(crate) fn choose(&mut self, network: &Text) -> bool {
        let new = self.gateways(network).find_map(NetworkGateway::destination);
        if self.destinations.get(network) == new.as_ref() {
            return false;
        }
        match new {
            None => self.destinations.remove(network),
            Some(new) => self.destinations.insert(network.clone(), new),
        };
        true
    }

    /// How endpoints of a network are reached.
    pub(crate) fn destination(&self, network: &str) -> Option<&wire::GatewayAddress> {
        self.destinations.get(network)
    }

    /// Replaces the networks that an entry names.
    pub(crate) fn set_user(&mut self, key: &ObjectKey, old: &BTreeSet<Text>, new: &BTreeSet<Text>) {
        for network in old.difference(new) {
            remove(&mut self.users, network, key);
        }
        for network in new.difference(old) {
            self.users.entry(network.clone()).or_default().insert(key.clone());
        }
    }

    /// Entries that name a network.
    pub(crate) fn users(&self, network: &str) -> impl Iterator<Item = &ObjectKey> {
        self.users.get(network).into_iter().flatten()
    }
}

fn remove<T: Ord>(map: &mut HashMap<Text, BTreeSet<T>>, network: &Text, one: &T) {
    if let Some(set) = map.get_mut(network) {
        set.remove(one);
        if set.is_empty() {
            map.remove(network);
        }
    }
}
