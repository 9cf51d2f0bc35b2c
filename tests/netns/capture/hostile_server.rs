//! A server pod with NET_ADMIN plants rules in its own namespace; its application stays behind
//! policy all the same.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use tests::protocol::Behaviour;
use tests::{Actor, AgentOptions, Listener, Mesh, PodSpec, World};

use crate::stage::{House, answered, any, brief, ready};

/// Guarded by policy, and by being on loopback.
const GUARDED: u16 = 8080;
const LOCAL: u16 = 8081;
/// Policy lets everybody in; nobody listens.
const OPEN: u16 = 9000;

/// Rules that would lead what arrives on the open port, or on any, to the guarded ones.
const RULES: [(&str, &str); 7] = [
    (
        "nft redirect",
        "nft add table inet t
         nft add chain inet t p '{ type nat hook prerouting priority -100; }'
         nft add rule inet t p tcp dport {OPEN} redirect to :{GUARDED}",
    ),
    (
        "nft redirect of every port, the tunnel's too",
        "nft add table inet t
         nft add chain inet t p '{ type nat hook prerouting priority -100; }'
         nft add rule inet t p tcp dport 1-65535 redirect to :{GUARDED}",
    ),
    (
        "nft dnat to loopback",
        "nft add table ip t
         nft add chain ip t p '{ type nat hook prerouting priority -100; }'
         nft add rule ip t p tcp dport {OPEN} dnat to 127.0.0.1:{LOCAL}
         for d in /proc/sys/net/ipv4/conf/*; do echo 1 > $d/route_localnet; done",
    ),
    (
        "nft dnat to loopback, as if from loopback",
        "nft add table ip t
         nft add chain ip t p '{ type nat hook prerouting priority -100; }'
         nft add chain ip t i '{ type nat hook input priority 100; }'
         nft add rule ip t p tcp dport {OPEN} dnat to 127.0.0.1:{LOCAL}
         nft add rule ip t i snat to 127.0.0.1
         for d in /proc/sys/net/ipv4/conf/*; do
           echo 1 > $d/route_localnet; echo 1 > $d/accept_local; echo 0 > $d/rp_filter
         done",
    ),
    (
        "nft snat to the pod's own address",
        "nft add table inet t
         nft add chain inet t p '{ type nat hook prerouting priority -100; }'
         nft add chain inet t i '{ type nat hook input priority 100; }'
         nft add rule inet t p tcp dport {OPEN} redirect to :{GUARDED}
         nft add rule inet t i meta nfproto ipv4 snat ip to {V4}
         nft add rule inet t i meta nfproto ipv6 snat ip6 to {V6}",
    ),
    (
        "nft tproxy",
        "nft add table inet t
         nft add chain inet t p '{ type filter hook prerouting priority -150; }'
         nft add rule inet t p meta nfproto ipv4 tcp dport {OPEN} tproxy ip to {V4}:{GUARDED} meta mark set 7 accept
         nft add rule inet t p meta nfproto ipv6 tcp dport {OPEN} tproxy ip6 to [{V6}]:{GUARDED} meta mark set 7 accept
         for f in -4 -6; do
           ip $f rule add fwmark 7 lookup 77; ip $f route add local default dev lo table 77
         done",
    ),
    (
        "packets that carry the proxy's mark",
        "nft add table inet t
         nft add chain inet t p '{ type filter hook prerouting priority -150; }'
         nft add rule inet t p meta mark set {MARK}",
    ),
];

/// `iptables` may be missing or be nftables again; then there is nothing more to see.
const LEGACY: &str = "for t in iptables ip6tables; do
       $t -t nat -A PREROUTING -p tcp --dport {OPEN} -j REDIRECT --to-ports {GUARDED}
     done";

#[test]
fn a_hostile_server_pod_cannot_open_itself_around_policy() -> anyhow::Result<()> {
    let world = World::new(2)?;
    let server = House::new(&world, PodSpec::new(2, "server"))?;
    let friend = House::new(&world, PodSpec::new(1, "friend"))?;
    let member = House::new(&world, PodSpec::new(2, "member"))?;
    let stranger = House::new(&world, PodSpec::new(1, "stranger").outside())?;
    let pods = [&server.pod, &friend.pod, &member.pod, &stranger.pod];
    let open = format!(
        "name: open\nnamespace: shop\nscope: Namespace\naction: Allow\nrules:\n\
         - - - destinationPorts: [{OPEN}]\n"
    );
    let mesh = Mesh::new().workloads(pods).policy(&open);
    world.set_mesh(&mesh.allow("shop", "friends-only", &[&friend.pod.identity()]))?;
    let west = ready(&world, 1, AgentOptions::default())?;
    let east = ready(&world, 2, AgentOptions::default())?;
    west.enrol(&friend.pod)?;
    east.enrol(&member.pod)?;
    east.enrol(&server.pod)?;
    let hostile = server.pod.confined_actor(&["net_admin", "net_raw"])?;
    let guarded = [
        hostile.listen(any(GUARDED), Behaviour::Echo)?,
        hostile.listen(([127, 0, 0, 1], LOCAL).into(), Behaviour::Echo)?,
    ];
    for target in server.both(GUARDED) {
        assert!(answered(&friend.actor, target, brief()), "{target}: the friend");
    }
    let clients = [&member.actor, &stranger.actor];
    // Before any rule, an open port is open: the attempts below do pass policy there.
    let served = hostile.listen(any(OPEN), Behaviour::Echo)?;
    for client in clients {
        assert!(answered(client, server.pod.at(OPEN), brief()), "the open port");
    }
    served.stop()?;

    for (name, rules) in RULES {
        plant(&hostile, &server, rules)?;
        attack(name, &clients, &server, &guarded)?;
        clear(&hostile)?;
    }
    let _maybe = plant(&hostile, &server, LEGACY);
    attack("iptables", &clients, &server, &guarded)?;
    hostile.shell("iptables -t nat -F; ip6tables -t nat -F")?;
    clear(&hostile)?;

    let back = tests::wait_until(Duration::from_secs(5), || {
        server.both(GUARDED).iter().all(|target| answered(&friend.actor, *target, brief()))
    });
    assert!(back, "the friend cannot come back");
    Ok(())
}

/// Each leads the proxy's own connection to the application back to the proxy.
const LOOPS: [(&str, &str); 2] = [
    (
        "two ports in a circle",
        "nft add table inet t
         nft add chain inet t o '{ type nat hook output priority -100; }'
         nft add rule inet t o meta nfproto ipv4 tcp dport {GUARDED} dnat ip to {V4}:{LOCAL}
         nft add rule inet t o meta nfproto ipv4 tcp dport {LOCAL} dnat ip to {V4}:{GUARDED}
         nft add rule inet t o meta nfproto ipv6 tcp dport {GUARDED} dnat ip6 to [{V6}]:{LOCAL}
         nft add rule inet t o meta nfproto ipv6 tcp dport {LOCAL} dnat ip6 to [{V6}]:{GUARDED}",
    ),
    (
        "loopback",
        "nft add table inet t
         nft add chain inet t o '{ type nat hook output priority -100; }'
         nft add rule inet t o meta nfproto ipv4 tcp dport {GUARDED} dnat ip to 127.0.0.1:{LOCAL}
         nft add rule inet t o meta nfproto ipv6 tcp dport {GUARDED} dnat ip6 to [::1]:{LOCAL}",
    ),
];

/// A connection that comes back to the proxy must not be carried round for ever.
#[test]
fn a_server_pod_cannot_send_the_proxy_round_in_circles() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let server = House::new(&world, PodSpec::new(1, "server"))?;
    let stranger = House::new(&world, PodSpec::new(1, "stranger").outside())?;
    world.set_mesh(&Mesh::new().workloads([&server.pod, &stranger.pod]))?;
    let agent = ready(&world, 1, AgentOptions::default())?;
    agent.enrol(&server.pod)?;
    let hostile = server.pod.confined_actor(&["net_admin", "net_raw"])?;
    for (name, rules) in LOOPS {
        plant(&hostile, &server, rules)?;
        for target in server.both(GUARDED) {
            let mark = agent.log_mark();
            assert!(!answered(&stranger.actor, target, brief()), "{name}: {target} answered");
            let own = [stranger.pod.ipv4(), stranger.pod.ipv6()];
            agent.wait_access(mark, &format!("{name}: the end of {target}"), |line| {
                line.code != "OK"
                    && line.source.parse().is_ok_and(|from: SocketAddr| own.contains(&from.ip()))
            })?;
            let rounds = agent.access_log(mark).len();
            assert!(rounds <= 4, "{name}: {target} was carried {rounds} times");
        }
        let open: u64 = agent.pods()?.iter().map(|pod| pod.connections).sum();
        assert_eq!(open, 0, "{name}: still going round");
        clear(&hostile)?;
    }
    server.echo(GUARDED)?;
    for target in server.both(GUARDED) {
        assert!(answered(&stranger.actor, target, brief()), "{target} afterwards");
    }
    Ok(())
}

fn plant(hostile: &Actor, server: &House, rules: &str) -> anyhow::Result<()> {
    let rules = rules
        .replace("{OPEN}", &OPEN.to_string())
        .replace("{GUARDED}", &GUARDED.to_string())
        .replace("{LOCAL}", &LOCAL.to_string())
        .replace("{MARK}", &ebpf_abi::PROXY_MARK.to_string())
        .replace("{V4}", &server.pod.ipv4().to_string())
        .replace("{V6}", &server.pod.ipv6().to_string());
    let (status, output, errors) = hostile.shell(&format!("set -e\n{rules}"))?;
    ensure!(status == 0, "{rules}: {output}{errors}");
    Ok(())
}

fn clear(hostile: &Actor) -> anyhow::Result<()> {
    hostile.shell("nft flush ruleset; for f in -4 -6; do ip $f rule del fwmark 7; done")?;
    Ok(())
}

/// Who is not the friend gets no answer and is not even accepted.
fn attack(
    name: &str,
    clients: &[&Actor; 2],
    server: &House,
    guarded: &[Listener<'_>; 2],
) -> anyhow::Result<()> {
    let before = guarded.iter().map(|listener| listener.report().map(|report| report.accepted));
    let before: Vec<_> = before.collect::<Result<_, _>>()?;
    let targets: Vec<SocketAddr> = [GUARDED, LOCAL, OPEN, 15001, 15008]
        .into_iter()
        .flat_map(|port| server.both(port))
        .collect();
    for client in clients {
        for target in &targets {
            assert!(!answered(client, *target, brief()), "{name}: {target} answered");
        }
    }
    for (listener, before) in guarded.iter().zip(before) {
        let report = listener.report()?;
        assert_eq!(report.accepted, before, "{name}: {} was reached", listener.address());
    }
    Ok(())
}
