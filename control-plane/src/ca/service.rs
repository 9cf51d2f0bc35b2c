//! `IstioCertificateService`: the one call by which certificates are asked for.
//!
//! A caller that is refused learns the kind of its refusal and nothing more; why, is in the log and
//! in the metrics.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use authority::{CertificateRequest, Names};
use model::causes;
use prost_types::value::Kind;
use proto::citadel::{IMPERSONATED_IDENTITY, IstioCertificateRequest, IstioCertificateResponse};
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::authorize::{Authorizer, Granted};
use super::ledger::Ledger;
use super::metrics::CaMetrics;
use super::sign::{Asked, Sign};
use crate::caller::{Authenticate, Credentials, Refusal};

/// How long certificates live if the request does not say.
pub const TTL_DEFAULT: Duration = Duration::from_hours(24);
/// How long they live at most. Who asks for more is refused: a shorter one would surprise.
pub const TTL_MAX: Duration = Duration::from_hours(24 * 90);
/// Largest message read, in bytes: a request and little more. A larger one is refused.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// How long certificates may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// If the request does not say.
    pub default: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { default: TTL_DEFAULT, max: TTL_MAX }
    }
}

/// What the service is made of.
pub struct CaParts {
    /// Finds out who calls.
    pub callers: Arc<dyn Authenticate>,
    /// Says what they may have.
    pub authorizer: Authorizer,
    /// Signs.
    pub signer: Arc<dyn Sign>,
    /// Remembers.
    pub ledger: Arc<Ledger>,
    /// Counts.
    pub metrics: CaMetrics,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
}

/// The service. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct CertificateAuthority(Arc<CaParts>);

/// Why a request was refused, as the log has it.
enum Refused {
    Caller(Refusal),
    Unreadable(String),
    Lifetime(String),
    /// The request, by the signer.
    Unsignable(String),
    Signer(String),
}

impl CertificateAuthority {
    /// Puts it together.
    #[must_use]
    pub fn new(parts: CaParts) -> Self {
        Self(Arc::new(parts))
    }

    async fn create(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let parts = &*self.0;
        parts.metrics.request();
        let credentials = Credentials::of_call(request.metadata(), request.extensions());
        let message = request.into_inner();
        match self.issue(&credentials, &message).await {
            Ok(response) => {
                parts.metrics.issued();
                Ok(Response::new(response))
            }
            Err(refused) => Err(self.refuse(&refused, &message)),
        }
    }

    async fn issue(
        &self,
        credentials: &Credentials,
        message: &IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, Refused> {
        let parts = &*self.0;
        // Before anything of the message is looked at.
        let caller = parts.callers.authenticate(credentials).await.map_err(Refused::Caller)?;
        let wanted = impersonated(message)?;
        let granted = parts.authorizer.grant(&caller, wanted).map_err(Refused::Caller)?;
        let ttl = ttl(message.validity_duration, parts.lifetimes)?;
        let request = CertificateRequest::from_pem(&message.csr);
        let request = request.map_err(|error| Refused::Unreadable(causes(&error)))?;
        let Granted { identity, holder } = granted;
        let names = Names::of(identity);
        let asked = Asked { request: &request, pem: &message.csr, names: &names, ttl };
        let signed = parts.signer.sign(asked).await.map_err(|error| {
            parts.metrics.sign_error(error.label());
            let why = causes(&error);
            if error.is_callers() { Refused::Unsignable(why) } else { Refused::Signer(why) }
        })?;
        if let Some(root) = signed.root {
            parts.ledger.record(&holder, root, signed.mark, signed.not_after);
        }
        tracing::debug!(
            identity = names.identity().as_str(),
            caller = caller.identity.as_str(),
            holder,
            "certificate issued"
        );
        let mut cert_chain = signed.chain;
        cert_chain.push(signed.roots);
        Ok(IstioCertificateResponse { cert_chain })
    }

    fn refuse(&self, refused: &Refused, message: &IstioCertificateRequest) -> Status {
        const SHOWN: usize = 256;
        let metrics = &self.0.metrics;
        let (status, why) = match refused {
            Refused::Caller(Refusal::Unauthenticated(why)) => {
                metrics.unauthenticated();
                (Status::unauthenticated("the caller could not be authenticated"), why)
            }
            Refused::Caller(Refusal::Forbidden(why)) => {
                metrics.unauthorized();
                (Status::permission_denied("the caller may not have this certificate"), why)
            }
            Refused::Caller(Refusal::Unavailable(why)) => {
                (Status::unavailable("the caller cannot be authenticated now"), why)
            }
            Refused::Unreadable(why) => {
                metrics.unreadable();
                (Status::invalid_argument("the certificate request is not acceptable"), why)
            }
            Refused::Unsignable(why) => {
                (Status::invalid_argument("the certificate request is not acceptable"), why)
            }
            Refused::Lifetime(why) => {
                metrics.sign_error("TTL_ERROR");
                (Status::invalid_argument("the validity duration is not acceptable"), why)
            }
            Refused::Signer(why) => (Status::unavailable("no certificate can be signed now"), why),
        };
        let wanted = impersonated(message).ok().flatten().unwrap_or_default();
        let wanted: String = wanted.chars().take(SHOWN).collect();
        tracing::warn!(code = ?status.code(), wanted, "certificate request refused: {why}");
        status
    }
}

fn impersonated(message: &IstioCertificateRequest) -> Result<Option<&str>, Refused> {
    let fields = message.metadata.as_ref().map(|metadata| &metadata.fields);
    let Some(value) = fields.and_then(|fields| fields.get(IMPERSONATED_IDENTITY)) else {
        return Ok(None);
    };
    match &value.kind {
        Some(Kind::StringValue(identity)) if !identity.is_empty() => Ok(Some(identity)),
        // Said in a way that is not understood: its own certificate would not be what was meant.
        Some(_) | None => {
            Err(Refused::Unreadable(format!("{IMPERSONATED_IDENTITY} is no identity")))
        }
    }
}

fn ttl(seconds: i64, lifetimes: Lifetimes) -> Result<Duration, Refused> {
    if seconds == 0 {
        return Ok(lifetimes.default);
    }
    let asked = u64::try_from(seconds).map(Duration::from_secs);
    asked.ok().filter(|asked| *asked <= lifetimes.max).ok_or_else(|| {
        Refused::Lifetime(format!("{seconds} s: 1 s to {:?} are possible", lifetimes.max))
    })
}

type Creating =
    Pin<Box<dyn Future<Output = Result<Response<IstioCertificateResponse>, Status>> + Send>>;

impl tonic::server::UnaryService<IstioCertificateRequest> for CertificateAuthority {
    type Response = IstioCertificateResponse;
    type Future = Creating;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Creating {
        let authority = self.clone();
        Box::pin(async move { authority.create(request).await })
    }
}

impl NamedService for CertificateAuthority {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

impl Service<http::Request<tonic::body::Body>> for CertificateAuthority {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let authority = self.clone();
        Box::pin(async move {
            if request.uri().path() != proto::citadel::CREATE_METHOD {
                return Ok(Status::unimplemented("there is one method").into_http());
            }
            let codec = ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
            let mut grpc =
                tonic::server::Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(grpc.unary(authority, request).await)
        })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
