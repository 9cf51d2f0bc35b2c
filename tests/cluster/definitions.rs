//! The chart of definitions: what it finds, what it leaves alone, what it leaves behind.

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::Kubernetes;

use crate::stage::installed;

/// A release beside the shared one, so that the shared one is not disturbed.
const RELEASE: &str = "definitions-tested";
const KIND: &str = "customresourcedefinition";
const NAME: &str = "workloadentries.networking.istio.io";

fn definition(cluster: &Kubernetes) -> anyhow::Result<Value> {
    cluster.get(KIND, "", NAME)?.with_context(|| format!("{NAME} is gone"))
}

#[test]
fn definitions_of_others_are_used_as_they_are_and_outlive_every_release() -> anyhow::Result<()> {
    let cluster = installed()?;
    let before = definition(cluster)?;
    ensure!(before["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", "{before}");

    // All of them belong to another release: foreign ones.
    let chart = Kubernetes::chart("warren-crds");
    cluster.helm(["install", RELEASE, &chart, "--namespace", "default"])?;
    let manifest = cluster.helm(["get", "manifest", RELEASE, "--namespace", "default"])?;
    ensure!(!manifest.contains("CustomResourceDefinition"), "it took over a foreign one");
    cluster.helm(["uninstall", RELEASE, "--namespace", "default"])?;
    let after = definition(cluster)?;
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "it was replaced");

    // One that a newer chart wrote is not taken back.
    let newer = "warren.dev/chart-version=99.0.0";
    cluster.kubectl(["annotate", "--overwrite", KIND, NAME, newer, "tested=newer"])?;
    cluster.helm(["upgrade", "warren-crds", &chart, "--namespace", "istio-system"])?;
    let kept = definition(cluster)?;
    ensure!(
        kept["metadata"]["annotations"]["warren.dev/chart-version"] == "99.0.0",
        "a newer one was downgraded: {kept}"
    );
    let own = "warren.dev/chart-version=0.0.1";
    cluster.kubectl(["annotate", "--overwrite", KIND, NAME, own, "tested-"])?;
    // The annotation is kubectl's now.
    let upgrade = ["upgrade", "warren-crds", &chart, "--namespace", "istio-system"];
    cluster.helm(upgrade.into_iter().chain(["--force-conflicts"]))?;
    let upgraded = definition(cluster)?;
    let version = &upgraded["metadata"]["annotations"]["warren.dev/chart-version"];
    ensure!(version != "0.0.1" && upgraded["metadata"]["uid"] == before["metadata"]["uid"]);

    cluster.helm(["uninstall", "warren-crds", "--namespace", "istio-system"])?;
    ensure!(
        definition(cluster)?["metadata"]["uid"] == before["metadata"]["uid"],
        "definitions must outlive their release: policies go with them"
    );
    cluster.helm(["install", "warren-crds", &chart, "--namespace", "istio-system"])?;
    Ok(())
}
