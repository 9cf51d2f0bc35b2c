//! `IstioCertificateService`: the one call by which certificates are asked for.
//!
//! Who calls is found out by the headers of the call: of a stranger's message nothing is read. A
//! caller that is refused learns the kind of its refusal and nothing more; why, is in the log and in
//! the counters, by code.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use authority::{CertificateRequest, Names};
use model::causes;
use prost_types::value::Kind;
use proto::citadel::{IMPERSONATED_IDENTITY, IstioCertificateRequest, IstioCertificateResponse};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::authorize::{Authorizer, Granted};
use super::ledger::Ledger;
use super::metrics::CaMetrics;
use super::sign::{Asked, Sign};
use crate::caller::{Authenticate, Caller, Credentials, Refusal, RefusalCode, Strangers, admit};

/// How long certificates live if the request does not say.
pub const TTL_DEFAULT: Duration = Duration::from_hours(24);
/// How long they live at most. Who asks for more is refused: a shorter one would surprise.
pub const TTL_MAX: Duration = Duration::from_hours(24 * 90);
/// Largest message read, in bytes: a request and little more. A larger one is refused.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// How long it may take until the caller is known and its message has arrived. Then the call ends.
/// What follows takes as long as the signer may.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

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
pub struct CertificateAuthority(Arc<CaParts>, Arc<Strangers>);

impl CertificateAuthority {
    /// Puts it together.
    #[must_use]
    pub fn new(parts: CaParts) -> Self {
        Self(Arc::new(parts), Arc::default())
    }

    async fn create(
        &self,
        caller: &Caller,
        message: IstioCertificateRequest,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        match self.issue(caller, &message).await {
            Ok(response) => {
                self.0.metrics.issued();
                Ok(Response::new(response))
            }
            Err(refusal) => Err(self.refuse(&refusal, caller, Some(&message))),
        }
    }

    async fn issue(
        &self,
        caller: &Caller,
        message: &IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, Refusal> {
        let parts = &*self.0;
        let wanted = impersonated(message)?;
        let granted = parts.authorizer.grant(caller, wanted)?;
        let ttl = ttl(message.validity_duration, parts.lifetimes)?;
        let request = CertificateRequest::from_pem(&message.csr);
        let request = request
            .map_err(|error| Refusal::new(RefusalCode::RequestUnreadable, causes(&error)))?;
        let Granted { identity, holder } = granted;
        let names = Names::of(identity);
        let asked = Asked { request: &request, pem: &message.csr, names: &names, ttl };
        let signed = parts.signer.sign(asked).await.map_err(|error| {
            parts.metrics.sign_error(error.label());
            let is_callers = error.is_callers();
            let code = if is_callers {
                RefusalCode::RequestNotSignable
            } else {
                RefusalCode::SignerFailed
            };
            Refusal::new(code, causes(&error))
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

    /// Counts and logs, and says what the caller is told. `message`: what it asked, if that is known.
    fn refuse(
        &self,
        refusal: &Refusal,
        caller: &Caller,
        message: Option<&IstioCertificateRequest>,
    ) -> Status {
        const SHOWN: usize = 256;
        self.0.metrics.refused(refusal.code);
        let wanted = message.and_then(|message| impersonated(message).ok().flatten());
        let wanted: String = wanted.unwrap_or_default().chars().take(SHOWN).collect();
        let caller = caller.identity.as_str();
        let code = refusal.code.as_str();
        tracing::warn!(code, caller, wanted, "certificate request refused: {refusal}");
        refusal.status()
    }

    /// The same of a caller that has not proved who it is.
    fn refuse_stranger(&self, refusal: &Refusal, address: Option<IpAddr>) -> Status {
        self.0.metrics.refused(refusal.code);
        self.1.refused("certificates", address, refusal);
        refusal.status()
    }

    /// One call: who makes it, then its message, then the answer.
    async fn answer(
        self,
        request: http::Request<tonic::body::Body>,
    ) -> http::Response<tonic::body::Body> {
        let parts = &*self.0;
        parts.metrics.request();
        let deadline = Instant::now() + CALL_TIMEOUT;
        let late = || {
            let why = format!("no request within {CALL_TIMEOUT:?}");
            Refusal::new(RefusalCode::CallTimedOut, why)
        };
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let credentials = Credentials::of_call(&metadata, request.extensions());
        let admitted = admit(&*parts.callers, &credentials, request.extensions());
        let caller = match timeout_at(deadline, admitted).await {
            Ok(Ok(caller)) => caller,
            Ok(Err(refusal)) => {
                return self.refuse_stranger(&refusal, credentials.address).into_http();
            }
            Err(_) => return self.refuse_stranger(&late(), credentials.address).into_http(),
        };
        let (arrived, mut arrives) = oneshot::channel();
        let answering =
            Answering { authority: self.clone(), caller: caller.clone(), arrived: Some(arrived) };
        let codec = ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = grpc.unary(answering, request);
        tokio::pin!(answer);
        // Once the message is there, the signer has its own time.
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            Ok(()) = &mut arrives => return answer.await,
            () = sleep_until(deadline) => return self.refuse(&late(), &caller, None).into_http(),
        };
        // Answered before the message was whole: it is none that can be read.
        if arrives.try_recv().is_ok() {
            return answer;
        }
        let code = match Status::from_header_map(answer.headers()).map(|status| status.code()) {
            Some(Code::OutOfRange) => RefusalCode::RequestTooLarge,
            Some(_) | None => RefusalCode::RequestUnreadable,
        };
        self.refuse(&Refusal::new(code, "the message cannot be read"), &caller, None).into_http()
    }
}

/// A call whose caller is known.
struct Answering {
    authority: CertificateAuthority,
    caller: Caller,
    /// Told when the message is there.
    arrived: Option<oneshot::Sender<()>>,
}

fn impersonated(message: &IstioCertificateRequest) -> Result<Option<&str>, Refusal> {
    let fields = message.metadata.as_ref().map(|metadata| &metadata.fields);
    let Some(value) = fields.and_then(|fields| fields.get(IMPERSONATED_IDENTITY)) else {
        return Ok(None);
    };
    match &value.kind {
        Some(Kind::StringValue(identity)) if !identity.is_empty() => Ok(Some(identity)),
        // Said in a way that is not understood: its own certificate would not be what was meant.
        Some(_) | None => {
            let why = format!("{IMPERSONATED_IDENTITY} is no identity");
            Err(Refusal::new(RefusalCode::RequestUnreadable, why))
        }
    }
}

fn ttl(seconds: i64, lifetimes: Lifetimes) -> Result<Duration, Refusal> {
    if seconds == 0 {
        return Ok(lifetimes.default);
    }
    let asked = u64::try_from(seconds).map(Duration::from_secs);
    asked.ok().filter(|asked| *asked <= lifetimes.max).ok_or_else(|| {
        let why = format!("{seconds} s: 1 s to {:?} are possible", lifetimes.max);
        Refusal::new(RefusalCode::LifetimeNotAllowed, why)
    })
}

type Creating =
    Pin<Box<dyn Future<Output = Result<Response<IstioCertificateResponse>, Status>> + Send>>;

impl tonic::server::UnaryService<IstioCertificateRequest> for Answering {
    type Response = IstioCertificateResponse;
    type Future = Creating;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Creating {
        if let Some(arrived) = self.arrived.take() {
            // Nobody listens if the call was given up just now.
            let _ = arrived.send(());
        }
        let (authority, caller) = (self.authority.clone(), self.caller.clone());
        Box::pin(async move { authority.create(&caller, request.into_inner()).await })
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
            Ok(authority.answer(request).await)
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
