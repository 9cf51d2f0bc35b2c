//! Who calls: every request of a proxy is that of somebody who proved it.

mod certificate;
mod chain;
mod cluster_names;
mod join_tokens;
mod refusal;
mod request;
mod role;
mod strangers;
mod token_review;
mod turns;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use model::SpiffeId;

pub use certificate::CertificateCallers;
pub use chain::CallerChain;
pub use cluster_names::ClusterNames;
pub use join_tokens::{
    JOIN_TOKEN_LIFE_MAX, JOIN_TOKEN_PREFIX, JOIN_TOKENS_FILE, JOIN_TOKENS_MAX, JoinToken,
    JoinTokenCallers, JoinTokenError, JoinTokenFile,
};
pub use refusal::{Refusal, RefusalCode, RefusalKind, Refusals};
pub use request::{Arrival, TOKEN_BYTES_MAX, admit};
pub use role::{Account, NotAnAccount, Roles};
pub use strangers::Strangers;
pub use token_review::{
    AUDIENCE, CACHE_MAX, CACHE_TIME, KubernetesReviewer, REVIEW_TIMEOUT, Review, ReviewError,
    ReviewTokens, Reviewing, TokenCallers,
};
pub use turns::{ADDRESSES_MAX, REVIEWS_AT_ONCE, REVIEWS_OF_ADDRESS, REVIEWS_OF_ADDRESS_MAX};

/// What a call came with.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The identity of a client certificate that was verified in the handshake.
    pub certificate: Option<SpiffeId>,
    /// `authorization: Bearer …`, without the scheme.
    pub token: Option<Arc<str>>,
    /// `clusterid`: which cluster's token it is.
    pub cluster: Option<Arc<str>>,
    /// Why an authorization that came is none that is read. Such a call is refused, whatever else
    /// it came with: a certificate is not what its caller meant to show.
    pub unusable: Option<&'static str>,
    /// Where the call came from.
    pub address: Option<IpAddr>,
}

/// Somebody who proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The service account, as an identity.
    pub identity: SpiffeId,
    /// The node it runs on, where that was proved.
    pub node: Option<Arc<str>>,
    /// The pod it is, where that was proved.
    pub pod: Option<CallerPod>,
    /// What it proved it with.
    pub proof: Proof,
    /// What it may do.
    pub role: Role,
}

/// A pod that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerPod {
    /// Name within the namespace of the identity.
    pub name: Arc<str>,
    /// The instance.
    pub uid: Arc<str>,
}

/// How somebody proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// A certificate of ours.
    Certificate,
    /// A token of a service account.
    ServiceAccountToken,
    /// A token that an operator gave to a node.
    JoinToken,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A node's agent: is served the mesh, and asks for the certificates of its pods.
    NodeProxy,
    /// A waypoint or gateway: is served the mesh, and asks for its own certificate.
    Gateway,
    /// Any other workload: asks for its own certificate.
    Workload,
}

/// The answer of an authenticator.
pub type Authenticating<'a> = Pin<Box<dyn Future<Output = Result<Caller, Refusal>> + Send + 'a>>;

/// Finds out who calls.
pub trait Authenticate: Send + Sync {
    /// Never waits longer than a few seconds.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> Authenticating<'a>;
}
