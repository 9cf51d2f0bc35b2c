//! Which certificates their issuers took back.
//!
//! A list counts for the issuer whose key signed it, not for whoever has the issuer's name: a
//! rotated root has the same name. Every certificate of a chain is checked, not the leaf alone. A
//! certificate whose issuer published no list is not revoked. A list that has expired stays in
//! force: what it revoked is still revoked.

mod list;
mod published;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::chain::{Issuer, Link, hex};
pub use list::CrlError;
pub(crate) use list::List;
pub use published::RevocationLists;

/// Most lists in force: one for each authority and each part it publishes. More are refused.
pub const CRLS_MAX: usize = 64;
/// Largest file of lists, in bytes: some 200,000 certificates. A larger one is refused.
pub const CRL_FILE_MAX: usize = 8 << 20;
/// Issuers whose lists are remembered. Beyond it, signatures are verified anew at each use.
const ISSUERS_MAX: usize = 1024;

/// What is known of revocations.
#[derive(Clone, Debug, Default)]
pub(crate) enum Revocations {
    /// None are published here.
    #[default]
    Off,
    /// There should be lists, and none could be read or believed: nobody can be accepted.
    Unavailable,
    /// These.
    InForce(Arc<Lists>),
}

impl Revocations {
    /// Whether they are the same value, not only equal ones.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Off, Self::Off) | (Self::Unavailable, Self::Unavailable) => true,
            (Self::InForce(a), Self::InForce(b)) => Arc::ptr_eq(a, b),
            (Self::Off | Self::Unavailable | Self::InForce(_), _) => false,
        }
    }
}

/// Revocation lists in force.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    lists: Vec<Arc<List>>,
    /// Places in `lists` that an issuer's key signed: verified once, not at each handshake.
    signed: Mutex<HashMap<Arc<Issuer>, Arc<[usize]>>>,
}

impl Lists {
    /// The lists to be in force after `new` ones were read: those, and of the `old` ones those that
    /// are not in the file any more and have not expired, so that a file cut off between two lists
    /// does not revive what was revoked.
    ///
    /// Refused are lists that a `known` issuer of that name did not sign, and ones older than what
    /// is in force.
    pub(crate) fn succeed(
        old: Option<&Self>,
        new: Vec<List>,
        known: &[Arc<Issuer>],
        now: SystemTime,
    ) -> Result<Self, CrlError> {
        let mut lists: Vec<Arc<List>> = new.into_iter().map(Arc::new).collect();
        let seen = old.map(|old| old.signed.lock().keys().cloned().collect::<Vec<_>>());
        let known: Vec<_> = known.iter().chain(seen.iter().flatten()).cloned().collect();
        if let Some(forged) = lists.iter().find(|list| list.is_forged(&known)) {
            return Err(CrlError::Forged(hex(&forged.key.issuer)));
        }
        for before in old.iter().flat_map(|old| &old.lists) {
            match lists.iter().find(|list| list.key == before.key) {
                Some(now) if before.is_attested() && now.is_older_than(before) => {
                    return Err(CrlError::Replayed(hex(&before.key.issuer)));
                }
                None if before.next_update > now => lists.push(before.clone()),
                Some(_) | None => {}
            }
        }
        if lists.len() > CRLS_MAX {
            return Err(CrlError::TooMany);
        }
        Ok(Self::of_lists(lists))
    }

    fn of_lists(lists: Vec<Arc<List>>) -> Self {
        Self { lists, signed: Mutex::default() }
    }

    /// Whether one of the lists turns out not to be its issuer's, now that more issuers are known.
    pub(crate) fn is_forged(&self, known: &[Arc<Issuer>]) -> bool {
        self.lists.iter().any(|list| list.is_forged(known))
    }

    /// The first certificate of a chain that its issuer revoked.
    pub(crate) fn revoked<'a>(&self, links: &'a [Link]) -> Option<&'a Link> {
        links.iter().find(|link| {
            let lists = self.of(&link.issuer);
            lists.iter().any(|place| self.lists[*place].holds(&link.serial))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.lists.len()
    }

    /// Revoked certificates of all lists.
    pub(crate) fn entries(&self) -> usize {
        self.lists.iter().map(|list| list.entries()).sum()
    }

    /// Lists that should have been followed by another by now.
    pub(crate) fn expired(&self, now: SystemTime) -> usize {
        self.lists.iter().filter(|list| list.next_update <= now).count()
    }

    /// How many are known to be signed by their issuer.
    pub(crate) fn attested(&self) -> usize {
        self.lists.iter().filter(|list| list.is_attested()).count()
    }

    /// Those in DER, one after the other: what [`read`](Self::read) takes.
    pub(crate) fn to_der(&self) -> Vec<u8> {
        let attested = self.lists.iter().filter(|list| list.is_attested());
        attested.flat_map(|list| list.der.iter().copied()).collect()
    }

    /// Reads a file of lists, PEM or DER, one or more.
    pub(crate) fn read(file: &[u8]) -> Result<Vec<List>, CrlError> {
        list::read(file)
    }

    fn of(&self, issuer: &Arc<Issuer>) -> Arc<[usize]> {
        if let Some(places) = self.signed.lock().get(issuer) {
            return places.clone();
        }
        let signed = |(place, list): (usize, &Arc<List>)| list.attest(issuer).then_some(place);
        let places: Arc<[usize]> = self.lists.iter().enumerate().filter_map(signed).collect();
        let mut remembered = self.signed.lock();
        if remembered.len() < ISSUERS_MAX {
            remembered.insert(issuer.clone(), places.clone());
        }
        places
    }
}
