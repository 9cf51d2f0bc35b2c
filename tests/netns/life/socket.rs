//! The admin socket: for root alone, by its mode and by what the peer is; and what it changes is
//! logged.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use tests::{AgentOptions, Mesh, PodSpec, World};

use crate::common::House;

#[test]
fn only_root_may_ask_and_changes_are_logged() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let web = House::new(&world, PodSpec::new(1, "web"))?;
    world.set_mesh(&Mesh::new().workloads([&web.pod]))?;
    let mut agent = world.agent(1, AgentOptions::default())?;
    agent.wait_ready()?;
    let socket = agent.socket();
    let mode = fs::metadata(&socket)?.mode() & 0o7777;
    ensure!(mode == 0o600, "the socket's mode is {mode:o}");
    // Folders and program are open to everybody here, so that only the socket is in the way.
    let warren = world.folder().join("warren");
    fs::copy(tests::binaries()?.join("warren"), &warren).context("copy warren")?;
    for path in [world.folder(), agent.run_dir(), &warren] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let answer = as_nobody(&warren, &socket, &["status"])?;
    ensure!(answer.status.code() == Some(3), "the mode does not keep others out: {answer:?}");
    // Somebody opens the socket to all: the peer's credentials still count.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let enrolment = tests::Agent::enrolment(&web.pod);
    let enrolment: Vec<_> = enrolment.iter().map(String::as_str).collect();
    for words in [&["status"][..], &["pods"], &enrolment] {
        let answer = as_nobody(&warren, &socket, words)?;
        ensure!(!answer.status.success() && answer.stdout.is_empty(), "{words:?}: {answer:?}");
    }
    ensure!(agent.pods()?.is_empty(), "another user enrolled a pod");
    agent.enrol(&web.pod)?;
    agent.unenrol(&web.pod)?;
    // The log is written behind the agent's back; all of it is there when it has ended.
    agent.terminate()?;
    let log = agent.log();
    let said = |message: &str| {
        log.iter().find(|line| line["message"] == message && line["pod"] == web.pod.uid())
    };
    let enrol = said("asked to enrol a pod").context("the request to enrol is not logged")?;
    ensure!(enrol["workload"] == web.pod.workload(), "{enrol}");
    for message in ["pod enrolled", "asked to un-enrol a pod", "pod un-enrolled"] {
        ensure!(said(message).is_some(), "{message:?} is not logged");
    }
    ensure!(!socket.exists(), "the socket outlives its agent");
    let answer = agent.warren(&["status"])?;
    ensure!(answer.status == 3, "{answer:?}");
    Ok(())
}

fn as_nobody(warren: &Path, socket: &Path, words: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(warren);
    command.arg("--socket").arg(socket).args(words);
    command.output().context("start setpriv (package util-linux)")
}
