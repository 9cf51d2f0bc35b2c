//! Outbound capture: every kind of TCP socket of a pod reaches the agent, with its destination.

use std::net::{IpAddr, SocketAddr};

use ebpf_abi::{Address, Be16, Kind, MAX_TUPLES, Role, Tuple, TupleKey};
use ztunnel::capture::bpf::{self, AttachType, Instruction, Map, ProgramType, Update};

use crate::world::{
    Agent, Node, POD4, SERVICE4, SERVICE6, WORLD4, counter, eventually, socket_address, uid,
};

const REFUSED: i32 = libc::ECONNREFUSED;

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[test]
fn every_kind_of_socket_reaches_the_agent_with_its_destination() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");

    for (to, options, restored) in [
        (format!("{SERVICE4}:80"), "", true),
        (format!("{SERVICE4}:15008"), "", true),
        (format!("{SERVICE4}:15001"), "", true),
        (format!("{WORLD4}:443"), "nonblocking", true),
        (format!("{SERVICE4}:81"), "bind=10.77.0.2", true),
        (format!("{SERVICE4}:82"), "bind=127.0.0.1", true),
        (format!("{SERVICE4}:83"), "device=eth0", true),
        (format!("[{SERVICE6}]:80"), "", true),
        (format!("[{SERVICE6}]:81"), "nonblocking", true),
        (format!("[{SERVICE6}]:82"), "bind=fd77::2", true),
        (format!("[{SERVICE6}]:83"), "device=eth0", true),
        (format!("[::ffff:{SERVICE4}]:84"), "", true),
        (format!("[::ffff:{SERVICE4}]:85"), "nonblocking device=eth0", true),
        // The peer of an MPTCP socket is asked of another socket than the one that connected.
        (format!("{SERVICE4}:86"), "mptcp", false),
        (format!("[{SERVICE6}]:86"), "mptcp", false),
    ] {
        let context = format!("{to} {options}");
        let dialled = socket_address(&to);
        let client = app.connect(&to, options).unwrap_or_else(|e| panic!("{context}: errno {e}"));
        let wire = canonical(dialled);
        let accepted = agent
            .accept(Kind::Outbound, wire.ip())
            .unwrap_or_else(|errno| panic!("{context}: not accepted, errno {errno}"));
        let peer = accepted.peer.expect("connected");
        assert_eq!(peer, canonical(client.local), "{context}: true source");
        let left = hooks.maps().tuples_len().expect("read");
        assert_eq!(left, 0, "{context}: the registry has done its work");
        let copy = agent.actor.copy(&accepted);
        let found = programs.accepted_dst(&copy).expect("read the socket's storage");
        assert_eq!(found, Some(wire), "{context}: accepted socket");
        if restored {
            assert_eq!(client.peer, Some(dialled), "{context}: getpeername");
        }
        app.close(&client);
        agent.actor.close(&accepted);
    }
    assert!(
        eventually(|| hooks.maps().tuples_len().expect("read") == 0),
        "nothing is registered anew"
    );
    assert_eq!(counter(hooks.maps(), "captured"), 15);
    assert_eq!(counter(hooks.maps(), "steered_outbound"), 15);
}

#[test]
fn the_destination_outlives_a_client_that_has_closed() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");

    let to = format!("{SERVICE4}:80");
    let client = app.connect(&to, "").expect("connect");
    app.run(&format!("send {} hello", client.id)).expect("send");
    app.close(&client);
    // The kernel keeps half a connection for the unread data, but the application's socket is gone.
    assert!(eventually(|| hooks.maps().tuples_len().expect("read") == 0), "closed");
    let accepted = agent.accept(Kind::Outbound, IpAddr::from([10, 0, 0, 1])).expect("accept");
    let copy = agent.actor.copy(&accepted);
    assert_eq!(programs.accepted_dst(&copy).expect("read"), Some(socket_address(&to)));
    assert_eq!(agent.actor.run(&format!("receive {}", accepted.id)), Ok("hello".to_owned()));
}

