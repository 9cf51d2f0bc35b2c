//! Sets that answer in logarithmic time, built once when a policy arrives.
//!
//! The values of all sets of a policy lie one after the other in a few pools. A decision reads
//! most policies for the first time in a while, so that what it costs is the memory it touches.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use crate::policy::{ServiceAccount, StringMatch};

/// A text and its hash, computed once for a whole decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashed<'t> {
    text: &'t str,
    hash: u64,
}

impl<'t> Hashed<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, hash: hash_of(text) }
    }
}

fn hash_of(text: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::new().hash_one(text)
}

/// A position in a pool. 32 bits halve the memory that a decision touches, and are enough: a policy
/// with more values would be larger than any message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position(u32);

impl Position {
    /// The end of what was pooled so far.
    pub(crate) fn end_of<T>(pool: &[T]) -> Self {
        Self(u32::try_from(pool.len()).unwrap_or(u32::MAX))
    }

    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

pub(crate) fn between(start: Position, end: Position) -> Range<usize> {
    start.index()..end.index()
}

/// Where the values of a set are in a pool.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: Position,
    end: Position,
}

impl Span {
    fn of<T>(self, pool: &[T]) -> &[T] {
        pool.get(between(self.start, self.end)).unwrap_or_default()
    }
}

/// The values of one condition: texts and patterns, IPv4 and IPv6 blocks, or ports.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Set {
    plain: Span,
    other: Span,
}

/// The values of all sets of one policy.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    /// Sorted within a set; `texts` is parallel.
    hashes: Vec<u64>,
    texts: Vec<Arc<str>>,
    patterns: Vec<Patterns>,
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
    ports: Vec<u16>,
}

/// Appends values to a pool.
fn pour<T>(pool: &mut Vec<T>, values: impl IntoIterator<Item = T>) -> Span {
    let start = Position::end_of(pool);
    pool.extend(values);
    Span { start, end: Position::end_of(pool) }
}

impl Pools {
    /// Texts that fit one of the patterns.
    pub(crate) fn add_patterns(&mut self, patterns: &[StringMatch]) -> Set {
        let exact = patterns.iter().filter_map(|pattern| match pattern {
            StringMatch::Exact(text) => Some(text.clone()),
            StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => None,
        });
        let plain = self.add_texts(exact);
        let other = Patterns::new(patterns);
        Set { plain, other: pour(&mut self.patterns, other) }
    }

    /// Service accounts, each as the part of an identity that follows the trust domain.
    pub(crate) fn add_accounts(&mut self, accounts: &[ServiceAccount]) -> Set {
        let text = |account: &ServiceAccount| {
            format!("/ns/{}/sa/{}", account.namespace, account.name).into()
        };
        Set { plain: self.add_texts(accounts.iter().map(text)), other: Span::default() }
    }

    fn add_texts(&mut self, texts: impl Iterator<Item = Arc<str>>) -> Span {
        let mut hashed: Vec<_> = texts.map(|text| (hash_of(&text), text)).collect();
        hashed.sort_unstable();
        hashed.dedup();
        pour(&mut self.texts, hashed.iter().map(|(_, text)| text.clone()));
        pour(&mut self.hashes, hashed.into_iter().map(|(hash, _)| hash))
    }

    /// Address blocks. A v4-mapped block counts as IPv4.
    pub(crate) fn add_blocks(&mut self, blocks: &[IpNet]) -> Set {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for block in blocks {
            match fold_block(*block) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Set { plain: pour(&mut self.v4, merged(v4)), other: pour(&mut self.v6, merged(v6)) }
    }

    pub(crate) fn add_ports(&mut self, ports: &[u16]) -> Set {
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        ports.dedup();
        Set { plain: pour(&mut self.ports, ports), other: Span::default() }
    }

    /// After the last set was added.
    pub(crate) fn close(&mut self) {
        self.hashes.shrink_to_fit();
        self.texts.shrink_to_fit();
        self.patterns.shrink_to_fit();
        self.v4.shrink_to_fit();
        self.v6.shrink_to_fit();
        self.ports.shrink_to_fit();
    }

    pub(crate) fn has_text(&self, set: &Set, text: &Hashed<'_>) -> bool {
        let hashes = set.plain.of(&self.hashes);
        let first = hashes.partition_point(|hash| *hash < text.hash);
        let candidates = hashes.get(first..).unwrap_or_default().iter();
        let candidates = candidates.take_while(|hash| **hash == text.hash).count();
        let texts = set.plain.of(&self.texts).iter().skip(first).take(candidates);
        texts.into_iter().any(|candidate| **candidate == *text.text)
            || set.other.of(&self.patterns).iter().any(|patterns| patterns.fit(text.text))
    }

    /// `ip` is not v4-mapped.
    pub(crate) fn has_ip(&self, set: &Set, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => any_holds(set.plain.of(&self.v4), ip.to_bits()),
            IpAddr::V6(ip) => any_holds(set.other.of(&self.v6), ip.to_bits()),
        }
    }

