//! The composition root: builds every part from the settings, runs them until a signal, stops them.
//!
//! The order of a start: the authority (without it nothing can be served), then the sources and the
//! translation, then, once everything was read, the ports. The order of a stop: the ports move
//! their clients away, then everything else ends.

mod admin;
mod authority;
mod callers;
mod cluster;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::{HttpPort, HttpPortError, Readiness, Reply, SignalError, StatusCode, StopSignals};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::ca::pods::Pods;
use crate::ca::{Authorizer, CaMetrics, CaParts, CertificateAuthority, Ledger, Lifetimes};
use crate::config::{Config, Source};
use crate::serve::{self, Clients, Publisher, ServeSettings, Serving};
use crate::status::StatusWriter;
use crate::translation::{self, Knowledge, Outputs};
use crate::watch::{self as sources, Problems};

use self::admin::AdminHandler;
use self::authority::TrustFile;

/// How long everything may take to end once the ports are closed.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How often what can only be counted by looking is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Why the control plane does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The runtime.
    #[error("starting threads")]
    Threads(#[source] io::Error),
    /// Signals.
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// The folder of manifests.
    #[error(transparent)]
    Folder(#[from] sources::folder::FolderError),
    /// The API server.
    #[error("the API server cannot be used: {0}")]
    Kubernetes(String),
    /// The authority.
    #[error("the certificate authority cannot be used")]
    Authority(#[from] crate::ca::RotationError),
    /// A place for what must outlive a restart.
    #[error("the control plane's folder cannot be used")]
    Store(#[from] crate::ca::store::StoreError),
    /// Roots of the Kubernetes signer.
    #[error("the signer's roots in {}", path.display())]
    SignerRoots {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Our own certificate.
    #[error("our own certificate")]
    Serving(#[from] crate::ca::serving::ServingError),
    /// Names of our own certificate.
    #[error("--serving-name: {0}")]
    Names(String),
    /// What was signed cannot be served with.
    #[error("our own certificate cannot be used")]
    Identity(#[from] tls::ServerIdentityError),
    /// A port.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The port of metrics.
    #[error(transparent)]
    HttpPort(#[from] HttpPortError),
    /// The admin socket.
    #[error(transparent)]
    AdminSocket(#[from] ::admin::BindError),
    /// The bundle's file.
    #[error("writing {}", path.display())]
    TrustFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part that must not end, ended.
    #[error("{0} ended")]
    Ended(&'static str),
}

impl AppError {
    /// Whether a setting, or a file it names, is wrong.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Folder(_)
                | Self::Authority(_)
                | Self::Store(_)
                | Self::SignerRoots { .. }
                | Self::Names(_)
        )
    }
}

/// Runs until a signal.
pub fn run(config: Config) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("control-plane")
        .enable_all()
        .build()
        .map_err(AppError::Threads)?;
    let result = runtime.block_on(serve_until_stopped(config));
    runtime.shutdown_timeout(END_TIMEOUT);
    result
}

async fn serve_until_stopped(config: Config) -> Result<(), AppError> {
    daemon::raise_descriptor_limit();
    let mut signals = StopSignals::install()?;
    let stop = CancellationToken::new();
    let mut parts = JoinSet::new();
    let started = tokio::select! {
        started = start(config, stop.clone(), &mut parts) => started?,
        signal = signals.next() => {
            tracing::info!(signal, "stopping before the start was done");
            return Ok(());
        }
    };
    tracing::info!("serving");
    let result = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            Ok(())
        }
        Some(ended) = parts.join_next() => Err(AppError::Ended(ended.unwrap_or("a part that failed"))),
    };
    // Ports first: their clients move to another replica while everything behind still works, and
    // no new one is sent here.
    let _stopping = started.readiness.wait_for("its end");
    started.ports.cancel();
    let _ = started.served.await;
    stop.cancel();
    let ended = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(END_TIMEOUT, ended).await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    result
}

/// What a stop needs.
struct Started {
    readiness: Readiness,
    ports: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn start(
    config: Config,
    stop: CancellationToken,
    parts: &mut JoinSet<&'static str>,
) -> Result<Started, AppError> {
    for name in &config.unread {
        tracing::warn!(setting = name, "this setting of the mesh is not read here");
    }
    let readiness = Readiness::default();
    let reading = readiness.wait_for("sources");
    let registry = Arc::new(Mutex::new(Registry::default()));
    let http = HttpPort::bind(
        config.arguments.metrics_listen,
        "metrics",
        http_routes(readiness.clone(), registry.clone()),
    )
    .await?;
    spawn(parts, &stop, "the port of metrics", http.serve());

    let client = match &config.source {
        Source::Kubernetes(kubeconfig) => Some(cluster::client(kubeconfig.as_deref()).await?),
        Source::Manifests(_) => None,
    };
    let ledger = Arc::new(Ledger::default());
    let chosen = authority::choose(&config, client.as_ref(), ledger.clone()).await?;
    chosen.keep(parts, &stop);
    let problems = Problems::default();
    let (serving, tls) =
        authority::serving(&config, &chosen, problems.clone(), parts, &stop).await?;
    TrustFile::in_folder(&config.arguments.state_dir).follow(serving, parts, &stop)?;

    let pods = match &config.source {
        Source::Manifests(_) => Pods::of_manifests(),
        Source::Kubernetes(_) => Pods::default(),
    };
    let publisher = Arc::new(Publisher::default());
    let (knowledge, statuses) = (Knowledge::new(config.settings.clone()), StatusWriter::default());
    let outputs =
        Outputs { publisher: publisher.clone(), statuses: statuses.clone(), pods: pods.clone() };
    let synced = read(&config, client.as_ref(), &knowledge, outputs, &problems, parts, &stop)?;

    let callers = Arc::new(callers::of(&config, client.as_ref(), &pods));
    let ca_metrics = CaMetrics::default();
    ca_metrics.register(&mut registry.lock());
    let lifetimes =
        Lifetimes { default: config.arguments.default_ttl, max: config.arguments.max_ttl };
    let service = CertificateAuthority::new(CaParts {
        callers: callers.clone(),
        authorizer: Authorizer::new(config.settings.trust_domain.clone(), pods),
        signer: chosen.signer(),
        ledger,
        metrics: ca_metrics.clone(),
        lifetimes,
    });
    let clients = Clients::default();
    let observed = Observed {
        knowledge: knowledge.clone(),
        publisher: publisher.clone(),
        problems: problems.clone(),
        statuses: client.is_some().then(|| statuses.clone()),
    };
    let leadership = match &client {
        Some(client) => {
            let what = cluster::WriteBack {
                statuses,
                bundle: chosen.bundle_pem(),
                crl: chosen.crl(),
                problems: problems.clone(),
                tls: tls.clone(),
            };
            Some(cluster::write_back(&config, client, what, parts, &stop).await?)
        }
        None => None,
    };
    let handler = AdminHandler {
        started: std::time::Instant::now(),
        source: config.source.to_string(),
        trust_domain: config.settings.trust_domain.to_string(),
        root_namespace: config.settings.root_namespace.clone(),
        knowledge: knowledge.clone(),
        publisher: publisher.clone(),
        clients: clients.clone(),
        problems,
        synced: synced.clone(),
        leadership,
        authority: chosen.clone(),
    };
    let admin =
        ::admin::Server::bind(&config.arguments.admin_socket, nix::unistd::geteuid().as_raw())?;
    let stopped = stop.clone().cancelled_owned();
    parts.spawn(async move {
        admin.serve(Arc::new(handler), stopped).await;
        "the admin socket"
    });
    observe(&registry, observed, parts, &stop);
    chosen.show(ca_metrics, parts, &stop);

    // Proxies take the first response for the whole mesh.
    let mut ready = synced.clone();
    if ready.wait_for(|synced| *synced).await.is_err() {
        return Err(AppError::Ended("the translation"));
    }
    let listeners = listen(&config.arguments.listen).await?;
    let ports = CancellationToken::new();
    let metrics = serve::Metrics::register(&mut registry.lock());
    let served = tokio::spawn(serve::serve(
        Serving {
            listeners,
            tls,
            authenticator: callers,
            catalog: publisher.view(),
            services: Routes::new(service),
            clients,
            metrics,
            settings: ServeSettings::default(),
        },
        ports.clone(),
    ));
    drop(reading);
    Ok(Started { readiness, ports, served })
}

/// Starts the sources and the translation. What becomes true once everything was read.
fn read(
    config: &Config,
    client: Option<&kube::Client>,
    knowledge: &Knowledge,
    outputs: Outputs,
    problems: &Problems,
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> Result<watch::Receiver<bool>, AppError> {
    let (events, received) = sources::channel();
    let (problems, shutdown) = (problems.clone(), stop.clone());
    let awaited = match (&config.source, client) {
        (Source::Manifests(folder), _) => {
            let folder = sources::folder::Folder::open(folder, problems)?;
            parts.spawn(async move {
                // It ends by the stop, or with the translation, which is reported itself.
                let _ = folder.follow(events, shutdown).await;
                "the folder of manifests"
            });
            [sources::Source::Folder].into()
        }
        (Source::Kubernetes(_), Some(client)) => {
            let client = client.clone();
            parts.spawn(async move {
                sources::kubernetes::run(client, events, problems, shutdown).await;
                "the watches of the API server"
            });
            ::cluster::Kind::ALL.map(sources::Source::Kubernetes).into()
        }
        (Source::Kubernetes(_), None) => {
            return Err(AppError::Kubernetes("there is no client".to_owned()));
        }
    };
    let (sender, synced) = watch::channel(false);
    let knowledge = knowledge.clone();
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("translation".to_owned())
        .spawn(move || {
            translation::run(&knowledge, received, awaited, &outputs, &sender);
            // Nobody waits during a stop.
            let _ = ended.send(());
        })
        .map_err(AppError::Threads)?;
    parts.spawn(async move {
        // An error is a panic of that thread, which ends it too.
        let _ = end.await;
        "the translation"
    });
    Ok(synced)
}

async fn listen(addresses: &[std::net::SocketAddr]) -> Result<Vec<TcpListener>, AppError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|source| AppError::Listen { address, source })?);
    }
    Ok(listeners)
}

/// Runs a part that never ends by itself until the stop.
fn spawn(
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    parts.spawn(async move {
        // Every part says that it is cancel safe.
        let _: Option<()> = stop.run_until_cancelled(part).await;
        name
    });
}

fn http_routes(readiness: Readiness, registry: Arc<Mutex<Registry>>) -> Arc<daemon::Routes> {
    Arc::new(move |path| match path {
        "/metrics" => Some(daemon::metrics_reply(&registry.lock())),
        "/healthz/ready" | "/ready" => {
            let pending = readiness.pending();
            Some(if pending.is_empty() {
                Reply::text(StatusCode::OK, "ready\n")
            } else {
                let text = format!("waiting for: {}\n", pending.join(", "));
                Reply::text(StatusCode::SERVICE_UNAVAILABLE, text)
            })
        }
        _ => None,
    })
}

/// What is looked at to be counted.
struct Observed {
    knowledge: Knowledge,
    publisher: Arc<Publisher>,
    problems: Problems,
    /// Where statuses are written at all.
    statuses: Option<StatusWriter>,
}

/// Gauges of what can only be counted by looking.
fn observe(
    registry: &Mutex<Registry>,
    observed: Observed,
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    use prometheus_client::metrics::gauge::Gauge;
    let gauge = |name: &str, help: &str| {
        let gauge = Gauge::<i64>::default();
        registry.lock().register(name, help, gauge.clone());
        gauge
    };
    let objects = gauge("warren_cp_objects", "Objects read");
    let addresses = gauge("warren_cp_addresses", "Workloads and services sent");
    let policies = gauge("warren_cp_policies", "Policies sent");
    let unreadable = gauge("warren_cp_unreadable_seen", "Mistakes found while reading, so far");
    let written = gauge("warren_cp_statuses_written", "Statuses changed by this replica, so far");
    let given_up = gauge("warren_cp_statuses_given_up", "Statuses that could not be written");
    let waiting = gauge("warren_cp_statuses_waiting", "Statuses to be written or looked at");
    let busy: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
    let help = "Seconds spent translating";
    registry.lock().register("warren_cp_translation_seconds", help, busy.clone());
    let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let wide = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    spawn(parts, stop, "the gauges", async move {
        loop {
            let catalog = observed.publisher.catalog();
            let counts = observed.knowledge.counts();
            objects.set(signed(counts.objects));
            addresses.set(signed(catalog.len(xds::server::Collection::Addresses)));
            policies.set(signed(catalog.len(xds::server::Collection::Policies)));
            busy.set(counts.busy.as_secs_f64());
            unreadable.set(wide(observed.problems.seen()));
            if let Some(statuses) = &observed.statuses {
                let counts = statuses.counts();
                written.set(wide(counts.written));
                given_up.set(wide(counts.given_up));
                waiting.set(signed(statuses.waiting()));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    });
}
