//! Requests and responses, as they are on the wire.
//!
//! Times are Unix time in milliseconds, durations say their unit in their name. Codes are those of
//! `model::Code` unless a field says otherwise.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use model::{Endpoint, Outcome};
use serde::{Deserialize, Serialize};

use crate::source::Config;

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is the agent? Answered by [`Response::Status`].
    Status,
    /// Which pods are enrolled? Answered by [`Response::Pods`].
    Pods,
    /// Take a pod into the mesh. Answered by [`Response::Enrolled`].
    Enrol(Enrol),
    /// Let a pod go. Answered by [`Response::Unenrolled`].
    Unenrol {
        /// Its uid.
        uid: String,
    },
    /// The last connections, oldest first. Answered by any number of [`Response::Flow`], then
    /// [`Response::End`].
    Flows {
        /// Then every further one as it ends, until the client hangs up.
        #[serde(default)]
        follow: bool,
        /// At most that many past ones; none: all that the agent keeps.
        #[serde(default)]
        limit: Option<usize>,
    },
    /// What would become of a connection? Answered by [`Response::Why`].
    Why {
        /// The client; see [`crate::Subject`].
        source: String,
        /// The server and port; see [`crate::Target`].
        destination: String,
    },
}

/// A pod to take into the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// The instance of the pod: `[A-Za-z0-9-]{1,63}`.
    pub uid: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Path of its cgroup; needed unless the mode is `ebpf-root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// `namespace/name/service-account`.
    pub workload: String,
    /// Ports on which the kubelet may probe it without identity.
    #[serde(default)]
    pub probe_ports: Vec<u16>,
    /// Whether its DNS questions are captured; none: as the agent is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<bool>,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Pods`].
    Pods(Vec<Pod>),
    /// To [`Request::Enrol`]: the pod as verified.
    Enrolled(Box<Pod>),
    /// To [`Request::Unenrol`]: its uid.
    Unenrolled(String),
    /// To [`Request::Flows`]: one connection.
    Flow(Box<Flow>),
    /// To [`Request::Flows`]: this reader was too slow, and so many connections are left out.
    Missed(u64),
    /// To [`Request::Flows`]: there are no more.
    End,
    /// To [`Request::Why`].
    Why(Box<Why>),
    /// To any request: it was refused, or failed.
    Error(Failure),
}

/// Why a request was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable word such as `DUPLICATE_UID`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A line that is not a request.
    pub const BAD_REQUEST: &str = "BAD_REQUEST";
    /// Too many connections to the admin socket.
    pub const BUSY: &str = "BUSY";
    /// The agent is stopping.
    pub const STOPPING: &str = "STOPPING";

    /// A failure with a stable code.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        Self::Error(failure)
    }
}

/// How an agent is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// How connections are captured: `ebpf`, `ebpf-root` or `external`.
    pub mode: String,
    /// Why so, as a stable word.
    pub mode_code: String,
    /// The same for people.
    pub mode_reason: String,
    /// What this mode does not do, for people.
    pub mode_limits: Vec<String>,
    /// `relay` or `tunnel`.
    pub same_node: String,
    /// Since the agent started.
    pub uptime_seconds: u64,
    /// The kernel.
    pub kernel: Kernel,
    /// Pods by state.
    pub pods: PodCounts,
    /// Where the mesh's state comes from.
    pub config: Config,
    /// What a DENY that layer 4 cannot check does: `deny` or `ignore`.
    pub unenforceable_deny: String,
    /// Certificates held.
    pub identities: Vec<Identity>,
    /// Whether the agent is stopping.
    pub drain: Drain,
    /// What is wrong with the agent itself, for people; empty if nothing is.
    pub problems: Vec<String>,
}

