//! Roles: the agent's and the kubelet's connections pass, their neighbours' do not.

use std::{fs, net::IpAddr};

use ebpf_abi::Kind;
use ztunnel::capture::{
    bpf::{self, LinkTarget},
    programs::{Predecessor, Programs},
};

use crate::world::{Agent, Node, POD4, POD6, WORLD4, counter, eventually};

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

#[test]
fn the_agents_connections_pass_and_only_theirs() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let v4 = app.listen("0.0.0.0:80");
    let v6 = app.listen("[::]:80");

    agent.actor.connect(&format!("{POD4}:80"), "").expect("connect");
    app.accept(&v4).expect("the agent reaches the application");
    agent.actor.connect(&format!("[{POD6}]:80"), "").expect("connect");
    app.accept(&v6).expect("the agent reaches the application");
    assert_eq!(counter(hooks.maps(), "passed_proxy"), 2);
    let left = || hooks.maps().tuples_len().expect("read");
    assert_eq!(left(), 0, "accepted, so nobody asks for them any more");
    let mut server = node.actor("other", "world");
    let listener = server.listen(&format!("{WORLD4}:80"));
    agent.actor.connect(&format!("{WORLD4}:80"), "").expect("connect");
    server.accept(&listener).expect("outside");
    assert_eq!(left(), 0, "it has left the pod");
    for port in [POD4.to_owned(), format!("[{POD6}]")].map(|host| format!("{host}:81")) {
        assert_eq!(agent.actor.connect(&port, "").map(drop), Err(libc::ECONNREFUSED));
    }
    assert!(eventually(|| left() == 0), "gone with the sockets");

    // The same namespace, another cgroup.
    let mut neighbour = node.actor("other", "pod");
    neighbour.connect(&format!("{POD4}:80"), "").expect("connect");
    agent.accept(Kind::Plaintext, ip(POD4)).expect("judged");
}

/// A registration that outlived the agent would let a stranger's connection pass for its own.
#[test]
fn a_killed_agents_registrations_go_with_its_sockets() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    // The agent's own descriptors of programs and links go when it is killed: here, before its
    // sockets do, which is the worse order.
    drop(programs);
    // They are being opened for as long as nobody answers.
    node.shell(
        "pod",
        "nft add table inet t && nft 'add chain inet t c { type filter hook input priority 0; }' \
         && nft add rule inet t c tcp dport 80 drop",
    );
    for _ in 0..20 {
        agent.actor.connect(&format!("{POD4}:80"), "begun").expect("begin");
        agent.actor.connect(&format!("[{POD6}]:80"), "begun").expect("begin");
    }
    assert_eq!(hooks.maps().tuples_len().expect("read"), 40);
    drop(agent);
    assert!(eventually(|| hooks.maps().tuples_len().expect("read") == 0), "gone with the sockets");

    // What runs without an agent is judged: its slots are empty.
    node.shell("pod", "nft delete table inet t");
    let mut neighbour = node.actor("other", "pod");
    assert_eq!(
        neighbour.connect(&format!("{POD4}:80"), "").map(drop),
        Err(libc::ECONNREFUSED),
        "nobody is there to judge"
    );
}

#[test]
fn an_agent_that_retires_keeps_its_role_until_it_has_ended() {
    let node = Node::new();
    let first = node.load();
    node.attach_roles(&first);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&first, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let listener = app.listen("0.0.0.0:80");
    let to = format!("{POD4}:80");

    let second = node.load_as("other", Predecessor::Retiring);
    node.attach_roles_to(&second, "other");
    let mut successor = node.actor("other", "pod");
    successor.connect(&to, "").expect("connect");
    app.accept(&listener).expect("the next agent reaches the application");
    agent.actor.connect(&to, "").expect("connect");
    app.accept(&listener).expect("and so does the one that retires");
    assert_eq!(hooks.maps().tuples_len().expect("read"), 0, "both have done their work");

    second.retired().expect("take the role");
    agent.actor.connect(&to, "").expect("connect");
    agent.accept(Kind::Plaintext, ip(POD4)).expect("judged, like any other");
    successor.connect(&to, "").expect("connect");
    app.accept(&listener).expect("the next agent keeps its own");

    // An agent that finds no predecessor alive gives nobody a second place.
    let third = node.load_as("agent", Predecessor::Gone);
    node.attach_roles(&third);
    let mut neighbour = node.actor("other", "pod");
    neighbour.connect(&to, "").expect("connect");
    agent.accept(Kind::Plaintext, ip(POD4)).expect("judged");
}

