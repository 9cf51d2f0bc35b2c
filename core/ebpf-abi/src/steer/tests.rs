//! Table of incoming connections and where they go.
use core::net::{IpAddr, SocketAddr};

use super::*;
use crate::{Be16, OUTBOUND_CAPTURE_PORT, SettingsFlags, TUPLE_LIFETIME_NS};

const NOW: u64 = 100 * TUPLE_LIFETIME_NS;

#[derive(Default)]
struct Maps {
    tuple: Option<Tuple>,
    probe: Option<Tuple>,
}

impl Registry for Maps {
    fn tuple(&self) -> Option<Tuple> {
        self.tuple
    }
    fn probe(&self) -> Option<Tuple> {
        self.probe
    }
    fn prefix(&self, address: &Address) -> PrefixFlags {
        if ["10.0.0.5", "fd00::5"].map(ip).contains(address) {
            PrefixFlags::OWN
        } else if *address == ip("192.0.2.1") {
            PrefixFlags::OWN.with(PrefixFlags::BYPASS)
        } else if *address == ip("192.0.2.2") {
            PrefixFlags::BYPASS
        } else {
            PrefixFlags::NONE
        }
    }
}

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().expect(text).into()
}

fn key(remote: &str, local: &str) -> TupleKey {
    let socket = |text: &str| text.parse::<SocketAddr>().expect(text);
    let (remote, local) = (socket(remote), socket(local));
    TupleKey {
        remote: remote.ip().into(),
        local: local.ip().into(),
        remote_port: Be16::new(remote.port()),
        local_port: Be16::new(local.port()),
    }
}

fn tuple(role: Role, age_ns: u64) -> Tuple {
    Tuple {
        role,
        original_port: Be16::default(),
        reserved: 0,
        original: Address::NONE,
        opened_ns: NOW - age_ns,
    }
}

fn settings() -> Settings {
    Settings {
        pod_v4: ip("10.0.0.5"),
        probe_ports: [8080, 0, 0, 0, 0, 0, 0, 0],
        capture_port: OUTBOUND_CAPTURE_PORT,
        threads: 1,
        flags: SettingsFlags::ACTIVE,
        ..Settings::default()
    }
}

fn check(remote: &str, local: &str, ingress: Ingress, maps: &Maps, expected: Steer) {
    let key = key(remote, local);
    assert_eq!(
        decide(&key, ingress, &settings(), NOW, maps),
        expected,
        "{remote} -> {local} by {ingress:?}"
    );
}

const PLAINTEXT: Steer = Steer::Assign(Kind::Plaintext, Counter::SteeredPlaintext);
const HBONE: Steer = Steer::Assign(Kind::Hbone, Counter::SteeredHbone);

#[test]
fn unregistered_connections_are_steered_by_port() {
    for (remote, local, expected) in [
        ("10.0.1.1:999", "10.0.0.5:80", PLAINTEXT),
        ("10.0.1.1:999", "10.0.0.5:15008", HBONE),
        ("[fd00::9]:999", "[fd00::5]:443", PLAINTEXT),
        ("[fd00::9]:999", "[fd00::5]:15008", HBONE),
        ("[fe80::9]:999", "[fe80::5]:80", PLAINTEXT),
        ("10.0.1.1:999", "169.254.0.9:80", PLAINTEXT),
        ("10.0.1.1:999", "203.0.113.9:80", PLAINTEXT),
        // A source that claims to be the pod proves nothing.
        ("10.0.0.5:999", "10.0.0.5:80", PLAINTEXT),
        // A foreign connection to the capture port is an ordinary one.
        ("10.0.1.1:999", "10.0.0.5:15001", PLAINTEXT),
    ] {
        check(remote, local, Ingress::Other, &Maps::default(), expected);
    }
}

#[test]
fn registered_connections() {
    let fresh = TUPLE_LIFETIME_NS - 1;
    let stale = TUPLE_LIFETIME_NS;
    for (role, age, expected) in [
        (Role::OUTBOUND, fresh, Steer::Assign(Kind::Outbound, Counter::SteeredOutbound)),
        (Role::OUTBOUND, stale, Steer::Drop(Counter::DroppedStale)),
        (Role::PROXY_TO_APP, fresh, Steer::Pass(Counter::PassedProxy)),
        (Role::PROXY_TO_APP, stale, PLAINTEXT),
        (Role::SELF_CALL, fresh, Steer::Pass(Counter::PassedSelfCall)),
        (Role::SELF_CALL, stale, PLAINTEXT),
        (Role::KUBELET, 0, PLAINTEXT),
        (Role::NONE, 0, PLAINTEXT),
        (Role(77), 0, PLAINTEXT),
    ] {
        let maps = Maps { tuple: Some(tuple(role, age)), ..Maps::default() };
        check("10.0.0.5:999", "10.0.0.5:80", Ingress::Other, &maps, expected);
    }
}

