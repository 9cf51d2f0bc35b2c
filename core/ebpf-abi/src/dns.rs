//! Which datagrams of a pod are questions that the proxy takes, and where they go instead.
//!
//! The proxy has one datagram socket for each *slot*, and a slot stands for one resolver: the one that
//! claimed it first, for as long as the pod is enrolled. So the port that a datagram comes to tells the
//! resolver that it was meant for, and the port that an answer comes from tells the application the same.
//! That holds for connected and unconnected sockets alike, for several resolvers asked from one socket,
//! and without any state for a datagram. A resolver that finds no slot is left alone.

use crate::{Address, DNS_PORT, DNS_RESOLVERS, DNS_SLOTS, Family, PrefixFlags, Settings};

/// Where a captured datagram goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The pod's own address.
    pub address: Address,
    /// The port of the slot's socket, host order.
    pub port: u16,
}

/// What becomes of a datagram, or of a socket that is connected for datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// It goes where it was sent.
    Leave,
    /// It is a question; it goes to the proxy.
    Capture(Target),
    /// It is a question, and no slot is left for its resolver: it goes where it was sent.
    NoSlot,
}

/// Key of RESOLVERS: a slot of the pod with this network namespace cookie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct ResolverKey {
    pub netns_cookie: u64,
    /// See [`slot_key`].
    pub slot: u32,
    pub reserved: u32,
}

impl ResolverKey {
    #[inline(always)]
    pub const fn new(netns_cookie: u64, slot: u32) -> Self {
        Self { netns_cookie, slot, reserved: 0 }
    }
}

/// A pod's part of RESOLVERS: who has which slot.
pub trait Resolvers {
    /// Who has the slot.
    fn get(&self, slot: u32) -> Option<Address>;
    /// Gives the slot to `resolver`, unless somebody has it already; `false` then, or when the kernel has
    /// no memory.
    fn claim(&self, slot: u32, resolver: &Address) -> bool;
}

/// Decides a datagram to `destination` and `port`. Not captured: what never leaves the pod, multicast,
/// bypassed prefixes, IPv6 link-local (see [`crate::connect::decide`]), a family that the pod has no
/// address of.
#[inline(always)]
pub fn decide(
    destination: &Address,
    port: u16,
    settings: Option<&Settings>,
    prefix: impl FnOnce(&Address) -> PrefixFlags,
    resolvers: &impl Resolvers,
) -> Ask {
    if port != DNS_PORT {
        return Ask::Leave;
    }
    let Some(settings) = settings else { return Ask::Leave };
    if !settings.flags.captures_dns() || !settings.flags.is_active() {
        return Ask::Leave;
    }
    if destination.is_loopback() || destination.is_unspecified() || destination.is_multicast() {
        return Ask::Leave;
    }
    if destination.is_link_local() && !destination.is_v4() {
        return Ask::Leave;
    }
    let flags = prefix(destination);
    if flags.is_own() || flags.is_bypass() {
        return Ask::Leave;
    }
    let (family, address) = if destination.is_v4() {
        (Family::V4, settings.pod_v4)
    } else {
        (Family::V6, settings.pod_v6)
    };
    if address.is_unspecified() {
        return Ask::Leave;
    }
    match port_for(family, destination, settings, resolvers) {
        0 => Ask::NoSlot,
        port => Ask::Capture(Target { address, port }),
    }
}

/// Number of a slot among those of both families, and place of its port in [`Settings::dns_ports`].
#[inline(always)]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "four; const fn")]
pub const fn slot_key(family: Family, slot: u32) -> u32 {
    let first = match family {
        Family::V4 => 0,
        Family::V6 => DNS_SLOTS as u32,
    };
    first + slot
}

/// Port of the slot that `resolver` has or gets; zero when none is left. Slots are claimed in order and
/// never given back, so two CPUs that claim at once agree.
#[inline(always)]
fn port_for(
    family: Family,
    resolver: &Address,
    settings: &Settings,
    resolvers: &impl Resolvers,
) -> u16 {
    let ports = ports(family, settings);
    let key = |slot| slot_key(family, slot);
    if ports[0] == 0 || is_or_becomes(key(0), resolver, resolvers) {
        return ports[0];
    }
    if ports[1] == 0 || is_or_becomes(key(1), resolver, resolvers) {
        return ports[1];
    }
    if ports[2] == 0 || is_or_becomes(key(2), resolver, resolvers) {
        return ports[2];
    }
    if ports[3] == 0 || is_or_becomes(key(3), resolver, resolvers) {
        return ports[3];
    }
    0
}

