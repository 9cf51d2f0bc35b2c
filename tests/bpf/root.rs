//! Hooks on the root of the hierarchy: they see everybody, capture pods by their namespaces, and leave all
//! others as they were; and pods that move between them and hooks of their own.

use std::os::fd::AsFd;
use std::path::PathBuf;

use ebpf_abi::Kind;
use ebpf_abi::connect::Hooked;
use ztunnel::capture::hooks::{HookState, PodHooks, attach_own, purge};
use ztunnel::capture::pins::{Completeness, PodLink};
use ztunnel::capture::programs::Programs;
use ztunnel::capture::{DnsCapture, DnsPorts, bpf};

use crate::world::{Actor, Agent, Node, POD4, SERVICE4, WORLD4, counter, socket_address, uid};

/// In the proxy's range of marks.
const PROXY_MARK: &str = "1465008129";

fn set_mark() -> String {
    format!("setsockopt v4 {} {} 4 {PROXY_MARK}", libc::SOL_SOCKET, libc::SO_MARK)
}

/// The pins of the hooks on the root that are there.
fn on_root(programs: &Programs) -> Vec<PathBuf> {
    let links = PodLink::on_cgroup(DnsCapture::On).map(|link| programs.pins().root_link(link));
    links.filter(|path| path.exists()).collect()
}

/// A pod's own hooks that are pinned.
fn own(programs: &Programs) -> usize {
    let pins = programs.pins().pod(&uid());
    PodLink::on_cgroup(DnsCapture::On).filter(|link| pins.link(*link).exists()).count()
}

/// Dials from the pod; it must reach the agent with this destination, from where it was dialled.
fn captures(app: &mut Actor, agent: &mut Agent, programs: &Programs, port: u16) {
    let to = format!("{SERVICE4}:{port}");
    let client = app.connect(&to, "").unwrap_or_else(|errno| panic!("{to}: errno {errno}"));
    let accepted = agent.accept(Kind::Outbound, POD4.parse().expect("ip")).expect("accept");
    assert_eq!(accepted.peer, Some(client.local), "the true source");
    let copy = agent.actor.copy(&accepted);
    let found = programs.accepted_dst(&copy).expect("read the socket's storage");
    assert_eq!(found, Some(socket_address(&to)));
    assert_eq!(client.peer, Some(socket_address(&to)), "getpeername");
    app.close(&client);
    agent.actor.close(&accepted);
}

#[test]
fn what_is_no_pods_passes_on_the_root_and_is_refused_on_a_pod() {
    for (hooked, refused) in [(Hooked::Pod, true), (Hooked::Root, false)] {
        let node = Node::new();
        let programs = match hooked {
            Hooked::Pod => node.load(),
            Hooked::Root => node.load_on_root(),
        };
        node.attach_roles(&programs);
        let agent = Agent::start(&node);
        let hooks = node.attach_with(&programs, |maps| agent.install(maps));
        let mut server = node.actor("other", "world");
        let listener = server.listen(&format!("{WORLD4}:80"));

        // Of the pod's cgroup, and in a namespace that is no pod's.
        let mut stray = node.actor("pod/leaf", "world");
        let dialled = stray.connect(&format!("{WORLD4}:80"), "");
        let expected = if refused { Some(libc::EPERM) } else { None };
        assert_eq!(dialled.as_ref().err().copied(), expected, "{hooked:?}: {dialled:?}");
        let expected = if refused { Err(libc::EPERM) } else { Ok(()) };
        assert_eq!(stray.run(&set_mark()).map(drop), expected, "{hooked:?}");

        // Everybody else is as before.
        let mut host = node.actor("kubelet/below", "world");
        let client = host.connect(&format!("{WORLD4}:80"), "").expect("the host's own");
        assert_eq!(client.peer, Some(socket_address(&format!("{WORLD4}:80"))));
        server.accept(&listener).expect("arrives");
        assert_eq!(host.run(&set_mark()).map(drop), Ok(()));
        // Longer than a page, as rules of iptables are.
        let long = format!("setsockopt v4 {} {} 8192 65536", libc::SOL_SOCKET, libc::SO_RCVBUF);
        assert_eq!(host.run(&long).map(drop), Ok(()));
        assert_eq!(counter(hooks.maps(), "captured"), 0);
    }
}

#[test]
fn a_pod_is_captured_in_whatever_cgroup_its_processes_are() {
    let node = Node::new();
    let programs = node.load_on_root();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    for (port, cgroup) in (80..).zip(["pod", "pod/leaf", "other", "kubelet", "neutral/below"]) {
        let mut app = node.actor(cgroup, "pod");
        captures(&mut app, &mut agent, &programs, port);
        assert_eq!(app.run(&set_mark()).map(drop), Err(libc::EPERM), "{cgroup}");
    }
    // Who serves pods acts in their namespaces, and is no pod: what the agent dials is not captured, and
    // reaches the application.
    let mut app = node.actor("pod", "pod");
    let listener = app.listen("0.0.0.0:7000");
    let before = counter(hooks.maps(), "captured");
    let own = agent.actor.connect(&format!("{POD4}:7000"), "").expect("the agent dials");
    app.accept(&listener).expect("the application gets it");
    agent.actor.close(&own);
    assert_eq!(agent.actor.run(&set_mark()).map(drop), Ok(()));
    let mut server = node.actor("other", "world");
    let outside = server.listen(&format!("{WORLD4}:90"));
    agent.actor.connect(&format!("{WORLD4}:90"), "").expect("and outside");
    server.accept(&outside).expect("arrives");
    // Nor is who plays a stranger: what it dials is steered like any stranger's.
    let mut stranger = node.actor("neutral", "pod");
    stranger.connect(&format!("{POD4}:7000"), "").expect("steered");
    agent.accept(Kind::Plaintext, POD4.parse().expect("ip")).expect("to the proxy");
    assert_eq!(counter(hooks.maps(), "captured"), before);
}

