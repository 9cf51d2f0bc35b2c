//! A graceful stop: no new connections, time for those that are open, then a reset that is
//! reported; and a second signal for those who cannot wait.

use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;
use tests::{Agent, AgentOptions, eventually};

use crate::common::{SOON, Town, has_ended, talk, wait_verified, within};

const DRAIN: Duration = Duration::from_secs(2);

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
    within(Town::enrolled_with(&draining("2s"))?, |town| {
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
        ensure!(web.greet(shop, "new").is_err(), "a draining node takes new tunnelled connections");
        talk(&far, "while draining")?;
        let status = east.status()?;
        ensure!(matches!(status.drain, admin::Drain::Draining { .. }), "{:?}", status.drain);
        let enrolment = east.warren(&["pods", "unenrol", "nobody"])?;
        ensure!(enrolment.status == 1, "{enrolment:?}");
        west.signal(Signal::SIGINT)?;
        for (_, connection) in &beside {
            talk(connection, "while draining")?;
        }
        ensure!(start.elapsed() < DRAIN, "this machine is too slow for this test");
        ensure!(has_ended(&far), "the deadline does not cut");
        let took = start.elapsed();
        ensure!(took + Duration::from_millis(100) >= DRAIN, "cut after {took:?}");
        ensure!(took < DRAIN + Duration::from_secs(2), "cut after {took:?}");
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
