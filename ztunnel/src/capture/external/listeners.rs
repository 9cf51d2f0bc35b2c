//! The mesh's ports inside a pod.

use ebpf_abi::{HBONE_PORT, OUTBOUND_CAPTURE_PORT};
use netns::{Family, NetnsFd, SocketError, shared_listener};

use super::super::listeners::{Pair, ThreadListeners, lacks_ipv6};

/// What reaches the pod in plaintext is redirected here. The pod's own connections are to
/// [`OUTBOUND_CAPTURE_PORT`], and HBONE comes to its port by itself.
const PLAINTEXT_PORT: u16 = 15_006;
/// Length of each accept queue; as with our own listeners.
const BACKLOG: i32 = 4_096;

/// Whether a port is the proxy's own in the pod: dialled by somebody, it would lead round in a circle.
pub(in super::super) fn is_own_port(port: u16) -> bool {
    matches!(port, OUTBOUND_CAPTURE_PORT | PLAINTEXT_PORT)
}

/// Opens the listeners of every thread.
pub(super) fn open(
    namespace: &NetnsFd,
    threads: u16,
    mark: u32,
) -> Result<Vec<ThreadListeners>, SocketError> {
    let pair = |port| {
        let listener = |family| shared_listener(namespace, family, port, BACKLOG, mark);
        let v6 = match listener(Family::V6) {
            Ok(listener) => Some(listener),
            Err(SocketError::Call { cause, .. }) if lacks_ipv6(&cause) => None,
            Err(error) => return Err(error),
        };
        Ok(Pair { v4: listener(Family::V4)?, v6 })
    };
    (0..threads)
        .map(|_| {
            Ok(ThreadListeners {
                outbound: pair(OUTBOUND_CAPTURE_PORT)?,
                hbone: pair(HBONE_PORT)?,
                plaintext: pair(PLAINTEXT_PORT)?,
            })
        })
        .collect()
}
