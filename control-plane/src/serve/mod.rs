//! Serves discovery, and beside it whatever other services are given, to who proved who they are.
//!
//! There is no plaintext port. A connection is one task, a stream of discovery another; each stream
//! drives one machine of `core/xds`. What is published is one immutable value that all of them
//! look at, so a slow client never holds another back.

mod clients;
mod discovery;
mod listener;
mod metrics;
mod peer;
mod publisher;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tls::ServerTls;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::caller::Authenticate;

pub use clients::{ClientStatus, Clients};
pub use listener::{
    ACCEPT_PAUSE, CONNECTIONS_MAX, CONNECTIONS_OF_ADDRESS_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX,
    HANDSHAKES_OF_ADDRESS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAMS_MAX,
};
pub use metrics::Metrics;
pub use peer::Peer;
pub use publisher::{CatalogView, Publisher};
pub use stream::{FIRST_HELD, FIRST_RESPONSES_MAX, POLICY_WAIT};

/// How connections are treated.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// After how long a connection is asked to come again, give or take a quarter: so clients
    /// spread over replicas, and those that came together do not come together again.
    pub connection_age: Duration,
    /// How long a connection is kept on which nobody proved yet who they are. Then it is closed: it
    /// would hold its place for as long as it answers keepalives.
    pub first_call: Duration,
    /// How often the join token of an open stream is looked at again.
    pub recheck: Duration,
    /// How long a connection has to end once it was asked to, and how long a graceful stop takes.
    pub drain: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            connection_age: Duration::from_mins(30),
            first_call: Duration::from_secs(10),
            recheck: Duration::from_secs(10),
            drain: Duration::from_secs(10),
        }
    }
}

/// What is served, to whom.
pub struct Serving {
    /// Where.
    pub listeners: Vec<TcpListener>,
    /// Our certificate, and whose certificates are believed.
    pub tls: ServerTls,
    /// Who calls.
    pub authenticator: Arc<dyn Authenticate>,
    /// What discovery serves.
    pub catalog: CatalogView,
    /// Further services. [`Credentials::of_call`](crate::caller::Credentials::of_call) tells them
    /// what a call came with.
    pub services: Routes,
    /// Who is connected.
    pub clients: Clients,
    /// What is counted.
    pub metrics: Metrics,
    /// How connections are treated.
    pub settings: ServeSettings,
}

/// Serves until `stop` is cancelled, then moves clients away: listeners close at once, connections
/// are told to go within half of [`ServeSettings::drain`], and closed at its end.
pub async fn serve(serving: Serving, stop: CancellationToken) {
    listener::run(serving, stop).await;
}
