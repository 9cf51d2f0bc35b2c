//! Addresses, blocks of addresses, ports and gateways: what several resources have in common.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use model::{Gateway, GatewayDestination, Network, NetworkAddress, PortMapping, ServiceName};
use proto::workload as wire;

use super::intern::Interner;
use super::invalid::{Invalid, Problem, Within};
use super::text::text;

/// Bits by which the prefix of a v4-mapped IPv6 block exceeds that of the IPv4 block it stands for.
const MAPPED_BITS: u32 = 96;

/// Four or sixteen bytes, folded to IPv4 if v4-mapped.
pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr, Problem> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let any = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    any.map(model::canonical_ip).map_err(|_| Problem::AddressBytes(bytes.len()))
}

/// A block of addresses, without host bits.
pub(super) fn block(bytes: &[u8], length: u32) -> Result<IpNet, Invalid> {
    let address = ip(bytes).within("address")?;
    // A v4-mapped block is a block of IPv4 addresses, or else it is not one at all.
    let mapped = address.is_ipv4() && bytes.len() == 16;
    let bits = if mapped { length.checked_sub(MAPPED_BITS) } else { Some(length) };
    let bits = bits.and_then(|bits| u8::try_from(bits).ok());
    let net = bits.and_then(|bits| IpNet::new(address, bits).ok());
    let net = net.ok_or_else(|| Problem::Prefix { length, address }.at("length"))?;
    Ok(net.trunc())
}

/// A port, 1 to 65535.
pub(super) fn port(number: u32) -> Result<NonZeroU16, Problem> {
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    port.ok_or(Problem::Port(number.into()))
}

/// A port, or `None` for 0.
pub(super) fn port_or_unset(number: u32) -> Result<Option<NonZeroU16>, Problem> {
    match number {
        0 => Ok(None),
        number => port(number).map(Some),
    }
}

/// Port mappings by service port. Kubernetes has one for TCP and one for UDP under the same
/// number; the last counts, as in Istio's ztunnel.
pub(super) fn ports(list: &[wire::Port]) -> Result<Vec<PortMapping>, Invalid> {
    let mut mappings = BTreeMap::new();
    for (index, entry) in list.iter().enumerate() {
        let mapping = mapping(entry).item("ports", index)?;
        mappings.insert(mapping.service_port, mapping);
    }
    Ok(mappings.into_values().collect())
}

fn mapping(entry: &wire::Port) -> Result<PortMapping, Invalid> {
    Ok(PortMapping {
        service_port: port(entry.service_port).within("service_port")?,
        target_port: port_or_unset(entry.target_port).within("target_port")?,
    })
}

/// A waypoint or a gateway to another network.
pub(super) fn gateway(
    interner: &mut Interner,
    wire: &wire::GatewayAddress,
) -> Result<Gateway, Invalid> {
    use wire::gateway_address::Destination;
    let destination = match &wire.destination {
        None => return Err(Problem::Missing.at("destination")),
        Some(Destination::Hostname(name)) => {
            let name = service_name(interner, &name.namespace, &name.hostname);
            GatewayDestination::Service(name.within("hostname")?)
        }
        Some(Destination::Address(address)) => {
            GatewayDestination::Address(network_address(interner, address).within("address")?)
        }
    };
    let hbone_port = port(wire.hbone_mtls_port).within("hbone_mtls_port")?;
    Ok(Gateway { destination, hbone_port })
}

fn network_address(
    interner: &mut Interner,
    wire: &wire::NetworkAddress,
) -> Result<NetworkAddress, Invalid> {
    let ip = match wire.length {
        None => ip(&wire.address).within("address")?,
        Some(length) => {
            let net = block(&wire.address, length)?;
            // A gateway is one address.
            if net.prefix_len() != net.max_prefix_len() {
                return Err(Problem::Prefix { length, address: net.addr() }.at("length"));
            }
            net.addr()
        }
    };
    Ok(NetworkAddress { network: Network(text(interner, &wire.network).within("network")?), ip })
}

/// A service's name from its two parts.
pub(super) fn service_name(
    interner: &mut Interner,
    namespace: &str,
    hostname: &str,
) -> Result<ServiceName, Invalid> {
    if namespace.is_empty() || hostname.is_empty() || hostname.contains('/') {
        return Err(Problem::key(&format!("{namespace}/{hostname}")).into());
    }
    Ok(ServiceName { namespace: text(interner, namespace)?, hostname: text(interner, hostname)? })
}
