//! A control plane for tests: real gRPC on real sockets, and everything it says can be told.
//!
//! It runs in this process, on a thread of its own. Its listeners may be in any network namespace:
//! one on the loopback of each node is what an agent there connects to.

mod ca;
mod resources;
mod xds;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

pub use ca::{IssuedCertificate, Mood, TestCa};
pub use resources::{policy, principal, workload};
pub use xds::{Asked, TestXds, Update, XdsService};

use crate::namespace::Namespace;

/// Where agents find it on their node's loopback.
pub const CONTROL_PLANE_PORT: u16 = 15012;
/// Connections accepted and not served yet.
const ACCEPTED_MAX: usize = 64;

/// A running control plane. Dropping it closes its listeners and connections.
#[derive(Debug)]
pub struct ControlPlane {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ControlPlane {
    /// Listens on the loopback of each namespace, on [`CONTROL_PLANE_PORT`].
    pub fn listen_in<'a>(
        namespaces: impl IntoIterator<Item = &'a Namespace>,
    ) -> anyhow::Result<Vec<TcpListener>> {
        let listen = |namespace: &Namespace| -> anyhow::Result<TcpListener> {
            let address = SocketAddr::from(([127, 0, 0, 1], CONTROL_PLANE_PORT));
            netns::within(namespace.fd(), || TcpListener::bind(address))
                .context("enter a node's namespace")?
                .with_context(|| format!("listen on {address}"))
        };
        namespaces.into_iter().map(listen).collect()
    }

    /// Serves on the given listeners.
    pub fn start(listeners: Vec<TcpListener>, ca: &TestCa, xds: &TestXds) -> anyhow::Result<Self> {
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let routes = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .add_service(ca.service())
            .add_service(xds.service());
        let serve = move || {
            runtime.block_on(async move {
                let (accepted, incoming) = mpsc::channel(ACCEPTED_MAX);
                for listener in listeners {
                    tokio::spawn(accept(listener, accepted.clone()));
                }
                tokio::select! {
                    _ = routes.serve_with_incoming(ReceiverStream::new(incoming)) => {}
                    _ = stopped => {}
                }
            });
            // Connections are tasks of their own: they end with the runtime.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("control-plane".to_owned()).spawn(serve)?;
        Ok(Self { addresses, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; the test fails by what is missing.
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: TcpListener,
    accepted: mpsc::Sender<std::io::Result<tokio::net::TcpStream>>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let stream = listener.accept().await.map(|(stream, _)| stream);
        if accepted.send(stream).await.is_err() {
            return;
        }
    }
}
