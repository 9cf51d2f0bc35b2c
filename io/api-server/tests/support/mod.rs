//! An API server by script: HTTPS with a certificate of its own, answers in pieces, cuts, silence.
//! HTTP is written by hand, so that it can also be wrong.
#![allow(dead_code, unreachable_pub, reason = "each suite uses a part")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use api_server::{ApiClient, ApiSettings, Timing};
use authority::{
    Authority, AuthorityPem, CertificateRequest, KeyAlgorithm, Names, OwnKey, make_root,
};
use model::{SpiffeId, TrustDomain};
use parking_lot::Mutex;
use tls::{ServerIdentity, ServerTls, Trust, TrustView};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the servers of the tests are called.
pub const NAME: &str = "localhost";
/// Nothing in these tests takes as long.
pub const SOON: Duration = Duration::from_secs(20);

/// Times that a test can wait for.
pub const FAST: Timing = Timing {
    request: Duration::from_secs(2),
    page: Duration::from_secs(5),
    connect: Duration::from_secs(2),
    watch: Duration::from_secs(1),
    silence: Duration::from_millis(500),
    wait_min: Duration::from_millis(10),
    wait_max: Duration::from_millis(100),
    steady: Duration::from_millis(50),
};

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    Silent,
    Close,
}

/// What a client gets.
#[derive(Default)]
pub struct Reply(Vec<Step>);

impl Reply {
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into())])
    }

    pub fn json(status: u16, body: &str) -> Self {
        Self::with(status, "", body)
    }

    /// `header` is a line with its end.
    pub fn with(status: u16, header: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Said\r\n{header}content-length: {length}\r\n\r\n");
        Self::raw(head + body)
    }

    /// The head of an answer in chunks.
    pub fn watch() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    }

    pub fn piece(mut self, piece: &str) -> Self {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        self.0.push(Step::Send(chunk.into_bytes()));
        self
    }

    pub fn line(self, kind: &str, object: &str) -> Self {
        self.piece(&format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
    }

    pub fn wait(mut self, time: Duration) -> Self {
        self.0.push(Step::Wait(time));
        self
    }

    /// The proper end of an answer in chunks.
    pub fn end(mut self) -> Self {
        self.0.push(Step::Send(b"0\r\n\r\n".to_vec()));
        self
    }

    pub fn silent(mut self) -> Self {
        self.0.push(Step::Silent);
        self
    }

    pub fn close(mut self) -> Self {
        self.0.push(Step::Close);
        self
    }
}

/// An object with a name and a version.
pub fn object(name: &str, version: u64) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}"#)
}