#[test]
fn uncaptured_destinations_and_calls_to_itself() {
    let node = Node::new();
    let programs = node.load();
    let agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod/leaf", "pod");
    let v4 = app.listen("0.0.0.0:7000");
    let v6 = app.listen("[::]:7000");

    for (to, listener) in [
        ("127.0.0.1:7000", &v4),
        ("0.0.0.0:7000", &v4),
        ("10.77.0.2:7000", &v4),
        ("[::ffff:10.77.0.2]:7000", &v4),
        ("[::ffff:127.0.0.1]:7000", &v4),
        ("[::1]:7000", &v6),
        ("[::]:7000", &v6),
        ("[fd77::2]:7000", &v6),
    ] {
        let client = app.connect(to, "").unwrap_or_else(|errno| panic!("{to}: errno {errno}"));
        let accepted = app.accept(listener).unwrap_or_else(|errno| panic!("{to}: errno {errno}"));
        assert_eq!(accepted.peer.map(canonical), Some(canonical(client.local)), "{to}");
        app.close(&client);
        app.close(&accepted);
    }
    // A socket that is bound to the pod's address and dials "any" calls the pod itself.
    let client = app.connect("0.0.0.0:7000", "bind=10.77.0.2").expect("connect");
    let accepted = app.accept(&v4).expect("accept");
    assert_eq!(accepted.local.ip(), IpAddr::from([10, 77, 0, 2]));
    app.close(&client);
    app.close(&accepted);

    assert_eq!(counter(hooks.maps(), "captured"), 0);
    assert_eq!(counter(hooks.maps(), "steered_plaintext"), 0);
    assert_eq!(counter(hooks.maps(), "self_call"), 6);
    assert!(counter(hooks.maps(), "passed_loopback") >= 3);
}

#[test]
fn a_socket_that_connects_again_loses_its_role() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let listener = app.listen("127.0.0.1:7000");

    let client = app.connect(&format!("{SERVICE4}:80"), "").expect("connect");
    let first = agent.accept(Kind::Outbound, IpAddr::from([10, 0, 0, 1])).expect("accept");
    let again =
        app.socket(&format!("reconnect {} 127.0.0.1:7000", client.id)).expect("connect again");
    assert_eq!(again.peer, Some(socket_address("127.0.0.1:7000")), "not the first destination");
    app.accept(&listener).expect("the application itself");
    assert_eq!(hooks.maps().tuples_len().expect("read"), 0, "nothing registered for loopback");
    let copy = agent.actor.copy(&first);
    drop(copy);

    let third = app.socket(&format!("reconnect {} {SERVICE4}:99", client.id)).expect("connect");
    assert_eq!(third.peer, Some(socket_address(&format!("{SERVICE4}:99"))));
    let accepted = agent.accept(Kind::Outbound, IpAddr::from([10, 0, 0, 1])).expect("accept");
    let copy = agent.actor.copy(&accepted);
    let found = programs.accepted_dst(&copy).expect("read the socket's storage");
    assert_eq!(found, Some(socket_address(&format!("{SERVICE4}:99"))));
}

#[test]
fn a_full_registry_drops_new_connections_and_counts_them() {
    let node = Node::new();
    let programs = node.load();
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let tuples: Map<TupleKey, Tuple> =
        Map::open(&programs.pins().pod(&uid()).map("TUPLES")).expect("open the registry");
    let filler = Tuple {
        role: Role::NONE,
        original_port: Be16::default(),
        reserved: 0,
        original: Address::NONE,
        opened_ns: 0,
    };
    let key = |number: usize| TupleKey {
        remote: Address::NONE,
        local: Address::from(std::net::Ipv4Addr::from_bits(
            u32::try_from(number).expect("below the bound"),
        )),
        remote_port: Be16::default(),
        local_port: Be16::default(),
    };
    for number in 0..MAX_TUPLES {
        tuples.set(&key(number), &filler, Update::Any).expect("room for MAX_TUPLES");
    }

    assert_eq!(app.connect(&format!("{SERVICE4}:80"), "").map(drop), Err(REFUSED));
    assert_eq!(counter(hooks.maps(), "tuple_insert_failed"), 1);
    assert_eq!(counter(hooks.maps(), "dropped_unregistered"), 1);
    assert_eq!(counter(hooks.maps(), "steered_plaintext"), 0, "not taken for an incoming one");

    assert!(tuples.delete(&key(0)).expect("delete"));
    app.connect(&format!("{SERVICE4}:80"), "").expect("room for one");
    agent.accept(Kind::Outbound, IpAddr::from([10, 0, 0, 1])).expect("accept");
}

