//! An authority's answer: PEM texts to a chain and its roots.

use crate::{CHAIN_MAX, ROOTS_MAX};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Largest answer read, in bytes: a chain and a few roots have some 10 KiB. A longer one is refused.
pub const RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// Why an answer was refused.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// A leaf and roots are the least; nothing can be verified without roots.
    #[error("the answer has {0} elements: a certificate and its roots are the least")]
    Elements(usize),
    /// Longer than [`RESPONSE_BYTES_MAX`].
    #[error("the answer has more than {RESPONSE_BYTES_MAX} bytes")]
    TooLarge,
    /// An element that is not PEM.
    #[error("element {index} of the answer is not PEM")]
    Pem {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// An element without a certificate.
    #[error("element {0} of the answer holds no certificate")]
    Empty(usize),
    /// The first element holds the leaf, and nothing else.
    #[error("the first element of the answer holds {0} certificates, not one")]
    Leaf(usize),
    /// A chain longer than [`CHAIN_MAX`], or more than [`ROOTS_MAX`] roots.
    #[error("the answer holds more than {CHAIN_MAX} certificates and {ROOTS_MAX} roots")]
    TooMany,
}

/// A leaf with its intermediates, and the roots it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedChain {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Never empty.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Reads `cert_chain` of an `IstioCertificateResponse`: the leaf, any intermediates, and last one
/// element with all roots. Nothing is verified yet.
pub fn issued_chain(elements: &[impl AsRef<str>]) -> Result<IssuedChain, ResponseError> {
    let bytes = elements.iter().fold(0_usize, |sum, e| sum.saturating_add(e.as_ref().len()));
    if bytes > RESPONSE_BYTES_MAX {
        return Err(ResponseError::TooLarge);
    }
    let (Some((roots, chain)), true) = (elements.split_last(), elements.len() >= 2) else {
        return Err(ResponseError::Elements(elements.len()));
    };
    let mut found = Vec::new();
    for (index, element) in chain.iter().enumerate() {
        let certificates = certificates(index, element.as_ref(), CHAIN_MAX)?;
        if index == 0 && certificates.len() != 1 {
            return Err(ResponseError::Leaf(certificates.len()));
        }
        found.extend(certificates);
        if found.len() > CHAIN_MAX {
            return Err(ResponseError::TooMany);
        }
    }
    let roots = certificates(chain.len(), roots.as_ref(), ROOTS_MAX)?;
    Ok(IssuedChain { chain: found, roots })
}

/// The certificates of one element, at least one.
fn certificates(
    index: usize,
    pem: &str,
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, ResponseError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        if found.len() == most {
            return Err(ResponseError::TooMany);
        }
        found.push(certificate.map_err(|source| ResponseError::Pem { index, source })?);
    }
    if found.is_empty() { Err(ResponseError::Empty(index)) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(bytes: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{bytes}\n-----END CERTIFICATE-----\n")
    }

    fn check(elements: &[String], want: Result<(usize, usize), &str>) {
        let got = issued_chain(elements);
        let got = got.map(|issued| (issued.chain.len(), issued.roots.len()));
        let got = got.map_err(|error| error.to_string());
        match (got, want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{elements:?}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{got}, not {want}"),
            (got, want) => panic!("{got:?}, not {want:?}, of {elements:?}"),
        }
    }

    #[test]
    fn an_answer_is_leaf_intermediates_and_roots() {
        let (a, b, c) = (pem("AAAA"), pem("BBBB"), pem("CCCC"));
        let two = format!("{b}{c}");
        check(&[a.clone(), b.clone()], Ok((1, 1)));
        check(&[a.clone(), b.clone(), c.clone()], Ok((2, 1)));
        check(&[a.clone(), two.clone()], Ok((1, 2)));
        check(&[a.clone(), two.clone(), c.clone()], Ok((3, 1)));
        check(&[], Err("0 elements"));
        check(std::slice::from_ref(&a), Err("1 elements"));
        check(&[two, c.clone()], Err("first element of the answer holds 2"));
        check(&[a.clone(), String::new()], Err("element 1 of the answer holds no"));
        check(&[String::new(), a.clone()], Err("element 0 of the answer holds no"));
        check(&[a.clone(), pem("!")], Err("element 1 of the answer is not PEM"));
        check(&[a.clone(), b.repeat(ROOTS_MAX)], Ok((1, ROOTS_MAX)));
        check(&[a.clone(), b.repeat(ROOTS_MAX + 1)], Err("more than"));
        check(&[vec![a.clone(); CHAIN_MAX], vec![b.clone()]].concat(), Ok((CHAIN_MAX, 1)));
        check(&[vec![a.clone(); CHAIN_MAX + 1], vec![b]].concat(), Err("more than"));
        check(&[a, "x".repeat(RESPONSE_BYTES_MAX)], Err("more than 262144 bytes"));
    }
}