/// Unrolled, as everything here: programs have no loops.
#[inline(always)]
const fn ports(family: Family, settings: &Settings) -> [u16; DNS_SLOTS] {
    let all = &settings.dns_ports;
    match family {
        Family::V4 => [all[0], all[1], all[2], all[3]],
        Family::V6 => [all[4], all[5], all[6], all[7]],
    }
}
const _: () = assert!(DNS_SLOTS == 4 && DNS_RESOLVERS == 8);

#[inline(always)]
fn is_or_becomes(slot: u32, resolver: &Address, resolvers: &impl Resolvers) -> bool {
    match resolvers.get(slot) {
        Some(holder) => holder == *resolver,
        // Another CPU may have been faster, perhaps for the same resolver.
        None => resolvers.claim(slot, resolver) || resolvers.get(slot) == Some(*resolver),
    }
}

/// Whether a pod's own hooks have sent a socket to the proxy already, for those on the root, which run after
/// them; see [`crate::connect::is_captured`].
#[inline(always)]
pub fn is_captured(destination: &Address, port: u16, settings: &Settings) -> bool {
    let (family, pod) = if destination.is_v4() {
        (Family::V4, settings.pod_v4)
    } else {
        (Family::V6, settings.pod_v6)
    };
    *destination == pod && slot_of(family, port, settings).is_some()
}

