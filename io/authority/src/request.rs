//! A certificate signing request (PKCS #10, RFC 2986): read, bounded, and proved.
//!
//! The signature shows that the caller holds the key. Nothing else in a request is believed: the
//! names that a certificate gets are decided elsewhere, and a request that asks for other names is
//! refused rather than answered with something else than was asked for. An authority elsewhere sees
//! the request alone and may copy whatever is in it: there, only what a leaf of ours has may be asked.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo as ParsedKey, X509Name};

use crate::names::Names;

/// Largest request read, in bytes of PEM: one for RSA 4096 has about 2 KiB. A larger one is
/// refused before anything of it is looked at.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Smallest RSA key signed.
const RSA_BITS_MIN: usize = 2048;
/// Largest RSA key signed: every peer would pay for a larger one in each handshake.
pub const RSA_BITS_MAX: usize = 4096;
/// An uncompressed point of P-256 and of P-384 (SEC 1, 2.3.3). Others are refused.
const P256_POINT: usize = 65;
const P384_POINT: usize = 97;
const UNCOMPRESSED: u8 = 4;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than [`REQUEST_BYTES_MAX`].
    #[error("the request has {0} bytes, more than {REQUEST_BYTES_MAX}")]
    TooLarge(usize),
    /// Not PEM, or PEM of something else.
    #[error("the request is not one PEM block CERTIFICATE REQUEST: {0}")]
    Pem(String),
    /// Not PKCS #10.
    #[error("the request is not PKCS #10: {0}")]
    Unreadable(String),
    /// A key of another kind than are signed.
    #[error("keys of this kind are not signed: {0}")]
    KeyKind(String),
    /// A key that is too weak, or larger than is reasonable.
    #[error("RSA keys of {0} bits are not signed: {RSA_BITS_MIN} to {RSA_BITS_MAX}")]
    RsaBits(usize),
    /// A signature algorithm that does not belong to the key, or is weak.
    #[error("requests signed with {0} are not accepted")]
    SignatureKind(String),
    /// The caller does not hold the key.
    #[error("the request is not signed with its own key")]
    Signature,
    /// It wants to sign certificates itself.
    #[error("the request is for an authority")]
    Authority,
    /// It names somebody else.
    #[error("the request is for {asked}, and not for {granted} alone")]
    Names {
        /// What it asks for.
        asked: String,
        /// What it would get.
        granted: String,
    },
    /// It asks for more than names, and an authority elsewhere might grant it.
    #[error("the request also asks for {0}, which no workload's certificate has")]
    Beyond(String),
}

/// A name that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Uri(String),
    Dns(String),
    /// A kind that is never granted.
    Other(String),
}

/// A request whose signature was verified.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    key: SubjectPublicKeyInfo,
    key_der: Vec<u8>,
    asked: Vec<Asked>,
    /// The first thing it asks for that no leaf of ours has, for a message.
    beyond: Option<String>,
}

