//! Certificates of every kind, good and bad: the agents' own authority signs whatever a test wants.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

/// What a certificate says.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    /// From now; in the past for a certificate that has expired.
    pub(crate) expired: bool,
}

impl Leaf {
    pub(crate) fn of(identity: &str) -> Self {
        Self { uris: vec![identity.to_owned()], dns: Vec::new(), expired: false }
    }
}

/// A certificate authority.
pub(crate) struct Authority(rcgen::Issuer<'static, KeyPair>);

impl Authority {
    /// The agents' own: its key is in the folder that they share.
    pub(crate) fn of_the_agents(world: &Path) -> anyhow::Result<Self> {
        let read = |name| std::fs::read_to_string(world.join("ca").join(name)).context(name);
        let key = KeyPair::from_pem(&read(svid::KEY_FILE)?)?;
        Ok(Self(rcgen::Issuer::from_ca_cert_pem(&read(svid::CERTIFICATE_FILE)?, key)?))
    }

    /// One that nobody trusts, of the same name.
    pub(crate) fn untrusted() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Warren development CA");
        Ok(Self(rcgen::Issuer::new(params, KeyPair::generate()?)))
    }

    fn issue(&self, leaf: &Leaf) -> anyhow::Result<(CertificateDer<'static>, KeyPair)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let now = time::OffsetDateTime::from(SystemTime::now());
        let hour = time::Duration::hours(1);
        params.not_before = now - hour * 2;
        params.not_after = if leaf.expired { now - hour } else { now + hour };
        params.distinguished_name = DistinguishedName::new();
        let uris = leaf.uris.iter().map(|uri| Ok(SanType::URI(uri.as_str().try_into()?)));
        let dns = leaf.dns.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
        params.subject_alt_names = uris.chain(dns).collect::<Result<_, rcgen::Error>>()?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.0)?;
        Ok((certificate.der().clone(), key))
    }

    /// A client that shows this certificate and trusts everybody.
    pub(crate) fn client(&self, leaf: &Leaf) -> anyhow::Result<ClientConfig> {
        let (certificate, key) = self.issue(leaf)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config =
            config()?.with_client_auth_cert(vec![certificate], key).context("a client")?;
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        Ok(config)
    }
}

/// A client without a certificate.
pub(crate) fn nameless() -> anyhow::Result<ClientConfig> {
    let mut config = config()?.with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    Ok(config)
}

fn config() -> anyhow::Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>>
{
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Trusting(provider))))
}

#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
