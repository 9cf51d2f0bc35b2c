//! The folder and the cgroup of a cluster, and the process that ends it when nobody else can.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};

use super::pki;
use crate::cgroup;
use crate::wait::binary;

/// Where the cluster of this machine is. Only root writes there.
const PLACE: &str = "/run/warren-test-cluster";
const CGROUP: &str = "warren-test-cluster";
/// Names the folder with `bin` (Kubernetes' parts, etcd, helm) and `root` (Debian's packages).
const TOOLS_VARIABLE: &str = "WARREN_CLUSTER_TOOLS";
/// Names the folder of image archives that every node gets.
const IMAGES_VARIABLE: &str = "WARREN_IMAGES";
/// Names the folder of logs, which outlive the cluster.
const LOGS_VARIABLE: &str = "WARREN_CLUSTER_LOGS";
/// How much of a log's end an error quotes, in lines.
const TAIL_LINES: usize = 12;

/// A cluster's place on this machine. Dropping it ends the cluster and removes everything but logs;
/// so does the end of this process.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    logs: PathBuf,
    cgroup: PathBuf,
    keeper: Child,
    /// What the keeper says, a line for each step.
    said: BufReader<ChildStdout>,
}

impl Folder {
    /// Waits for an earlier cluster to end, then makes everything that a cluster starts with.
    pub(super) fn make(nodes: u32) -> anyhow::Result<Self> {
        let (path, cgroup) = (PathBuf::from(PLACE), cgroup::mount()?.join(CGROUP));
        let (tools, images) = (named(TOOLS_VARIABLE)?, named(IMAGES_VARIABLE)?);
        let logs = std::env::var_os(LOGS_VARIABLE)
            .map_or_else(|| std::env::temp_dir().join("warren-test-cluster-logs"), PathBuf::from);
        let mut keeper = Command::new(scripts().join("keep.sh"))
            .args([&path, &logs, &cgroup])
            .arg(nodes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the tests; the keeper has work left then.
            .process_group(0)
            .spawn()
            .context("start the keeper of a cluster")?;
        let said = BufReader::new(keeper.stdout.take().context("the keeper's output")?);
        let mut folder = Self { path, logs, cgroup, keeper, said };
        folder.hear("made")?;
        for (name, target) in [("tools", &tools), ("images", &images), ("logs", &folder.logs)] {
            symlink(target, folder.path.join(name)).with_context(|| format!("link {name}"))?;
        }
        fs::copy(binary("cluster-runtime")?, folder.path.join("runtime"))
            .context("copy runc's wrapper")?;
        pki::write(&folder.path.join("pki"), nodes)?;
        Ok(folder)
    }

    /// Lets the cluster start; an error with the reason if this machine cannot have one.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let input = self.keeper.stdin.as_mut().context("the keeper's input")?;
        input.write_all(b"start\n").context("tell the keeper to start")?;
        self.hear("started")
    }

    /// The keeper says this word, or in its place why not.
    fn hear(&mut self, word: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.said.read_line(&mut line).context("hear from the keeper")?;
        match line.trim() {
            said if said == word => Ok(()),
            "" => bail!("the cluster's keeper has ended without a word"),
            why => bail!("{why}"),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The ends of the logs whose name begins so, for an error.
    pub(super) fn tails(&self, beginning: &str) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(&self.logs).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            if !name.starts_with(beginning) || log.is_empty() {
                continue;
            }
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
            // Writing to a string does not fail.
            let _ = write!(text, "\nthe end of {}:\n  {tail}", entry.path().display());
        }
        text
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // A keeper that is gone has left everything to the next one: nothing to be done here.
        let _ = self.keeper.wait();
    }
}

/// The scripts that run inside.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/nodes")
}

fn named(variable: &str) -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os(variable).filter(|folder| !folder.is_empty());
    let folder = folder.with_context(|| {
        format!("{variable} is not set; `cargo xtask test --tier cluster` sets it")
    })?;
    let folder = PathBuf::from(folder);
    ensure!(folder.is_dir(), "{variable} is {}, which is no folder", folder.display());
    Ok(folder)
}
