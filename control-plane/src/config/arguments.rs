//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const STATE_DIR: &str = "/var/lib/warren/control-plane";

/// Turns a cluster's objects into a mesh, and signs its certificates.
#[derive(Debug, Parser)]
#[command(
    name = "control-plane",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 stopped on request, 1 failed, 2 wrong usage, setting or file."
)]
pub struct Arguments {
    /// What to do; nothing: serve.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// How.
    #[command(flatten)]
    pub serve: ServeArguments,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Tokens with which a node joins, where there is no API server to ask
    JoinToken {
        /// The folder of what must outlive a restart, as the control plane has it
        #[arg(long, value_name = "DIR", env = "WARREN_CP_STATE_DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
        /// What to do with it
        #[command(subcommand)]
        verb: TokenVerb,
    },
}

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Makes a token for a node and prints it, once: only its hash is kept
    Create {
        /// The node that may use it
        #[arg(long)]
        node: String,
        /// The agent's account
        #[arg(long, value_name = "NAMESPACE/NAME", default_value = "istio-system/ztunnel")]
        account: String,
        /// How long it is good, such as `30d`, `12h`
        #[arg(long, default_value = "30d", value_parser = lifetime)]
        ttl: std::time::Duration,
    },
    /// Ends a token
    Revoke {
        /// Its id, as `list` shows it, or the token itself
        token: String,
    },
    /// Shows every token's id, node, account and end
    List,
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct ServeArguments {
    /// Folder of manifests to read instead of an API server; followed
    #[arg(long, value_name = "DIR", env = "WARREN_CP_MANIFESTS", conflicts_with = "kubeconfig")]
    pub manifests: Option<PathBuf>,
    /// Kubeconfig of the API server; without it, the cluster that this runs in
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Settings of the mesh, in `MeshConfig`'s shape
    #[arg(long, value_name = "FILE", env = "WARREN_CP_MESH_CONFIG")]
    pub mesh_config: Option<PathBuf>,
    /// SPIFFE trust domain; outranks the file
    #[arg(long, value_name = "NAME", env = "TRUST_DOMAIN")]
    pub trust_domain: Option<String>,
    /// Name of this cluster
    #[arg(long, value_name = "NAME", env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Network of this cluster's addresses, unless the root namespace's label names one
    #[arg(long, value_name = "NAME", env = "NETWORK", default_value = "")]
    pub network: String,
    /// Domain of the cluster's services
    #[arg(long, value_name = "NAME", env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Revision whose objects are read (`istio.io/rev`)
    #[arg(long, value_name = "NAME", env = "REVISION", default_value = "default")]
    pub revision: String,
    /// Namespace of this control plane: of its Lease and its Secret
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "istio-system")]
    pub namespace: String,
    /// Name of this replica
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// Where proxies are served: discovery and certificates, TLS
    #[arg(long, value_name = "ADDR", env = "WARREN_CP_LISTEN", default_value = "[::]:15012")]
    pub listen: Vec<SocketAddr>,
    /// Where the admission webhook is served, TLS; needs an API server
    #[arg(long, value_name = "ADDR", env = "WARREN_CP_WEBHOOK", default_value = "[::]:15017")]
    pub webhook_listen: SocketAddr,
    /// Name of the ValidatingWebhookConfiguration that is told our root; empty: none is
    #[arg(long, value_name = "NAME", env = "WARREN_CP_WEBHOOK_NAME", default_value = "")]
    pub webhook_name: String,
    /// Where `/metrics` and `/healthz/ready` are
    #[arg(long, value_name = "ADDR", env = "WARREN_CP_METRICS", default_value = "[::]:15014")]
    pub metrics_listen: SocketAddr,
    /// Unix socket of `warren cp`; mode 0600, root only
    #[arg(
        long,
        value_name = "PATH",
        env = "WARREN_CP_SOCKET",
        default_value = admin::control_plane::DEFAULT_SOCKET
    )]
    pub admin_socket: PathBuf,
    /// Folder of what must outlive a restart; mode 0700. Holds the authority's key where nothing
    /// else does, and the join tokens
    #[arg(
        long,
        value_name = "DIR",
        env = "WARREN_CP_STATE_DIR",
        default_value = STATE_DIR
    )]
    pub state_dir: PathBuf,
    /// Folder of an authority that was made elsewhere (`cacerts` or cert-manager's files); followed
    #[arg(long, value_name = "DIR", env = "ROOT_CA_DIR", conflicts_with_all = ["ca_secret", "ca_signer"])]
    pub ca_dir: Option<PathBuf>,
    /// Secret of an authority, made there if there is none
    #[arg(long, value_name = "NAME", env = "WARREN_CP_CA_SECRET", conflicts_with = "ca_signer")]
    pub ca_secret: Option<String>,
    /// Signer of the Kubernetes CSR API that signs instead of us
    #[arg(long, value_name = "NAME", env = "K8S_SIGNER", requires = "ca_signer_roots")]
    pub ca_signer: Option<String>,
    /// Roots of that signer, PEM
    #[arg(long, value_name = "FILE", env = "K8S_SIGNER_ROOTS")]
    pub ca_signer_roots: Option<PathBuf>,
    /// DNS names of our own certificate
    #[arg(
        long = "serving-name",
        value_name = "NAME",
        env = "WARREN_CP_SERVING_NAMES",
        value_delimiter = ',',
        default_value = "istiod.istio-system.svc,control-plane.istio-system.svc,localhost"
    )]
    pub serving_names: Vec<String>,
    /// Accounts of node proxies: they are served the mesh, and ask for the certificates of their pods
    #[arg(
        long = "node-account",
        value_name = "NAMESPACE/NAME",
        env = "CA_TRUSTED_NODE_ACCOUNTS",
        value_delimiter = ',',
        default_value = "istio-system/ztunnel"
    )]
    pub node_accounts: Vec<String>,
    /// Accounts of waypoints and gateways that are served the mesh although no Gateway object says so
    #[arg(
        long = "gateway-account",
        value_name = "NAMESPACE/NAME",
        env = "WARREN_CP_GATEWAY_ACCOUNTS",
        value_delimiter = ','
    )]
    pub gateway_accounts: Vec<String>,
    /// Lifetime of certificates for which none is asked
    #[arg(long, value_name = "TIME", env = "DEFAULT_WORKLOAD_CERT_TTL", default_value = "24h", value_parser = lifetime)]
    pub default_ttl: std::time::Duration,
    /// Longest lifetime given; a longer one that is asked for is refused
    #[arg(long, value_name = "TIME", env = "MAX_WORKLOAD_CERT_TTL", default_value = "90d", value_parser = lifetime)]
    pub max_ttl: std::time::Duration,
    /// Let waypoints reach the workloads behind them without a policy that says so
    #[arg(long, env = "PILOT_AUTO_ALLOW_WAYPOINT_POLICY")]
    pub allow_waypoints: bool,
    /// Send policies that only record (`istio.io/dry-run`). An Istio ztunnel before 1.29 enforces them
    #[arg(long, env = "AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY")]
    pub dry_run: bool,
    /// What is logged, such as `info,control_plane=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// Log as JSON
    #[arg(long, env = "WARREN_CP_LOG_JSON")]
    pub log_json: bool,
}

/// `90d`, `24h`, `30m`, `20s`; a plain number is seconds.
fn lifetime(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 90d, 24h, 30m or 20s");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" | "" => 1,
        _ => return Err(wrong()),
    };
    let seconds: u64 = digits.parse().map_err(|_| wrong())?;
    match seconds.checked_mul(unit) {
        Some(seconds) if seconds > 0 => Ok(std::time::Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}
