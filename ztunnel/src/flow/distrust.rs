//! What ends an open connection when trust changes: a revoked certificate, a removed root.

use std::sync::Arc;

use tls::{PeerChain, Svid, TrustView};

use crate::relay::Ending;

/// Resolves when a peer's certificate is not trusted any more. Never, while all are. That one expires
/// concerns handshakes only. Cancel safe.
pub(super) async fn distrusted(
    mut trust: TrustView,
    chains: impl IntoIterator<Item = PeerChain>,
) -> Ending {
    let chains: Vec<_> = chains.into_iter().collect();
    loop {
        let now = trust.current_and_update();
        if let Some(revoked) = chains.iter().find_map(|chain| now.check_chain(chain).err()) {
            return Ending::new(revoked.code(), revoked.to_string());
        }
        if !trust.changed().await {
            // There will be no other: the agent is stopping, and draining ends the connection.
            return std::future::pending().await;
        }
    }
}

/// The same for certificates of this node's own pods: between two of them there is no handshake.
/// Cancel safe.
pub(super) async fn revoked(mut trust: TrustView, certificates: Vec<Arc<Svid>>) -> Ending {
    loop {
        let now = trust.current_and_update();
        if let Some(revoked) = certificates.iter().find_map(|svid| svid.check(&now).err()) {
            return Ending::new(revoked.code(), revoked.to_string());
        }
        if !trust.changed().await {
            return std::future::pending().await;
        }
    }
}

/// The one of two that comes first.
pub(super) async fn first(
    one: impl Future<Output = Ending>,
    other: impl Future<Output = Ending>,
) -> Ending {
    tokio::select! {
        ending = one => ending,
        ending = other => ending,
    }
}