#[test]
fn hooks_are_on_the_root_while_a_pod_needs_them() {
    let node = Node::new();
    let programs = node.load_on_root();
    assert!(on_root(&programs).is_empty(), "nothing before the first pod");
    let hooks = node.attach(&programs);
    assert_eq!((on_root(&programs).len(), own(&programs)), (6, 0), "without those for datagrams");
    let ids: Vec<u32> = on_root(&programs)
        .iter()
        .map(|pin| bpf::link_info(bpf::get(pin).expect("pinned")).expect("a link").id)
        .collect();

    // Another one, which asks questions.
    let twin = model::PodUid::parse("twin").expect("a uid");
    let mut spec = node.spec_with_dns(DnsPorts::default());
    let other = node.netns("world");
    spec.netns_cookie = other.cookie();
    let prepared = PodHooks::prepare(&programs, &twin, &spec).expect("prepare");
    let second = prepared.activate(None, other.as_fd()).expect("attach without a cgroup");
    assert_eq!(on_root(&programs).len(), 10);
    second.detach().expect("detach");
    assert_eq!(on_root(&programs).len(), 6, "nobody asks any more");

    // An agent that follows has them with its own programs, and takes them off with the last pod.
    drop((hooks, programs));
    let programs = node.load_on_root();
    let hooks = PodHooks::adopt(&programs, &uid(), node.expected()).expect("adopt");
    let kept: Vec<u32> = on_root(&programs)
        .iter()
        .map(|pin| bpf::link_info(bpf::get(pin).expect("pinned")).expect("a link").id)
        .collect();
    assert_eq!(kept, ids, "the links stay");

    // Somebody takes one off.
    bpf::link_detach(bpf::get(&on_root(&programs)[0]).expect("pinned")).expect("detach");
    assert_eq!(hooks.state().expect("inspect"), HookState::RootUnhooked);
    hooks.mend_root().expect("mended");
    assert_eq!(hooks.state().expect("inspect"), HookState::Attached);

    hooks.detach().expect("detach");
    assert!(on_root(&programs).is_empty(), "{:?}", on_root(&programs));
    assert_eq!(programs.pins().pods().expect("list"), []);

    // What an agent that was killed left half made.
    drop(PodHooks::prepare(&programs, &uid(), &node.spec()).expect("prepare"));
    drop(node.attach(&programs));
    std::fs::remove_file(programs.pins().pod(&uid()).link(PodLink::SkLookup)).expect("unpin");
    let pins = programs.pins().pod(&uid());
    assert!(matches!(
        pins.completeness(DnsCapture::Off, Hooked::Root),
        Completeness::Partial { missing: "link_sk_lookup" }
    ));
    purge(&programs, &uid()).expect("purge");
    assert!(on_root(&programs).is_empty());
}

#[test]
fn a_pod_moves_between_the_root_and_its_own_cgroup_without_a_gap() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod/leaf", "pod");
    captures(&mut app, &mut agent, &programs, 80);

    // To the root. While the pod has both, its connections are captured once, with their destination.
    drop((hooks, programs));
    let programs = node.load_on_root();
    programs.attach_root(DnsCapture::Off).expect("attach");
    let (shared, pins) = (on_root(&programs).len(), own(&programs));
    assert_eq!((shared, pins), (6, 6), "both");
    captures(&mut app, &mut agent, &programs, 81);
    let hooks = PodHooks::adopt(&programs, &uid(), node.expected()).expect("adopt");
    assert_eq!((on_root(&programs).len(), own(&programs)), (6, 0), "the root alone");
    captures(&mut app, &mut agent, &programs, 82);

    // And back.
    drop((hooks, programs));
    let programs = node.load();
    let cgroup = node.cgroup_fd("pod");
    let target = (node.cgroup_id("pod"), cgroup.as_fd());
    attach_own(&programs, &uid(), DnsCapture::Off, target).expect("attach");
    attach_own(&programs, &uid(), DnsCapture::Off, target).expect("twice is fine");
    assert_eq!((on_root(&programs).len(), own(&programs)), (6, 6), "both");
    let hooks = PodHooks::adopt(&programs, &uid(), node.expected()).expect("adopt");
    captures(&mut app, &mut agent, &programs, 83);
    programs.settle_root().expect("settle");
    assert_eq!((on_root(&programs).len(), own(&programs)), (0, 6), "its own alone");
    captures(&mut app, &mut agent, &programs, 84);
    hooks.detach().expect("detach");
}
