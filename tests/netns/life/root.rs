//! Hooks on the root of the cgroup hierarchy (`ebpf-root`): what is captured, what is left alone, what an
//! agent that starts, ends or changes the mode does. The root is the world's own top here.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::protocol::{Behaviour, ConnectOptions, Hammer, Request};
use tests::{Actor, ActorOptions, Agent, AgentOptions, eventually};
use ztunnel::capture::bpf;

use crate::common::{
    House, PORT, SOON, Town, layout, names, pins, talk, wait_degraded, wait_left, wait_verified,
    within,
};

/// Where the load goes.
const LOADED: u16 = 9001;
/// Longer than two agents take to start and to move two pods each.
const MOVES: Duration = Duration::from_secs(15);
/// A pod that could not be adopted is tried again every ten seconds.
const RETRIED: Duration = Duration::from_secs(30);
/// On every message of the load; must not be on the wire.
const SECRET: &str = "moving-payload-7f30";

/// The hooks that an agent has pinned on the root.
fn on_root(agent: &Agent) -> Vec<String> {
    let shared = names(&layout(agent).join("shared"));
    shared.into_iter().filter(|name| name.starts_with("root_link_")).collect()
}

/// The hooks on a pod's own cgroup.
fn own(agent: &Agent, house: &House) -> usize {
    let links = names(&pins(agent, house.pod.uid()));
    links.iter().filter(|name| name.starts_with("link_") && *name != "link_sk_lookup").count()
}

fn on_the_root() -> anyhow::Result<Town> {
    Town::enrolled_with(&AgentOptions::default().on_root())
}

#[test]
fn pods_are_captured_and_others_are_left_alone() -> anyhow::Result<()> {
    within(on_the_root()?, |town| {
        let Town { west, east, web, near, shop, old, world } = &*town;
        ensure!(on_root(west).len() == 6 && own(west, web) == 0, "{:?}", on_root(west));
        let wire = world.sniff_wire(2)?;
        let mark = west.log_mark();
        web.greet(shop, SECRET)?;
        west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        let mark = west.log_mark();
        web.greet(near, "one node")?;
        west.wait_access(mark, "the neighbour", |line| line.code == "OK")?;
        let wire = wire.stop()?;
        ensure!(!wire.contains(SECRET.as_bytes()), "what a pod sent is readable on the wire");
        ensure!(wire.tls_records_of_port(15008) > 0, "there was no tunnel");

        // Plaintext comes to the proxy, and is refused where it must be encrypted.
        old.greet(web, "plain")?;
        let strict = town.mesh().policy(
            "name: strict\nnamespace: shop\nscope: Namespace\naction: Deny\nrules:\n\
             - - - notPrincipals: [!Presence []]\n",
        );
        world.set_mesh(&strict)?;
        let refused = || Ok(old.greet(web, "plain").is_err().then_some(()));
        eventually("plaintext is refused", SOON, refused)?;
        let refused = || Ok(old.greet(shop, "plain").is_err().then_some(()));
        eventually("plaintext is refused on the other node", SOON, refused)?;
        web.greet(shop, "encrypted")?;

        // Who is no pod sees what it dialled, and reaches it: pods outside the mesh and the host.
        let server = old.actor.listen(([0; 4], LOADED).into(), Behaviour::Echo)?;
        let host = world.node(1).actor("host")?;
        let target = old.pod.at(LOADED);
        let connection = host.connect(target)?;
        ensure!(connection.peer() == Some(target), "the host is shown {:?}", connection.peer());
        talk(&connection, "from the host")?;
        ensure!(host.connect(web.pod.at(PORT)).map_or(true, |c| talk(&c, "x").is_err()));
        ensure!(server.report()?.accepted == 1);

        // The limit that the status tells: a process of the pod in another namespace is not the pod's.
        let stray = ActorOptions {
            namespace: world.node(1).namespace().clone(),
            ..web.pod.actor_options()
        };
        let stray = Actor::start("stray", &stray)?;
        let connection = stray.connect(target)?;
        ensure!(connection.peer() == Some(target));
        talk(&connection, "not captured")?;

        let status = west.status()?;
        ensure!((&*status.mode, &*status.mode_code) == ("ebpf-root", "FORCED"), "{status:?}");
        ensure!(status.mode_limits.iter().any(|limit| limit.contains("namespace of its own")));
        ensure!(status.degradations().is_empty(), "{:?}", status.degradations());
        let text = west.warren_text(&["status"])?.stdout;
        ensure!(text.contains("ebpf-root: WARREN_REDIRECTION says so"), "{text}");
        ensure!(text.contains("limits") && text.contains("namespace of its own"), "{text}");
        ensure!(east.status()?.pods.verified == 1);
        Ok(())
    })
}

