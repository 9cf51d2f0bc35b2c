//! Source addresses that a client makes up: neither policy nor an application is told them.

use std::net::SocketAddr;

use tests::protocol::{Amount, Behaviour, ConnectOptions};
use tests::{AgentOptions, Mesh, PodSpec, World};

use crate::stage::{House, PATIENCE, answered, any, brief, ready};

const GUARDED: u16 = 80;
const OPEN: u16 = 81;

#[test]
fn a_clients_made_up_source_address_convinces_nobody() -> anyhow::Result<()> {
    let world = World::new(2)?;
    let friend = House::new(&world, PodSpec::new(1, "friend"))?;
    let near = House::new(&world, PodSpec::new(1, "near"))?;
    let far = House::new(&world, PodSpec::new(2, "far"))?;
    let liar = world.pod(PodSpec::new(1, "liar"))?;
    let (v4, v6) = (friend.pod.ipv4(), friend.pod.ipv6());
    world.set_mesh(&Mesh::new().workloads([&friend.pod, &near.pod, &far.pod, &liar]).policy(
        &format!(
            "name: by-address\nnamespace: shop\nscope: Namespace\naction: Allow\nrules:\n\
             - - - sourceIps: [{v4}, {v6}, 127.0.0.0/8, \"::1\"]\n\
             - - - destinationPorts: [{OPEN}]\n"
        ),
    ))?;
    let agents =
        [ready(&world, 1, AgentOptions::default())?, ready(&world, 2, AgentOptions::default())?];
    for pod in [&friend.pod, &near.pod, &liar] {
        agents[0].enrol(pod)?;
    }
    agents[1].enrol(&far.pod)?;
    let mut guarded = Vec::new();
    for server in [&near, &far] {
        guarded.push(server.echo(GUARDED)?);
        server.actor.listen(any(OPEN), Behaviour::Peer)?;
    }
    for target in near.both(GUARDED).into_iter().chain(far.both(GUARDED)) {
        assert!(answered(&friend.actor, target, brief()), "{target}: the true friend is refused");
    }

    let mallory = liar.confined_actor(&["net_admin", "net_raw"])?;
    let (status, _, error) = mallory
        .shell(&format!("ip addr add {v4}/32 dev lo && ip addr add {v6}/128 dev lo nodad"))?;
    assert_eq!(status, 0, "{error}");
    let loopback = |target: SocketAddr| match target {
        SocketAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)),
    };
    let friends =
        |target: SocketAddr| if target.is_ipv4() { (v4, 0).into() } else { (v6, 0).into() };
    for server in [&near, &far] {
        for target in server.both(GUARDED) {
            for source in [loopback(target), friends(target)] {
                let options = ConnectOptions { source: Some(source), ..brief() };
                assert!(!answered(&mallory, target, options), "{target} believed {source}");
            }
        }
        // Where nobody asks for the address, the application is told the true one, or nothing.
        for target in server.both(OPEN) {
            for source in [loopback(target), friends(target)] {
                let options = ConnectOptions { source: Some(source), ..brief() };
                let Ok(connection) = mallory.connect_with(target, options) else { continue };
                let told = connection.receive_within(Amount::All(200), PATIENCE);
                let told = told.map(|(told, _)| told).unwrap_or_default();
                let told = String::from_utf8_lossy(&told).into_owned();
                connection.reset()?;
                if let Ok(told) = told.parse::<SocketAddr>() {
                    let ip = told.ip().to_canonical();
                    assert!(
                        ip == liar.ipv4() || ip == liar.ipv6(),
                        "{target}, bound to {source}: the application was told {told}"
                    );
                }
            }
        }
    }
    // Two from the friend each, and none else.
    for listener in guarded {
        let report = listener.report()?;
        assert_eq!(report.accepted, 2, "{report:?}");
    }
    Ok(())
}
