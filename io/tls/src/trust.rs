//! Whom the mesh believes, as one immutable value: roots by trust domain, and revocations.
//!
//! A certificate is verified against the bundle of the trust domain it names and no other, so that
//! a foreign authority cannot speak for us. Handshakes look at the value in force; connections that
//! stand are judged again when it changes ([`Trust::check_chain`]).

mod files;
mod issued;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{Code, SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::chain::{CHAIN_MAX, Issuer, PeerChain, hex, links};
use crate::provider::{Compliance, provider};
use crate::revocation::{Lists, RevocationLists, Revocations};
use crate::{IdentityProblem, TrustBundle, spiffe};

pub use files::{BUNDLE_FILE_MAX, FEDERATED_MAX};
pub use issued::LIFETIME_MAX;
pub use store::{CrlStatus, DomainStatus, TrustSettings, TrustStatus, TrustStore};

/// Why a connection that stands may not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Revoked {
    /// Its issuer took a certificate of the chain back.
    #[error("the certificate with serial number {0} was revoked")]
    Certificate(String),
    /// The operator removed the trust domain's bundle.
    #[error("the trust domain {0} is not trusted any more")]
    Domain(TrustDomain),
    /// The operator removed the root from the trust domain's bundle.
    #[error("the root of the certificate is not trusted in {0} any more")]
    Root(TrustDomain),
}

impl Revoked {
    /// The stable reason.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::CertificateRevoked
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

/// Why a certificate was not accepted.
#[derive(Debug)]
pub(crate) enum Distrust {
    Identity(IdentityProblem),
    Chain(webpki::Error),
    /// Revocation lists should be there, and are not.
    RevocationsUnavailable,
}

/// Where a bundle is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Answers of our own authority.
    Issued,
    /// A file.
    Federated,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Domain {
    pub(crate) bundle: TrustBundle,
    pub(crate) origin: Origin,
}

/// Other names of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aliases {
    pub(crate) of: TrustDomain,
    pub(crate) names: BTreeSet<TrustDomain>,
}

/// Whom the mesh believes.
#[derive(Clone, Debug)]
pub struct Trust {
    generation: u64,
    domains: BTreeMap<TrustDomain, Domain>,
    aliases: Aliases,
    revocations: Revocations,
    compliance: Compliance,
}

impl Trust {
    /// Trust in one bundle, without anything that changes it.
    #[must_use]
    pub fn of(bundle: TrustBundle) -> Self {
        let of = bundle.trust_domain().clone();
        let domains = [(of.clone(), Domain { bundle, origin: Origin::Issued })].into();
        Self {
            generation: 0,
            domains,
            aliases: Aliases { of, names: BTreeSet::new() },
            revocations: Revocations::Off,
            compliance: Compliance::Default,
        }
    }

    /// The same with the revocation lists of an authority.
    #[must_use]
    pub fn revoking(mut self, lists: &RevocationLists) -> Self {
        self.revocations = Revocations::InForce(lists.in_force().clone());
        self
    }

    /// Counts changes; a connection judged under this generation need not be judged again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The roots that speak for a trust domain: its own bundle, or ours if it is an alias of ours
    /// and has none.
    #[must_use]
    pub fn bundle(&self, domain: &str) -> Option<&TrustBundle> {
        self.domain(domain).map(|found| &found.bundle)
    }

    /// Every bundle, sorted by trust domain.
    pub fn bundles(&self) -> impl Iterator<Item = (&TrustBundle, Origin)> {
        self.domains.values().map(|domain| (&domain.bundle, domain.origin))
    }

    pub(crate) fn compliance(&self) -> Compliance {
        self.compliance
    }

    /// Judges a connection that stands. That its certificate has expired meanwhile, or that our own
    /// authority has rotated its root away, is no reason to end it: both concern handshakes.
    pub fn check_chain(&self, chain: &PeerChain) -> Result<(), Revoked> {
        if let Revocations::InForce(lists) = &self.revocations
            && let Some(link) = lists.revoked(chain.links())
        {
            return Err(Revoked::Certificate(hex(&link.serial)));
        }
        let domain = chain.trust_domain();
        let Some(found) = self.domains.get(domain) else {
            return Err(Revoked::Domain(domain.clone()));
        };
        let root = chain.links().last().map(|link| &*link.issuer);
        let mut anchors = found.bundle.anchors().iter().map(Issuer::of_anchor);
        match found.origin {
            Origin::Federated if !anchors.any(|anchor| Some(&anchor) == root) => {
                Err(Revoked::Root(domain.clone()))
            }
            Origin::Federated | Origin::Issued => Ok(()),
        }
    }

