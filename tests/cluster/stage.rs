//! What most scenarios begin with, and words that they share.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use serde_json::Value;
use tests::{Kubernetes, Room};

/// Until a pod of an image that is there runs and is Ready.
pub(crate) const START: Duration = Duration::from_mins(1);
/// Until what the control plane tells decides: agents hear of a change within a second.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);
/// From a label to captured pods: the promise is 2 s, and asking takes a part of one.
pub(crate) const CAPTURED: Duration = Duration::from_secs(3);
/// Refuses plaintext in a namespace.
pub(crate) const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                                 metadata: {name: strict, namespace: NAMESPACE}\n\
                                 spec: {mtls: {mode: STRICT}}\n";

/// Whether the charts are installed now. One test at a time looks.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// The shared cluster with both charts, installed by helm if nobody did.
pub(crate) fn installed() -> anyhow::Result<&'static Kubernetes> {
    let cluster = Kubernetes::shared()?;
    let mut installed = INSTALLED.lock();
    if !*installed {
        cluster.install_product()?;
        *installed = true;
    }
    Ok(cluster)
}

/// Two pods on two nodes, captured.
pub(crate) fn pair(
    cluster: &'static Kubernetes,
    name: &str,
) -> anyhow::Result<(Room<'static>, Value, Value)> {
    let room = Room::new(cluster, name, true)?;
    let server = room.pod("server", "node1")?;
    let client = room.pod("client", "node2")?;
    cluster.wait_until_captured(&[&server, &client], CAPTURED)?;
    Ok((room, server, client))
}

/// Uninstalls the product; whoever needs it next installs it again.
pub(crate) fn uninstall(cluster: &Kubernetes) -> anyhow::Result<()> {
    *INSTALLED.lock() = false;
    cluster.uninstall_product()
}

/// One of the example policies.
pub(crate) fn example(name: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The address of a pod that is Ready, with a port.
pub(crate) fn at(pod: &Value, port: u16) -> String {
    format!("{}:{port}", pod["status"]["podIP"].as_str().unwrap_or_default())
}

/// Fails unless every question of a report was answered.
pub(crate) fn all_answered(report: &Value) -> anyhow::Result<()> {
    ensure!(report["failed"] == 0 && report["answered"] != 0, "{report}");
    Ok(())
}

/// Fails unless no question of a report was answered.
pub(crate) fn none_answered(report: &Value) -> anyhow::Result<()> {
    ensure!(report["answered"] == 0 && report["failed"] != 0, "{report}");
    Ok(())
}
