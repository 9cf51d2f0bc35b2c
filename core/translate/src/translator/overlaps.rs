//! Virtual addresses that several services have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use cluster::{ObjectKey, Text};
use ipnet::IpNet;

use crate::problem::Problem;

/// Which services have which addresses.
#[derive(Debug, Default)]
pub(super) struct Overlaps {
    by_net: BTreeMap<IpNet, BTreeSet<Text>>,
    /// By the service's name: whose it is and its addresses.
    of: HashMap<Text, (ObjectKey, Vec<IpNet>)>,
}

impl Overlaps {
    /// Replaces the addresses of a service; `None`: it is gone. Other services that had or have one
    /// of them.
    pub(super) fn set(&mut self, name: &Text, new: Option<(ObjectKey, Vec<IpNet>)>) -> Vec<Text> {
        if self.of.get(name) == new.as_ref() {
            return Vec::new();
        }
        let mut others = BTreeSet::new();
        if let Some((_, nets)) = self.of.remove(name) {
            for net in nets {
                if let Some(names) = self.by_net.get_mut(&net) {
                    names.remove(name);
                    others.extend(names.iter().cloned());
                    if names.is_empty() {
                        self.by_net.remove(&net);
                    }
                }
            }
        }
        if let Some((key, nets)) = new {
            for net in &nets {
                let names = self.by_net.entry(*net).or_default();
                others.extend(names.iter().cloned());
                names.insert(name.clone());
            }
            self.of.insert(name.clone(), (key, nets));
        }
        others.into_iter().collect()
    }

    /// Addresses of a service that one of another object has too.
    pub(super) fn problems(&self, name: &Text) -> Vec<Problem> {
        let Some((key, nets)) = self.of.get(name) else { return Vec::new() };
        let shared = nets.iter().filter_map(|net| {
            let mut others = self.by_net.get(net)?.iter();
            let is_other = |other: &&Text| self.of.get(*other).is_some_and(|(of, _)| of != key);
            let with = others.find(is_other)?.clone();
            let text = if net.prefix_len() == net.max_prefix_len() {
                net.addr().to_string()
            } else {
                net.to_string()
            };
            Some(Problem::VipShared { address: text.into(), with })
        });
        shared.collect()
    }

    /// Services that have an address to themselves.
    pub(super) fn at(&self, ip: IpAddr) -> impl Iterator<Item = &Text> {
        self.by_net.get(&IpNet::from(ip)).into_iter().flatten()
    }

    /// Whose a service is.
    pub(super) fn object(&self, name: &Text) -> Option<&ObjectKey> {
        self.of.get(name).map(|(key, _)| key)
    }
}
