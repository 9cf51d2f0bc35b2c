//! Looking at a network whose gateways are others now.

use std::collections::HashMap;

use cluster::{Kind, ObjectKey, ObjectName, Text};

use super::Translator;
use crate::networks::NetworkGateway;
use crate::problem::{Part, Problem};
use crate::workload::network_gateway;

impl Translator {
    /// Replaces what a gateway is for other networks.
    pub(super) fn set_network_gateway(&mut self, key: &ObjectKey, new: Option<NetworkGateway>) {
        if new.is_none() {
            self.out.problems.set(key, Part::Endpoints, Vec::new());
        }
        self.dirty.networks.extend(self.world.networks.set(&key.name, new));
    }

    /// What is sent of a network's gateways, and of the endpoints behind them.
    pub(super) fn look_at_network(&mut self, network: &Text) {
        let world = &self.world;
        let mut addresses = Vec::new();
        let mut owners: HashMap<_, &ObjectName> = HashMap::new();
        for gateway in world.networks.gateways(network) {
            let mut problems = Vec::new();
            for end in &gateway.ends {
                if let Some(owner) = owners.get(end) {
                    let to = ObjectKey { kind: Kind::Gateway, name: (*owner).clone() };
                    problems.push(Problem::GatewayTaken { address: end.to_string(), to });
                    continue;
                }
                owners.insert(end, &gateway.name);
                addresses.extend(network_gateway(world, gateway, end, &mut problems));
            }
            let key = ObjectKey { kind: Kind::Gateway, name: gateway.name.clone() };
            self.out.problems.set(&key, Part::Endpoints, problems);
        }
        let names: Vec<Text> = addresses.iter().map(|address| address.name.clone()).collect();
        let before = if names.is_empty() {
            self.out.network_gateways.remove(network)
        } else {
            self.out.network_gateways.insert(network.clone(), names)
        };
        self.republish(before, addresses);
        if self.world.networks.choose(network) {
            for key in self.world.networks.users(network) {
                self.dirty.add_workloads(key);
            }
        }
    }
}