#[test]
fn nothing_stays_on_the_root_after_the_last_pod() -> anyhow::Result<()> {
    within(on_the_root()?, |town| {
        let Town { west, web, near, old, .. } = &*town;
        west.unenrol(&web.pod)?;
        wait_left(west, &web.pod)?;
        ensure!(on_root(west).len() == 6, "near is still captured: {:?}", on_root(west));
        old.greet(web, "plain, to the application")?;
        web.greet(old, "plain, from it")?;
        west.unenrol(&near.pod)?;
        wait_left(west, &near.pod)?;
        ensure!(on_root(west).is_empty(), "{:?}", on_root(west));
        west.enrol_with(&web.pod, &["--dns"])?;
        ensure!(on_root(west).len() == 10, "with those for questions: {:?}", on_root(west));
        // A pod that is gone leaves nothing either.
        town.world.remove_pod(&web.pod)?;
        eventually("the root is free", SOON, || Ok(on_root(west).is_empty().then_some(())))
    })
}

#[test]
fn a_killed_agent_keeps_the_pods_closed_and_is_adopted() -> anyhow::Result<()> {
    within(on_the_root()?, |town| {
        let Town { west, web, near, shop, old, world, .. } = town;
        for end in ["killed", "stopped"] {
            if end == "killed" {
                west.kill9()?;
            } else {
                ensure!(west.terminate()?.success());
            }
            for (what, result) in [
                ("out", web.connect(old)),
                ("to a mesh pod", web.connect(shop)),
                ("in", old.connect(web)),
            ] {
                let failure = result.err().with_context(|| format!("{end}: {what} passes"))?;
                ensure!(failure.message == "ECONNREFUSED", "{end}: {what}: {failure}");
            }
            // The rest of the node does not notice.
            let host = world.node(1).actor(end)?;
            talk(&host.connect(old.pod.at(PORT))?, "from the host")?;
            west.restart()?;
            west.wait_ready()?;
            wait_verified(west, &web.pod)?;
            wait_verified(west, &near.pod)?;
            let mark = west.log_mark();
            web.greet(shop, end)?;
            west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        }
        // Hooks that somebody took off are put back, and it is told.
        let pin = layout(west).join("shared/root_link_connect4");
        let mark = west.log_mark();
        ztunnel::capture::bpf::link_detach(ztunnel::capture::bpf::get(&pin)?)?;
        west.wait_message(mark, "pod is degraded", SOON)?;
        wait_verified(west, &web.pod)?;
        web.greet(shop, "captured again")
    })
}

#[test]
fn pods_move_between_the_modes_without_a_moment_in_the_open() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, near, shop, old, world, .. } = town;
        let server = shop.actor.listen(([0; 4], LOADED).into(), Behaviour::Echo)?;
        let wire = world.sniff_wire(1)?;
        let begun = Instant::now();
        let load = web.actor.begin(Request::Hammer(Hammer {
            target: shop.pod.at(LOADED),
            options: ConnectOptions::default(),
            connections: 0,
            duration_ms: u64::try_from(MOVES.as_millis())?,
            per_second: 300,
            workers: 4,
            message: SECRET.to_owned(),
        }));
        for (options, mode, root, expected) in [
            (AgentOptions::default().on_root(), "ebpf-root", 6, 0),
            (AgentOptions::default().set("WARREN_REDIRECTION", "ebpf"), "ebpf", 0, 6),
        ] {
            west.kill9()?;
            *west = world.agent(1, options)?;
            west.wait_ready()?;
            for house in [&*web, &*near] {
                wait_verified(west, &house.pod)?;
                ensure!(own(west, house) == expected, "{mode}: {:?}", pins(west, house.pod.uid()));
            }
            ensure!(on_root(west).len() == root, "{mode}: {:?}", on_root(west));
            ensure!(west.status()?.mode == mode);
            let mark = west.log_mark();
            web.greet(shop, "moved")?;
            west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
            old.greet(near, "in")?;
        }
        let took = begun.elapsed();
        let done = load.hammered()?;
        ensure!(took < MOVES, "the load ended before the second move, after {took:?}");
        let (report, wire) = (server.report()?, wire.stop()?);
        ensure!(done.succeeded > 50 && report.accepted >= done.succeeded, "{done:?}");
        ensure!(wire.lost() == 0, "{} frames were lost", wire.lost());
        ensure!(!wire.contains(SECRET.as_bytes()), "the load's bytes are readable on the wire");
        println!("load {done:?}");
        Ok(())
    })
}

