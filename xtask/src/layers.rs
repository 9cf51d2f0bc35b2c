//! Checks the rules that keep the architecture and that the compiler cannot hold.
//!
//! `law` is the data: which crate may import which, and where each external crate lives. `edges`
//! holds cargo's view of the workspace against it, `sources` the text of our files, `documents`
//! what ARCHITECTURE.md says about both.

mod documents;
mod edges;
mod law;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::arguments::none;
use crate::step::output;
use crate::workspace::{cargo, root};

/// What the product runs on. `cargo metadata` would also count crates whose feature is off, so
/// the graph comes from `cargo tree`.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
const MAP: &str = "ARCHITECTURE.md";

pub(crate) fn verb(arguments: &[String]) -> anyhow::Result<()> {
    none(arguments)?;
    check()?;
    println!("layers: every rule holds");
    Ok(())
}

/// Fails with every broken rule, one a line.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = root();
    let crates = edges::members(&metadata(&root.join("Cargo.toml"))?);
    let mut broken = edges::check(&crates);
    let programs = root.join("ebpf-programs/Cargo.toml");
    if programs.exists() {
        broken.extend(edges::check(&edges::members(&metadata(&programs)?)));
    }
    for platform in PLATFORMS {
        broken.extend(edges::banned(&resolved(platform)?, platform));
    }
    for member in &crates {
        let manifest = member.folder.join("Cargo.toml");
        broken.extend(sources::check_lints(&show(&manifest, &root), &read(&manifest)?));
    }
    for file in rust_files(&root)? {
        broken.extend(sources::check_file(&show(&file, &root), &read(&file)?));
    }
    broken.extend(sources::check_toolchain_files(|path| root.join(path).exists()));
    let map = read(&root.join(MAP))?;
    broken.extend(documents::check_paths(&map, |path| root.join(path).exists()));
    broken.extend(documents::check_table(&map));
    if broken.is_empty() {
        return Ok(());
    }
    bail!("broken rules:\n  {}", broken.join("\n  "))
}

fn metadata(manifest: &Path) -> anyhow::Result<serde_json::Value> {
    let text = output(
        cargo()
            .args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"])
            .arg(manifest),
    )?;
    serde_json::from_str(&text).context("read cargo metadata")
}

/// Names of all crates that are built for this platform.
fn resolved(platform: &str) -> anyhow::Result<Vec<String>> {
    let text = output(cargo().args([
        "tree",
        "--workspace",
        "--target",
        platform,
        "--prefix=none",
        "--format={p}",
        "--no-dedupe",
    ]))?;
    let mut names: Vec<_> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Our source files, build output left out.
fn rust_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders: Vec<_> = law::SOURCE_FOLDERS.iter().map(|name| root.join(name)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() || folder.ends_with("target") {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// A path as people write it: from the root, with slashes.
fn show(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}
