//! Certificates as PEM (RFC 7468), one text each.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;

/// Characters of base64 in a line.
const LINE: usize = 64;

/// One certificate.
#[must_use]
pub fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::with_capacity(text.len() + text.len() / LINE + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // base64 is ASCII: every index is a boundary.
        let (line, after) = rest.split_at(LINE.min(rest.len()));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Several, one after the other.
#[must_use]
pub fn certificates_pem<'a, 'der: 'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'der>>,
) -> String {
    certificates.into_iter().map(certificate_pem).collect()
}
