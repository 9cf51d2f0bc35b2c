//! Who signs: a certificate with its key, the way to a root, and what it may promise.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use tls::{BundleError, SvidError, TrustBundle};
use x509_parser::certificate::X509Certificate;
use x509_parser::time::ASN1Time;

use crate::chain::{ChainError, parse, path, read};
use crate::digest::Fingerprint;
use crate::leaf::{LeafTemplate, Validity};
use crate::names::Names;
use crate::pem::certificate_pem;
use crate::request::CertificateRequest;

/// How far before its making a certificate becomes valid: nodes' clocks differ. Of a short one, half
/// of its life: who renews in the middle of the validity, as an unmodified agent does, must not find
/// that it has passed already.
pub const BACKDATE: Duration = Duration::from_mins(5);
/// How much life an authority must have left to sign at all: a certificate that ends sooner would
/// be renewed without pause.
const LIFE_MIN: Duration = Duration::from_secs(1);

/// Why an authority is not used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A certificate or the way to a root.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The private key cannot be read.
    #[error("the key cannot be read")]
    Key(#[source] rcgen::Error),
    /// It is the key of another certificate.
    #[error("the key is not that of the certificate")]
    KeyMismatch,
    /// The certificate may not sign others.
    #[error("the certificate is not an authority's: {0}")]
    NotAuthority(&'static str),
    /// Not valid now.
    #[error("the certificate of {subject} is valid from {not_before} until {not_after}")]
    NotValid {
        /// Whose.
        subject: String,
        /// From.
        not_before: String,
        /// Until.
        not_after: String,
    },
    /// The roots.
    #[error("the roots are not usable")]
    Roots(#[source] BundleError),
    /// Certificates would name another issuer than its subject is written.
    #[error("the subject of the certificate is written in a way that cannot be reproduced")]
    Subject,
    /// A first certificate could not be made.
    #[error("a certificate signed for trial could not be made")]
    Trial(#[source] rcgen::Error),
    /// Peers would not believe what it signs.
    #[error("peers would refuse its certificates")]
    Refused(#[source] SvidError),
}

/// Why a certificate was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Another trust domain's.
    #[error("{0} is not in the authority's trust domain")]
    TrustDomain(SpiffeId),
    /// The chain ends now.
    #[error("the authority's chain has expired")]
    Expired,
    /// It could not be encoded or signed.
    #[error("the certificate could not be made")]
    Make(#[from] rcgen::Error),
}

/// The parts of an authority, each PEM.
#[derive(Clone, Copy)]
pub struct AuthorityPem<'a> {
    /// Its certificate.
    pub certificate: &'a str,
    /// Its key.
    pub key: &'a str,
    /// What lies between it and a root, in any order; may hold more.
    pub chain: &'a str,
    /// Every root that is believed.
    pub roots: &'a str,
}

/// A certificate that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The leaf.
    pub leaf: CertificateDer<'static>,
    /// How long it is valid.
    pub validity: Validity,
}

/// Signs certificates of one trust domain.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    bundle: TrustBundle,
    intermediates: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    /// When all of the chain is valid.
    validity: Validity,
}

impl Authority {
    /// Reads an authority and makes sure, by a certificate signed for trial, that peers would
    /// believe what it signs.
    pub fn from_pem(
        trust_domain: &TrustDomain,
        pem: &AuthorityPem<'_>,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        const CERTIFICATE: &str = "the authority's certificate";
        let own = read(CERTIFICATE, pem.certificate)?;
        let certificate = own.first().cloned().ok_or(ChainError::Empty(CERTIFICATE))?;
        // cert-manager puts the rest of the chain behind the certificate.
        let mut chain = own;
        chain.extend(read("the authority's chain", pem.chain)?);
        let roots = read("the roots", pem.roots)?;
        let bundle = TrustBundle::new(trust_domain.clone(), roots.iter().cloned())
            .map_err(AuthorityError::Roots)?;
        let key = KeyPair::from_pem(pem.key).map_err(AuthorityError::Key)?;
        let parsed = parse(&certificate).ok_or(ChainError::Empty(CERTIFICATE))?;
        require_authority(&parsed, &key)?;
        let path = path(&certificate, &chain, &roots)?;
        let validity = validity(path.intermediates.iter().chain([&path.root]), now)?;
        let subject = parsed.subject().as_raw().to_vec();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Key)?;
        let authority = Self {
            issuer,
            bundle,
            intermediates: path.intermediates,
            root: path.root,
            certificate: certificate.clone(),
            validity,
        };
        authority.try_out(trust_domain, &subject, now)?;
        Ok(authority)
    }

    /// Signs a certificate for the key of a request, valid for `ttl` or as long as the chain. Whether
    /// the caller may have these names, and whether the request is for them, was decided before.
    pub fn sign(
        &self,
        request: &CertificateRequest,
        names: &Names,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Signed, SignError> {
        self.sign_key(request.key(), names, ttl, now)
    }

    fn sign_key(
        &self,
        key: &impl PublicKeyData,
        names: &Names,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Signed, SignError> {
        if names.identity().trust_domain() != self.bundle.trust_domain().as_str() {
            return Err(SignError::TrustDomain(names.identity().clone()));
        }
        let until = now.checked_add(ttl).unwrap_or(self.validity.not_after);
        let not_after = whole_seconds(until.min(self.validity.not_after));
        let life = not_after.duration_since(now).unwrap_or_default();
        if life < LIFE_MIN {
            return Err(SignError::Expired);
        }
        let since = (now - BACKDATE.min(life / 2)).max(self.validity.not_before);
        let validity = Validity { not_before: whole_seconds(since), not_after };
        let leaf = LeafTemplate { names, validity }.sign(key, &self.issuer)?;
        Ok(Signed { leaf, validity })
    }

    /// The leaf's PEM, then one for each certificate between it and the root.
    #[must_use]
    pub fn chain_pem(&self, signed: &Signed) -> Vec<String> {
        [&signed.leaf].into_iter().chain(&self.intermediates).map(certificate_pem).collect()
    }

    /// What lies between leaves and the root: this authority first, unless it is a root.
    #[must_use]
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The roots that it came with.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The root that its certificates lead to.
    #[must_use]
    pub fn root(&self) -> Fingerprint {
        Fingerprint::of(&self.root)
    }

    /// Until when the whole chain is valid: nothing is promised beyond.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    fn try_out(
        &self,
        trust_domain: &TrustDomain,
        subject: &[u8],
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Trial)?;
        let identity = SpiffeId::new(trust_domain, "warren", "trial").map_err(|_| {
            AuthorityError::NotAuthority("the trust domain is too long for identities")
        })?;
        let signed = self.sign_key(&key, &Names::of(identity), Duration::from_mins(1), now);
        let signed = signed.map_err(|error| match error {
            SignError::Make(source) => AuthorityError::Trial(source),
            SignError::TrustDomain(_) | SignError::Expired => {
                AuthorityError::NotAuthority("it ends within a second")
            }
        })?;
        if parse(&signed.leaf).is_none_or(|leaf| leaf.issuer().as_raw() != subject) {
            return Err(AuthorityError::Subject);
        }
        let mut chain = vec![signed.leaf];
        chain.extend(self.intermediates.iter().cloned());
        self.bundle.verify_chain(&chain, now).map_err(AuthorityError::Refused)?;
        Ok(())
    }
}