impl CertificateRequest {
    /// Reads and verifies a request.
    pub fn from_pem(pem: &str) -> Result<Self, RequestError> {
        if pem.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge(pem.len()));
        }
        let mut blocks = CertificateSigningRequestDer::pem_slice_iter(pem.as_bytes());
        let der = match (blocks.next(), blocks.next()) {
            (Some(Ok(der)), None) => der,
            (None, _) => return Err(RequestError::Pem("there is none".to_owned())),
            (Some(Ok(_)), Some(_)) => {
                return Err(RequestError::Pem("something follows it".to_owned()));
            }
            (Some(Err(error)), _) => return Err(RequestError::Pem(error.to_string())),
        };
        Self::from_der(&der)
    }

    fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        let unreadable = |why: String| RequestError::Unreadable(why);
        let request = match X509CertificationRequest::from_der(der) {
            Ok(([], request)) => request,
            Ok(_) => return Err(unreadable("something follows it".to_owned())),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let info = &request.certification_request_info;
        let signature = &request.signature_algorithm.algorithm;
        let algorithm = match key_kind(&info.subject_pki)? {
            KeyKind::P256 if *signature == OID_SIG_ECDSA_WITH_SHA256 => &ECDSA_P256_SHA256_ASN1,
            KeyKind::P384 if *signature == OID_SIG_ECDSA_WITH_SHA384 => &ECDSA_P384_SHA384_ASN1,
            KeyKind::Ed25519 if *signature == OID_SIG_ED25519 => verified_by(&ED25519),
            KeyKind::Rsa if *signature == OID_PKCS1_SHA256WITHRSA => &RSA_PKCS1_2048_8192_SHA256,
            KeyKind::Rsa if *signature == OID_PKCS1_SHA384WITHRSA => &RSA_PKCS1_2048_8192_SHA384,
            KeyKind::Rsa if *signature == OID_PKCS1_SHA512WITHRSA => &RSA_PKCS1_2048_8192_SHA512,
            KeyKind::P256 | KeyKind::P384 | KeyKind::Ed25519 | KeyKind::Rsa => {
                return Err(RequestError::SignatureKind(signature.to_id_string()));
            }
        };
        let key = &info.subject_pki.subject_public_key.data;
        UnparsedPublicKey::new(algorithm, key)
            .verify(info.raw, &request.signature_value.data)
            .map_err(|_| RequestError::Signature)?;
        let key_der = info.subject_pki.raw.to_vec();
        let key = SubjectPublicKeyInfo::from_der(&key_der)
            .map_err(|error| RequestError::KeyKind(error.to_string()))?;
        let wanted = wanted(&request)?;
        Ok(Self { key, key_der, asked: wanted.names, beyond: wanted.beyond })
    }

    /// Refuses a request that asks for other names than it would get. One that asks for none
    /// takes what it gets.
    pub fn require(&self, names: &Names) -> Result<(), RequestError> {
        if self.asked.is_empty() { Ok(()) } else { self.require_names(names) }
    }

    /// Refuses a request that does not ask for exactly these names, or asks for anything but a
    /// workload's certificate: for an authority elsewhere, which knows only the request.
    pub fn require_exactly(&self, names: &Names) -> Result<(), RequestError> {
        self.require_names(names)?;
        match &self.beyond {
            None => Ok(()),
            Some(beyond) => Err(RequestError::Beyond(beyond.clone())),
        }
    }

    fn require_names(&self, names: &Names) -> Result<(), RequestError> {
        let uri = Asked::Uri(names.identity().as_str().to_owned());
        let mut granted = vec![uri];
        granted.extend(names.dns().map(|name| Asked::Dns(name.to_owned())));
        granted.sort_unstable();
        if self.asked == granted {
            return Ok(());
        }
        Err(RequestError::Names { asked: list(&self.asked), granted: list(&granted) })
    }

    /// The key, as the certificate gets it.
    pub(crate) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }

    /// DER of the key with its algorithm.
    pub(crate) fn key_der(&self) -> &[u8] {
        &self.key_der
    }
}

#[derive(Clone, Copy)]
enum KeyKind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

fn verified_by<T: VerificationAlgorithm>(algorithm: &T) -> &dyn VerificationAlgorithm {
    algorithm
}

fn key_kind(key: &ParsedKey<'_>) -> Result<KeyKind, RequestError> {
    let kind = &key.algorithm.algorithm;
    let bytes = &key.subject_public_key.data;
    let unknown = || Err(RequestError::KeyKind(kind.to_id_string()));
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        let is_point = |length| bytes.len() == length && bytes.first() == Some(&UNCOMPRESSED);
        return match curve {
            Some(curve) if curve == OID_EC_P256 && is_point(P256_POINT) => Ok(KeyKind::P256),
            Some(curve) if curve == OID_NIST_EC_P384 && is_point(P384_POINT) => Ok(KeyKind::P384),
            Some(curve) => Err(RequestError::KeyKind(format!("curve {curve}"))),
            None => unknown(),
        };
    }
    if *kind == OID_SIG_ED25519 {
        return Ok(KeyKind::Ed25519);
    }
    if *kind == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(rsa)) = key.parsed() else { return unknown() };
        let bits = rsa.key_size();
        return match bits {
            RSA_BITS_MIN..=RSA_BITS_MAX => Ok(KeyKind::Rsa),
            _ => Err(RequestError::RsaBits(bits)),
        };
    }
    unknown()
}

