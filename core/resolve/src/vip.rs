//! Virtual addresses of one network: exact ones, and blocks by prefix length.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::ServiceName;

use crate::claims::Claims;
use crate::endpoints::ServiceEntry;
use crate::sharded::Sharded;

/// An index of virtual addresses. Claims are sorted by service name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vips {
    exact: Sharded<IpAddr, Claims<ServiceEntry>>,
    blocks: Sharded<IpNet, Claims<ServiceEntry>>,
    /// Blocks of each prefix length that occurs: at most 33 and 129 lengths.
    v4_lengths: BTreeMap<u8, usize>,
    v6_lengths: BTreeMap<u8, usize>,
}

/// One virtual address, as it is indexed.
enum Vip {
    Exact(IpAddr),
    Block(IpNet),
}

impl Vip {
    fn of(net: IpNet) -> Self {
        let net = net.trunc();
        if net.prefix_len() == net.max_prefix_len() {
            Self::Exact(net.addr().to_canonical())
        } else {
            Self::Block(net)
        }
    }
}

impl Vips {
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.blocks.is_empty()
    }

    pub(crate) fn insert(&mut self, net: IpNet, entry: &Arc<ServiceEntry>) {
        let add = |claims: &mut Claims<ServiceEntry>| {
            claims.add(entry.clone(), |one, other| one.dialled.name.cmp(&other.dialled.name))
        };
        match Vip::of(net) {
            Vip::Exact(ip) => self.exact.update(&ip, add),
            Vip::Block(net) => {
                if self.blocks.get(&net).is_none() {
                    *self.lengths_mut(net).entry(net.prefix_len()).or_default() += 1;
                }
                self.blocks.update(&net, add);
            }
        }
    }

    pub(crate) fn remove(&mut self, net: IpNet, name: &ServiceName) {
        let take = |claims: &mut Claims<ServiceEntry>| claims.take(|one| one.dialled.name == *name);
        match Vip::of(net) {
            Vip::Exact(ip) => self.exact.update(&ip, take),
            Vip::Block(net) => {
                let before = self.blocks.get(&net).is_some();
                self.blocks.update(&net, take);
                if before && self.blocks.get(&net).is_none() {
                    let lengths = self.lengths_mut(net);
                    let left = lengths.get(&net.prefix_len()).map_or(0, |count| count - 1);
                    match left {
                        0 => drop(lengths.remove(&net.prefix_len())),
                        left => drop(lengths.insert(net.prefix_len(), left)),
                    }
                }
            }
        }
    }

    fn lengths_mut(&mut self, net: IpNet) -> &mut BTreeMap<u8, usize> {
        match net {
            IpNet::V4(_) => &mut self.v4_lengths,
            IpNet::V6(_) => &mut self.v6_lengths,
        }
    }

    /// The service with exactly that address, as a client of `namespace` sees it.
    pub(crate) fn exact(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<ServiceEntry>> {
        let claims = self.exact.get(&ip)?.all();
        let mut seen = claims.iter().filter(|entry| entry.seen_from(namespace));
        if claims.len() == 1 {
            // Nearly always, and then nothing need be compared.
            return seen.next();
        }
        first_best(seen.map(|entry| ((entry.is_of(namespace), entry.canonical), entry)))
    }

    /// The service with a block around that address, as a client of `namespace` sees it: one of
    /// its own namespace before the narrowest block, before the canonical service.
    pub(crate) fn block(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<ServiceEntry>> {
        let lengths = match ip {
            IpAddr::V4(_) => &self.v4_lengths,
            IpAddr::V6(_) => &self.v6_lengths,
        };
        // One look-up for each length that occurs, the longest first.
        let ranked = lengths.keys().rev().flat_map(|length| {
            let net = IpNet::new(ip, *length).ok().map(|net| net.trunc());
            let claims = net.and_then(|net| self.blocks.get(&net)).map(Claims::all);
            let seen = claims.into_iter().flatten().filter(|entry| entry.seen_from(namespace));
            seen.map(|entry| ((entry.is_of(namespace), *length, entry.canonical), entry))
        });
        first_best(ranked)
    }
}

/// The first of those with the highest rank.
pub(crate) fn first_best<R: Ord, T>(ranked: impl Iterator<Item = (R, T)>) -> Option<T> {
    let best = ranked.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, value)| value)
}
