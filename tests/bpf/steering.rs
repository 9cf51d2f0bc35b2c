//! Inbound steering: what arrives at a pod reaches the agent, whatever the pod does.

use std::net::IpAddr;

use ebpf_abi::{Address, Be16, Kind, Role, TUPLE_LIFETIME_NS, Tuple, TupleKey};
use nix::time::{ClockId, clock_gettime};
use ztunnel::capture::bpf::{Map, Update};

use crate::world::{
    Agent, Node, POD4, POD6, Remote, SERVICE4, counter, eventually, socket_address, uid,
};

const REFUSED: i32 = libc::ECONNREFUSED;

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

#[test]
fn every_port_reaches_the_agent_with_its_destination() {
    let node = Node::new();
    let programs = node.load();
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    // The application listens everywhere, also on the ports that mean something to the mesh.
    let mut app = node.actor("pod", "pod");
    let squatted: Vec<Remote> =
        [80, 15008, 15001].map(|port| app.listen(&format!("0.0.0.0:{port}"))).to_vec();
    node.shell("pod", "ip addr add 203.0.113.9/32 dev lo; ip addr add 169.254.9.9/32 dev eth0");
    node.shell("world", "ip route add 203.0.113.9/32 via 10.77.0.2");
    node.shell("world", "ip route add 169.254.9.9/32 via 10.77.0.2");
    let mut outside = node.actor("other", "world");

    for (to, kind) in [
        (format!("{POD4}:80"), Kind::Plaintext),
        (format!("{POD4}:81"), Kind::Plaintext),
        (format!("{POD4}:1"), Kind::Plaintext),
        (format!("{POD4}:65535"), Kind::Plaintext),
        (format!("{POD4}:15001"), Kind::Plaintext),
        (format!("{POD4}:15008"), Kind::Hbone),
        (format!("[{POD6}]:80"), Kind::Plaintext),
        (format!("[{POD6}]:15008"), Kind::Hbone),
        // Addresses that came after enrolment, one of them link-local.
        ("203.0.113.9:80".to_owned(), Kind::Plaintext),
        ("169.254.9.9:80".to_owned(), Kind::Plaintext),
    ] {
        let client = outside.connect(&to, "").unwrap_or_else(|e| panic!("{to}: errno {e}"));
        let target = socket_address(&to);
        let accepted = agent
            .accept(kind, target.ip())
            .unwrap_or_else(|errno| panic!("{to}: not accepted, errno {errno}"));
        assert_eq!(accepted.local, target, "getsockname is the original destination");
        assert_eq!(accepted.peer, Some(client.local));
        outside.close(&client);
        agent.actor.close(&accepted);
    }
    assert_eq!(counter(hooks.maps(), "steered_plaintext"), 8);
    assert_eq!(counter(hooks.maps(), "steered_hbone"), 2);
    assert_eq!(app.accept(&squatted[0]).map(drop), Err(libc::ETIMEDOUT), "nothing got past");
}

#[test]
fn a_socket_of_the_slots_reuseport_group_gets_nothing() {
    let node = Node::new();
    let programs = node.load();
    let mut actor = node.actor("agent", "pod");
    let chosen = actor.socket("listen 127.0.0.1:9000 reuseport").expect("listen");
    let squatter = actor.socket("listen 127.0.0.1:9000 reuseport").expect("listen");
    let hooks = node.attach_with(&programs, |maps| {
        let copy = actor.copy(&chosen);
        maps.set_listener(Kind::Plaintext, ebpf_abi::Family::V4, 0, copy).expect("set");
    });
    let mut outside = node.actor("other", "world");
    for _ in 0..16 {
        let client = outside.connect(&format!("{POD4}:80"), "").expect("connect");
        actor.accept(&chosen).expect("the slot's own socket");
        outside.close(&client);
    }
    assert_eq!(actor.accept(&squatter).map(drop), Err(libc::ETIMEDOUT));
    assert_eq!(counter(hooks.maps(), "steered_plaintext"), 16);
}

#[test]
fn empty_slots_drop() {
    let node = Node::new();
    let programs = node.load();
    let mut app = node.actor("pod", "pod");
    app.listen("0.0.0.0:80");
    let agent = Agent::start(&node);
    let hooks = node.attach(&programs);
    let mut outside = node.actor("other", "world");
    assert_eq!(outside.connect(&format!("{POD4}:80"), "").map(drop), Err(REFUSED));
    assert_eq!(outside.connect(&format!("[{POD6}]:15008"), "").map(drop), Err(REFUSED));
    assert_eq!(app.connect(&format!("{SERVICE4}:80"), "").map(drop), Err(REFUSED));
    assert_eq!(counter(hooks.maps(), "dropped_no_listener"), 3);

    agent.install(hooks.maps());
    outside.connect(&format!("{POD4}:80"), "").expect("listeners may come late");
    // A killed agent: its sockets close, the slots empty themselves, nothing falls through.
    drop(agent);
    let dropped = || {
        node.actor("other", "world").connect(&format!("{POD4}:80"), "").map(drop) == Err(REFUSED)
    };
    assert!(eventually(dropped));
}

