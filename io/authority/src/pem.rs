//! Certificates and the like as PEM (RFC 7468), one text each.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;

/// Characters of base64 in a line.
const LINE: usize = 64;

/// One text: `-----BEGIN LABEL-----`, lines of base64, and its end.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / LINE + 64);
    for part in ["-----BEGIN ", label, "-----\n"] {
        pem.push_str(part);
    }
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // base64 is ASCII: every index is a boundary.
        let (line, after) = rest.split_at(LINE.min(rest.len()));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    for part in ["-----END ", label, "-----\n"] {
        pem.push_str(part);
    }
    pem
}

/// One certificate.
#[must_use]
pub fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", certificate)
}

/// Several, one after the other.
#[must_use]
pub fn certificates_pem<'a, 'der: 'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'der>>,
) -> String {
    certificates.into_iter().map(certificate_pem).collect()
}
