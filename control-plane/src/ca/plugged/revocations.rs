//! The operator's revocation lists: which are in force, and how they are told.

use std::sync::Arc;
use std::time::SystemTime;

use authority::CertificateDer;
use tls::{CrlError, RevocationLists, TrustBundle};
use tokio::sync::watch;

use super::CRL;
use crate::ca::store::Texts;

/// Whose signatures on lists can be checked.
pub(super) struct Signers<'a> {
    /// Every root that is told.
    pub(super) roots: &'a TrustBundle,
    /// Intermediates of the authority.
    pub(super) below: &'a [CertificateDer<'static>],
}

/// The lists in force after the operator's texts were read. Without a list among them those
/// `before` stay: what they revoked is still revoked. `None`: there never was one.
pub(super) fn next(
    before: Option<&RevocationLists>,
    texts: &Texts,
    signers: &Signers<'_>,
    now: SystemTime,
) -> Result<Option<RevocationLists>, CrlError> {
    let file = texts.get(CRL).map(|text| text.trim()).unwrap_or_default();
    if file.is_empty() {
        return Ok(before.cloned());
    }
    let Signers { roots, below } = signers;
    RevocationLists::succeed(before, file.as_bytes(), roots, below, now).map(Some)
}

/// The lists that an earlier process had in force, as [`pem`] wrote them.
pub(super) fn restore(text: &str, signers: &Signers<'_>) -> Result<RevocationLists, CrlError> {
    if text.is_empty() {
        return Ok(RevocationLists::default());
    }
    RevocationLists::restore(text.as_bytes(), signers.roots, signers.below)
}

/// The lists in force, and their text for whoever publishes it.
pub(super) struct Lists {
    in_force: Option<RevocationLists>,
    pem: watch::Sender<Arc<str>>,
}

impl Lists {
    pub(super) fn new(in_force: Option<RevocationLists>) -> Self {
        let text = in_force.as_ref().map(pem).unwrap_or_default();
        Self { in_force, pem: watch::Sender::new(text.into()) }
    }

    pub(super) fn get(&self) -> Option<&RevocationLists> {
        self.in_force.as_ref()
    }

    pub(super) fn pem(&self) -> watch::Receiver<Arc<str>> {
        self.pem.subscribe()
    }

    pub(super) fn replace(&mut self, lists: Option<RevocationLists>) {
        let text = lists.as_ref().map(pem).unwrap_or_default();
        self.in_force = lists;
        self.pem.send_if_modified(|told| {
            let is_other = **told != *text;
            if is_other {
                *told = text.into();
            }
            is_other
        });
    }
}

/// The lists one after the other; empty if there is none.
pub(super) fn pem(lists: &RevocationLists) -> String {
    lists.iter_der().map(|der| authority::pem("X509 CRL", der)).collect()
}
