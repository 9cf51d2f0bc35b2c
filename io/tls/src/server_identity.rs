//! The server's side of a control plane's port: its own certificate, clients with or without one.
//!
//! A client that shows no certificate proves who it is by a token in what it says. One that shows
//! one must be a workload of a trusted domain, or there is no connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::chain::{CHAIN_MAX, PeerChain};
use crate::handshake::{ALPN, HTTP1, accept_with};
use crate::provider::provider;
use crate::trust::{Revoked, TrustView};
use crate::verifier::SpiffeVerifier;
use crate::{TlsError, TlsStream, VerifiedPeer};

/// Why a certificate cannot be a server's.
#[derive(Debug, thiserror::Error)]
pub enum ServerIdentityError {
    /// Not PEM.
    #[error("the certificate or the key of the server is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// No certificate, or more than [`CHAIN_MAX`].
    #[error("a server needs 1 to {CHAIN_MAX} certificates, not {0}")]
    Chain(usize),
    /// The key cannot be read, or is not the certificate's.
    #[error("the key does not fit the server's certificate")]
    Key(#[source] rustls::Error),
    /// rustls refused the configuration.
    #[error("the server's certificate cannot be used for TLS")]
    Config(#[source] rustls::Error),
}

/// A server's certificate and key, ready for handshakes.
pub struct ServerIdentity {
    key: Arc<CertifiedKey>,
    config: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    /// Whom clients are judged by.
    trust: TrustView,
}

impl ServerIdentity {
    /// Prepares a certificate. `chain` starts with the leaf; clients are judged by `trust`.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust: &TrustView,
    ) -> Result<Self, ServerIdentityError> {
        if !(1..=CHAIN_MAX).contains(&chain.len()) {
            return Err(ServerIdentityError::Chain(chain.len()));
        }
        let provider = provider(trust.current().compliance());
        let key =
            CertifiedKey::from_der(chain, key, &provider).map_err(ServerIdentityError::Key)?;
        let key = Arc::new(key);
        let http1 = http1(key.clone(), provider.clone()).map_err(ServerIdentityError::Config)?;
        let config = config(trust, key.clone(), provider).map_err(ServerIdentityError::Config)?;
        let trust = trust.clone();
        Ok(Self { key, config: Arc::new(config), http1: Arc::new(http1), trust })
    }

    /// The same from PEM texts.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        trust: &TrustView,
    ) -> Result<Self, ServerIdentityError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(ServerIdentityError::Pem)?;
        Self::new(chain.map_err(ServerIdentityError::Pem)?, key, trust)
    }

    /// The certificates that clients are shown, the leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

impl fmt::Debug for ServerIdentity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity")
            .field("certificates", &self.key.cert.len())
            .finish_non_exhaustive()
    }
}

/// The server's identity in force, now and later. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls(watch::Receiver<Arc<ServerIdentity>>);

impl ServerTls {
    /// Each handshake uses what was sent last.
    #[must_use]
    pub fn new(identities: watch::Receiver<Arc<ServerIdentity>>) -> Self {
        Self(identities)
    }

    /// One that never changes.
    #[must_use]
    pub fn fixed(identity: ServerIdentity) -> Self {
        Self(watch::channel(Arc::new(identity)).1)
    }

    /// Waits until what a client's connection was opened with is not believed any more: it has to be
    /// closed then. Cancel safe.
    pub async fn until_revoked(&self, chain: &PeerChain) -> Revoked {
        let mut identities = self.0.clone();
        loop {
            let trust = identities.borrow_and_update().trust.current();
            if let Err(revoked) = trust.check_chain(chain) {
                return revoked;
            }
            if identities.changed().await.is_err() {
                // There will be no other.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Performs the handshake; returns only if the client speaks `h2`, and who it is if it showed a
    /// certificate. `timeout` covers the whole handshake.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        timeout: Duration,
    ) -> Result<(TlsStream<S>, Option<VerifiedPeer>), TlsError> {
        let config = self.0.borrow().config.clone();
        accept_with(stream, config, timeout).await
    }

    /// Performs the handshake with a client that speaks HTTP/1.1 and shows no certificate, as an API
    /// server does that asks a webhook. `timeout` covers the whole handshake.
    pub async fn accept_http1<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        timeout: Duration,
    ) -> Result<TlsStream<S>, TlsError> {
        let acceptor = TlsAcceptor::from(self.0.borrow().http1.clone());
        let handshake = tokio::time::timeout(timeout, acceptor.accept(stream)).await;
        let stream = handshake.map_err(|_| TlsError::Timeout(timeout))?;
        Ok(TlsStream::Server(stream.map_err(TlsError::from_handshake)?))
    }
}

fn http1(
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![HTTP1.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn config(
    trust: &TrustView,
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let clients = Optional(SpiffeVerifier::of_clients(trust.clone()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not run the verifier.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}

/// The verifier of clients, for those that show a certificate.
#[derive(Debug)]
struct Optional(SpiffeVerifier);

impl ClientCertVerifier for Optional {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        ClientCertVerifier::root_hint_subjects(&self.0)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls12_signature(&self.0, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls13_signature(&self.0, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(&self.0)
    }
}
