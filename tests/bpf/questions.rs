//! Questions to resolvers: every kind of datagram socket of a pod reaches the slot of the resolver it
//! asked, and never another.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use ebpf_abi::{DNS_RESOLVERS, DNS_SLOTS};
use netns::{Datagram, answer_datagram, own_datagrams, receive_datagram};
use ztunnel::capture::DnsPorts;
use ztunnel::capture::bpf;
use ztunnel::capture::hooks::PodHooks;
use ztunnel::capture::programs::Programs;

use crate::world::{
    Actor, Node, POD4, POD6, Remote, SERVICE4, SERVICE6, WORLD4, counter, eventually,
    socket_address, uid,
};

/// The proxy's sockets in the pod, in the order of their slots.
struct Slots(Vec<UdpSocket>);

impl Slots {
    fn open(node: &Node) -> Self {
        let namespace = node.netns("pod");
        let socket = |family| own_datagrams(&namespace, family, 0).expect("a socket");
        let families = netns::Family::ALL.into_iter();
        Self(families.flat_map(|family| [family; DNS_SLOTS]).map(socket).collect())
    }

    fn ports(&self) -> DnsPorts {
        let mut ports = DnsPorts::default();
        for (port, socket) in ports.0.iter_mut().zip(&self.0) {
            *port = socket.local_addr().expect("bound").port();
        }
        ports
    }

    /// The datagram that came, and to which slot.
    fn receive(&self) -> Option<(usize, String, Datagram)> {
        let mut found = None;
        eventually(|| self.0.iter().any(peek));
        for (slot, socket) in self.0.iter().enumerate() {
            let mut buffer = [0; 256];
            if let Ok(datagram) = receive_datagram(socket, &mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..datagram.length]).into_owned();
                assert!(found.is_none(), "more than one");
                found = Some((slot, text, datagram));
            }
        }
        found
    }

    fn answer(&self, slot: usize, datagram: &Datagram, text: &str) {
        answer_datagram(&self.0[slot], datagram, text.as_bytes()).expect("answer");
    }
}

fn peek(socket: &UdpSocket) -> bool {
    socket.peek(&mut [0]).is_ok()
}

fn attach(node: &Node, programs: &Programs, slots: &Slots) -> PodHooks {
    let spec = node.spec_with_dns(slots.ports());
    let prepared = PodHooks::prepare(programs, &uid(), &spec).expect("prepare the pod");
    let (cgroup, netns) = (node.cgroup_fd("pod"), node.netns("pod"));
    prepared.activate(Some(cgroup.as_fd()), netns.as_fd()).expect("attach the hooks")
}

fn resolver_of(node: &Node, programs: &Programs, slot: usize) -> Option<IpAddr> {
    let slot = u32::try_from(slot).expect("few");
    programs.resolver(node.netns("pod").cookie(), slot).expect("read")
}

fn open(app: &mut Actor, at: &str, options: &str) -> Remote {
    app.socket(&format!("udp {at} {options}")).expect("a socket")
}

/// What a socket receives, and from whom.
fn receive(app: &mut Actor, socket: &Remote) -> Result<(String, SocketAddr), i32> {
    let answer = app.run(&format!("udp-receive {}", socket.id))?;
    let (text, from) = answer.split_once(' ').expect("text and source");
    Ok((text.to_owned(), socket_address(from)))
}

