//! A pod outside of the mesh, which asks in plaintext: whom a policy shuts out, and nothing else does.

use tests::{Kubernetes, Room, eventually};

use crate::stage::{SETTLE, STRICT, all_answered, none_answered};

const NAME: &str = "stranger";

pub(crate) struct Stranger {
    room: Room<'static>,
}

impl Stranger {
    /// Makes it in a namespace of its own.
    pub(crate) fn new(
        cluster: &'static Kubernetes,
        namespace: &str,
        node: &str,
    ) -> anyhow::Result<Self> {
        let room = Room::new(cluster, namespace, false)?;
        room.pod(NAME, node)?;
        Ok(Self { room })
    }

    /// Its namespace, for others that are outside.
    pub(crate) fn room(&self) -> &Room<'static> {
        &self.room
    }

    pub(crate) fn is_answered(&self, target: &str) -> anyhow::Result<()> {
        all_answered(&self.room.ask(NAME, target, 1)?)
    }

    pub(crate) fn is_refused(&self, target: &str) -> anyhow::Result<()> {
        none_answered(&self.room.ask(NAME, target, 3)?)
    }

    /// Makes a namespace STRICT: what it was answered before it is refused then.
    pub(crate) fn shut_out(&self, room: &Room<'_>, target: &str) -> anyhow::Result<()> {
        self.is_answered(target)?;
        room.apply(STRICT)?;
        eventually("plaintext from outside is refused", SETTLE, || {
            self.is_refused(target).map(Some)
        })
    }

    /// Makes a namespace STRICT no more: what it was refused until then it is answered.
    pub(crate) fn let_in(&self, room: &Room<'_>, target: &str) -> anyhow::Result<()> {
        self.is_refused(target)?;
        room.remove("peerauthentication", "strict")?;
        eventually("plaintext from outside is answered", SETTLE, || {
            self.is_answered(target).map(Some)
        })
    }
}
