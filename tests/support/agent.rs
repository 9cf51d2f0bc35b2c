//! A node's agent: the program `ztunnel` in the node's namespace, in a cgroup of its own.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::agent_log::{AccessLine, LogFile, LogMark};
use crate::cgroup;
use crate::cni_agent::{self, CniAgent};
use crate::control_plane::CONTROL_PLANE_PORT;
use crate::http;
use crate::node::Node;
use crate::pod::Pod;
use crate::wait::{binary, eventually};
use crate::warren::{self, Answer};

/// From start to `/healthz/ready`: the programs are loaded and the mesh is read.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// From SIGTERM to the end, beyond the drain time of the options.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Until a line of the access log is there.
const LOG_TIMEOUT: Duration = Duration::from_secs(5);
const READINESS_PORT: u16 = 15021;
const STATS_PORT: u16 = 15020;
const DUMP_PORT: u16 = 15000;

/// Settings of an agent besides those that the world fixes.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    variables: Vec<Variable>,
    external: bool,
    binds: Vec<Bind>,
}

/// A folder that an agent sees at another place.
#[derive(Clone, Debug)]
struct Bind {
    from: PathBuf,
    to: PathBuf,
}

/// A setting of the agent of every node, or of one.
#[derive(Clone, Debug)]
struct Variable {
    node: Option<u8>,
    name: String,
    value: String,
}

impl Default for AgentOptions {
    /// Drains for one second, so that tests do not wait long.
    fn default() -> Self {
        let external = std::env::var_os(EXTERNAL_VARIABLE).is_some_and(|value| value == "1");
        Self { variables: Vec::new(), external, binds: Vec::new() }
            .set("CONNECTION_TERMINATION_DEADLINE", "1s")
            .set("RUST_LOG", "info")
    }
}

impl AgentOptions {
    /// State and certificates from the control plane on the node's loopback, not from files.
    #[must_use]
    pub fn under_control_plane(self) -> Self {
        let address = format!("http://127.0.0.1:{CONTROL_PLANE_PORT}");
        // An empty value is that of a variable that is not set.
        self.set("LOCAL_XDS_PATH", "")
            .set("WARREN_DEV_CA_DIR", "")
            .set("XDS_ADDRESS", &address)
            .set("CA_ADDRESS", &address)
    }

    /// Behind the tests' own CNI agent, whatever the environment says.
    #[must_use]
    pub fn behind_cni_agent(self) -> Self {
        Self { external: true, ..self }
    }

    /// In a mount namespace of its own, where it sees the folder `from` at `to`.
    #[must_use]
    pub fn bind(mut self, from: &Path, to: &Path) -> Self {
        self.binds.push(Bind { from: from.to_owned(), to: to.to_owned() });
        self
    }

    /// With hooks on the root of the cgroup hierarchy: the world's own top, so that the machine is left alone.
    #[must_use]
    pub fn on_root(self) -> Self {
        self.set(REDIRECTION, "ebpf-root")
    }

    /// Sets a variable of `docs/configuration.md`; later values win.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl fmt::Display) -> Self {
        let (name, value) = (name.to_owned(), value.to_string());
        self.variables.push(Variable { node: None, name, value });
        self
    }

    /// The same for the agent of one node only.
    #[must_use]
    pub fn set_on(mut self, node: u8, name: &str, value: impl fmt::Display) -> Self {
        let (name, value) = (name.to_owned(), value.to_string());
        self.variables.push(Variable { node: Some(node), name, value });
        self
    }

    /// All of these, and then those of others, which win.
    #[must_use]
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.variables.extend(others.variables);
        self.binds.extend(others.binds);
        self.external |= others.external;
        self
    }

    fn of(self, node: &Node) -> impl Iterator<Item = (String, String)> {
        let number = node.number();
        let here = self
            .variables
            .into_iter()
            .filter(move |variable| variable.node.is_none_or(|node| node == number));
        here.map(|variable| (variable.name, variable.value))
    }
}

/// A running agent. Dropping it kills it and, in a panic, prints the end of its log.
#[derive(Debug)]
pub struct Agent {
    node: Node,
    program: PathBuf,
    variables: Vec<(String, String)>,
    run_dir: PathBuf,
    log: LogFile,
    child: Option<Child>,
    /// In a mount namespace of its own, if there are any.
    binds: Vec<Bind>,
    /// Somebody else redirects; see [`EXTERNAL_VARIABLE`].
    cni: Option<CniAgent>,
}

