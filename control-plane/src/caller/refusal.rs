//! Why somebody was refused: a stable code and a sentence, for the log and the counters. The caller
//! itself is told no more than the kind.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tonic::Status;

/// What kind of refusal it is: all that a caller learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// It did not prove who it is.
    Unauthenticated,
    /// It did, and may not do this.
    Forbidden,
    /// It cannot be done now: it may try again.
    Unavailable,
    /// What it asked cannot be read, or is not acceptable.
    Unacceptable,
    /// It is too much.
    Excessive,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $kind:ident;)+) => {
        /// Why somebody was refused. The text is an interface: it never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum RefusalCode {
            $($(#[$doc])* $variant,)+
        }

        impl RefusalCode {
            /// Every code, for documentation and tests.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What the caller learns.
            #[must_use]
            pub fn kind(self) -> RefusalKind {
                match self { $(Self::$variant => RefusalKind::$kind,)+ }
            }
        }
    };
}

codes! {
    /// Neither certificate nor token.
    NoCredentials = "NO_CREDENTIALS", Unauthenticated;
    /// An authorization that is none.
    CredentialsUnusable = "CREDENTIALS_UNUSABLE", Unauthenticated;
    /// Credentials of a kind that is not accepted here.
    CredentialsNotAccepted = "CREDENTIALS_NOT_ACCEPTED", Unauthenticated;
    /// The caller says that it is of another cluster.
    OtherCluster = "OTHER_CLUSTER", Unauthenticated;
    /// The identity is of another trust domain.
    OtherTrustDomain = "OTHER_TRUST_DOMAIN", Unauthenticated;
    /// A token that is no JWT.
    TokenMalformed = "TOKEN_MALFORMED", Unauthenticated;
    /// The API server does not believe the token.
    TokenRejected = "TOKEN_REJECTED", Unauthenticated;
    /// The token was made for somebody else.
    TokenForOthers = "TOKEN_FOR_OTHERS", Unauthenticated;
    /// The token is not that of a service account.
    NoServiceAccount = "NO_SERVICE_ACCOUNT", Unauthenticated;
    /// The pod of the token is another one than there is.
    TokenOfOtherPod = "TOKEN_OF_OTHER_POD", Unauthenticated;
    /// No such join token.
    JoinTokenUnknown = "JOIN_TOKEN_UNKNOWN", Unauthenticated;
    /// The join token is over.
    JoinTokenExpired = "JOIN_TOKEN_EXPIRED", Unauthenticated;
    /// Nobody proved on a connection in time who calls.
    ConnectionUnused = "CONNECTION_UNUSED", Unauthenticated;
    /// The certificate that a connection was opened with was revoked.
    CertificateRevoked = "CERTIFICATE_REVOKED", Unauthenticated;
    /// Discovery is for agents and gateways.
    NotServed = "NOT_SERVED", Forbidden;
    /// The token is somebody else's by now.
    TokenChangedHands = "TOKEN_CHANGED_HANDS", Forbidden;
    /// Only agents ask in the name of others.
    MayNotImpersonate = "MAY_NOT_IMPERSONATE", Forbidden;
    /// What was asked for is no identity of our trust domain.
    IdentityNotOurs = "IDENTITY_NOT_OURS", Forbidden;
    /// No pod of that identity runs on the caller's node, in the mesh.
    NoPodOnNode = "NO_POD_ON_NODE", Forbidden;
    /// It is not proved on which node the caller runs.
    NodeNotProved = "NODE_NOT_PROVED", Forbidden;
    /// The caller's own pod does not run, or is not the one that the token names.
    CallersPodMismatch = "CALLERS_POD_MISMATCH", Forbidden;
    /// A workload's certificate is not renewed by that certificate.
    MayNotRenew = "MAY_NOT_RENEW", Forbidden;
    /// No pod of the identity lives.
    NoPodLives = "NO_POD_LIVES", Forbidden;
    /// The API server gave no answer about a token.
    ReviewUnavailable = "TOKEN_REVIEW_UNAVAILABLE", Unavailable;
    /// Too many questions about tokens wait already.
    TooManyReviews = "TOO_MANY_TOKEN_REVIEWS", Unavailable;
    /// The caller's pod is not known yet.
    CallersPodUnknown = "CALLERS_POD_UNKNOWN", Unavailable;
    /// The signer failed.
    SignerFailed = "SIGNER_FAILED", Unavailable;
    /// The request did not arrive in time.
    CallTimedOut = "CALL_TIMED_OUT", Unavailable;
    /// The request cannot be read.
    RequestUnreadable = "REQUEST_UNREADABLE", Unacceptable;
    /// The certificate request is not one that is signed.
    RequestNotSignable = "REQUEST_NOT_SIGNABLE", Unacceptable;
    /// Certificates do not live so long.
    LifetimeNotAllowed = "LIFETIME_NOT_ALLOWED", Unacceptable;
    /// The request has too many bytes.
    RequestTooLarge = "REQUEST_TOO_LARGE", Excessive;
    /// Too many names are asked for.
    TooManyNames = "TOO_MANY_NAMES", Excessive;
    /// A name or a version is too long.
    NameTooLong = "NAME_TOO_LONG", Excessive;
    /// Too many resources are said to be held.
    TooManyVersions = "TOO_MANY_VERSIONS", Excessive;
    /// There are as many connections as there may be.
    TooManyConnections = "TOO_MANY_CONNECTIONS", Excessive;
    /// An address has as many connections as it may.
    TooManyConnectionsOfAddress = "TOO_MANY_CONNECTIONS_OF_ADDRESS", Excessive;
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub why: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: RefusalCode, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }

    /// What the caller learns.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        self.code.kind()
    }

    /// What the caller is told: no more than the kind.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.kind() {
            RefusalKind::Unauthenticated => Status::unauthenticated("authentication failed"),
            RefusalKind::Forbidden => Status::permission_denied("not allowed"),
            RefusalKind::Unavailable => Status::unavailable("not available now"),
            RefusalKind::Unacceptable => Status::invalid_argument("the request is not acceptable"),
            RefusalKind::Excessive => Status::resource_exhausted("too much is asked for"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refusal {}

/// The label of [`Refusals`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

/// A counter for each code. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Family<CodeLabel, Counter>);

impl Refusals {
    /// Registers them under a name.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry, name: &str) {
        registry.register(name, "What was refused, by code", self.0.clone());
    }

    /// Something was refused.
    pub fn count(&self, code: RefusalCode) {
        self.0.get_or_create(&CodeLabel { code: code.as_str() }).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_of_one_form() {
        let texts: BTreeSet<_> = RefusalCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), RefusalCode::ALL.len());
        for text in texts {
            assert!(text.bytes().all(|b| b == b'_' || b.is_ascii_uppercase()), "{text}");
        }
    }
}