    pub(crate) fn has_port(&self, set: &Set, port: u16) -> bool {
        set.plain.of(&self.ports).binary_search(&port).is_ok()
    }
}

/// What is not a whole text.
#[derive(Debug, Default)]
struct Patterns {
    prefixes: Affixes,
    suffixes: Affixes,
    presence: bool,
}

impl Patterns {
    /// `None` if there are only whole texts.
    fn new(patterns: &[StringMatch]) -> Option<Self> {
        let mut presence = false;
        let (mut prefixes, mut suffixes) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                StringMatch::Exact(_) => {}
                StringMatch::Prefix(text) => prefixes.push(text.bytes().collect()),
                StringMatch::Suffix(text) => suffixes.push(text.bytes().rev().collect()),
                StringMatch::Presence => presence = true,
            }
        }
        let any = presence || !prefixes.is_empty() || !suffixes.is_empty();
        let (prefixes, suffixes) = (Affixes::new(prefixes), Affixes::new(suffixes));
        any.then_some(Self { prefixes, suffixes, presence })
    }

    fn fit(&self, text: &str) -> bool {
        (self.presence && !text.is_empty())
            || self.prefixes.any_begins(text.bytes())
            || self.suffixes.any_begins(text.bytes().rev())
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

/// A block within `::ffff:0:0/96` as the IPv4 block it stands for.
fn fold_block(block: IpNet) -> IpNet {
    let IpNet::V6(net) = block else { return block };
    let folded = net.addr().to_ipv4_mapped().zip(net.prefix_len().checked_sub(96));
    match folded.and_then(|(ip, length)| Ipv4Net::new(ip, length).ok()) {
        Some(net) => IpNet::V4(net),
        None => block,
    }
}

/// Sorted ranges, of which overlapping ones were merged; both ends belong to a range.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    ranges
}

fn any_holds<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(start, _)| *start <= value);
    let candidate = after.checked_sub(1).and_then(|last| ranges.get(last));
    candidate.is_some_and(|(_, end)| value <= *end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_affix_stands_for_its_family() {
        let patterns: Vec<_> =
            ["ab", "abc", "b", "a"].map(|text| StringMatch::Prefix(text.into())).to_vec();
        let set = Patterns::new(&patterns).expect("patterns");
        assert_eq!(set.prefixes.0.len(), 2);
        for (text, expected) in [("a", true), ("abz", true), ("bx", true), ("c", false)] {
            assert_eq!(set.fit(text), expected, "{text}");
        }
        assert!(!set.fit(""));
        assert!(Patterns::new(&[StringMatch::Prefix("".into())]).expect("one").fit(""));
        assert!(Patterns::new(&[StringMatch::Exact("".into())]).is_none());
    }

    #[test]
    fn sets_of_one_pool_do_not_mix() {
        let mut pools = Pools::default();
        let exact = |text: &str| StringMatch::Exact(text.into());
        let first = pools.add_patterns(&[exact("b"), exact("a"), exact("b")]);
        let second = pools.add_patterns(&[StringMatch::Presence, exact("c")]);
        let (few, many) = (pools.add_ports(&[80, 22, 80]), pools.add_ports(&[443]));
        let none = pools.add_ports(&[]);
        pools.close();
        for (text, in_first, in_second) in
            [("a", true, true), ("b", true, true), ("c", false, true), ("", false, false)]
        {
            let text = Hashed::new(text);
            assert_eq!(pools.has_text(&first, &text), in_first, "{text:?}");
            assert_eq!(pools.has_text(&second, &text), in_second, "{text:?}");
        }
        for (port, in_few, in_many) in [(22, true, false), (80, true, false), (443, false, true)] {
            assert_eq!(pools.has_port(&few, port), in_few);
            assert_eq!(pools.has_port(&many, port), in_many);
            assert!(!pools.has_port(&none, port));
        }
    }

    #[test]
    fn a_hash_alone_is_no_match() {
        let mut pools = Pools::default();
        let set = pools.add_patterns(&[StringMatch::Exact("a".into())]);
        let impostor = Hashed { text: "b", ..Hashed::new("a") };
        assert!(!pools.has_text(&set, &impostor));
    }

    #[test]
    fn mapped_blocks_and_addresses_count_as_v4() {
        let parse = |text: &str| text.parse::<IpNet>().expect("literal");
        let has = |pools: &Pools, set: &Set, ip: &str| {
            pools.has_ip(set, ip.parse::<IpAddr>().expect("literal").to_canonical())
        };
        let mut pools = Pools::default();
        let set = pools.add_blocks(&[parse("::ffff:10.1.0.0/112"), parse("fd00::/8")]);
        let all = pools.add_blocks(&[parse("0.0.0.0/0")]);
        for (ip, expected) in [
            ("10.1.255.255", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.0", false),
            ("fdff::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(has(&pools, &set, ip), expected, "{ip}");
        }
        assert!(has(&pools, &all, "255.255.255.255"));
        assert!(!has(&pools, &all, "::1"));
    }
}
