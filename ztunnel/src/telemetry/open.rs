//! The connections that are open now, for dumps.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{Direction, Outcome, Path, WorkloadKey};
use parking_lot::Mutex;

/// A connection takes one lock of so many when it opens and when it ends; data threads seldom meet.
const SHARDS: u64 = 64;

/// What a dump tells of an open connection.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    pub(crate) direction: Direction,
    pub(crate) path: Path,
    /// The pod of this node that it belongs to.
    pub(crate) workload: Option<WorkloadKey>,
    pub(crate) source: SocketAddr,
    /// What was dialled.
    pub(crate) original_dst: SocketAddr,
    /// Where the bytes go.
    pub(crate) actual_dst: SocketAddr,
    /// The service that was dialled, as `namespace/hostname`.
    pub(crate) service: Option<String>,
}

/// As many as there are connections; each takes about 200 bytes.
#[derive(Clone, Debug)]
pub(super) struct OpenConnections(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    next: AtomicU64,
    shards: Vec<Mutex<HashMap<u64, Arc<OpenConnection>>>>,
}

/// One entry; dropping it removes it.
#[derive(Debug)]
pub(crate) struct OpenGuard {
    of: OpenConnections,
    id: u64,
}

impl Default for OpenConnections {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self(Arc::new(Shards { next: AtomicU64::new(0), shards }))
    }
}

impl OpenConnections {
    /// Enters a connection that stands. `None` if the outcome lacks an address.
    pub(super) fn enter(&self, outcome: &Outcome, original_dst: SocketAddr) -> Option<OpenGuard> {
        let (own, actual_dst) = match outcome.direction {
            Direction::Outbound => (&outcome.source, outcome.hbone.or(outcome.destination.address)),
            Direction::Inbound => (&outcome.destination, outcome.destination.address),
        };
        let entry = OpenConnection {
            direction: outcome.direction,
            path: outcome.path,
            workload: own.workload.as_ref().map(|workload| workload.key.clone()),
            source: outcome.source.address?,
            original_dst,
            actual_dst: actual_dst?,
            service: outcome.service.as_ref().map(|service| service.name.to_string()),
        };
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.shard(id)?.lock().insert(id, Arc::new(entry));
        Some(OpenGuard { of: self.clone(), id })
    }

    /// All of them, in no particular order.
    pub(super) fn list(&self) -> Vec<Arc<OpenConnection>> {
        let mut all = Vec::new();
        for shard in &self.0.shards {
            all.extend(shard.lock().values().cloned());
        }
        all
    }

    fn shard(&self, id: u64) -> Option<&Mutex<HashMap<u64, Arc<OpenConnection>>>> {
        self.0.shards.get(usize::try_from(id % SHARDS).ok()?)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if let Some(shard) = self.of.shard(self.id) {
            shard.lock().remove(&self.id);
        }
    }
}
