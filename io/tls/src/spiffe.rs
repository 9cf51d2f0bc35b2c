//! Certificate to SPIFFE ID (SPIFFE X.509-SVID, section 2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::SpiffeId;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::IdentityProblem;

/// Parses a certificate, which must be all there is.
pub(crate) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, IdentityProblem> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(IdentityProblem::Unreadable),
    }
}

/// The one identity a leaf certificate speaks for. Names other than URIs mean nothing here.
pub(crate) fn identity(leaf: &X509Certificate<'_>) -> Result<SpiffeId, IdentityProblem> {
    let names = leaf.subject_alternative_name().map_err(|_| IdentityProblem::Unreadable)?;
    let names = names.ok_or(IdentityProblem::NoUri)?;
    let mut uris = names.value.general_names.iter().filter_map(uri);
    match (uris.next(), uris.next()) {
        (None, _) => Err(IdentityProblem::NoUri),
        (Some(_), Some(_)) => Err(IdentityProblem::SeveralUris),
        (Some(uri), None) => SpiffeId::parse(uri).map_err(IdentityProblem::NotSpiffe),
    }
}

/// From when until when a certificate is valid.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (at(validity.not_before), at(validity.not_after))
}

/// A moment; one before 1970 is 1970.
pub(crate) fn at(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    // Four-digit years fit; what did not would have expired.
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name { Some(uri) } else { None }
}
