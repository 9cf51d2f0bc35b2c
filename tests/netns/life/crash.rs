//! An agent that is killed, or stopped, under load: what it served is refused, never passed, and
//! goes on when an agent is back, without anybody enrolling anything again.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::protocol::{Behaviour, ConnectOptions, Hammer, Request};
use tests::{Agent, Listener, eventually};

use crate::common::{House, SOON, Town, talk, wait_verified, within};

/// Where the load goes; the server's report counts what it has seen there.
const LOADED: u16 = 9001;
/// On every message of the load; must not be on the wire.
const SECRET: &str = "load-payload-51c8";
/// Long enough for two agents to be ended and started again.
const LOAD: Duration = Duration::from_secs(4);

#[test]
fn a_killed_agent_lets_nothing_through_and_is_adopted() -> anyhow::Result<()> {
    under_load(Agent::kill9)
}

#[test]
fn an_agent_restarted_under_load_lets_nothing_through() -> anyhow::Result<()> {
    under_load(|agent| {
        let status = agent.terminate()?;
        ensure!(status.success(), "a request to stop ended with {status}");
        Ok(())
    })
}

/// Two clients dial one server all the while: `web`, which may, and `old`, which may not.
fn under_load(mut end: impl FnMut(&mut Agent) -> anyhow::Result<()>) -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let only_web = town.mesh().policy(&format!(
            "name: only-web\nnamespace: shop\nscope: Namespace\naction: Allow\nrules:\n\
             - - - principals: [!Exact \"{}\"]\n  - - destinationPorts: [{LOADED}]\n",
            town.web.pod.identity()
        ));
        town.world.set_mesh(&only_web)?;
        let Town { west, east, web, near, shop, old, world } = town;
        let refused = || Ok(old.greet(shop, "x").is_err().then_some(()));
        eventually("the policy is in force", SOON, refused)?;
        let server = shop.actor.listen(([0; 4], LOADED).into(), Behaviour::Echo)?;
        let wire = world.sniff_wire(2)?;
        let load = |house: &House, message: &str, per_second| {
            house.actor.begin(Request::Hammer(Hammer {
                target: shop.pod.at(LOADED),
                options: ConnectOptions::default(),
                connections: 0,
                duration_ms: u64::try_from(LOAD.as_millis()).unwrap_or(u64::MAX),
                per_second,
                workers: 8,
                message: message.to_owned(),
            }))
        };
        let friend = load(web, SECRET, 400);
        let stranger = load(old, "stranger", 200);
        grows(&server, "the load reaches the server")?;

        // The server's agent.
        end(east)?;
        let before = server.report()?.accepted;
        let plain = knock(old, shop, LOADED).expect_err("nobody answers for the pod");
        ensure!(plain == "ECONNREFUSED", "{plain}");
        knock(web, shop, LOADED).expect_err("its node does not answer");
        let out = knock(shop, near, LOADED).expect_err("nobody takes what it sends");
        ensure!(out == "ECONNREFUSED", "{out}");
        let after = server.report()?.accepted;
        ensure!(before == after, "{} connections came without an agent", after - before);
        east.restart()?;
        east.wait_ready()?;
        wait_verified(east, &shop.pod)?;
        grows(&server, "capture goes on")?;

        // The client's agent.
        end(west)?;
        let before = server.report()?.accepted;
        let out = knock(web, shop, LOADED).expect_err("nobody takes what it sends");
        ensure!(out == "ECONNREFUSED", "{out}");
        let inbound = knock(old, web, LOADED).expect_err("nobody answers for the pod");
        ensure!(inbound == "ECONNREFUSED", "{inbound}");
        let after = server.report()?.accepted;
        ensure!(before == after, "{} connections came without an agent", after - before);
        west.restart()?;
        west.wait_ready()?;
        wait_verified(west, &web.pod)?;
        wait_verified(west, &near.pod)?;
        grows(&server, "the client's side goes on")?;

        let (friend, stranger) = (friend.hammered()?, stranger.hammered()?);
        let report = server.report()?;
        let uninvited = report.connections.iter().filter(|c| c.peer.ip() != web.pod.ipv4()).count();
        ensure!(uninvited == 0, "{uninvited} connections were accepted without a verdict");
        ensure!(stranger.succeeded == 0, "{stranger:?}");
        ensure!(friend.succeeded > 100, "{friend:?}");
        let limit = friend.attempts;
        ensure!(report.accepted <= limit, "{} of {limit} arrived", report.accepted);
        // Nothing may hang: a refusal is a reset, or an end where bytes were due.
        let slow = |name: &&String| name.contains("ETIMEDOUT");
        let slow: Vec<_> =
            friend.failures.keys().chain(stranger.failures.keys()).filter(slow).collect();
        ensure!(slow.is_empty(), "{friend:?} {stranger:?}");
        let wire = wire.stop()?;
        ensure!(wire.lost() == 0, "{} frames were lost", wire.lost());
        ensure!(!wire.contains(SECRET.as_bytes()), "the load's bytes are readable on the wire");
        ensure!(wire.tls_records_of_port(15008) > 100, "the load is not in tunnels");
        println!("friend {friend:?}, stranger {stranger:?}, accepted {}", report.accepted);
        Ok(())
    })
}

fn grows(server: &Listener<'_>, what: &str) -> anyhow::Result<()> {
    let start = server.report()?.accepted;
    eventually(what, SOON, || Ok((server.report()?.accepted > start + 10).then_some(())))
}

/// Connects and exchanges a message; the errno's name if either fails.
fn knock(from: &House, to: &House, port: u16) -> Result<(), String> {
    let connection = from.actor.connect(to.pod.at(port)).map_err(|failure| failure.message)?;
    let talked = talk(&connection, SECRET).context("talk");
    let _ = connection.close();
    talked.map_err(|error| format!("{error:#}"))
}
