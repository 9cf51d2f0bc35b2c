//! A bound on handshakes under way with one pod, so that silent peers cannot take all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Handshakes under way at once with one pod; each ends within 20 s (TLS, then HTTP/2). A further
/// one is refused with `LIMIT_REACHED`.
const HANDSHAKES_MAX: usize = 256;
/// Of those, from one address: a node's tunnels to one pod come from one address for each of its
/// pods, and at most one for each thread.
const HANDSHAKES_OF_ONE_MAX: usize = 32;

/// The handshakes under way with one pod.
#[derive(Debug, Default)]
pub(crate) struct Handshakes(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One handshake; dropping it frees its place.
#[derive(Debug)]
pub(crate) struct Handshake {
    of: Arc<Handshakes>,
    source: IpAddr,
}

impl Handshakes {
    /// Takes a place for a handshake with `source`; `None` when there is none.
    pub(crate) fn begin(this: &Arc<Self>, source: IpAddr) -> Option<Handshake> {
        let mut counts = this.0.lock();
        let of_source = counts.by_source.get(&source).copied().unwrap_or(0);
        if counts.all >= HANDSHAKES_MAX || of_source >= HANDSHAKES_OF_ONE_MAX {
            return None;
        }
        counts.all += 1;
        counts.by_source.insert(source, of_source + 1);
        Some(Handshake { of: this.clone(), source })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut counts = self.of.0.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(count) = counts.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_peer_leaves_room_for_others() {
        let handshakes = Arc::new(Handshakes::default());
        let source = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut held = Vec::new();
        for _ in 0..HANDSHAKES_OF_ONE_MAX {
            held.push(Handshakes::begin(&handshakes, source(1)).expect("room"));
        }
        assert!(Handshakes::begin(&handshakes, source(1)).is_none());
        for n in 2.. {
            match Handshakes::begin(&handshakes, source(n)) {
                Some(handshake) => held.push(handshake),
                None => break,
            }
            for _ in 1..HANDSHAKES_OF_ONE_MAX {
                held.extend(Handshakes::begin(&handshakes, source(n)));
            }
        }
        assert_eq!(held.len(), HANDSHAKES_MAX);
        held.clear();
        assert!(Handshakes::begin(&handshakes, source(1)).is_some());
        assert!(handshakes.0.lock().by_source.is_empty());
    }
}