#[test]
fn every_kind_of_socket_asks_and_is_answered_by_its_resolver() {
    let node = Node::new();
    let programs = node.load();
    let slots = Slots::open(&node);
    let hooks = attach(&node, &programs, &slots);
    let mut app = node.actor("pod/leaf", "pod");
    let v4 = format!("{SERVICE4}:53");
    let v6 = format!("[{SERVICE6}]:53");
    let mapped = format!("[::ffff:{SERVICE4}]:53");
    let mut captured = 0;
    for (to, at, options) in [
        (&v4, "0.0.0.0:0", ""),
        (&v4, "10.77.0.2:0", ""),
        (&v4, "127.0.0.1:0", ""),
        (&v4, "0.0.0.0:4000", ""),
        (&v4, "0.0.0.0:0", "device=eth0"),
        (&v6, "[::]:0", ""),
        (&v6, "[fd77::2]:0", ""),
        (&v6, "[::]:0", "device=eth0"),
        (&mapped, "[::]:0", ""),
        (&mapped, "[::]:0", "device=eth0"),
    ] {
        for connected in [false, true] {
            let context = format!("{to} from {at} {options}, connected: {connected}");
            let asked = socket_address(to);
            let socket = open(&mut app, at, options);
            if connected {
                let told = app.socket(&format!("udp-connect {} {to}", socket.id)).expect("connect");
                assert_eq!(told.peer, Some(asked), "{context}: getpeername");
                app.run(&format!("send {} q", socket.id)).expect("send");
                captured += 1;
            } else {
                app.run(&format!("udp-send {} {to} q", socket.id)).expect("send");
                captured += 1;
            }
            let (slot, text, datagram) =
                slots.receive().unwrap_or_else(|| panic!("{context}: nothing came"));
            assert_eq!(text, "q", "{context}");
            let first = if asked.ip().to_canonical().is_ipv4() { 0 } else { DNS_SLOTS };
            assert_eq!(slot, first, "{context}");
            let wire = asked.ip().to_canonical();
            assert_eq!(resolver_of(&node, &programs, slot), Some(wire), "{context}");
            slots.answer(slot, &datagram, "a");
            let (text, from) =
                receive(&mut app, &socket).unwrap_or_else(|e| panic!("{context}: errno {e}"));
            assert_eq!((text.as_str(), from), ("a", asked), "{context}");
            if connected {
                // A destination of its own, on a socket that is connected.
                app.run(&format!("udp-send {} {to} again", socket.id)).expect("send");
                captured += 1;
                let (again, text, _) = slots.receive().expect("another question");
                assert_eq!((again, text.as_str()), (slot, "again"), "{context}");
            }
            app.close(&socket);
        }
    }
    assert_eq!(counter(hooks.maps(), "dns_captured"), captured);
    assert_eq!(counter(hooks.maps(), "captured"), 0);
    assert_eq!(hooks.maps().tuples_len().expect("read"), 0, "nothing is registered");
}

#[test]
fn one_socket_asks_several_resolvers_and_a_late_one_is_left_alone() {
    let node = Node::new();
    let programs = node.load();
    let slots = Slots::open(&node);
    let hooks = attach(&node, &programs, &slots);
    let mut app = node.actor("pod", "pod");
    let mut world = node.actor("other", "world");
    let outside = open(&mut world, &format!("{WORLD4}:53"), "");
    let socket = open(&mut app, "0.0.0.0:0", "");

    let resolvers: Vec<_> = (0..DNS_SLOTS).map(|n| format!("10.96.0.{}:53", 10 + n)).collect();
    for (number, to) in resolvers.iter().enumerate() {
        app.run(&format!("udp-send {} {to} q{number}", socket.id)).expect("send");
    }
    let mut questions: Vec<_> = Vec::new();
    for _ in &resolvers {
        // One at a time, as they come.
        let mut buffer = [0; 16];
        assert!(eventually(|| slots.0.iter().any(peek)));
        let slot = slots.0.iter().position(peek).expect("one came");
        let datagram = receive_datagram(&slots.0[slot], &mut buffer).expect("receive");
        let text = String::from_utf8_lossy(&buffer[..datagram.length]).into_owned();
        assert_eq!(text, format!("q{slot}"), "each slot gets its resolver's question");
        questions.push((slot, datagram));
    }
    // Answers in another order than questions.
    for (slot, datagram) in questions.iter().rev() {
        slots.answer(*slot, datagram, &format!("a{slot}"));
        let (text, from) = receive(&mut app, &socket).expect("an answer");
        assert_eq!(text, format!("a{slot}"));
        assert_eq!(from, socket_address(&resolvers[*slot]));
    }

    app.run(&format!("udp-send {} {WORLD4}:53 late", socket.id)).expect("send");
    let (text, from) = receive(&mut world, &outside).expect("it arrives where it was sent");
    assert_eq!((text.as_str(), from.ip()), ("late", POD4.parse().expect("ip")));
    world.run(&format!("udp-send {} {from} answer", outside.id)).expect("send");
    let (text, from) = receive(&mut app, &socket).expect("an answer");
    assert_eq!((text.as_str(), from), ("answer", socket_address(&format!("{WORLD4}:53"))));
    assert_eq!(counter(hooks.maps(), "dns_no_slot"), 1);
    // A connected socket likewise.
    let told = app.socket(&format!("udp-connect {} {WORLD4}:53", socket.id)).expect("connect");
    assert_eq!(told.peer, Some(socket_address(&format!("{WORLD4}:53"))));
    app.run(&format!("send {} late", socket.id)).expect("send");
    receive(&mut world, &outside).expect("it arrives where it was sent");
    assert_eq!(counter(hooks.maps(), "dns_no_slot"), 2);
    assert!(slots.receive().is_none());
}

