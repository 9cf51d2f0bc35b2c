//! What a certificate says, for people and tools.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::spiffe;

/// The parts of a certificate that tools show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Serial number, decimal.
    pub serial: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

impl CertificateFacts {
    /// Reads them; `None` if it is no certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = spiffe::parse(certificate).ok()?;
        let (not_before, not_after) = spiffe::validity(&parsed);
        Some(Self { serial: parsed.serial.to_string(), not_before, not_after })
    }
}