/// A pod that reaches itself through its service, over a tunnel: the tunnel starts and ends in it.
#[test]
fn the_proxys_own_tunnel_reaches_the_proxy() {
    for age in [0, TUPLE_LIFETIME_NS] {
        let maps = Maps { tuple: Some(tuple(Role::PROXY_TO_APP, age)), ..Maps::default() };
        check("10.0.0.5:999", "10.0.0.5:15008", Ingress::Other, &maps, HBONE);
        check("[fd00::5]:999", "[fd00::5]:15008", Ingress::Other, &maps, HBONE);
    }
    // An application that calls itself on that port means its own listener, if it has one.
    let call = Maps { tuple: Some(tuple(Role::SELF_CALL, 0)), ..Maps::default() };
    let pass = Steer::Pass(Counter::PassedSelfCall);
    check("10.0.0.5:999", "10.0.0.5:15008", Ingress::Other, &call, pass);
}

#[test]
fn probes_pass_to_probe_ports_only() {
    let fresh = Maps { probe: Some(tuple(Role::KUBELET, 1)), ..Maps::default() };
    let stale = Maps { probe: Some(tuple(Role::KUBELET, TUPLE_LIFETIME_NS)), ..Maps::default() };
    let pass = Steer::Pass(Counter::PassedProbe);
    check("10.0.9.1:999", "10.0.0.5:8080", Ingress::Other, &fresh, pass);
    check("10.0.9.1:999", "10.0.0.5:8081", Ingress::Other, &fresh, PLAINTEXT);
    check("10.0.9.1:999", "10.0.0.5:8080", Ingress::Other, &stale, PLAINTEXT);
    check("10.0.9.1:999", "10.0.0.5:8080", Ingress::Other, &Maps::default(), PLAINTEXT);
}

#[test]
fn loopback_needs_the_device_and_a_local_source() {
    let pass = Steer::Pass(Counter::PassedLoopback);
    let none = Maps::default();
    for (remote, local) in [
        ("127.0.0.1:999", "127.0.0.1:80"),
        ("[::1]:999", "[::1]:80"),
        ("10.0.0.5:999", "127.0.0.1:80"),
        ("[::ffff:127.0.0.1]:999", "[::ffff:127.0.0.1]:80"),
    ] {
        check(remote, local, Ingress::Loopback, &none, pass);
        check(remote, local, Ingress::Unknown, &none, pass);
        check(remote, local, Ingress::Other, &none, PLAINTEXT);
    }
    for ingress in [Ingress::Loopback, Ingress::Unknown, Ingress::Other] {
        check("10.0.1.1:999", "127.0.0.1:80", ingress, &none, PLAINTEXT);
        check("[fd00::9]:999", "[::1]:80", ingress, &none, PLAINTEXT);
    }
}

#[test]
fn bypass_is_by_local_address() {
    let none = Maps::default();
    let pass = Steer::Pass(Counter::PassedBypass);
    check("10.0.1.1:999", "192.0.2.1:80", Ingress::Other, &none, pass);
    check("192.0.2.1:999", "10.0.0.5:80", Ingress::Other, &none, PLAINTEXT);
    // Nobody has said yet that it is the pod's.
    check("10.0.1.1:999", "192.0.2.2:80", Ingress::Other, &none, PLAINTEXT);
}

#[test]
fn an_unregistered_captured_connection_is_dropped() {
    let none = Maps::default();
    let drop = Steer::Drop(Counter::DroppedUnregistered);
    check("10.0.0.5:999", "10.0.0.5:15001", Ingress::Other, &none, drop);
    check("127.0.0.1:999", "10.0.0.5:15001", Ingress::Other, &none, drop);
}

#[test]
fn what_is_left_alone_reaches_the_application_but_hbone_and_loopback_do_not() {
    let excluded = Settings { excluded_inbound: [9090, 15_008, 0, 0, 0, 0, 0, 0], ..settings() };
    let flags = SettingsFlags::ACTIVE.with(SettingsFlags::INBOUND_BYPASS);
    let bypassed = Settings { flags, ..settings() };
    let passed = Steer::Pass(Counter::PassedBypass);
    let drop = Steer::Drop(Counter::DroppedUnregistered);
    for (settings, remote, local, expected) in [
        (&excluded, "10.0.0.9:1", "10.0.0.5:9090", passed),
        (&excluded, "10.0.0.9:1", "10.0.0.5:80", PLAINTEXT),
        (&excluded, "10.0.0.9:1", "10.0.0.5:15008", HBONE),
        (&excluded, "10.0.0.9:1", "127.0.0.1:9090", PLAINTEXT),
        (&bypassed, "10.0.0.9:1", "10.0.0.5:80", passed),
        (&bypassed, "[fd00::9]:1", "[fd00::5]:80", passed),
        (&bypassed, "10.0.0.9:1", "10.0.0.5:15008", HBONE),
        (&bypassed, "10.0.0.9:1", "127.0.0.1:80", PLAINTEXT),
        (&bypassed, "10.0.0.5:1", "10.0.0.5:15001", drop),
    ] {
        let steer = decide(&key(remote, local), Ingress::Other, settings, NOW, &Maps::default());
        assert_eq!(steer, expected, "{remote} -> {local}");
    }
}