/// A page of a list.
pub fn page(version: u64, next: &str, names: &[&str]) -> Reply {
    let items: Vec<String> = names.iter().map(|name| object(name, version)).collect();
    let items = items.join(",");
    let metadata = format!(r#"{{"resourceVersion":"{version}","continue":"{next}"}}"#);
    Reply::json(200, &format!(r#"{{"metadata":{metadata},"items":[{items}]}}"#))
}

/// A refusal as the API server words it.
pub fn status(code: u16, reason: &str, message: &str) -> String {
    format!(r#"{{"kind":"Status","code":{code},"reason":"{reason}","message":"{message}"}}"#)
}

/// A certificate authority and what it signed for a server.
pub struct Ca {
    root: String,
    tls: ServerTls,
}

impl Ca {
    pub fn new() -> Self {
        Self::for_server(NAME)
    }

    pub fn for_server(name: &str) -> Self {
        let (now, domain) = (SystemTime::now(), TrustDomain::parse("test").expect("a domain"));
        let root = make_root(&domain, KeyAlgorithm::P256, now).expect("a root");
        let pem = AuthorityPem {
            certificate: &root.certificate,
            key: &root.key,
            chain: "",
            roots: &root.certificate,
        };
        let authority = Authority::from_pem(&domain, &pem, now).expect("an authority");
        let identity = SpiffeId::parse("spiffe://test/ns/kube-system/sa/api").expect("an identity");
        let names = Names::server(identity, &[name]).expect("names");
        let own = OwnKey::new(&names).expect("a key");
        let request = CertificateRequest::from_pem(&own.request).expect("a request");
        let hour = Duration::from_hours(1);
        let signed = authority.sign(&request, &names, hour, now).expect("signed");
        let view = TrustView::fixed(Trust::of(authority.bundle().clone()));
        let identity = ServerIdentity::new(vec![signed.leaf], own.key, &view).expect("usable");
        Self { root: root.certificate, tls: ServerTls::fixed(identity) }
    }
}

/// A folder with what a client reads.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new(ca: &Ca) -> Self {
        let files = Self(tempfile::tempdir().expect("a folder"));
        files.write_ca(ca);
        files.write_token("first");
        files
    }

    pub fn write_ca(&self, ca: &Ca) {
        std::fs::write(self.ca(), &ca.root).expect("written");
    }

    pub fn write_token(&self, token: &str) {
        std::fs::write(self.token(), format!("{token}\n")).expect("written");
    }

    pub fn ca(&self) -> PathBuf {
        self.0.path().join("ca.crt")
    }

    pub fn token(&self) -> PathBuf {
        self.0.path().join("token")
    }

    pub fn client(&self, server: SocketAddr) -> ApiClient {
        let settings = ApiSettings {
            server: format!("https://{NAME}:{}", server.port()),
            ca: self.ca(),
            token: self.token(),
        };
        ApiClient::with_timing(settings, FAST).expect("settings")
    }
}

type Script = Arc<Mutex<dyn FnMut(&Seen) -> Reply + Send>>;

/// Serves until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Bytes of answers that the client's side has taken.
    pub sent: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(ca: &Ca, script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ca, script).await
    }

    pub async fn start_at(
        address: SocketAddr,
        ca: &Ca,
        script: impl FnMut(&Seen) -> Reply + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let serving = Serving {
            tls: ca.tls.clone(),
            script: Arc::new(Mutex::new(script)),
            seen: seen.clone(),
            sent: sent.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.expect("accepted");
                connections.spawn(serving.clone().serve(stream, number));
            }
        });
        Self { address, seen, sent, tasks }
    }

    /// Closes the port and every connection.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// What was asked, each as method and target.
    pub fn asked(&self) -> Vec<String> {
        let seen = self.seen.lock();
        seen.iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect()
    }
}

#[derive(Clone)]
struct Serving {
    tls: ServerTls,
    script: Script,
    seen: Arc<Mutex<Vec<Seen>>>,
    sent: Arc<AtomicUsize>,
}

impl Serving {
    async fn serve(self, stream: TcpStream, connection: usize) {
        let Ok(stream) = self.tls.accept_http1(stream, SOON).await else { return };
        let mut stream = BufReader::new(stream);
        while let Some(mut seen) = read(&mut stream).await {
            seen.connection = connection;
            self.seen.lock().push(seen.clone());
            let reply = (self.script.lock())(&seen);
            for step in reply.0 {
                match step {
                    Step::Send(bytes) => {
                        let written = stream.write_all(&bytes).await;
                        if written.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                        self.sent.fetch_add(bytes.len(), Ordering::Relaxed);
                    }
                    Step::Wait(time) => tokio::time::sleep(time).await,
                    Step::Silent => std::future::pending().await,
                    Step::Close => return,
                }
            }
        }
    }
}

/// Reads a request; `None` at the end of the connection.
async fn read(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let first: Vec<&str> = lines.first()?.split(' ').collect();
    let header = |line: &String| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    };
    let headers: BTreeMap<_, _> = lines.iter().filter_map(header).collect();
    let length = headers.get("content-length").map_or(0, |l| l.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen {
        method: (*first.first()?).to_owned(),
        target: (*first.get(1)?).to_owned(),
        headers,
        body: String::from_utf8(body).ok()?,
        connection: 0,
    })
}
