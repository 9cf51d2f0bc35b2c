//! The certificate signing request, in the shape that Istio's authority takes.
//!
//! P-256, an empty subject, and one extension: a critical subject alternative name that holds the
//! SPIFFE ID. The key is made for this request and never written anywhere.

use authority::{Names, OwnKey};
use model::SpiffeId;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why a request could not be made.
pub use authority::OwnKeyError as CsrError;

/// A signing request and the key it is for.
pub struct Csr {
    /// PKCS #10, PEM.
    pub pem: String,
    /// PKCS #8.
    pub key: PrivateKeyDer<'static>,
}

impl Csr {
    /// Makes a key and a request for it.
    pub fn new(identity: &SpiffeId) -> Result<Self, CsrError> {
        let own = OwnKey::new(&Names::of(identity.clone()))?;
        Ok(Self { pem: own.request, key: own.key })
    }
}

pub(crate) fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

pub(crate) fn pkcs8(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

pub(crate) fn uri(uri: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(uri.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::CertificateSigningRequestDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::cri_attributes::ParsedCriAttribute;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
    };
    use x509_parser::prelude::FromDer;

    const URI: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    /// The shape of the DER, field by field.
    #[test]
    fn golden_shape() {
        let csr = Csr::new(&SpiffeId::parse(URI).expect("literal")).expect("made");
        let der = CertificateSigningRequestDer::from_pem_slice(csr.pem.as_bytes()).expect("PEM");
        let (rest, request) = X509CertificationRequest::from_der(&der).expect("DER");
        assert!(rest.is_empty());
        let info = &request.certification_request_info;
        assert_eq!(info.version.0, 0);
        assert_eq!(info.subject.iter().count(), 0, "the subject is empty");
        assert_eq!(info.subject_pki.algorithm.algorithm, OID_KEY_TYPE_EC_PUBLIC_KEY);
        let curve = info.subject_pki.algorithm.parameters.as_ref().expect("curve");
        assert_eq!(curve.as_oid().expect("OID"), OID_EC_P256);
        assert_eq!(request.signature_algorithm.algorithm, OID_SIG_ECDSA_WITH_SHA256);
        let [attribute] = info.attributes() else { panic!("one attribute") };
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
            panic!("an extension request")
        };
        let [extension] = &asked.extensions[..] else { panic!("one extension") };
        assert!(extension.critical);
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
            panic!("a subject alternative name")
        };
        assert_eq!(san.general_names, [GeneralName::URI(URI)]);
        assert!(matches!(csr.key, PrivateKeyDer::Pkcs8(_)));
    }

    #[test]
    fn each_request_has_its_own_key() {
        let id = SpiffeId::parse(URI).expect("literal");
        let (one, two) = (Csr::new(&id).expect("made"), Csr::new(&id).expect("made"));
        assert_ne!(one.key.secret_der(), two.key.secret_der());
    }
}
