//! TLS to a control plane: the server proves its name against given roots, a token of ours proves
//! who we are.
//!
//! The roots are read anew for each connection, so that a rotation needs no restart. No client
//! certificate: one of a workload would let the agent act as that workload.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::handshake::{ALPN, HTTP1};
use crate::provider::{Compliance, provider};
use crate::{TlsError, TlsStream};

/// Largest file of roots read, in bytes: a distribution's is some 250 KiB. A longer one is refused.
pub const ROOTS_FILE_MAX: usize = 4 << 20;
/// Most roots of a control plane; a distribution has some 150. A longer list is refused.
const CONTROL_PLANE_ROOTS_MAX: usize = 1024;

/// Where distributions keep the roots they trust; the first that exists is used.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom a control plane's certificate must come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSource {
    /// The distribution's authorities.
    System,
    /// A PEM file, read anew for each connection.
    File(PathBuf),
    /// PEM text.
    Pem(String),
}

/// Why there is no TLS configuration for a control plane.
#[derive(Debug, thiserror::Error)]
pub enum ServerRootsError {
    /// The name is neither a host name nor an address.
    #[error("{0:?} is not a server name")]
    Name(String),
    /// The file could not be read.
    #[error("reading the roots in {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No file of [`RootSource::System`] exists.
    #[error("this system has no file of trusted roots")]
    NoSystemRoots,
    /// Not PEM.
    #[error("the roots are not PEM certificates")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// A certificate that cannot be parsed. Leaving it out would be a silent change of trust.
    #[error("root {index} cannot be parsed")]
    Root {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// None, or too many.
    #[error("expected 1 to {CONTROL_PLANE_ROOTS_MAX} roots")]
    Count,
    /// rustls refused the configuration.
    #[error("the TLS configuration for the control plane")]
    Config(#[source] rustls::Error),
}

/// How a control plane is recognised. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTrust {
    roots: RootSource,
    /// The first is sent to the server; any may be in its certificate. Never empty.
    names: Arc<[ServerName<'static>]>,
    compliance: Compliance,
}

impl ServerTrust {
    /// Recognises a server at `host` (a name or an address), or under one of the `alternates`.
    pub fn new<'a>(
        roots: RootSource,
        host: &'a str,
        alternates: impl IntoIterator<Item = &'a str>,
        compliance: Compliance,
    ) -> Result<Self, ServerRootsError> {
        let parse = |name: &str| {
            let parsed = ServerName::try_from(name.to_owned());
            parsed.map_err(|_| ServerRootsError::Name(name.to_owned()))
        };
        let names = std::iter::once(host).chain(alternates).map(parse);
        Ok(Self { roots, names: names.collect::<Result<_, _>>()?, compliance })
    }

    /// Reads the roots as they are now.
    pub async fn read(&self) -> Result<ServerVerifier, ServerRootsError> {
        let roots = match &self.roots {
            RootSource::Pem(pem) => strict(pem.as_bytes())?,
            RootSource::File(path) => strict(&read(path).await?)?,
            RootSource::System => {
                let mut found = None;
                for path in SYSTEM_ROOTS.map(Path::new) {
                    if tokio::fs::try_exists(path).await.unwrap_or(false) {
                        found = Some(read(path).await?);
                        break;
                    }
                }
                lenient(&found.ok_or(ServerRootsError::NoSystemRoots)?)?
            }
        };
        ServerVerifier::new(roots, self.names.clone(), self.compliance)
    }
}

/// The roots of a control plane as they were when they were read.
pub struct ServerVerifier {
    config: Arc<ClientConfig>,
    host: ServerName<'static>,
}

impl ServerVerifier {
    fn new(
        roots: RootCertStore,
        names: Arc<[ServerName<'static>]>,
        compliance: Compliance,
    ) -> Result<Self, ServerRootsError> {
        let provider = provider(compliance);
        let algorithms = provider.signature_verification_algorithms;
        let host = names.first().cloned().ok_or_else(|| ServerRootsError::Name(String::new()))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(ServerRootsError::Config)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NameVerifier { roots, names, algorithms }))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Connections are few and long; a resumed one would not look at changed roots.
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(Self { config: Arc::new(config), host })
    }

    /// Performs the handshake; returns only if the server is the one named and speaks `h2`. The
    /// caller bounds the time.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<TlsStream<S>, TlsError> {
        let connector = TlsConnector::from(self.config.clone());
        let connecting = connector.connect(self.host.clone(), stream);
        let stream = connecting.await.map_err(TlsError::from_handshake)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::Alpn);
        }
        Ok(TlsStream::Client(stream))
    }

    /// The same with a server that speaks HTTP/1.1, as an API server does. One that has no ALPN
    /// means HTTP/1.1; one that chooses anything else is refused by rustls.
    pub async fn connect_http1<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<TlsStream<S>, TlsError> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![HTTP1.to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let connecting = connector.connect(self.host.clone(), stream);
        Ok(TlsStream::Client(connecting.await.map_err(TlsError::from_handshake)?))
    }
}

/// Verifies a chain of the WebPKI shape: roots, validity, server usage, one of several names.
#[derive(Debug)]
struct NameVerifier {
    roots: RootCertStore,
    names: Arc<[ServerName<'static>]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for NameVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let mut refused = rustls::Error::from(CertificateError::NotValidForName);
        for name in self.names.iter() {
            match verify_server_name(&leaf, name) {
                Ok(()) => return Ok(ServerCertVerified::assertion()),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, ServerRootsError> {
    let failed = |source| ServerRootsError::Read { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = Vec::new();
    let limit = u64::try_from(ROOTS_FILE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut text).await.map_err(failed)?;
    if text.len() > ROOTS_FILE_MAX {
        let large = io::Error::new(io::ErrorKind::FileTooLarge, "larger than any list of roots");
        return Err(failed(large));
    }
    Ok(text)
}

/// Roots that an operator gave: each must be usable.
fn strict(pem: &[u8]) -> Result<RootCertStore, ServerRootsError> {
    let mut store = RootCertStore::empty();
    for (index, root) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let root = root.map_err(ServerRootsError::Pem)?;
        store.add(root).map_err(|source| ServerRootsError::Root { index, source })?;
    }
    counted(store)
}

/// Roots of a distribution, which may hold some that we cannot parse; fewer roots trust less.
fn lenient(pem: &[u8]) -> Result<RootCertStore, ServerRootsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    counted(store)
}

fn counted(store: RootCertStore) -> Result<RootCertStore, ServerRootsError> {
    if (1..=CONTROL_PLANE_ROOTS_MAX).contains(&store.len()) {
        Ok(store)
    } else {
        Err(ServerRootsError::Count)
    }
}
