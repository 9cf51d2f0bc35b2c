//! The SPIFFE verifiers of both sides: identity, chain, revocation, then who is expected.
//!
//! All of it is judged within the handshake, so that a peer that is not acceptable gets an alert,
//! and a client shows its own certificate only to the server it looked for. The trust in force at
//! that moment counts: configurations are made once for each certificate and outlive many changes.

use std::sync::Arc;

use model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::VerifierProblem;
use crate::handshake::found;
use crate::provider::provider;
use crate::trust::{Distrust, TrustView, Usage};
use crate::{Compliance, IdentityProblem};

/// Whose certificate is verified.
#[derive(Clone, Debug)]
enum Expected {
    /// A client: anybody of a trusted domain. Policy judges later who it is.
    Anybody,
    /// A server: one of these, and nobody else.
    OneOf(Arc<[SpiffeId]>),
}

/// Verifies certificates against the trust in force.
#[derive(Clone, Debug)]
pub(crate) struct SpiffeVerifier {
    trust: TrustView,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    pub(crate) fn of_clients(trust: TrustView) -> Self {
        Self::new(trust, Expected::Anybody)
    }

    pub(crate) fn of_server(trust: TrustView, expected: &[SpiffeId]) -> Self {
        Self::new(trust, Expected::OneOf(expected.into()))
    }

    fn new(trust: TrustView, expected: Expected) -> Self {
        let algorithms = provider(Compliance::Default).signature_verification_algorithms;
        Self { trust, expected, algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), rustls::Error> {
        let trust = self.trust.current();
        let (id, chain) = trust.verify(leaf, intermediates, now, usage).map_err(refusal)?;
        let is_expected = match &self.expected {
            Expected::Anybody => true,
            Expected::OneOf(ids) => ids.iter().any(|wanted| trust.is_same(wanted, &id)),
        };
        if !is_expected {
            return Err(refusal(Distrust::Identity(IdentityProblem::Unexpected { got: id })));
        }
        found(id, chain);
        Ok(())
    }
}

/// The error from which rustls chooses its alert, and from which we read our own verdict again.
fn refusal(distrust: Distrust) -> rustls::Error {
    let other =
        |problem: VerifierProblem| CertificateError::Other(rustls::OtherError(Arc::new(problem)));
    let error = match distrust {
        Distrust::Identity(problem) => other(VerifierProblem::Identity(problem)),
        Distrust::RevocationsUnavailable => other(VerifierProblem::RevocationsUnavailable),
        Distrust::Chain(error) => {
            alert(&error).unwrap_or_else(|| other(VerifierProblem::Chain(error)))
        }
    };
    rustls::Error::InvalidCertificate(error)
}

/// Where rustls has a word of its own, and with it an alert.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others are refused with a general alert")]
fn alert(error: &webpki::Error) -> Option<CertificateError> {
    match *error {
        webpki::Error::CertRevoked => Some(CertificateError::Revoked),
        webpki::Error::CertExpired { time, not_after } => {
            Some(CertificateError::ExpiredContext { time, not_after })
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            Some(CertificateError::NotValidYetContext { time, not_before })
        }
        webpki::Error::UnknownIssuer => Some(CertificateError::UnknownIssuer),
        webpki::Error::InvalidSignatureForPublicKey => Some(CertificateError::BadSignature),
        webpki::Error::RequiredEkuNotFoundContext(_) => Some(CertificateError::InvalidPurpose),
        _ => None,
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
        self.verify(end_entity, intermediates, now, Usage::Client)?;
        Ok(ClientCertVerified::assertion())
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
        self.verify(end_entity, intermediates, now, Usage::Server)?;
        Ok(ServerCertVerified::assertion())
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
