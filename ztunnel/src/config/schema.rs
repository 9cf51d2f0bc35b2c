//! The table of settings.

use std::fmt::Write;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Environment variable.
    pub name: &'static str,
    /// Value used when the variable is not set; empty for none.
    pub default: &'static str,
    /// What it does, with its unit.
    pub help: &'static str,
}

/// Where Kubernetes puts the token that Istio's manifests ask for.
pub(super) const TOKEN_FILE: &str = "/var/run/secrets/tokens/istio-token";
/// Every variable with this prefix.
pub(super) const XDS_HEADER: Setting = Setting {
    name: "XDS_HEADER_*",
    default: "",
    help: "A header of each xDS call: `XDS_HEADER_X_TENANT=shop` sends `x-tenant: shop`.",
};
/// Every variable with this prefix.
pub(super) const CA_HEADER: Setting = Setting {
    name: "CA_HEADER_*",
    default: "",
    help: "A header of each call to the certificate authority, likewise.",
};

/// Every variable with this prefix.
pub(super) const ISTIO_META: Setting = Setting {
    name: "ISTIO_META*",
    default: "",
    help: "What else the control plane is told: `ISTIO_META_X=text`, `ISTIO_METAJSON_X=JSON`.",
};

macro_rules! settings {
    ($($name:ident = $default:literal, $help:literal;)+) => {
        $(pub(super) const $name: Setting =
            Setting { name: stringify!($name), default: $default, help: $help };)+
        /// Every setting, in the order of the documentation.
        pub const SETTINGS: &[Setting] = &[$($name,)+ XDS_HEADER, CA_HEADER, ISTIO_META];
    };
}

