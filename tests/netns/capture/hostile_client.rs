//! A client pod with NET_ADMIN and NET_RAW does what it can to reach servers past policy.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::ensure;
use tests::protocol::ConnectOptions;
use tests::{Actor, Agent, AgentOptions, Listener, LogMark, Mesh, Pod, PodSpec, World, wait_until};
use ztunnel::capture::bpf;

use crate::stage::{House, answered, brief, counter, ready};

const PORT: u16 = 8080;
/// The proxy's mark, and one more of its range.
const PROXY_MARKS: [u32; 2] = [ebpf_abi::PROXY_MARK, ebpf_abi::PROXY_MARK | 0xffff];
/// Marks that mean something to others, or nothing.
const OTHER_MARKS: [u32; 4] = [1337, 0x539, 0x111, 0x0e00];

/// A mesh whose servers admit `friend` only, and a hostile process in the pod `mallory`.
struct Stage {
    mallory: Pod,
    hostile: Actor,
    friend: House,
    near: House,
    far: House,
    west: Agent,
    east: Agent,
    _world: World,
}

impl Stage {
    fn new(options: &AgentOptions) -> anyhow::Result<Self> {
        let world = World::new(2)?;
        let mallory = world.pod(PodSpec::new(1, "mallory"))?;
        let friend = House::new(&world, PodSpec::new(1, "friend"))?;
        let near = House::new(&world, PodSpec::new(1, "near"))?;
        let far = House::new(&world, PodSpec::new(2, "far"))?;
        let pods = [&mallory, &friend.pod, &near.pod, &far.pod];
        let mesh = Mesh::new().workloads(pods);
        world.set_mesh(&mesh.allow("shop", "friends-only", &[&friend.pod.identity()]))?;
        let west = ready(&world, 1, options.clone())?;
        let east = ready(&world, 2, options.clone())?;
        for pod in [&mallory, &friend.pod, &near.pod] {
            west.enrol(pod)?;
        }
        east.enrol(&far.pod)?;
        let hostile = mallory.confined_actor(&["net_admin", "net_raw"])?;
        Ok(Self { mallory, hostile, friend, near, far, west, east, _world: world })
    }

    fn targets(&self) -> Vec<SocketAddr> {
        [&self.near, &self.far].iter().flat_map(|house| house.both(PORT)).collect()
    }

    /// Runs a script of the hostile process; its commands may fail.
    fn run(&self, script: &str) -> anyhow::Result<String> {
        let (_, output, errors) = self.hostile.shell(script)?;
        Ok(output + &errors)
    }

    /// Runs a script all of whose commands must work, or the attack is none.
    fn must(&self, script: &str) -> anyhow::Result<()> {
        let (status, output, errors) = self.hostile.shell(&format!("set -e\n{script}"))?;
        ensure!(status == 0, "{script}: {output}{errors}");
        Ok(())
    }

    fn agent_of(&self, pod: &Pod) -> &Agent {
        if pod.node() == 1 { &self.west } else { &self.east }
    }

    /// The proof that an attack did leave the pod uncaptured: the server's node has judged it, and
    /// refused.
    fn arrived_without_identity(
        &self,
        server: &Pod,
        (source, target): (IpAddr, SocketAddr),
        since: LogMark,
    ) -> anyhow::Result<()> {
        let what = format!("plaintext from {source} to {target}");
        let line = self.agent_of(server).wait_access(since, &what, |line| {
            line.path == "plaintext"
                && line.destination == target.to_string()
                && line.source.parse().is_ok_and(|from: SocketAddr| from.ip() == source)
        })?;
        assert_eq!((&*line.code, &*line.source_identity), ("POLICY_NO_MATCH", ""), "{line:?}");
        Ok(())
    }

    /// Tries every server; the applications' own count decides.
    fn tries(&self, what: &str, options: &ConnectOptions) {
        for target in self.targets() {
            let answered = answered(&self.hostile, target, options.clone());
            assert!(!answered, "{what}: {target} answered");
        }
    }
}

/// The closing proof of the hostile client: whatever it does, each server's application has
/// accepted the friend's connections and no other.
#[test]
fn a_hostile_pod_cannot_leave_the_mesh() -> anyhow::Result<()> {
    stays_in_the_mesh(&AgentOptions::default())
}

#[test]
fn a_hostile_pod_cannot_leave_the_mesh_with_hooks_on_the_root() -> anyhow::Result<()> {
    stays_in_the_mesh(&AgentOptions::default().on_root())
}

