//! A folder of manifests, as an operator without Kubernetes keeps it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::mesh::ServiceSpec;
use crate::pod::Pod;

/// The folder. Each call replaces one file in one step.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    pub(crate) fn create(folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Writes a file of any text.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let (draft, file) = (self.folder.join(format!(".{name}.new")), self.folder.join(name));
        fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
        fs::rename(&draft, &file).with_context(|| format!("replace {}", file.display()))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let file = self.folder.join(name);
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    /// Writes the pods, each in the file of its name, and their namespaces, which are in the mesh.
    pub fn pods<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) -> anyhow::Result<()> {
        for pod in pods {
            self.write(&format!("pod-{}.yaml", pod.name()), &pod_manifest(pod))?;
            let text = format!(
                "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {}\n  labels:\n    \
                 istio.io/dataplane-mode: ambient\n",
                pod.namespace()
            );
            self.write(&format!("namespace-{}.yaml", pod.namespace()), &text)?;
        }
        Ok(())
    }

    /// Writes a service that selects the pods of a service account by their label `app`.
    pub fn service(&self, service: &ServiceSpec, app: &str) -> anyhow::Result<()> {
        let ServiceSpec { name, namespace, vips, ports, .. } = service;
        let vips: Vec<_> = vips.iter().map(|vip| format!("\"{vip}\"")).collect();
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec:\n  selector: {{app: {app}}}\n  clusterIP: {}\n  clusterIPs: [{}]\n  ports:\n",
            vips.first().map_or("None", String::as_str),
            vips.join(", ")
        );
        for (port, target) in ports {
            writeln!(text, "  - {{name: p{port}, port: {port}, targetPort: {target}}}")?;
        }
        self.write(&format!("service-{name}.yaml"), &text)
    }
}

/// What an API server would say of a pod that runs.
fn pod_manifest(pod: &Pod) -> String {
    let redirected = if pod.is_hbone() {
        "\n  annotations: {ambient.istio.io/redirection: enabled}"
    } else {
        ""
    };
    let mode = if pod.is_hbone() { "" } else { ", istio.io/dataplane-mode: none" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         uid: {uid}\n  labels: {{app: {name}{mode}}}{redirected}\nspec:\n  nodeName: node-{node}\n  \
         serviceAccountName: {account}\n  containers: [{{name: app}}]\nstatus:\n  phase: Running\n  \
         podIP: {v4}\n  podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]\n  \
         conditions: [{{type: Ready, status: \"True\"}}]\n",
        name = pod.name(),
        namespace = pod.namespace(),
        uid = pod.uid(),
        node = pod.node(),
        account = pod.account(),
        v4 = pod.ipv4(),
        v6 = pod.ipv6(),
    )
}
