//! Pods that somebody else redirects: Istio's CNI agent tells which (`core/zds`), and its rules bring
//! their connections to the mesh's ports inside the pod.
//!
//! What our own hooks prove, these rules do not: a pod with `NET_ADMIN` can take them off. A pod counts
//! as verified when a connection of its own was redirected here.

mod listeners;
mod session;
mod table;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use enrol::redirection::Choice;
use enrol::{Code, Failure};
use model::{PodUid, causes};
use netns::{NetnsFd, OpenError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::node::{PodEvent, Status};
use super::pending::PendingTests;
use super::pod::CapturedPod;
use super::view::{HooksView, PodView};
use table::Table;

pub(super) use listeners::is_own_port;

/// Events that wait for the data plane; then a pod waits to be served.
const EVENTS_MAX: usize = 64;
/// How long the data plane may take to receive an event. After that the pod is not served.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What it is told at start.
#[derive(Clone, Debug)]
pub struct ExternalConfig {
    /// The socket of the CNI agent.
    pub socket: PathBuf,
    /// The mark that its rules know the proxy's packets by.
    pub mark: u32,
    /// Data-plane threads, each with listeners of its own in each pod.
    pub threads: u16,
}

/// Whether the CNI agent is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// It has not told all pods yet.
    #[default]
    Never,
    /// All pods were told, and it is there.
    Live,
    /// It is away; what it told is served still. The text says why.
    Away(String),
}

/// The pods of a CNI agent. Clones share them.
#[derive(Clone)]
pub struct External(Arc<Inner>);

struct Inner {
    config: ExternalConfig,
    choice: Choice,
    own: NetnsFd,
    table: Mutex<Table>,
    events: mpsc::Sender<PodEvent>,
    pending: PendingTests,
    connection: watch::Sender<Connection>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A pod that is served.
#[derive(Clone)]
struct Served {
    pod: Arc<CapturedPod>,
    addresses: watch::Sender<Vec<IpAddr>>,
}

impl External {
    /// Nothing is served before [`run`](Self::run).
    pub fn new(
        config: ExternalConfig,
        choice: Choice,
    ) -> Result<(Self, mpsc::Receiver<PodEvent>), OpenError> {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let inner = Inner {
            own: NetnsFd::current()?,
            config,
            choice,
            table: Mutex::default(),
            events,
            pending: PendingTests::default(),
            connection: watch::Sender::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Ok((Self(Arc::new(inner)), receiver))
    }

    /// How this node captures, and why so.
    pub fn choice(&self) -> Choice {
        self.0.choice
    }

    /// Follows the CNI agent until [`stop`](Self::stop).
    pub async fn run(self) {
        let work = session::follow(self.0.clone());
        let _ = self.0.shutdown.run_until_cancelled(work).await;
    }

    /// Whether the CNI agent is there, now and later.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.0.connection.subscribe()
    }

    /// Every pod, by uid.
    pub fn pods(&self) -> Vec<PodView> {
        let rows = self.0.table.lock().rows();
        rows.into_iter().map(view).collect()
    }

    /// Ends the following. Pods' listeners close with the data plane.
    pub async fn stop(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    /// Hands an event to the data plane; `false` if it does not take it in time.
    async fn emit(&self, event: PodEvent) -> bool {
        self.events.send_timeout(event, EVENT_TIMEOUT).await.is_ok()
    }

    fn set_status(&self, uid: &PodUid, status: Status) {
        if let Status::Degraded(reason) = &status
            && self.table.lock().status(uid) != Some(&status)
        {
            tracing::warn!(pod = %uid, %reason, "pod is degraded");
        }
        self.table.lock().set_status(uid, status);
    }
}

/// A pod as the CLI shows it. Its namespace came as a descriptor and has no path here.
fn view(row: table::Row) -> PodView {
    let table::Row { told, namespace, status, served, .. } = row;
    PodView {
        name: told.uid.to_string(),
        workload: Some(told.workload),
        status,
        cgroup: None,
        netns: Some((PathBuf::new(), namespace.inode())),
        addresses: served.as_ref().map(|s| s.addresses.borrow().clone()).unwrap_or_default(),
        dns: super::DnsCapture::Off,
        source: None,
        switches: enrol::Switches::default(),
        hooks: HooksView::Elsewhere,
        routing: false,
        open_connections: served.as_ref().map_or(0, |s| s.pod.open_connections()),
        without_destination: served.as_ref().map_or(0, |s| s.pod.without_destination()),
        counters: Vec::new(),
    }
}

/// Why a pod is not served.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("what came with the pod is no network namespace")]
    Namespace(#[from] OpenError),
    #[error("the network namespace is the agent's own")]
    Own,
    #[error("the network namespace is that of pod {0}")]
    Taken(PodUid),
    #[error("the pod has no address yet")]
    NoAddress,
    #[error("its addresses cannot be listed")]
    Addresses(#[from] netns::NetlinkError),
    #[error("cannot listen in the pod")]
    Listen(#[from] netns::SocketError),
    #[error("the data plane does not take the pod")]
    DataPlane,
    #[error("more than {} pods", zds::PODS_MAX)]
    Full,
    #[error("the pod is not served, and no network namespace came with it")]
    Unknown,
    #[error("the agent is stopping")]
    Stopping,
    #[error("waiting failed")]
    Wait(#[from] io::Error),
}

impl From<&ServeError> for Failure {
    /// As the CNI agent, the log and the pod's status have it.
    fn from(error: &ServeError) -> Self {
        let code = match error {
            ServeError::Namespace(_) => Code::NetnsInvalid,
            ServeError::Own => Code::NetnsIsHost,
            ServeError::Taken(_) => Code::NetnsTaken,
            ServeError::NoAddress => Code::NoAddress,
            ServeError::Addresses(_)
            | ServeError::Listen(_)
            | ServeError::DataPlane
            | ServeError::Wait(_) => Code::AttachFailed,
            ServeError::Full => Code::NodeFull,
            ServeError::Unknown => Code::NetnsUnknown,
            ServeError::Stopping => Code::TooLate,
        };
        Self::new(code, causes(error))
    }
}
