//! Slots of a pod's LISTENERS: one listener for each kind, family and proxy thread.

use crate::{MAX_THREADS, TupleKey};

/// What a listener accepts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The pod's own captured connections.
    Outbound,
    /// HBONE from other nodes.
    Hbone,
    /// Everything else that arrives.
    Plaintext,
}

/// Address family of a listener and of the packets it gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Outbound, Self::Hbone, Self::Plaintext];

    #[inline(always)]
    const fn index(self) -> u32 {
        match self {
            Self::Outbound => 0,
            Self::Hbone => 1,
            Self::Plaintext => 2,
        }
    }
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    #[inline(always)]
    const fn index(self) -> u32 {
        match self {
            Self::V4 => 0,
            Self::V6 => 1,
        }
    }
}

/// Index into LISTENERS. A `thread` of [`MAX_THREADS`] or more wraps into the same kind and family.
#[inline(always)]
pub const fn slot(kind: Kind, family: Family, thread: u16) -> u32 {
    // `as` because `From` is not const; both widen.
    #[expect(clippy::as_conversions, reason = "widening in a const fn")]
    let (thread, threads) = ((thread % MAX_THREADS) as u32, MAX_THREADS as u32);
    (kind.index() * 2 + family.index()) * threads + thread
}

/// The thread whose listener takes a connection: the same for retransmissions of its SYN, spread
/// evenly also when ports step by two, as those that Linux picks for `connect` do. Zero when
/// `threads` is zero.
#[inline(always)]
pub const fn thread_of(tuple: &TupleKey, threads: u16) -> u16 {
    if threads == 0 {
        return 0;
    }
    #[expect(clippy::as_conversions, reason = "widening in a const fn")]
    let ports = ((tuple.remote_port.raw() as u32) << 16) | tuple.local_port.raw() as u32;
    // Finaliser of MurmurHash3 (Appleby, public domain): every input bit reaches every output bit.
    let mut hash = ports
        ^ tuple.remote.words[3].raw().rotate_left(7)
        ^ tuple.remote.words[1].raw()
        ^ tuple.local.words[3].raw().rotate_left(19);
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^= hash >> 16;
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "below `threads`")]
    let thread = (hash % threads as u32) as u16;
    thread
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, vec::Vec};

    use super::*;
    use crate::{Address, Be16, LISTENER_SLOTS};

    #[test]
    fn slots_are_distinct_and_within_the_map() {
        let mut seen = HashSet::new();
        for kind in Kind::ALL {
            for family in Family::ALL {
                for thread in 0..MAX_THREADS {
                    let slot = slot(kind, family, thread);
                    assert!(usize::try_from(slot).expect("fits") < LISTENER_SLOTS);
                    assert!(seen.insert(slot));
                }
            }
        }
        assert_eq!(seen.len(), LISTENER_SLOTS);
    }

    #[test]
    fn connections_spread_over_threads() {
        for threads in [2u16, 3, 4, 16] {
            let mut hits: Vec<u32> = std::vec![0; usize::from(threads)];
            for port in (32_768u16..60_000).step_by(2) {
                let tuple = TupleKey {
                    remote: Address::from(core::net::Ipv4Addr::new(10, 0, 0, 1)),
                    local: Address::from(core::net::Ipv4Addr::new(10, 0, 0, 2)),
                    remote_port: Be16::new(port),
                    local_port: Be16::new(80),
                };
                hits[usize::from(thread_of(&tuple, threads))] += 1;
            }
            let fair = hits.iter().sum::<u32>() / u32::from(threads);
            for hit in hits {
                assert!(hit.abs_diff(fair) < fair / 5, "{threads} threads: {hit} of {fair}");
            }
        }
    }
}
