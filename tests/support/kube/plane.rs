//! The program `control-plane` beside an API server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use tokio::time::sleep;

use super::api_server::ApiServer;
use super::process::{Folder, Process, free_ports};
use crate::http;
use crate::wait::binary;
use crate::warren::{Answer, ask_control_plane};

/// From start to ready: every kind is listed, and a certificate of its own is signed.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// From being asked to end to having ended: clients are moved away first.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// How often one looks.
const POLL: Duration = Duration::from_millis(100);
/// Ports are chosen free and bound a little later; another process may come between, rarely.
const STARTS_MAX: usize = 3;

/// A replica of the control plane that runs. Dropping it kills it.
#[derive(Debug)]
pub struct ClusterPlane {
    // Before the folder that it writes to.
    process: Option<Process>,
    folder: Folder,
    program: PathBuf,
    arguments: Vec<String>,
    port: u16,
    metrics: u16,
}

impl ClusterPlane {
    /// Starts a replica of that name with further arguments, and waits until it is ready.
    pub async fn start(server: &ApiServer, name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut error = anyhow!("nothing was tried");
        for _ in 0..STARTS_MAX {
            let mut plane = Self::new(server, name, arguments)?;
            match plane.start_again().await {
                Ok(()) => return Ok(plane),
                Err(failure) => error = failure,
            }
            if !format!("{error:#}").contains("Address already in use") {
                break;
            }
        }
        Err(error)
    }

    fn new(server: &ApiServer, name: &str, further: &[&str]) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let [port, metrics, webhook] = free_ports()?;
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let kubeconfig = server.kubeconfig()?.display().to_string();
        let flags = [
            ("--kubeconfig", kubeconfig),
            ("--pod-name", name.to_owned()),
            ("--listen", local(port)),
            ("--metrics-listen", local(metrics)),
            ("--webhook-listen", local(webhook)),
            ("--admin-socket", path("cp.sock")),
            ("--state-dir", path("state")),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let arguments = flags.chain(further.iter().map(|&argument| argument.to_owned())).collect();
        let program = binary("control-plane")?;
        Ok(Self { process: None, folder, program, arguments, port, metrics })
    }

    /// Starts it again where it was, after it ended.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "the control plane still runs");
        self.process = Some(Process::start(self.folder.path(), &self.program, &self.arguments)?);
        let deadline = Instant::now() + READY_TIMEOUT;
        while let Err(error) = self.ready() {
            let Some(process) = &mut self.process else { bail!("the control plane is gone") };
            if let Some(status) = process.ended()? {
                bail!("the control plane ended with {status}; {}", process.tail());
            }
            if Instant::now() >= deadline {
                let tail = process.tail();
                bail!("the control plane is not ready after {READY_TIMEOUT:?} ({error:#}); {tail}");
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn ready(&self) -> anyhow::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.metrics));
        let mut stream = TcpStream::connect_timeout(&address, POLL).context("connect")?;
        stream.set_read_timeout(Some(POLL)).context("set a timeout")?;
        let request = http::get(address, "/healthz/ready", "");
        stream.write_all(request.as_bytes()).context("ask whether it is ready")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("read whether it is ready")?;
        let answer = http::parse(&answer, address).context("no HTTP answer")?;
        ensure!(answer.status == 200, "it answers {}: {}", answer.status, answer.body);
        Ok(())
    }

    /// The port of discovery and certificates; it is called `localhost`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The roots that it tells, PEM.
    pub fn roots(&self) -> anyhow::Result<String> {
        let path = self.folder.path().join("state/root-cert.pem");
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Runs `warren cp …`.
    pub fn warren(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        ask_control_plane(&self.folder.path().join("cp.sock"), arguments)
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) {
        self.process = None;
    }

    /// Asks it to end, and waits until it did.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { bail!("it does not run") };
        process.terminate()?;
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            match process.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("it ended with {status}; {}", process.tail()),
                None if Instant::now() >= deadline => {
                    bail!("it has not ended after {END_TIMEOUT:?}; {}", process.tail());
                }
                None => sleep(POLL).await,
            }
        }
    }

    /// Adds the end of its log to an error.
    pub fn explain<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let tail =
            || self.process.as_ref().map_or_else(|| "it was ended".to_owned(), Process::tail);
        result.map_err(|error| error.context(tail()))
    }
}
