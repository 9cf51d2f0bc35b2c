//! What a call of gRPC came with.

use std::sync::Arc;

use model::{SpiffeId, VerifiedIdentity};
use tonic::Extensions;
use tonic::metadata::MetadataMap;

use super::Credentials;

/// Longest token read, in bytes; a longer one counts as none. A projected token has about 1 KiB.
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
        let token = text("authorization")
            .and_then(|value| value.strip_prefix(BEARER))
            // An unmodified agent sends its file as it is, with the blanks at its end.
            .map(str::trim)
            .filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX);
        let cluster = text("clusterid").map(|name| name.get(..CLUSTER_BYTES_MAX).unwrap_or(name));
        Self { certificate, token: token.map(Arc::from), cluster: cluster.map(Arc::from) }
    }
}
