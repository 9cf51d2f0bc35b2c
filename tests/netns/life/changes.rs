//! Pods that change under the agent's eyes, or vanish: the table, the hooks and the routing follow
//! within seconds, with an agent at work or after the next one's start.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use tests::{AgentOptions, PodSpec, eventually, wait_until};

use crate::common::{
    Footprint, House, PORT, Routing, SOON, Town, apply, has_ended, pins, record, routing, state,
    talk, wait_degraded, wait_state, wait_verified, within,
};

#[test]
fn a_pods_addresses_are_followed() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let town = &*town;
        let Town { west, east, web, near, shop, world, .. } = town;
        let mesh = town.mesh().to_string();
        let has = |addresses: &[std::net::IpAddr]| {
            eventually(&format!("its addresses are {addresses:?}"), SOON, || {
                let pod = west.pods()?.into_iter().find(|pod| pod.uid == web.pod.uid());
                let pod = pod.context("the pod is not shown")?;
                let verified = pod.state == admin::PodState::Verified;
                Ok((verified && pod.ips == addresses).then_some(()))
            })
        };
        let (v4, v6) = (web.pod.ipv4(), web.pod.ipv6());
        has(&[v4, v6])?;
        // Dual stack to IPv4 and back.
        let netns = web.pod.netns();
        netns.ip(&[format!("addr del {v6}/128 dev eth0")])?;
        has(&[v4])?;
        web.greet(shop, "IPv4 only")?;
        netns.ip(&[
            format!("addr add {v6}/128 dev eth0 nodad"),
            "route replace ::/0 via fe80::1 dev eth0".to_owned(),
        ])?;
        has(&[v4, v6])?;
        let mark = west.log_mark();
        let connection = web.actor.connect(shop.pod.at_v6(PORT))?;
        talk(&connection, "IPv6 again")?;
        connection.close()?;
        west.wait_access(mark, "IPv6 in a tunnel", |line| line.path == "hbone")?;
        // Another address: captured from the first connection on, known as what it is.
        let other = "10.1.77.7";
        world
            .node(1)
            .namespace()
            .ip(&[format!("route add {other}/32 dev {}", web.pod.host_interface())])?;
        netns.ip(&[
            format!("addr add {other}/32 dev eth0"),
            format!("addr del {v4}/32 dev eth0"),
            format!("route replace 10.1.255.254/32 dev eth0 scope link src {other}"),
            "route replace default via 10.1.255.254 dev eth0".to_owned(),
        ])?;
        apply(town, &mesh.replace(&format!("\"{v4}\""), &format!("\"{other}\"")))?;
        has(&[other.parse()?, v6])?;
        let (west_mark, east_mark) = (west.log_mark(), east.log_mark());
        eventually("the new address is served", SOON, || Ok(web.greet(shop, "moved").ok()))?;
        east.wait_access(east_mark, "the new address", |line| {
            line.source.starts_with(other) && line.code == "OK" && line.path == "hbone"
        })?;
        let back = shop.actor.connect((other.parse::<std::net::IpAddr>()?, PORT).into())?;
        talk(&back, "to the new address")?;
        back.close()?;
        west.wait_access(west_mark, "the way back", |line| {
            line.destination.starts_with(other) && line.code == "OK" && line.path == "hbone"
        })?;
        // None at all: shown, and nobody else minds.
        netns.ip(&[
            format!("addr del {other}/32 dev eth0"),
            format!("addr del {v6}/128 dev eth0"),
        ])?;
        let reason = wait_degraded(west, web.pod.uid())?;
        ensure!(reason.contains("no address"), "{reason}");
        near.greet(shop, "a neighbour")?;
        netns.ip(&[
            format!("addr add {v4}/32 dev eth0"),
            "route replace 10.1.255.254/32 dev eth0 scope link".to_owned(),
            "route replace default via 10.1.255.254 dev eth0".to_owned(),
        ])?;
        apply(town, &mesh)?;
        wait_verified(west, &web.pod)?;
        eventually("it is served again", SOON, || Ok(web.greet(shop, "back").ok()))
    })
}

