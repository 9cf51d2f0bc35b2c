//! A graceful stop: no new connections, time for those that are open, then a reset that is
//! reported; and a second signal for those who cannot wait.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tests::{Agent, AgentOptions, eventually};

use crate::common::{PORT, SOON, Town, has_ended, talk, wait_verified, within};

/// Long enough for a busy machine to do what has to be done meanwhile.
const DRAIN: Duration = Duration::from_secs(4);

fn draining(deadline: &str) -> AgentOptions {
    AgentOptions::default().set("CONNECTION_TERMINATION_DEADLINE", deadline)
}

fn wait_end(agent: &mut Agent) -> anyhow::Result<()> {
    let status = eventually("the agent ends", SOON, || agent.ended())?;
    ensure!(status.success(), "it ended with {status}");
    // Reaps it, so that it can be started again.
    agent.kill9()
}

#[test]
fn open_connections_live_until_the_deadline_and_are_then_reset() -> anyhow::Result<()> {
    within(Town::enrolled_with(&draining("4s"))?, |town| {
        let Town { west, east, web, near, shop, old, .. } = town;
        let far = web.connect(shop)?;
        let beside = [("local", web.connect(near)?), ("plaintext", old.connect(near)?)];
        let outside = web.connect(old)?;
        talk(&far, "before")?;
        talk(&outside, "before")?;
        for (_, connection) in &beside {
            talk(connection, "before")?;
        }
        let (west_mark, east_mark) = (west.log_mark(), east.log_mark());
        let start = Instant::now();
        east.signal(Signal::SIGTERM)?;
        let refused = || Ok(old.connect(shop).err());
        let refused = eventually("new connections are refused", SOON, refused)?;
        ensure!(refused.message == "ECONNREFUSED", "{refused:?}");
        // The tunnel that stands is told by a GOAWAY, which may come after the listener's end.
        let refused = || Ok(web.greet(shop, "new").err());
        eventually("new tunnelled connections are refused", SOON, refused)?;
        talk(&far, "while draining")?;
        let status = east.status()?;
        ensure!(matches!(status.drain, admin::Drain::Draining { .. }), "{:?}", status.drain);
        let words = Agent::enrolment(&old.pod);
        let enrolment = east.warren(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let refused = enrolment.status == 1 && enrolment.stderr.contains("STOPPING");
        ensure!(refused, "{enrolment:?}");
        west.signal(Signal::SIGINT)?;
        for (_, connection) in &beside {
            talk(connection, "while draining")?;
        }
        ensure!(has_ended(&far), "the deadline does not cut");
        let took = start.elapsed();
        ensure!(took + Duration::from_millis(100) >= DRAIN, "cut after {took:?}");
        for (path, connection) in &beside {
            ensure!(has_ended(connection), "the deadline does not cut {path}");
        }
        ensure!(has_ended(&outside), "the deadline does not cut passthrough");
        wait_end(east)?;
        wait_end(west)?;
        for (agent, mark, path) in [
            (&*east, east_mark, "hbone"),
            (&*west, west_mark, "local"),
            (&*west, west_mark, "plaintext"),
            (&*west, west_mark, "passthrough"),
        ] {
            agent.wait_access(mark, &format!("that {path} was cut"), |line| {
                line.path == path && line.code == "DRAINING"
            })?;
        }
        Ok(())
    })
}

/// The kernel completes handshakes that the agent has not accepted yet. Those clients believe they
/// are connected, so they are served when the agent stops, and not reset with its listeners.
#[test]
fn what_is_queued_when_the_agent_stops_is_served() -> anyhow::Result<()> {
    const EACH: u64 = 40;
    within(Town::enrolled_with(&draining("10s"))?, |town| {
        let Town { east, shop, old, .. } = town;
        // The agent runs no more, and the kernel goes on: everything waits in the accept queues.
        east.signal(Signal::SIGSTOP)?;
        let (plaintext, failures) = old.actor.hold(shop.pod.at(PORT), EACH)?;
        ensure!(failures.is_empty(), "plaintext: {failures:?}");
        let (outbound, failures) = shop.actor.hold(old.pod.at(PORT), EACH)?;
        ensure!(failures.is_empty(), "outbound: {failures:?}");
        east.signal(Signal::SIGTERM)?;
        east.signal(Signal::SIGCONT)?;
        for (what, connections) in [("plaintext", &plaintext), ("outbound", &outbound)] {
            for (n, connection) in connections.iter().enumerate() {
                talk(connection, what).with_context(|| format!("{what} connection {n}"))?;
            }
        }
        let refused = || Ok(old.connect(shop).err());
        let refused = eventually("new connections are refused", SOON, refused)?;
        ensure!(refused.message == "ECONNREFUSED", "{refused:?}");
        Ok(())
    })
}

#[test]
fn a_second_signal_cuts_at_once_and_no_connection_means_no_wait() -> anyhow::Result<()> {
    within(Town::enrolled_with(&draining("60s"))?, |town| {
        let Town { west, east, web, near, shop, old, .. } = town;
        for signals in [[Signal::SIGTERM, Signal::SIGTERM], [Signal::SIGINT, Signal::SIGTERM]] {
            let [first, second] = signals;
            let connection = old.connect(near)?;
            talk(&connection, "before")?;
            let mark = west.log_mark();
            west.signal(first)?;
            let refused = || Ok(old.connect(near).err());
            eventually("new connections are refused", SOON, refused)?;
            talk(&connection, "while draining")?;
            let start = Instant::now();
            west.signal(second)?;
            ensure!(has_ended(&connection), "{second} does not cut");
            wait_end(west)?;
            ensure!(start.elapsed() < Duration::from_secs(3), "it took {:?}", start.elapsed());
            west.wait_access(mark, "the cut", |line| line.code == "DRAINING")?;
            connection.close()?;
            west.restart()?;
            west.wait_ready()?;
            wait_verified(west, &near.pod)?;
        }
        web.greet(shop, "as before")?;
        // The tunnel stands and is idle; nothing is open.
        let start = Instant::now();
        for agent in [&mut *east, &mut *west] {
            let status = agent.terminate()?;
            ensure!(status.success(), "{status}");
        }
        ensure!(start.elapsed() < Duration::from_secs(3), "it took {:?}", start.elapsed());
        Ok(())
    })
}
