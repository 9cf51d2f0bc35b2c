//! The command-line tool `warren`, run against one agent.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::namespace::Namespace;
use crate::wait::binary;

/// What `warren` answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit code; -1 if a signal ended it.
    pub status: i32,
    /// Standard output as JSON; null if it is no single value.
    pub json: Value,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// The JSON of a success; an error that holds what was said otherwise.
    pub fn ok(self) -> anyhow::Result<Value> {
        let Self { status, json, stdout, stderr } = self;
        ensure!(status == 0, "warren ended with {status}: {} {}", stderr.trim(), stdout.trim());
        Ok(json)
    }
}

/// Runs it and waits.
pub(crate) fn run(socket: &Path, arguments: &[&str]) -> anyhow::Result<Answer> {
    answer(&mut command(socket, arguments)?)
}

/// Runs `warren cp` and waits.
pub(crate) fn ask_control_plane(socket: &Path, arguments: &[&str]) -> anyhow::Result<Answer> {
    let mut command = Command::new(binary("warren")?);
    command.arg("cp").args(arguments).arg("--cp-socket").arg(socket).stdin(Stdio::null());
    answer(&mut command)
}

/// Runs `warren check --pre` for an agent's program, with nothing but its settings around it.
pub(crate) fn preflight<'a>(
    namespace: &Namespace,
    agent: &Path,
    settings: impl Iterator<Item = (&'a str, &'a str)>,
) -> anyhow::Result<Answer> {
    let mut command = Command::new(binary("warren")?);
    command.args(["check", "--pre", "--agent"]).arg(agent).env_clear().envs(settings);
    namespace.within(|| answer(command.stdin(Stdio::null())))?
}

fn answer(command: &mut Command) -> anyhow::Result<Answer> {
    let output = command.output().context("start warren")?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Answer {
        status: output.status.code().unwrap_or(-1),
        json: serde_json::from_str(&stdout).unwrap_or_default(),
        stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Starts it for output that keeps coming, such as `flows -f`.
pub(crate) fn follow(socket: &Path, arguments: &[&str]) -> anyhow::Result<Child> {
    command(socket, arguments)?.stdout(Stdio::piped()).spawn().context("start warren")
}

fn command(socket: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("warren")?);
    command.arg("--socket").arg(socket).args(arguments).stdin(Stdio::null());
    Ok(command)
}
