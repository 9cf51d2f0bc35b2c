//! The second leg: to an application in its pod, or out of a pod to where it wanted to go.

use std::net::SocketAddr;
use std::time::Duration;

use authz::Permit;
use ebpf_abi::PROXY_MARK;
use model::Code;
use netns::{Dial, DialError, NetnsFd, Source, TcpTuning};
use tokio::net::TcpStream;

/// How long a destination may take to accept; then the connection is refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a leg does not stand, with the stable reason.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct LegError(#[from] DialError);

impl LegError {
    pub(crate) fn code(&self) -> Code {
        match &self.0 {
            DialError::Timeout { .. } => Code::ConnectTimeout,
            DialError::Refused(_) => Code::ConnectRefused,
            DialError::Unreachable { .. } => Code::ConnectFailed,
            DialError::Ports { .. } => Code::LimitReached,
            DialError::Lookup(_) | DialError::Socket(_) => Code::Internal,
        }
    }

    /// The chain of causes, for people.
    pub(crate) fn detail(&self) -> String {
        model::causes(&self.0)
    }
}

/// Whether the client's own connection ends in the pod's namespace too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientLeg {
    /// In a tunnel, or in another pod's namespace.
    Elsewhere,
    /// In this namespace: plaintext from the wire.
    Beside,
}

/// Connects to the application that `permit` names, from the client's address.
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
    let source = match client {
        ClientLeg::Elsewhere => Source::Preserved { ip, mark },
        ClientLeg::Beside => Source::PreservedBeside { ip, mark },
    };
    connect(namespace, source, permit.destination(), tuning).await
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
