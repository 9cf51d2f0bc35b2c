//! Attach, adopt, detach: all or nothing, without a gap, without a trace.

use std::{collections::HashSet, fs, os::fd::AsFd};

use aya::{
    maps::loaded_maps,
    programs::{loaded_links, loaded_programs},
};
use ebpf_abi::{Kind, connect::Hooked};
use ztunnel::capture::{
    DnsCapture, DnsPorts, bpf,
    hooks::{AdoptError, Expected, HookError, HookState, PodHooks, purge},
    pins::{Completeness, POD_MAPS, PinError, PinRoot, PodLink},
    probe::{ProbeError, probe},
    programs::Programs,
};

use crate::world::{Agent, Node, POD4, SERVICE4, eventually, uid};

/// Kernel ids of everything that belongs to the pod.
#[derive(Default)]
struct Ids {
    maps: HashSet<u32>,
    links: HashSet<u32>,
    programs: HashSet<u32>,
}

impl Ids {
    /// Ids are not given again soon, so they tell leaks apart from what others load meanwhile.
    fn record(&mut self, programs: &Programs) {
        let pins = programs.pins().pod(&uid());
        for name in POD_MAPS {
            let map = bpf::get(&pins.map(name)).expect("a pinned map");
            self.maps.insert(bpf::map_info(&map).expect("a map").id);
        }
        for link in PodLink::ALL {
            let fd = bpf::get(&pins.link(link)).expect("a pinned link");
            let info = bpf::link_info(&fd).expect("a link");
            self.links.insert(info.id);
            if link == PodLink::SkLookup {
                self.programs.insert(info.program);
            }
        }
    }

