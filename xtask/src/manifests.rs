//! `cargo xtask manifests`: plain objects, rendered from the charts, for whoever has no helm.
//!
//! They are in git, so that a change of a chart shows what it changes. Each says from which state of its
//! chart it was rendered, so that a stale one is noticed by a gate that needs no helm; the tier `cluster`
//! has one, and compares every line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::arguments::Usage;
use crate::cluster;
use crate::kubernetes::fnv;
use crate::step::output;
use crate::workspace::root;

/// The charts, in the order of their installation.
const CHARTS: [&str; 2] = ["warren-crds", "warren"];
/// Where the product is installed. Agents and waypoints of others expect the control plane there.
const NAMESPACE: &str = "istio-system";
/// What the API server is taken to be, where no cluster is asked.
const KUBE_VERSION: &str = "1.36.0";

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

/// Fails if a manifest is not what its chart renders. Needs helm.
pub(crate) fn check() -> anyhow::Result<()> {
    for chart in CHARTS {
        let place = place(chart);
        if fs::read_to_string(&place).unwrap_or_default() != render(chart)? {
            bail!("{} is stale: run `cargo xtask manifests`", place.display());
        }
    }
    Ok(())
}

/// Fails if a manifest was not rendered from its chart as it is now. Needs nothing.
pub(crate) fn check_states() -> anyhow::Result<()> {
    for chart in CHARTS {
        let place = place(chart);
        let text = fs::read_to_string(&place);
        let text = text.with_context(|| format!("read {}", place.display()))?;
        if !text.starts_with(&head(chart)?) {
            bail!(
                "{} is of another state of its chart: run `cargo xtask manifests`",
                place.display()
            );
        }
    }
    Ok(())
}

/// What a manifest begins with.
fn head(chart: &str) -> anyhow::Result<String> {
    let folder = folder(chart);
    let state = state(&folder).with_context(|| format!("read {}", folder.display()))?;
    Ok(format!(
        "# Rendered from deploy/charts/{chart} by `cargo xtask manifests`: change that, not this.\n\
         # State of the chart: {state:016x}\n"
    ))
}

/// What tells one state of a folder from another: names and contents of all of its files.
fn state(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = Vec::new();
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            // Links are followed: the definitions are one.
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files {
        let name = file.strip_prefix(folder).unwrap_or(&file);
        let content = fs::read(&file)?;
        bytes.extend(name.to_string_lossy().as_bytes());
        bytes.extend(format!("\0{}\0", content.len()).into_bytes());
        bytes.extend(content);
    }
    Ok(fnv(&bytes))
}

fn folder(chart: &str) -> PathBuf {
    root().join("deploy/charts").join(chart)
}

fn place(chart: &str) -> PathBuf {
    root().join("deploy/manifests").join(format!("{chart}.yaml"))
}

fn render(chart: &str) -> anyhow::Result<String> {
    let mut command = Command::new(cluster::helm()?);
    command
        .arg("template")
        .arg(chart)
        .arg(folder(chart))
        .args(["--namespace", NAMESPACE, "--kube-version", KUBE_VERSION, "--no-hooks"])
        .arg("--set=plainManifests=true");
    Ok(format!("{}{}", head(chart)?, output(&mut command)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_of_the_charts_as_they_are() {
        check_states().expect("fresh manifests");
    }

    #[test]
    fn a_state_is_told_from_every_other() -> std::io::Result<()> {
        let folder = std::env::temp_dir().join(format!("xtask-state-{}", std::process::id()));
        fs::create_dir_all(folder.join("inside"))?;
        let mut states = Vec::new();
        for (name, content) in [("a", "x"), ("inside/b", "x"), ("a", "y"), ("a", "x\0inside")] {
            fs::write(folder.join(name), content)?;
            states.push(state(&folder)?);
        }
        fs::remove_dir_all(&folder)?;
        states.sort_unstable();
        states.dedup();
        assert_eq!(states.len(), 4);
        Ok(())
    }
}
