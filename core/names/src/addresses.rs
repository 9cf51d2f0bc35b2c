//! The addresses of a name's owner, as a client may use them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::{IpFamilies, Service, Workload};
use resolve::Snapshot;

use crate::Client;
use crate::host::ClusterDomain;
use crate::lookup::Owner;
use crate::question::Family;

/// Addresses in one reply: of a headless service with more endpoints, a random choice is told. As many
/// IPv6 records take 28 KiB, which fits a message with room to spare.
pub(crate) const ADDRESSES_MAX: usize = 1000;

/// Never empty: who has no address has no name here.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl Addresses {
    fn from_iter(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let mut found = Self::default();
        for address in addresses {
            match address.to_canonical() {
                IpAddr::V4(ip) => found.v4.push(ip),
                IpAddr::V6(ip) => found.v6.push(ip),
            }
        }
        found.v4.sort_unstable();
        found.v4.dedup();
        found.v6.sort_unstable();
        found.v6.dedup();
        found
    }

    fn non_empty(self) -> Option<Self> {
        let empty = self.v4.is_empty() && self.v6.is_empty();
        (!empty).then_some(self)
    }

    /// Those of one family, each once.
    pub(crate) fn of_family(self, family: Family) -> Vec<IpAddr> {
        match family {
            Family::V4 => self.v4.into_iter().map(IpAddr::from).collect(),
            Family::V6 => self.v6.into_iter().map(IpAddr::from).collect(),
        }
    }
}

/// The addresses of an owner; `None` when it has none for this client, in either family: what the name
/// means then, the resolver that was asked knows better.
pub(crate) fn of(
    snapshot: &Snapshot,
    client: &Client<'_>,
    domain: &ClusterDomain,
    owner: &Owner<'_>,
) -> Option<Addresses> {
    match owner {
        Owner::Service(service) if service.addresses.is_empty() => {
            // Without a virtual address, only Kubernetes' own services stand for their endpoints.
            domain.holds(&service.name.hostname).then_some(())?;
            endpoints(snapshot, client, service, |_| true)
        }
        Owner::Service(service) => {
            let virtuals = service.addresses.iter().filter(|address| {
                let net = address.net;
                address.network == *client.network && net.prefix_len() == net.max_prefix_len()
            });
            Addresses::from_iter(virtuals.map(|address| address.net.addr())).non_empty()
        }
        Owner::Pod { service, pod } if service.addresses.is_empty() => {
            let namespace = &service.name.namespace;
            endpoints(snapshot, client, service, |workload| {
                *workload.key.name == **pod && workload.key.namespace == *namespace
            })
        }
        Owner::Pod { .. } => None,
    }
}

fn endpoints(
    snapshot: &Snapshot,
    client: &Client<'_>,
    service: &Service,
    wanted: impl Fn(&Workload) -> bool,
) -> Option<Addresses> {
    let may = |workload: &Workload| workload.network == *client.network && wanted(workload);
    let offered = |ip: &IpAddr| match service.ip_families {
        IpFamilies::Automatic | IpFamilies::Dual => true,
        IpFamilies::V4 => ip.is_ipv4(),
        IpFamilies::V6 => ip.is_ipv6(),
    };
    let workloads = snapshot.endpoints_of(&service.name).filter(|workload| may(workload));
    let addresses = workloads.flat_map(|workload| workload.addresses.iter().copied());
    Addresses::from_iter(addresses.filter(offered)).non_empty()
}

/// Puts the addresses into an order that `random` decides, and drops those beyond [`ADDRESSES_MAX`].
pub(crate) fn shuffle(addresses: &mut Vec<IpAddr>, random: u64) {
    let mut state = random;
    // Fisher-Yates; beyond the bound nothing needs an order.
    for at in 0..addresses.len().min(ADDRESSES_MAX) {
        let left = u64::try_from(addresses.len().saturating_sub(at)).unwrap_or(1);
        let step = usize::try_from(mix(&mut state) % left).unwrap_or(0);
        addresses.swap(at, at.saturating_add(step));
    }
    addresses.truncate(ADDRESSES_MAX);
}

/// `SplitMix64` (Steele, Lea, Flood 2014; public domain).
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
