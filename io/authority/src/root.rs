//! A root of our own, for an installation that brings none.

use std::time::{Duration, SystemTime};

use model::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SanType,
};

use crate::authority::BACKDATE;
use crate::digest::Fingerprint;
use crate::leaf::serial;

/// How long a root is valid: ten years. It is rotated by an operator, not by its end.
pub const ROOT_LIFE: Duration = Duration::from_hours(24 * 3650);

/// Why no root could be made.
#[derive(Debug, thiserror::Error)]
#[error("a root could not be made")]
pub struct RootError(#[from] rcgen::Error);

/// Of what kind the key of a root is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
}

/// A root, as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct MadeRoot {
    /// PEM.
    pub certificate: String,
    /// PKCS #8, PEM.
    pub key: String,
}

/// Makes the root of a trust domain. It signs workloads only, no other authority; its subject
/// tells it from other roots of the domain, so that two can be believed at a time.
pub fn make_root(
    trust_domain: &TrustDomain,
    algorithm: KeyAlgorithm,
    now: SystemTime,
) -> Result<MadeRoot, RootError> {
    let key = KeyPair::generate_for(match algorithm {
        KeyAlgorithm::P256 => &PKCS_ECDSA_P256_SHA256,
        KeyAlgorithm::P384 => &PKCS_ECDSA_P384_SHA384,
    })?;
    let mark = Fingerprint::of_bytes(key.der_bytes()).short() >> 32;
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ROOT_LIFE).into();
    params.serial_number = Some(serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, format!("Warren root {mark:08x}"));
    let uri = format!("spiffe://{trust_domain}");
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?.pem();
    Ok(MadeRoot { certificate, key: key.serialize_pem() })
}
