//! Requests to a control plane, and its responses, as they are on the wire.

use serde::{Deserialize, Serialize};

use crate::client::{Answer, Client, ClientError};
use crate::protocol::Failure;

/// Where the control plane listens unless `WARREN_CP_SOCKET` or `--socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/warren/control-plane.sock";

/// What an operator asks a control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is it? Answered by [`Response::Status`].
    Status,
    /// Which policies are there, where are they enforced, what became of them? Answered by
    /// [`Response::Policies`].
    Policies,
    /// What is wrong with which object? Answered by [`Response::Objects`].
    Objects,
    /// Which proxies are served? Answered by [`Response::Clients`].
    Clients,
    /// What is sent to proxies? Answered by [`Response::Resources`].
    Resources {
        /// Only those whose name has this in it.
        #[serde(default)]
        containing: String,
    },
    /// How is the certificate authority? Answered by [`Response::Authority`].
    Authority,
    /// Goes one step of the root's rotation. Answered by [`Response::Authority`].
    Rotate {
        /// Which one.
        step: RotationStep,
        /// Whether it is taken although somebody is left behind: after a key was stolen.
        #[serde(default)]
        force: bool,
    },
}

/// A step of a root's rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationStep {
    /// The new root is made and told to everybody.
    Prepare,
    /// Certificates are signed under it.
    Switch,
    /// The old one is forgotten. Refused while somebody still needs it.
    Finish,
}

/// What a control plane answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Policies`].
    Policies(Vec<Policy>),
    /// To [`Request::Objects`].
    Objects(Vec<Object>),
    /// To [`Request::Clients`].
    Clients(Vec<ServedClient>),
    /// To [`Request::Resources`].
    Resources(Vec<Resource>),
    /// To [`Request::Authority`] and [`Request::Rotate`].
    Authority(Box<Authority>),
    /// To any request: it was refused, or failed.
    Error(Failure),
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        Self::Error(failure)
    }
}

impl Answer for Response {
    fn failure(&self) -> Option<&Failure> {
        if let Self::Error(failure) = self { Some(failure) } else { None }
    }
}

/// How a control plane is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Since it started.
    pub uptime_seconds: u64,
    /// Where its objects come from: `kubernetes` or a folder.
    pub source: String,
    /// Whether everything there has been read once.
    pub synced: bool,
    /// Whether this one writes status; none: nothing is written here.
    pub leader: Option<bool>,
    /// Our trust domain.
    pub trust_domain: String,
    /// Objects read.
    pub objects: u64,
    /// Workloads and services sent.
    pub addresses: u64,
    /// Policies sent.
    pub policies: u64,
    /// Proxies connected.
    pub clients: u64,
    /// What is wrong, for people; empty if nothing is.
    pub problems: Vec<String>,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Kind of the object, such as `AuthorizationPolicy`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What it does: `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`, `STRICT`…
    pub action: String,
    /// Where it is enforced, such as `mesh`, `namespace shop`, `3 workloads`, `waypoint`, `nowhere`.
    pub enforced: String,
    /// What became of it.
    pub conditions: Vec<Condition>,
}

/// A condition of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Such as `ZtunnelAccepted`.
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// A word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// An object with something to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Kind, namespace and name, or a file and a document.
    pub name: String,
    /// What became of it.
    pub conditions: Vec<Condition>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// A proxy that is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServedClient {
    /// What it calls itself.
    pub id: String,
    /// Its node.
    pub node: String,
    /// Where it calls from.
    pub address: String,
    /// Types it subscribed to, each with what it has of them.
    pub types: Vec<String>,
    /// Responses it has not acknowledged yet.
    pub pending: u64,
    /// Resources it refused.
    pub refused: u64,
}

/// Something that is sent to proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// `workload`, `service` or `policy`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Other names that find it.
    pub aliases: Vec<String>,
    /// Version.
    pub version: String,
}

/// A certificate authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authority {
    /// Where it comes from, such as `self-signed`, `plug-in`, `kubernetes`.
    pub source: String,
    /// Where its root's rotation is: `steady`, `prepared`, `switched`.
    pub rotation: String,
    /// Roots that are told to everybody.
    pub roots: Vec<Root>,
    /// Who still needs the old root.
    pub waiting_for: Vec<String>,
    /// What is wrong, for people; empty if nothing is.
    pub problems: Vec<String>,
}

/// A root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// SHA-256 of it, in hex.
    pub fingerprint: String,
    /// Whether certificates are signed under it.
    pub signs: bool,
    /// Whether they are after the next step of the rotation.
    pub next: bool,
    /// When it expires.
    pub expires_unix_ms: u64,
    /// Of a root that signs, or is next: the certificates between it and those of workloads, the
    /// issuer first; empty if the root is the issuer itself.
    pub chain: Vec<ChainCertificate>,
    /// Certificates that live under it, to the hour.
    pub certificates: u64,
    /// Nodes, and identities that asked for themselves, that hold them.
    pub holders: u64,
}

/// A certificate between a root and those of workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChainCertificate {
    /// SHA-256 of it, in hex.
    pub fingerprint: String,
    /// When it expires.
    pub expires_unix_ms: u64,
}

/// Asks a control plane.
#[derive(Debug)]
pub struct ControlPlaneClient(Client);

impl ControlPlaneClient {
    /// Connects to its socket.
    pub async fn connect(path: &std::path::Path) -> Result<Self, ClientError> {
        Client::connect(path).await.map(Self)
    }

    /// One request and its response.
    pub async fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.0.call(request).await
    }
}
