//! Who is connected, for people.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use xds::server::TypeStatus;

use crate::caller::Caller;

/// Bytes kept of what a client calls itself; the rest is cut off.
const NODE_ID_BYTES_MAX: usize = 256;

/// A client with an open stream.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    /// Number of the stream, from 1.
    pub stream: u64,
    /// What it calls itself.
    pub id: String,
    /// Who it proved to be.
    pub caller: Arc<Caller>,
    /// Where it is.
    pub address: SocketAddr,
    /// The node it is on, as far as that is known.
    pub node: Option<Arc<str>>,
    /// Since when.
    pub since: SystemTime,
    /// Where it stands, by type.
    pub types: Vec<TypeStatus>,
}

/// Everybody with an open stream. Cheap to clone; all clones are one. As many as there may be
/// streams.
#[derive(Clone, Debug, Default)]
pub struct Clients(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Mutex<ClientStatus>>>>,
}

impl Clients {
    /// Everybody, in the order in which they came.
    #[must_use]
    pub fn list(&self) -> Vec<ClientStatus> {
        let open: Vec<_> = self.0.open.lock().values().cloned().collect();
        open.iter().map(|client| client.lock().clone()).collect()
    }

    /// Somebody comes, and is listed until the entry is dropped.
    pub(super) fn enter(&self, caller: Arc<Caller>, address: SocketAddr) -> Entry {
        let stream = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        let status = Arc::new(Mutex::new(ClientStatus {
            stream,
            id: String::new(),
            node: caller.node.clone(),
            caller,
            address,
            since: SystemTime::now(),
            types: Vec::new(),
        }));
        self.0.open.lock().insert(stream, status.clone());
        Entry { clients: self.clone(), stream, status }
    }
}

/// One client's place in the list.
#[derive(Debug)]
pub(super) struct Entry {
    clients: Clients,
    stream: u64,
    status: Arc<Mutex<ClientStatus>>,
}

impl Entry {
    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    pub(super) fn named(&self, id: &str) {
        let mut end = id.len().min(NODE_ID_BYTES_MAX);
        while !id.is_char_boundary(end) {
            end -= 1;
        }
        id.get(..end).unwrap_or_default().clone_into(&mut self.status.lock().id);
    }

    pub(super) fn update(&self, node: Option<&Arc<str>>, types: Vec<TypeStatus>) {
        let mut status = self.status.lock();
        status.node = node.cloned();
        status.types = types;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.clients.0.open.lock().remove(&self.stream);
    }
}
