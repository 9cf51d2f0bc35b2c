//! An agent that takes the place of one that runs: programs and listeners are replaced under load, and
//! no connection is lost or passes without a verdict.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use ebpf_abi::Roles;
use nix::sys::signal::Signal;
use tests::protocol::{Behaviour, ConnectOptions, Hammer, Request};
use tests::{AgentOptions, Pending, eventually};
use ztunnel::capture::bpf;

use crate::common::{House, PORT, SOON, Town, pins, state, talk, wait_verified, within};

/// Where the policy applies.
const LOADED: u16 = 9001;
/// Each agent is replaced while this runs.
const LOAD: Duration = Duration::from_secs(4);
/// Exit code of an agent that was replaced. A supervisor does not start it again on that.
const REPLACED_CODE: i32 = 75;
/// From the next agent's start to the end of the one before, on a busy machine.
const REPLACED: Duration = Duration::from_secs(30);

/// One load: a thousand connections a second are four of these.
fn load(from: &House, to: &House, port: u16) -> Pending {
    from.actor.begin(Request::Hammer(Hammer {
        target: to.pod.at(port),
        options: ConnectOptions::default(),
        connections: 0,
        duration_ms: u64::try_from(LOAD.as_millis()).unwrap_or(u64::MAX),
        per_second: 250,
        workers: 8,
        message: "across the change".to_owned(),
    }))
}

#[test]
fn soak_an_agent_is_replaced_under_load_and_nothing_is_lost_or_unjudged() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let not_old = town.mesh().policy(&format!(
            "name: not-old\nnamespace: shop\nscope: Namespace\naction: Deny\nrules:\n\
             - - - sourceIps: [\"{}/32\"]\n  - - destinationPorts: [{LOADED}]\n",
            town.old.pod.ipv4()
        ));
        town.world.set_mesh(&not_old)?;
        let Town { west, east, web, near, shop, old, world } = town;
        let server = shop.actor.listen(([0; 4], LOADED).into(), Behaviour::Echo)?;
        let denied = || {
            let refused = old.actor.connect(shop.pod.at(LOADED)).ok();
            Ok(refused.is_none_or(|connection| talk(&connection, "x").is_err()).then_some(()))
        };
        eventually("the policy is in force", SOON, denied)?;
        let uninvited_before = uninvited(&server, old)?;
        // Open all the while: across nodes, on one node, in plaintext, to the outside.
        let kept = [
            ("hbone", web.connect(shop)?),
            ("local", web.connect(near)?),
            ("plaintext", old.connect(web)?),
            ("passthrough", shop.connect(old)?),
        ];
        let all_talk = |when: &str| {
            kept.iter().try_for_each(|(path, connection)| {
                talk(connection, when).with_context(|| format!("{path}, {when}"))
            })
        };
        all_talk("before")?;

        let mut retired = Vec::new();
        for (agent, pods) in [(east, vec![&shop.pod]), (west, vec![&web.pod, &near.pod])] {
            let programs = || -> anyhow::Result<_> {
                let ids = pods.iter().map(|pod| program(&pins(agent, pod.uid())));
                ids.collect::<anyhow::Result<Vec<_>>>()
            };
            let before = programs()?;
            let friends = [
                ("hbone", load(web, shop, LOADED)),
                ("plaintext", load(old, web, PORT)),
                ("passthrough", load(shop, old, PORT)),
            ];
            let stranger = load(old, shop, LOADED);
            let node = agent.node().clone();
            let mark = agent.log_mark();
            let next = world.agent(
                node.number(),
                AgentOptions::default()
                    .set("WARREN_TAKE_OVER", "true")
                    .set("WARREN_CGROUP", node.cgroup().join("next-agent").display()),
            )?;
            agent.wait_message(mark, "giving the pods to the next agent", REPLACED)?;
            next.wait_message(mark, "ready", REPLACED)?;
            all_talk("both are there")?;
            let after = programs()?;
            for (before, after) in before.iter().zip(&after) {
                ensure!(before.0 == after.0, "a link was made anew");
                ensure!(before.1 != after.1, "a program is the old one");
            }
            for (path, load) in friends {
                let load = load.hammered()?;
                println!("{}: {path} {load:?}", node.name());
                ensure!(load.failures.is_empty(), "{path}: {load:?}");
                ensure!(load.succeeded > 50, "{path}: {load:?}");
            }
            let stranger = stranger.hammered()?;
            ensure!(stranger.succeeded == 0, "{stranger:?}");
            ensure!(uninvited(&server, old)? == uninvited_before, "one came without a verdict");
            for pod in pods {
                wait_verified(&next, pod)?;
            }
            retired.push(std::mem::replace(agent, next));
        }
        // The first ones stay for what they relay, and end with it.
        all_talk("by agents that retire")?;
        for agent in &mut retired {
            ensure!(agent.ended()?.is_none(), "it ended before its connections");
        }
        for (_, connection) in kept {
            connection.close()?;
        }
        for agent in &mut retired {
            let status = eventually("it ends with its connections", SOON, || agent.ended())?;
            ensure!(status.code() == Some(REPLACED_CODE), "it ended with {status}");
        }
        web.greet(shop, "by the next ones")?;
        old.greet(web, "by the next ones")?;
        west.unenrol(&web.pod)?;
        ensure!(state(west, near.pod.uid())? == Some(admin::PodState::Verified), "near");
        Ok(())
    })
}

