//! The SPIFFE verifiers of both sides: the chain, its usage, then the identity.
//!
//! The identity is judged within the handshake, so that a peer that is not acceptable gets an
//! alert, and a client shows its own certificate only to the server it looked for.

use std::sync::Arc;

use model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::provider::{Compliance, provider};
use crate::{IdentityProblem, TrustBundle, spiffe};

/// Whose certificate is verified.
#[derive(Clone, Debug)]
enum Expected {
    /// A client: anybody of our trust domain. Policy judges later who it is.
    Domain,
    /// A server: one of these, and nobody else.
    OneOf(Arc<[SpiffeId]>),
}

/// Verifies certificates of one trust domain.
#[derive(Clone, Debug)]
pub(crate) struct SpiffeVerifier {
    bundle: TrustBundle,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    pub(crate) fn of_clients(bundle: TrustBundle) -> Self {
        let algorithms = provider(Compliance::Default).signature_verification_algorithms;
        Self { bundle, expected: Expected::Domain, algorithms }
    }

    pub(crate) fn of_server(bundle: TrustBundle, expected: &[SpiffeId]) -> Self {
        let algorithms = provider(Compliance::Default).signature_verification_algorithms;
        Self { bundle, expected: Expected::OneOf(expected.into()), algorithms }
    }

    /// Verifies the chain at a time, for what the certificate is used for, then the identity.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<SpiffeId, rustls::Error> {
        match self.expected {
            Expected::Domain => {
                self.bundle.clients().verify_client_cert(leaf, intermediates, now)?;
            }
            Expected::OneOf(_) => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(leaf)?,
                self.bundle.roots(),
                intermediates,
                now,
                self.algorithms.all,
            )?,
        }
        self.identity(leaf).map_err(|problem| {
            let other = rustls::OtherError(Arc::new(problem));
            rustls::Error::InvalidCertificate(CertificateError::Other(other))
        })
    }

    fn identity(&self, leaf: &CertificateDer<'_>) -> Result<SpiffeId, IdentityProblem> {
        let got = spiffe::identity(&spiffe::parse(leaf)?)?;
        match &self.expected {
            Expected::Domain if got.trust_domain() == self.bundle.trust_domain().as_str() => {
                Ok(got)
            }
            Expected::Domain => {
                let want = self.bundle.trust_domain().clone();
                Err(IdentityProblem::ForeignTrustDomain { got, want })
            }
            Expected::OneOf(ids) if ids.contains(&got) => Ok(got),
            Expected::OneOf(_) => Err(IdentityProblem::Unexpected { got }),
        }
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one certificate: it needs no hint, and our roots' names are nobody's
        // business before the handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|_| ClientCertVerified::assertion())
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

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|_| ServerCertVerified::assertion())
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
