//! A key of our own with a request for it: what this process serves with.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::names::Names;

/// Why a key or a request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OwnKeyError {
    /// No key.
    #[error("a P-256 key could not be made")]
    Key(#[source] rcgen::Error),
    /// The request could not be encoded or signed.
    #[error("the signing request could not be made")]
    Request(#[source] rcgen::Error),
}

/// A fresh P-256 key, in memory only.
pub struct OwnKey {
    /// PKCS #10, PEM, with exactly the names.
    pub request: String,
    /// PKCS #8.
    pub key: PrivateKeyDer<'static>,
}

impl OwnKey {
    /// Makes a key and a request for it.
    pub fn new(names: &Names) -> Result<Self, OwnKeyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(OwnKeyError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names.alternative_names().map_err(OwnKeyError::Request)?;
        let request = params.serialize_request(&key).map_err(OwnKeyError::Request)?;
        let request = request.pem().map_err(OwnKeyError::Request)?;
        Ok(Self { request, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
    }
}