impl fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("root", &self.root())
            .field("intermediates", &self.intermediates.len())
            .field("not_after", &self.validity.not_after)
            .finish_non_exhaustive()
    }
}

fn require_authority(
    certificate: &X509Certificate<'_>,
    key: &KeyPair,
) -> Result<(), AuthorityError> {
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(AuthorityError::KeyMismatch);
    }
    if !certificate.is_ca() {
        return Err(AuthorityError::NotAuthority("CA:true is missing"));
    }
    let usage = certificate.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(AuthorityError::NotAuthority("its key may not sign certificates"));
    }
    Ok(())
}

/// When all certificates are valid; an error if that is not now.
fn validity<'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
    now: SystemTime,
) -> Result<Validity, AuthorityError> {
    let mut common = Validity { not_before: UNIX_EPOCH, not_after: SystemTime::now() };
    let mut first = true;
    for certificate in certificates {
        let Some(parsed) = parse(certificate) else { continue };
        let (not_before, not_after) =
            (at(parsed.validity().not_before), at(parsed.validity().not_after));
        if now < not_before || now > not_after {
            return Err(AuthorityError::NotValid {
                subject: parsed.subject().to_string(),
                not_before: parsed.validity().not_before.to_string(),
                not_after: parsed.validity().not_after.to_string(),
            });
        }
        common.not_before = common.not_before.max(not_before);
        common.not_after = if first { not_after } else { common.not_after.min(not_after) };
        first = false;
    }
    Ok(common)
}

/// When a certificate ends; `None` if it cannot be read.
#[must_use]
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    parse(certificate).map(|parsed| at(parsed.validity().not_after))
}

/// A moment; one before 1970 is 1970.
pub(crate) fn at(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

/// As certificates have it: they know no fractions of seconds.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests;
