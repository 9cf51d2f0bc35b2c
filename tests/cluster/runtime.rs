//! What containerd of a test node calls in place of runc: takes out of a container what this machine
//! cannot give, then becomes runc.
//!
//! Where the machine's controllers belong to cgroup v1, v2 has none to set limits with. And root
//! itself may lack a capability that is asked for.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// Names the runc that is wrapped.
const REAL_VARIABLE: &str = "WARREN_REAL_RUNTIME";
/// Kinds of limits, and the controllers that hold them.
const LIMITS: [(&str, &str); 6] = [
    ("cpu", "cpu"),
    ("memory", "memory"),
    ("pids", "pids"),
    ("hugepageLimits", "hugetlb"),
    ("blockIO", "io"),
    ("unified", "memory"),
];
/// The capability that root may lack, and its bit.
const SYS_RESOURCE: (&str, u32) = ("CAP_SYS_RESOURCE", 24);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    if words.iter().any(|word| word == "create" || word == "run") {
        let bundle = words.iter().position(|word| word == "--bundle").map(|at| at + 1);
        let bundle = bundle.and_then(|at| words.get(at)).context("runc create without a bundle")?;
        adapt(&Path::new(&**bundle).join("config.json"))?;
    }
    let real = env::var_os(REAL_VARIABLE).with_context(|| format!("{REAL_VARIABLE} is not set"))?;
    let error = Command::new(&real).args(&arguments).exec();
    Err(error).with_context(|| format!("become {}", PathBuf::from(real).display()))
}

fn adapt(path: &Path) -> anyhow::Result<()> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let mut config: Value = serde_json::from_slice(&text).context("read the container's config")?;
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let controllers = controllers.context("read the controllers of cgroup v2")?;
    let controllers: BTreeSet<_> = controllers.split_whitespace().collect();
    if let Some(resources) = config["linux"]["resources"].as_object_mut() {
        for (limit, _) in LIMITS.iter().filter(|(_, needs)| !controllers.contains(needs)) {
            resources.remove(*limit);
        }
    }
    if !may(SYS_RESOURCE.1)? {
        let sets = config["process"]["capabilities"].as_object_mut().into_iter().flatten();
        for set in sets.filter_map(|(_, set)| set.as_array_mut()) {
            set.retain(|name| name != SYS_RESOURCE.0);
        }
    }
    // Not in place: a part of a file would be read as a container without limits of any kind.
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, config.to_string()).context("write the container's config")?;
    fs::rename(&fresh, path).context("put the container's config in its place")
}

/// Whether processes of this node may have the capability.
fn may(bit: u32) -> anyhow::Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("read our own status")?;
    let Some(mask) = status.lines().find_map(|line| line.strip_prefix("CapBnd:")) else {
        bail!("the kernel names no bounding set");
    };
    let mask = u64::from_str_radix(mask.trim(), 16).context("read the bounding set")?;
    Ok(mask & (1 << bit) != 0)
}
