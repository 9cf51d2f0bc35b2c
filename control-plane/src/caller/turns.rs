//! Turns to ask the API server about tokens: shared fairly, so that who calls with bad tokens all the
//! time does not keep others waiting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most questions to the API server at a time. Others wait.
pub const REVIEWS_AT_ONCE: usize = 64;
/// Of one address, those that are asked or stand in the common queue. Its others wait in a queue of
/// their own, so that everybody else finds at most so many of it before them.
pub const REVIEWS_OF_ADDRESS: usize = 8;
/// Most calls of one address that wait or are asked about: an agent after a restart has one for each
/// of its pods, over a few connections. A further one is refused at once, and may try again.
pub const REVIEWS_OF_ADDRESS_MAX: usize = 512;
/// Most addresses that calls wait of. A call of a further one is refused at once, and may try again.
pub const ADDRESSES_MAX: usize = 16_384;

/// Who waits, by address. No address: a caller inside the process.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    of: Arc<Mutex<HashMap<Option<IpAddr>, Queue>>>,
}

/// The calls of one address.
struct Queue {
    turns: Arc<Semaphore>,
    calls: usize,
}

/// A turn, until it is dropped.
pub(super) struct Turn {
    _place: Place,
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// A call that is counted, until it is dropped.
struct Place {
    of: Arc<Mutex<HashMap<Option<IpAddr>, Queue>>>,
    address: Option<IpAddr>,
}

/// Too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many questions about tokens wait already")]
pub(super) struct TooMany;

impl Turns {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(REVIEWS_AT_ONCE)), of: Arc::default() }
    }

    /// Waits for a turn. Cancel safe: who goes leaves its place.
    pub(super) async fn take(&self, address: Option<IpAddr>) -> Result<Turn, TooMany> {
        let (place, turns) = self.place(address)?;
        // Neither is ever closed.
        let own = turns.acquire_owned().await.map_err(|_| TooMany)?;
        let all = self.all.clone().acquire_owned().await.map_err(|_| TooMany)?;
        Ok(Turn { _place: place, _own: own, _all: all })
    }

    fn place(&self, address: Option<IpAddr>) -> Result<(Place, Arc<Semaphore>), TooMany> {
        let mut of = self.of.lock();
        if of.len() >= ADDRESSES_MAX && !of.contains_key(&address) {
            return Err(TooMany);
        }
        let turns = || Arc::new(Semaphore::new(REVIEWS_OF_ADDRESS));
        let queue = of.entry(address).or_insert_with(|| Queue { turns: turns(), calls: 0 });
        if queue.calls >= REVIEWS_OF_ADDRESS_MAX {
            return Err(TooMany);
        }
        queue.calls += 1;
        let turns = queue.turns.clone();
        Ok((Place { of: self.of.clone(), address }, turns))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.of.lock();
        if let Some(queue) = of.get_mut(&self.address) {
            queue.calls -= 1;
            if queue.calls == 0 {
                of.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_does_not_take_every_turn() {
        let turns = Arc::new(Turns::new());
        let mut held = Vec::new();
        for _ in 0..REVIEWS_OF_ADDRESS {
            held.push(turns.take(Some(address(1))).await.expect("a turn"));
        }
        let mut waiting = tokio::task::JoinSet::new();
        for _ in REVIEWS_OF_ADDRESS..REVIEWS_OF_ADDRESS_MAX {
            let turns = turns.clone();
            waiting.spawn(async move { turns.take(Some(address(1))).await.is_ok() });
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(turns.take(Some(address(1))).await.err(), Some(TooMany), "its queue is full");
        drop(turns.take(Some(address(2))).await.expect("another's turn comes at once"));
        drop(held);
        assert_eq!(waiting.join_all().await.iter().filter(|had| **had).count(), 504);
        assert!(turns.of.lock().is_empty(), "nobody is remembered");
    }
}
