//! Tokens of service accounts: the API server says whose they are (TokenReview).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cluster::ObjectName;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use model::{SpiffeId, TrustDomain};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::turns::Turns;
use super::{
    Authenticate, Authenticating, Caller, CallerPod, ClusterNames, Credentials, Proof, Refusal,
    RefusalCode, Roles,
};

/// For whom a token must be made: nobody else's may be used here.
pub const AUDIENCE: &str = "istio-ca";
/// How long an answer of the API server is used again. A token that was taken back is believed no
/// longer than this.
pub const CACHE_TIME: Duration = Duration::from_secs(10);
/// Most answers kept. At the bound those that are over are dropped, and if all are fresh the next
/// is asked for each time.
pub const CACHE_MAX: usize = 8192;
/// How long a call waits for the API server, its turn included.
pub const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
const ACCOUNTS_GROUP: &str = "system:serviceaccounts";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What an API server says about a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// Whether it believes it.
    pub authenticated: bool,
    /// Why not.
    pub error: String,
    /// For whom the token is, of those that were asked about.
    pub audiences: Vec<String>,
    /// Whose it is.
    pub username: String,
    /// What groups they are in.
    pub groups: Vec<String>,
    /// More about them.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The API server could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("asking the API server about a token: {0}")]
pub struct ReviewError(pub String);

/// The answer of a reviewer.
pub type Reviewing<'a> = Pin<Box<dyn Future<Output = Result<Review, ReviewError>> + Send + 'a>>;

/// Asks an API server about tokens.
pub trait ReviewTokens: Send + Sync {
    /// Whether the token is good for one of the audiences, and whose it is.
    fn review<'a>(&'a self, token: &'a str, audiences: &'a [String]) -> Reviewing<'a>;
}

/// The API server of our cluster.
pub struct KubernetesReviewer(Api<TokenReview>);

impl KubernetesReviewer {
    /// With a client that may create TokenReviews.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self(Api::all(client))
    }
}

impl ReviewTokens for KubernetesReviewer {
    fn review<'a>(&'a self, token: &'a str, audiences: &'a [String]) -> Reviewing<'a> {
        Box::pin(async move {
            let question = TokenReview {
                spec: TokenReviewSpec {
                    token: Some(token.to_owned()),
                    audiences: Some(audiences.to_vec()),
                },
                ..TokenReview::default()
            };
            let asked = self.0.create(&PostParams::default(), &question).await;
            let answer = asked.map_err(|error| ReviewError(model::causes(&error)))?;
            Ok(answer.status.map(review).unwrap_or_default())
        })
    }
}

fn review(status: TokenReviewStatus) -> Review {
    let user = status.user.unwrap_or_default();
    Review {
        authenticated: status.authenticated.unwrap_or(false),
        error: status.error.unwrap_or_default(),
        audiences: status.audiences.unwrap_or_default(),
        username: user.username.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }
}

/// Whose a token is, as far as it does not depend on anything that changes here.
#[derive(Clone, Debug)]
struct Owner {
    identity: SpiffeId,
    pod: Option<CallerPod>,
    node: Option<Arc<str>>,
}

/// Authenticates by tokens of service accounts.
pub struct TokenCallers {
    reviewer: Arc<dyn ReviewTokens>,
    audiences: Vec<String>,
    clusters: ClusterNames,
    roles: Roles,
    turns: Turns,
    /// By the hash of a token: what is kept cannot be used to call. Only good answers: a bad token
    /// is asked about each time, within the turns.
    known: Mutex<HashMap<[u8; 32], (Instant, Owner)>>,
}

impl TokenCallers {
    /// Asks a reviewer about tokens for [`AUDIENCE`].
    #[must_use]
    pub fn new(reviewer: Arc<dyn ReviewTokens>, clusters: ClusterNames, roles: Roles) -> Self {
        Self {
            reviewer,
            audiences: vec![AUDIENCE.to_owned()],
            clusters,
            roles,
            turns: Turns::new(),
            known: Mutex::new(HashMap::new()),
        }
    }

    async fn caller(&self, credentials: &Credentials) -> Result<Caller, Refusal> {
        let why = "no token of a service account";
        let none = || Refusal::new(RefusalCode::NoCredentials, why);
        let token = credentials.token.as_deref().ok_or_else(none)?;
        self.clusters.require(credentials.cluster.as_deref())?;
        if token.split('.').count() != 3 {
            return Err(Refusal::new(RefusalCode::TokenMalformed, "the token is no JWT"));
        }
        let owner = self.owner(token, credentials.address).await?;
        let node = self.node(&owner)?;
        let role = self.roles.of(&owner.identity, owner.pod.as_ref());
        let proof = Proof::ServiceAccountToken;
        Ok(Caller { identity: owner.identity, node, pod: owner.pod, proof, role })
    }

