//! A certificate that an authority elsewhere signed: believed only if it is what was asked for.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use tls::{SvidError, TrustBundle};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::authority::at;
use crate::chain::{ChainError, parse, read};
use crate::leaf::Validity;
use crate::names::Names;
use crate::pem::certificate_pem;
use crate::request::{CertificateRequest, is_a_leafs_purpose, is_a_leafs_usage, names_somebody};

/// Why an external certificate is not handed on.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// It cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Made for another key.
    #[error("the certificate is for another key than the request's")]
    Key,
    /// Made for another name.
    #[error("the certificate names {0}, not what was asked for")]
    Names(String),
    /// It has a subject: somebody might read a name from there.
    #[error("the certificate has the subject {0}, which nobody asked for")]
    Subject(String),
    /// It may be used for more than handshakes of clients and servers, or not for those.
    #[error("the certificate is not for clients and servers alone: {0}")]
    Purpose(&'static str),
    /// Peers would not believe it.
    #[error("peers would refuse the certificate")]
    Refused(#[source] SvidError),
}

/// A chain from elsewhere, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternallySigned {
    /// PEM of each certificate, the leaf first; roots are left out.
    pub chain: Vec<String>,
    /// The same.
    pub certificates: Vec<CertificateDer<'static>>,
    /// How long the leaf is valid.
    pub validity: Validity,
}

/// Reads what an external authority answered to a request.
pub fn read_external(
    pem: &str,
    request: &CertificateRequest,
    names: &Names,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<ExternallySigned, ExternalError> {
    const WHAT: &str = "the external authority's answer";
    let mut certificates = read(WHAT, pem)?;
    certificates.retain(|one| !bundle.certificates().any(|root| root == one));
    let leaf = certificates.first().ok_or(ChainError::Empty(WHAT))?;
    let parsed = parse(leaf).ok_or(ChainError::Unreadable { what: WHAT, index: 0 })?;
    if parsed.public_key().raw != request.key_der() {
        return Err(ExternalError::Key);
    }
    let found = parsed.subject_alternative_name().ok().flatten();
    let found = found.map(|names| names.value.general_names.clone()).unwrap_or_default();
    let is_granted = |name: &GeneralName<'_>| {
        if let GeneralName::URI(uri) = name {
            *uri == names.identity().as_str()
        } else if let GeneralName::DNSName(name) = name {
            names.dns().any(|granted| granted == *name)
        } else {
            false
        }
    };
    if found.len() != 1 + names.dns().count() || !found.iter().all(is_granted) {
        return Err(ExternalError::Names(format!("{found:?}")));
    }
    if names_somebody(parsed.subject()) {
        return Err(ExternalError::Subject(parsed.subject().to_string()));
    }
    check_purpose(&parsed)?;
    let validity = Validity {
        not_before: at(parsed.validity().not_before),
        not_after: at(parsed.validity().not_after),
    };
    bundle.verify_chain(&certificates, now).map_err(ExternalError::Refused)?;
    let chain = certificates.iter().map(certificate_pem).collect();
    Ok(ExternallySigned { chain, certificates, validity })
}

fn check_purpose(leaf: &X509Certificate<'_>) -> Result<(), ExternalError> {
    // An extension that is there twice or cannot be read is as bad as a wrong one.
    let wrong = |what: &'static str| ExternalError::Purpose(what);
    let constraints = leaf.basic_constraints().map_err(|_| wrong("basic constraints"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(wrong("it is an authority's"));
    }
    let usage = leaf.key_usage().map_err(|_| wrong("key usage"))?;
    if usage.is_some_and(|it| !it.value.digital_signature() || !is_a_leafs_usage(*it.value)) {
        return Err(wrong("key usage"));
    }
    let purpose = leaf.extended_key_usage().map_err(|_| wrong("extended key usage"))?;
    let is_right = purpose.is_some_and(|it| {
        it.value.client_auth && it.value.server_auth && is_a_leafs_purpose(it.value)
    });
    if is_right { Ok(()) } else { Err(wrong("extended key usage")) }
}

#[cfg(test)]
mod tests;
