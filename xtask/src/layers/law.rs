//! The dependency law, as data. A new arrow is an ADR, not an edit here.

/// Folders with Rust of ours.
pub(super) const SOURCE_FOLDERS: [&str; 11] = [
    "core",
    "io",
    "proto",
    "ztunnel",
    "control-plane",
    "cli",
    "cni",
    "tests",
    "fuzz",
    "xtask",
    "ebpf-programs",
];

/// What a crate may import of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// Exactly these.
    Only(&'static [&'static str]),
    /// Every crate of `core/`, and these.
    CoreAnd(&'static [&'static str]),
    /// Every crate of `core/` and `io/`.
    CoreAndIo,
    /// That, and these.
    CoreAndIoAnd(&'static [&'static str]),
    /// Everything. Nobody imports such a crate.
    Anything,
}

/// One row of the law.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) folder: &'static str,
    pub(super) may: May,
}

const fn row(name: &'static str, folder: &'static str, may: May) -> Row {
    Row { name, folder, may }
}

/// Normal and build dependencies. A crate without a row may not exist.
pub(super) const LAW: &[Row] = &[
    row("model", "core/model", May::Only(&[])),
    row("ebpf-abi", "core/ebpf-abi", May::Only(&[])),
    row("authz", "core/authz", May::Only(&["model"])),
    row("resolve", "core/resolve", May::Only(&["model"])),
    row("hbone", "core/hbone", May::Only(&["model", "authz"])),
    row("proto", "proto", May::Only(&[])),
    row("xds", "core/xds", May::Only(&["model", "authz", "resolve", "proto"])),
    row("zds", "core/zds", May::Only(&["model", "proto"])),
    row("names", "core/names", May::Only(&["model", "resolve"])),
    row("local-config", "core/local-config", May::Only(&["model", "authz", "resolve"])),
    row("cluster", "core/cluster", May::Only(&[])),
    row("translate", "core/translate", May::Only(&["cluster", "model", "proto"])),
    row("enrol", "core/enrol", May::Only(&["cluster", "model"])),
    row("cni", "core/cni", May::Only(&[])),
    row("admin", "io/admin", May::CoreAnd(&[])),
    row("api-server", "io/api-server", May::CoreAnd(&["tls"])),
    row("cni-node", "io/cni-node", May::CoreAnd(&[])),
    row("daemon", "io/daemon", May::CoreAnd(&[])),
    row("netns", "io/netns", May::CoreAnd(&[])),
    row("tls", "io/tls", May::CoreAnd(&[])),
    row("grpc-channel", "io/grpc-channel", May::CoreAnd(&["tls"])),
    row("authority", "io/authority", May::CoreAnd(&["tls"])),
    row("svid", "io/svid", May::CoreAnd(&["tls", "authority", "grpc-channel", "proto"])),
    row("xds-client", "io/xds-client", May::CoreAnd(&["grpc-channel", "proto"])),
    row("zds-socket", "io/zds-socket", May::CoreAnd(&[])),
    row("hbone-h2", "io/hbone-h2", May::CoreAnd(&["tls"])),
    row("ztunnel", "ztunnel", May::CoreAndIo),
    row("control-plane", "control-plane", May::CoreAndIoAnd(&["proto"])),
    row("cli", "cli", May::CoreAndIo),
    row("warren-cni", "cni", May::Only(&["cni"])),
    row("ebpf-programs", "ebpf-programs", May::Only(&["ebpf-abi"])),
    row("tests", "tests", May::Anything),
    row("xtask", "xtask", May::Only(&[])),
];

pub(super) fn find(name: &str) -> Option<&'static Row> {
    LAW.iter().find(|row| row.name == name)
}

impl Row {
    pub(super) fn is_core(&self) -> bool {
        self.folder.starts_with("core/")
    }

    pub(super) fn is_io(&self) -> bool {
        self.folder.starts_with("io/")
    }
}

/// Crates that must not be built at all: one TLS provider, and that is aws-lc-rs.
pub(super) const BANNED: [&str; 3] = ["ring", "openssl-sys", "native-tls"];

/// External crates with one home each: replacing one touches one folder. `tests` may use any.
pub(super) const HOMES: &[(&str, &[&str])] = &[
    ("aya", &["ztunnel"]),
    ("aya-log", &["ztunnel"]),
    ("aya-ebpf", &["ebpf-programs"]),
    ("rustls", &["tls"]),
    ("tokio-rustls", &["tls"]),
    ("rustls-webpki", &["tls"]),
    ("rustls-pki-types", &["tls", "svid", "authority"]),
    ("x509-parser", &["tls", "svid", "authority"]),
    ("aws-lc-rs", &["tls", "svid", "authority"]),
    ("rcgen", &["svid", "authority"]),
    ("h2", &["hbone-h2"]),
    ("hyper", &["daemon", "api-server"]),
    ("hyper-util", &["daemon", "grpc-channel", "api-server"]),
    ("tonic", &["grpc-channel", "svid", "xds-client", "control-plane"]),
    ("tonic-prost", &["svid", "xds-client", "control-plane"]),
    ("prost", &["proto", "xds", "zds", "translate", "svid", "xds-client", "control-plane"]),
    ("hickory-proto", &["names", "ztunnel"]),
    ("hickory-resolver", &["ztunnel"]),
    ("serde-saphyr", &["cluster", "local-config"]),
    ("kube", &["control-plane"]),
    ("k8s-openapi", &["control-plane"]),
];

/// What would let a core crate see the world: runtime, sockets, system calls, clock, randomness,
/// logging.
pub(super) const BANNED_IN_CORE: [&str; 19] = [
    "async-std",
    "futures-util",
    "getrandom",
    "h2",
    "hyper",
    "libc",
    "log",
    "mio",
    "nix",
    "parking_lot",
    "prometheus-client",
    "rand",
    "rustls",
    "smol",
    "socket2",
    "time",
    "tokio",
    "tokio-util",
    "tracing",
];

/// The node proxy's stages. They never import one another; only the flow knows their order.
pub(super) const STAGES: [&str; 8] =
    ["capture", "identity", "discovery", "policy", "tunnel", "relay", "telemetry", "dns"];
/// Who may import stages, below `ztunnel/src/`: the flow of connections, the control work, the look
/// before a start, and what puts them together. No stage imports these.
pub(super) const STORY: [&str; 7] = ["flow", "control", "enrolment", "check", "app", "main", "lib"];
