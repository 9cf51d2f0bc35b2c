//! A tunnel of its own inside a stream to a gateway, for one stream.

use std::time::Duration;

use hbone::ConnectHead;
use hbone_h2::{Inner, InnerError, OpenedInside};
use model::{Network, SpiffeId};
use tls::Svid;

use super::HANDSHAKE_TIMEOUT;
use super::outbound::TunnelError;
use super::pool::{PooledStream, Tunnels};

/// How long the workload may take to answer a CONNECT: it judges and dials the application, which is
/// bounded by 10 s there, and the gateway had to reach it first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What a stream through a gateway needs besides the gateway.
#[derive(Clone, Copy)]
pub(crate) struct Behind<'a> {
    /// Identities of which the workload's certificate must carry one.
    pub(crate) expected: &'a [SpiffeId],
    /// The network of this node.
    pub(crate) network: &'a Network,
}

impl From<InnerError> for TunnelError {
    fn from(error: InnerError) -> Self {
        let detail = model::causes(&error);
        match error {
            InnerError::Outer(_) => Self::Lost(detail),
            InnerError::Tls(_)
            | InnerError::Http2(_)
            | InnerError::Stalled(_)
            | InnerError::Open(_)
            | InnerError::NoAnswer(_) => Self::Behind { code: error.code(), detail },
        }
    }
}

impl Tunnels {
    /// Opens a stream inside one to a gateway.
    pub(super) async fn open_behind(
        &self,
        outer: PooledStream,
        svid: &Svid,
        head: &ConnectHead,
        behind: Behind<'_>,
    ) -> Result<PooledStream, TunnelError> {
        let head = ConnectHead { forwarded_network: Some(behind.network.clone()), ..head.clone() };
        let inner = Inner {
            svid,
            expected: behind.expected,
            settings: self.settings(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            answer_timeout: ANSWER_TIMEOUT,
        };
        let around = outer.peer_chain().clone();
        let (outer, slot) = outer.into_parts();
        let OpenedInside { stream, baggage, peer, driver } = inner.open(outer, &head).await?;
        // It ends by itself: soon after its stream has, or with the outer tunnel, which the pool
        // closes. The outer stream's place is taken until then.
        tokio::task::spawn_local(async move {
            driver.run().await;
            drop(slot);
        });
        Ok(PooledStream::inside((stream, baggage), peer, around))
    }
}
