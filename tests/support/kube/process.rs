//! The processes of an API server, and who ends them when nobody else can.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How much of a log's end an error quotes.
const TAIL_BYTES: u64 = 4096;
/// Waits for the end of its input, which is the end of this process however it comes; then ends
/// what still runs and removes the folder.
const KEEPER: &str =
    r#"cat >/dev/null; kill -9 $(cat "$1"/*.pid 2>/dev/null) 2>/dev/null; rm -rf "$1""#;

/// A folder for an API server's state that outlives neither the server nor this process. A server
/// that all tests of a suite share is never dropped, and a test may be killed: so a process beside
/// this one does the removing.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    keeper: Child,
}

impl Folder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("warren-kube-").tempdir();
        let path = folder.context("make a folder for an API server")?.keep();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the tests; the keeper has work left then.
            .process_group(0)
            .spawn()
            .context("start the keeper of an API server's folder")?;
        Ok(Self { path, keeper })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // A keeper that is gone has left the folder in the temporary one: nothing to be done here.
        let _ = self.keeper.wait();
    }
}

/// A process with a log. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    log: PathBuf,
    pid_file: PathBuf,
}

impl Process {
    /// Starts `program` with its log and its pid file in `folder`; a second start goes on in the
    /// same log.
    pub(super) fn start(
        folder: &Path,
        program: &Path,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("open {}", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share a log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let pid_file = folder.join(format!("{name}.pid"));
        let process = Self { child, log, pid_file };
        // A line each: the keeper reads all of them as one text.
        fs::write(&process.pid_file, format!("{}\n", process.child.id()))
            .context("write a pid file")?;
        Ok(process)
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("look after a process")
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id()).context("a process id")?;
        kill(Pid::from_raw(id), Signal::SIGTERM).context("ask a process to end")
    }

    /// The end of its log.
    pub(super) fn tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let tail = read().unwrap_or_else(|error| error.to_string());
        format!("the end of {}:\n{tail}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Before the number can be another process's.
        let _ = fs::remove_file(&self.pid_file);
    }
}

/// Ports of the loopback interface that are free now.
pub(super) fn free_ports<const COUNT: usize>() -> anyhow::Result<[u16; COUNT]> {
    // All are held at once, or the kernel could give one of them twice.
    let mut listeners = Vec::with_capacity(COUNT);
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        *port = listener.local_addr().context("ask for a port")?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