#[test]
fn the_agents_hooks_are_adopted_and_follow_its_cgroup() {
    let node = Node::new();
    let links = |programs: &Programs| {
        let names = ["link_agent_sock_ops", "link_agent_connect4", "link_agent_connect6"];
        names.map(|name| {
            let link = bpf::get(&programs.pins().shared(name)).expect("pinned");
            bpf::link_info(&link).expect("a link")
        })
    };
    let programs = node.load();
    node.attach_roles(&programs);
    let first = links(&programs);
    let programs = node.load();
    node.attach_roles(&programs);
    let second = links(&programs);
    for (before, after) in first.into_iter().zip(second) {
        assert_eq!(before.id, after.id, "the link stays");
        assert_ne!(before.program, after.program, "its program is new");
    }
    fs::remove_dir(node.cgroup("agent")).expect("remove the cgroup");
    fs::create_dir(node.cgroup("agent")).expect("create it again");
    let programs = node.load();
    node.attach_roles(&programs);
    let id = node.cgroup_id("agent");
    for (before, after) in second.into_iter().zip(links(&programs)) {
        assert_ne!(before.id, after.id, "a new link");
        assert_eq!(after.target, LinkTarget::Cgroup { id });
    }
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let listener = app.listen("0.0.0.0:80");
    agent.actor.connect(&format!("{POD4}:80"), "").expect("connect");
    app.accept(&listener).expect("the agent reaches the application");
    assert_eq!(counter(hooks.maps(), "passed_proxy"), 1);
}

#[test]
fn the_kubelet_passes_to_probe_ports() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let v4 = app.listen("0.0.0.0:8080");
    let v6 = app.listen("[::]:8080");
    let mut kubelet = node.actor("kubelet", "world");

    for _ in 0..20 {
        let probe = kubelet.connect(&format!("{POD4}:8080"), "").expect("connect");
        let accepted = app.accept(&v4).expect("the probe reaches the application");
        kubelet.close(&probe);
        app.close(&accepted);
    }
    kubelet.connect(&format!("[{POD6}]:8080"), "").expect("connect");
    app.accept(&v6).expect("the probe reaches the application");
    assert_eq!(counter(hooks.maps(), "passed_probe"), 21);

    kubelet.connect(&format!("{POD4}:8081"), "").expect("connect");
    agent.accept(Kind::Plaintext, ip(POD4)).expect("no probe port: judged");

    for cgroup in ["other", "kubelet/below"] {
        let mut neighbour = node.actor(cgroup, "world");
        for _ in 0..20 {
            let client = neighbour.connect(&format!("{POD4}:8080"), "").expect("connect");
            let accepted = agent.accept(Kind::Plaintext, ip(POD4)).expect("judged");
            neighbour.close(&client);
            agent.actor.close(&accepted);
        }
    }
    // A process in the kubelet's cgroup that is not in the host's namespace.
    let mut inside = node.actor("kubelet", "pod");
    inside.connect(&format!("{POD4}:8080"), "").expect("connect");
    agent.accept(Kind::Plaintext, ip(POD4)).expect("judged");
    assert_eq!(counter(hooks.maps(), "passed_probe"), 21);
}

#[test]
fn the_kubelets_hooks_outlive_the_agent_and_are_adopted() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let listener = app.listen("0.0.0.0:8080");
    let mut kubelet = node.actor("kubelet", "world");
    let links = || {
        let names = ["link_kubelet_sock_ops", "link_kubelet_connect4", "link_kubelet_connect6"];
        names.map(|name| {
            let link = bpf::get(&programs.pins().shared(name)).expect("pinned");
            bpf::link_info(&link).expect("a link")
        })
    };
    let before = links();
    kubelet.connect(&format!("{POD4}:8080"), "").expect("connect");
    app.accept(&listener).expect("no agent, but a probe passes");

    let programs = node.load();
    node.attach_roles(&programs);
    for (before, after) in before.into_iter().zip(links()) {
        assert_eq!(before.id, after.id, "the link stays");
        assert_ne!(before.program, after.program, "its program is new");
    }
    kubelet.connect(&format!("{POD4}:8080"), "").expect("connect");
    app.accept(&listener).expect("still passes");
    assert_eq!(counter(hooks.maps(), "passed_probe"), 2);
    agent.actor.connect(&format!("{POD4}:8080"), "").expect("connect");
    app.accept(&listener).expect("the agent's role works again");
}
