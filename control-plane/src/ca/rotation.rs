//! From one root to the next without a refused handshake.
//!
//! `prepare` tells of a new root beside the old one, `switch` signs with it, `finish` drops the old
//! one. A step is refused while living certificates would be left behind, and says whose; an
//! operator who cannot wait, because a key was stolen, takes it by force.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use authority::{Authority, AuthorityError, CertificateDer, Fingerprint, RootError};
use serde::Serialize;
use tls::BundleError;

use super::current::InForce;
use super::ledger::{Ledger, Left};
use super::store::StoreError;

/// Most holders named in a refusal.
const NAMED_MAX: usize = 10;

/// Whether a step looks at who would be left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Refuses to leave anybody behind.
    Check,
    /// Does it at once.
    Force,
}

/// Where a rotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationStage {
    /// One root.
    Steady,
    /// A new root is told, the old one signs.
    Prepared,
    /// The new root signs, the old one is told.
    Switched,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// It is not this step's turn.
    #[error("{step} is not possible now: {why}")]
    Turn {
        /// Which step.
        step: &'static str,
        /// What comes first.
        why: &'static str,
    },
    /// Somebody would be left behind.
    #[error("{step} is refused: {0}", LeftBehind(.left))]
    LeftBehind {
        /// Which step.
        step: &'static str,
        /// Who.
        left: Vec<Left>,
    },
    /// Another control plane took a step at the same time.
    #[error("somebody else changed the authority at the same time: look at its status")]
    Conflict,
    /// The place of the secrets.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No new root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// An authority that is not usable.
    #[error("the authority is not usable")]
    Authority(#[from] AuthorityError),
    /// Too many roots at a time.
    #[error("the roots are not usable")]
    Bundle(#[from] BundleError),
    /// The revocation list.
    #[error("the revocation list is not usable")]
    Revocations(#[from] tls::CrlError),
    /// Part of it is missing.
    #[error("{place} has no {what}")]
    Missing {
        /// Which file or Secret.
        place: String,
        /// Which text.
        what: &'static str,
    },
}

struct LeftBehind<'a>(&'a [Left]);

impl fmt::Display for LeftBehind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.0.iter().map(|left| left.until).max().unwrap_or(UNIX_EPOCH);
        let minutes = last.duration_since(SystemTime::now()).unwrap_or_default();
        let minutes = minutes.as_secs().div_ceil(60);
        let named: Vec<_> =
            self.0.iter().take(NAMED_MAX).map(|left| left.holder.as_str()).collect();
        write!(f, "{} would be left behind, for {minutes} minutes yet", self.0.len())?;
        write!(f, ": {}", named.join(", "))
    }
}

/// Refuses to leave anybody behind.
pub(crate) fn check(step: &'static str, care: Care, left: Vec<Left>) -> Result<(), RotationError> {
    match care {
        Care::Check if !left.is_empty() => Err(RotationError::LeftBehind { step, left }),
        Care::Force if !left.is_empty() => {
            tracing::warn!(step, holders = left.len(), "step of a rotation taken by force");
            Ok(())
        }
        Care::Check | Care::Force => Ok(()),
    }
}

/// A root, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootStatus {
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// What it does.
    pub part: RootPart,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
    /// Of a root that signs, or is to sign: the certificates below it that do, the issuer of leaves
    /// first; empty if it is the issuer itself.
    pub chain: Vec<ChainStatus>,
    /// Certificates that live under it.
    pub certificates: u64,
    /// Nodes, and identities that asked for themselves, that hold them.
    pub holders: usize,
}

/// A certificate between leaves and a root, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainStatus {
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
}

/// What a root does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootPart {
    /// Certificates are signed under it.
    Signs,
    /// They are, after the next step of the rotation.
    Next,
    /// It is told only: the one before, or another that an operator added.
    Told,
}

/// The authority, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaStatus {
    /// Where its keys are from.
    pub source: String,
    /// Where a rotation stands.
    pub stage: RotationStage,
    /// Every root that answers tell of.
    pub roots: Vec<RootStatus>,
    /// When the signing chain ends, in seconds since 1970.
    pub not_after: u64,
    /// Holders of living certificates that the next step would leave behind.
    pub left: Vec<String>,
    /// What an operator has to mend.
    pub problem: Option<String>,
}

/// The answer of a step.
pub type Rotating<'a> = Pin<Box<dyn Future<Output = Result<CaStatus, RotationError>> + Send + 'a>>;

/// An authority whose root can be changed.
pub trait Rotate: Send + Sync {
    /// Tells of a new root.
    fn prepare(&self) -> Rotating<'_>;
    /// Signs with it.
    fn switch(&self, care: Care) -> Rotating<'_>;
    /// Drops the old one.
    fn finish(&self, care: Care) -> Rotating<'_>;
    /// Where it stands.
    fn status(&self) -> CaStatus;
}

/// What a status is made of.
pub(crate) struct Standing<'s> {
    pub(crate) source: String,
    pub(crate) stage: RotationStage,
    pub(crate) in_force: &'s InForce,
    /// What signs after the next step, if that is known.
    pub(crate) next: Option<&'s Authority>,
    pub(crate) ledger: &'s Ledger,
    pub(crate) left: &'s [Left],
    pub(crate) problem: Option<String>,
}

/// Status of what is in force.
pub(crate) fn status(standing: Standing<'_>) -> CaStatus {
    let Standing { source, stage, in_force, next, ledger, left, problem } = standing;
    let now = SystemTime::now();
    let signing = &*in_force.authority;
    let roots = in_force.bundle.certificates().map(|root| {
        let fingerprint = Fingerprint::of(root);
        let next = next.filter(|next| next.root() == fingerprint);
        let (part, authority) = match next {
            _ if fingerprint == signing.root() => (RootPart::Signs, Some(signing)),
            Some(next) => (RootPart::Next, Some(next)),
            None => (RootPart::Told, None),
        };
        let below = authority.map(Authority::intermediates).unwrap_or_default();
        let chain = below.iter().map(|below| ChainStatus {
            fingerprint: Fingerprint::of(below).to_string(),
            not_after: end(below),
        });
        RootStatus {
            fingerprint: fingerprint.to_string(),
            part,
            not_after: end(root),
            chain: chain.collect(),
            certificates: ledger.living(fingerprint, now),
            holders: ledger.presenting(fingerprint, now).len(),
        }
    });
    CaStatus {
        source,
        stage,
        roots: roots.collect(),
        not_after: seconds(signing.not_after()),
        left: left.iter().map(|left| left.holder.clone()).collect(),
        problem,
    }
}

fn end(certificate: &CertificateDer<'_>) -> u64 {
    // It was loaded, so it can be read.
    authority::not_after(certificate).map(seconds).unwrap_or_default()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
