//! One node of a cluster: commands in it, and its end and its coming back.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::wait::{eventually, wait_until};

/// How long a node's processes may take to end once they are killed.
const OFF_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node may take to have its namespaces and its network.
const ON_TIMEOUT: Duration = Duration::from_secs(20);

/// A node.
#[derive(Clone, Debug)]
pub struct KubeNode {
    name: String,
    folder: PathBuf,
    cgroup: PathBuf,
}

impl KubeNode {
    pub(super) fn new(name: String, folder: &Path, cgroup: &Path) -> Self {
        Self { cgroup: cgroup.join(&name), folder: folder.to_owned(), name }
    }

    /// Its name in the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command in the node: its files, network, processes and cgroups, but in a cgroup that is
    /// neither the kubelet's nor a pod's.
    pub fn command(&self, program: &str) -> anyhow::Result<Command> {
        let node = self.first_process()?;
        let tools = self.folder.join("tools");
        let mut path = tools.join("root/usr/bin").into_os_string();
        for folder in ["bin", "root/usr/sbin"] {
            path.push(":");
            path.push(tools.join(folder));
        }
        path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo 0 >"$1" && shift && exec "$@""#, "enter"])
            .arg(self.cgroup.join("commands/cgroup.procs"))
            .args(["nsenter", "--target", &node.to_string(), "--all", "--"])
            .arg(program)
            .env("PATH", path)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a program in the node and waits.
    pub fn output(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    ) -> anyhow::Result<Output> {
        let mut command = self.command(program)?;
        command.args(arguments).output().with_context(|| format!("run {program} in {}", self.name))
    }

    /// What a program said that must succeed there.
    pub fn run(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    ) -> anyhow::Result<String> {
        let output = self.output(program, arguments)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{program} in {} ended with {}: {}",
            self.name,
            output.status,
            complaint.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a line of shell there.
    pub fn shell(&self, line: &str) -> anyhow::Result<String> {
        self.run("sh", ["-c", line])
    }

    /// Cuts the power: everything in it ends at once, and it stays off. Its disk stays.
    pub fn power_off(&self) -> anyhow::Result<()> {
        fs::write(self.switch("off"), "").context("keep a node off")?;
        fs::write(self.cgroup.join("cgroup.kill"), "1").context("kill a node")?;
        let is_off = || !self.switch("up").exists();
        ensure!(wait_until(OFF_TIMEOUT, is_off), "{} does not end", self.name);
        Ok(())
    }

    /// Boots it again.
    pub fn power_on(&self) -> anyhow::Result<()> {
        fs::remove_file(self.switch("off")).context("let a node start")?;
        eventually(&format!("{} has booted", self.name), ON_TIMEOUT, || {
            let is_up = self.switch("up").exists() && self.first_process().is_ok();
            Ok(is_up.then_some(()))
        })
    }

    /// Off and on.
    pub fn reboot(&self) -> anyhow::Result<()> {
        self.power_off()?;
        self.power_on()
    }

    /// Sends SIGKILL to the first process of every container with this name, and says to how many.
    pub fn kill_container(&self, name: &str) -> anyhow::Result<usize> {
        let line = format!(
            "for id in $(ctr --namespace k8s.io containers list --quiet \
               'labels.\"io.kubernetes.container.name\"=={name}'); do \
               ctr --namespace k8s.io tasks kill --signal SIGKILL $id 2>/dev/null && echo $id; done"
        );
        Ok(self.shell(&line)?.lines().count())
    }

    /// The process that all others of it come from.
    pub(super) fn first_process(&self) -> anyhow::Result<u32> {
        first_process(&self.cgroup.join("system"), 3)
            .with_context(|| format!("find {}: it may be off", self.name))
    }

    fn switch(&self, kind: &str) -> PathBuf {
        self.folder.join("control").join(format!("{}.{kind}", self.name))
    }
}

/// The process of a cgroup that is the first of a PID namespace so many deep.
pub(super) fn first_process(cgroup: &Path, depth: usize) -> anyhow::Result<u32> {
    let pids = fs::read_to_string(cgroup.join("cgroup.procs"))
        .with_context(|| format!("list the processes of {}", cgroup.display()))?;
    for pid in pids.lines() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let Some(numbers) = status.lines().find_map(|line| line.strip_prefix("NSpid:")) else {
            continue;
        };
        let numbers: Vec<_> = numbers.split_whitespace().collect();
        if numbers.len() == depth && numbers.last() == Some(&"1") {
            return pid.parse().context("read a process id");
        }
    }
    anyhow::bail!("there is no first process in {}", cgroup.display())
}
