//! Gateways to other networks, as what connections to such a network end at first.

use proto::workload as wire;

use super::Draft;
use crate::changes::Address;
use crate::networks::{End, NetworkGateway};
use crate::problem::Problem;
use crate::world::World;

/// One address of a gateway. Of its pods nothing is known but the account: they are of another
/// cluster.
pub(crate) fn network_gateway(
    world: &World,
    gateway: &NetworkGateway,
    end: &End,
    problems: &mut Vec<Problem>,
) -> Option<Address> {
    let NetworkGateway { name, labels, network, account, port, .. } = gateway;
    let uid = format!("NetworkGateway/{network}/{end}/{port}");
    let mut draft = Draft::new(world, uid, &name.namespace, &name.name);
    draft.set_canonical(labels, &name.name);
    let message = &mut draft.message;
    message.network = network.to_string();
    message.cluster_id = String::new();
    message.service_account = account.to_string();
    message.tunnel_protocol = wire::TunnelProtocol::Hbone.into();
    message.native_tunnel = true;
    message.workload_name = name.name.to_string();
    message.workload_type = wire::WorkloadType::Pod.into();
    match end {
        End::Ip(ip) => draft.ips.push(*ip),
        End::Host(host) => message.hostname = host.to_string(),
    }
    draft.finish(world, Vec::new(), problems)
}