impl Status {
    /// Why the agent is not as it should be, for people; empty if it is.
    #[must_use]
    pub fn degradations(&self) -> Vec<String> {
        let mut found = self.problems.clone();
        if self.pods.degraded > 0 {
            found.push(format!("{} degraded pods; see `warren pods`", self.pods.degraded));
        }
        if let Some(error) = &self.config.last_error {
            found.push(format!("configuration not reloaded: {error}"));
        }
        found.extend(self.config.degradations());
        found.extend(self.identities.iter().filter_map(|identity| {
            identity.error.as_ref().map(|error| format!("{}: {error}", identity.id))
        }));
        let missing = self.kernel.features.iter().filter(|feature| !feature.present);
        found.extend(missing.map(|feature| format!("the kernel has no {}", feature.name)));
        found
    }
}

/// The kernel an agent runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// What the agent looked for.
    pub features: Vec<Feature>,
}

/// Something that a kernel has or has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
}

/// Pods by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodCounts {
    /// All of them.
    pub total: u64,
    /// In the mesh, as a self-test proved.
    pub verified: u64,
    /// Not as they should be.
    pub degraded: u64,
    /// Leaving the mesh.
    pub draining: u64,
}

/// A certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The SPIFFE ID.
    pub id: String,
    /// When it expires; none: there is no certificate yet.
    pub expires_unix_ms: Option<u64>,
    /// Why there is none, or why it was not renewed.
    pub error: Option<String>,
}

/// Whether an agent is stopping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Drain {
    /// It serves.
    #[default]
    Running,
    /// It stops once its connections have ended, or after this time.
    Draining {
        /// Time left.
        remaining_seconds: u64,
        /// Connections left.
        connections: u64,
    },
}

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// The instance of the pod.
    pub uid: String,
    /// `namespace/name/service-account`.
    pub workload: String,
    /// Who enrolled it: `cli`, `api` or `cni`; none: it is not captured.
    pub source: Option<String>,
    /// Whether its own hooks are attached, and a connection through them proved it.
    pub kernel_verified: bool,
    /// Why it is not captured as it should be: a code of enrolment, such as `IDENTITY_CONFLICT`.
    pub code: Option<String>,
    /// Whether it is meant to be in the mesh.
    pub desired: bool,
    /// What the kernel says.
    pub state: PodState,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its cgroup, to which its programs are attached in the mode `ebpf`; 0: not known.
    pub cgroup_id: u64,
    /// The inode of its network namespace.
    pub netns_inode: u64,
    /// Whether its DNS questions are captured.
    pub dns: bool,
    /// Open connections.
    pub connections: u64,
    /// Counters of its programs by name.
    pub counters: BTreeMap<String, u64>,
    /// Its certificate.
    pub identity: Option<Identity>,
}

/// What the kernel says of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PodState {
    /// Being set up.
    #[default]
    Pending,
    /// A connection through its own programs proved that it is in the mesh.
    Verified,
    /// It is not as it should be.
    Degraded {
        /// Why.
        reason: String,
    },
    /// It leaves, and waits for its last connections.
    Draining,
}

impl PodState {
    /// The word for people.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Degraded { .. } => "degraded",
            Self::Draining => "draining",
        }
    }
}

/// Which side of a connection reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The client's node.
    Outbound,
    /// The server's node.
    Inbound,
}

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// In a tunnel.
    Hbone,
    /// Joined in the agent.
    Local,
    /// Plain TCP to a destination outside the mesh.
    Passthrough,
    /// Plain TCP from a client outside the mesh.
    Plaintext,
    /// Questions to a resolver.
    Dns,
}

impl Path {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        model::Path::from(self).as_str()
    }
}

impl From<Path> for model::Path {
    fn from(path: Path) -> Self {
        match path {
            Path::Hbone => Self::Hbone,
            Path::Local => Self::Local,
            Path::Passthrough => Self::Passthrough,
            Path::Plaintext => Self::Plaintext,
            Path::Dns => Self::Dns,
        }
    }
}

/// One side of a connection, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Party {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Name of its workload.
    pub workload: Option<String>,
    /// Namespace of its workload.
    pub namespace: Option<String>,
    /// Its identity, if it was proved.
    pub identity: Option<String>,
}