#[test]
fn a_socket_that_connects_again_shows_its_new_peer() {
    let node = Node::new();
    let programs = node.load();
    let slots = Slots::open(&node);
    let _hooks = attach(&node, &programs, &slots);
    let mut app = node.actor("pod", "pod");
    let socket = open(&mut app, "0.0.0.0:0", "");
    let mut connect =
        |to: &str| app.socket(&format!("udp-connect {} {to}", socket.id)).expect("connect").peer;
    for to in [
        format!("{SERVICE4}:53"),
        format!("{WORLD4}:4000"),
        "10.96.0.11:53".to_owned(),
        "127.0.0.1:53".to_owned(),
        format!("{SERVICE4}:53"),
        format!("{POD4}:53"),
    ] {
        assert_eq!(connect(&to), Some(socket_address(&to)));
    }
}

#[test]
fn a_pod_that_leaves_gives_its_slots_back() {
    let node = Node::new();
    let programs = node.load();
    let slots = Slots::open(&node);
    let mut app = node.actor("pod", "pod");
    let socket = open(&mut app, "0.0.0.0:0", "");
    for resolver in ["10.96.0.10", "10.96.0.11"] {
        let hooks = attach(&node, &programs, &slots);
        app.run(&format!("udp-send {} {resolver}:53 q", socket.id)).expect("send");
        let (slot, _, _) = slots.receive().expect("a question");
        assert_eq!(slot, 0);
        assert_eq!(resolver_of(&node, &programs, 0), resolver.parse().ok());
        hooks.detach().expect("detach");
        assert_eq!(resolver_of(&node, &programs, 0), None);
    }
}

#[test]
fn what_is_no_question_is_left_alone() {
    let node = Node::new();
    let programs = node.load();
    let slots = Slots::open(&node);
    let hooks = attach(&node, &programs, &slots);
    let mut app = node.actor("pod", "pod");
    let mut world = node.actor("other", "world");
    let other_port = open(&mut world, &format!("{WORLD4}:5353"), "");
    let socket = open(&mut app, "0.0.0.0:0", "");

    app.run(&format!("udp-send {} {WORLD4}:5353 q", socket.id)).expect("send");
    receive(&mut world, &other_port).expect("another port");
    for at in ["127.0.0.1:53", "10.77.0.2:53"] {
        let own = open(&mut app, at, "");
        app.run(&format!("udp-send {} {at} q", socket.id)).expect("send");
        let (text, from) = receive(&mut app, &own).expect("the pod's own resolver");
        assert_eq!(text, "q");
        app.run(&format!("udp-send {} {from} a", own.id)).expect("send");
        assert_eq!(receive(&mut app, &socket), Ok(("a".to_owned(), socket_address(at))));
        app.close(&own);
    }

    let mut prefixes = node.spec().prefixes;
    prefixes.bypass = vec!["10.77.0.0/24".parse().expect("prefix")];
    hooks.maps().replace_prefixes(&prefixes).expect("replace");
    let resolver = open(&mut world, &format!("{WORLD4}:53"), "");
    app.run(&format!("udp-send {} {WORLD4}:53 q", socket.id)).expect("send");
    receive(&mut world, &resolver).expect("a bypassed resolver");
    hooks.maps().replace_prefixes(&node.spec().prefixes).expect("replace");

    let mut outsider = node.actor("other", "pod");
    let theirs = open(&mut outsider, "0.0.0.0:0", "");
    outsider.run(&format!("udp-send {} {WORLD4}:53 q", theirs.id)).expect("send");
    receive(&mut world, &resolver).expect("not in the pod's cgroup, as the agent is not");
    assert!(slots.0.iter().all(|socket| !peek(socket)));
    assert_eq!(counter(hooks.maps(), "dns_captured"), 0);
    assert!((0..DNS_RESOLVERS).all(|slot| resolver_of(&node, &programs, slot).is_none()));
}