/// Connections of `old` that the server has seen.
fn uninvited(server: &tests::Listener<'_>, old: &House) -> anyhow::Result<usize> {
    let report = server.report()?;
    Ok(report.connections.iter().filter(|c| c.peer.ip() == old.pod.ipv4()).count())
}

/// Ids of a pod's link and of the program behind it.
fn program(pins: &Path) -> anyhow::Result<(u32, u32)> {
    let link = bpf::get(&pins.join("link_sk_lookup")).context("open a pinned link")?;
    let info = bpf::link_info(&link).context("inspect a link")?;
    Ok((info.id, info.program))
}

/// A successor that fails before it has the pods changes nothing; one agent at a time may wait.
#[test]
fn a_successor_that_gives_up_leaves_the_agent_alone() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, shop, world, .. } = town;
        let take_over = |cgroup: &str| {
            AgentOptions::default()
                .set("WARREN_TAKE_OVER", "true")
                .set("WARREN_CGROUP", world.node(1).cgroup().join(cgroup).display())
        };
        // It has the pods' place in sight, and cannot use the kubelet's cgroup that it is told.
        let broken = take_over("broken").set("WARREN_KUBELET_CGROUP", "/sys/fs/cgroup/nowhere");
        let mut broken = world.agent(1, broken)?;
        let status = eventually("it does not start", SOON, || broken.ended())?;
        ensure!(status.code() == Some(1), "it ended with {status}");
        web.greet(shop, "as before")?;
        wait_verified(west, &web.pod)?;
        // One that is stopped after it has taken the pods: shut, until the next one adopts them.
        let mark = west.log_mark();
        let mut next = world.agent(1, take_over("next-agent"))?;
        next.wait_message(mark, "ready", SOON * 3)?;
        let status = eventually("the first one ends", SOON, || west.ended())?;
        ensure!(status.code() == Some(REPLACED_CODE), "it ended with {status}");
        next.signal(Signal::SIGKILL)?;
        next.kill9()?;
        let refused = web.connect(shop).err().context("nobody takes what it sends")?;
        ensure!(refused.message == "ECONNREFUSED", "{refused:?}");
        west.kill9()?;
        west.restart()?;
        west.wait_ready()?;
        wait_verified(west, &web.pod)?;
        web.greet(shop, "as before")
    })
}

/// A successor that dies after it has the pods: its predecessor still serves, and keeps its role under
/// the agent that comes then.
#[test]
fn an_agent_that_retires_keeps_its_role_when_its_successor_dies() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, shop, world, .. } = town;
        let take_over = |cgroup: &str| {
            AgentOptions::default()
                .set("WARREN_TAKE_OVER", "true")
                .set("WARREN_CGROUP", world.node(1).cgroup().join(cgroup).display())
        };
        let layout = pins(west, web.pod.uid());
        let layout = layout.ancestors().nth(2).context("pods are two folders below a layout's")?;
        let map = layout.join("shared").join("ROLES");
        let roles = || -> anyhow::Result<Roles> {
            let map = bpf::Map::<u32, Roles>::open(&map).context("open the roles")?;
            map.get(&0).context("read the roles")?.context("there are no roles")
        };
        let first = roles()?.agent_cgroup;
        let kept = web.connect(shop)?;
        talk(&kept, "by the first")?;
        let mark = west.log_mark();
        let mut next = world.agent(1, take_over("next-agent"))?;
        next.wait_message(mark, "ready", SOON * 3)?;
        ensure!(roles()?.retiring_cgroup == first, "{:?}", roles()?);
        next.kill9()?;
        let third = world.agent(1, take_over("third-agent"))?;
        third.wait_message(mark, "ready", SOON * 3)?;
        ensure!(roles()?.agent_cgroup != first, "{:?}", roles()?);
        ensure!(roles()?.retiring_cgroup == first, "{:?}", roles()?);
        wait_verified(&third, &web.pod)?;
        talk(&kept, "by the first, under the third")?;
        kept.close()?;
        let status = eventually("the first one ends", SOON, || west.ended())?;
        ensure!(status.code() == Some(REPLACED_CODE), "it ended with {status}");
        let gone = || Ok((roles()?.retiring_cgroup == 0).then_some(()));
        eventually("its role is gone", SOON, gone)?;
        web.greet(shop, "by the third")
    })
}
