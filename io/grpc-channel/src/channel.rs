//! Connecting: addresses in turn, TLS, then tonic's channel, which reconnects by the same way.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tls::{ServerRootsError, ServerTrust, TlsError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;
use crate::credentials::{CredentialError, Credentials};

/// How long a connection may take to be made: resolving, TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// While calls are open, the server must show life after this much silence. Not without calls:
/// Go's servers answer pings of an idle connection with `ENHANCE_YOUR_CALM`.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the answer to a ping may take; then the connection is lost.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the server may send before we take it: the first response of a large mesh has tens of
/// megabytes, which the protocol's default of 64 KiB lets through at one window a round trip.
const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all calls of a connection together.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Addresses tried for one connection; those after are not.
const ADDRESSES_MAX: usize = 8;

/// Why there is no connection to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// It took longer than [`CONNECT_TIMEOUT`].
    #[error("connecting to {0} took longer than {CONNECT_TIMEOUT:?}")]
    Timeout(Address),
    /// The name has no address.
    #[error("resolving {address}")]
    Resolve {
        /// Whose.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// No address answered; the cause is that of the last.
    #[error("connecting to {address}")]
    Connect {
        /// Whose.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// The roots could not be read.
    #[error("the roots for {address}")]
    Roots {
        /// Whose.
        address: Address,
        /// Why not.
        source: ServerRootsError,
    },
    /// The server is not the one named, or does not speak TLS as we do.
    #[error("TLS with {address}")]
    Tls {
        /// Whose.
        address: Address,
        /// Why not.
        source: TlsError,
    },
    /// HTTP/2 did not start.
    #[error("HTTP/2 with {address}")]
    Http2 {
        /// Whose.
        address: Address,
        /// Why not.
        source: tonic::transport::Error,
    },
}

/// A control plane: where it is, how it is recognised, and who we are to it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    address: Address,
    trust: ServerTrust,
    credentials: Credentials,
}

impl ControlPlane {
    /// Nothing is connected or read yet. `trust` is not used for a plaintext address.
    #[must_use]
    pub fn new(address: Address, trust: ServerTrust, credentials: Credentials) -> Self {
        Self { address, trust, credentials }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Makes one connection. The channel makes the next one itself when this one breaks, for the
    /// next call; it does not pause between attempts, so the caller has to.
    pub async fn connect(&self) -> Result<Channel, ChannelError> {
        let first = self.stream().await?;
        let this = self.clone();
        let mut first = Some(first);
        let connector = tower::service_fn(move |_| {
            let (this, first) = (this.clone(), first.take());
            async move {
                match first {
                    Some(stream) => Ok(TokioIo::new(stream)),
                    None => this.stream().await.map(TokioIo::new),
                }
            }
        });
        let endpoint = Endpoint::from(self.address.uri().clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(false);
        let connecting = endpoint.connect_with_connector(connector);
        connecting
            .await
            .map_err(|source| ChannelError::Http2 { address: self.address.clone(), source })
    }

    /// A call's message with our metadata, the token as it is now.
    pub async fn request<T>(&self, message: T) -> Result<tonic::Request<T>, CredentialError> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = self.credentials.metadata().await?;
        Ok(request)
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, ChannelError> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.stream_unbounded())
            .await
            .map_err(|_| ChannelError::Timeout(self.address.clone()))?
    }

    async fn stream_unbounded(&self) -> Result<Box<dyn Stream>, ChannelError> {
        let address = || self.address.clone();
        let addresses = self.address.resolve().await;
        let mut addresses =
            addresses.map_err(|source| ChannelError::Resolve { address: address(), source })?;
        addresses.truncate(ADDRESSES_MAX);
        let tcp = connect_any(&addresses)
            .await
            .map_err(|source| ChannelError::Connect { address: address(), source })?;
        if self.address.is_plaintext() {
            return Ok(Box::new(tcp));
        }
        let verifier = self.trust.read().await;
        let verifier =
            verifier.map_err(|source| ChannelError::Roots { address: address(), source })?;
        let stream = verifier.connect(tcp).await;
        let stream = stream.map_err(|source| ChannelError::Tls { address: address(), source })?;
        Ok(Box::new(stream))
    }
}

/// What tonic is given.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Tries the addresses in turn. One that does not answer takes its share of the time, not all.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let share = CONNECT_TIMEOUT / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    for address in addresses {
        let connecting = async {
            let tcp = TcpStream::connect(address).await?;
            // Calls are small messages that somebody waits for.
            tcp.set_nodelay(true)?;
            Ok(tcp)
        };
        match tokio::time::timeout(share, connecting).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
