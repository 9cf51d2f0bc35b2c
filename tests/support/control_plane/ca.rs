//! The certificate authority of the test control plane.

use std::fmt;
use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use parking_lot::Mutex;
use prost_types::value::Kind;
use proto::citadel::{IMPERSONATED_IDENTITY, IstioCertificateRequest, IstioCertificateResponse};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// How far before its making a certificate becomes valid.
const BACKDATE: time::Duration = time::Duration::minutes(1);
/// How long a root is valid.
const ROOT_LIFE: time::Duration = time::Duration::days(30);

/// How the authority answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// With a certificate.
    #[default]
    Issue,
    /// `PERMISSION_DENIED`.
    Refuse,
    /// Not at all.
    Hang,
    /// With something else than certificates.
    Garbage,
    /// With a certificate for somebody else.
    OtherIdentity,
}

/// A certificate that was handed out.
#[derive(Clone, Debug)]
pub struct IssuedCertificate {
    /// Whose.
    pub identity: String,
    /// Serial number.
    pub serial: Vec<u8>,
    /// Which root signed it, from 0.
    pub root: usize,
    /// When.
    pub at: SystemTime,
}

/// A handle on the authority. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct TestCa(Arc<Mutex<State>>);

struct State {
    roots: Vec<Root>,
    /// Index of the root that signs.
    signing: usize,
    /// Index of the oldest root that answers tell of.
    oldest: usize,
    life: Duration,
    mood: Mood,
    token: Option<String>,
    issued: Vec<IssuedCertificate>,
    revoked: Vec<(usize, Vec<u8>)>,
    crl_number: u64,
}

struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl fmt::Debug for TestCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCa").field("issued", &self.0.lock().issued.len()).finish()
    }
}

