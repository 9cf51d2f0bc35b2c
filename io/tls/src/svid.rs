//! An X.509-SVID: a workload's certificate and key, ready for handshakes.
//!
//! Checked once, when it is made, with the eyes of a peer: an SVID nobody would accept must not
//! take the place of one that works. The TLS configurations are built then too, not per handshake,
//! and ask for the trust in force at each handshake.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{SpiffeId, VerifiedIdentity};
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::chain::{CHAIN_MAX, PeerChain};
use crate::handshake::ALPN;
use crate::provider::{Compliance, provider};
use crate::trust::{Revoked, Trust, TrustView, Usage, verify_path};
use crate::verifier::SpiffeVerifier;
use crate::{IdentityProblem, TrustBundle, spiffe};

/// Why an SVID was refused.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// No certificate, or more than [`CHAIN_MAX`].
    #[error("an SVID needs 1 to {CHAIN_MAX} certificates, not {0}")]
    Chain(usize),
    /// The leaf does not name one workload.
    #[error("the certificate is no workload's")]
    Identity(#[source] IdentityProblem),
    /// The key cannot be read, or is not the certificate's.
    #[error("the key does not fit the certificate")]
    Key(#[source] rustls::Error),
    /// The roots are another trust domain's.
    #[error("the roots are not those of the certificate's trust domain")]
    TrustDomain,
    /// A peer with the same roots would refuse it.
    #[error("the certificate does not verify against its own trust bundle")]
    Untrusted(#[source] webpki::Error),
    /// rustls refused the configuration.
    #[error("the certificate cannot be used for TLS")]
    Config(#[source] rustls::Error),
}

/// A certificate chain, its key, and the roots that it came with.
pub struct Svid {
    identity: VerifiedIdentity,
    bundle: TrustBundle,
    path: PeerChain,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    key: Arc<CertifiedKey>,
    trust: TrustView,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Svid {
    /// Checks and prepares an SVID. `chain` starts with the leaf; the roots are in the bundle,
    /// which must be that of the identity's trust domain. Peers are judged by `trust`.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        bundle: TrustBundle,
        trust: &TrustView,
    ) -> Result<Self, SvidError> {
        let leaf = chain.first().cloned().filter(|_| chain.len() <= CHAIN_MAX);
        let leaf = leaf.ok_or(SvidError::Chain(chain.len()))?;
        let parsed = spiffe::parse(&leaf).map_err(SvidError::Identity)?;
        let id = spiffe::identity(&parsed).map_err(SvidError::Identity)?;
        if id.trust_domain() != bundle.trust_domain().as_str() {
            return Err(SvidError::TrustDomain);
        }
        let (not_before, not_after) = spiffe::validity(&parsed);
        let now = UnixTime::since_unix_epoch(verification_time(not_before));
        let verify = |usage| verify_path(&bundle, None, &leaf, &chain[1..], now, usage);
        verify(Usage::Client).map_err(SvidError::Untrusted)?;
        let path = verify(Usage::Server).map_err(SvidError::Untrusted)?;
        let serial = parsed.raw_serial_as_string();
        let compliance = trust.current().compliance();
        let key =
            CertifiedKey::from_der(chain, key, &provider(compliance)).map_err(SvidError::Key)?;
        let key = Arc::new(key);
        let resolver = Arc::new(SingleCertAndKey::from(key.clone()));
        let server = server_config(trust, resolver.clone(), compliance);
        let client = client_config(trust, resolver, compliance);
        Ok(Self {
            // Our own certificate, verified against our own roots just now.
            identity: VerifiedIdentity::assertion(id),
            server: Arc::new(server.map_err(SvidError::Config)?),
            client: Arc::new(client.map_err(SvidError::Config)?),
            trust: trust.clone(),
            bundle,
            path,
            not_before,
            not_after,
            serial,
            key,
        })
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &VerifiedIdentity {
        &self.identity
    }

    /// The certificates that peers are shown, the leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Whether the trust in force says that it was revoked. Peers would refuse it.
    pub fn check(&self, trust: &Trust) -> Result<(), Revoked> {
        trust.check_chain(&self.path)
    }

    /// The roots that it came with. Peers are judged by the trust in force, not by these alone.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Valid from.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Valid until.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf's serial number in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The client's configuration for a server that may be any of `expected`. A copy of a few
    /// pointers: small beside the handshake it is for.
    pub(crate) fn client_config(&self, expected: &[SpiffeId]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.client);
        let verifier = SpiffeVerifier::of_server(self.trust.clone(), expected);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }
}

impl fmt::Debug for Svid {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("identity", self.identity.id())
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn server_config(
    trust: &TrustView,
    key: Arc<SingleCertAndKey>,
    compliance: Compliance,
) -> Result<ServerConfig, rustls::Error> {
    let clients = SpiffeVerifier::of_clients(trust.clone());
    let mut config = ServerConfig::builder_with_provider(provider(compliance))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(key);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not run the verifier.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}

fn client_config(
    trust: &TrustView,
    key: Arc<SingleCertAndKey>,
    compliance: Compliance,
) -> Result<ClientConfig, rustls::Error> {
    // Nobody is expected: a connection that forgot to say whom it wants fails.
    let nobody = SpiffeVerifier::of_server(trust.clone(), &[]);
    let mut config = ClientConfig::builder_with_provider(provider(compliance))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_cert_resolver(key);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    Ok(config)
}

/// Now, or when the certificate becomes valid if our clock is behind the authority's: peers'
/// clocks may be right.
fn verification_time(not_before: SystemTime) -> Duration {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since(SystemTime::now()).max(since(not_before))
}
