//! Kubernetes says which pods are captured: the driver of `core/enrol`.
//!
//! `watch` and `sandboxes` hear the API server and the container runtime, `find` looks for a pod in the
//! kernel, `kernel` acts through capture, `objects` writes at the API server, `view` tells how it stands,
//! and `driver` is the loop between them. It decides nothing. `taint` lets pods come to the node, and
//! `uninstall` is the end of all that.

mod driver;
mod find;
mod kernel;
mod objects;
mod sandboxes;
mod taint;
mod uninstall;
mod view;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use api_server::{ApiClient, Query};
use cni_node::{CniSocket, InstallReport, InstallSettings, NodeInstaller};
use model::TrustDomain;
use svid::SvidStore;
use tokio::task::JoinSet;

use crate::capture::{Capture, HostView};
use crate::config::{Config, KubernetesSettings};
use daemon::Readiness;
use driver::{Driver, Followed};
use find::Finder;
use kernel::Captor;
use objects::ApiObjects;
use sandboxes::{Certificates, NodeSandboxes};
use taint::NodeTaint;
use tokio::sync::watch::{Receiver, channel as watch_channel};
use tokio_util::sync::CancellationToken;
pub(crate) use uninstall::Uninstall;
pub(crate) use view::EnrolmentView;

/// How long the plugin waits for an answer; the runtime waits for minutes.
const PLUGIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// The user whose requests are served.
const ROOT: u32 = 0;
/// What an agent waits for before it is ready: lists of the API server.
const FIRST_PODS: &str = "the first list of this node's pods";
const FIRST_NAMESPACES: &str = "the first list of namespaces";

