//! What an API server is for, beside its objects: what is written back to it.

use std::path::Path;
use std::sync::Arc;

use kube::config::{KubeConfigOptions, Kubeconfig};
use tls::ServerTls;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::config::Config;
use crate::status::StatusWriter;
use crate::status::lease::{self, Leadership};
use crate::status::trust_bundle::{Place, TrustBundle};
use crate::watch::Problems;
use crate::webhook;

/// Name of the Lease that writers stand for.
const LEASE: &str = "warren-control-plane";

/// The client of a kubeconfig, or of the cluster that we run in.
pub(super) async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client, AppError> {
    let wrong = |error: &dyn std::error::Error| AppError::Kubernetes(model::causes(error));
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(|error| wrong(&error))?
        }
        None => kube::Config::incluster().map_err(|error| wrong(&error))?,
    };
    kube::Client::try_from(config).map_err(|error| wrong(&error))
}

/// What is written back, or served to the API server.
pub(super) struct WriteBack {
    pub(super) statuses: StatusWriter,
    pub(super) bundle: watch::Receiver<Arc<str>>,
    pub(super) crl: Option<watch::Receiver<Arc<str>>>,
    pub(super) problems: Problems,
    pub(super) tls: ServerTls,
}

/// Starts the writers and the webhook. Who leads is returned.
pub(super) async fn write_back(
    config: &Config,
    client: &kube::Client,
    what: WriteBack,
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> Result<Leadership, AppError> {
    let WriteBack { statuses, bundle, crl, problems, tls } = what;
    let arguments = &config.arguments;
    let identity = match arguments.pod_name.as_str() {
        "" => format!("control-plane-{:016x}", rand::random::<u64>()),
        name => name.to_owned(),
    };
    let (election, leadership) =
        lease::stand(client.clone(), &arguments.namespace, LEASE, &identity);
    {
        let stop = stop.clone();
        parts.spawn(async move {
            election.run(stop).await;
            "the election"
        });
    }
    {
        let (client, leadership, stop) = (client.clone(), leadership.clone(), stop.clone());
        parts.spawn(async move {
            statuses.run(client, leadership, stop).await;
            "the writer of statuses"
        });
    }
    let roots = [(Place::ROOTS, bundle.clone())];
    let crl = crl.map(|crl| (Place::REVOCATIONS, crl));
    for (place, bundle) in roots.into_iter().chain(crl) {
        let published = TrustBundle { place, bundle, problems: problems.clone() };
        let (client, leadership, stop) = (client.clone(), leadership.clone(), stop.clone());
        parts.spawn(async move {
            published.run(client, leadership, stop).await;
            "the publisher of the trust bundle"
        });
    }
    let address = arguments.webhook_listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| AppError::Listen { address, source })?;
    let settings = watch::channel(Arc::new(config.settings.clone())).1;
    {
        let stop = stop.clone();
        parts.spawn(async move {
            webhook::serve(listener, tls, settings, stop).await;
            "the webhook"
        });
    }
    if !arguments.webhook_name.is_empty() {
        let roots = webhook::CaBundle { name: arguments.webhook_name.clone(), bundle };
        let (client, leadership, stop) = (client.clone(), leadership.clone(), stop.clone());
        parts.spawn(async move {
            roots.run(client, leadership, stop).await;
            "the webhook's roots"
        });
    }
    Ok(leadership)
}