/// What a request asks for beside its key.
#[derive(Default)]
struct Wanted {
    names: Vec<Asked>,
    beyond: Option<String>,
}

/// Names come out sorted. Refuses what asks to be an authority, and extensions that cannot be read;
/// those that are unknown are noted: our own authority does not grant them.
fn wanted(request: &X509CertificationRequest<'_>) -> Result<Wanted, RequestError> {
    let unreadable = |why: &str| RequestError::Unreadable(why.to_owned());
    let info = &request.certification_request_info;
    let mut wanted = Wanted::default();
    if names_somebody(&info.subject) {
        wanted.beyond = Some("a subject".to_owned());
    }
    let mut seen = false;
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else {
            // Some authorities read extensions from attributes of their vendor.
            wanted.beyond.get_or_insert_with(|| format!("attribute {}", attribute.oid));
            continue;
        };
        if std::mem::replace(&mut seen, true) {
            return Err(unreadable("extensions are requested twice"));
        }
        for extension in &request.extensions {
            let parsed = extension.parsed_extension();
            read_extension(parsed, &mut wanted.names)?;
            if !is_a_leafs(parsed) {
                wanted.beyond.get_or_insert_with(|| format!("extension {}", extension.oid));
            }
        }
    }
    wanted.names.sort_unstable();
    wanted.names.dedup();
    Ok(wanted)
}

/// Whether a subject says anything. Attributes without a value do not: agents of Istio send an
/// empty organisation.
pub(crate) fn names_somebody(subject: &X509Name<'_>) -> bool {
    subject.iter_attributes().any(|attribute| !attribute.attr_value().data.is_empty())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all others are refused")]
fn is_a_leafs(extension: &ParsedExtension<'_>) -> bool {
    match extension {
        ParsedExtension::SubjectAlternativeName(_) => true,
        ParsedExtension::BasicConstraints(constraints) => !constraints.ca,
        ParsedExtension::KeyUsage(usage) => is_a_leafs_usage(*usage),
        ParsedExtension::ExtendedKeyUsage(usage) => is_a_leafs_purpose(usage),
        _ => false,
    }
}

/// Whether a key is for handshakes only.
pub(crate) fn is_a_leafs_usage(usage: KeyUsage) -> bool {
    let others = [
        usage.non_repudiation(),
        usage.data_encipherment(),
        usage.key_cert_sign(),
        usage.crl_sign(),
        usage.encipher_only(),
        usage.decipher_only(),
    ];
    !others.contains(&true)
}

/// Whether a certificate is for clients and servers only.
pub(crate) fn is_a_leafs_purpose(usage: &ExtendedKeyUsage<'_>) -> bool {
    let others = [
        usage.any,
        usage.code_signing,
        usage.email_protection,
        usage.time_stamping,
        usage.ocsp_signing,
    ];
    !others.contains(&true) && usage.other.is_empty()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what is not granted need not be understood")]
fn read_extension(
    extension: &ParsedExtension<'_>,
    names: &mut Vec<Asked>,
) -> Result<(), RequestError> {
    match extension {
        ParsedExtension::SubjectAlternativeName(asked) => {
            names.extend(asked.general_names.iter().map(|name| match name {
                GeneralName::URI(uri) => Asked::Uri((*uri).to_owned()),
                GeneralName::DNSName(name) => Asked::Dns((*name).to_owned()),
                other => Asked::Other(format!("{other:?}")),
            }));
            Ok(())
        }
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
            Err(RequestError::Authority)
        }
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
            Err(RequestError::Authority)
        }
        ParsedExtension::ParseError { error } => Err(RequestError::Unreadable(error.to_string())),
        _ => Ok(()),
    }
}

/// Names for a log line: no longer than a few lines, whatever was sent.
fn list(names: &[Asked]) -> String {
    const SHOWN: usize = 512;
    let each: Vec<_> = names
        .iter()
        .map(|name| match name {
            Asked::Uri(uri) => uri.clone(),
            Asked::Dns(name) => format!("DNS {name}"),
            Asked::Other(name) => name.clone(),
        })
        .collect();
    let all = each.join(", ");
    if all.is_empty() { "nobody".to_owned() } else { all.chars().take(SHOWN).collect() }
}

#[cfg(test)]
mod tests;