fn stays_in_the_mesh(options: &AgentOptions) -> anyhow::Result<()> {
    let stage = Stage::new(options)?;
    let served = [stage.near.echo(PORT)?, stage.far.echo(PORT)?];
    for target in stage.targets() {
        assert!(answered(&stage.friend.actor, target, brief()), "{target}: the friend");
    }
    stage.tries("as it is", &brief());
    flushes_filters(&stage)?;
    sets_marks(&stage)?;
    calls_bpf(&stage)?;
    dials_odd_addresses(&stage)?;
    redirects_itself(&stage)?;
    borrows_addresses(&stage)?;
    makes_namespaces(&stage)?;
    changes_routes_and_sysctls(&stage)?;
    nobody_else_came(&stage, &served)
}

fn nobody_else_came(stage: &Stage, served: &[Listener<'_>]) -> anyhow::Result<()> {
    for listener in served {
        let report = listener.report()?;
        let friend = [stage.friend.pod.ipv4(), stage.friend.pod.ipv6()];
        for accepted in &report.connections {
            assert!(friend.contains(&accepted.peer.ip().to_canonical()), "{accepted:?}");
        }
        assert_eq!(report.accepted, 2, "{report:?}");
    }
    for target in stage.targets() {
        assert!(answered(&stage.friend.actor, target, brief()), "{target}: the friend, afterwards");
    }
    Ok(())
}

/// nftables, iptables, tc and XDP hold nothing of the capture.
fn flushes_filters(stage: &Stage) -> anyhow::Result<()> {
    stage.must("nft flush ruleset")?;
    stage.run(
        "for t in iptables ip6tables; do for n in filter nat mangle raw; do
           $t -t $n -F; $t -t $n -X; done; $t -P INPUT ACCEPT; $t -P OUTPUT ACCEPT; done
         for d in lo eth0; do
           tc qdisc del dev $d root; tc qdisc del dev $d clsact; tc qdisc del dev $d ingress
           tc filter del dev $d ingress; tc filter del dev $d egress
           for x in xdp xdpgeneric xdpdrv; do ip link set dev $d $x off; done
         done",
    )?;
    stage.tries("without filters", &brief());
    Ok(())
}

fn sets_marks(stage: &Stage) -> anyhow::Result<()> {
    for mark in PROXY_MARKS {
        for target in stage.targets() {
            let options = ConnectOptions { mark: Some(mark), ..brief() };
            let refused =
                stage.hostile.connect_with(target, options).expect_err("the proxy's mark");
            assert_eq!((&*refused.operation, refused.errno), ("mark", Some(libc::EPERM)));
        }
    }
    for mark in OTHER_MARKS {
        stage.tries("with a mark", &ConnectOptions { mark: Some(mark), ..brief() });
    }
    // What a socket may not, a packet filter may: it marks the packets.
    let mark = ebpf_abi::PROXY_MARK;
    stage.must(&format!(
        "nft add table inet m
         nft add chain inet m o '{{ type route hook output priority -150; }}'
         nft add chain inet m i '{{ type filter hook prerouting priority -150; }}'
         nft add rule inet m o meta mark set {mark}
         nft add rule inet m i meta mark set {mark}"
    ))?;
    stage.tries("with packets that carry the proxy's mark", &brief());
    stage.must("nft flush ruleset")
}

/// Commands of `bpf(2)` with the attributes that matter.
fn calls_bpf(stage: &Stage) -> anyhow::Result<()> {
    const PROG_ATTACH: i64 = 8;
    const PROG_DETACH: i64 = 9;
    const SK_LOOKUP: u32 = 36;
    let root = stage.west.setting("WARREN_BPF_PIN_DIR").unwrap_or_default().to_owned();
    let pins = ztunnel::capture::pins::PinRoot::open(root.as_ref())?;
    let pins = pins.pod(&model::PodUid::parse(stage.mallory.uid())?);
    let tuples = bpf::map_info(bpf::get(&pins.map("TUPLES"))?)?;
    let link = bpf::link_info(bpf::get(&pins.link(ztunnel::capture::pins::PodLink::SkLookup))?)?;
    let id = |id: u32| id.to_ne_bytes().to_vec();
    // MAP_CREATE of an array, PROG_LOAD of an sk_lookup program, …_GET_FD_BY_ID, …_GET_NEXT_ID.
    let array = [2_u32, 4, 4, 1].map(u32::to_ne_bytes).concat();
    let load = [30_u32, 2].map(u32::to_ne_bytes).concat();
    for (name, command, attributes) in [
        ("create a map", 0, array),
        ("load a program", 5, load),
        ("open the program", 13, id(link.program)),
        ("open the registry", 14, id(tuples.id)),
        ("open the link", 30, id(link.id)),
        ("list the links", 31, id(0)),
    ] {
        let refused = stage.hostile.bpf(command, &attributes, None).expect_err(name);
        assert_eq!(refused.errno, Some(libc::EPERM), "{name}: {refused}");
    }
    // By the own namespace, which it has at hand: target, program (none), attach type, flags.
    let own = [0_u32, u32::MAX, SK_LOOKUP, 0].map(u32::to_ne_bytes).concat();
    for (name, command) in [("attach", PROG_ATTACH), ("detach", PROG_DETACH)] {
        let refused = stage.hostile.bpf(command, &own, Some(0)).expect_err(name);
        assert!(refused.errno.is_some(), "{name}: {refused}");
    }
    let seen = stage.run("ls /sys/fs/bpf /sys/fs/cgroup; mount -t bpf none /mnt && ls /mnt")?;
    assert!(!seen.contains(stage.mallory.uid()), "the pins can be seen: {seen}");
    stage.tries("after calls of bpf(2)", &brief());
    Ok(())
}

fn dials_odd_addresses(stage: &Stage) -> anyhow::Result<()> {
    let own = [stage.mallory.ipv4(), stage.mallory.ipv6()];
    let servers = [&stage.near.pod, &stage.far.pod];
    let theirs = servers.iter().flat_map(|pod| [pod.ipv4(), pod.ipv6()]);
    let unspecified = [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0_u16; 8])];
    let everywhere: Vec<_> = own.into_iter().chain(theirs).chain(unspecified).collect();
    for ip in everywhere {
        for port in [PORT, 15001, 15006, 15008, 15020, 15021] {
            let target = SocketAddr::new(ip, port);
            assert!(!answered(&stage.hostile, target, brief()), "{target} answered");
        }
    }
    for options in [
        ConnectOptions { mapped: true, ..brief() },
        ConnectOptions { mapped: true, device: Some("eth0".into()), ..brief() },
        ConnectOptions { device: Some("eth0".into()), ..brief() },
        ConnectOptions { device: Some("lo".into()), ..brief() },
        ConnectOptions { fast_open: true, ..brief() },
        ConnectOptions { mptcp: true, ..brief() },
        ConnectOptions { io_uring: true, ..brief() },
    ] {
        stage.tries(&format!("{options:?}"), &options);
    }
    // The agent's own listeners on loopback; whoever dials them is served nothing.
    let open = listening_ports(&stage.run("cat /proc/net/tcp /proc/net/tcp6")?);
    assert!(open.len() >= 3, "the agent's listeners are not seen: {open:?}");
    let before = stage.west.pods()?.iter().map(|pod| pod.connections).sum::<u64>();
    for target in open {
        assert!(!answered(&stage.hostile, target, brief()), "{target} answered");
    }
    let after = stage.west.pods()?.iter().map(|pod| pod.connections).sum::<u64>();
    assert!(after <= before, "the agent serves itself: {after} connections");
    Ok(())
}

