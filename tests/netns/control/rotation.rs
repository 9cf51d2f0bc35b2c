//! Certificates that live for twenty seconds, and a root that is replaced meanwhile.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::{AgentOptions, talk};

use crate::land::Land;

/// What the authority gives; agents renew at half of it.
const LIFE: Duration = Duration::from_secs(20);
/// How long the load runs: six lives.
const LOAD: Duration = Duration::from_mins(2);
/// Tunnels without streams are closed after this, so that most bursts handshake anew.
const IDLE: Duration = Duration::from_millis(300);
/// Connections in a burst.
const BURST: u32 = 10;

/// Steps of the root's rotation, each after three renewals of the one before.
const STEPS: [(Duration, Step); 3] = [
    (Duration::from_secs(30), Step::Announce),
    (Duration::from_mins(1), Step::Sign),
    (Duration::from_secs(90), Step::Forget),
];

#[derive(Clone, Copy, Debug)]
enum Step {
    Announce,
    Sign,
    Forget,
}

#[test]
fn certificates_and_the_root_rotate_under_load_without_a_failed_connection() -> anyhow::Result<()> {
    let options = AgentOptions::default()
        .set("SECRET_TTL", "20s")
        .set("POOL_UNUSED_RELEASE_TIMEOUT", format!("{}ms", IDLE.as_millis()));
    let land = Land::unsynced(&options, |_| {})?;
    land.ca.set_life(LIFE);
    land.enrol()?;
    let kept = land.web.connect(&land.shop)?;
    talk(&kept, "at first")?;
    let (start, mut steps, mut greetings) = (Instant::now(), STEPS.iter().peekable(), 0_u32);
    while start.elapsed() < LOAD {
        if let Some((_, step)) = steps.next_if(|(at, _)| start.elapsed() >= *at) {
            match step {
                Step::Announce => land.ca.add_root()?,
                Step::Sign => land.ca.sign_with_newest(),
                Step::Forget => land.ca.forget_old_roots(),
            }
        }
        for _ in 0..BURST {
            let message = format!("greeting {greetings} after {:?}", start.elapsed());
            land.web.greet(&land.shop, &message)?;
            land.shop.greet(&land.web, &message)?;
            greetings += 1;
        }
        talk(&kept, "still here")?;
        // Tunnels of the way back have no kept stream: they close, and the next burst handshakes.
        std::thread::sleep(IDLE * 2);
    }
    ensure!(steps.peek().is_none(), "the rotation did not end");
    for pod in [&land.web.pod, &land.shop.pod] {
        let identity = pod.identity();
        let issued: Vec<_> =
            land.ca.issued().into_iter().filter(|issued| issued.identity == identity).collect();
        // One life holds two renewals; the last may not be due yet.
        ensure!(issued.len() >= 9, "{identity} was renewed {} times", issued.len());
        let roots: Vec<_> = issued.iter().map(|issued| issued.root).collect();
        ensure!(roots.first() == Some(&0) && roots.last() == Some(&1), "{roots:?}");
    }
    Ok(())
}
