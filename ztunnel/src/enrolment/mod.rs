//! Kubernetes says which pods are captured: the driver of `core/enrol`.
//!
//! `uninstall` is the end of all that. `watch` and `sandboxes` hear the API server and the container runtime, `find` looks for a pod in the
//! kernel, `kernel` acts through capture, `objects` writes at the API server, and `driver` is the loop
//! between them. It decides nothing.

mod driver;
mod find;
mod kernel;
mod objects;
mod sandboxes;
mod uninstall;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use api_server::{ApiClient, Query};
use cni_node::{CniSocket, InstallSettings, NodeInstaller};
use model::TrustDomain;
use svid::SvidStore;
use tokio::task::JoinSet;

use crate::capture::{Capture, HostView};
use crate::config::{Config, KubernetesSettings};
use driver::Driver;
pub(crate) use driver::EnrolmentView;
use find::Finder;
use kernel::Captor;
use objects::ApiObjects;
use sandboxes::{Certificates, NodeSandboxes};
use tokio::sync::watch::channel as watch_channel;
pub(crate) use uninstall::Uninstall;

/// How long the plugin waits for an answer; the runtime waits for minutes.
const PLUGIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// The user whose requests are served.
const ROOT: u32 = 0;

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
}

/// What runs.
pub(crate) struct Enrolling {
    tasks: JoinSet<()>,
    view: EnrolmentView,
    uninstall: Uninstall,
}

impl Enrolling {
    /// How it stands.
    pub(crate) fn view(&self) -> EnrolmentView {
        self.view.clone()
    }

    /// Ends it: nobody is enrolled or let go any more. What is left to do is to look whether the product
    /// is being uninstalled.
    pub(crate) async fn stop(mut self) -> Uninstall {
        self.tasks.shutdown().await;
        let told = self.view.told();
        let annotated = told.pods.iter().filter(|report| report.source.is_some());
        let targets = annotated.filter_map(|report| {
            let name = report.name.as_ref()?;
            let (namespace, name) = (name.namespace.to_string(), name.name.to_string());
            Some(enrol::Target { uid: report.uid.clone(), namespace, name })
        });
        Uninstall { targets: targets.collect(), ..self.uninstall }
    }
}

/// Starts everything. Pods of an earlier agent must have been adopted. When this returns, sandboxes are
/// served.
pub(crate) fn start(parts: Parts<'_>) -> Result<Enrolling, EnrolmentError> {
    let Parts { config, settings, host, capture, svids } = parts;
    let mut tasks = JoinSet::new();
    let api = ApiClient::in_cluster()?;
    let (sender, gone) = watch_channel(false);
    let owner = (config.agent.namespace.clone(), config.agent.name.clone());
    let mut following = JoinSet::new();
    following.spawn(uninstall::follow_owner(api.clone(), owner.0, owner.1, sender));
    let finder = Finder::new(host, settings.netns_dir.clone(), config.bypass.clone());
    let kernel = Arc::new(Captor::new(capture.clone(), finder));
    let objects = ApiObjects::new(api.clone(), &config.node_name);
    let certificates = Certificates::new(svids);
    let (driver, inputs, view) = Driver::new(
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
        objects: objects.clone(),
        certificates,
        inputs,
    };
    let of_node = Query {
        field_selector: Some(format!("spec.nodeName={}", config.node_name)),
        ..Query::all("/api/v1/pods")
    };
    let (pods, watching) = api_server::watch(api.clone(), of_node);
    tasks.spawn(watching);
    let (namespaces, watching) = api_server::watch(api, Query::all("/api/v1/namespaces"));
    tasks.spawn(watching);
    tasks.spawn(driver.run(pods, namespaces));
    // Ends with its task: whoever waits is told that the agent stops by the connection's end.
    tasks.spawn(socket.serve(Arc::new(sandboxes), std::future::pending()));
    install(settings, &mut tasks)?;
    let uninstall = Uninstall {
        gone,
        following,
        capture,
        objects,
        installer: installer(settings)?,
        targets: Vec::new(),
        folders: vec![config.bpf_pin_dir.clone(), config.run_dir.clone(), config.state_dir.clone()],
        host_proc: settings.host_proc.clone(),
    };
    Ok(Enrolling { tasks, view, uninstall })
}

/// Puts the plugin onto the node and keeps it there.
fn install(settings: &KubernetesSettings, tasks: &mut JoinSet<()>) -> Result<(), EnrolmentError> {
    let Some(mut installer) = installer(settings)? else { return Ok(()) };
    let mut report = installer.report();
    tasks.spawn(async move { installer.run(std::future::pending()).await });
    tasks.spawn(async move {
        while report.changed().await.is_ok() {
            let state = report.borrow_and_update().state.clone();
            tracing::info!(?state, "the CNI plugin's place on the node");
        }
    });
    Ok(())
}

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
