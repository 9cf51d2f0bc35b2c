//! The server's end of a tunnel: TLS, then HTTP/2.

use std::time::Duration;

use hbone_h2::{Server, ServerError};
use model::Code;
use tls::{Svid, TlsError, VerifiedPeer};
use tokio::net::TcpStream;

use super::{HANDSHAKE_TIMEOUT, TunnelOptions};

/// Why a tunnel was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    /// The TLS handshake failed.
    #[error("TLS handshake with the peer")]
    Tls(#[from] TlsError),
    /// The HTTP/2 handshake failed.
    #[error("HTTP/2 handshake with the peer")]
    Http2(#[from] ServerError),
    /// The HTTP/2 handshake stalled.
    #[error("HTTP/2 handshake with the peer took longer than {0:?}")]
    Stalled(Duration),
}

impl AcceptError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Tls(error) => error.code(),
            Self::Http2(error) => error.code(),
            Self::Stalled(_) => Code::Http2Failed,
        }
    }

    /// The chain of causes, for people.
    pub(crate) fn detail(&self) -> String {
        model::causes(self)
    }
}

/// Accepts a tunnel on behalf of the pod that `svid` belongs to.
pub(crate) async fn accept(
    stream: TcpStream,
    svid: &Svid,
    options: &TunnelOptions,
) -> Result<(Server, VerifiedPeer), AcceptError> {
    netns::limit_unsent(&stream);
    let (stream, peer) = tls::accept(stream, svid, HANDSHAKE_TIMEOUT).await?;
    let handshake = Server::handshake(stream, &options.settings);
    let server = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| AcceptError::Stalled(HANDSHAKE_TIMEOUT))??;
    Ok((server, peer))
}
