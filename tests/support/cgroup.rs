//! Cgroups of the unified hierarchy: making them, and emptying and removing a tree of them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::teardown::ensure_open;
use crate::wait::wait_until;

/// Processes that were killed may take this long to be gone.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where cgroup2 is mounted, from `/proc/self/mountinfo`.
pub fn mount() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    for line in mounts.lines() {
        // Field 5 is the mount point; the file system's type follows the separator.
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        if let (true, Some(point)) = (filesystem.starts_with("cgroup2 "), mount.split(' ').nth(4)) {
            return Ok(point.into());
        }
    }
    bail!("no cgroup2 is mounted; pods need one")
}

pub(crate) fn create(path: &Path) -> anyhow::Result<()> {
    ensure_open()?;
    fs::create_dir(path).with_context(|| format!("create the cgroup {}", path.display()))
}

/// Kills everything in a cgroup and below it, and removes the tree. Fine if it does not exist.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    signal_all(path);
    let mut cause = None;
    let gone = wait_until(EXIT_TIMEOUT, || match remove_tree(path) {
        Ok(()) => true,
        Err(error) => {
            cause = Some(error);
            false
        }
    });
    match cause {
        Some(error) if !gone => {
            Err(error).with_context(|| format!("remove the cgroup {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Kills everything in a cgroup and below it, and waits until nothing is left.
pub(crate) fn kill(path: &Path) -> anyhow::Result<()> {
    signal_all(path);
    let is_empty = || {
        let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        !events.lines().any(|line| line == "populated 1")
    };
    ensure!(wait_until(EXIT_TIMEOUT, is_empty), "processes of {} remain", path.display());
    Ok(())
}

fn signal_all(path: &Path) {
    // Linux 5.14; before that, each process of the tree.
    if fs::write(path.join("cgroup.kill"), "1").is_err() {
        kill_each(path);
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn kill_each(path: &Path) {
    let pids = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        // It may have ended by itself.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            kill_each(&entry.path());
        }
    }
}
