//! A session: from the hello until the connection ends.

use std::collections::BTreeSet;

use model::PodUid;

use crate::message::{Message, Pod};

/// Pods of one snapshot: more than any node runs. One more ends the session. Whoever serves pods that are
/// told later bounds them by the same number.
pub const PODS_MAX: usize = 4096;

/// What to do about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Serve the pod in the namespace that came. If it is served in that one already, nothing.
    Serve(Pod),
    /// Nothing, if the pod is served; otherwise it cannot be, and the answer says so.
    Retain(PodUid),
    /// Serve the pod no longer.
    Stop(PodUid),
    /// The snapshot is over: pods that are served and not among these are not there any more.
    KeepOnly(BTreeSet<PodUid>),
}

/// A message that cannot come now: the two do not mean the same, so the connection ends. What is
/// served stays served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A second end of the snapshot.
    #[error("the snapshot was sent twice")]
    SecondSnapshot,
    /// Kept pods belong to the snapshot.
    #[error("KeepWorkload came after the snapshot")]
    LateKeep,
    /// More than [`PODS_MAX`].
    #[error("the snapshot has more than {PODS_MAX} pods")]
    TooManyPods,
}

/// What was told on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session(Phase);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// These were told so far.
    Snapshot(BTreeSet<PodUid>),
    Live,
}

impl Default for Session {
    fn default() -> Self {
        Self(Phase::Snapshot(BTreeSet::new()))
    }
}

impl Session {
    /// Whether every pod was told.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.0, Phase::Live)
    }

    /// Takes the next message.
    pub fn take(&mut self, message: Message) -> Result<Act, SessionError> {
        match (&mut self.0, message) {
            (Phase::Snapshot(told), Message::Add(pod)) => {
                tell(told, &pod.uid)?;
                Ok(Act::Serve(pod))
            }
            (Phase::Live, Message::Add(pod)) => Ok(Act::Serve(pod)),
            (Phase::Snapshot(told), Message::Keep(uid)) => {
                tell(told, &uid)?;
                Ok(Act::Retain(uid))
            }
            (Phase::Live, Message::Keep(_)) => Err(SessionError::LateKeep),
            (Phase::Snapshot(told), Message::Delete(uid)) => {
                told.remove(&uid);
                Ok(Act::Stop(uid))
            }
            (Phase::Live, Message::Delete(uid)) => Ok(Act::Stop(uid)),
            (Phase::Snapshot(told), Message::SnapshotSent) => {
                let told = std::mem::take(told);
                self.0 = Phase::Live;
                Ok(Act::KeepOnly(told))
            }
            (Phase::Live, Message::SnapshotSent) => Err(SessionError::SecondSnapshot),
        }
    }
}

fn tell(told: &mut BTreeSet<PodUid>, uid: &PodUid) -> Result<(), SessionError> {
    if told.len() >= PODS_MAX && !told.contains(uid) {
        return Err(SessionError::TooManyPods);
    }
    told.insert(uid.clone());
    Ok(())
}

#[cfg(test)]
mod tests;
