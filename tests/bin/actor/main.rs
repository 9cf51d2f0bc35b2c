//! The process that a test puts into a pod. It opens real sockets there, as it is told on standard
//! input, and answers on standard output (`tests::protocol`).
//!
//! It moves itself into the pod's cgroup and namespace before its first thread; with reduced
//! capabilities it then starts itself anew through `setpriv`, so that nothing it runs gets them
//! back.

mod bpf;
mod connections;
mod hammer;
mod listeners;
mod resolvers;
mod sockets;
mod transfer;
mod uring;

use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use clap::Parser;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use parking_lot::Mutex;
use tests::protocol::{Envelope, Failure, Request, Response};

use crate::connections::Connections;
use crate::listeners::Listeners;
use crate::resolvers::Resolvers;

/// What a container does not see of its node.
const NODE_FOLDERS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/bpf"];

#[derive(Parser)]
#[command(about = "Opens sockets inside a pod for a test")]
struct Arguments {
    /// Network namespace to enter.
    #[arg(long, required_unless_present = "inside")]
    netns: Option<PathBuf>,
    /// Cgroup to enter.
    #[arg(long, required_unless_present = "inside")]
    cgroup: Option<PathBuf>,
    /// Capabilities to keep; all if not given.
    #[arg(long, value_delimiter = ',')]
    capabilities: Option<Vec<String>>,
    /// Folders to hide when capabilities are reduced.
    #[arg(long)]
    hide: Vec<PathBuf>,
    /// Everything is entered already.
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let (false, Some(netns), Some(cgroup)) =
        (arguments.inside, &arguments.netns, &arguments.cgroup)
    {
        enter(netns, cgroup)?;
        if let Some(capabilities) = &arguments.capabilities {
            return confine(capabilities, &arguments.hide);
        }
    }
    serve()
}

fn enter(netns: &Path, cgroup: &Path) -> anyhow::Result<()> {
    let namespace = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("enter the cgroup {}", cgroup.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", netns.display()))
}

/// Hides the node's folders and becomes a process with these capabilities only.
fn confine(capabilities: &[String], hidden: &[PathBuf]) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("find the own program")?;
    unshare(CloneFlags::CLONE_NEWNS).context("leave the mount namespace")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("make the mounts private")?;
    // What the program itself lies in must stay visible; a test's binaries are elsewhere.
    for folder in NODE_FOLDERS.iter().map(Path::new).chain(hidden.iter().map(PathBuf::as_path)) {
        if folder.exists() {
            mount(Some("none"), folder, Some("tmpfs"), MsFlags::MS_RDONLY, nothing)
                .with_context(|| format!("hide {}", folder.display()))?;
        }
    }
    let error = Command::new("setpriv")
        .arg(format!("--bounding-set=-all,+{}", capabilities.join(",+")))
        .arg("--inh-caps=-all")
        .arg(program)
        .arg("--inside")
        .exec();
    Err(error).context("start setpriv (package util-linux)")
}

/// All that an actor owns.
#[derive(Default)]
struct State {
    connections: Connections,
    listeners: Listeners,
    resolvers: Resolvers,
}

fn serve() -> anyhow::Result<()> {
    let state = Arc::new(State::default());
    let output = Arc::new(Mutex::new(std::io::stdout()));
    // The end of the input is the end of the test: sockets close, threads end.
    for line in std::io::stdin().lock().lines() {
        let Envelope { id, body } =
            serde_json::from_str(&line.context("read a request")?).context("parse a request")?;
        let (state, output) = (state.clone(), output.clone());
        thread::Builder::new()
            .spawn(move || {
                let body = answer(&state, body).unwrap_or_else(Response::Failed);
                let Ok(line) = serde_json::to_string(&Envelope { id, body }) else { return };
                let mut output = output.lock();
                // If nobody reads any more, the input ends too.
                let _ = writeln!(output, "{line}").and_then(|()| output.flush());
            })
            .context("start a thread")?;
    }
    Ok(())
}

fn answer(state: &State, request: Request) -> Result<Response, Failure> {
    let State { connections, listeners, resolvers } = state;
    match request {
        Request::Listen { address, behaviour } => listeners.listen(address, behaviour),
        Request::StopListening { listener } => listeners.stop(listener),
        Request::Report { listener } => listeners.report(listener),
        Request::Connect { target, options } => connections.connect(target, &options),
        Request::Send { connection, data } => connections.send(connection, &data.0),
        Request::Receive { connection, amount, timeout_ms } => {
            connections.receive(connection, amount, timeout_ms)
        }
        Request::ShutdownWrite { connection } => connections.shutdown_write(connection),
        Request::Close { connection } => connections.close(connection),
        Request::Reset { connection } => connections.reset(connection),
        Request::Hold { target, options, count } => Ok(connections.hold(target, &options, count)),
        Request::Transfer { target, options, upload, read_bytes_per_second } => {
            transfer::run(target, &options, upload, read_bytes_per_second)
        }
        Request::Hammer(hammer) => hammer::run(&hammer),
        Request::Shell { command } => shell(&command),
        Request::SendUdp { target, data, options } => {
            sockets::send_udp(target, &data.0, &options)?;
            Ok(Response::Done)
        }
        Request::Ask { questions, connected, options } => {
            sockets::ask(&questions, connected, &options)
        }
        Request::Resolve { address, mark } => resolvers.resolve(address, mark),
        Request::Asked { resolver } => resolvers.asked(resolver),
        Request::Bpf { command, attributes, netns_at } => {
            bpf::call(command, &attributes.0, netns_at)
        }
    }
}

fn shell(command: &str) -> Result<Response, Failure> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failure::io("shell", &error))?;
    Ok(Response::Shell {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
