//! What the tier `cluster` needs beside Kubernetes: a container runtime, the usual CNI plugins, helm
//! and a DNS server. Kept outside the clone, each by its version, and nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::kubernetes::{self, Go, alone, link};
use crate::setup::{self, find_on_path};
use crate::step::step;
use crate::workspace::cache;

/// Debian's packages that are unpacked: what a node runs.
const PACKAGES: [&str; 4] = ["containerd", "runc", "containernetworking-plugins", "busybox-static"];
/// Programs that Go builds from their module.
const MODULES: [Module; 2] = [
    Module { program: "helm", path: "helm.sh/helm/v4/cmd/helm", version: "v4.3.1" },
    Module { program: "coredns", path: "github.com/coredns/coredns", version: "v1.15.0" },
];
/// Programs of this machine that the scripts call.
const PROGRAMS: [&str; 5] = ["ip", "iptables", "nsenter", "unshare", "pgrep"];
/// Names the folder to the tests.
pub(crate) const TOOLS_VARIABLE: &str = "WARREN_CLUSTER_TOOLS";
/// Names the folder of logs to the tests. They outlive the cluster.
pub(crate) const LOGS_VARIABLE: &str = "WARREN_CLUSTER_LOGS";

struct Module {
    program: &'static str,
    path: &'static str,
    version: &'static str,
}

/// The folder with `bin` and `root`; provides it if nobody did.
pub(crate) fn tools() -> anyhow::Result<PathBuf> {
    if let Some(missing) = PROGRAMS.into_iter().find(|program| find_on_path(program).is_none()) {
        return Err(anyhow!("the nodes need {missing}, which is not there"));
    }
    let kubernetes = kubernetes::assets()?;
    let root = packages()?;
    let folder = cache().join("cluster-tools");
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    link(&root, &folder.join("root"))?;
    for program in kubernetes::PARTS.into_iter().chain(["etcd"]) {
        link(&kubernetes.join(program), &bin.join(program))?;
    }
    for module in &MODULES {
        link(&program(module)?, &bin.join(module.program))?;
    }
    Ok(folder)
}

/// helm alone, for whoever renders the charts.
pub(crate) fn helm() -> anyhow::Result<PathBuf> {
    program(&MODULES[0])
}

/// A program of a module, built once for its version.
fn program(module: &Module) -> anyhow::Result<PathBuf> {
    let folder = cache().join(format!("{}-{}", module.program, module.version));
    let built = folder.join(module.program);
    if !built.exists() {
        let go = kubernetes::go().map_err(|why| anyhow!("{} needs Go: {why}", module.program))?;
        step(module.program, || {
            alone(&folder, &built, |unfinished| go_install(&go, module, unfinished))
        })?;
    }
    Ok(built)
}

fn go_install(go: &Go, module: &Module, unfinished: &Path) -> anyhow::Result<()> {
    println!("    {} {}; some minutes the first time", module.path, module.version);
    let folder = unfinished.with_extension("bin");
    let mut command = go.command();
    command
        .current_dir("/")
        .args(["install", "-v", "-trimpath", "-ldflags", "-s -w"])
        .arg(format!("{}@{}", module.path, module.version))
        .env("GOBIN", &folder);
    kubernetes::watched(&mut command)?;
    fs::rename(folder.join(module.program), unfinished).context("take what was built")
}

/// Unpacked, not installed: installing them would start services, now and at every boot. For each
/// release of Debian once; its updates within a release change nothing that is tested here.
fn packages() -> anyhow::Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = release.lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    let release = release.unwrap_or("unknown").trim_matches('"');
    let folder = cache().join(format!("node-debian-{release}"));
    let root = folder.join("root");
    if !root.exists() {
        step("packages of a node", || {
            alone(&folder, &root, |unfinished| {
                // One that was cut short may have left some behind.
                if unfinished.exists() {
                    fs::remove_dir_all(unfinished).context("remove what was cut short")?;
                }
                setup::unpack(&PACKAGES, unfinished)
            })
        })?;
    }
    Ok(root)
}
