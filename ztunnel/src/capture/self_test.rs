//! The proof that a pod is captured: connections through its own hooks, made by a child process.
//!
//! The child first plays a stranger: from the neutral cgroup it dials the pod and must reach the
//! plaintext listener. Then it plays the application: from a leaf cgroup below the pod's (with hooks on the
//! root, below the neutral one, which is exempt from them by its exact id) it dials a
//! documentation address (RFC 5737, RFC 3849) and must reach the outbound listener, with exactly
//! that original destination. Reaching it is proved by a token that only the agent knows.
//! Nothing leaves the pod: a connection that is not captured meets a port or a network without an
//! answer, and the test fails by its time limit.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use model::causes;
use netns::{NetnsFd, within};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::agent_cgroup::{Cgroup, CgroupError};
use super::cgroup_child;
use super::pending::{Expected, PendingTests, Token};

/// Bytes of the agent's answer.
pub(super) const TOKEN_BYTES: usize = 16;
/// Longest time for one connection of the child. It never leaves the namespace.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for the whole child: four connections and a process start.
const TEST_TIMEOUT: Duration = Duration::from_secs(12);
/// A request or report is some hundred bytes; more than this is cut and does not parse.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
/// Tries to remove the temporary cgroup; the child may be leaving it still. After that it stays,
/// empty, until the pod's own cgroup is removed.
const REMOVE_TRIES: u32 = 200;
/// A sandbox waits for it, and the child is gone in less.
const REMOVE_PAUSE: Duration = Duration::from_millis(1);
/// Nonce ports: above the mesh's own and below the usual ephemeral range.
const NONCE_PORTS: std::ops::Range<u16> = 20_000..30_000;

pub(super) const DOCUMENTATION_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const DOCUMENTATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Arguments of the hidden subcommand; everything else comes by standard input.
#[derive(clap::Args, Debug, Default)]
pub struct Arguments {}

/// What the child is to do, in JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    namespace: PathBuf,
    namespace_inode: u64,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Step {
    name: String,
    cgroup: PathBuf,
    cgroup_id: u64,
    destination: SocketAddr,
    token: Token,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    failure: Option<String>,
}

/// Why a pod is not proved to be captured.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The temporary cgroup.
    #[error("cannot prepare the test's cgroup")]
    Cgroup(#[from] CgroupError),
    /// The child could not be started or talked to.
    #[error("cannot {operation} the testing process")]
    Child {
        /// `start`, `order`, `read` …
        operation: &'static str,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// No answer in time.
    #[error("the testing process did not end within {TEST_TIMEOUT:?}")]
    Timeout,
    /// The child ended without a report.
    #[error("the testing process ended without a report: {0}")]
    NoReport(String),
    /// A connection did not reach the agent.
    #[error("{0}")]
    NotCaptured(String),
}

/// What is tested.
pub(super) struct Subject<'a> {
    pub(super) namespace: &'a NetnsFd,
    /// Below which a process is captured: the pod's cgroup.
    pub(super) cgroup: &'a Cgroup,
    /// A cgroup without a role, in which a process is not captured.
    pub(super) neutral: &'a Cgroup,
    /// The pod's address of each family it has.
    pub(super) addresses: &'a [IpAddr],
    /// Whether what comes in is captured.
    pub(super) incoming: Incoming,
    /// The program that has the `self-test` subcommand: the agent's own.
    pub(super) program: &'a Path,
}

/// What the test has to say of incoming connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// They reach the agent, but on these ports.
    Proved {
        /// Excluded ports.
        except: Vec<u16>,
    },
    /// They reach the application.
    LeftAlone,
}

/// Tests both directions for each family of the pod.
pub(super) async fn test(
    subject: &Subject<'_>,
    pending: &PendingTests,
) -> Result<(), SelfTestError> {
    let nonce: u32 = rand::random();
    let leaf = TemporaryCgroup::create(subject.cgroup, nonce)?;
    let mut steps = Vec::new();
    // Dropped at the end: what was not dialled is expected no longer.
    let mut expectations = Vec::new();
    for &address in subject.addresses {
        let documentation: IpAddr =
            if address.is_ipv4() { DOCUMENTATION_V4.into() } else { DOCUMENTATION_V6.into() };
        let outbound = SocketAddr::new(documentation, nonce_port());
        let namespace = subject.namespace.inode();
        let mut add = |name: String, cgroup: &Cgroup, expected: Expected, destination| {
            let guard = pending.expect(expected);
            steps.push(Step {
                name,
                cgroup: cgroup.path().to_owned(),
                cgroup_id: cgroup.id(),
                destination,
                token: guard.token(),
            });
            expectations.push(guard);
        };
        if let Incoming::Proved { except } = &subject.incoming {
            let port = std::iter::repeat_with(nonce_port).find(|port| !except.contains(port));
            let inbound = SocketAddr::new(address, port.unwrap_or(NONCE_PORTS.start));
            add(
                format!("inbound connection to {inbound}"),
                subject.neutral,
                Expected::Inbound { namespace, destination: inbound },
                inbound,
            );
        }
        add(
            format!("outbound connection to {outbound}"),
            &leaf.0,
            Expected::Outbound { namespace, destination: outbound },
            outbound,
        );
    }
    let order = Order {
        namespace: descriptor_path(subject.namespace),
        namespace_inode: subject.namespace.inode(),
        steps,
    };
    let report = run_child(subject.program, &order).await;
    leaf.remove().await;
    match report?.failure {
        None => Ok(()),
        Some(failure) => Err(SelfTestError::NotCaptured(failure)),
    }
}