/// The next agent runs in a container of its own, so its neutral cgroup is another one; and hooks that the one
/// before has left on the root stay as long as a pod cannot move.
#[test]
fn pods_move_to_an_agent_in_another_container_while_one_cannot() -> anyhow::Result<()> {
    within(on_the_root()?, |town| {
        let Town { west, web, near, shop, old, world, .. } = town;
        // Hooks on the cgroup of `near` would refuse this process of it.
        let elsewhere = ActorOptions {
            namespace: world.node(1).namespace().clone(),
            ..near.pod.actor_options()
        };
        let stray = Actor::start("stray", &elsewhere)?;
        let container = world.node(1).cgroup().join("next-container");
        std::fs::create_dir(&container).context("make a container's cgroup")?;
        let mark = west.log_mark();
        let next = AgentOptions::default()
            .set("WARREN_REDIRECTION", "ebpf")
            .set("WARREN_TAKE_OVER", "true")
            .set("WARREN_CGROUP", container.join("agent").display());
        let next = world.agent(1, next)?;
        next.wait_message(mark, "ready", MOVES)?;
        let mut before = std::mem::replace(west, next);
        wait_verified(west, &web.pod)?;
        let said = wait_degraded(west, near.pod.uid())?;
        ensure!(said.contains("in network namespace"), "{said}");
        ensure!(own(west, web) == 6 && on_root(west).len() == 6, "{:?}", on_root(west));
        let of_web = |line: &serde_json::Value| {
            line["pod"] == web.pod.uid() && line["message"] == "pod is degraded"
        };
        ensure!(!west.log().iter().any(of_web), "a pod that has moved is degraded");
        let mark = west.log_mark();
        web.greet(shop, "moved")?;
        west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        old.greet(web, "in")?;
        let status = eventually("the agent before ends", SOON, || before.ended())?;
        ensure!(status.code() == Some(75), "it ended with {status}");
        ensure!(near.connect(shop).is_err(), "what nobody serves is open");

        drop(stray);
        eventually("nothing is on the root", RETRIED, || {
            Ok(on_root(west).is_empty().then_some(()))
        })?;
        wait_verified(west, &near.pod)?;
        ensure!(own(west, near) == 6, "{:?}", pins(west, near.pod.uid()));
        let mark = west.log_mark();
        near.greet(shop, "moved")?;
        west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        Ok(())
    })
}

#[test]
fn a_hook_that_is_taken_off_the_root_comes_back_and_every_pod_is_tested_again() -> anyhow::Result<()>
{
    within(on_the_root()?, |town| {
        let Town { west, web, near, shop, .. } = &*town;
        let mark = west.log_mark();
        let pin = layout(west).join("shared/root_link_connect4");
        bpf::link_detach(&bpf::get(&pin)?).context("take a hook off the root")?;
        for house in [web, near] {
            let of_pod = |line: &serde_json::Value| {
                line["pod"] == house.pod.uid() && line["message"] == "pod is degraded"
            };
            eventually("a pod is shown as degraded", SOON, || {
                Ok(west.log().iter().any(of_pod).then_some(()))
            })?;
        }
        for house in [web, near] {
            wait_verified(west, &house.pod)?;
        }
        web.greet(shop, "captured again")?;
        west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        ensure!(on_root(west).len() == 6, "{:?}", on_root(west));
        Ok(())
    })
}

