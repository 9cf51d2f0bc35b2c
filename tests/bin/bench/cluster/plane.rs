//! The control plane within this process: the parts that the binary puts together, with a caller
//! that is believed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use authority::{Authority, AuthorityPem, KeyAlgorithm, Names, OwnKey, make_root};
use cluster::Kind;
use control_plane::ca::pods::Pods;
use control_plane::caller::{Authenticate, Authenticating, Caller, Credentials, Proof, Role};
use control_plane::serve::{Clients, Metrics, Publisher, ServeSettings, Serving, serve};
use control_plane::status::StatusWriter;
use control_plane::translation::{self, Knowledge, Outputs};
use control_plane::watch::{self as sources, Problems, Source};
use model::{SpiffeId, TrustDomain};
use prometheus_client::registry::Registry;
use tls::{ServerIdentity, ServerTls, Trust, TrustView};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use translate::Settings;

use super::api::{self, Changes};
use super::clients::Target;

const NAME: &str = "control-plane.test";
/// Reading a hundred thousand pods.
const SYNC_TIMEOUT: Duration = Duration::from_mins(5);

pub(crate) struct Plane {
    pub(crate) knowledge: Knowledge,
    pub(crate) changes: Changes,
    synced: watch::Receiver<bool>,
    port: u16,
    roots: String,
    stop: CancellationToken,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Everybody is a node's agent.
struct Believer(SpiffeId);

impl Authenticate for Believer {
    fn authenticate<'a>(&'a self, _credentials: &'a Credentials) -> Authenticating<'a> {
        let caller = Caller {
            identity: self.0.clone(),
            node: None,
            pod: None,
            proof: Proof::ServiceAccountToken,
            role: Role::NodeProxy,
        };
        Box::pin(async move { Ok(caller) })
    }
}

impl Plane {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let domain = TrustDomain::default();
        let (client, changes) = api::client();
        let stop = CancellationToken::new();
        let publisher = Arc::new(Publisher::default());
        let knowledge = Knowledge::new(Settings::new(domain.clone()));
        let outputs = Outputs {
            publisher: publisher.clone(),
            statuses: StatusWriter::default(),
            pods: Pods::default(),
        };
        let (events, received) = sources::channel();
        tokio::spawn(sources::kubernetes::run(client, events, Problems::default(), stop.clone()));
        let awaited: BTreeSet<Source> = Kind::ALL.map(Source::Kubernetes).into();
        let (sender, synced) = watch::channel(false);
        let known = knowledge.clone();
        std::thread::Builder::new()
            .name("translation".to_owned())
            .spawn(move || translation::run(&known, received, awaited, &outputs, &sender))?;

        let identity = SpiffeId::new(&domain, "istio-system", "control-plane")?;
        let (authority, roots) = root(&domain)?;
        let names = Names::server(identity.clone(), &[NAME])?;
        let own = OwnKey::new(&names)?;
        let request = authority::CertificateRequest::from_pem(&own.request)?;
        let signed =
            authority.sign(&request, &names, Duration::from_hours(1), SystemTime::now())?;
        let trust = TrustView::fixed(Trust::of(authority.bundle().clone()));
        let identity_tls = ServerIdentity::new(vec![signed.leaf], own.key, &trust)?;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let port = listener.local_addr()?.port();
        let serving = Serving {
            listeners: vec![listener],
            tls: ServerTls::fixed(identity_tls),
            authenticator: Arc::new(Believer(identity)),
            catalog: publisher.view(),
            services: Routes::default(),
            clients: Clients::default(),
            metrics: Metrics::register(&mut Registry::default()),
            settings: ServeSettings::default(),
        };
        tokio::spawn(serve(serving, stop.clone()));
        Ok(Self { knowledge, changes, synced, port, roots, stop })
    }

    pub(crate) async fn synced(&self) -> anyhow::Result<()> {
        let mut synced = self.synced.clone();
        let done = tokio::time::timeout(SYNC_TIMEOUT, synced.wait_for(|synced| *synced)).await;
        done.context("not synced in time")?.context("the translation ended").map(drop)
    }

    pub(crate) fn target(&self) -> Target {
        Target { port: self.port, roots: self.roots.clone(), name: NAME }
    }

    /// Waits until no event has been taken for a while.
    pub(crate) async fn settled(&self) {
        let mut before = u64::MAX;
        loop {
            let now = self.knowledge.counts().events;
            if now == before {
                return;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

fn root(domain: &TrustDomain) -> anyhow::Result<(Authority, String)> {
    let now = SystemTime::now();
    let made = make_root(domain, KeyAlgorithm::P256, now)?;
    let pem = AuthorityPem {
        certificate: &made.certificate,
        key: &made.key,
        chain: "",
        roots: &made.certificate,
    };
    let authority = Authority::from_pem(domain, &pem, now)?;
    Ok((authority, made.certificate))
}

/// An authority, a request and whom it is for.
pub(crate) fn signing_material() -> anyhow::Result<(Authority, String, Names)> {
    let domain = TrustDomain::default();
    let (authority, _) = root(&domain)?;
    let names = Names::of(SpiffeId::new(&domain, "shop", "cart")?);
    let request = OwnKey::new(&names)?.request;
    Ok((authority, request, names))
}
