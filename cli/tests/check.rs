//! `warren check --pre` with agents that are shell scripts: what they are asked, and what is made of
//! their answer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// One after the other: a file that is written cannot be run, and a process that is being started by
/// another thread keeps it open for a moment.
#[test]
fn the_agents_binary_is_asked() {
    its_answer_is_the_exit_code();
    without_it_nothing_is_known();
    the_one_beside_this_program_comes_first();
    which_check_has_to_be_said();
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
}

fn told(Output { status, stdout, stderr }: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn check(program: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program);
    command.args(["check", "--pre"]).args(arguments);
    told(command.output().expect("it runs"))
}

fn warren() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_warren"))
}

fn its_answer_is_the_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = folder.path().join("agent");
    let agent_path = agent.to_str().expect("text");
    for (text, code, error) in [
        ("exit 0", 0, ""),
        ("exit 1", 1, ""),
        ("exit 2", 3, "ended with exit status: 2"),
        ("exit 101", 3, "ended with exit status: 101"),
        ("kill -9 $$", 3, "ended with signal: 9"),
    ] {
        script(&agent, &format!("echo \"$@\"\n{text}"));
        let (status, stdout, stderr) = check(&warren(), &["--agent", agent_path]);
        assert_eq!(status, Some(code), "{text}: {stderr}");
        assert_eq!(stdout, "check --pre --output table\n");
        assert!(stderr.contains(error), "{stderr}");
        assert_eq!(stderr.is_empty(), error.is_empty(), "{stderr}");
    }
    let (_, stdout, _) = check(&warren(), &["--agent", agent_path, "-o", "json"]);
    assert_eq!(stdout, "check --pre --output json\n");
}

fn without_it_nothing_is_known() {
    let (status, stdout, stderr) = check(&warren(), &["--agent", "/nowhere/ztunnel"]);
    assert_eq!((status, stdout.as_str()), (Some(3), ""));
    assert!(stderr.contains("cannot run /nowhere/ztunnel"), "{stderr}");
}

fn the_one_beside_this_program_comes_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("warren");
    fs::copy(warren(), &own).expect("copied");
    script(&folder.path().join("ztunnel"), "echo beside; exit 1");
    let (status, stdout, _) = check(&own, &[]);
    assert_eq!((status, stdout.as_str()), (Some(1), "beside\n"));
}

fn which_check_has_to_be_said() {
    let status = Command::new(warren()).arg("check").output().expect("it runs").status;
    assert_eq!(status.code(), Some(2));
}
