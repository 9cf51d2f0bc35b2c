//! A control plane on a real socket of the loopback, and a client that follows it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use grpc_channel::{Address, ControlPlane, Credentials, Token};
use proto::security::{Authorization, Scope};
use proto::workload::Workload;
use tls::{Compliance, RootSource, ServerTrust};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use xds_client::{Client, Mode, Node, Settings, State, Sync};

// The service that whole agents are tested against too.
#[expect(unreachable_pub, reason = "public in the crate that it belongs to")]
#[path = "../../../../tests/support/control_plane/xds.rs"]
pub(crate) mod service;

pub(crate) use service::TestXds;

/// Longer than anything here takes; only a failing test waits as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// A control plane that listens.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) xds: TestXds,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(xds: &TestXds) -> Self {
        Self::start_at(xds, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn start_at(xds: &TestXds, address: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let routes = tonic::transport::Server::builder().add_service(xds.service());
        let serving = routes.serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { serving.await.expect("served") });
        Self { address, xds: xds.clone(), task }
    }

    /// Stops listening and breaks every connection.
    pub(crate) async fn stop(self) {
        self.xds.close(None);
        self.task.abort();
        let _ = self.task.await;
    }
}

pub(crate) fn control_plane(address: SocketAddr) -> ControlPlane {
    let address = Address::parse(&format!("http://{address}")).expect("valid");
    let token = Token::Literal("token".to_owned());
    let credentials = Credentials::new(Some(token), "Kubernetes", vec![]).expect("valid");
    // Nothing is verified on the loopback.
    let trust = ServerTrust::new(RootSource::System, address.host(), [], Compliance::default());
    ControlPlane::new(address, trust.expect("a name"), credentials)
}

pub(crate) fn settings(address: SocketAddr, mode: Mode) -> Settings {
    let node = Node { id: "node".to_owned(), ..Node::default() };
    let client = xds::ClientSettings { node, mode, policies: authz::Settings::default() };
    Settings { control_plane: control_plane(address), client, stored: None }
}

/// A running client. Its task ends with it.
pub(crate) struct Running {
    pub(crate) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    pub(crate) fn start(settings: Settings) -> Self {
        let (client, driver) = xds_client::new(settings);
        Self { client, task: tokio::spawn(driver.run()) }
    }

    /// Waits for a state.
    pub(crate) async fn state(&self, fits: impl FnMut(&State) -> bool) -> Arc<State> {
        state(&mut self.client.states(), fits).await
    }

    /// Waits for the state with just these uids, as the control plane says.
    pub(crate) async fn uids(&self, expected: &[&str]) -> Arc<State> {
        self.state(|state| state.sync == Sync::Live && uids(state) == expected).await
    }

    /// Waits for a status.
    pub(crate) async fn status(
        &self,
        mut fits: impl FnMut(&xds_client::Status) -> bool,
    ) -> xds_client::Status {
        let mut statuses = self.client.statuses();
        soon(async {
            let fitting = statuses.wait_for(|status| fits(status)).await;
            fitting.expect("the driver runs").clone()
        })
        .await
    }
}

pub(crate) async fn state(
    states: &mut watch::Receiver<Arc<State>>,
    mut fits: impl FnMut(&State) -> bool,
) -> Arc<State> {
    soon(async {
        let fitting = states.wait_for(|state| fits(state)).await;
        fitting.expect("the driver runs").clone()
    })
    .await
}

pub(crate) fn uids(state: &State) -> Vec<String> {
    let mut uids: Vec<_> = state.snapshot.workloads().map(|w| w.uid.to_string()).collect();
    uids.sort_unstable();
    uids
}

/// A pod whose address ends in `number`.
pub(crate) fn workload(number: u8) -> Workload {
    Workload {
        uid: format!("w{number}"),
        name: format!("w{number}"),
        namespace: "shop".to_owned(),
        addresses: vec![vec![10, 0, 0, number].into()],
        ..Workload::default()
    }
}

pub(crate) fn policy(name: &str) -> Authorization {
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::Namespace.into(),
        ..Authorization::default()
    }
}