    /// Whether two identities are one under names that mean the same trust domain.
    pub(crate) fn is_same(&self, one: &SpiffeId, other: &SpiffeId) -> bool {
        one == other
            || (self.is_ours(one.trust_domain())
                && self.is_ours(other.trust_domain())
                && one.namespace() == other.namespace()
                && one.service_account() == other.service_account())
    }

    /// Verifies a certificate: its one SPIFFE ID, the chain to a root of that ID's trust domain, at
    /// a time and for a usage, and that nothing in it is revoked.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(SpiffeId, PeerChain), Distrust> {
        let parsed = spiffe::parse(leaf).map_err(Distrust::Identity)?;
        let id = spiffe::identity(&parsed).map_err(Distrust::Identity)?;
        let Some(found) = self.domain(id.trust_domain()) else {
            let want = self.aliases.of.clone();
            return Err(Distrust::Identity(IdentityProblem::ForeignTrustDomain { got: id, want }));
        };
        let lists = match &self.revocations {
            Revocations::Off => None,
            Revocations::InForce(lists) => Some(&**lists),
            Revocations::Unavailable => return Err(Distrust::RevocationsUnavailable),
        };
        let chain = verify_path(&found.bundle, lists, leaf, intermediates, now, usage)
            .map_err(Distrust::Chain)?;
        Ok((id, chain))
    }

    fn domain(&self, name: &str) -> Option<&Domain> {
        let by_name = |name: &str| {
            self.domains.iter().find(|(domain, _)| domain.as_str() == name).map(|(_, found)| found)
        };
        by_name(name).or_else(|| {
            let is_alias = self.aliases.names.iter().any(|alias| alias.as_str() == name);
            is_alias.then(|| by_name(self.aliases.of.as_str())).flatten()
        })
    }

    fn is_ours(&self, name: &str) -> bool {
        self.aliases.of.as_str() == name
            || self.aliases.names.iter().any(|alias| alias.as_str() == name)
    }
}

/// The chain from a certificate to a root of the bundle.
pub(crate) fn verify_path(
    bundle: &TrustBundle,
    lists: Option<&Lists>,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: Usage,
) -> Result<PeerChain, webpki::Error> {
    if intermediates.len() >= CHAIN_MAX {
        return Err(webpki::Error::MaximumPathDepthExceeded);
    }
    let usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let algorithms = provider(Compliance::Default).signature_verification_algorithms.all;
    let leaf = EndEntityCert::try_from(leaf)?;
    let unrevoked = |path: &VerifiedPath<'_>| match lists {
        Some(lists) if lists.revoked(&links(path)).is_some() => Err(webpki::Error::CertRevoked),
        Some(_) | None => Ok(()),
    };
    let path = leaf.verify_for_usage(
        algorithms,
        bundle.anchors(),
        intermediates,
        now,
        usage,
        None,
        Some(&unrevoked),
    )?;
    Ok(PeerChain::new(bundle.trust_domain().clone(), links(&path)))
}

/// The trust in force, now and later. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustView(watch::Receiver<Arc<Trust>>);

impl TrustView {
    /// A view of trust that never changes.
    #[must_use]
    pub fn fixed(trust: Trust) -> Self {
        Self(watch::channel(Arc::new(trust)).1)
    }

    /// The trust in force.
    #[must_use]
    pub fn current(&self) -> Arc<Trust> {
        self.0.borrow().clone()
    }

    /// The trust in force; [`changed`](Self::changed) reports every later one.
    pub fn current_and_update(&mut self) -> Arc<Trust> {
        self.0.borrow_and_update().clone()
    }

    /// Resolves when the trust has changed since it was last looked at; `false` when there will be
    /// no other. Cancel safe.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}
