//! What hooks on the root cost processes that are not in the mesh, where pods have no cgroups of their own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;
use tests::{AgentOptions, EnrollingNode, PodSpec};

use super::single;
use crate::decisions::{Figure, Unit};

/// Calls in a round, and rounds; the fastest round of each kind counts, since noise only adds.
const CALLS: u32 = 200_000;
const ROUNDS: usize = 7;

/// `connect(2)` of a datagram socket, which runs the same hook as that of a stream and nothing else.
pub(crate) fn figures() -> anyhow::Result<Vec<Figure>> {
    println!(
        "{ROUNDS} times {CALLS} calls outside the mesh, without hooks and with hooks on the root …"
    );
    let without = fastest()?;
    let node = EnrollingNode::new(AgentOptions::default().on_root())?;
    node.label("shop", Some("ambient"))?;
    let _web = node.house(PodSpec::new(1, "web"))?;
    let with = fastest()?;
    let nanoseconds = |took: Duration| took.as_secs_f64() * 1e9 / f64::from(CALLS);
    let added = nanoseconds(with) - nanoseconds(without);
    Ok(vec![
        single("connect outside the mesh", Unit::Nanoseconds, nanoseconds(without), None),
        single("what hooks on the root add to it", Unit::Nanoseconds, added.max(0.0), None),
    ])
}

fn fastest() -> anyhow::Result<Duration> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("open a socket")?;
    // Nobody need listen: nothing is sent.
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let mut fastest = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            socket.connect(target).context("connect")?;
        }
        fastest = fastest.min(start.elapsed());
    }
    Ok(fastest)
}