async fn run_child(program: &Path, order: &Order) -> Result<Report, SelfTestError> {
    let failed = |operation| move |cause| SelfTestError::Child { operation, cause };
    let mut child = Command::new(program)
        .arg("self-test")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start"))?;
    let answered = tokio::time::timeout(TEST_TIMEOUT, converse(&mut child, order)).await;
    let report = answered.map_err(|_| SelfTestError::Timeout).and_then(|report| report);
    if report.is_err() {
        // Its cgroup can be removed only when it has left.
        child.kill().await.map_err(failed("end"))?;
    }
    report
}

async fn converse(child: &mut Child, order: &Order) -> Result<Report, SelfTestError> {
    let failed = |operation| move |cause| SelfTestError::Child { operation, cause };
    let text = serde_json::to_vec(order).map_err(|e| failed("order")(e.into()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text).await.map_err(failed("order"))?;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let mut bounded = stdout.take(MESSAGE_BYTES_MAX);
        bounded.read_to_end(&mut answer).await.map_err(failed("read"))?;
    }
    let status = child.wait().await.map_err(failed("await"))?;
    serde_json::from_slice(&answer).map_err(|_| SelfTestError::NoReport(status.to_string()))
}

/// A path by which a child finds a descriptor of this process. The agent's own descriptor and not
/// the path of the enrolment, which may name something else by now.
fn descriptor_path(namespace: &NetnsFd) -> PathBuf {
    use std::os::fd::{AsFd, AsRawFd};
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd()).into()
}

pub(super) fn nonce_port() -> u16 {
    rand::random_range(NONCE_PORTS)
}

/// A leaf below the pod's cgroup. The pod's own may have controllers delegated to its children, and
/// then admits no process itself (cgroup-v2, "No Internal Process Constraint").
struct TemporaryCgroup(Cgroup);

impl TemporaryCgroup {
    fn create(parent: &Cgroup, nonce: u32) -> Result<Self, CgroupError> {
        let path = parent.path().join(format!("warren-self-test-{nonce:08x}"));
        Cgroup::create(&path).map(Self)
    }

    async fn remove(self) {
        for _ in 0..REMOVE_TRIES {
            if std::fs::remove_dir(self.0.path()).is_ok() {
                return;
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
    }
}

impl Drop for TemporaryCgroup {
    fn drop(&mut self) {
        // After `remove` it is gone already; a test that is given up kills its child, which may
        // linger, and then the folder stays until the pod goes.
        let _ = std::fs::remove_dir(self.0.path());
    }
}

/// The child's side: the hidden subcommand.
#[must_use]
pub fn run(_: &Arguments) -> ExitCode {
    let mut text = Vec::new();
    let order = io::stdin()
        .take(MESSAGE_BYTES_MAX)
        .read_to_end(&mut text)
        .and_then(|_| serde_json::from_slice::<Order>(&text).map_err(io::Error::from));
    let failure = match order {
        Ok(order) => obey(&order).err(),
        Err(error) => Some(format!("cannot read the order: {error}")),
    };
    let code = if failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let written = serde_json::to_writer(io::stdout(), &Report { failure });
    if written.is_err() { ExitCode::FAILURE } else { code }
}

fn obey(order: &Order) -> Result<(), String> {
    let namespace = NetnsFd::open(&order.namespace).map_err(|error| error.to_string())?;
    if namespace.inode() != order.namespace_inode {
        return Err(format!("{} is another namespace now", order.namespace.display()));
    }
    for step in &order.steps {
        take(step, &namespace).map_err(|error| format!("{} {error}", step.name))?;
    }
    Ok(())
}

/// One step, by a process of its cgroup: a child that is born there, or else this one, moved.
fn take(step: &Step, namespace: &NetnsFd) -> Result<(), String> {
    let cgroup = Cgroup::open(&step.cgroup).map_err(|error| causes(&error))?;
    let work = || {
        require_membership(step, &cgroup)?;
        within(namespace, || dial(step)).map_err(|error| causes(&error))?
    };
    cgroup_child::run(&cgroup, work).unwrap_or_else(|_| {
        cgroup.enter().map_err(|error| causes(&error))?;
        work()
    })
}

fn require_membership(step: &Step, cgroup: &Cgroup) -> Result<(), String> {
    let here = cgroup.processes().map_err(|error| causes(&error))?;
    if cgroup.id() != step.cgroup_id || !here.contains(&std::process::id()) {
        return Err(format!("finds {} to be another cgroup now", step.cgroup.display()));
    }
    Ok(())
}

fn dial(step: &Step) -> Result<(), String> {
    let mut stream = TcpStream::connect_timeout(&step.destination, STEP_TIMEOUT)
        .map_err(|error| format!("did not reach the agent: {error}"))?;
    // Errors here would show as a failed read.
    let _ = stream.set_read_timeout(Some(STEP_TIMEOUT));
    let mut answer = [0; TOKEN_BYTES];
    match stream.read_exact(&mut answer) {
        Ok(()) if answer == step.token => Ok(()),
        Ok(()) => Err("reached something else than the agent".to_owned()),
        Err(error) => Err(format!("got no answer from the agent: {error}")),
    }
}
