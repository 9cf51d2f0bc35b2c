//! From one agent to the next while both run, so that no connection meets a pod without listeners.
//!
//! The next agent takes the successor's seat and waits. The one that runs sees it taken, ends its work
//! on the pods, and leaves the owner's seat. The next one adopts: it replaces programs and listeners in
//! place, one by one, and leaves the successor's seat when it has looked at every pod. Until then both
//! accept, each what its listeners get. The first one serves what it has to its end, in the role
//! that it had; it keeps the retiring seat, so that the other learns when the role can go.
//!
//! Seats are the kernel's locks: whoever dies leaves them. A successor that dies while it adopts costs
//! connections, as any agent that dies does: its predecessor has nothing to go back to. The agent after
//! it finds the retiring seat taken, and leaves its holder the role.

use std::time::Duration;

use model::causes;
use parking_lot::Mutex;

use super::leave::handshakes_ended;
use super::node::{Capture, Node};
use super::pins::{PinError, PinRoot, Seat, Taken};
use super::programs::Predecessor;

/// Between two looks at the successor's seat.
const SUCCESSOR_POLL: Duration = Duration::from_millis(200);
/// How long work on pods may take to end before their pods are given away. What takes longer finds that
/// it may change nothing any more, see [`Seats::while_owner`].
const WORK_END: Duration = Duration::from_secs(10);
/// How long a seat is waited for. A successor may wait in vain for the owner's, which an agent that does
/// not know of successors never leaves; then it does not start.
const SEAT_WAIT: Duration = Duration::from_mins(1);
/// How long a predecessor waits for its pods to be adopted. Then it lets its listeners go all the same.
const ADOPTION_WAIT: Duration = Duration::from_mins(1);

/// What becomes of an agent that runs on the same pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incumbent {
    /// It stays, and this one does not start.
    Stays,
    /// It is asked for its place.
    Replaced,
}

/// The right to change what is pinned.
pub(super) struct Claim {
    pub(super) owner: Taken,
    /// Held until every pod is adopted, when the owner's seat came from an agent that may run still.
    pub(super) succession: Option<Taken>,
    pub(super) predecessor: Predecessor,
}

/// Takes the owner's seat.
pub(super) async fn claim(pins: &PinRoot, incumbent: Incumbent) -> Result<Claim, PinError> {
    if let Some(owner) = pins.take(Seat::Owner).await? {
        // Whoever owns may look at this seat, and nobody else owns: it is taken by one that retires.
        let predecessor = match pins.try_take(Seat::Retiring)? {
            Some(_) => Predecessor::Gone,
            None => Predecessor::Orphaned,
        };
        return Ok(Claim { owner, succession: None, predecessor });
    }
    if incumbent == Incumbent::Stays {
        return Err(pins.in_use());
    }
    let succession = pins.take(Seat::Successor).await?.ok_or_else(|| pins.not_given())?;
    tracing::info!("waiting for the agent that runs to give its place");
    let waiting = tokio::time::timeout(SEAT_WAIT, pins.wait_for(Seat::Owner)).await;
    let owner = waiting.map_err(|_| pins.not_given())??;
    Ok(Claim { owner, succession: Some(succession), predecessor: Predecessor::Retiring })
}

/// The seats of one agent.
#[derive(Debug)]
pub(super) struct Seats(Mutex<Held>);

#[derive(Debug)]
struct Held {
    owner: Option<Taken>,
    succession: Option<Taken>,
    retiring: Option<Taken>,
}

impl Seats {
    pub(super) fn new(owner: Taken, succession: Option<Taken>) -> Self {
        Self(Mutex::new(Held { owner: Some(owner), succession, retiring: None }))
    }

    /// Does work on what is pinned or recorded, unless it is another agent's by now; it does not become
    /// another's before the work is done. So the work is short, and does not wait.
    pub(super) fn while_owner<T>(&self, work: impl FnOnce() -> T) -> Result<T, NotOwner> {
        let held = self.0.lock();
        if held.owner.is_some() { Ok(work()) } else { Err(NotOwner) }
    }

