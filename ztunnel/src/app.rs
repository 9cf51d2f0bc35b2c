//! The composition root: the only place that constructs the stages and ties them together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use daemon::{
    ErrorCounter, HttpPort, HttpPortError, LogFilter, LogGuard, Readiness, Reply, Routes,
    SignalError, StopSignals, log_reply, metrics_reply,
};
use enrol::redirection::{Choice, CniAgent};
use http::StatusCode;
use local_config::Defaults;
use prometheus_client::registry::Registry;
use svid::{CaClient, DevCa, DevCaError, Issuer, SvidFolder, SvidStore};
use tls::{TrustSettings, TrustStore};
use tokio::task::JoinSet;

use crate::capture::{
    AdoptAllError, CaptureConfig, CaptureError, Capturing, ExternalConfig, HostError, HostView,
    Incumbent, Prepared,
};
use crate::config::{Authority, Config, ControlPlaneError, Enrolment, MeshSource};
pub use crate::control::ThreadError;
use crate::control::{
    AdminHandler, ConfigDump, Dispatch, PodSet, Threads, register_enrolment, register_gauges,
};
use crate::discovery::{ControlPlaneSource, LocalFile, MeshError, MeshSettings, Source};
use crate::enrolment::{self, EnrolmentError};
use crate::flow::{Shared, Stop};
use crate::mesh::MeshView;
use crate::telemetry::Telemetry;

/// Threads of the control runtime. Its work is small; two, so that parsing never delays the CLI.
const CONTROL_THREADS: usize = 2;
/// How long enrolments under way may take to end when the agent stops.
const CAPTURE_STOP: Duration = Duration::from_secs(10);

