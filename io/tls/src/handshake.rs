//! The two ends of a handshake. Both return only after the peer is verified and speaks `h2`.
//!
//! rustls runs our verifier somewhere within the handshake's future and keeps only the certificates
//! that it was shown. What the verifier found, the chain above all, is left in a slot of that
//! future, so that no signature is verified a second time to learn it again.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use model::{SpiffeId, VerifiedIdentity};
use rustls::ServerConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{IdentityProblem, PeerChain, Svid, TlsError};

/// The protocol inside, in both directions (RFC 7301).
pub const ALPN: &[u8] = b"h2";
/// What is spoken with an API server, which asks webhooks and is asked.
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// An encrypted stream to a verified peer.
pub type TlsStream<S> = tokio_rustls::TlsStream<S>;

/// Who is on the other side, and by which certificates.
#[derive(Clone, Debug)]
pub struct VerifiedPeer {
    /// Its SPIFFE ID.
    pub identity: VerifiedIdentity,
    /// What [`Trust::check_chain`](crate::Trust::check_chain) judges again when trust changes.
    pub chain: PeerChain,
}

tokio::task_local! {
    /// What the verifier accepted in the handshake that is being polled.
    static FOUND: RefCell<Option<(SpiffeId, PeerChain)>>;
}

/// Leaves what the verifier accepted for the handshake to return.
pub(crate) fn found(id: SpiffeId, chain: PeerChain) {
    // Outside of a handshake of ours nobody asks.
    let _ = FOUND.try_with(|slot| slot.replace(Some((id, chain))));
}

/// Accepts a client of a trusted domain. `timeout` covers the whole handshake, and is what bounds
/// the life of a connection that sends nothing.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    svid: &Svid,
    timeout: Duration,
) -> Result<(TlsStream<S>, VerifiedPeer), TlsError> {
    let acceptor = TlsAcceptor::from(svid.server_config());
    let handshake = async { Ok(TlsStream::Server(acceptor.accept(stream).await?)) };
    perform(handshake, timeout).await
}

/// Connects to a server that must be one of `expected`; with none, nobody is accepted.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    svid: &Svid,
    expected: &[SpiffeId],
    timeout: Duration,
) -> Result<(TlsStream<S>, VerifiedPeer), TlsError> {
    // The verifier ignores the name, and none is sent.
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let connector = TlsConnector::from(svid.client_config(expected));
    let handshake = async { Ok(TlsStream::Client(connector.connect(name, stream).await?)) };
    perform(handshake, timeout).await
}

/// Accepts a client that may show a certificate. One that is shown has to be trusted.
pub(crate) async fn accept_with<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
    timeout: Duration,
) -> Result<(TlsStream<S>, Option<VerifiedPeer>), TlsError> {
    let acceptor = TlsAcceptor::from(config);
    let handshake = async { Ok(TlsStream::Server(acceptor.accept(stream).await?)) };
    perform_with(handshake, timeout).await
}

async fn perform<S: AsyncRead + AsyncWrite + Unpin>(
    handshake: impl Future<Output = std::io::Result<TlsStream<S>>>,
    timeout: Duration,
) -> Result<(TlsStream<S>, VerifiedPeer), TlsError> {
    let (stream, peer) = perform_with(handshake, timeout).await?;
    let peer = peer.ok_or(TlsError::PeerIdentity(IdentityProblem::Unreadable))?;
    Ok((stream, peer))
}

/// The only call of `assertion` for a peer.
async fn perform_with<S: AsyncRead + AsyncWrite + Unpin>(
    handshake: impl Future<Output = std::io::Result<TlsStream<S>>>,
    timeout: Duration,
) -> Result<(TlsStream<S>, Option<VerifiedPeer>), TlsError> {
    let slotted = FOUND.scope(RefCell::new(None), async {
        let stream = handshake.await.map_err(TlsError::from_handshake)?;
        Ok((stream, FOUND.with(RefCell::take)))
    });
    let (stream, found) =
        tokio::time::timeout(timeout, slotted).await.map_err(|_| TlsError::Timeout(timeout))??;
    // A peer may leave ALPN out altogether: then rustls has nothing to refuse.
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(TlsError::Alpn);
    }
    let peer = found.map(|(id, chain)| {
        let identity = VerifiedIdentity::assertion(id);
        VerifiedPeer { identity, chain }
    });
    Ok((stream, peer))
}
