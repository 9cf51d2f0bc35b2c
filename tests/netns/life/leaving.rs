//! Joining and leaving the mesh with connections open: those go on, new ones go the new way, and
//! what is relayed never shows on a wire.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::protocol::{Behaviour, Stream};
use tests::{Capture, Digest, Sniffer, wait_until};

use crate::common::{
    House, Routing, SOON, Town, pins, record, routing, state, talk, wait_left, within,
};

/// On every message of a relayed connection; must not be on any wire.
const SECRET: &str = "relayed-payload-7f3a";
const MIB: u64 = 1 << 20;

#[test]
fn enrolling_leaves_established_connections_alone() -> anyhow::Result<()> {
    within(Town::new()?, |town| {
        let Town { west, east, web, near, shop, old, .. } = town;
        let before = [
            ("across nodes, from the pod", web.connect(shop)?),
            ("across nodes, to the pod", shop.connect(web)?),
            ("on one node, from the pod", web.connect(near)?),
            ("on one node, to the pod", near.connect(web)?),
            ("from outside", old.connect(web)?),
            ("to the outside", web.connect(old)?),
        ];
        for (what, connection) in &before {
            talk(connection, "before").context(*what)?;
        }
        // One moves bytes both ways all the while.
        let bulk = Behaviour::Duplex { bytes: 8 * MIB, seed: 2, read_bytes_per_second: 8 * MIB };
        shop.actor.listen(([0; 4], 9000).into(), bulk)?;
        let upload = Stream { bytes: 8 * MIB, seed: 3 };
        let bulk = web.actor.begin_transfer(shop.pod.at(9000), upload, 8 * MIB);
        west.enrol(&web.pod)?;
        east.enrol(&shop.pod)?;
        west.enrol(&near.pod)?;
        for (what, connection) in &before {
            talk(connection, "after").context(*what)?;
        }
        let mark = west.log_mark();
        web.greet(shop, "a new one")?;
        west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        let bulk = bulk.transferred()?;
        ensure!(bulk.received_digest == Digest::of_pattern(2, 8 * MIB), "{bulk:?}");
        ensure!(bulk.sent_digest == Digest::of_pattern(3, 8 * MIB), "{bulk:?}");
        for (what, connection) in before {
            connection.shutdown_write()?;
            ensure!(connection.receive_all()?.is_empty(), "{what}: more than was sent");
            connection.close()?;
        }
        Ok(())
    })
}

#[test]
fn un_enrolling_leaves_relayed_connections_alone_and_leaks_nothing() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, east, web, near, shop, old, world } = town;
        let sniffers = [
            world.sniff_wire(1)?,
            world.sniff_pod(&web.pod)?,
            world.sniff_pod(&near.pod)?,
            world.sniff_pod(&shop.pod)?,
        ];
        let relayed = [("hbone", web.connect(shop)?), ("local", web.connect(near)?)];
        let plain = old.connect(web)?;
        let exchange = |when: &str| -> anyhow::Result<()> {
            for (path, connection) in &relayed {
                talk(connection, &format!("{SECRET} {path} {when}"))
                    .with_context(|| format!("{path}, {when}"))?;
            }
            talk(&plain, "from outside").with_context(|| format!("plaintext, {when}"))
        };
        exchange("before")?;
        // Both ends of each kind leave, the client first.
        for (agent, house, when) in [
            (&*west, &*web, "after the client left"),
            (&*east, &*shop, "after the far server left"),
            (&*west, &*near, "after the near server left"),
        ] {
            agent.unenrol(&house.pod)?;
            exchange(when)?;
            ensure!(!pins(agent, house.pod.uid()).exists(), "hooks stay {when}");
        }
        for (agent, house) in [(&*west, &*web), (&*east, &*shop), (&*west, &*near)] {
            let name = house.pod.name();
            ensure!(routing(&house.pod)? == Routing::Whole, "{name}: routing went too early");
            ensure!(record(agent, house.pod.uid()).exists(), "{name}: the record went too early");
            let state = state(agent, house.pod.uid())?;
            ensure!(state == Some(admin::PodState::Draining), "{name} is {state:?}");
        }
        exchange("after a while")?;
        let seen = stop(sniffers)?;
        for (place, capture) in ["wire", "web", "near", "shop"].iter().zip(&seen) {
            ensure!(capture.lost() == 0, "{place}: {} frames were lost", capture.lost());
            let leaked = capture.contains(SECRET.as_bytes())
                || capture.tcp_payload_contains(SECRET.as_bytes());
            ensure!(!leaked, "relayed bytes are readable on {place}");
        }
        // New connections are plain, beside the old ones.
        let wire = world.sniff_wire(1)?;
        web.greet(shop, "a new plain one")?;
        shop.greet(web, "another")?;
        near.greet(web, "a third")?;
        let wire = wire.stop()?;
        ensure!(wire.contains(b"a new plain one") && wire.contains(b"another"), "still captured");
        exchange("beside new ones")?;
        // The last one takes everything with it.
        for (path, connection) in relayed {
            connection.shutdown_write()?;
            ensure!(connection.receive_all()?.is_empty(), "{path}: more than was sent");
            connection.close()?;
        }
        wait_left(east, &shop.pod)?;
        wait_left(west, &near.pod)?;
        ensure!(routing(&web.pod)? == Routing::Whole, "a plaintext connection is still relayed");
        plain.close()?;
        wait_left(west, &web.pod)
    })
}