    /// Leaves the owner's seat and takes the other one.
    fn retire(&self, retiring: Taken) {
        let mut held = self.0.lock();
        held.retiring = Some(retiring);
        held.owner = None;
    }
}

/// The pods were given to another agent meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another agent has the pods by now")]
pub struct NotOwner;

impl Capture {
    /// Resolves when another agent waits for the place of this one, and nobody waits for the end of
    /// an agent before this one.
    pub async fn successor_waits(&self) {
        let pins = self.0.programs.pins();
        loop {
            tokio::time::sleep(SUCCESSOR_POLL).await;
            // A seat that cannot be looked at is looked at again.
            let waited_for = pins.try_take(Seat::Successor).is_ok_and(|seat| seat.is_none());
            if waited_for && pins.try_take(Seat::Retiring).is_ok_and(|seat| seat.is_some()) {
                return;
            }
        }
    }

    /// Gives the pods to the agent that waits. Returns when it has adopted them and the queues of
    /// this one's listeners are complete; these still have to be served.
    pub async fn hand_over(&self) -> Result<(), PinError> {
        if tokio::time::timeout(WORK_END, self.stop()).await.is_err() {
            tracing::warn!("work on a pod did not end in time");
        }
        let pins = self.0.programs.pins();
        // Free a moment ago, and taken only to look at it.
        let retiring = tokio::time::timeout(SEAT_WAIT, pins.wait_for(Seat::Retiring)).await;
        let retiring = retiring.map_err(|_| pins.not_given())??;
        // One that retired before this one has ended, then. Its role must not be taken for this one's.
        if let Err(error) = self.0.programs.retired() {
            tracing::warn!(error = %causes(&error), "cannot take the role of the agent before this one");
        }
        self.0.seats.retire(retiring);
        let adopted = tokio::time::timeout(ADOPTION_WAIT, pins.wait_for(Seat::Successor)).await;
        if let Ok(free) = adopted {
            drop(free?);
        } else {
            tracing::warn!("the next agent has not adopted every pod");
        }
        let namespaces: Vec<_> = {
            let pods = self.0.pods.lock();
            let live = pods.values().filter_map(|slot| slot.live.as_ref());
            live.map(|live| live.pod.namespace().clone()).collect()
        };
        handshakes_ended(&namespaces).await;
        Ok(())
    }
}

impl Node {
    /// Every pod was looked at: the predecessor, if there is one, may let its listeners go. Watches for
    /// its end.
    pub(super) async fn adopted(&self) {
        drop(self.seats.0.lock().succession.take());
        match self.predecessor {
            Predecessor::Gone => return,
            Predecessor::Retiring | Predecessor::Orphaned => {}
        }
        let retired = tokio::select! {
            () = self.shutdown.cancelled() => return,
            retired = self.programs.pins().wait_for(Seat::Retiring) => retired,
        };
        match retired {
            Ok(_) => tracing::info!("the agent before this one has ended"),
            // Unknown is not ended.
            Err(error) => {
                return tracing::warn!(error = %causes(&error), "no word of the agent before this one");
            }
        }
        if let Err(error) = self.programs.retired() {
            // The place of a process that has ended: nobody is in it until somebody is put there.
            tracing::warn!(error = %causes(&error), "cannot take the role of the agent before this one");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn seat(path: &Path) -> Option<Taken> {
        Taken::lock(path).expect("look at a seat")
    }

    #[test]
    fn work_ends_with_the_owners_seat() {
        let folder = tempfile::tempdir().expect("a folder");
        let [owner, retiring] = ["owner", "retiring"].map(|name| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).expect("a seat");
            path
        });
        let seats = Seats::new(seat(&owner).expect("free"), None);
        let nobody_else = || seats.while_owner(|| seat(&owner).is_none());
        assert_eq!(nobody_else(), Ok(true), "the seat is held while the work is done");
        seats.retire(seat(&retiring).expect("free"));
        assert_eq!(seats.while_owner(|| unreachable!("it is another's")), Err::<(), _>(NotOwner));
        assert!(seat(&owner).is_some(), "the next agent may take it");
        assert!(seat(&retiring).is_none());
    }
}