/// Set to `1`, agents run in the mode `external`: the tests' own CNI agent redirects by rules of
/// netfilter and tells them of pods, and so every test of traffic, identity and policy runs unchanged.
const EXTERNAL_VARIABLE: &str = "WARREN_TEST_EXTERNAL";
const REDIRECTION: &str = "WARREN_REDIRECTION";
/// Until a pod of the CNI agent is verified: the proxy looks at it every two seconds.
const EXTERNAL_TIMEOUT: Duration = Duration::from_secs(8);

/// Enters the cgroup whose file is given, then becomes the program.
const ENTER: &str = r#"echo $$ > "$0" && exec "$@""#;
/// Mounts pairs of folders, each on the other, up to `--`, then becomes the program.
const BIND: &str = r#"
while [ "$1" != -- ]; do
    mkdir -p "$2" && mount --bind "$1" "$2" || exit 1
    shift 2
done
shift
exec "$@""#;

impl Agent {
    pub(crate) fn prepare(
        node: &Node,
        folder: &Path,
        mesh: &Path,
        pins: &Path,
        options: AgentOptions,
    ) -> anyhow::Result<Self> {
        let run_dir = folder.join(node.name());
        fs::create_dir_all(&run_dir).context("create a run folder")?;
        if !pins.exists() {
            fs::create_dir(pins).with_context(|| format!("create {}", pins.display()))?;
        }
        let start = node.cgroup().join("start");
        if !start.exists() {
            cgroup::create(&start)?;
        }
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let fixed = [
            ("NODE_NAME", node.name()),
            ("LOCAL_XDS_PATH", text(mesh.to_owned())),
            ("WARREN_DEV_CA_DIR", text(folder.join("ca"))),
            ("WARREN_RUN_DIR", text(run_dir.clone())),
            ("WARREN_STATE_DIR", text(folder.join("state").join(node.name()))),
            ("WARREN_ADMIN_SOCKET", text(run_dir.join("admin.sock"))),
            ("WARREN_BPF_PIN_DIR", text(pins.join(node.name()))),
            ("WARREN_CGROUP", text(node.cgroup().join("agent"))),
            ("WARREN_HOST_CGROUP", text(node.hierarchy().to_owned())),
            ("LOG_FORMAT", "json".to_owned()),
            ("RUST_BACKTRACE", "1".to_owned()),
        ];
        let mut variables: Vec<_> =
            fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let cni =
            options.external.then(|| CniAgent::start(run_dir.join("zds.sock"))).transpose()?;
        if let Some(cni) = &cni {
            variables.push((REDIRECTION.to_owned(), "external".to_owned()));
            variables.push(("INPOD_UDS".to_owned(), text(cni.path().to_owned())));
        }
        let binds = options.binds.clone();
        variables.extend(options.of(node));
        Ok(Self {
            node: node.clone(),
            program: binary("ztunnel")?,
            variables,
            log: LogFile::new(run_dir.join("ztunnel.log")),
            run_dir,
            child: None,
            binds,
            cni,
        })
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let log = self.log.append().context("open an agent's log")?;
        let errors = log.try_clone().context("open an agent's log")?;
        // Through a shell, so that the process is in the world's cgroup before it is an agent:
        // a teardown that knows only the world's prefix finds it there.
        let mut command = Command::new("sh");
        let procs = self.node.cgroup().join("start/cgroup.procs");
        command.args(["-c", ENTER]).arg(procs);
        if !self.binds.is_empty() {
            // What is mounted later, such as namespaces of pods, is seen there, too.
            command.args(["unshare", "--mount", "--propagation", "slave", "sh", "-c", BIND, "sh"]);
            for Bind { from, to } in &self.binds {
                command.arg(from).arg(to);
            }
            command.arg("--");
        }
        command
            .arg(&self.program)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.child = Some(self.node.namespace().spawn(&mut command)?);
        Ok(())
    }

    /// Runs `warren check --pre` with its settings, in its node's network.
    pub fn preflight(&self) -> anyhow::Result<Answer> {
        let variables = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        warren::preflight(self.node.namespace(), &self.program, variables)
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its process; `None` when it does not run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Waits until it says that it is ready; an error with the end of its log if it ends before.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        self.wait_ready_within(READY_TIMEOUT)
    }

