//! The client's end of a tunnel: a socket in the source pod, TLS, then HTTP/2.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hbone::PoolKey;
use hbone_h2::{ClientError, Driver, OpenError, Tunnel};
use model::{Code, Network, PodUid, SpiffeId, WorkloadUid};
use netns::{Dial, DialError, NetnsFd, Source};
use tls::{Svid, TlsError, VerifiedPeer};

use super::dial::code_of;
use super::{HANDSHAKE_TIMEOUT, TunnelOptions};

/// How long the peer's port 15008 may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything two streams must have in common to share a tunnel. The thread is implied: each has
/// its own pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    /// The instance of the source pod: its namespace holds the socket.
    pub(crate) pod: PodUid,
    /// The cookie of that namespace: a sandbox that was made anew under the same uid is another.
    pub(crate) netns_cookie: u64,
    /// The source address, if it is not the kernel's choice: the destination takes the client's address
    /// from the tunnel.
    pub(crate) source: Option<IpAddr>,
    /// Whose certificate is presented.
    pub(crate) identity: SpiffeId,
    /// The destination workload: a re-used address is another one.
    pub(crate) workload: WorkloadUid,
    /// The destination's network.
    pub(crate) network: Network,
    /// The destination's address and port.
    pub(crate) address: SocketAddr,
    /// Whose certificate is accepted.
    pub(crate) expected: Vec<SpiffeId>,
}

impl PoolKey for TunnelKey {
    type Pod = PodUid;

    fn pod(&self) -> PodUid {
        self.pod.clone()
    }
}

/// Why no stream could be opened. Cheap to clone: all who waited for one dial share it.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// The peer's port did not answer as it should.
    #[error("connecting the tunnel: {detail}")]
    Dial {
        /// The stable reason.
        code: Code,
        /// The chain of causes.
        detail: String,
    },
    /// TLS failed.
    #[error("TLS handshake of the tunnel: {detail}")]
    Tls {
        /// The stable reason.
        code: Code,
        /// The chain of causes.
        detail: String,
    },
    /// HTTP/2 failed.
    #[error("HTTP/2 handshake of the tunnel: {0}")]
    Http2(String),
    /// The peer did not answer the CONNECT.
    #[error("the destination's node did not answer CONNECT within {0:?}")]
    NoAnswer(Duration),
    /// The peer refused the stream.
    #[error("the destination's node answered CONNECT with {0}")]
    Status(u16),
    /// The peer did not look at the request; another tunnel may take it.
    #[error("the tunnel took no stream: {0}")]
    NotTaken(String),
    /// The tunnel broke while the stream was being opened.
    #[error("the tunnel was lost: {0}")]
    Lost(String),
    /// The tunnel to the gateway stands, and the one in it failed.
    #[error("{detail}")]
    Behind {
        /// The stable reason.
        code: Code,
        /// The chain of causes.
        detail: String,
    },
    /// The pool's own refusal.
    #[error("no tunnel may be opened")]
    Refused(Code),
}

impl TunnelError {
    /// Did the way to the gateway stand, and fail beyond it?
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Self::Behind { .. })
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Dial { code, .. }
            | Self::Tls { code, .. }
            | Self::Behind { code, .. }
            | Self::Refused(code) => *code,
            Self::Http2(_) => Code::Http2Failed,
            Self::NoAnswer(_) => Code::TunnelTimeout,
            Self::Status(status) => hbone::code_of_status(*status).unwrap_or(Code::PeerRefused),
            Self::NotTaken(_) | Self::Lost(_) => Code::TunnelLost,
        }
    }
}

impl From<DialError> for TunnelError {
    fn from(error: DialError) -> Self {
        let code = code_of(&error, Code::TunnelTimeout);
        Self::Dial { code, detail: model::causes(&error) }
    }
}

impl From<TlsError> for TunnelError {
    fn from(error: TlsError) -> Self {
        Self::Tls { code: error.code(), detail: model::causes(&error) }
    }
}

impl From<ClientError> for TunnelError {
    fn from(error: ClientError) -> Self {
        Self::Http2(model::causes(&error))
    }
}

impl From<OpenError> for TunnelError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Status(status) => Self::Status(status),
            OpenError::NotTaken(_) => Self::NotTaken(model::causes(&error)),
            OpenError::Broken(_) | OpenError::Request(_) => Self::Lost(model::causes(&error)),
        }
    }
}

/// Dials one tunnel. The driver must be polled for it to do anything.
pub(super) async fn dial(
    key: TunnelKey,
    namespace: NetnsFd,
    svid: Arc<Svid>,
    options: TunnelOptions,
) -> Result<(Tunnel, Driver, VerifiedPeer), TunnelError> {
    let source = key.source.map_or(Source::Own, Source::Local);
    let dial = Dial { namespace, source, tuning: options.tuning, timeout: CONNECT_TIMEOUT };
    let stream = dial.connect(key.address).await?;
    netns::limit_unsent(&stream);
    let (stream, peer) = tls::connect(stream, &svid, &key.expected, HANDSHAKE_TIMEOUT).await?;
    let handshake = Tunnel::handshake(stream, &options.settings);
    let (tunnel, driver) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| TunnelError::Http2(format!("no answer within {HANDSHAKE_TIMEOUT:?}")))??;
    Ok((tunnel, driver, peer))
}
