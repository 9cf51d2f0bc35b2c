//! The cluster itself: what every other test takes for granted.

use std::time::Duration;

use anyhow::ensure;
use tests::Kubernetes;

/// Until the DNS server is Ready.
const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn nodes_are_ready_and_names_resolve() -> anyhow::Result<()> {
    let cluster = Kubernetes::shared()?;
    println!("nodes Ready after {:.1} s", cluster.ready_after().as_secs_f64());
    cluster.wait_for_pods("kube-system", "k8s-app=kube-dns", 1, TIMEOUT)?;
    for node in cluster.nodes() {
        let kubelet = node.shell("cat /sys/fs/cgroup/kubelet/cgroup.procs")?;
        ensure!(kubelet.lines().count() == 1, "the kubelet is not alone: {kubelet}");
    }
    Ok(())
}
