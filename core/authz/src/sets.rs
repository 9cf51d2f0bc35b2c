//! Sets that answer in logarithmic time, built once when a policy arrives.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use model::SpiffeId;

use crate::policy::{ServiceAccount, StringMatch};

/// Patterns, of which any may match.
#[derive(Debug, Default)]
pub(crate) struct Strings {
    /// Sorted.
    exact: Box<[Box<str>]>,
    prefixes: Affixes,
    suffixes: Affixes,
    presence: bool,
}

impl Strings {
    pub(crate) fn new(patterns: &[StringMatch]) -> Self {
        let mut presence = false;
        let (mut exact, mut prefixes, mut suffixes) = (Vec::new(), Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                StringMatch::Exact(text) => exact.push(Box::from(&**text)),
                StringMatch::Prefix(text) => prefixes.push(text.bytes().collect()),
                StringMatch::Suffix(text) => suffixes.push(text.bytes().rev().collect()),
                StringMatch::Presence => presence = true,
            }
        }
        Self {
            exact: sorted(exact),
            prefixes: Affixes::new(prefixes),
            suffixes: Affixes::new(suffixes),
            presence,
        }
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        (self.presence && !text.is_empty())
            || self.exact.binary_search_by(|exact| (**exact).cmp(text)).is_ok()
            || self.prefixes.any_begins(text.bytes())
            || self.suffixes.any_begins(text.bytes().rev())
    }
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Box<[T]> {
    values.sort_unstable();
    values.dedup();
    values.into_boxed_slice()
}

/// Ports, sorted.
#[derive(Debug, Default)]
pub(crate) struct Ports(Box<[u16]>);

impl Ports {
    pub(crate) fn new(ports: &[u16]) -> Self {
        Self(sorted(ports.to_vec()))
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        self.0.binary_search(&port).is_ok()
    }
}

/// Service accounts, sorted by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Accounts(Box<[(Box<str>, Box<str>)]>);

impl Accounts {
    pub(crate) fn new(accounts: &[ServiceAccount]) -> Self {
        let pair =
            |account: &ServiceAccount| (Box::from(&*account.namespace), Box::from(&*account.name));
        Self(sorted(accounts.iter().map(pair).collect()))
    }

    pub(crate) fn contains(&self, id: &SpiffeId) -> bool {
        let wanted = (id.namespace(), id.service_account());
        self.0.binary_search_by(|(namespace, name)| (&**namespace, &**name).cmp(&wanted)).is_ok()
    }
}

/// Sorted strings, none of which begins with another, so that at most one can begin a given
/// string: the greatest that is not after it.
#[derive(Debug, Default)]
struct Affixes(Box<[Box<[u8]>]>);

impl Affixes {
    fn new(mut affixes: Vec<Box<[u8]>>) -> Self {
        affixes.sort_unstable();
        // The shortest of a family sorts first and stands for the rest.
        affixes.dedup_by(|longer, kept| longer.starts_with(kept));
        Self(affixes.into_boxed_slice())
    }

    fn any_begins(&self, text: impl Iterator<Item = u8> + Clone) -> bool {
        let after = self.0.partition_point(|affix| affix.iter().copied().le(text.clone()));
        let candidate = after.checked_sub(1).and_then(|last| self.0.get(last));
        candidate.is_some_and(|affix| {
            let mut text = text;
            affix.iter().all(|byte| text.next() == Some(*byte))
        })
    }
}

/// Address blocks, of which any may hold an address. A v4-mapped block counts as IPv4.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Blocks {
    pub(crate) fn new(blocks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for block in blocks {
            match fold_block(*block) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// `ip` may be v4-mapped.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.contains(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.contains(ip.to_bits()),
        }
    }
}

/// A block within `::ffff:0:0/96` as the IPv4 block it stands for.
fn fold_block(block: IpNet) -> IpNet {
    let IpNet::V6(net) = block else { return block };
    let folded = net.addr().to_ipv4_mapped().zip(net.prefix_len().checked_sub(96));
    match folded.and_then(|(ip, length)| Ipv4Net::new(ip, length).ok()) {
        Some(net) => IpNet::V4(net),
        None => block,
    }
}

/// Sorted ranges; both ends belong to them. Overlapping ones are merged.
#[derive(Debug)]
struct Ranges<T>(Box<[(T, T)]>);

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T: Ord + Copy> Ranges<T> {
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let overlaps = next.0 <= kept.1;
            if overlaps {
                kept.1 = kept.1.max(next.1);
            }
            overlaps
        });
        Self(ranges.into_boxed_slice())
    }

    fn contains(&self, value: T) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= value);
        let candidate = after.checked_sub(1).and_then(|last| self.0.get(last));
        candidate.is_some_and(|(_, end)| value <= *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_affix_stands_for_its_family() {
        let patterns: Vec<_> =
            ["ab", "abc", "b", "a"].map(|text| StringMatch::Prefix(text.into())).to_vec();
        let set = Strings::new(&patterns);
        assert_eq!(set.prefixes.0.len(), 2);
        for (text, expected) in [("a", true), ("abz", true), ("bx", true), ("c", false)] {
            assert_eq!(set.contains(text), expected, "{text}");
        }
        assert!(!set.contains(""));
        assert!(Strings::new(&[StringMatch::Prefix("".into())]).contains(""));
    }

    #[test]
    fn mapped_blocks_and_addresses_count_as_v4() {
        let parse = |text: &str| text.parse::<IpNet>().expect("literal");
        let set = Blocks::new(&[parse("::ffff:10.1.0.0/112"), parse("fd00::/8")]);
        for (ip, expected) in [
            ("10.1.255.255", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.0", false),
            ("fdff::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(set.contains(ip.parse().expect("literal")), expected, "{ip}");
        }
        let all = Blocks::new(&[parse("0.0.0.0/0")]);
        assert!(all.contains("255.255.255.255".parse().expect("literal")));
        assert!(!all.contains("::1".parse().expect("literal")));
    }
}
