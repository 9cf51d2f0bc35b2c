//! The program `control-plane` over a folder of manifests, where every node of a world reaches it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::agent::AgentOptions;
use crate::agent_log::LogFile;
use crate::cgroup;
use crate::control_plane::CONTROL_PLANE_PORT;
use crate::http;
use crate::manifests::Manifests;
use crate::namespace::Namespace;
use crate::wait::{binary, eventually};
use crate::warren::Answer;
use crate::world::World;

/// Its address on the wire.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 254);
/// A name of its certificate.
const SERVER_NAME: &str = "istiod.istio-system.svc";
const METRICS_PORT: u16 = 15014;
/// From start to ready: the folder is read and a certificate of its own is signed.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A control plane that runs. Dropping it kills it and, in a panic, prints the end of its log.
#[derive(Debug)]
pub struct Plane {
    program: PathBuf,
    namespace: Namespace,
    manifests: Manifests,
    folder: PathBuf,
    arguments: Vec<String>,
    cgroup: PathBuf,
    log: LogFile,
    child: Option<Child>,
}

impl Plane {
    /// Starts it with an empty folder of manifests, a token for each node and further arguments.
    pub fn start(world: &World, arguments: &[&str]) -> anyhow::Result<Self> {
        let folder = world.folder().join("control-plane");
        fs::create_dir_all(&folder).context("create the control plane's folder")?;
        let cgroup = world.cgroup().join("control-plane");
        cgroup::create(&cgroup)?;
        let mut plane = Self {
            program: binary("control-plane")?,
            namespace: world.wire().clone(),
            manifests: Manifests::create(folder.join("manifests"))?,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            cgroup,
            log: LogFile::new(folder.join("control-plane.log")),
            folder,
            child: None,
        };
        for node in world.nodes() {
            let token = plane.join_token(&node.name())?;
            fs::write(plane.token(&node.name()), token).context("write a node's token")?;
        }
        plane.spawn()?;
        Ok(plane)
    }

    /// Makes a token for a node.
    fn join_token(&self, node: &str) -> anyhow::Result<String> {
        let output = Command::new(&self.program)
            .args(["join-token", "--state-dir"])
            .arg(self.state())
            .args(["create", "--node", node])
            .output()
            .context("make a join token")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn token(&self, node: &str) -> PathBuf {
        self.folder.join(format!("token-{node}"))
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let log = self.log.append().context("open the control plane's log")?;
        let errors = log.try_clone().context("open the control plane's log")?;
        let address = SocketAddr::from((ADDRESS, CONTROL_PLANE_PORT)).to_string();
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT)).to_string();
        // Through a shell, so that it is in the world's cgroup before it is anything else.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(self.cgroup.join("cgroup.procs"))
            .arg(&self.program)
            .arg("--manifests")
            .arg(self.manifests.path())
            .arg("--state-dir")
            .arg(self.state())
            .arg("--admin-socket")
            .arg(self.socket())
            .args(["--listen", &address, "--metrics-listen", &metrics, "--log-json"])
            .args(&self.arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        command.process_group(0);
        self.child = Some(self.namespace.spawn(&mut command)?);
        Ok(())
    }

    /// Its folder of manifests.
    #[must_use]
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Its admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("cp.sock")
    }

    /// Its process; `None` when it does not run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What makes agents get state and certificates from it.
    #[must_use]
    pub fn options(&self, options: AgentOptions) -> AgentOptions {
        let address = format!("https://{}", SocketAddr::from((ADDRESS, CONTROL_PLANE_PORT)));
        let roots = self.state().join("root-cert.pem").display().to_string();
        let mut options = options
            .set("LOCAL_XDS_PATH", "")
            .set("WARREN_DEV_CA_DIR", "")
            .set("XDS_ADDRESS", &address)
            .set("CA_ADDRESS", &address)
            .set("XDS_ROOT_CA", &roots)
            .set("CA_ROOT_CA", &roots)
            .set("ALT_XDS_HOSTNAME", SERVER_NAME)
            .set("ALT_CA_HOSTNAME", SERVER_NAME);
        for node in 1..=crate::world::NODES_MAX {
            let token = self.token(&format!("node-{node}"));
            if token.exists() {
                options = options.set_on(node, "AUTH_TOKEN", token.display());
            }
        }
        options
    }

    /// Waits until it says that it is ready; an error with the end of its log if it ends before.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
        let namespace = self.namespace.clone();
        let ready = eventually("the control plane is ready", READY_TIMEOUT, || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().context("ask for its status")?
            {
                return Ok(Some(Err(status)));
            }
            let answer = http::get_within(&namespace, target, "/healthz/ready")?;
            Ok((answer.status == 200).then_some(Ok(())))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("the control plane ended with {status}\n{}", self.log.tail()),
            Err(error) => Err(error.context(self.log.tail())),
        }
    }

    /// Runs `warren cp …`.
    pub fn warren(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        crate::warren::ask_control_plane(&self.socket(), arguments)
    }

    /// `/metrics`, in the format of Prometheus.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
        let answer = http::get_within(&self.namespace, target, "/metrics")?;
        ensure!(answer.status == 200, "/metrics answered {}", answer.status);
        Ok(answer.body)
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { bail!("the control plane does not run") };
        child.kill().context("kill the control plane")?;
        child.wait().context("reap the control plane").map(|_| ())
    }

    /// Starts it again. It must have ended.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the control plane still runs");
        self.spawn()
    }

    /// Its log file.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        self.log.path()
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        ADDRESS.into()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is only something to reap.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- end of the log of the control plane\n{}", self.log.tail());
        }
    }
}
