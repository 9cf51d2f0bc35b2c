//! One certificate revocation list (RFC 5280, section 5).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use webpki::{BorrowedCertRevocationList, CertRevocationList, RawPublicKeyEntity};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::CRLS_MAX;
use crate::chain::Issuer;
use crate::provider::{Compliance, provider};
use crate::spiffe;

/// Why a file of revocation lists is not in force.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// It could not be read.
    #[error("reading it")]
    Read(#[source] std::io::Error),
    /// Larger than [`CRL_FILE_MAX`](super::CRL_FILE_MAX).
    #[error("it is larger than {} bytes", super::CRL_FILE_MAX)]
    TooLarge,
    /// No list in it.
    #[error("it holds no revocation list")]
    Empty,
    /// More than [`CRLS_MAX`].
    #[error("more than {CRLS_MAX} revocation lists")]
    TooMany,
    /// Not PEM, or cut off.
    #[error("it is not whole PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// Not DER, cut off, or of a kind that is not understood.
    #[error("list {index} cannot be read")]
    Der {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: webpki::Error,
    },
    /// An issuer of that name is trusted, and did not sign it.
    #[error("the list of issuer {0} is not signed by it")]
    Forged(String),
    /// A newer list of that issuer is in force.
    #[error("the list of issuer {0} is older than the one in force")]
    Replayed(String),
}

/// What makes two lists versions of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListKey {
    /// The issuer's name, DER without its outer tag.
    pub(crate) issuer: Box<[u8]>,
    /// Which of an issuer's keys signed it, if it says so.
    authority_key: Option<Box<[u8]>>,
    /// Which part of an issuer's certificates it covers, if not all.
    part: Option<Box<[u8]>>,
}

/// One list, read and indexed.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) key: ListKey,
    pub(crate) next_update: SystemTime,
    pub(crate) der: Box<[u8]>,
    this_update: SystemTime,
    /// Big endian, without leading zeros.
    number: Option<Box<[u8]>>,
    /// Sorted.
    serials: Vec<Box<[u8]>>,
    /// Some issuer's key verified the signature.
    attested: AtomicBool,
}

/// Reads PEM if there is any, otherwise DER, one list after the other.
pub(super) fn read(file: &[u8]) -> Result<Vec<List>, CrlError> {
    const PEM: &[u8] = b"-----BEGIN";
    let mut lists = Vec::new();
    if file.windows(PEM.len()).any(|window| window == PEM) {
        for der in CertificateRevocationListDer::pem_slice_iter(file) {
            let der = der.map_err(CrlError::Pem)?;
            let index = lists.len();
            if add(&mut lists, &der)? != der.len() {
                return Err(CrlError::Der { index, source: webpki::Error::BadDer });
            }
        }
    } else {
        let mut rest = file;
        while !rest.is_empty() {
            rest = &rest[add(&mut lists, rest)?..];
        }
    }
    if lists.is_empty() {
        return Err(CrlError::Empty);
    }
    Ok(lists)
}

/// Reads one list and returns its length in bytes.
fn add(lists: &mut Vec<List>, input: &[u8]) -> Result<usize, CrlError> {
    let index = lists.len();
    if index == CRLS_MAX {
        return Err(CrlError::TooMany);
    }
    let list = List::parse(input).map_err(|source| CrlError::Der { index, source })?;
    let length = list.der.len();
    lists.push(list);
    Ok(length)
}

impl List {
    /// Reads the list at the start of `input`. webpki judges the form; x509-parser yields the parts
    /// that webpki keeps to itself.
    fn parse(input: &[u8]) -> Result<Self, webpki::Error> {
        let (_, parsed) =
            CertificateRevocationList::from_der(input).map_err(|_| webpki::Error::BadDer)?;
        let der = parsed.as_raw();
        let borrowed = BorrowedCertRevocationList::from_der(der)?;
        let mut serials = Vec::new();
        for entry in &borrowed {
            serials.push(Box::from(entry?.serial_number));
        }
        serials.sort_unstable();
        let mut authority_key = None;
        let mut number = None;
        for extension in parsed.extensions() {
            if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
                authority_key = id.key_identifier.as_ref().map(|key| Box::from(key.0));
            }
            if let ParsedExtension::CRLNumber(value) = extension.parsed_extension() {
                number = Some(value.to_bytes_be().into_boxed_slice());
            }
        }
        let next_update = parsed.next_update().ok_or(webpki::Error::BadDer)?;
        let borrowed = CertRevocationList::from(borrowed);
        let key = ListKey {
            issuer: borrowed.issuer().into(),
            authority_key,
            part: borrowed.issuing_distribution_point().map(Box::from),
        };
        Ok(Self {
            key,
            next_update: spiffe::at(next_update),
            this_update: spiffe::at(parsed.last_update()),
            der: der.into(),
            number,
            serials,
            attested: AtomicBool::new(false),
        })
    }

    pub(super) fn entries(&self) -> usize {
        self.serials.len()
    }

    pub(super) fn holds(&self, serial: &[u8]) -> bool {
        self.serials.binary_search_by(|held| held.as_ref().cmp(serial)).is_ok()
    }

    /// Whether some issuer was found to have signed it.
    pub(super) fn is_attested(&self) -> bool {
        self.attested.load(Ordering::Relaxed)
    }

    /// Whether this issuer signed it.
    pub(super) fn attest(&self, issuer: &Issuer) -> bool {
        let signed = issuer.name == self.key.issuer && self.is_signed_by(issuer);
        if signed {
            self.attested.store(true, Ordering::Relaxed);
        }
        signed
    }

    /// Whether issuers of its name are known, and none of them signed it.
    pub(super) fn is_forged(&self, known: &[Arc<Issuer>]) -> bool {
        let mut namesakes = known.iter().filter(|issuer| issuer.name == self.key.issuer).peekable();
        !self.is_attested()
            && namesakes.peek().is_some()
            && !namesakes.any(|issuer| self.attest(issuer))
    }

    /// Whether `self` would undo what `other` says.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        match (&self.number, &other.number) {
            (Some(own), Some(theirs)) => (own.len(), own) < (theirs.len(), theirs),
            (None, _) | (_, None) => self.this_update < other.this_update,
        }
    }

    fn is_signed_by(&self, issuer: &Issuer) -> bool {
        let Ok((_, parsed)) = CertificateRevocationList::from_der(&self.der) else {
            return false;
        };
        let Ok(key) = RawPublicKeyEntity::try_from(&issuer.key) else {
            return false;
        };
        let (message, signature) = (parsed.tbs_cert_list.as_ref(), &parsed.signature_value.data);
        // Whichever fits the key: all of them are good.
        let algorithms = provider(Compliance::Default).signature_verification_algorithms;
        let mut tries = algorithms.all.iter();
        tries.any(|algorithm| key.verify_signature(*algorithm, message, signature).is_ok())
    }
}
