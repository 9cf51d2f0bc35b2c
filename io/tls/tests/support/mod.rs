//! Certificate authorities and handshakes for tests.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of it")]

use std::time::Duration;

use model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tls::{PeerChain, Svid, TlsError, Trust, TrustBundle, TrustView};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

pub const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
pub const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub const FOREIGN: &str = "spiffe://other.example/ns/shop/sa/web";
pub const SOON: Duration = Duration::from_secs(5);

pub struct Ca {
    pub root: CertificateDer<'static>,
    /// Certificates between a leaf and the root.
    pub above: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

/// What is unusual about a leaf.
pub struct Leaf {
    pub sans: Vec<SanType>,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    pub age: time::Duration,
    pub life: time::Duration,
    pub serial: Option<u64>,
}

impl Leaf {
    pub fn of(uris: &[&str]) -> Self {
        let san = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
        Self {
            sans: uris.iter().map(san).collect(),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            age: time::Duration::MINUTE,
            life: time::Duration::HOUR,
            serial: None,
        }
    }

    pub fn numbered(uri: &str, serial: u64) -> Self {
        Self { serial: Some(serial), ..Self::of(&[uri]) }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Ca {
    pub fn new() -> Self {
        Self::named("test root")
    }

    pub fn named(name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let params = authority(name);
        let root = params.self_signed(&key).expect("root").der().clone();
        Self { root, above: Vec::new(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str, serial: u64) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = authority(name);
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).expect("intermediate");
        let above = [vec![certificate.der().clone()], self.above.clone()].concat();
        Self { root: self.root.clone(), above, issuer: Issuer::new(params, key) }
    }

    pub fn bundle(&self, domain: &str) -> TrustBundle {
        TrustBundle::new(self::domain(domain), [self.root.clone()]).expect("bundle")
    }

    pub fn root_pem(&self) -> String {
        pem("CERTIFICATE", &self.root)
    }

    pub fn view(&self, domain: &str) -> TrustView {
        TrustView::fixed(Trust::of(self.bundle(domain)))
    }

    pub fn leaf(&self, leaf: Leaf) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = time::OffsetDateTime::now_utc() - leaf.age;
        params.not_after = params.not_before + leaf.life;
        params.subject_alt_names = leaf.sans;
        params.extended_key_usages = leaf.usages;
        params.serial_number = leaf.serial.map(SerialNumber::from);
        let cert = params.signed_by(&key, &self.issuer).expect("leaf");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        ([vec![cert.der().clone()], self.above.clone()].concat(), key.into())
    }

    pub fn svid(&self, uri: &str) -> Svid {
        let domain = SpiffeId::parse(uri).expect("uri").trust_domain().to_owned();
        self.svid_in(Leaf::of(&[uri]), &domain, &self.view(&domain))
    }

    pub fn svid_in(&self, leaf: Leaf, domain: &str, trust: &TrustView) -> Svid {
        let (chain, key) = self.leaf(leaf);
        Svid::new(chain, key, self.bundle(domain), trust).expect("svid")
    }

    /// A revocation list in DER, valid from a minute ago for `life`.
    pub fn crl(&self, number: u64, revoked: &[u64], life: time::Duration) -> Vec<u8> {
        let now = time::OffsetDateTime::now_utc();
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - time::Duration::MINUTE,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now - time::Duration::MINUTE,
            next_update: now - time::Duration::MINUTE + life,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("list").der().to_vec()
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, chunk) in der.chunks(3).enumerate() {
        let mut bytes = [0_u8; 4];
        bytes[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(bytes);
        for place in 0..4 {
            if place > chunk.len() {
                text.push('=');
            } else {
                let index = usize::try_from((bits >> (18 - 6 * place)) & 63).expect("six bits");
                text.push(char::from(ALPHABET[index]));
            }
        }
        if at % 16 == 15 {
            text.push('\n');
        }
    }
    format!("{}\n-----END {label}-----\n", text.trim_end())
}

pub fn id(uri: &str) -> SpiffeId {
    SpiffeId::parse(uri).expect("uri")
}

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("domain")
}

/// Who is on the other side of an established connection, and its chain.
pub type End = Result<(SpiffeId, PeerChain), TlsError>;

/// A handshake, and one byte each way to show that both ends think they are connected.
pub async fn connect(server: &Svid, client: &Svid, expected: &[SpiffeId]) -> (End, End) {
    let (near, far) = duplex(1 << 16);
    let serve = async {
        let (mut stream, peer) = tls::accept(far, server, SOON).await?;
        let echo = async {
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await
        };
        echo.await.map_err(TlsError::Io)?;
        Ok((peer.identity.id().clone(), peer.chain))
    };
    let dial = async {
        let (mut stream, peer) = tls::connect(near, client, expected, SOON).await?;
        let ask = async {
            stream.write_u8(7).await?;
            stream.read_u8().await
        };
        ask.await.map_err(TlsError::Io)?;
        Ok((peer.identity.id().clone(), peer.chain))
    };
    tokio::join!(serve, dial)
}

/// The same, without chains.
pub async fn handshake(
    server: &Svid,
    client: &Svid,
    expected: &[SpiffeId],
) -> (Result<SpiffeId, TlsError>, Result<SpiffeId, TlsError>) {
    let (at_server, at_client) = connect(server, client, expected).await;
    (at_server.map(|(id, _)| id), at_client.map(|(id, _)| id))
}

/// Takes any server for what it says it is.
#[derive(Debug)]
pub struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