impl From<&Endpoint> for Party {
    fn from(endpoint: &Endpoint) -> Self {
        let key = endpoint.workload.as_ref().map(|workload| &workload.key);
        Self {
            address: endpoint.address,
            workload: key.map(|key| key.name.to_string()),
            namespace: key.map(|key| key.namespace.to_string()),
            identity: endpoint.identity.as_ref().map(ToString::to_string),
        }
    }
}

/// One finished or refused connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// When it ended.
    pub time_unix_ms: u64,
    /// Which side reports.
    pub direction: Direction,
    /// How the bytes travelled.
    pub path: Path,
    /// The client.
    pub source: Party,
    /// The server.
    pub destination: Party,
    /// The service the client dialled, `namespace/hostname`.
    pub service: Option<String>,
    /// The tunnel's address.
    pub hbone: Option<SocketAddr>,
    /// The reason.
    pub code: String,
    /// The decisive policy, `namespace/name`.
    pub policy: Option<String>,
    /// For people: the nearest miss, or the cause of a failure.
    pub detail: Option<String>,
    /// Payload from the server to the client, as in Istio's metrics.
    pub bytes_sent: u64,
    /// Payload from the client to the server.
    pub bytes_received: u64,
    /// From accept to close.
    pub duration_ms: u64,
}

impl Flow {
    /// A connection that ended at `time`.
    #[must_use]
    pub fn new(outcome: &Outcome, time: SystemTime) -> Self {
        let ms =
            |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            time_unix_ms: time.duration_since(UNIX_EPOCH).map_or(0, ms),
            direction: match outcome.direction {
                model::Direction::Outbound => Direction::Outbound,
                model::Direction::Inbound => Direction::Inbound,
            },
            path: match outcome.path {
                model::Path::Hbone => Path::Hbone,
                model::Path::Local => Path::Local,
                model::Path::Passthrough => Path::Passthrough,
                model::Path::Plaintext => Path::Plaintext,
                model::Path::Dns => Path::Dns,
            },
            source: Party::from(&outcome.source),
            destination: Party::from(&outcome.destination),
            service: outcome.service.as_ref().map(ToString::to_string),
            hbone: outcome.hbone,
            code: outcome.code.to_string(),
            policy: outcome.policy.as_ref().map(ToString::to_string),
            detail: outcome.detail.clone(),
            bytes_sent: outcome.bytes.sent,
            bytes_received: outcome.bytes.received,
            duration_ms: ms(outcome.duration),
        }
    }
}

/// What would become of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Why {
    /// Where it would go.
    pub route: WhyRoute,
    /// What policy would say; none if it would not get that far, or leaves the mesh.
    pub verdict: Option<WhyVerdict>,
    /// Whether this node is the one that decides: the server is one of its pods. Otherwise the
    /// verdict is what this node would say from its own state.
    pub decided_here: bool,
    /// The steps, for people.
    pub explanation: Vec<String>,
}

impl Why {
    /// Whether the connection would pass, as far as this node can tell.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.route.code.is_none() && self.verdict.as_ref().is_none_or(|verdict| verdict.allowed)
    }
}

/// Where a connection would go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhyRoute {
    /// `hbone`, `local`, `passthrough` or `refused`.
    pub kind: String,
    /// The address the bytes would reach.
    pub address: Option<SocketAddr>,
    /// The tunnel's address.
    pub tunnel: Option<SocketAddr>,
    /// `namespace/name/service-account` of the server.
    pub workload: Option<String>,
    /// The service dialled, `namespace/hostname`.
    pub service: Option<String>,
    /// Of a refused route: why.
    pub code: Option<String>,
    /// Of a refused route: what the code does not say.
    pub detail: Option<String>,
}

/// What policy would say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhyVerdict {
    /// Yes or no.
    pub allowed: bool,
    /// `OK`, or why not.
    pub code: String,
    /// The decisive policy, `namespace/name`.
    pub policy: Option<String>,
    /// Index of its rule, from 0.
    pub rule: Option<usize>,
    /// For people: the ALLOW rule that came closest.
    pub nearest_miss: Option<String>,
    /// For people: what policies in dry-run mode would say.
    pub dry_run: Vec<String>,
}