#[test]
fn a_pod_may_return_before_its_last_connection_has_closed() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, east, web, near, shop, old, .. } = town;
        let relayed = [web.connect(shop)?, web.connect(near)?, old.connect(web)?];
        let exchange = |when: &'static str| {
            relayed.iter().try_for_each(|connection| talk(connection, "x").context(when))
        };
        exchange("before")?;
        west.unenrol(&web.pod)?;
        east.unenrol(&shop.pod)?;
        exchange("after leaving")?;
        west.enrol(&web.pod)?;
        east.enrol(&shop.pod)?;
        exchange("after the return")?;
        let mark = east.log_mark();
        web.greet(shop, "a new one")?;
        east.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        exchange("after a new one")?;
        for connection in relayed {
            connection.close()?;
        }
        // Nobody takes the routing from a pod that has returned.
        let taken = wait_until(Duration::from_millis(1200), || {
            [&*web, &*shop].iter().any(|house| routing(&house.pod).ok() != Some(Routing::Whole))
        });
        ensure!(!taken, "the routing of a returned pod went away");
        old.greet(web, "judged again")?;
        // The second time, the sysctl is still known as it was before the first.
        west.unenrol(&web.pod)?;
        east.unenrol(&shop.pod)?;
        wait_left(west, &web.pod)?;
        wait_left(east, &shop.pod)
    })
}

#[test]
fn an_agent_killed_while_pods_leave_leaks_nothing() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, east, web, near, shop, old, world } = town;
        let server = |house: &House| {
            // Both ends have much to say, so that some is always on its way.
            let bytes = 1024 * MIB;
            let flood = Behaviour::Duplex { bytes, seed: 5, read_bytes_per_second: 0 };
            house.actor.listen(([0; 4], 9000).into(), flood).map(|_| ())
        };
        server(shop)?;
        server(near)?;
        let sniffers = [&web.pod, &near.pod, &shop.pod].map(|pod| world.sniff_pod(pod));
        let [a, b, c] = sniffers;
        let sniffers = [world.sniff_wire(1)?, a?, b?, c?];
        let upload = Stream { bytes: 1024 * MIB, seed: 6 };
        let floods = [&shop.pod, &near.pod]
            .map(|to| web.actor.begin_transfer(to.at(9000), upload, 32 * MIB));
        let moving = |agent: &tests::Agent, pod: &tests::Pod| {
            let busy = || {
                agent.pods().is_ok_and(|pods| {
                    pods.iter().any(|other| other.uid == pod.uid() && other.connections > 0)
                })
            };
            wait_until(SOON, busy)
        };
        ensure!(moving(west, &near.pod) && moving(east, &shop.pod), "the floods do not start");
        east.unenrol(&shop.pod)?;
        west.unenrol(&near.pod)?;
        east.kill9()?;
        west.kill9()?;
        for flood in floods {
            let failed = flood.transferred().expect_err("both agents were killed");
            ensure!(["ECONNRESET", "EPIPE"].contains(&&*failed.message), "{failed:?}");
        }
        let seen = stop(sniffers)?;
        for (place, capture) in ["wire", "web", "near", "shop"].iter().zip(&seen) {
            ensure!(capture.lost() == 0, "{place}: {} frames were lost", capture.lost());
            let bytes = capture.payload_of_port(9000);
            ensure!(bytes == 0, "{bytes} relayed bytes are on {place}");
        }
        // The next agents clean up; `web` is still enrolled, and adopted.
        for agent in [&mut *east, &mut *west] {
            agent.restart()?;
            agent.wait_ready()?;
        }
        wait_left(east, &shop.pod)?;
        wait_left(west, &near.pod)?;
        let wire = world.sniff_wire(1)?;
        near.greet(shop, "a plain one")?;
        ensure!(wire.stop()?.contains(b"a plain one"), "a pod that left is still captured");
        let mark = west.log_mark();
        web.greet(old, "captured")?;
        west.wait_access(mark, "the pod that stayed", |line| line.source_workload == "web")?;
        Ok(())
    })
}

fn stop<const N: usize>(sniffers: [Sniffer; N]) -> anyhow::Result<Vec<Capture>> {
    sniffers.into_iter().map(Sniffer::stop).collect()
}
