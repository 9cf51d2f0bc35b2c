//! Builds the eBPF programs and puts the objects where `ztunnel`'s build script takes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::arguments::none;
use crate::step::{run, step};
use crate::toolchain::{compiler, linker};
use crate::workspace::{cargo, root};

/// The binaries of `ebpf-programs`: one object for a pod's cgroup, one for its netns.
const OBJECTS: [&str; 2] = ["pod-cgroup", "pod-netns"];
const TARGET: &str = "bpfel-unknown-none";

pub(crate) fn verb(arguments: &[String]) -> anyhow::Result<()> {
    none(arguments)?;
    build()
}

pub(crate) fn build() -> anyhow::Result<()> {
    step("ebpf", || {
        let compiler = compiler().context("run `cargo xtask setup`")?;
        let linker = linker().ok_or_else(|| anyhow!("no bpf-linker: run `cargo xtask setup`"))?;
        println!("    rustc {} ({})", compiler.version, compiler.rustc.display());
        let output = output_folder();
        let flags = format!("-Clinker={}\x1f-Clink-arg=--btf\x1f-Cdebuginfo=2", linker.display());
        run(cargo()
            .current_dir(root().join("ebpf-programs"))
            .args(["build", "--release", "-Z", "build-std=core", "--target", TARGET])
            .env("RUSTC", &compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env("CARGO_TARGET_DIR", &output)
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER"))?;
        for object in OBJECTS {
            let built = output.join(TARGET).join("release").join(object);
            let wanted = root().join("target/ebpf").join(format!("{object}.o"));
            if copy_if_changed(&built, &wanted)? {
                println!("    {} is new", wanted.display());
            }
        }
        Ok(())
    })
}

/// A folder of its own: another target, another compiler, another `core`.
fn output_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(shared) => root().join(shared).join("ebpf-programs"),
        None => root().join("ebpf-programs/target"),
    }
}

/// An unchanged object keeps its time stamp, so that `ztunnel` is not built again for nothing.
fn copy_if_changed(from: &Path, to: &Path) -> anyhow::Result<bool> {
    let new = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(to, new).with_context(|| format!("write {}", to.display()))?;
    Ok(true)
}
