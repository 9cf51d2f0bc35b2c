//! The second leg: to an application in its pod, or out of a pod to where it wanted to go.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use authz::Permit;
use ebpf_abi::PROXY_MARK;
use hbone::ProxyHeader;
use model::Code;
use netns::{Dial, DialError, Family, NetnsFd, Source, TcpTuning};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How long a destination may take to accept; then the connection is refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a leg does not stand, with the stable reason.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct LegError(#[from] DialError);

impl LegError {
    pub(crate) fn code(&self) -> Code {
        code_of(&self.0, Code::ConnectTimeout)
    }

    /// The chain of causes, for people.
    pub(crate) fn detail(&self) -> String {
        model::causes(&self.0)
    }
}

/// The code of a connection that does not stand; `late`: that of one which was not answered, which is
/// another where a tunnel was to begin.
pub(super) fn code_of(error: &DialError, late: Code) -> Code {
    match error {
        DialError::Timeout { .. } => late,
        DialError::Refused(_) => Code::ConnectRefused,
        DialError::Unreachable { .. } => Code::ConnectFailed,
        DialError::Ports { .. } => Code::LimitReached,
        DialError::Lookup(_) | DialError::Socket(_) => Code::Internal,
    }
}

/// Whether the client's own connection ends in the pod's namespace too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientLeg {
    /// In a tunnel, or in another pod's namespace.
    Elsewhere,
    /// In this namespace: plaintext from the wire.
    Beside,
    /// Does not matter: an application tunnel is dialled on loopback, and told the client's address
    /// in the bytes.
    Told,
}

/// Connects to the application that `permit` names, from the client's address; or to its port on
/// loopback.
///
/// The permit is the only source of the destination: nothing can be dialled that policy has not
/// allowed.
pub(crate) async fn to_application(
    namespace: &NetnsFd,
    permit: Permit,
    client: ClientLeg,
    tuning: &TcpTuning,
) -> Result<TcpStream, LegError> {
    let (ip, mark) = (permit.source().ip(), PROXY_MARK);
    let destination = permit.destination();
    let (source, destination) = match client {
        ClientLeg::Elsewhere => (Source::Preserved { ip, mark }, destination),
        ClientLeg::Beside => (Source::PreservedBeside { ip, mark }, destination),
        ClientLeg::Told => {
            let loopback = Family::of(destination.ip()).loopback();
            (Source::Own, SocketAddr::new(loopback, destination.port()))
        }
    };
    connect(namespace, source, destination, tuning).await
}

/// Writes a PROXY header to an application, before all other bytes.
pub(crate) async fn announce(
    application: &mut TcpStream,
    header: &ProxyHeader,
) -> Result<(), AnnounceError> {
    let bytes = header.encode();
    // It fits into the buffer of a new socket: only a broken connection takes any time.
    match tokio::time::timeout(CONNECT_TIMEOUT, application.write_all(&bytes)).await {
        Ok(written) => written.map_err(AnnounceError::Broken),
        Err(_) => Err(AnnounceError::Timeout),
    }
}

/// Why a PROXY header was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    /// The application reset the connection.
    #[error("the application broke off before the PROXY header was written")]
    Broken(#[source] io::Error),
    /// It did not take the header in time.
    #[error("the application did not take the PROXY header within {CONNECT_TIMEOUT:?}")]
    Timeout,
}

impl AnnounceError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Broken(_) => Code::Reset,
            Self::Timeout => Code::ConnectTimeout,
        }
    }
}

/// Connects out of a pod, as the pod itself would have.
pub(crate) async fn passthrough(
    namespace: &NetnsFd,
    destination: SocketAddr,
    tuning: &TcpTuning,
) -> Result<TcpStream, LegError> {
    connect(namespace, Source::Own, destination, tuning).await
}

async fn connect(
    namespace: &NetnsFd,
    source: Source,
    destination: SocketAddr,
    tuning: &TcpTuning,
) -> Result<TcpStream, LegError> {
    let dial = Dial {
        namespace: namespace.clone(),
        source,
        tuning: tuning.clone(),
        timeout: CONNECT_TIMEOUT,
    };
    Ok(dial.connect(destination).await?)
}
