//! What a call of gRPC came with.

use std::net::IpAddr;
use std::sync::Arc;

use model::{SpiffeId, VerifiedIdentity};
use tokio_util::sync::CancellationToken;
use tonic::Extensions;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::{Authenticate, Caller, Credentials, Refusal};

/// Longest token read, in bytes; a call with a longer one is refused. A projected token has about 1 KiB.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest cluster id read; a longer one is cut, and so nobody's.
const CLUSTER_BYTES_MAX: usize = 256;
const BEARER: &str = "Bearer ";

/// The connection that a call came by; the server of connections puts it into the extensions of each
/// of their calls.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// Whose certificate it was opened with.
    pub certificate: Option<VerifiedIdentity>,
    /// Where from.
    pub address: Option<IpAddr>,
    /// Cancelled once somebody proved on it who they are: until then it is kept for a short time only.
    pub admitted: CancellationToken,
}

impl Credentials {
    /// Reads them from a call.
    #[must_use]
    pub fn of_call(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let text = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok());
        let arrival = extensions.get::<Arrival>();
        let peer = arrival.and_then(|arrival| arrival.certificate.as_ref());
        let certificate: Option<SpiffeId> = peer.map(|peer| peer.id().clone());
        let address = arrival.and_then(|arrival| arrival.address);
        let (token, unusable) = match metadata.get("authorization").map(token) {
            None => (None, None),
            Some(Ok(token)) => (Some(token), None),
            Some(Err(why)) => (None, Some(why)),
        };
        let cluster = text("clusterid").map(|name| name.get(..CLUSTER_BYTES_MAX).unwrap_or(name));
        Self { certificate, token, cluster: cluster.map(Arc::from), unusable, address }
    }
}

/// Finds out who made a call, before anything of its message is read. If they proved it, their
/// connection is kept.
pub async fn admit(
    callers: &dyn Authenticate,
    credentials: &Credentials,
    extensions: &Extensions,
) -> Result<Caller, Refusal> {
    let caller = callers.authenticate(credentials).await?;
    if let Some(arrival) = extensions.get::<Arrival>() {
        arrival.admitted.cancel();
    }
    Ok(caller)
}

fn token(authorization: &AsciiMetadataValue) -> Result<Arc<str>, &'static str> {
    let text = authorization.to_str().map_err(|_| "the authorization is not ASCII")?;
    let token = text.strip_prefix(BEARER).ok_or("the authorization is not Bearer")?;
    // An unmodified agent sends its file as it is, with the blanks at its end.
    match token.trim() {
        "" => Err("the token is empty"),
        token if token.len() > TOKEN_BYTES_MAX => Err("the token is too long"),
        token => Ok(token.into()),
    }
}