#[test]
fn a_pod_without_a_cgroup_of_its_own_cannot_go_back() -> anyhow::Result<()> {
    within(Town::with(&AgentOptions::default().on_root())?, |town| {
        let Town { west, web, old, world, .. } = town;
        let words = Agent::enrolment(&web.pod);
        let place = words.iter().position(|word| word == "--cgroup").context("an argument")?;
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let words = [&words[..place], &words[place + 2..]].concat();
        west.warren(&words)?.ok()?;
        wait_verified(west, &web.pod)?;
        let mark = west.log_mark();
        web.greet(old, "captured")?;
        west.wait_access(mark, "it", |line| line.code == "OK")?;
        // Adopted by its names.
        west.kill9()?;
        west.restart()?;
        west.wait_ready()?;
        wait_verified(west, &web.pod)?;

        west.terminate()?;
        let mut other =
            world.agent(1, AgentOptions::default().set("WARREN_REDIRECTION", "ebpf"))?;
        let status = eventually("the agent refuses to start", SOON, || other.ended())?;
        let said = std::fs::read_to_string(other.log_path())?;
        ensure!(status.code() == Some(1) && said.contains("CAPTURE_MODE_PINNED"), "{said}");
        ensure!(said.contains(web.pod.uid()) && said.contains("unenrol"), "{said}");
        ensure!(on_root(west).len() == 6 && web.connect(old).is_err(), "it is closed still");
        drop(other);
        // Nobody asked for that mode: what the pod can have is chosen, and said.
        *west = world.agent(1, AgentOptions::default())?;
        west.wait_ready()?;
        wait_verified(west, &web.pod)?;
        let status = west.status()?;
        ensure!((&*status.mode, &*status.mode_code) == ("ebpf-root", "PODS_HELD"), "{status:?}");
        // Where hooks go onto pods' own cgroups a pod has to have one.
        west.unenrol(&web.pod)?;
        wait_left(west, &web.pod)?;
        west.terminate()?;
        *west = world.agent(1, AgentOptions::default())?;
        west.wait_ready()?;
        ensure!(west.status()?.mode_code == "POD_CGROUPS");
        let answer = west.warren(&words)?;
        let said = format!("{answer:?}");
        ensure!(answer.status != 0 && said.contains("CGROUP_INVALID"), "{said}");
        Ok(())
    })
}

/// Without an agent that sees it, a pod's cgroup goes, and its namespace keeps its name.
#[test]
fn a_pod_whose_cgroup_went_unseen_is_let_go_or_can_be() -> anyhow::Result<()> {
    within(on_the_root()?, |town| {
        let Town { west, web, near, world, .. } = town;
        west.kill9()?;
        let cgroup = world.node(1).cgroup().join("lingering");
        std::fs::create_dir(&cgroup).context("make a cgroup")?;
        let elsewhere = ActorOptions { cgroup, ..near.pod.actor_options() };
        let lingering = Actor::start("lingering", &elsewhere)?;
        for house in [&*web, &*near] {
            remove_cgroup(house)?;
        }
        west.restart()?;
        west.wait_ready()?;
        wait_left(west, &web.pod)?;
        // Somebody is in the other one's: shut and shown, until an operator has looked.
        let said = wait_degraded(west, near.pod.uid())?;
        ensure!(said.contains("CGROUP_GONE"), "{said}");
        ensure!(lingering.connect(web.pod.at(PORT)).is_err(), "it is open");
        west.unenrol(&near.pod)?;
        wait_left(west, &near.pod)?;
        ensure!(on_root(west).is_empty(), "{:?}", on_root(west));
        drop(lingering);
        Ok(())
    })
}

/// The end of a pod's processes and of their cgroup.
fn remove_cgroup(House { pod, .. }: &House) -> anyhow::Result<()> {
    std::fs::write(pod.cgroup().join("cgroup.kill"), "1").context("end a pod's processes")?;
    for cgroup in [pod.container(), pod.cgroup().to_owned()] {
        eventually("a cgroup is empty", SOON, || Ok(std::fs::remove_dir(&cgroup).ok()))?;
    }
    Ok(())
}

#[test]
fn a_root_that_is_none_is_refused_by_name() -> anyhow::Result<()> {
    let world = tests::World::new(1)?;
    let nowhere = world.folder().to_owned();
    let refused = |options: AgentOptions| -> anyhow::Result<String> {
        let mut agent = world.agent(1, options)?;
        let status = eventually("the agent refuses to start", SOON, || agent.ended())?;
        ensure!(status.code() == Some(1), "{status}");
        Ok(std::fs::read_to_string(agent.log_path())?)
    };
    let options = AgentOptions::default().on_root();
    let said = refused(options.set("WARREN_HOST_CGROUP", nowhere.display()))?;
    ensure!(said.contains("root of the cgroup hierarchy"), "{said}");
    ensure!(said.contains("is not a cgroup v2 folder"), "{said}");
    Ok(())
}