settings! {
    NODE_NAME = "", "Name of this node. Required. Letters, digits, `.`, `-`, `_`.";
    LOCAL_XDS_PATH = "", "File with workloads, services and policies ([shape](local-config.md)). Required, or `XDS_ADDRESS`. Reloaded when it changes; a wrong file keeps the last good state.";
    XDS_ADDRESS = "", "Control plane that tells of workloads, services and policies over delta xDS: `https://host:port`, or `http://` to a loopback address. Refused together with `LOCAL_XDS_PATH`.";
    XDS_ROOT_CA = "/var/run/secrets/istio/root-cert.pem", "Roots of the control plane's certificate: a file, read anew for each connection, `SYSTEM`, or PEM text.";
    ALT_XDS_HOSTNAME = "", "Another name that the control plane's certificate may have.";
    XDS_ON_DEMAND = "false", "Ask the control plane only for what this node's connections need.";
    WARREN_DEV_CA_DIR = "", "Folder of the embedded development CA, shared by the nodes that see it. Required, or `CA_ADDRESS`; refused together with it.";
    CA_ADDRESS = "", "Certificate authority (`istio.v1.auth.IstioCertificateService`): as `XDS_ADDRESS`.";
    CA_ROOT_CA = "/var/run/secrets/istio/root-cert.pem", "Roots of the authority's server certificate: as `XDS_ROOT_CA`.";
    ALT_CA_HOSTNAME = "", "Another name that the authority's server certificate may have.";
    AUTH_TOKEN = "", "Token for both: a file, read anew for each call, or the token itself. Default: `/var/run/secrets/tokens/istio-token`, if it is there.";
    POD_NAME = "", "Name of the agent's pod, for the control plane.";
    POD_NAMESPACE = "", "Namespace of the agent's pod, for the control plane.";
    INSTANCE_IP = "1.1.1.1", "Address of the agent's pod, for the control plane.";
    SECRET_TTL = "24h", "Lifetime asked for in certificates; renewal is at half of it. 10 s to 90 days.";
    COMPLIANCE_POLICY = "", "`pqc` allows no key exchange but X25519MLKEM768, in the mesh and with the control plane. Empty prefers it and allows X25519, P-256 and P-384.";
    CRL_PATH = "", "File of certificate revocation lists, PEM or DER ([rules](certificates.md)). Followed. If no list can be used at start and none is kept from before, every handshake is refused.";
    WARREN_TRUST_BUNDLE_DIR = "", "Folder of roots of other trust domains: a PEM file for each, whose name is the trust domain. Followed.";
    WARREN_TRUST_DOMAIN_ALIASES = "", "Comma-separated other names of `TRUST_DOMAIN`: certificates under them are verified against the same roots.";
    TRUST_DOMAIN = "cluster.local", "SPIFFE trust domain of the certificates issued here, and of workloads that name none.";
    CLUSTER_ID = "Kubernetes", "Name of this cluster, for workloads that name none.";
    NETWORK = "", "Network this node is in; empty is the default network.";
    WARREN_ROOT_NAMESPACE = "istio-system", "Namespace whose policies apply to the whole mesh.";
    WARREN_UNENFORCEABLE_DENY = "deny", "A DENY policy that holds only conditions layer 4 cannot check: `deny` (it matches; `POLICY_NOT_ENFORCEABLE`) or `ignore` (it never matches, as in Istio).";
    WARREN_ADMIN_SOCKET = "/run/warren/admin.sock", "Unix socket of the CLI; mode 0600, root only.";
    WARREN_RUN_DIR = "/run/warren", "Folder of enrolment records, roots and revocation lists; mode 0700. If it is on tmpfs, certificates and keys are kept there too for an agent that restarts.";
    WARREN_STATE_DIR = "/var/lib/warren", "Folder of the control plane's last state, for a start without it; mode 0700. Should outlive a reboot.";
    WARREN_BPF_PIN_DIR = "/sys/fs/bpf/warren", "Folder on bpffs that holds pinned links and maps. One agent a folder.";
    WARREN_TAKE_OVER = "false", "Take the place of an agent that runs on the same pins, instead of not starting. It serves the connections that it has to their end. Needs a `WARREN_CGROUP` of its own. The one that was replaced ends with exit code 75, and must not be started again.";
    WARREN_REDIRECTION = "auto", "Who brings pods' connections here ([modes](capture.md)): `ebpf` (hooks on each pod's own cgroup), `ebpf-root` (hooks on the root of the unified cgroup hierarchy, for nodes whose pods have no cgroups there), `external` (Istio's CNI agent, over `INPOD_UDS`), or `auto`: the first that works of these, `external` only if its socket is there. `external` is refused together with `WARREN_ENROLMENT=kubernetes`.";
    INPOD_UDS = "/var/run/ztunnel/ztunnel.sock", "Socket of Istio's CNI agent (ZDS), for `external`.";
    INPOD_MARK = "1337", "Mark by which the rules of Istio's CNI agent know this proxy's packets, for `external`.";
    WARREN_CGROUP = "", "This agent's own leaf cgroup (cgroup v2 path). Default: `warren-agent-<node>` below the cgroup it was started in.";
    WARREN_KUBELET_CGROUP = "", "The kubelet's cgroup (cgroup v2 path). Its connections pass to a pod's probe ports. Default: with `WARREN_ENROLMENT=kubernetes` that of the kubelet's process, unless it is the root; otherwise none.";
    WARREN_ENROLMENT = "local", "Who says which pods are captured: `local` (the CLI alone) or `kubernetes` (labels by the API server, sandboxes by the CNI plugin, and the CLI where these are silent).";
    WARREN_EXCLUDED_NAMESPACES = "kube-system", "Comma-separated namespaces whose pods are never captured, and which start without an agent. The agent's own (`POD_NAMESPACE`) is always one of them.";
    WARREN_HOST_PROC = "/proc", "The host's `/proc`, where the agent is in a pod.";
    WARREN_HOST_CGROUP = "", "The root of the host's unified cgroup hierarchy, or the folder in which it is `unified` beside the old ones; in the mode `ebpf-root` hooks go there. Default: `/sys/fs/cgroup`.";
    WARREN_HOST_NETNS_DIR = "/var/run/netns", "Folder where the container runtime keeps named network namespaces.";
    WARREN_CNI_SOCKET = "/run/warren/cni.sock", "Unix socket of the CNI plugin, at the same path for the host; mode 0600, root only.";
    WARREN_CNI_CONF_DIR = "", "The host's folder of network configurations. If unset, the plugin is not installed.";
    WARREN_CNI_BIN_DIR = "", "The host's folder of CNI plugins. With `WARREN_CNI_CONF_DIR`.";
    WARREN_CNI_PROGRAM = "/usr/local/bin/warren-cni", "The plugin that is copied there.";
    WARREN_NODE_TAINT = "false", "Whether this agent takes the taint `warren.dev/not-ready` from its own node once it is verified: `true` or `false`. With `WARREN_ENROLMENT=kubernetes`; needs the right to read and patch nodes.";
    WARREN_BYPASS_CIDRS = "", "Comma-separated CIDRs that are not captured: as destinations of enrolled pods, and as their own addresses (secondary networks).";
    WARREN_DNS_CAPTURE = "", "Whether pods are enrolled with their DNS questions captured, unless their enrolment says otherwise: `true` or `false`. Default: `DNS_CAPTURE`, otherwise `false`. Not with `XDS_ON_DEMAND`, where names are not known in advance.";
    DNS_CAPTURE = "", "The same in Istio's words: `true`, and anything else is `false`.";
    CLUSTER_DOMAIN = "cluster.local", "Domain of Kubernetes' services, for captured DNS questions.";
    WARREN_SAME_NODE = "relay", "Traffic between two pods of this node: `relay` (joined in this process) or `tunnel` (encrypted anyway).";
    WARREN_REQUIRE_WAYPOINT = "off", "Whether a waypoint can be gone past: `off` (yes, where policy allows it, as in Istio) or `enforce` (a destination that has a waypoint takes connections from nobody else; `WAYPOINT_REQUIRED`).";
    LOCALHOST_APP_TUNNEL = "true", "Dial application tunnels that take PROXY headers on the pod's loopback, where nothing outside the pod can forge one; otherwise on the pod's address.";
    WARREN_DUMP_ADDR = "127.0.0.1:15000", "Address of `/config_dump` and `POST /logging` for `istioctl ztunnel-config`. Loopback only: a dump tells all of the mesh.";
    WARREN_STATS_ADDR = "[::]:15020", "Address of `/metrics`.";
    WARREN_READINESS_ADDR = "[::]:15021", "Address of `/healthz/ready`.";
    ZTUNNEL_WORKER_THREADS = "", "Data-plane threads, 1 to 16; `0` or unset: one for each core.";
    CONNECTION_TERMINATION_DEADLINE = "", "How long open connections may live after SIGTERM. Default: from `TERMINATION_GRACE_PERIOD_SECONDS`, otherwise 5 s.";
    TERMINATION_GRACE_PERIOD_SECONDS = "", "Grace period of the pod in seconds. Above 10, 5 s of it are kept in reserve; otherwise 1 s.";
    WARREN_TCP_CONGESTION = "", "Congestion control of proxied sockets, such as `cubic`. Default: the kernel's.";
    KEEPALIVE_ENABLED = "true", "TCP keepalive on proxied sockets.";
    KEEPALIVE_TIME = "180s", "Idle time before the first keepalive probe.";
    KEEPALIVE_INTERVAL = "180s", "Time between keepalive probes.";
    KEEPALIVE_RETRIES = "9", "Unanswered probes before a connection counts as dead.";
    USER_TIMEOUT_ENABLED = "false", "`TCP_USER_TIMEOUT` of `KEEPALIVE_TIME` + retries × interval on proxied sockets.";
    HTTP2_STREAM_WINDOW_SIZE = "4194304", "Receive window of a stream, in bytes.";
    HTTP2_CONNECTION_WINDOW_SIZE = "16777216", "Receive window of a tunnel, in bytes.";
    HTTP2_FRAME_SIZE = "65536", "Largest DATA frame accepted, in bytes: 16384 to 16777215.";
    POOL_MAX_STREAMS_PER_CONNECTION = "100", "Streams in one tunnel.";
    POOL_UNUSED_RELEASE_TIMEOUT = "10s", "A tunnel without streams is closed after this.";
    RUST_LOG = "info", "Log filter.";
    LOG_FORMAT = "plain", "`plain` or `json`.";
}

/// A setting's default; empty for none, and for what is no setting.
#[must_use]
pub fn setting_default(name: &str) -> &'static str {
    SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default)
}

/// The documentation page, `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration of `ztunnel`\n\n\
         Generated by `ztunnel settings`; a test compares this page with the code.\n\n\
         The agent reads its settings once, from environment variables, at start. A value that \
         cannot be used is an\nerror that names the variable, and the agent exits with code 2. \
         Durations: `500ms`, `10s`, `5m`, `24h`.\n\n\
         | Variable | Default | Meaning |\n| --- | --- | --- |\n",
    );
    for Setting { name, default, help } in SETTINGS {
        let default = if default.is_empty() { "–".to_owned() } else { format!("`{default}`") };
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{name}` | {default} | {help} |");
    }
    page
}
