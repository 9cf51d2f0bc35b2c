//! A verified chain, in as few bytes as judging it again takes.

use std::fmt::Write;
use std::sync::Arc;

use model::TrustDomain;
use rustls_pki_types::{SubjectPublicKeyInfoDer, TrustAnchor};
use webpki::VerifiedPath;

/// Most certificates in a chain, the leaf included. A longer one is refused.
pub const CHAIN_MAX: usize = 8;

/// Who signs certificates and revocation lists: a name alone is not enough, because a rotated root
/// has the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Issuer {
    /// The subject's DER without its outer tag.
    pub(crate) name: Box<[u8]>,
    /// The public key's DER (`SubjectPublicKeyInfo`).
    pub(crate) key: SubjectPublicKeyInfoDer<'static>,
}

impl Issuer {
    pub(crate) fn of_anchor(anchor: &TrustAnchor<'_>) -> Self {
        Self { name: anchor.subject.as_ref().into(), key: webpki::spki_for_anchor(anchor) }
    }
}

/// One certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) issuer: Arc<Issuer>,
    /// Two's complement, big endian, as in the certificate.
    pub(crate) serial: Box<[u8]>,
}

/// The chain of a verified certificate: serial numbers and issuers' keys, from the leaf to the
/// root. At most [`CHAIN_MAX`] certificates, which TLS bounds to 64 KiB together. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChain(Arc<Chain>);

#[derive(Debug, PartialEq, Eq)]
struct Chain {
    domain: TrustDomain,
    links: Vec<Link>,
}

impl PeerChain {
    pub(crate) fn new(domain: TrustDomain, links: Vec<Link>) -> Self {
        Self(Arc::new(Chain { domain, links }))
    }

    /// The trust domain whose bundle verified it.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.domain
    }

    /// The leaf's serial number in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> String {
        self.0.links.first().map_or_else(String::new, |leaf| hex(&leaf.serial))
    }

    pub(crate) fn links(&self) -> &[Link] {
        &self.0.links
    }
}

/// The certificates of a path that webpki found, each with who signed it.
pub(crate) fn links(path: &VerifiedPath<'_>) -> Vec<Link> {
    let leaf: &webpki::Cert<'_> = path.end_entity();
    let mut serials = vec![leaf.serial()];
    let mut issuers = Vec::new();
    for certificate in path.intermediate_certificates() {
        serials.push(certificate.serial());
        let key = certificate.subject_public_key_info();
        issuers.push(Issuer { name: certificate.subject().into(), key });
    }
    issuers.push(Issuer::of_anchor(path.anchor()));
    let link = |(serial, issuer): (&[u8], Issuer)| Link {
        serial: serial.into(),
        issuer: Arc::new(issuer),
    };
    serials.into_iter().zip(issuers).map(link).collect()
}

/// Bytes as people and tools write serial numbers.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