/// Loopback addresses that somebody listens on, from `/proc/net/tcp` and `tcp6`.
fn listening_ports(table: &str) -> Vec<SocketAddr> {
    const LISTEN: &str = "0A";
    let mut found = Vec::new();
    for line in table.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, LISTEN, ..] = words.as_slice() else { continue };
        let Some((ip, port)) = local.split_once(':') else { continue };
        let ip: IpAddr =
            if ip.len() == 8 { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() };
        found.extend(u16::from_str_radix(port, 16).ok().map(|port| SocketAddr::new(ip, port)));
    }
    found
}

/// Address translation in the pod can undo the capture; the packets then arrive without identity.
fn redirects_itself(stage: &Stage) -> anyhow::Result<()> {
    for server in [&stage.near.pod, &stage.far.pod] {
        let (v4, v6) = (server.ipv4(), server.ipv6());
        let mark = stage.agent_of(server).log_mark();
        // What is captured, and what never is (link-local), both turned to the server.
        stage.must(&format!(
            "nft add table inet r
             nft add chain inet r o '{{ type nat hook output priority -100; }}'
             nft add chain inet r p '{{ type nat hook postrouting priority 100; }}'
             nft add rule inet r o ip daddr 169.254.7.7 dnat ip to {v4}
             nft add rule inet r o ip6 daddr 2001:db8::7 dnat ip6 to {v6}
             nft add rule inet r o tcp dport 15001 dnat ip to {v4}:{PORT}
             nft add rule inet r o tcp dport 15001 dnat ip6 to [{v6}]:{PORT}
             nft add rule inet r p masquerade
             ip route replace 169.254.7.7 via 10.1.255.254 dev eth0"
        ))?;
        let targets = [
            (IpAddr::from([169, 254, 7, 7]), PORT),
            (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]), PORT),
            ([10, 96, 0, 77].into(), 443),
            ([0xfd96, 0, 0, 0, 0, 0, 0, 0x77].into(), 443),
        ];
        for (ip, port) in targets {
            let target = SocketAddr::new(ip, port);
            let answered = answered(&stage.hostile, target, brief());
            assert!(!answered, "{target}, turned to {}, answered", server.name());
        }
        let mallory = &stage.mallory;
        stage.arrived_without_identity(server, (mallory.ipv4(), server.at(PORT)), mark)?;
        stage.arrived_without_identity(server, (mallory.ipv6(), server.at_v6(PORT)), mark)?;
        stage.must("nft flush ruleset")?;
    }
    stage.must("ip route del 169.254.7.7")
}