    async fn owner(&self, token: &str, address: Option<IpAddr>) -> Result<Owner, Refusal> {
        let hash = authority::sha256(token.as_bytes());
        let now = Instant::now();
        if let Some((until, owner)) = self.known.lock().get(&hash)
            && now < *until
        {
            return Ok(owner.clone());
        }
        let unavailable = |why: String| Refusal::new(RefusalCode::ReviewUnavailable, why);
        let asked = timeout(REVIEW_TIMEOUT, async {
            let turn = self.turns.take(address).await;
            let _turn =
                turn.map_err(|many| Refusal::new(RefusalCode::TooManyReviews, many.to_string()))?;
            let review = self.reviewer.review(token, &self.audiences).await;
            review.map_err(|error| unavailable(error.to_string()))
        });
        let late = |_| unavailable(format!("no answer within {REVIEW_TIMEOUT:?} about a token"));
        let review = asked.await.map_err(late)??;
        let owner = owner(&review, &self.audiences, &self.roles.trust_domain)?;
        let mut known = self.known.lock();
        if known.len() >= CACHE_MAX {
            known.retain(|_, (until, _)| now < *until);
        }
        if known.len() < CACHE_MAX {
            // From when it was asked for: the answer may be as old as that.
            known.insert(hash, (now + CACHE_TIME, owner.clone()));
        }
        Ok(owner)
    }

    /// The node of the caller's own pod: the pod that the token is bound to must be the one that
    /// there is, and run as the token's account. A pod that is not known yet proves no node.
    fn node(&self, owner: &Owner) -> Result<Option<Arc<str>>, Refusal> {
        let Some(pod) = &owner.pod else { return Ok(None) };
        let name = ObjectName::new(owner.identity.namespace(), &pod.name);
        let Some(found) = self.roles.pods.read(|pods| pods.pod(&name).cloned()) else {
            return Ok(None);
        };
        let refused = |what: &str| {
            let why = format!("the token of pod {name} is {what}");
            Err(Refusal::new(RefusalCode::TokenOfOtherPod, why))
        };
        if found.uid != pod.uid {
            return refused("another instance's");
        }
        if *found.account != *owner.identity.service_account() {
            return refused("another account's");
        }
        if owner.node.as_ref().is_some_and(|node| *node != found.node) {
            return refused("another node's");
        }
        Ok((found.lives() && !found.node.is_empty()).then_some(found.node))
    }
}

impl Authenticate for TokenCallers {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> Authenticating<'a> {
        Box::pin(self.caller(credentials))
    }
}

impl fmt::Debug for TokenCallers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCallers")
            .field("known", &self.known.lock().len())
            .finish_non_exhaustive()
    }
}

fn owner(
    review: &Review,
    audiences: &[String],
    trust_domain: &TrustDomain,
) -> Result<Owner, Refusal> {
    if !review.authenticated {
        let why = format!("the API server does not believe the token: {}", review.error);
        return Err(Refusal::new(RefusalCode::TokenRejected, why));
    }
    // An API server that knows nothing of audiences answers with none, and has not checked.
    if !review.audiences.iter().any(|audience| audiences.contains(audience)) {
        let why = format!("the token is for {:?}, not for us", review.audiences);
        return Err(Refusal::new(RefusalCode::TokenForOthers, why));
    }
    let none = || {
        let why = format!("{:?} is no service account", review.username);
        Refusal::new(RefusalCode::NoServiceAccount, why)
    };
    if !review.groups.iter().any(|group| group == ACCOUNTS_GROUP) {
        return Err(none());
    }
    let account = review.username.strip_prefix(ACCOUNT_PREFIX).and_then(|n| n.split_once(':'));
    let (namespace, name) = account.ok_or_else(none)?;
    let identity = SpiffeId::new(trust_domain, namespace, name)
        .map_err(|error| Refusal::new(RefusalCode::NoServiceAccount, error.to_string()))?;
    let extra = |key: &str| match review.extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(Arc::from(value.as_str())),
        Some(_) | None => None,
    };
    let pod = extra(POD_NAME).zip(extra(POD_UID)).map(|(name, uid)| CallerPod { name, uid });
    Ok(Owner { identity, pod, node: extra(NODE_NAME) })
}

#[cfg(test)]
mod tests;
