//! From an authority's certificate to a root, by the certificates between.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

/// Most certificates between a leaf and its root. Peers take eight with the leaf; a longer chain is
/// refused.
pub const INTERMEDIATES_MAX: usize = 7;
/// Most certificates read from one file.
const CERTIFICATES_MAX: usize = 64;

/// Why there is no chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not whole PEM.
    #[error("{what} is not whole PEM: {problem}")]
    Pem {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// No certificate in it.
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    /// More than could be meant.
    #[error("{0} holds more than {CERTIFICATES_MAX} certificates")]
    TooMany(&'static str),
    /// Something that is not a certificate.
    #[error("certificate {index} of {what} cannot be read")]
    Unreadable {
        /// Which part.
        what: &'static str,
        /// Which one, from 0.
        index: usize,
    },
    /// The next certificate is missing.
    #[error("no certificate of {0} is there: the chain leads to no root")]
    Broken(String),
    /// Longer than [`INTERMEDIATES_MAX`], or in a circle.
    #[error("more than {INTERMEDIATES_MAX} certificates before a root")]
    TooLong,
}

/// The certificates of a PEM text. Other blocks than certificates are passed over.
pub(crate) fn read(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| ChainError::Pem { what, problem: error.to_string() })?;
        if found.len() == CERTIFICATES_MAX {
            return Err(ChainError::TooMany(what));
        }
        if parse(&certificate).is_none() {
            return Err(ChainError::Unreadable { what, index: found.len() });
        }
        found.push(certificate);
    }
    Ok(found)
}

/// A certificate that is all there is.
pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Some(parsed),
        Ok(_) | Err(_) => None,
    }
}

/// What lies between leaves and a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// The signing authority first; empty if that is a root itself.
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    /// Which of the roots it leads to.
    pub(crate) root: CertificateDer<'static>,
}

/// Orders a chain by who issued whom. Certificates that are not on the way are left out. Whether
/// the signatures hold is verified later, with all else.
pub(crate) fn path(
    authority: &CertificateDer<'static>,
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Result<Path, ChainError> {
    let mut intermediates = Vec::new();
    let mut current = authority.clone();
    loop {
        if roots.contains(&current) {
            return Ok(Path { intermediates, root: current });
        }
        if intermediates.len() == INTERMEDIATES_MAX {
            return Err(ChainError::TooLong);
        }
        let parsed = parse(&current)
            .ok_or(ChainError::Unreadable { what: "the chain", index: intermediates.len() })?;
        let issuer = parsed.issuer().as_raw().to_vec();
        let issuer_name = parsed.issuer().to_string();
        intermediates.push(current.clone());
        let key_id = authority_key_id(&parsed);
        if let Some(root) = issued_by(&issuer, key_id.as_deref(), roots) {
            return Ok(Path { intermediates, root: root.clone() });
        }
        let above = issued_by(&issuer, key_id.as_deref(), chain);
        current = above.ok_or(ChainError::Broken(issuer_name))?.clone();
    }
}

/// The certificate with that subject; of several, the one with that key identifier.
fn issued_by<'a>(
    issuer: &[u8],
    key_id: Option<&[u8]>,
    among: &'a [CertificateDer<'static>],
) -> Option<&'a CertificateDer<'static>> {
    let named: Vec<_> = among
        .iter()
        .filter(|one| parse(one).is_some_and(|parsed| parsed.subject().as_raw() == issuer))
        .collect();
    let by_key = named.iter().find(|one| {
        key_id.is_some()
            && parse(one).and_then(|parsed| subject_key_id(&parsed)).as_deref() == key_id
    });
    by_key.or(named.first()).copied()
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        id.key_identifier.as_ref().map(|id| id.0.to_vec())
    })
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        Some(id.0.to_vec())
    })
}