/// The server's own address, put on loopback, is the pod's own for the capture; routed out again,
/// it leaves uncaptured, with an entry in the registry of the wrong pod.
fn borrows_addresses(stage: &Stage) -> anyhow::Result<()> {
    for server in [&stage.near.pod, &stage.far.pod] {
        let (v4, v6) = (server.ipv4(), server.ipv6());
        let before = counter(&stage.west, &stage.mallory, "self_call")?;
        let mark = stage.agent_of(server).log_mark();
        stage.must(&format!(
            "ip addr add {v4}/32 dev lo; ip addr add {v6}/128 dev lo nodad
             for f in -4 -6; do
               ip $f rule add pref 5 lookup local; ip $f rule del pref 0
             done
             ip -4 rule add pref 1 to {v4} lookup main; ip -6 rule add pref 1 to {v6} lookup main"
        ))?;
        let own = [stage.mallory.at(0), stage.mallory.at_v6(0)];
        let noticed = wait_until(Duration::from_secs(3), || {
            for (target, source) in [server.at(PORT), server.at_v6(PORT)].into_iter().zip(own) {
                for source in [None, Some(source)] {
                    let options = ConnectOptions { source, ..brief() };
                    assert!(!answered(&stage.hostile, target, options), "{target} answered");
                }
            }
            counter(&stage.west, &stage.mallory, "self_call").is_ok_and(|now| now > before + 3)
        });
        assert!(noticed, "the borrowed address was never taken for an own one: no attack");
        let calls = (stage.mallory.ipv4(), server.at(PORT));
        stage.arrived_without_identity(server, calls, mark)?;
        stage.must(&format!(
            "for f in -4 -6; do
               ip $f rule del pref 1; ip $f rule add pref 0 lookup local; ip $f rule del pref 5
             done
             ip addr del {v4}/32 dev lo; ip addr del {v6}/128 dev lo"
        ))?;
    }
    Ok(())
}

/// A namespace of its own has no capture; the pod's cgroup refuses its connections.
fn makes_namespaces(stage: &Stage) -> anyhow::Result<()> {
    let target = stage.near.pod.at(PORT);
    let (ip, port) = (target.ip(), target.port());
    let script = format!(
        "unshare --user --map-root-user --net bash -c '
           ip link set lo up; ip addr add 192.0.2.2/24 dev lo; ip route add default dev lo
           exec 3<>/dev/tcp/{ip}/{port}' 2>&1"
    );
    let said = stage.run(&script)?;
    // Where the kernel does not let it make one, there is nothing to refuse.
    assert!(said.contains("Operation not permitted") || said.contains("unshare"), "{said}");
    Ok(())
}

/// Last, because the pod's network does not survive it.
fn changes_routes_and_sysctls(stage: &Stage) -> anyhow::Result<()> {
    stage.run(
        "cd /proc/sys/net/ipv4
         for s in tcp_fwmark_accept tcp_syncookies tcp_early_demux ip_early_demux; do echo 0 > $s; done
         for s in ip_forward ip_nonlocal_bind fwmark_reflect; do echo 1 > $s; done
         for d in conf/*; do
           echo 1 > $d/route_localnet; echo 1 > $d/accept_local; echo 0 > $d/rp_filter
         done",
    )?;
    stage.tries("with other sysctls", &brief());
    let gateway = "10.1.255.254";
    stage.run(&format!(
        "for f in -4 -6; do
           ip $f rule flush; ip $f rule add pref 10 lookup local; ip $f rule add pref 20 lookup main
           ip $f route flush table 22354
         done
         ip route add table 77 default via {gateway} dev eth0 onlink
         ip rule add pref 1 lookup 77"
    ))?;
    stage.tries("with other routes", &brief());
    stage.run("ip rule flush; ip -6 rule flush")?;
    stage.tries("without rules", &brief());
    Ok(())
}
