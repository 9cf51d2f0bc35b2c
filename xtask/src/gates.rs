//! The cheap gates: what a machine can tell about a change before any test of it runs.

use std::path::PathBuf;

use crate::arguments::none;
use crate::step::{run, step};
use crate::workspace::{cargo, root};
use crate::{layers, manifests, test};

/// Workspaces of their own beside the main one.
const SATELLITES: [&str; 2] = ["ebpf-programs", "fuzz"];

/// `cargo xtask ci`: the gates and the core tests. Needs no root and no eBPF toolchain.
pub(crate) fn ci(arguments: &[String]) -> anyhow::Result<()> {
    none(arguments)?;
    all()?;
    test::core_only()
}

/// Stops at the first gate that fails: what follows would only repeat it.
pub(crate) fn all() -> anyhow::Result<()> {
    step("fmt", format)?;
    step("layers", layers::check)?;
    step("manifests", manifests::check_states)?;
    step("clippy", || {
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    step("doc", || {
        run(cargo()
            .args(["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"))
    })
}

fn format() -> anyhow::Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    for manifest in satellites() {
        run(cargo().args(["fmt", "--check", "--manifest-path"]).arg(manifest))?;
    }
    Ok(())
}

/// Manifests of the workspaces that exist beside the main one.
fn satellites() -> impl Iterator<Item = PathBuf> {
    SATELLITES
        .iter()
        .map(|name| root().join(name).join("Cargo.toml"))
        .filter(|manifest| manifest.exists())
}