#[test]
fn a_socket_without_memory_for_its_destination_cannot_connect() {
    let node = Node::new();
    let programs = node.load();
    let agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let mut server = node.actor("other", "world");
    let listener = server.listen(&format!("{WORLD4}:80"));
    node.shell("pod", "echo 0 > /proc/sys/net/core/optmem_max");
    assert_eq!(app.connect(&format!("{WORLD4}:80"), "").map(drop), Err(libc::EPERM));
    assert_eq!(app.connect(&format!("{POD4}:80"), "").map(drop), Err(libc::EPERM));
    assert_eq!(counter(hooks.maps(), "denied_storage"), 2);
    assert_eq!(server.accept(&listener).map(drop), Err(libc::ETIMEDOUT), "nothing got out");
}

#[test]
fn a_family_without_a_pod_address_is_denied() {
    let node = Node::new();
    let programs = node.load();
    let agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let mut settings = node.spec().settings;
    settings.v6 = None;
    hooks.maps().update_settings(&settings).expect("update");
    assert_eq!(app.connect(&format!("[{SERVICE6}]:80"), "").map(drop), Err(libc::EPERM));
    app.connect(&format!("{SERVICE4}:80"), "").expect("the other family still works");
    assert_eq!(counter(hooks.maps(), "denied_no_address"), 1);
}

#[test]
fn an_unknown_namespace_in_a_pods_cgroup_is_denied() {
    let node = Node::new();
    let programs = node.load();
    let _hooks = node.attach(&programs);
    let mut app = node.actor("pod", "world");
    assert_eq!(app.connect(&format!("{SERVICE4}:80"), "").map(drop), Err(libc::EPERM));
    assert_eq!(app.connect("127.0.0.1:1", "").map(drop), Err(REFUSED), "loopback is its own");
    let counters = programs.counters().expect("read");
    assert!(counters.contains(&("denied_unknown_netns", 1)), "{counters:?}");
}

#[test]
fn bypass_prefixes_and_other_cgroups_are_left_alone() {
    let node = Node::new();
    let programs = node.load();
    let agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut server = node.actor("other", "world");
    let listener = server.listen(&format!("{WORLD4}:80"));

    let mut outsider = node.actor("other", "pod");
    outsider.connect(&format!("{WORLD4}:80"), "").expect("not in the pod's cgroup");
    server.accept(&listener).expect("arrives");

    let mut prefixes = node.spec().prefixes;
    prefixes.bypass = vec!["10.77.0.0/24".parse().expect("prefix")];
    hooks.maps().replace_prefixes(&prefixes).expect("replace");
    let mut app = node.actor("pod", "pod");
    app.connect(&format!("{WORLD4}:80"), "").expect("bypassed");
    server.accept(&listener).expect("arrives");
    assert_eq!(counter(hooks.maps(), "captured"), 0);
    // An own address inside the bypass is still known as the pod's.
    let own = app.listen("0.0.0.0:7000");
    app.connect(&format!("{POD4}:7000"), "").expect("connect");
    app.accept(&own).expect("accept");
    assert_eq!(counter(hooks.maps(), "self_call"), 1);
}

/// A hook on an ancestor cgroup, as socket load balancers attach it, sees only what ours left.
#[test]
fn a_parents_rewrite_comes_after_ours() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let _hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");

    // if (ctx->user_ip4 == SERVICE4) ctx->user_ip4 = WORLD4; return 1;
    let be =
        |ip: &str| i32::from_ne_bytes(ip.parse::<std::net::Ipv4Addr>().expect("address").octets());
    let rewrite = [
        Instruction::new(0x61, 2, 1, 4, 0),
        Instruction::new(0x56, 2, 0, 2, be(SERVICE4)),
        Instruction::mov(3, be(WORLD4)),
        Instruction::new(0x63, 1, 3, 4, 0),
        Instruction::mov(0, 1),
        Instruction::exit(),
    ];
    let program = bpf::load(ProgramType::CgroupSockAddr, AttachType::Connect4, &rewrite)
        .unwrap_or_else(|refused| panic!("{refused} {:?}", refused.source));
    let parent = node.cgroup_fd("");
    let _link = bpf::link_create(&program, &parent, AttachType::Connect4).expect("attach");

    let to = format!("{SERVICE4}:80");
    app.connect(&to, "").expect("connect");
    let accepted = agent.accept(Kind::Outbound, IpAddr::from([10, 0, 0, 1])).expect("accept");
    let copy = agent.actor.copy(&accepted);
    let found = programs.accepted_dst(&copy).expect("read the socket's storage");
    assert_eq!(found, Some(socket_address(&to)), "the virtual address, not the parent's choice");
}
