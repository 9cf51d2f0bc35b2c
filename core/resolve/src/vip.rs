//! Virtual addresses of one network: exact ones, and blocks by prefix length.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::Visibility;

use crate::snapshot::ServiceEntry;

/// An index of virtual addresses. Lists are sorted by service name.
#[derive(Debug, Default)]
pub(crate) struct Vips {
    exact: HashMap<IpAddr, Vec<Arc<ServiceEntry>>>,
    blocks: HashMap<IpNet, Vec<Arc<ServiceEntry>>>,
    /// Prefix lengths that occur, longest first: at most 33 and 129.
    v4_lengths: Vec<u8>,
    v6_lengths: Vec<u8>,
}

impl Vips {
    /// Services must come sorted by name.
    pub(crate) fn insert(&mut self, net: IpNet, entry: &Arc<ServiceEntry>) {
        let net = net.trunc();
        let list = if net.prefix_len() == net.max_prefix_len() {
            self.exact.entry(net.addr().to_canonical()).or_default()
        } else {
            let lengths = match net {
                IpNet::V4(_) => &mut self.v4_lengths,
                IpNet::V6(_) => &mut self.v6_lengths,
            };
            if !lengths.contains(&net.prefix_len()) {
                lengths.push(net.prefix_len());
                lengths.sort_unstable_by(|a, b| b.cmp(a));
            }
            self.blocks.entry(net).or_default()
        };
        list.push(entry.clone());
    }

    /// The service with exactly that address, as a client of `namespace` sees it.
    pub(crate) fn exact(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<ServiceEntry>> {
        let candidates = visible(self.exact.get(&ip)?, namespace);
        let ranked = candidates.map(|e| ((of_namespace(e, namespace), e.service.canonical), e));
        first_best(ranked)
    }

    /// The service with a block around that address, as a client of `namespace` sees it: one of
    /// its own namespace before the narrowest block, before the canonical service.
    pub(crate) fn block(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<ServiceEntry>> {
        let lengths = match ip {
            IpAddr::V4(_) => &self.v4_lengths,
            IpAddr::V6(_) => &self.v6_lengths,
        };
        let ranked = lengths.iter().flat_map(|length| {
            let net = IpNet::new(ip, *length).ok().map(|net| net.trunc());
            let list = net.and_then(|net| self.blocks.get(&net));
            let candidates = list.into_iter().flat_map(|list| visible(list, namespace));
            candidates.map(|e| ((of_namespace(e, namespace), *length, e.service.canonical), e))
        });
        first_best(ranked)
    }
}

fn visible<'v>(
    list: &'v [Arc<ServiceEntry>],
    namespace: &str,
) -> impl Iterator<Item = &'v Arc<ServiceEntry>> {
    list.iter().filter(move |entry| match entry.service.visibility {
        Visibility::Public => true,
        Visibility::Namespace => of_namespace(entry, namespace),
    })
}

fn of_namespace(entry: &ServiceEntry, namespace: &str) -> bool {
    *entry.service.name.namespace == *namespace
}

/// The first of those with the highest rank.
fn first_best<'v, R: Ord>(
    ranked: impl Iterator<Item = (R, &'v Arc<ServiceEntry>)>,
) -> Option<&'v Arc<ServiceEntry>> {
    let best = ranked.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, entry)| entry)
}