/// The slot whose socket a datagram came from: `port` is its source port, host order. `None` when it is
/// no socket of the proxy's. The source address has to be the pod's own, too.
#[inline(always)]
pub const fn slot_of(family: Family, port: u16, settings: &Settings) -> Option<u32> {
    if port == 0 || !settings.flags.captures_dns() {
        return None;
    }
    let ports = ports(family, settings);
    if ports[0] == port {
        return Some(slot_key(family, 0));
    }
    if ports[1] == port {
        return Some(slot_key(family, 1));
    }
    if ports[2] == port {
        return Some(slot_key(family, 2));
    }
    if ports[3] == port {
        return Some(slot_key(family, 3));
    }
    None
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use core::net::IpAddr;
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use crate::SettingsFlags;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect(text).into()
    }

    fn settings() -> Settings {
        Settings {
            pod_v4: address("10.0.0.5"),
            pod_v6: address("fd00::5"),
            dns_ports: [41, 42, 43, 44, 61, 62, 63, 64],
            flags: SettingsFlags::ACTIVE.with(SettingsFlags::DNS),
            ..Settings::default()
        }
    }

    fn prefix(destination: &Address) -> PrefixFlags {
        if ["10.0.0.5", "fd00::5"].map(address).contains(destination) {
            PrefixFlags::OWN
        } else if *destination == address("192.0.2.1") {
            PrefixFlags::BYPASS
        } else {
            PrefixFlags::NONE
        }
    }

    #[derive(Default)]
    struct Table {
        slots: RefCell<HashMap<u32, Address>>,
        /// Claimed by another CPU just before a claim is made here.
        faster: RefCell<Option<Address>>,
    }

    impl Resolvers for Table {
        fn get(&self, slot: u32) -> Option<Address> {
            self.slots.borrow().get(&slot).copied()
        }

        fn claim(&self, slot: u32, resolver: &Address) -> bool {
            if let Some(faster) = self.faster.borrow_mut().take() {
                self.slots.borrow_mut().insert(slot, faster);
            }
            let mut slots = self.slots.borrow_mut();
            let free = !slots.contains_key(&slot);
            if free {
                slots.insert(slot, *resolver);
            }
            free
        }
    }

    fn ask(table: &Table, destination: &str) -> Ask {
        decide(&address(destination), 53, Some(&settings()), prefix, table)
    }

    fn v4(port: u16) -> Ask {
        Ask::Capture(Target { address: address("10.0.0.5"), port })
    }

    fn v6(port: u16) -> Ask {
        Ask::Capture(Target { address: address("fd00::5"), port })
    }

    #[test]
    fn a_resolver_keeps_its_slot_and_late_ones_get_none() {
        let table = Table::default();
        for _ in 0..2 {
            for (destination, expected) in [
                ("10.96.0.10", v4(41)),
                ("8.8.8.8", v4(42)),
                ("::ffff:10.96.0.10", v4(41)),
                ("2001:db8::53", v6(61)),
                ("169.254.20.10", v4(43)),
                ("9.9.9.9", v4(44)),
                ("1.1.1.1", Ask::NoSlot),
                ("2001:db8::54", v6(62)),
                ("10.96.0.10", v4(41)),
            ] {
                assert_eq!(ask(&table, destination), expected, "{destination}");
            }
        }
    }

    #[test]
    fn what_is_not_a_question_is_left_alone_and_claims_nothing() {
        let table = Table::default();
        for destination in [
            "127.0.0.53",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "224.0.0.251",
            "ff02::fb",
            "fe80::53",
            "10.0.0.5",
            "fd00::5",
            "192.0.2.1",
        ] {
            assert_eq!(ask(&table, destination), Ask::Leave, "{destination}");
        }
        let resolver = address("10.96.0.10");
        let without = |flags| Settings { flags: settings().flags.without(flags), ..settings() };
        let no_address = Settings { pod_v4: Address::NONE, ..settings() };
        for (port, settings) in [
            (5353, Some(settings())),
            (0, Some(settings())),
            (53, None),
            (53, Some(without(SettingsFlags::DNS))),
            (53, Some(without(SettingsFlags::ACTIVE))),
            (53, Some(no_address)),
        ] {
            let decided = decide(&resolver, port, settings.as_ref(), prefix, &table);
            assert_eq!(decided, Ask::Leave, "{port} {settings:?}");
        }
        assert!(table.slots.borrow().is_empty());
        let no_sockets = Settings { dns_ports: [0; DNS_RESOLVERS], ..settings() };
        let decided = decide(&resolver, 53, Some(&no_sockets), prefix, &table);
        assert_eq!(decided, Ask::NoSlot);
        assert!(table.slots.borrow().is_empty(), "a slot without a socket is no slot");
    }

    #[test]
    fn two_cpus_that_claim_at_once_agree() {
        for (faster, expected) in [("10.96.0.10", v4(41)), ("8.8.8.8", v4(42))] {
            let table = Table::default();
            table.faster.replace(Some(address(faster)));
            assert_eq!(ask(&table, "10.96.0.10"), expected);
            assert_eq!(ask(&table, faster), v4(41), "the faster one has the first slot");
            assert_eq!(ask(&table, "10.96.0.10"), expected, "and it stays so");
        }
    }

    #[test]
    fn the_port_of_an_answer_tells_the_slot() {
        let mut seen = BTreeSet::new();
        for (family, ports) in [(Family::V4, 41..45_u16), (Family::V6, 61..65)] {
            for (slot, port) in (0..).zip(ports) {
                let expected = slot_key(family, slot);
                assert_eq!(slot_of(family, port, &settings()), Some(expected));
                assert!(seen.insert(expected));
            }
        }
        assert_eq!(seen.len(), DNS_RESOLVERS);
        assert_eq!(slot_of(Family::V4, 61, &settings()), None, "the other family's");
        assert_eq!(slot_of(Family::V4, 53, &settings()), None);
        let off = Settings { flags: SettingsFlags::ACTIVE, ..settings() };
        assert_eq!(slot_of(Family::V4, 41, &off), None);
        for (destination, port, expected) in [
            ("10.0.0.5", 41, true),
            ("fd00::5", 61, true),
            ("10.0.0.5", 61, false),
            ("10.0.0.6", 41, false),
        ] {
            assert_eq!(is_captured(&address(destination), port, &settings()), expected, "{port}");
        }
        let few = Settings { dns_ports: [0; DNS_RESOLVERS], ..settings() };
        assert_eq!(slot_of(Family::V4, 0, &few), None, "an unused slot is not port 0");
    }
}
