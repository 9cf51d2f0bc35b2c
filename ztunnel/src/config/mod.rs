//! Configuration: read once from the environment into a value that cannot be wrong.
//!
//! `schema.rs` is the table of settings, with defaults and help; `docs/configuration.md` is
//! generated from it. Names are those of Istio's ztunnel where it has one, `WARREN_*` otherwise.

mod control_plane;
mod environment;
mod kubernetes;
mod schema;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use authz::UnenforceableDeny;
use daemon::LogFormat;
use enrol::redirection::Wish;
use ipnet::IpNet;
use model::{Network, TrustDomain};
use names::ClusterDomain;
use netns::{Keepalive, TcpTuning};
use resolve::{RequireWaypoint, SameNode, TunnelAddress};
use tls::Compliance;

pub use control_plane::{ControlPlaneError, ControlPlaneSettings, TokenSetting};
pub use environment::Environment;
pub use kubernetes::{CniPlaces, Enrolment, KubernetesSettings};
pub use schema::{SETTINGS, Setting, markdown, setting_default};
use values::Reader;
pub use values::{ConfigError, ConfigErrors};

/// Where workloads, services and policies come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshSource {
    /// A file in the shape of Istio ztunnel's `LocalConfig`.
    File(PathBuf),
    /// Delta xDS.
    ControlPlane {
        /// Where.
        plane: Box<ControlPlaneSettings>,
        /// Whether only what connections need is asked for.
        on_demand: bool,
    },
}

impl MeshSource {
    /// Whether only a part of the mesh is known: names are not, until something was dialled.
    #[must_use]
    pub fn is_on_demand(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::ControlPlane { on_demand, .. } => *on_demand,
        }
    }
}

/// Who this agent is to a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// Its pod's name.
    pub name: String,
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod's address.
    pub address: IpAddr,
    /// What else is told: every variable that begins with `ISTIO_META`.
    pub metadata: Vec<(String, String)>,
}

/// Who signs certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The embedded development CA, with its folder.
    Development(PathBuf),
    /// `istio.v1.auth.IstioCertificateService`.
    ControlPlane(Box<ControlPlaneSettings>),
}

/// TCP keepalive of proxied sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Idle time before the first probe.
    pub time: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes before the connection counts as dead.
    pub retries: u32,
    /// Whether unacknowledged data is bound by the same time (`TCP_USER_TIMEOUT`).
    pub user_timeout: bool,
}

/// HTTP/2 limits of tunnels, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Receive window of one stream.
    pub stream_window: u32,
    /// Receive window of one tunnel.
    pub connection_window: u32,
    /// Largest DATA frame accepted.
    pub frame_size: u32,
}

/// Bounds of the tunnel pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Streams in one tunnel.
    pub streams_per_tunnel: usize,
    /// An unused tunnel is closed after this.
    pub idle: Duration,
}

/// Whom to believe, and whom not any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustSources {
    /// File of revocation lists.
    pub crl: Option<PathBuf>,
    /// Folder of other trust domains' roots.
    pub bundles: Option<PathBuf>,
    /// Other names of the trust domain.
    pub aliases: Vec<TrustDomain>,
    /// Which key exchanges are allowed.
    pub compliance: Compliance,
}

/// Everything an agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Cluster, for telemetry.
    pub cluster_id: String,
    /// Trust domain of workloads that name none.
    pub trust_domain: TrustDomain,
    /// Network this node is in.
    pub network: Network,
    /// Namespace whose policies are mesh-wide.
    pub root_namespace: String,
    /// What becomes of a DENY that layer 4 cannot check.
    pub unenforceable_deny: UnenforceableDeny,
    /// Source of workloads, services and policies.
    pub mesh: MeshSource,
    /// Source of certificates.
    pub authority: Authority,
    /// Who this agent is to a control plane.
    pub agent: AgentPod,
    /// Lifetime asked for in certificates.
    pub secret_ttl: Duration,
    /// Whom peers' certificates may come from, beside the authority's roots.
    pub trust: TrustSources,
    /// Unix socket of the CLI.
    pub admin_socket: PathBuf,
    /// Folder of enrolment records.
    pub run_dir: PathBuf,
    /// Folder of the control plane's last state.
    pub state_dir: PathBuf,
    /// Folder on bpffs that holds links and maps.
    pub bpf_pin_dir: PathBuf,
    /// This agent's own leaf cgroup; `None`: below the cgroup it was started in.
    pub cgroup: Option<PathBuf>,
    /// The kubelet's cgroup, whose probes pass.
    pub kubelet_cgroup: Option<PathBuf>,
    /// The root of the unified hierarchy, as the host has it.
    pub cgroup_root: PathBuf,
    /// Who redirects pods' traffic.
    pub redirection: Wish,
    /// Socket of Istio's CNI agent.
    pub zds_socket: PathBuf,
    /// What its rules know the proxy's packets by.
    pub external_mark: u32,
    /// The mark of this proxy's packets, once the mode is chosen; none with our own hooks.
    pub proxy_mark: Option<u32>,
    /// Addresses that are not captured.
    pub bypass: Vec<IpNet>,
    /// Whether pods are enrolled with their DNS questions captured, if their enrolment does not say.
    pub dns_capture: bool,
    /// Domain of Kubernetes' services.
    pub cluster_domain: ClusterDomain,
    /// Who says which pods are captured.
    pub enrolment: Enrolment,
    /// Whether an agent that runs on the same pins is asked for its place.
    pub take_over: bool,
    /// Port of the configuration dump.
    pub dump_address: SocketAddr,
    /// Metrics port.
    pub stats_address: SocketAddr,
    /// Readiness port.
    pub readiness_address: SocketAddr,
    /// Data-plane threads.
    pub worker_threads: NonZeroUsize,
    /// How traffic between two pods of this node travels.
    pub same_node: SameNode,
    /// Whether waypoints can be gone past.
    pub require_waypoint: RequireWaypoint,
    /// Where application tunnels that take PROXY headers are.
    pub tunnel_address: TunnelAddress,
    /// How long open connections may live after a request to stop.
    pub drain: Duration,
    /// Congestion control of proxied sockets; `None`: the kernel's default.
    pub congestion: Option<String>,
    /// Keepalive; `None`: off.
    pub keepalive: Option<KeepAlive>,
    /// HTTP/2 limits.
    pub http2: Http2,
    /// Pool bounds.
    pub pool: PoolLimits,
    /// Log filter in `RUST_LOG` syntax.
    pub log_filter: String,
    /// Log layout.
    pub log_format: LogFormat,
}