    /// The same within another time.
    pub fn wait_ready_within(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, READINESS_PORT));
        let namespace = self.node.namespace().clone();
        let name = self.node.name();
        let ready = eventually(&format!("{name} is ready"), timeout, || {
            if let Some(status) = self.ended()? {
                // No use waiting.
                return Ok(Some(Err(status)));
            }
            let answer = http::get_within(&namespace, target, "/healthz/ready")?;
            Ok((answer.status == 200).then_some(Ok(())))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{name} ended with {status}\n{}", self.log.tail()),
            Err(error) => Err(error.context(self.log.tail())),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        child.try_wait().context("ask for an agent's status")
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let name = self.node.name();
        let status = eventually(&format!("{name} stops"), STOP_TIMEOUT, || self.ended())?;
        self.child = None;
        Ok(status)
    }

    /// Kills it with SIGKILL and reaps it: no cleanup of its own.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { bail!("the agent does not run") };
        child.kill().context("kill an agent")?;
        child.wait().context("reap an agent").map(|_| ())
    }

    /// Starts it again, with the same settings, folders and log. It must have ended.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the agent still runs");
        self.spawn()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().context("the agent does not run")?;
        let pid = i32::try_from(pid).context("a process id")?;
        kill(Pid::from_raw(pid), signal).context("signal an agent")
    }

    /// Resident memory.
    pub fn rss_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.pid().context("the agent does not run")?;
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).context("read its status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes =
            line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmRSS")?;
        let kilobytes: u64 = kilobytes.trim().parse().context("VmRSS")?;
        Ok(kilobytes * 1024)
    }

    /// Its admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("admin.sock")
    }

    /// Its run folder (`WARREN_RUN_DIR`).
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// One of its settings, such as `WARREN_BPF_PIN_DIR`.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().rev().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Runs `warren … -o json` against it.
    pub fn warren(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        warren::run(&self.socket(), &[arguments, &["-o", "json"]].concat())
    }

    /// Runs `warren` with its output for people.
    pub fn warren_text(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        warren::run(&self.socket(), arguments)
    }

    /// Starts `warren flows -f -o json` and the like; the caller ends the child.
    pub fn warren_follow(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        warren::follow(&self.socket(), &[arguments, &["-o", "json"]].concat())
    }

    /// The arguments of `warren` that enrol a pod.
    #[must_use]
    pub fn enrolment(pod: &Pod) -> Vec<String> {
        let netns = pod.netns().path().to_string_lossy().into_owned();
        let cgroup = pod.cgroup().to_string_lossy().into_owned();
        let words = ["pods", "enrol", "--uid", pod.uid(), "--netns", &netns, "--cgroup", &cgroup];
        let mut words: Vec<_> = words.map(str::to_owned).into();
        words.extend(["--workload".to_owned(), pod.workload()]);
        words
    }

    /// Enrols a pod; it is verified when this returns.
    pub fn enrol(&self, pod: &Pod) -> anyhow::Result<admin::Pod> {
        self.enrol_with(pod, &[])
    }

    /// The same with further arguments, such as `--dns`.
    pub fn enrol_with(&self, pod: &Pod, arguments: &[&str]) -> anyhow::Result<admin::Pod> {
        if let Some(cni) = &self.cni {
            ensure!(arguments.is_empty(), "{arguments:?} do not apply in the mode external");
            return self.enrol_external(cni, pod);
        }
        let words = Self::enrolment(pod);
        let words: Vec<_> =
            words.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        let answer = self.warren(&words)?.ok();
        let enrolled = answer.with_context(|| format!("enrol {}", pod.name()))?;
        serde_json::from_value(enrolled).context("read what `warren pods enrol` says")
    }

    /// Takes the rules off that redirect a pod's traffic, as root in the pod may.
    pub fn take_rules_off(&self, pod: &Pod) -> anyhow::Result<()> {
        cni_agent::restore(pod.netns())
    }

    /// Puts them back.
    pub fn put_rules_on(&self, pod: &Pod) -> anyhow::Result<()> {
        cni_agent::redirect(pod.netns())
    }

    fn enrol_external(&self, cni: &CniAgent, pod: &Pod) -> anyhow::Result<admin::Pod> {
        cni_agent::redirect(pod.netns())?;
        cni.add(pod).with_context(|| format!("enrol {}", pod.name()))?;
        eventually(&format!("{} is verified", pod.name()), EXTERNAL_TIMEOUT, || {
            let pods = self.pods()?;
            let found = pods.into_iter().find(|found| found.uid == pod.uid());
            Ok(found.filter(|found| found.state == admin::PodState::Verified))
        })
        .with_context(|| format!("{:?}", self.pods()))
    }

    /// Lets a pod go.
    pub fn unenrol(&self, pod: &Pod) -> anyhow::Result<()> {
        if let Some(cni) = &self.cni {
            cni_agent::restore(pod.netns())?;
            return cni.delete(pod.uid()).with_context(|| format!("unenrol {}", pod.name()));
        }
        let answer = self.warren(&["pods", "unenrol", pod.uid()])?;
        answer.ok().map(|_| ()).with_context(|| format!("unenrol {}", pod.name()))
    }

    /// `warren flows`: the last connections, oldest first.
    pub fn flows(&self) -> anyhow::Result<Vec<admin::Flow>> {
        let answer = self.warren(&["flows"])?;
        // One line each; the whole is no JSON value.
        let lines: Result<_, _> = answer.stdout.lines().map(serde_json::from_str).collect();
        answer.ok()?;
        lines.context("read the lines of `warren flows`")
    }

    /// `warren pods`.
    pub fn pods(&self) -> anyhow::Result<Vec<admin::Pod>> {
        let pods = self.warren(&["pods"])?.ok()?;
        serde_json::from_value(pods).context("read `warren pods`")
    }

    /// `warren status`; its exit code 1 (degraded) is no error here.
    pub fn status(&self) -> anyhow::Result<admin::Status> {
        let answer = self.warren(&["status"])?;
        serde_json::from_str(&answer.stdout).with_context(|| format!("{answer:?}"))
    }

    /// `warren why`; its exit code 1 (would not pass) is no error here.
    pub fn why(&self, source: &str, destination: &str) -> anyhow::Result<admin::Why> {
        let answer = self.warren(&["why", source, destination])?;
        serde_json::from_str(&answer.stdout).with_context(|| format!("{answer:?}"))
    }

    /// The end of its log as it stands, for what comes later.
    #[must_use]
    pub fn log_mark(&self) -> LogMark {
        self.log.mark()
    }

    /// Its log file.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        self.log.path()
    }

    /// Its whole log, as JSON lines.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        self.log.lines_since(LogMark::default())
    }

    /// Waits for a message in its log, which agents of one node share.
    pub fn wait_message(
        &self,
        since: LogMark,
        message: &str,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        eventually(&format!("{} says {message:?}", self.node.name()), timeout, || {
            let lines = self.log.lines_since(since);
            Ok(lines.iter().any(|line| line["message"] == message).then_some(()))
        })
        .with_context(|| self.log.tail())
    }

    /// Its access log since a mark.
    #[must_use]
    pub fn access_log(&self, since: LogMark) -> Vec<AccessLine> {
        self.log.access_since(since)
    }

    /// Waits for a line of the access log.
    pub fn wait_access(
        &self,
        since: LogMark,
        what: &str,
        mut matches: impl FnMut(&AccessLine) -> bool,
    ) -> anyhow::Result<AccessLine> {
        let name = self.node.name();
        eventually(&format!("the access log of {name} tells {what}"), LOG_TIMEOUT, || {
            Ok(self.access_log(since).into_iter().find(|line| matches(line)))
        })
        .with_context(|| self.log.tail())
    }

    /// `/config_dump`, as JSON text.
    pub fn config_dump(&self) -> anyhow::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, DUMP_PORT));
        let answer = http::get_within(self.node.namespace(), address, "/config_dump")?;
        ensure!(answer.status == 200, "/config_dump answers {}", answer.status);
        Ok(answer.body)
    }

    /// `POST /logging` with a query; the status and the text.
    pub fn change_logging(&self, query: &str) -> anyhow::Result<(u16, String)> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, DUMP_PORT));
        let path =
            if query.is_empty() { "/logging".to_owned() } else { format!("/logging?{query}") };
        let answer = http::post_within(self.node.namespace(), address, &path)?;
        Ok((answer.status, answer.body))
    }

    /// `/metrics`, in the format of Prometheus.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, STATS_PORT));
        let answer = http::get_within(self.node.namespace(), target, "/metrics")?;
        ensure!(answer.status == 200, "/metrics answered {}", answer.status);
        Ok(answer.body)
    }

    /// The sum over the series of a metric whose line holds all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let text = self.metrics()?;
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is only something to reap.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- end of the log of {}\n{}", self.node.name(), self.log.tail());
        }
    }
}