impl Root {
    fn new(number: usize) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.not_before = now - BACKDATE;
        params.not_after = now + ROOT_LIFE;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("test root {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }
}

impl TestCa {
    /// An authority with one root, whose certificates live for an hour.
    pub fn new() -> anyhow::Result<Self> {
        let state = State {
            roots: vec![Root::new(0)?],
            signing: 0,
            oldest: 0,
            life: Duration::from_hours(1),
            mood: Mood::Issue,
            token: None,
            issued: Vec::new(),
            revoked: Vec::new(),
            crl_number: 1,
        };
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    /// How long certificates live from now on, whatever is asked for.
    pub fn set_life(&self, life: Duration) {
        self.0.lock().life = life;
    }

    /// How it answers from now on.
    pub fn set_mood(&self, mood: Mood) {
        self.0.lock().mood = mood;
    }

    /// Refuses whoever does not send this token.
    pub fn require_token(&self, token: &str) {
        self.0.lock().token = Some(token.to_owned());
    }

    /// Root rotation, first step: answers tell of a new root beside the old ones; the old one signs.
    pub fn add_root(&self) -> anyhow::Result<()> {
        let mut state = self.0.lock();
        let number = state.roots.len();
        state.roots.push(Root::new(number)?);
        Ok(())
    }

    /// Second step: the newest root signs; answers still tell of the old ones.
    pub fn sign_with_newest(&self) {
        let mut state = self.0.lock();
        state.signing = state.roots.len() - 1;
    }

    /// Last step: answers tell of the newest root only.
    pub fn forget_old_roots(&self) {
        let mut state = self.0.lock();
        state.oldest = state.roots.len() - 1;
    }

    /// Everything handed out so far.
    #[must_use]
    pub fn issued(&self) -> Vec<IssuedCertificate> {
        self.0.lock().issued.clone()
    }

    /// Revokes every certificate of an identity that was handed out so far.
    pub fn revoke(&self, identity: &str) {
        let mut state = self.0.lock();
        let of_identity = |issued: &&IssuedCertificate| issued.identity == identity;
        let more: Vec<_> =
            state.issued.iter().filter(of_identity).map(|i| (i.root, i.serial.clone())).collect();
        state.revoked.extend(more);
    }

    /// Writes the revocation lists of all roots to a file, PEM, as one replacement.
    pub fn write_crl(&self, path: &Path) -> anyhow::Result<()> {
        let mut state = self.0.lock();
        state.crl_number += 1;
        let now = OffsetDateTime::now_utc();
        let mut text = String::new();
        for (number, root) in state.roots.iter().enumerate() {
            let of_root = state.revoked.iter().filter(|(of, _)| *of == number);
            let revoked = of_root.map(|(_, serial)| RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            });
            let list = CertificateRevocationListParams {
                this_update: now - BACKDATE,
                next_update: now + ROOT_LIFE,
                crl_number: SerialNumber::from(state.crl_number),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            text.push_str(&list.signed_by(&root.issuer)?.pem()?);
        }
        let next = path.with_extension("next");
        fs::write(&next, text).with_context(|| format!("write {}", next.display()))?;
        fs::rename(&next, path).with_context(|| format!("replace {}", path.display()))
    }

    pub(super) fn service(&self) -> CaService {
        CaService(self.clone())
    }

    fn create(&self, request: &Request<IstioCertificateRequest>) -> Result<Answer, Status> {
        let mut state = self.0.lock();
        let header = |name: &str| request.metadata().get(name).and_then(|v| v.to_str().ok());
        if let Some(token) = &state.token
            && header("authorization") != Some(&format!("Bearer {token}"))
        {
            return Err(Status::unauthenticated("wrong token"));
        }
        if header("clusterid").is_none() {
            return Err(Status::unauthenticated("no cluster"));
        }
        match state.mood {
            Mood::Issue | Mood::OtherIdentity => {}
            Mood::Refuse => return Err(Status::permission_denied("not on your node")),
            Mood::Hang => return Ok(Answer::Never),
            Mood::Garbage => {
                let cert_chain = vec!["leaf".to_owned(), "root".to_owned()];
                return Ok(Answer::Now(IstioCertificateResponse { cert_chain }));
            }
        }
        let identity = impersonated(request.get_ref())
            .ok_or_else(|| Status::invalid_argument("nobody is impersonated"))?;
        let response = state.sign(&request.get_ref().csr, &identity);
        response.map(Answer::Now).map_err(|error| Status::invalid_argument(format!("{error:#}")))
    }
}

impl State {
    fn sign(&mut self, csr: &str, identity: &str) -> anyhow::Result<IstioCertificateResponse> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr).context("the request")?;
        let asked = SanType::URI(identity.try_into()?);
        anyhow::ensure!(csr.params.subject_alt_names == [asked], "the request is for another");
        let serial: [u8; 16] = std::array::from_fn(|index| {
            let count = self.issued.len().to_be_bytes();
            // Positive, unique, and of one length.
            match index {
                0 => 1,
                1 => u8::try_from(self.signing).unwrap_or(u8::MAX),
                _ => count.get(index.wrapping_sub(8)).copied().unwrap_or(0),
            }
        });
        if self.mood == Mood::OtherIdentity {
            let other = "spiffe://cluster.local/ns/other/sa/other";
            csr.params.subject_alt_names = vec![SanType::URI(other.try_into()?)];
        }
        let now = OffsetDateTime::now_utc();
        csr.params.not_before = now - BACKDATE;
        csr.params.not_after = now + self.life;
        csr.params.serial_number = Some(SerialNumber::from_slice(&serial));
        csr.params.is_ca = IsCa::ExplicitNoCa;
        csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        csr.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        csr.params.use_authority_key_identifier_extension = true;
        let root = self.roots.get(self.signing).context("the signing root")?;
        let leaf = csr.signed_by(&root.issuer)?.pem();
        let told: String = self.roots.iter().skip(self.oldest).map(|r| r.pem.as_str()).collect();
        self.issued.push(IssuedCertificate {
            identity: identity.to_owned(),
            serial: serial.to_vec(),
            root: self.signing,
            at: SystemTime::now(),
        });
        Ok(IstioCertificateResponse { cert_chain: vec![leaf, told] })
    }
}

fn impersonated(request: &IstioCertificateRequest) -> Option<String> {
    match &request.metadata.as_ref()?.fields.get(IMPERSONATED_IDENTITY)?.kind {
        Some(Kind::StringValue(identity)) => Some(identity.clone()),
        _ => None,
    }
}

enum Answer {
    Now(IstioCertificateResponse),
    Never,
}

type Answering =
    Pin<Box<dyn Future<Output = Result<Response<IstioCertificateResponse>, Status>> + Send>>;

impl tonic::server::UnaryService<IstioCertificateRequest> for TestCa {
    type Response = IstioCertificateResponse;
    type Future = Answering;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Answering {
        let answer = self.create(&request);
        Box::pin(async move {
            match answer? {
                Answer::Now(response) => Ok(Response::new(response)),
                Answer::Never => std::future::pending().await,
            }
        })
    }
}

/// The authority as a gRPC service.
#[derive(Clone, Debug)]
pub(super) struct CaService(TestCa);

impl NamedService for CaService {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

impl tower::Service<http::Request<tonic::body::Body>> for CaService {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let ca = self.0.clone();
        Box::pin(async move {
            let codec = ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(ca, request).await)
        })
    }
}
