//! Programs of the `tests` crate that people start: the demo and the benchmark.
//!
//! The program replaces this process, so that signals (Ctrl-C) and the exit code are its own and
//! nothing stands between it and the terminal while it takes its network namespaces down.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::arguments::Usage;
use crate::step::{run, step};
use crate::workspace::{cargo, target};
use crate::{cluster, ebpf, image, setup};

/// The crates whose binaries the demo, the benchmark and the privileged tests start. Always built
/// together: the features of shared dependencies, and so the artifacts, stay the same.
pub(crate) const CRATES: [&str; 5] = ["ztunnel", "control-plane", "cli", "warren-cni", "tests"];
/// Speed near `release` without its link time.
pub(crate) const PROFILE: &str = "fast";
/// Tells a program of `tests` where `ztunnel`, `warren` and its own actors are.
pub(crate) const BINARIES_VARIABLE: &str = "WARREN_BIN_DIR";

pub(crate) fn demo(arguments: &[String]) -> anyhow::Result<()> {
    if arguments.iter().any(|argument| argument == "--kubernetes") {
        return demo_on_kubernetes(arguments);
    }
    start("demo", arguments)
}

/// With the tools, the images and the charts of the tier `cluster`.
fn demo_on_kubernetes(arguments: &[String]) -> anyhow::Result<()> {
    setup::install()?;
    ebpf::build()?;
    let tools = cluster::tools()?;
    build_all()?;
    let images = image::build_for_cluster(&tools, &binaries())?;
    let logs = target().join("cluster-logs");
    let places = [
        (cluster::TOOLS_VARIABLE, tools),
        (image::IMAGES_VARIABLE, images),
        (cluster::LOGS_VARIABLE, logs),
    ];
    become_program("demo", arguments, &places)
}

pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    match arguments.first().map(String::as_str) {
        Some("quick" | "node") => start("bench", arguments),
        // It asks nothing of the machine: neither root nor the eBPF programs.
        Some("core" | "control-plane") => {
            build(&["--package", "tests", "--bin", "bench"])?;
            become_program("bench", arguments, &[])
        }
        _ => Err(Usage::new("bench takes: quick, core, control-plane, node").into()),
    }
}

fn start(program: &str, arguments: &[String]) -> anyhow::Result<()> {
    setup::install()?;
    ebpf::build()?;
    build_all()?;
    become_program(program, arguments, &[])
}

fn build_all() -> anyhow::Result<()> {
    let packages = CRATES.iter().flat_map(|name| ["--package", name]);
    let what: Vec<&str> = ["--bins"].into_iter().chain(packages).collect();
    build(&what)
}

fn build(what: &[&str]) -> anyhow::Result<()> {
    step("build", || run(cargo().args(["build", "--profile", PROFILE]).args(what)))
}

fn become_program(
    program: &str,
    arguments: &[String],
    places: &[(&str, PathBuf)],
) -> anyhow::Result<()> {
    let binaries = binaries();
    let path = binaries.join(program);
    let error = Command::new(&path)
        .args(arguments.iter().map(OsStr::new))
        .env(BINARIES_VARIABLE, &binaries)
        .envs(places.iter().map(|(name, place)| (name, place)))
        .exec();
    Err(error).with_context(|| format!("start {}", path.display()))
}

/// Where the binaries of the profile `fast` are.
pub(crate) fn binaries() -> PathBuf {
    target().join(PROFILE)
}