#[test]
fn slots_can_be_replaced_and_cleared() {
    let node = Node::new();
    let programs = node.load();
    let mut first = Agent::start(&node);
    let mut second = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| first.install(maps));
    let mut outside = node.actor("other", "world");
    let to = format!("{POD4}:80");
    outside.connect(&to, "").expect("connect");
    second.install(hooks.maps());
    outside.connect(&to, "").expect("connect");
    first.accept(Kind::Plaintext, ip(POD4)).expect("its queue keeps draining");
    second.accept(Kind::Plaintext, ip(POD4)).expect("new connections");
    hooks.maps().clear_listener(Kind::Plaintext, ebpf_abi::Family::V4, 0).expect("clear");
    assert_eq!(outside.connect(&to, "").map(drop), Err(REFUSED));
}

#[test]
fn only_fresh_registrations_count() {
    let node = Node::new();
    let programs = node.load();
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let listener = app.listen("0.0.0.0:80");
    let mut outside = node.actor("other", "world");
    let tuples: Map<TupleKey, Tuple> =
        Map::open(&programs.pins().pod(&uid()).map("TUPLES")).expect("open the registry");
    let now = std::time::Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("clock"));
    let now = u64::try_from(now.as_nanos()).expect("fits");
    let old = now.saturating_sub(TUPLE_LIFETIME_NS + 1);

    let register = |port: u16, role: Role, opened_ns: u64| {
        let key = TupleKey {
            remote: ip("10.77.0.1").into(),
            local: ip(POD4).into(),
            remote_port: Be16::new(port),
            local_port: Be16::new(80),
        };
        let tuple = Tuple {
            role,
            original_port: Be16::new(1),
            reserved: 0,
            original: Address::from(ip(SERVICE4)),
            opened_ns,
        };
        tuples.set(&key, &tuple, Update::Any).expect("register");
    };
    // The actor binds port 0; the kernel's choice is not known before. Register every port that it has.
    node.shell("world", "echo 40000 43999 > /proc/sys/net/ipv4/ip_local_port_range");
    let register_all = |role: Role, opened_ns: u64| {
        for port in 40_000..=43_999 {
            register(port, role, opened_ns);
        }
    };
    let to = format!("{POD4}:80");

    register_all(Role::PROXY_TO_APP, now);
    outside.connect(&to, "").expect("connect");
    app.accept(&listener).expect("a fresh one passes");
    assert_eq!(counter(hooks.maps(), "passed_proxy"), 1);

    register_all(Role::PROXY_TO_APP, old);
    outside.connect(&to, "").expect("connect");
    agent.accept(Kind::Plaintext, ip(POD4)).expect("a stale one is judged");

    register_all(Role::OUTBOUND, old);
    assert_eq!(outside.connect(&to, "").map(drop), Err(REFUSED), "a stale captured one is dropped");
    assert_eq!(counter(hooks.maps(), "dropped_stale"), 1);

    // The agent's leftovers are swept, others go with their sockets.
    assert_eq!(hooks.maps().sweep().expect("sweep"), 0);
    register_all(Role::PROXY_TO_APP, old);
    assert_eq!(hooks.maps().sweep().expect("sweep"), 4_000);
}

/// With `route_localnet` a packet from outside may carry a loopback destination.
#[test]
fn loopback_from_outside_does_not_pass() {
    let node = Node::new();
    let programs = node.load();
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let listener = app.listen("127.0.0.1:80");
    node.shell("pod", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    node.shell(
        "pod",
        "nft add table ip t && nft 'add chain ip t c { type nat hook prerouting priority -100; }' \
         && nft add rule ip t c tcp dport 80 dnat to 127.0.0.1",
    );
    let mut outside = node.actor("other", "world");
    outside.connect(&format!("{POD4}:80"), "").expect("connect");
    let accepted = agent.accept(Kind::Plaintext, ip("127.0.0.1")).expect("steered");
    assert_eq!(accepted.local, socket_address("127.0.0.1:80"));
    assert_eq!(counter(hooks.maps(), "passed_loopback"), 0);
    assert_eq!(app.accept(&listener).map(drop), Err(libc::ETIMEDOUT));
}

#[test]
fn many_connections_all_reach_the_agent_also_with_syn_cookies() {
    let node = Node::new();
    let programs = node.load();
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    node.shell("pod", "echo 2 > /proc/sys/net/ipv4/tcp_syncookies");
    let mut outside = node.actor("other", "world");
    for port in 1000..1400u16 {
        let client = outside.connect(&format!("{POD4}:{port}"), "").expect("connect");
        let accepted = agent.accept(Kind::Plaintext, ip(POD4)).expect("accept");
        assert_eq!(accepted.local.port(), port);
        agent.actor.close(&accepted);
        outside.close(&client);
    }
    assert!(counter(hooks.maps(), "steered_plaintext") >= 400);
    assert_eq!(counter(hooks.maps(), "dropped_no_listener"), 0);
}
