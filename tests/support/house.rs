//! A pod with a process in it that echoes, and what its neighbours say to it.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::actor::{Actor, Connection};
use crate::pod::{Pod, PodSpec};
use crate::protocol::{Amount, Behaviour, Failure};
use crate::world::World;

/// Where every house echoes.
pub const ECHO_PORT: u16 = 7007;

/// A pod with a process in it.
#[derive(Debug)]
pub struct House {
    /// The process.
    pub actor: Actor,
    /// The pod.
    pub pod: Pod,
}

impl House {
    /// Makes the pod and starts to echo on [`ECHO_PORT`].
    pub fn new(world: &World, spec: PodSpec) -> anyhow::Result<Self> {
        Self::in_pod(world.pod(spec)?)
    }

    /// Starts to echo in a pod that is there.
    pub fn in_pod(pod: Pod) -> anyhow::Result<Self> {
        let actor = pod.actor()?;
        actor.listen(([0_u16; 8], ECHO_PORT).into(), Behaviour::Echo)?;
        Ok(Self { actor, pod })
    }

    /// Opens a connection.
    pub fn connect(&self, to: &Self) -> Result<Connection<'_>, Failure> {
        self.actor.connect(to.pod.at(ECHO_PORT))
    }

    /// Opens a connection, exchanges a message, closes it.
    pub fn greet(&self, to: &Self, message: &str) -> anyhow::Result<()> {
        let (from, name) = (self.pod.name(), to.pod.name());
        let what = || format!("{from} greets {name} with {message}");
        let connection = self.connect(to).with_context(what)?;
        let talked = talk(&connection, message).with_context(what);
        connection.close()?;
        talked
    }
}

/// Sends a message and gets it back.
pub fn talk(connection: &Connection<'_>, message: &str) -> anyhow::Result<()> {
    let answer = connection.exchange(message.as_bytes())?;
    ensure!(answer == message.as_bytes(), "sent {message:?}, got {answer:?}");
    Ok(())
}

/// Whether a connection has ended, cleanly or not, within a bounded time.
#[must_use]
pub fn has_ended(connection: &Connection<'_>, within: Duration) -> bool {
    match connection.receive_within(Amount::Some(1), within) {
        Ok((data, ended)) => ended && data.is_empty(),
        Err(failure) => failure.message == "ECONNRESET" || failure.message == "EPIPE",
    }
}
