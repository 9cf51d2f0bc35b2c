//! The application sees who calls it, whatever the way, its binding and the pod's `rp_filter`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tests::protocol::{Amount, Behaviour};
use tests::{AgentOptions, Mesh, PodSpec, World};

use crate::stage::{House, brief, canonical, ready};

#[test]
fn the_application_sees_its_client_whatever_it_is_bound_to() -> anyhow::Result<()> {
    let world = World::new(2)?;
    let server = House::new(&world, PodSpec::new(2, "server"))?;
    let far = House::new(&world, PodSpec::new(1, "far"))?;
    let near = House::new(&world, PodSpec::new(2, "near"))?;
    let stranger = House::new(&world, PodSpec::new(2, "stranger").outside())?;
    let pods = [&server.pod, &far.pod, &near.pod, &stranger.pod];
    world.set_mesh(&Mesh::new().workloads(pods))?;
    let west = ready(&world, 1, AgentOptions::default())?;
    let east = ready(&world, 2, AgentOptions::default())?;
    west.enrol(&far.pod)?;
    east.enrol(&near.pod)?;
    east.enrol(&server.pod)?;
    let bindings: [(u16, SocketAddr); 6] = [
        (8001, server.pod.at(8001)),
        (8002, ([0, 0, 0, 0], 8002).into()),
        (8003, ([0_u16; 8], 8003).into()),
        (8004, server.pod.at_v6(8004)),
        (8005, ([127, 0, 0, 1], 8005).into()),
        (8006, ([0, 0, 0, 0, 0, 0, 0, 1], 8006).into()),
    ];
    for (_, address) in bindings {
        server.actor.listen(address, Behaviour::Peer)?;
    }
    let (v4, v6) = (server.pod.ipv4(), server.pod.ipv6());
    let reachable = [(8001, v4), (8002, v4), (8003, v4), (8003, v6), (8004, v6)];
    for filter in ["0", "1", "2"] {
        for interface in ["all", "eth0", "lo"] {
            server.pod.netns().set_sysctl(&format!("ipv4/conf/{interface}/rp_filter"), filter)?;
        }
        for client in [&far, &near, &stranger] {
            for (port, ip) in reachable {
                let target = SocketAddr::new(ip, port);
                let what = format!("{} calls {target}, rp_filter {filter}", client.pod.name());
                let told = told(client, target).with_context(|| what.clone())?;
                let own = if ip.is_ipv4() { client.pod.ipv4() } else { client.pod.ipv6() };
                assert_eq!(told.ip().to_canonical(), own, "{what}");
            }
        }
    }
    // An application that serves loopback only is not there for others, in the mesh or not.
    let mark = east.log_mark();
    for client in [&far, &near, &stranger] {
        for target in [server.pod.at(8005), server.pod.at_v6(8006)] {
            assert!(told(client, target).is_err(), "{target} answered");
            let name = client.pod.name();
            let line = east.wait_access(mark, &format!("{name}'s call of {target}"), |line| {
                line.direction == "inbound"
                    && line.destination == target.to_string()
                    && line.source_workload == name
            })?;
            assert_eq!(line.code, "CONNECT_REFUSED", "{line:?}");
        }
    }
    Ok(())
}

/// The client's address as the server tells it.
fn told(client: &House, target: SocketAddr) -> anyhow::Result<SocketAddr> {
    let connection = client.actor.connect_with(target, brief())?;
    let told = connection.receive_within(Amount::All(200), Duration::from_secs(2));
    connection.close()?;
    let text = String::from_utf8(told?.0).context("an address")?;
    Ok(canonical(text.trim().parse().with_context(|| format!("{text:?}"))?))
}
