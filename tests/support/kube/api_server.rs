//! kube-apiserver with its etcd.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use super::cluster::Cluster;
use super::credentials::Credentials;
use super::process::{Folder, Process, free_ports};
use super::store;
use crate::test_api::ApiAccess;

/// Names a folder with kube-apiserver and etcd.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// Until etcd accepts connections.
const ETCD_TIMEOUT: Duration = Duration::from_secs(20);
/// Until the API server says that it is ready: some seconds, more on a machine that compiles.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How often one looks.
const POLL: Duration = Duration::from_millis(100);
/// Ports are chosen free and bound a little later; another process may come between, rarely.
const STARTS_MAX: usize = 3;
/// Who issues the tokens of service accounts.
const ISSUER: &str = "https://kubernetes.default.svc";

/// The server that the tests of one process share, or why it did not start: said by each of them
/// rather than tried by each.
static SHARED: OnceCell<Result<ApiServer, String>> = OnceCell::const_new();

/// What may differ from server to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiServerOptions {
    /// As in a cluster.
    Usual,
    /// Every list and watch goes to etcd, so that [`ApiServer::compact`] ends old watches with 410.
    WithoutWatchCache,
}

/// A running API server. Dropping it ends both processes and removes their files.
#[derive(Debug)]
pub struct ApiServer {
    // Dropped in this order: who is served first.
    server: Option<Process>,
    etcd: Process,
    folder: Folder,
    credentials: Credentials,
    assets: PathBuf,
    etcd_address: SocketAddr,
    port: u16,
    options: ApiServerOptions,
}