/// Why enrolment cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The API server's address or our account.
    #[error("how the API server is reached")]
    Api(#[from] api_server::ApiError),
    /// The plugin's socket.
    #[error("opening the CNI plugin's socket")]
    Socket(#[from] cni_node::BindError),
    /// What the plugin is told.
    #[error("what the CNI plugin is told")]
    Plugin(#[from] cni::SettingsError),
}

/// What enrolment is built from.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) settings: &'a KubernetesSettings,
    pub(crate) host: HostView,
    pub(crate) capture: Capture,
    pub(crate) svids: SvidStore,
    pub(crate) uninstall: Uninstall,
    /// Waits for the API server until it was read once.
    pub(crate) readiness: Readiness,
}

/// What runs. None of it ends by itself.
pub(crate) struct Enrolling {
    tasks: JoinSet<()>,
    /// The installer, whose look cannot be aborted.
    installing: JoinSet<()>,
    stop_installing: CancellationToken,
    view: EnrolmentView,
    uninstall: Uninstall,
}

impl Enrolling {
    /// How it stands.
    pub(crate) fn view(&self) -> EnrolmentView {
        self.view.clone()
    }

    /// Resolves when a part of it has ended, which is a fault: the rest would seem to work. Cancel safe.
    pub(crate) async fn broke(&mut self) {
        let ended = tokio::select! {
            Some(ended) = self.tasks.join_next() => ended,
            Some(ended) = self.installing.join_next() => ended,
            else => Ok(()),
        };
        let error = ended.err().map(|error| error.to_string());
        tracing::error!(error, "a part of enrolment has ended");
    }

    /// Ends it: nobody is enrolled or let go any more, and nothing is put onto the node. What is left to do
    /// is to look whether the product is being uninstalled.
    pub(crate) async fn stop(mut self) -> Uninstall {
        self.tasks.shutdown().await;
        self.stop_installing.cancel();
        // As long as a look takes.
        while self.installing.join_next().await.is_some() {}
        self.uninstall
    }
}

/// What can be removed from the node from now on. Nothing is until somebody asks.
pub(crate) fn uninstall(
    config: &Config,
    settings: &KubernetesSettings,
    capture: &Capture,
) -> Result<Uninstall, EnrolmentError> {
    let api = ApiClient::in_cluster()?;
    let (sender, gone) = watch_channel(false);
    let (namespace, name) = (config.agent.namespace.clone(), config.agent.name.clone());
    let mut following = JoinSet::new();
    following.spawn(uninstall::follow_owner(api.clone(), namespace, name, sender));
    Ok(Uninstall {
        gone,
        following,
        objects: ApiObjects::new(api.clone(), &config.node_name),
        api,
        capture: capture.clone(),
        installer: installer(settings)?,
        folders: vec![config.bpf_pin_dir.clone(), config.run_dir.clone(), config.state_dir.clone()],
        host_proc: settings.host_proc.clone(),
    })
}

/// Starts everything. Pods of an earlier agent must have been adopted. When this returns, sandboxes are
/// served, also before the API server was read.
pub(crate) fn start(parts: Parts<'_>) -> Result<Enrolling, EnrolmentError> {
    let Parts { config, settings, host, capture, svids, uninstall, readiness } = parts;
    let mut tasks = JoinSet::new();
    let (api, objects) = (uninstall.api.clone(), uninstall.objects.clone());
    let hooked = capture.hooked();
    let finder = Finder::new(host, hooked, settings.netns_dir.clone(), config.bypass.clone());
    let kernel = Arc::new(Captor::new(capture, finder));
    let certificates = Certificates::new(svids);
    let (driver, inputs, mut view) = Driver::new(
        enrol::Settings {
            excluded_namespaces: excluded(settings),
            dns_capture: config.dns_capture,
        },
        Arc::clone(&kernel),
        objects.clone(),
        certificates.clone(),
    );
    let socket = CniSocket::bind(&settings.cni_socket, ROOT)?;
    let sandboxes = NodeSandboxes {
        excluded: excluded(settings),
        trust_domain: config.trust_domain.clone(),
        kernel,
        objects,
        certificates,
        inputs,
        outside: view.outside.clone(),
    };
    view.answers = Some(socket.answers());
    let of_node = Query {
        field_selector: Some(format!("spec.nodeName={}", config.node_name)),
        ..Query::all("/api/v1/pods")
    };
    let (pods, watching) = api_server::watch(api.clone(), of_node);
    tasks.spawn(watching);
    let all = Query::all("/api/v1/namespaces");
    let (namespaces, watching) = api_server::watch(api.clone(), all);
    tasks.spawn(watching);
    let pods = Followed::new(pods, readiness.wait_for(FIRST_PODS));
    let namespaces = Followed::new(namespaces, readiness.wait_for(FIRST_NAMESPACES));
    tasks.spawn(driver.run(pods, namespaces));
    // Ends with its task: whoever waits is told that the agent stops by the connection's end.
    tasks.spawn(socket.serve(Arc::new(sandboxes), std::future::pending()));
    let (mut installing, stop_installing) = (JoinSet::new(), CancellationToken::new());
    if let Some(mut installer) = installer(settings)? {
        view.install = Some(installer.report());
        tasks.spawn(log_install(installer.report()));
        let stop = stop_installing.clone();
        installing.spawn(async move { installer.run(stop.cancelled()).await });
    }
    if settings.node_taint {
        let (node, view) = (config.node_name.clone(), view.clone());
        tasks.spawn(NodeTaint { api, node, readiness, view }.run());
    }
    Ok(Enrolling { tasks, installing, stop_installing, view, uninstall })
}

/// Writes how the plugin's place on the node changes, until its installer ends.
async fn log_install(mut report: Receiver<InstallReport>) {
    while report.changed().await.is_ok() {
        let state = report.borrow_and_update().state.clone();
        tracing::info!(?state, "the CNI plugin's place on the node");
    }
}

/// Who puts the plugin onto the node, keeps it there and takes it away.
fn installer(settings: &KubernetesSettings) -> Result<Option<NodeInstaller>, EnrolmentError> {
    let Some(cni) = &settings.cni else { return Ok(None) };
    let socket = settings.cni_socket.to_string_lossy();
    let names = settings.excluded_namespaces.iter().map(String::as_str);
    let plugin = cni::PluginSettings::new(&socket, names, PLUGIN_TIMEOUT)?;
    Ok(Some(NodeInstaller::new(InstallSettings {
        conf_dir: cni.conf_dir.clone(),
        bin_dir: cni.bin_dir.clone(),
        program: cni.program.clone(),
        plugin,
    })))
}

fn excluded(settings: &KubernetesSettings) -> BTreeSet<cluster::Text> {
    settings.excluded_namespaces.iter().map(|name| name.as_str().into()).collect()
}

/// The identity of a pod that no control plane has told of yet.
fn identity(
    trust_domain: &TrustDomain,
    pod: &cluster::Pod,
) -> Result<model::SpiffeId, model::IdentityError> {
    model::SpiffeId::new(trust_domain, &pod.metadata.namespace, pod.service_account())
}
