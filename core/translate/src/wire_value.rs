//! Parts of messages that several resources have.

use std::net::IpAddr;

use cluster::{Labels, Text};
use ipnet::IpNet;
use prost::bytes::Bytes;
use proto::workload as wire;

/// 4 or 16 bytes.
pub(crate) fn address_bytes(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

/// An address or a block of them.
pub(crate) fn network_address(network: &str, net: IpNet) -> wire::NetworkAddress {
    let is_one = net.prefix_len() == net.max_prefix_len();
    wire::NetworkAddress {
        network: network.to_owned(),
        address: address_bytes(net.network()),
        length: (!is_one).then(|| net.prefix_len().into()),
    }
}

/// What an address is asked for by.
pub(crate) fn alias(network: &str, ip: IpAddr) -> Text {
    format!("{network}/{ip}").into()
}

/// `namespace/hostname`.
pub(crate) fn service_name(namespace: &str, host: &str) -> String {
    format!("{namespace}/{host}")
}

/// The value of the first label that is there.
pub(crate) fn first_label<'l>(labels: &'l Labels, keys: &[&str]) -> Option<&'l str> {
    keys.iter().find_map(|key| labels.get(key)).filter(|value| !value.is_empty())
}

/// An address, IPv4 if it is one in an IPv6 form. The one that means any is none.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    let ip = text.parse::<IpAddr>().ok().map(model::canonical_ip);
    ip.filter(|ip| !ip.is_unspecified())
}

/// An address or a block, without the bits that a block does not have.
pub(crate) fn parse_net(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        // A block of IPv4 addresses in their IPv6 form is none of either.
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => None,
        Ok(net) => Some(net.trunc()),
        Err(_) => parse_ip(text).map(IpNet::from),
    }
}