/// Why the agent could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state of the mesh.
    #[error("loading the mesh state")]
    Mesh(#[from] MeshError),
    /// The development CA.
    #[error("opening the development CA")]
    Authority(#[from] DevCaError),
    /// The control plane.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// Capture.
    #[error("starting capture")]
    Capture(#[from] CaptureError),
    /// Pods of an earlier agent.
    #[error("adopting the pods of an earlier agent")]
    Adopt(#[from] AdoptAllError),
    /// The host, seen from a pod.
    #[error("seeing the host from a pod")]
    Host(#[from] HostError),
    /// Enrolment on Kubernetes.
    #[error("starting enrolment on Kubernetes")]
    Enrolment(#[from] EnrolmentError),
    /// A part of it ended while it was needed.
    #[error("enrolment on Kubernetes does not work any more")]
    EnrolmentEnded,
    /// The data plane.
    #[error(transparent)]
    Threads(#[from] ThreadError),
    /// A port.
    #[error(transparent)]
    Port(#[from] HttpPortError),
    /// The admin socket.
    #[error("opening the admin socket")]
    Admin(#[from] admin::BindError),
    /// How this agent describes itself to the control plane.
    #[error(transparent)]
    Node(#[from] xds_client::NodeError),
    /// Signals.
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// The control runtime, or what belongs to the process.
    #[error("{operation}")]
    Process {
        /// What failed.
        operation: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl AppError {
    /// Whether the operator has to mend the configuration, or a file it names.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Mesh(_) | Self::Node(_))
    }
}

/// How an agent ended that has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Another agent has its place, and it has served what it had.
    Replaced,
}

/// Runs the agent until it is told to stop, or another one has its place.
pub fn run(config: Config, log: &LogGuard) -> Result<End, AppError> {
    let started = Instant::now();
    let process = |operation| move |source| AppError::Process { operation, source };
    daemon::raise_descriptor_limit();
    // Before anything is touched: a wrong file must leave no trace.
    let settings = MeshSettings {
        policies: config.policies(),
        defaults: Defaults {
            trust_domain: config.trust_domain.clone(),
            cluster: config.cluster_id.clone(),
        },
    };
    let (mesh, driver) = source(&config, settings)?;
    let program = std::env::current_exe().map_err(process("finding this program"))?;
    let host = host_view(&config);
    if let Some(host) = &host {
        // Before the runtime has threads: each has a namespace of its own.
        host.enter_cgroup_namespace()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(process("starting the control runtime"))?;
    let config = Arc::new(config);
    let start =
        Start { program, host, dropped_lines: log.dropped_lines(), filter: log.filter(), started };
    runtime.block_on(run_on(config, mesh, driver, start))
}

/// What is known before the runtime runs.
struct Start {
    program: PathBuf,
    host: Option<HostView>,
    dropped_lines: ErrorCounter,
    filter: LogFilter,
    started: Instant,
}

/// The host's mounts, where the agent is in a pod.
fn host_view(config: &Config) -> Option<HostView> {
    match &config.enrolment {
        Enrolment::Local => None,
        Enrolment::Kubernetes(settings) => {
            Some(HostView::new(settings.host_proc.clone(), settings.host_cgroup.clone()))
        }
    }
}

async fn run_on(
    config: Arc<Config>,
    mesh: Source,
    driver: Option<xds_client::Driver>,
    start: Start,
) -> Result<End, AppError> {
    let Start { program, host, dropped_lines, filter, started } = start;
    let mut signals = StopSignals::install()?;
    // First, because sockets keep the cgroup they were made in, and this moves the process.
    let candidate = Prepared::choose(
        config.redirection,
        capture_config(&config, program, host.clone()),
        external_config(&config),
        cni_agent(&config),
    )?;
    let config = match candidate.mark() {
        None => config,
        mark => Arc::new(Config { proxy_mark: mark, ..Config::clone(&config) }),
    };
    let (trust, svids) = certificates(&config)?;

    // From here on another agent may have given its place, and it does not come back.
    let (capture, events) = tokio::select! {
        started = candidate.start() => started?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped while waiting");
            return Ok(End::Stopped);
        }
    };
    say_mode(capture.choice());
    let mut registry = Registry::default();
    let telemetry = Arc::new(Telemetry::new(&mut registry));
    register_gauges(&mut registry, &capture, &mesh, &svids, dropped_lines);
    let enrolment = Arc::new(OnceLock::new());
    if host.is_some() {
        register_enrolment(&mut registry, &enrolment);
    }
    let readiness = Readiness::default();
    let adopting = readiness.wait_for("pods of an earlier agent");

    let stop = Stop::default();
    let pods = PodSet::new();
    let shared = Shared {
        config: config.clone(),
        telemetry: telemetry.clone(),
        mesh: mesh.subscribe(),
        pods: pods.subscribe(),
        trust: trust.view(),
        asking: mesh.asking(),
        stop: stop.clone(),
    };
    let threads = Arc::new(Threads::start(config.worker_threads, &shared)?);
    let dispatch = Dispatch {
        events,
        pods: pods.clone(),
        svids: svids.clone(),
        mesh: MeshView::new(mesh.subscribe()),
        threads: threads.clone(),
        asking: mesh.asking(),
        network: config.network.clone(),
    };
    let mut tasks = JoinSet::new();
    let dispatching = tokio::spawn(dispatch.run());
    match mesh.clone() {
        Source::File(file) => drop(tasks.spawn(file.watch())),
        Source::ControlPlane(plane) => {
            if let Some(driver) = driver {
                tasks.spawn(plane.run(driver));
            }
        }
    }
    tasks.spawn(trust.clone().watch());

    let ready = {
        let readiness = readiness.clone();
        move |path: &str| ready_reply(path, &readiness)
    };
    let stats = move |path: &str| {
        matches!(path, "/metrics" | "/stats/prometheus").then(|| metrics_reply(&registry))
    };
    // What a second agent of this node may want for itself.
    let mut fronts = JoinSet::new();
    fronts.spawn(port(config.readiness_address, "readiness", Arc::new(ready)).await?.serve());
    fronts.spawn(port(config.stats_address, "metrics", Arc::new(stats)).await?.serve());
    let dump = ConfigDump {
        mesh: mesh.subscribe(),
        config: config.clone(),
        svids: svids.clone(),
        pods: pods.clone(),
        telemetry: telemetry.clone(),
    };
    let dump = move |path: &str| (path == "/config_dump").then(|| dump_reply(&dump));
    let logging =
        move |path: &str, query: &str| (path == "/logging").then(|| log_reply(&filter, query));
    let dumps = port(config.dump_address, "the configuration dump", Arc::new(dump)).await?;
    fronts.spawn(dumps.with_changes(Arc::new(logging)).serve());
    let handler = AdminHandler {
        config: config.clone(),
        capture: capture.clone(),
        mesh,
        svids: svids.clone(),
        trust,
        pods: pods.clone(),
        telemetry,
        stop: stop.clone(),
        started,
        enrolment: enrolment.clone(),
    };
    let admin = admin::Server::bind(&config.admin_socket, ROOT)?;
    let admin_stop = stop.clone();
    fronts.spawn(admin.serve(Arc::new(handler), async move { admin_stop.cut().await }));

    // Before pods are waited for: the product may be uninstalled in that time too.
    let uninstall = match (&config.enrolment, &capture) {
        (Enrolment::Kubernetes(settings), Capturing::Hooks(capture)) => {
            Some(enrolment::uninstall(&config, settings, capture)?)
        }
        (Enrolment::Kubernetes(_), Capturing::Rules(_)) | (Enrolment::Local, _) => None,
    };
    // Whoever lets go of a certificate from then on is no pod that leaves the mesh.
    tokio::select! {
        restored = capture.restore() => restored.inspect_err(|_| svids.stop())?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped while waiting for pods");
            if let Some(uninstall) = uninstall {
                svids.stop();
                uninstall.run_if_wanted(config.drain / 2).await;
            }
            return Ok(End::Stopped);
        }
    }
    // Who says which pods are captured: nobody, once this agent stops.
    let mut enrolling = None;
    if let (Enrolment::Kubernetes(settings), Some(host), Some(uninstall)) =
        (&config.enrolment, host, uninstall)
    {
        let (capture, svids) = (uninstall.capture(), svids.clone());
        let readiness = readiness.clone();
        let config = &config;
        let parts =
            enrolment::Parts { config, settings, host, capture, svids, uninstall, readiness };
        let started = enrolment::start(parts)?;
        // Set once, here.
        let _ = enrolment.set(started.view());
        enrolling = Some(started);
    }
    drop(adopting);
    tracing::info!(node = %config.node_name, threads = config.worker_threads, "ready");

    // The set of pods is there to the end: threads watch it.
    let plane = DataPlane { stop, threads, dispatching };
    let end = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, drain = ?config.drain, "stopping");
            svids.stop();
            if let Some(enrolling) = enrolling {
                enrolling.stop().await.run_if_wanted(config.drain / 2).await;
            }
            plane.drain(&config, &capture, &mut signals).await;
            End::Stopped
        }
        // What is captured stays so; the next start finds it.
        () = broke(&mut enrolling) => return Err(AppError::EnrolmentEnded),
        () = capture.successor_waits() => {
            tracing::info!("giving the pods to the next agent");
            // Their certificates are the next one's too.
            svids.stop();
            if let Some(enrolling) = enrolling {
                drop(enrolling.stop().await);
            }
            fronts.shutdown().await;
            let told = plane.retire(&config, &capture, &mut signals).await;
            if !told && matches!(config.enrolment, Enrolment::Kubernetes(_)) {
                // A kubelet starts a container again whatever its exit code says, and it would take the
                // pods back.
                tracing::info!("replaced; waiting to be stopped");
                signals.next().await;
            }
            End::Replaced
        }
    };
    tracing::info!("stopped");
    Ok(end)
}

/// How this node captures, why so, and what that does not do.
fn say_mode(choice: Choice) {
    let Choice { mode, reason } = choice;
    tracing::info!(mode = mode.as_str(), code = reason.code(), %reason, "mode of capture");
    for limit in mode.limits() {
        tracing::warn!(mode = mode.as_str(), limit, "a limit of this mode of capture");
    }
}

/// Resolves when enrolment broke, if there is any.
async fn broke(enrolling: &mut Option<enrolment::Enrolling>) {
    match enrolling {
        Some(enrolling) => enrolling.broke().await,
        None => std::future::pending().await,
    }
}

/// The user that may use the admin socket.
const ROOT: u32 = 0;

/// What carries connections, and ends in order.
struct DataPlane {
    stop: Stop,
    threads: Arc<Threads>,
    dispatching: tokio::task::JoinHandle<()>,
}

impl DataPlane {
    /// Stops accepting, lets open connections end for the drain time, then cuts them. A second signal
    /// cuts them at once.
    async fn drain(self, config: &Config, capture: &Capturing, signals: &mut StopSignals) {
        self.stop.announce();
        // The pods' hooks stay: new connections are refused, not let past, until an agent is back.
        capture.refuse_new().await;
        self.stop.begin_drain();
        // What this takes counts against the drain time.
        let patience = CAPTURE_STOP.min(config.drain);
        if tokio::time::timeout(patience, capture.stop()).await.is_err() {
            tracing::warn!("work on a pod did not end in time");
        }
        let Some((stop, mut ended)) = self.end().await else { return };
        tokio::select! {
            _ = &mut ended => return,
            () = tokio::time::sleep(stop.remaining(config.drain)) => tracing::info!("the drain time is over"),
            signal = signals.next() => tracing::info!(signal, "cutting open connections"),
        }
        stop.cut_all();
        // Bounded: each thread gives its connections a second to be reported.
        let _ = ended.await;
    }

    /// Gives the pods away and serves the connections that are there to their end. A signal begins the
    /// drain time, a second one cuts them at once. Tells whether a signal came.
    async fn retire(self, config: &Config, capture: &Capturing, signals: &mut StopSignals) -> bool {
        if let Err(error) = capture.hand_over().await {
            // The pods may be another's already: nothing to go back to.
            tracing::error!(error = %model::causes(&error), "giving the pods away failed");
        }
        self.stop.begin_drain();
        let Some((stop, mut ended)) = self.end().await else { return false };
        tokio::select! {
            _ = &mut ended => return false,
            signal = signals.next() => tracing::info!(signal, drain = ?config.drain, "stopping"),
        }
        tokio::select! {
            _ = &mut ended => return true,
            () = tokio::time::sleep(config.drain) => tracing::info!("the drain time is over"),
            signal = signals.next() => tracing::info!(signal, "cutting open connections"),
        }
        stop.cut_all();
        let _ = ended.await;
        true
    }

    /// Lets the threads end by themselves; resolves to that end. `None`: they were cut.
    async fn end(self) -> Option<(Stop, tokio::task::JoinHandle<()>)> {
        let Self { stop, threads, dispatching } = self;
        dispatching.abort();
        // Its share of the threads goes with it.
        let _ = dispatching.await;
        let Some(threads) = Arc::into_inner(threads) else {
            stop.cut_all();
            return None;
        };
        Some((stop, tokio::task::spawn_blocking(move || threads.join())))
    }
}

/// Opens the source of the mesh's state. A file is read, a control plane not yet connected to.
fn source(
    config: &Config,
    settings: MeshSettings,
) -> Result<(Source, Option<xds_client::Driver>), AppError> {
    match &config.mesh {
        MeshSource::File(path) => Ok((Source::File(LocalFile::open(path, settings)?), None)),
        MeshSource::ControlPlane { plane, on_demand } => {
            let (client, driver) = xds_client::new(xds_client::Settings {
                control_plane: plane.channel(&config.cluster_id, config.trust.compliance)?,
                client: xds::ClientSettings {
                    node: xds_client::node(&node_facts(config))?,
                    mode: if *on_demand { xds::Mode::OnDemand } else { xds::Mode::Wildcard },
                    policies: settings.policies,
                },
                stored: Some(xds_client::StoredSettings::at(config.state_dir.join("mesh"))),
            });
            Ok((Source::ControlPlane(ControlPlaneSource::new(client, *on_demand)), Some(driver)))
        }
    }
}

/// Who this agent is to the control plane.
fn node_facts(config: &Config) -> xds_client::NodeFacts {
    xds_client::NodeFacts {
        instance_ip: Some(config.agent.address),
        pod_name: config.agent.name.clone(),
        pod_namespace: config.agent.namespace.clone(),
        node_name: config.node_name.clone(),
        metadata: BTreeMap::new(),
        environment: config.agent.metadata.clone(),
    }
}

/// Whom peers are believed by, and the certificates of this node's pods.
fn certificates(config: &Config) -> Result<(TrustStore, SvidStore), AppError> {
    let trust = TrustStore::open(TrustSettings {
        domain: config.trust_domain.clone(),
        aliases: config.trust.aliases.clone(),
        compliance: config.trust.compliance,
        crl: config.trust.crl.clone(),
        bundles: config.trust.bundles.clone(),
        keep: Some(config.run_dir.join("trust")),
    });
    let authority: Arc<dyn Issuer> = match &config.authority {
        Authority::Development(folder) => Arc::new(DevCa::open(folder, &config.trust_domain)?),
        Authority::ControlPlane(settings) => {
            Arc::new(CaClient::new(settings.channel(&config.cluster_id, config.trust.compliance)?))
        }
    };
    // Without it an agent that restarts asks the authority again; with it on a disk, keys would be
    // found there years later.
    let folder = SvidFolder::open(&config.run_dir.join("svids"))
        .inspect_err(|error| {
            let error = model::causes(error);
            tracing::warn!(%error, "certificates are not kept for an agent that restarts");
        })
        .ok();
    let svids = SvidStore::new(authority, config.secret_ttl, trust.clone(), folder);
    Ok((trust, svids))
}

fn capture_config(config: &Config, program: PathBuf, host: Option<HostView>) -> CaptureConfig {
    CaptureConfig {
        node_name: config.node_name.clone(),
        run_dir: config.run_dir.clone(),
        pin_dir: config.bpf_pin_dir.clone(),
        cgroup: config.cgroup.clone(),
        kubelet_cgroup: config.kubelet_cgroup.clone(),
        cgroup_root: config.cgroup_root.clone(),
        host,
        bypass: config.bypass.clone(),
        threads: u16::try_from(config.worker_threads.get()).unwrap_or(ebpf_abi::MAX_THREADS),
        program,
        incumbent: if config.take_over { Incumbent::Replaced } else { Incumbent::Stays },
    }
}

/// Whether a CNI agent may say which pods there are: not where Kubernetes does.
fn cni_agent(config: &Config) -> CniAgent {
    match config.enrolment {
        Enrolment::Kubernetes(_) => CniAgent::Excluded,
        Enrolment::Local if config.zds_socket.exists() => CniAgent::Present,
        Enrolment::Local => CniAgent::Absent,
    }
}

fn external_config(config: &Config) -> ExternalConfig {
    ExternalConfig {
        socket: config.zds_socket.clone(),
        mark: config.external_mark,
        threads: u16::try_from(config.worker_threads.get()).unwrap_or(ebpf_abi::MAX_THREADS),
    }
}

async fn port(
    address: SocketAddr,
    purpose: &'static str,
    routes: Arc<Routes>,
) -> Result<HttpPort, HttpPortError> {
    match HttpPort::bind(address, purpose, routes.clone()).await {
        // A kernel without IPv6 still has metrics.
        Err(_) if address.ip().is_unspecified() && address.is_ipv6() => {
            let v4 = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port());
            HttpPort::bind(v4, purpose, routes).await
        }
        bound => bound,
    }
}

fn ready_reply(path: &str, readiness: &Readiness) -> Option<Reply> {
    if path != "/healthz/ready" {
        return None;
    }
    let pending = readiness.pending();
    Some(if pending.is_empty() {
        Reply::text(StatusCode::OK, "ready\n")
    } else {
        let text = format!("not ready, waiting for: {}\n", pending.join(", "));
        Reply::text(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

fn dump_reply(dump: &ConfigDump) -> Reply {
    // A large mesh takes a second; the other control thread goes on meanwhile.
    match tokio::task::block_in_place(|| dump.to_json()) {
        Ok(body) => Reply { status: StatusCode::OK, content_type: "application/json", body },
        Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
