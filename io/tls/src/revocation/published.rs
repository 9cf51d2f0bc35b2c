//! The revocation lists of an authority that publishes its own.

use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::{CrlError, List, Lists};
use crate::TrustBundle;
use crate::chain::Issuer;

/// Lists in force, as whoever publishes them has them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RevocationLists(Arc<Lists>);

impl RevocationLists {
    /// The lists to be in force after a file of them, PEM or DER, was read: those, and of the ones
    /// `before` those that are not in the file and have not expired.
    ///
    /// Refused are lists that a root of that name did not sign, and ones older than what is in force.
    /// `below`: certificates between roots and leaves, whose lists are recognised too.
    pub fn succeed(
        before: Option<&Self>,
        file: &[u8],
        roots: &TrustBundle,
        below: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Self, CrlError> {
        let new = Lists::read(file)?;
        recognise(&new, below);
        let lists = Lists::succeed(before.map(|before| &*before.0), new, &issuers(roots), now)?;
        Ok(Self(Arc::new(lists)))
    }

    /// Lists that were in force once. Those that no root of their issuer's name signed are left out, if
    /// there is a root of that name.
    pub fn restore(
        file: &[u8],
        roots: &TrustBundle,
        below: &[CertificateDer<'_>],
    ) -> Result<Self, CrlError> {
        let lists = Lists::read(file)?;
        recognise(&lists, below);
        let lists = Lists::of_lists(lists.into_iter().map(Arc::new).collect());
        Ok(Self(Arc::new(lists)).without(&[], roots))
    }

    /// The same without those that nobody signed but roots that are `dropped`. What a root of the
    /// same name takes for forged is one of them: a rotated root has the name of the one before.
    #[must_use]
    pub fn without(&self, dropped: &[CertificateDer<'_>], roots: &TrustBundle) -> Self {
        let (left, gone) = (issuers(roots), issuers_of(dropped));
        let is_kept = |list: &&Arc<List>| {
            let mut namesakes = left.iter().filter(|root| root.name == list.key.issuer).peekable();
            if namesakes.peek().is_some() {
                return namesakes.any(|root| list.attest(root));
            }
            !gone.iter().any(|root| list.attest(root))
        };
        let kept: Vec<_> = self.0.lists.iter().filter(is_kept).cloned().collect();
        if kept.len() == self.0.len() {
            return self.clone();
        }
        Self(Arc::new(Lists::of_lists(kept)))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// Each list, DER.
    pub fn iter_der(&self) -> impl Iterator<Item = &[u8]> {
        self.0.lists.iter().map(|list| &*list.der)
    }

    pub(crate) fn in_force(&self) -> &Arc<Lists> {
        &self.0
    }
}

/// Notes which lists are those of intermediates. One that is not theirs may be that of another of
/// their name, so nothing is refused for it.
fn recognise(lists: &[List], below: &[CertificateDer<'_>]) {
    for issuer in issuers_of(below) {
        for list in lists {
            list.attest(&issuer);
        }
    }
}

fn issuers(roots: &TrustBundle) -> Vec<Arc<Issuer>> {
    roots.anchors().iter().map(|anchor| Arc::new(Issuer::of_anchor(anchor))).collect()
}

/// Of certificates that cannot be read nothing is known.
fn issuers_of(certificates: &[CertificateDer<'_>]) -> Vec<Issuer> {
    let anchors = certificates.iter().filter_map(|one| webpki::anchor_from_trusted_cert(one).ok());
    anchors.map(|anchor| Issuer::of_anchor(&anchor)).collect()
}
