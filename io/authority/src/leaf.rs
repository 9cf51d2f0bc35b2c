//! The certificate of one workload (SPIFFE X.509-SVID, sections 3 and 4).
//!
//! Exactly one URI, the identity. The subject is empty, and the alternative name therefore critical
//! (RFC 5280, 4.1.2.6). `CA:false`, digital signature only (key encipherment too for RSA, for peers
//! older than TLS 1.3), both extended usages: every workload is client and server.

use std::time::SystemTime;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SigningKey,
};
use rustls_pki_types::CertificateDer;

use crate::digest::random;
use crate::names::Names;

/// From when until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: SystemTime,
    /// Until.
    pub not_after: SystemTime,
}

/// What is to be signed.
#[derive(Clone, Copy, Debug)]
pub struct LeafTemplate<'a> {
    /// For whom.
    pub names: &'a Names,
    /// For how long.
    pub validity: Validity,
}

impl LeafTemplate<'_> {
    /// Signs it for a key, with a serial number that nobody can guess.
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        issuer: &Issuer<'_, impl SigningKey>,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.not_before = self.validity.not_before.into();
        params.not_after = self.validity.not_after.into();
        params.serial_number = Some(serial()?);
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = self.names.alternative_names()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if is_rsa(key) {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, issuer)?.der().clone())
    }
}

fn is_rsa(key: &impl PublicKeyData) -> bool {
    let of = key.algorithm();
    [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_RSA_SHA384, &rcgen::PKCS_RSA_SHA512].contains(&of)
}

/// 126 random bits: positive and never zero, of one length (RFC 5280, 4.1.2.2).
pub(crate) fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes: [u8; 16] = random().map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
