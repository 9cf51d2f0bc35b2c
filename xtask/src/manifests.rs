//! `cargo xtask manifests`: plain objects, rendered from the charts, for whoever has no helm.
//!
//! They are in git, so that a change of a chart shows what it changes. The tier `cluster` refuses to
//! run with stale ones.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::arguments::Usage;
use crate::cluster;
use crate::step::output;
use crate::workspace::root;

/// The charts, in the order of their installation.
const CHARTS: [&str; 2] = ["warren-crds", "warren"];
/// Where the product is installed. Agents and waypoints of others expect the control plane there.
const NAMESPACE: &str = "istio-system";
/// What the API server is taken to be, where no cluster is asked.
const KUBE_VERSION: &str = "1.36.0";
/// What the manifests begin with.
const HEAD: &str =
    "# Rendered from deploy/charts by `cargo xtask manifests`: change those, not this.\n";

pub(crate) fn verb(arguments: &[String]) -> anyhow::Result<()> {
    match arguments {
        [] => write(),
        [flag] if flag == "--check" => check(),
        _ => Err(Usage::new("manifests takes --check or nothing").into()),
    }
}

fn write() -> anyhow::Result<()> {
    for chart in CHARTS {
        let place = place(chart);
        let text = render(chart)?;
        fs::write(&place, text).with_context(|| format!("write {}", place.display()))?;
        println!("{}", place.display());
    }
    Ok(())
}

/// Fails if a manifest is not what its chart renders.
pub(crate) fn check() -> anyhow::Result<()> {
    for chart in CHARTS {
        let place = place(chart);
        if fs::read_to_string(&place).unwrap_or_default() != render(chart)? {
            bail!("{} is stale: run `cargo xtask manifests`", place.display());
        }
    }
    Ok(())
}

fn place(chart: &str) -> PathBuf {
    root().join("deploy/manifests").join(format!("{chart}.yaml"))
}

fn render(chart: &str) -> anyhow::Result<String> {
    let mut command = Command::new(cluster::helm()?);
    command
        .arg("template")
        .arg(chart)
        .arg(root().join("deploy/charts").join(chart))
        .args(["--namespace", NAMESPACE, "--kube-version", KUBE_VERSION, "--no-hooks"])
        .arg("--set=plainManifests=true");
    Ok(format!("{HEAD}{}", output(&mut command)?))
}