impl ApiServer {
    /// Starts one as in a cluster.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(ApiServerOptions::Usual).await
    }

    /// Starts one and waits until it is ready.
    pub async fn start_with(options: ApiServerOptions) -> anyhow::Result<Self> {
        let mut error = anyhow!("nothing was tried");
        for _ in 0..STARTS_MAX {
            match Self::try_start(options).await {
                Ok(server) => return Ok(server),
                Err(failure) => error = failure,
            }
            if !format!("{error:#}").contains("address already in use") {
                break;
            }
        }
        Err(error)
    }

    /// The one that the tests of this process share; each uses namespaces of its own.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        let start = async || Self::start().await.map_err(|error| format!("{error:#}"));
        let shared = SHARED.get_or_init(start).await;
        shared.as_ref().map_err(|error| anyhow!("the shared API server did not start: {error}"))
    }

    async fn try_start(options: ApiServerOptions) -> anyhow::Result<Self> {
        let assets = assets()?;
        let folder = Folder::new()?;
        let credentials = Credentials::create(folder.path())?;
        let [port, clients, peers] = free_ports()?;
        let etcd_address = SocketAddr::from((Ipv4Addr::LOCALHOST, clients));
        let etcd = Process::start(
            folder.path(),
            &assets.join("etcd"),
            &etcd_flags(folder.path(), etcd_address, peers),
        )?;
        let mut started =
            Self { server: None, etcd, folder, credentials, assets, etcd_address, port, options };
        started.wait_for_etcd().await?;
        started.start_again().await?;
        Ok(started)
    }

    async fn wait_for_etcd(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + ETCD_TIMEOUT;
        while TcpStream::connect_timeout(&self.etcd_address, POLL).is_err() {
            if let Some(status) = self.etcd.ended()? {
                bail!("etcd ended with {status}; {}", self.etcd.tail());
            }
            if Instant::now() >= deadline {
                bail!("etcd does not listen after {ETCD_TIMEOUT:?}; {}", self.etcd.tail());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Kills the API server; etcd keeps what it knows.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the API server at the same address, over the same etcd, and waits until it is ready.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.stop();
        let program = self.assets.join("kube-apiserver");
        let mut server = Process::start(self.folder.path(), &program, &self.flags())?;
        let client = self.client().await?;
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let Err(error) = ready(&client).await else { break };
            if let Some(status) = server.ended()? {
                bail!("kube-apiserver ended with {status}; {}", server.tail());
            }
            if Instant::now() >= deadline {
                let tail = server.tail();
                bail!("kube-apiserver is not ready after {READY_TIMEOUT:?} ({error:#}); {tail}");
            }
            sleep(POLL).await;
        }
        self.server = Some(server);
        Ok(())
    }

    /// Ends the API server as a crash would, and starts it again.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.start_again().await
    }

    /// Lets etcd forget the past; returns its present revision.
    pub fn compact(&self) -> anyhow::Result<String> {
        store::compact(self.etcd_address)
    }

    /// Removes an object's key from etcd behind the API server's back, such as
    /// `/registry/pods/NAMESPACE/NAME`: for what vanishes while nobody looks.
    pub fn remove_from_store(&self, key: &str) -> anyhow::Result<()> {
        store::remove(self.etcd_address, key)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// How a pod of this machine's own network would reach it, as admin.
    #[must_use]
    pub fn access(&self) -> ApiAccess {
        ApiAccess {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            authority: self.credentials.authority().to_owned(),
            token: Credentials::TOKEN.to_owned(),
        }
    }

    /// A file for programs that act as admin.
    pub fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        let text = self.credentials.kubeconfig(&self.url(), None);
        self.credentials.write("admin.kubeconfig", &text)
    }

    /// The same for the bearer of a token.
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> anyhow::Result<PathBuf> {
        let text = self.credentials.kubeconfig(&self.url(), Some(token));
        self.credentials.write(&format!("{name}.kubeconfig"), &text)
    }

    /// A client that may do everything. It lives on the caller's runtime, so each test has its own.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.connect(None).await
    }

    /// A client that may do what the bearer of a token may.
    pub async fn client_of(&self, token: &str) -> anyhow::Result<Client> {
        self.connect(Some(token)).await
    }

    /// What a test does with objects, as admin.
    pub async fn cluster(&self) -> anyhow::Result<Cluster> {
        Ok(Cluster::new(self.client().await?))
    }

    async fn connect(&self, token: Option<&str>) -> anyhow::Result<Client> {
        let text = self.credentials.kubeconfig(&self.url(), token);
        let kubeconfig = Kubeconfig::from_yaml(&text).context("read a kubeconfig")?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let config = config.context("use a kubeconfig")?;
        Client::try_from(config).context("make a client")
    }

    fn flags(&self) -> Vec<String> {
        let mut flags = self.credentials.flags();
        flags.extend([
            format!("--etcd-servers=http://{}", self.etcd_address),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", self.folder.path().display()),
            format!("--service-account-issuer={ISSUER}"),
            format!("--api-audiences={ISSUER}"),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            // It would refuse a pod whose account no controller has made.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            // Nobody reaches it through the Service `kubernetes`, whose endpoint may not be loopback.
            "--endpoint-reconciler-type=none".to_owned(),
            // Only `compact` forgets.
            "--etcd-compaction-interval=0".to_owned(),
        ]);
        if self.options == ApiServerOptions::WithoutWatchCache {
            flags.push("--watch-cache=false".to_owned());
        }
        flags
    }
}

async fn ready(client: &Client) -> anyhow::Result<()> {
    let request = http::Request::get("/readyz").body(Vec::new()).context("make a request")?;
    client.request_text(request).await.context("ask /readyz")?;
    Ok(())
}

fn etcd_flags(folder: &Path, clients: SocketAddr, peers: u16) -> Vec<String> {
    let peers = format!("http://127.0.0.1:{peers}");
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls=http://{clients}"),
        format!("--advertise-client-urls=http://{clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // Nothing outlives the test.
        "--unsafe-no-fsync".to_owned(),
    ]
}

fn assets() -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os(ASSETS_VARIABLE).filter(|folder| !folder.is_empty());
    let folder = PathBuf::from(folder.with_context(|| {
        format!(
            "{ASSETS_VARIABLE} names no folder with kube-apiserver and etcd; \
             `cargo xtask test --tier kube` provides one"
        )
    })?);
    for program in ["kube-apiserver", "etcd"] {
        if !folder.join(program).exists() {
            bail!("{ASSETS_VARIABLE} is {}, without {program}", folder.display());
        }
    }
    Ok(folder)
}
