//! What a call of gRPC came with.

use std::sync::Arc;

use model::{SpiffeId, VerifiedIdentity};
use tonic::Extensions;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::Credentials;

/// Longest token read, in bytes; a call with a longer one is refused. A projected token has about 1 KiB.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest cluster id read; a longer one is cut, and so nobody's.
const CLUSTER_BYTES_MAX: usize = 256;
const BEARER: &str = "Bearer ";

/// Whose certificate a connection was opened with; the server of connections puts it into the
/// extensions of each of their calls.
#[derive(Clone, Debug, Default)]
pub struct PeerCertificate(pub Option<VerifiedIdentity>);

impl Credentials {
    /// Reads them from a call.
    #[must_use]
    pub fn of_call(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let text = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok());
        let peer = extensions.get::<PeerCertificate>().and_then(|peer| peer.0.as_ref());
        let certificate: Option<SpiffeId> = peer.map(|peer| peer.id().clone());
        let (token, unusable) = match metadata.get("authorization").map(token) {
            None => (None, None),
            Some(Ok(token)) => (Some(token), None),
            Some(Err(why)) => (None, Some(why)),
        };
        let cluster = text("clusterid").map(|name| name.get(..CLUSTER_BYTES_MAX).unwrap_or(name));
        Self { certificate, token, cluster: cluster.map(Arc::from), unusable }
    }
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
