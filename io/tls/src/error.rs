//! Why a handshake failed.

use std::io;
use std::time::Duration;

use model::{Code, SpiffeId, TrustDomain};

/// A handshake that did not yield a verified peer. No application byte was sent or read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It did not finish in time.
    #[error("the TLS handshake did not finish within {0:?}")]
    Timeout(Duration),
    /// The connection broke.
    #[error("the connection broke during the TLS handshake")]
    Io(#[source] io::Error),
    /// The two sides do not agree, or a certificate is not trusted.
    #[error("the TLS handshake failed")]
    Handshake(#[source] rustls::Error),
    /// The peer does not speak `h2`.
    #[error("the peer did not negotiate ALPN h2")]
    Alpn,
    /// The certificate holds no identity that may be on the other side.
    #[error("the peer's certificate has no acceptable SPIFFE identity")]
    PeerIdentity(#[source] IdentityProblem),
    /// The issuer took a certificate of the chain back.
    #[error("a certificate of the peer was revoked")]
    Revoked,
    /// Revocation lists are configured and none is in force: nobody can be accepted.
    #[error("no revocation list is in force on this node")]
    RevocationsUnavailable,
}

impl TlsError {
    /// The stable reason.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Timeout(_) => Code::TlsTimeout,
            Self::Io(_) | Self::Handshake(_) | Self::Alpn => Code::TlsFailed,
            Self::PeerIdentity(_) => Code::PeerIdentity,
            Self::Revoked => Code::CertificateRevoked,
            Self::RevocationsUnavailable => Code::RevocationUnknown,
        }
    }

    /// Finds our verifier's verdict, and rustls's errors, below tokio-rustls's `io::Error`.
    pub(crate) fn from_handshake(error: io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            return Self::Io(error);
        };
        if let rustls::Error::InvalidCertificate(refused) = tls {
            if *refused == rustls::CertificateError::Revoked {
                return Self::Revoked;
            }
            if let rustls::CertificateError::Other(other) = refused {
                match other.0.downcast_ref::<VerifierProblem>() {
                    Some(VerifierProblem::Identity(problem)) => {
                        return Self::PeerIdentity(problem.clone());
                    }
                    Some(VerifierProblem::RevocationsUnavailable) => {
                        return Self::RevocationsUnavailable;
                    }
                    Some(VerifierProblem::Chain(_)) | None => {}
                }
            }
        }
        Self::Handshake(tls.clone())
    }
}

/// What our verifier says that rustls has no word for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifierProblem {
    #[error(transparent)]
    Identity(IdentityProblem),
    #[error(transparent)]
    Chain(webpki::Error),
    #[error("no revocation list is in force on this node")]
    RevocationsUnavailable,
}

/// What is wrong with the identity in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityProblem {
    /// No certificate, or one that cannot be parsed.
    #[error("the certificate cannot be parsed")]
    Unreadable,
    /// No URI among its subject alternative names.
    #[error("the certificate has no URI name")]
    NoUri,
    /// More than one URI, which SPIFFE forbids (X.509-SVID, section 2).
    #[error("the certificate has several URI names")]
    SeveralUris,
    /// A URI that is not a workload's SPIFFE ID.
    #[error("the certificate's URI is not a workload's SPIFFE ID")]
    NotSpiffe(#[source] model::IdentityError),
    /// A trust domain whose roots we do not hold.
    #[error("{got} is in no trusted domain; ours is {want}")]
    ForeignTrustDomain {
        /// Who the peer is.
        got: SpiffeId,
        /// Our trust domain.
        want: TrustDomain,
    },
    /// Not one of the identities the destination may have.
    #[error("{got} is not the expected identity")]
    Unexpected {
        /// Who the peer is.
        got: SpiffeId,
    },
}