impl Config {
    /// Reads every setting.
    ///
    /// All errors are reported together, each with the setting's name, its value and the cause.
    pub fn read(environment: &Environment) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(environment);
        let config = Self::read_from(&mut reader);
        reader.finish()?;
        config.ok_or_else(ConfigErrors::default)
    }

    /// What policies are compiled with. Every field is named, so that none is forgotten.
    #[must_use]
    pub fn policies(&self) -> authz::Settings {
        authz::Settings {
            root_namespace: self.root_namespace.as_str().into(),
            unenforceable_deny: self.unenforceable_deny,
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust.aliases.clone(),
        }
    }

    /// Options of every proxied socket.
    #[must_use]
    pub fn tcp_tuning(&self) -> TcpTuning {
        let keepalive = self.keepalive;
        TcpTuning {
            keepalive: keepalive.map(|k| Keepalive {
                idle: k.time,
                interval: k.interval,
                probes: k.retries,
            }),
            user_timeout: keepalive
                .filter(|k| k.user_timeout)
                .map(|k| k.time.saturating_add(k.interval.saturating_mul(k.retries))),
            congestion: self.congestion.as_deref().map(Into::into),
            mark: self.proxy_mark,
        }
    }

    fn read_from(r: &mut Reader<'_>) -> Option<Self> {
        let http2 = Http2 {
            stream_window: r.parse(&schema::HTTP2_STREAM_WINDOW_SIZE, values::window).unwrap_or(0),
            connection_window: r
                .parse(&schema::HTTP2_CONNECTION_WINDOW_SIZE, values::window)
                .unwrap_or(0),
            frame_size: r.parse(&schema::HTTP2_FRAME_SIZE, values::frame_size).unwrap_or(0),
        };
        let keepalive = r.parse(&schema::KEEPALIVE_ENABLED, values::boolean);
        let keepalive_values = KeepAlive {
            time: r.parse(&schema::KEEPALIVE_TIME, values::duration).unwrap_or_default(),
            interval: r.parse(&schema::KEEPALIVE_INTERVAL, values::duration).unwrap_or_default(),
            retries: r.parse(&schema::KEEPALIVE_RETRIES, values::count).unwrap_or_default(),
            user_timeout: r
                .parse(&schema::USER_TIMEOUT_ENABLED, values::boolean)
                .unwrap_or_default(),
        };
        let pool = PoolLimits {
            streams_per_tunnel: r
                .parse(&schema::POOL_MAX_STREAMS_PER_CONNECTION, values::positive)
                .map_or(0, NonZeroUsize::get),
            idle: r.parse(&schema::POOL_UNUSED_RELEASE_TIMEOUT, values::duration)?,
        };
        let drain = r.drain_time();
        let mesh = control_plane::mesh_source(r);
        let dns_capture = r.dns_capture(mesh.as_ref().is_some_and(MeshSource::is_on_demand));
        let authority = control_plane::authority(r);
        let require_waypoint = r.parse(&schema::WARREN_REQUIRE_WAYPOINT, values::require_waypoint);
        if let (
            Some(MeshSource::ControlPlane { on_demand: true, .. }),
            Some(RequireWaypoint::Enforce),
        ) = (&mesh, require_waypoint)
        {
            // What was not asked for may have a waypoint.
            let cause = "it needs to know all services: refused together with XDS_ON_DEMAND";
            r.refuse_set(&schema::WARREN_REQUIRE_WAYPOINT, cause);
        }
        let node_name = r.require(&schema::NODE_NAME, values::file_name);
        let cgroup_root = r.optional(&schema::WARREN_HOST_CGROUP, values::path);
        let cgroup_root = cgroup_root.map(kubernetes::cgroup_root);
        let kubelet_cgroup = r.optional(&schema::WARREN_KUBELET_CGROUP, values::path).map(|path| {
            let root = cgroup_root.as_deref().unwrap_or(Path::new("/"));
            path.map(|path| kubernetes::below_root(path, root))
        });
        let enrolment = kubernetes::enrolment(r, cgroup_root.clone());
        let redirection = r.parse(&schema::WARREN_REDIRECTION, values::redirection);
        let redirection = match (&enrolment, redirection) {
            // Two would say which pods there are.
            (Some(Enrolment::Kubernetes(_)), Some(Wish::External)) => {
                let cause = "refused together with WARREN_ENROLMENT=kubernetes";
                r.refuse_set(&schema::WARREN_REDIRECTION, cause);
                None
            }
            (_, chosen) => chosen,
        };
        Some(Self {
            cluster_id: r.parse(&schema::CLUSTER_ID, values::text)?,
            trust_domain: r.parse(&schema::TRUST_DOMAIN, values::trust_domain)?,
            network: r.parse(&schema::NETWORK, values::network)?,
            root_namespace: r.parse(&schema::WARREN_ROOT_NAMESPACE, values::text)?,
            unenforceable_deny: r
                .parse(&schema::WARREN_UNENFORCEABLE_DENY, values::unenforceable_deny)?,
            secret_ttl: r.parse(&schema::SECRET_TTL, values::lifetime)?,
            trust: TrustSources {
                crl: r.optional(&schema::CRL_PATH, values::path)?,
                bundles: r.optional(&schema::WARREN_TRUST_BUNDLE_DIR, values::path)?,
                aliases: r.parse(&schema::WARREN_TRUST_DOMAIN_ALIASES, values::trust_domains)?,
                compliance: r.parse(&schema::COMPLIANCE_POLICY, values::compliance)?,
            },
            admin_socket: r.parse(&schema::WARREN_ADMIN_SOCKET, values::path)?,
            run_dir: r.parse(&schema::WARREN_RUN_DIR, values::path)?,
            state_dir: r.parse(&schema::WARREN_STATE_DIR, values::path)?,
            bpf_pin_dir: r.parse(&schema::WARREN_BPF_PIN_DIR, values::path)?,
            cgroup: r.optional(&schema::WARREN_CGROUP, values::path)?,
            kubelet_cgroup: kubelet_cgroup?,
            cgroup_root: cgroup_root?,
            enrolment: enrolment?,
            take_over: r.parse(&schema::WARREN_TAKE_OVER, values::boolean)?,
            redirection: redirection?,
            zds_socket: r.parse(&schema::INPOD_UDS, values::path)?,
            external_mark: r.parse(&schema::INPOD_MARK, values::mark)?,
            proxy_mark: None,
            bypass: r.parse(&schema::WARREN_BYPASS_CIDRS, values::cidrs)?,
            dns_capture: dns_capture?,
            cluster_domain: r.parse(&schema::CLUSTER_DOMAIN, values::cluster_domain)?,
            dump_address: r.parse(&schema::WARREN_DUMP_ADDR, values::loopback)?,
            stats_address: r.parse(&schema::WARREN_STATS_ADDR, values::socket)?,
            readiness_address: r.parse(&schema::WARREN_READINESS_ADDR, values::socket)?,
            worker_threads: r.parse(&schema::ZTUNNEL_WORKER_THREADS, values::threads)?,
            same_node: r.parse(&schema::WARREN_SAME_NODE, values::same_node)?,
            require_waypoint: require_waypoint?,
            tunnel_address: r.parse(&schema::LOCALHOST_APP_TUNNEL, values::tunnel_address)?,
            congestion: r.optional(&schema::WARREN_TCP_CONGESTION, values::congestion)?,
            log_filter: r.parse(&schema::RUST_LOG, values::text)?,
            log_format: r.parse(&schema::LOG_FORMAT, values::log_format)?,
            keepalive: keepalive?.then_some(keepalive_values),
            node_name: node_name?,
            mesh: mesh?,
            agent: AgentPod {
                name: r.parse(&schema::POD_NAME, values::text)?,
                namespace: r.parse(&schema::POD_NAMESPACE, values::text)?,
                address: r.parse(&schema::INSTANCE_IP, values::ip)?,
                metadata: r.with_prefix(&schema::ISTIO_META),
            },
            authority: authority?,
            drain: drain?,
            http2,
            pool,
        })
    }
}

#[cfg(test)]
mod tests;
