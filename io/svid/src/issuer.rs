//! What the store needs of a certificate authority.

use std::error::Error;
use std::pin::Pin;
use std::time::Duration;

use model::SpiffeId;
use tls::Svid;

/// A request under way.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Svid, IssueError>> + Send + 'a>>;

/// Issues SVIDs for workloads of this node, each with a fresh key.
pub trait Issuer: Send + Sync {
    /// Asks for an SVID that is valid for about `ttl`; the authority may choose less.
    fn issue<'a>(&'a self, identity: &'a SpiffeId, ttl: Duration) -> Issuing<'a>;
}

/// Why there is no SVID. The cause names the authority's own error.
#[derive(Debug, thiserror::Error)]
#[error("no certificate for {identity}")]
pub struct IssueError {
    /// Who it was for.
    pub identity: SpiffeId,
    /// What went wrong.
    #[source]
    pub cause: Box<dyn Error + Send + Sync>,
}
