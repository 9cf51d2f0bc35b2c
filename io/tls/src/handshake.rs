//! The two ends of a handshake. Both return only after the peer is verified and speaks `h2`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use model::{SpiffeId, VerifiedIdentity};
use rustls::CommonState;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{IdentityProblem, Svid, TlsError, spiffe};

/// The protocol inside, in both directions (RFC 7301).
pub const ALPN: &[u8] = b"h2";

/// An encrypted stream to a verified peer.
pub type TlsStream<S> = tokio_rustls::TlsStream<S>;

/// Accepts a client of our trust domain. `timeout` covers the whole handshake, and is what bounds
/// the life of a connection that sends nothing.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    svid: &Svid,
    timeout: Duration,
) -> Result<(TlsStream<S>, VerifiedIdentity), TlsError> {
    let handshake = TlsAcceptor::from(svid.server_config()).accept(stream);
    let stream = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| TlsError::Timeout(timeout))?
        .map_err(TlsError::from_handshake)?;
    let peer = verified(stream.get_ref().1)?;
    Ok((TlsStream::Server(stream), peer))
}

/// Connects to a server that must be one of `expected`; with none, nobody is accepted.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    svid: &Svid,
    expected: &[SpiffeId],
    timeout: Duration,
) -> Result<(TlsStream<S>, VerifiedIdentity), TlsError> {
    // The verifier ignores the name, and none is sent.
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let handshake = TlsConnector::from(svid.client_config(expected)).connect(name, stream);
    let stream = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| TlsError::Timeout(timeout))?
        .map_err(TlsError::from_handshake)?;
    let peer = verified(stream.get_ref().1)?;
    Ok((TlsStream::Client(stream), peer))
}

/// What the verifier has accepted, by name. The only call of `assertion` for a peer.
fn verified(session: &CommonState) -> Result<VerifiedIdentity, TlsError> {
    // A peer may leave ALPN out altogether: then rustls has nothing to refuse.
    if session.alpn_protocol() != Some(ALPN) {
        return Err(TlsError::Alpn);
    }
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let leaf = leaf.ok_or(TlsError::PeerIdentity(IdentityProblem::Unreadable))?;
    spiffe::parse(leaf)
        .and_then(|parsed| spiffe::identity(&parsed))
        .map(VerifiedIdentity::assertion)
        .map_err(TlsError::PeerIdentity)
}