    /// Those that still exist.
    fn alive(&self) -> [usize; 3] {
        let maps = loaded_maps().filter_map(Result::ok).map(|map| map.id());
        let links = loaded_links().filter_map(Result::ok).map(|link| link.id());
        let programs = loaded_programs().filter_map(Result::ok).map(|program| program.id());
        [
            maps.filter(|id| self.maps.contains(id)).count(),
            links.filter(|id| self.links.contains(id)).count(),
            programs.filter(|id| self.programs.contains(id)).count(),
        ]
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn a_thousand_pods_leave_nothing() {
    let node = Node::new();
    let programs = node.load();
    let (cgroup, netns) = (node.cgroup_fd("pod"), node.netns("pod"));
    let spec = node.spec_with_dns(DnsPorts::default());
    let mut ids = Ids::default();
    for _ in 0..1000 {
        let prepared = PodHooks::prepare(&programs, &uid(), &spec).expect("prepare");
        let hooks = prepared.activate(Some(cgroup.as_fd()), netns.as_fd()).expect("attach");
        ids.record(&programs);
        hooks.detach().expect("detach");
    }
    assert_eq!((ids.maps.len(), ids.links.len(), ids.programs.len()), (5000, 11_000, 1000));
    assert!(eventually(|| ids.alive() == [0, 0, 0]), "left: {:?}", ids.alive());
    assert_eq!(programs.pins().pods().expect("list"), []);
    // Other tests of this process open and close descriptors meanwhile, a leak would be thousands.
    assert!(open_descriptors() < 1000, "{} descriptors", open_descriptors());
    for name in ["POD_TUPLES", "POD_PREFIXES", "POD_SETTINGS", "POD_COUNTERS"] {
        let outer: bpf::Map<u64, u32> =
            bpf::Map::open(&programs.pins().shared(name)).expect("open an outer map");
        assert_eq!(outer.keys().expect("list"), Vec::<u64>::new(), "{name}");
    }
}

#[test]
fn a_new_agent_adopts_without_touching_connections() {
    let node = Node::new();
    let programs = node.load();
    node.attach_roles(&programs);
    let mut agent = Agent::start(&node);
    let hooks = node.attach_with(&programs, |maps| agent.install(maps));
    let mut app = node.actor("pod", "pod");
    let pins = programs.pins().pod(&uid());
    let info = |link: PodLink| {
        bpf::link_info(bpf::get(&pins.link(link)).expect("pinned")).expect("a link")
    };
    let links = || PodLink::of(DnsCapture::Off).map(info);
    let before: Vec<_> = links().collect();
    let client = app.connect(&format!("{SERVICE4}:80"), "").expect("connect");
    let accepted = agent.accept(Kind::Outbound, POD4.parse().expect("ip")).expect("accept");

    // The agent is killed: its descriptors close, pins stay.
    drop((hooks, programs));
    app.connect(&format!("{SERVICE4}:81"), "").expect("capture goes on with the old listeners");
    agent.accept(Kind::Outbound, POD4.parse().expect("ip")).expect("accept");

    let programs = node.load();
    let hooks = PodHooks::adopt(&programs, &uid(), node.expected()).expect("adopt");
    assert_eq!(hooks.state().expect("inspect"), HookState::Attached);
    for (before, after) in before.into_iter().zip(links()) {
        assert_eq!((before.id, before.target), (after.id, after.target), "the link stays");
        assert_ne!(before.program, after.program, "its program is new");
    }
    let copy = agent.actor.copy(&accepted);
    let found = programs.accepted_dst(&copy).expect("read the socket's storage");
    assert!(found.is_some(), "what a socket carries stays");
    app.run(&format!("send {} hello", client.id)).expect("send");
    assert_eq!(agent.actor.run(&format!("receive {}", accepted.id)), Ok("hello".to_owned()));

    let mut new = Agent::start(&node);
    new.install(hooks.maps());
    let to = format!("{SERVICE4}:82");
    let client = app.connect(&to, "").expect("connect");
    assert_eq!(client.peer, to.parse().ok(), "the new getpeername sees the old storage's map");
    new.accept(Kind::Outbound, POD4.parse().expect("ip")).expect("the new listeners");
    hooks.detach().expect("detach");
    assert_eq!(pins.completeness(DnsCapture::Off, Hooked::Pod), Completeness::Absent);
}

#[test]
fn adoption_refuses_what_it_does_not_recognise() {
    let node = Node::new();
    let programs = node.load();
    let expected = node.expected();
    let adopt = |expected| PodHooks::adopt(&programs, &uid(), expected);
    assert!(matches!(adopt(expected), Err(AdoptError::NotFound { .. })));
    let hooks = node.attach(&programs);
    for wrong in [
        Expected { cgroup_id: expected.cgroup_id.map(|id| id + 1), ..expected },
        Expected { netns_inode: expected.netns_inode + 1, ..expected },
    ] {
        assert!(matches!(adopt(wrong), Err(AdoptError::Mismatch { .. })));
    }
    let again = PodHooks::prepare(&programs, &uid(), &node.spec());
    assert!(matches!(again, Err(HookError::AlreadyAttached { .. })));
    let twin = model::PodUid::parse("twin").expect("a uid");
    let same = PodHooks::prepare(&programs, &twin, &node.spec());
    assert!(matches!(same, Err(HookError::NetnsTaken)), "one pod a namespace");
    assert_eq!(
        programs.pins().pod(&twin).completeness(DnsCapture::Off, Hooked::Pod),
        Completeness::Absent
    );

    // Half a folder: recognised, and cleared by the next attempt.
    drop(hooks);
    let pin = programs.pins().pod(&uid()).link(PodLink::Connect6);
    fs::remove_file(pin).expect("remove a pin");
    assert!(matches!(
        adopt(expected),
        Err(AdoptError::Incomplete { missing: "link_connect6", .. })
    ));
    let hooks = node.attach(&programs);
    drop(hooks);
    adopt(expected).expect("whole again");
    // With the switch the other way its links are too many, or too few.
    let on = Expected { dns: DnsCapture::On, ..expected };
    assert!(matches!(adopt(on), Err(AdoptError::Incomplete { missing: "link_recvmsg4", .. })));
    let spec = node.spec_with_dns(DnsPorts::default());
    let prepared = PodHooks::prepare(&programs, &uid(), &spec).expect("cleared, then prepared");
    let pod = (node.cgroup_fd("pod"), node.netns("pod"));
    drop(prepared.activate(Some(pod.0.as_fd()), pod.1.as_fd()).expect("attach"));
    assert!(matches!(adopt(expected), Err(AdoptError::Incomplete { .. })));
    drop(adopt(on).expect("as it was attached"));
    purge(&programs, &uid()).expect("purge");
    purge(&programs, &uid()).expect("purge nothing");
    assert_eq!(
        programs.pins().pod(&uid()).completeness(DnsCapture::Off, Hooked::Pod),
        Completeness::Absent
    );
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let node = Node::new();
    let programs = node.load();
    let cgroup = node.cgroup_fd("pod");
    let mut app = node.actor("pod", "pod");
    let mut server = node.actor("other", "world");
    let listener = server.listen("10.77.0.1:80");

    // The last hook fails: a cgroup is no network namespace.
    let prepared = PodHooks::prepare(&programs, &uid(), &node.spec()).expect("prepare");
    let failed = prepared.activate(Some(cgroup.as_fd()), cgroup.as_fd());
    assert!(matches!(failed, Err(HookError::Kernel { operation: "attach a hook", .. })));
    assert_eq!(
        programs.pins().pod(&uid()).completeness(DnsCapture::Off, Hooked::Pod),
        Completeness::Absent
    );
    app.connect("10.77.0.1:80", "").expect("the pod is as before");
    server.accept(&listener).expect("arrives");

    // Preparation alone, given up.
    drop(PodHooks::prepare(&programs, &uid(), &node.spec()).expect("prepare"));
    assert_eq!(
        programs.pins().pod(&uid()).completeness(DnsCapture::Off, Hooked::Pod),
        Completeness::Absent
    );

    let mut spec = node.spec();
    spec.settings.threads = 17;
    let refused = PodHooks::prepare(&programs, &uid(), &spec);
    assert!(matches!(refused, Err(HookError::Settings(_))));
    node.attach(&programs).detach().expect("and then it works");
}

#[test]
fn a_failed_detach_can_be_repeated() {
    let node = Node::new();
    let programs = node.load();
    let hooks = node.attach(&programs);
    let pins = programs.pins().pod(&uid());
    // A folder among the pins cannot be removed like one.
    let intruder = pins.map("intruder");
    fs::create_dir(&intruder).expect("create a folder");
    hooks.detach().expect_err("something is left");
    hooks.detach().expect_err("and again");
    fs::remove_dir(&intruder).expect("remove the folder");
    hooks.detach().expect("now nothing is left");
    assert_eq!(pins.completeness(DnsCapture::Off, Hooked::Pod), Completeness::Absent);
}

#[test]
fn vanished_targets_are_noticed() {
    let node = Node::new();
    let programs = node.load();
    let hooks = node.attach(&programs);
    let expected = node.expected();
    assert_eq!(hooks.state().expect("inspect"), HookState::Attached);
    fs::remove_dir(node.cgroup("pod/leaf")).expect("remove the cgroup");
    fs::remove_dir(node.cgroup("pod")).expect("remove the cgroup");
    assert!(eventually(|| hooks.state().expect("inspect") == HookState::CgroupGone));
    let adopted = PodHooks::adopt(&programs, &uid(), expected);
    assert!(matches!(adopted, Err(AdoptError::CgroupGone { .. })));
    hooks.detach().expect("detach what is left");
    assert_eq!(
        programs.pins().pod(&uid()).completeness(DnsCapture::Off, Hooked::Pod),
        Completeness::Absent
    );

    fs::create_dir(node.cgroup("pod")).expect("create");
    let hooks = node.attach(&programs);
    let expected = node.expected();
    node.shell("world", &format!("ip netns del {}", node.netns_name("pod")));
    assert!(eventually(|| hooks.state().expect("inspect") == HookState::NetnsGone));
    let adopted = PodHooks::adopt(&programs, &uid(), expected);
    assert!(matches!(adopted, Err(AdoptError::NetnsGone { .. })));
    purge(&programs, &uid()).expect("purge what is left");
    assert_eq!(
        programs.pins().pod(&uid()).completeness(DnsCapture::Off, Hooked::Pod),
        Completeness::Absent
    );
}

#[test]
fn the_probe_names_what_is_missing() {
    let node = Node::new();
    probe(&node.cgroup("agent"), &node.pin_root()).expect("this kernel has everything");
    let elsewhere = tempfile::tempdir().expect("temporary folder");
    let cgroup = node.cgroup("agent");
    assert!(matches!(
        probe(&cgroup, elsewhere.path()),
        Err(ProbeError::Pins(PinError::NotBpffs { .. }))
    ));
    assert!(matches!(
        probe(elsewhere.path(), &node.pin_root()),
        Err(ProbeError::NotCgroup2 { .. })
    ));
    let missing = elsewhere.path().join("a/b");
    assert!(matches!(PinRoot::open(&missing), Err(PinError::Io { .. })));
}