#[test]
fn a_pod_that_vanishes_leaves_nothing() -> anyhow::Result<()> {
    // So that what a neighbour used is not taken for a leak.
    let brief_tunnels = AgentOptions::default().set("POOL_UNUSED_RELEASE_TIMEOUT", "1s");
    within(Town::with(&brief_tunnels)?, |town| {
        let Town { west, web, near, shop, old, world, east } = town;
        east.enrol(&shop.pod)?;
        west.enrol(&near.pod)?;
        let before = Footprint::of(west)?;
        // The cgroup goes, the namespace stays for a while.
        west.enrol(&web.pod)?;
        let connections = [("hbone", shop.connect(web)?), ("local", near.connect(web)?)];
        for (path, connection) in &connections {
            talk(connection, "before").context(*path)?;
        }
        remove_cgroup(web.pod.cgroup())?;
        wait_state(west, web.pod.uid(), "gone", Option::is_none)?;
        for (path, connection) in connections {
            ensure!(has_ended(&connection), "{path}: the connection to a removed pod lives on");
            connection.close()?;
        }
        ensure!(!pins(west, web.pod.uid()).exists(), "pins are left");
        ensure!(!record(west, web.pod.uid()).exists(), "the record is left");
        ensure!(routing(&web.pod)? == Routing::None, "routing is left");
        before.wait(west).context("after the cgroup was removed")?;
        near.greet(shop, "a neighbour")?;
        // Everything goes at once, as when a kubelet removes a pod.
        let brief = House::new(world, PodSpec::new(1, "brief"))?;
        world.set_mesh(
            &tests::Mesh::new().workloads([&brief.pod, &near.pod, &shop.pod, &old.pod]),
        )?;
        west.enrol(&brief.pod)?;
        eventually("it is served", SOON, || Ok(brief.greet(shop, "hello").ok()))?;
        let from = brief.connect(shop)?;
        let to = shop.connect(&brief)?;
        talk(&from, "out")?;
        talk(&to, "in")?;
        world.remove_pod(&brief.pod)?;
        wait_state(west, brief.pod.uid(), "gone", Option::is_none)?;
        ensure!(has_ended(&to), "the connection to a removed pod lives on");
        to.close()?;
        before.wait(west).context("after the pod was removed")?;
        near.greet(shop, "a neighbour")
    })
}

#[test]
fn a_pod_that_vanished_without_an_agent_is_cleaned_up() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, near, shop, world, .. } = town;
        let brief = House::new(world, PodSpec::new(1, "brief"))?;
        west.enrol(&brief.pod)?;
        west.kill9()?;
        // One loses its cgroup, one everything, the third stays.
        remove_cgroup(web.pod.cgroup())?;
        world.remove_pod(&brief.pod)?;
        west.restart()?;
        west.wait_ready()?;
        for pod in [&web.pod, &brief.pod] {
            let (uid, name) = (pod.uid(), pod.name());
            ensure!(state(west, uid)?.is_none(), "{name} is {:?}", state(west, uid)?);
            ensure!(!pins(west, uid).exists(), "pins of {name} are left");
            ensure!(!record(west, uid).exists(), "the record of {name} is left");
        }
        let left = || routing(&web.pod).ok() == Some(Routing::None);
        ensure!(wait_until(SOON, left), "routing is left in a namespace that stays");
        wait_verified(west, &near.pod)?;
        near.greet(shop, "a neighbour")
    })
}

/// Kills what runs in a cgroup and removes it and what is below.
fn remove_cgroup(path: &Path) -> anyhow::Result<()> {
    fs::write(path.join("cgroup.kill"), "1").context("kill a cgroup")?;
    let gone = wait_until(SOON, || {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                let _ = fs::remove_dir(entry.path());
            }
        }
        fs::remove_dir(path).is_ok()
    });
    ensure!(gone, "{} is still there", path.display());
    Ok(())
}
