//! Hashes, comparison and randomness, from the one library that all cryptography is from.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes could be had")]
pub struct RandomError;

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    // Both are 32 bytes long.
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Compares in a time that does not tell where they differ.
#[must_use]
pub fn equal(one: &[u8], other: &[u8]) -> bool {
    verify_slices_are_equal(one, other).is_ok()
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| RandomError)?;
    Ok(bytes)
}

/// Which certificate: SHA-256 of its DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self::of_bytes(certificate)
    }

    /// Of anything else that is told apart by a hash.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self(sha256(bytes))
    }

    /// Of several, in any order.
    #[must_use]
    pub fn of_all<'a, 'der: 'a>(
        certificates: impl IntoIterator<Item = &'a CertificateDer<'der>>,
    ) -> Self {
        let mut each: Vec<_> = certificates.into_iter().map(Self::of).collect();
        each.sort_unstable();
        each.dedup();
        let all: Vec<u8> = each.iter().flat_map(|one| one.0).collect();
        Self(sha256(&all))
    }

    /// Its first eight bytes, for records of which there are many.
    #[must_use]
    pub fn short(&self) -> u64 {
        self.0[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