#[test]
fn without_the_switch_a_pods_datagrams_have_no_hooks() {
    let node = Node::new();
    let programs = node.load();
    let hooks = node.attach(&programs);
    for name in ["link_sendmsg4", "link_sendmsg6", "link_recvmsg4", "link_recvmsg6"] {
        let path = programs.pins().pod(&uid()).map(name);
        assert!(bpf::get(&path).is_err(), "{name}");
    }
    let mut app = node.actor("pod", "pod");
    let mut world = node.actor("other", "world");
    let resolver = open(&mut world, &format!("{WORLD4}:53"), "");
    let socket = open(&mut app, "0.0.0.0:0", "");
    app.run(&format!("udp-send {} {WORLD4}:53 q", socket.id)).expect("send");
    receive(&mut world, &resolver).expect("unconnected");
    let told = app.socket(&format!("udp-connect {} {WORLD4}:53", socket.id)).expect("connect");
    assert_eq!(told.peer, Some(socket_address(&format!("{WORLD4}:53"))));
    app.run(&format!("send {} q", socket.id)).expect("send");
    receive(&mut world, &resolver).expect("connected");
    assert_eq!(counter(hooks.maps(), "dns_captured"), 0);
}

#[test]
fn sockets_that_are_gone_fail_and_are_not_passed_by() {
    let node = Node::new();
    let programs = node.load();
    let slots = Slots::open(&node);
    let _hooks = attach(&node, &programs, &slots);
    let mut app = node.actor("pod", "pod");
    let mut world = node.actor("other", "world");
    let resolver = open(&mut world, &format!("{WORLD4}:53"), "");
    drop(slots);
    let socket = open(&mut app, "0.0.0.0:0", "");
    app.socket(&format!("udp-connect {} {WORLD4}:53", socket.id)).expect("connect");
    app.run(&format!("send {} q", socket.id)).expect("send");
    assert_eq!(receive(&mut app, &socket), Err(libc::ECONNREFUSED), "told at once");
    assert_eq!(receive(&mut world, &resolver), Err(libc::EAGAIN), "nothing got out");
}

#[test]
fn the_proxys_sockets_take_nothing_from_outside() {
    let node = Node::new();
    let programs = node.load();
    let slots = Slots::open(&node);
    let _hooks = attach(&node, &programs, &slots);
    let ports = slots.ports().0;
    let (v4, v6) = (format!("{POD4}:{}", ports[0]), format!("[{POD6}]:{}", ports[DNS_SLOTS]));
    let mut world = node.actor("other", "world");
    let mut app = node.actor("pod", "pod");
    // An ordinary socket takes all of this.
    let ordinary = open(&mut app, "[::]:4000", "");
    let spoofed = open(&mut world, "[fd77::2]:0", "transparent");
    world.run(&format!("udp-send {} [{POD6}]:4000 q", spoofed.id)).expect("send");
    let (_, from) = receive(&mut app, &ordinary).expect("it arrives");
    assert_eq!(from.ip(), POD6.parse::<IpAddr>().expect("ip"), "as if from the pod itself");
    for (at, options, to) in [
        ("0.0.0.0:0", "", &v4),
        ("[::]:0", "", &v6),
        // With the pod's own address as source, which IPv6 takes from anywhere.
        ("[fd77::2]:4001", "transparent", &v6),
    ] {
        let socket = open(&mut world, at, options);
        world.run(&format!("udp-send {} {to} q", socket.id)).expect("send");
    }
    // A question from within comes after them.
    for (at, to) in [("0.0.0.0:0", SERVICE4.to_owned()), ("[::]:0", format!("[{SERVICE6}]"))] {
        let socket = open(&mut app, at, "");
        app.run(&format!("udp-send {} {to}:53 inside", socket.id)).expect("send");
        let (_, text, _) = slots.receive().expect("a question");
        assert_eq!(text, "inside");
    }
}
