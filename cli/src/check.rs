//! `warren check --pre`: has the agent's binary look whether an agent could work here.
//!
//! This program does not look itself. What counts is what the agent's binary, with its programs, its
//! settings and its capabilities, meets; a second opinion could only differ. Nothing is changed.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use crate::output::Format;
use crate::{Failed, Finding};

/// The agent's binary, which is installed beside this one.
const AGENT: &str = "ztunnel";

/// Exit codes of the agent's binary.
const CANNOT_WORK: i32 = 1;

pub(crate) async fn run(agent: Option<&Path>, format: Format) -> Result<Finding, Failed> {
    let agent = agent.map_or_else(beside, Path::to_owned);
    let mut command = Command::new(&agent);
    command.args(["check", "--pre", "--output", format.name()]).stdin(Stdio::null());
    let status = command.kill_on_drop(true).status().await;
    let status = status.map_err(|error| {
        Failed::NoAgent(format!("cannot run {}: {error}; see --agent", agent.display()))
    })?;
    finding(&agent, status)
}

/// In this program's folder, or where the shell would find it.
fn beside() -> PathBuf {
    let own = std::env::current_exe().ok();
    let sibling = own.and_then(|own| Some(own.parent()?.join(AGENT)));
    sibling.filter(|path| path.is_file()).unwrap_or_else(|| AGENT.into())
}

/// Only what it says clearly is a finding: one that does not know the verb has not looked.
fn finding(agent: &Path, status: ExitStatus) -> Result<Finding, Failed> {
    match status.code() {
        Some(0) => Ok(Finding::Good),
        Some(CANNOT_WORK) => Ok(Finding::Bad),
        Some(_) | None => Err(Failed::NoAgent(format!("{} ended with {status}", agent.display()))),
    }
}
