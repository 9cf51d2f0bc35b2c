//! Real sockets in a temporary folder. `owner` is whoever runs the tests.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cni::{Refusal, Reply, Request, SandboxEnd, SandboxRequest, Valid, Work, code};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{CONNECTIONS_MAX, CniSocket, Sandboxes};
use crate::{Answers, BindError};

/// Holds ADD until told; counts what it is asked.
#[derive(Default)]
struct Fake {
    name: &'static str,
    release: Notify,
    adds: AtomicUsize,
}

impl Sandboxes for Fake {
    async fn add(&self, sandbox: SandboxRequest) -> Result<(), Refusal> {
        self.adds.fetch_add(1, Ordering::SeqCst);
        if sandbox.name.as_str() == "held" {
            self.release.notified().await;
        }
        Ok(())
    }

    async fn check(&self, sandbox: SandboxRequest) -> Result<(), Refusal> {
        Err(Refusal::new("NOT_CAPTURED", sandbox.name.as_str()))
    }

    async fn delete(&self, _ended: SandboxEnd) -> Result<(), Refusal> {
        Ok(())
    }

    async fn gc(&self, valid: Vec<Valid>) -> Result<(), Refusal> {
        Err(Refusal::new("GC", valid.len().to_string()))
    }

    async fn status(&self) -> Result<(), Refusal> {
        Err(Refusal::new("NAME", self.name))
    }
}

struct Agent {
    fake: Arc<Fake>,
    answers: Answers,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Agent {
    fn start(path: &Path, name: &'static str) -> Self {
        let socket = CniSocket::bind(path, nix::unistd::geteuid().as_raw()).expect("a socket");
        let fake = Arc::new(Fake { name, ..Fake::default() });
        let answers = socket.answers();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(socket.serve(fake.clone(), async {
            let _ = stopped.await;
        }));
        Self { fake, answers, stop, served }
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        timeout(Duration::from_secs(12), self.served).await.expect("in time").expect("no panic");
    }

    async fn until_adds(&self, count: usize) {
        let start = Instant::now();
        while self.fake.adds.load(Ordering::SeqCst) < count {
            assert!(start.elapsed() < Duration::from_secs(5), "the request did not arrive");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cni.sock");
    (folder, path)
}

fn add(name: &str, wait: Duration) -> Request {
    let sandbox = SandboxRequest {
        uid: cni::PodUid::new("u-1").expect("a UID"),
        namespace: cni::Namespace::new("shop").expect("a namespace"),
        name: cni::PodName::new(name).expect("a name"),
        sandbox: cni::SandboxId::new("abc").expect("an id"),
        netns: cni::NetnsPath::new("/run/netns/x").expect("a path"),
        addresses: Vec::new(),
    };
    Request { wait, work: Work::Add(sandbox) }
}

fn status() -> Request {
    Request { wait: Duration::from_secs(5), work: Work::Status }
}

async fn send(path: &Path, line: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(path).await.expect("a listener");
    stream.write_all(line).await.expect("sent");
    stream
}

async fn reply(mut stream: UnixStream) -> Reply {
    let mut line = Vec::new();
    timeout(Duration::from_secs(12), stream.read_to_end(&mut line)).await.expect("in time").ok();
    Reply::decode(&line).expect("a reply")
}

async fn ask(path: &Path, request: &Request) -> Reply {
    reply(send(path, &request.encode().expect("a line")).await).await
}

fn refused(reply: Reply) -> (String, String) {
    match reply {
        Reply::Done => panic!("done"),
        Reply::Refused(refusal) => (refusal.code, refusal.message),
    }
}

#[tokio::test]
async fn each_kind_of_work_reaches_the_agent_and_its_reply_the_plugin() {
    let (_folder, path) = folder();
    let agent = Agent::start(&path, "one");
    let found = fs::symlink_metadata(&path).expect("the socket");
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o777, 0o600);

    let wait = Duration::from_secs(5);
    let Work::Add(sandbox) = add("web", wait).work else { panic!("add") };
    assert_eq!(ask(&path, &add("web", wait)).await, Reply::Done);
    let check = Request { wait, work: Work::Check(sandbox) };
    assert_eq!(refused(ask(&path, &check).await), ("NOT_CAPTURED".into(), "web".into()));
    let gc = Request { wait, work: Work::Gc(Vec::new()) };
    assert_eq!(refused(ask(&path, &gc).await), ("GC".into(), "0".into()));
    let sandbox = cni::SandboxId::new("abc").expect("an id");
    let delete = Request { wait, work: Work::Delete(SandboxEnd { sandbox, uid: None }) };
    assert_eq!(ask(&path, &delete).await, Reply::Done);
    assert_eq!(refused(ask(&path, &status()).await).1, "one");
    let counted = agent.answers.counts();
    let counted: Vec<_> =
        counted.iter().map(|(verb, code, count)| (*verb, code.as_str(), *count)).collect();
    let expected = [("ADD", "OK", 1), ("CHECK", "NOT_CAPTURED", 1), ("DEL", "OK", 1)];
    let more = [("GC", "GC", 1), ("STATUS", "NAME", 1)];
    assert_eq!(counted, [&expected[..], &more].concat());

    agent.stop().await;
    assert!(!path.exists(), "the socket is left");
    assert_eq!(fs::read_dir(path.parent().expect("a folder")).expect("listed").count(), 0);
}

#[tokio::test]
async fn what_is_no_request_is_told_so_and_a_long_one_is_not_read_on() {
    let (_folder, path) = folder();
    let agent = Agent::start(&path, "one");
    let code = |reply| refused(reply).0;
    assert_eq!(code(reply(send(&path, b"GET / HTTP/1.1\r\n").await).await), code::BAD_REQUEST);
    assert_eq!(code(reply(send(&path, b"{\"version\":7}\n").await).await), code::PROTOCOL_MISMATCH);
    let mut stream = UnixStream::connect(&path).await.expect("a listener");
    let long = vec![b'a'; 2 * cni::REQUEST_BYTES_MAX];
    // It hangs up before all is written.
    let _ = stream.write_all(&long).await;
    let mut line = Vec::new();
    let _ = stream.read_to_end(&mut line).await;
    if !line.is_empty() {
        assert_eq!(code(Reply::decode(&line).expect("a reply")), code::BAD_REQUEST);
    }
    // Silence, and a hang-up, take nothing from others.
    let silent = UnixStream::connect(&path).await.expect("a listener");
    drop(UnixStream::connect(&path).await.expect("a listener"));
    assert_eq!(ask(&path, &add("web", Duration::from_secs(1))).await, Reply::Done);
    drop(silent);
    agent.stop().await;
}

#[tokio::test]
async fn a_request_ends_at_its_own_deadline() {
    let (_folder, path) = folder();
    let agent = Agent::start(&path, "one");
    let start = Instant::now();
    let (code, _) = refused(ask(&path, &add("held", Duration::from_millis(300))).await);
    assert_eq!(code, code::AGENT_SLOW);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
    agent.stop().await;
}

#[tokio::test]
async fn more_than_it_may_serve_are_told_so_at_once() {
    let (_folder, path) = folder();
    let agent = Agent::start(&path, "one");
    let line = add("held", Duration::from_secs(30)).encode().expect("a line");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        held.push(send(&path, &line).await);
    }
    agent.until_adds(CONNECTIONS_MAX).await;
    assert_eq!(refused(ask(&path, &status()).await).0, code::AGENT_BUSY);
    agent.fake.release.notify_waiters();
    for stream in held {
        assert_eq!(reply(stream).await, Reply::Done);
    }
    assert_eq!(refused(ask(&path, &status()).await).0, "NAME");
    agent.stop().await;
}

#[tokio::test]
async fn another_user_is_not_served() {
    let (_folder, path) = folder();
    // Whoever runs this test is somebody else than this owner.
    let owner = nix::unistd::geteuid().as_raw() + 1;
    let socket = CniSocket::bind(&path, owner).expect("a socket");
    let served = tokio::spawn(socket.serve(Arc::new(Fake::default()), std::future::pending()));
    let mut stream = UnixStream::connect(&path).await.expect("a listener");
    let _ = stream.write_all(&status().encode().expect("a line")).await;
    let mut line = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut line)).await.expect("closed");
    assert!(line.is_empty());
    served.abort();
}

#[tokio::test]
async fn a_sandbox_can_end_and_be_added_again_while_its_first_add_is_worked_on() {
    let (_folder, path) = folder();
    let agent = Agent::start(&path, "one");
    let request = add("held", Duration::from_secs(30));
    let first = send(&path, &request.encode().expect("a line")).await;
    agent.until_adds(1).await;
    let sandbox = cni::SandboxId::new("abc").expect("an id");
    let work = Work::Delete(SandboxEnd { sandbox, uid: None });
    assert_eq!(ask(&path, &Request { wait: Duration::from_secs(2), work }).await, Reply::Done);
    let second = send(&path, &request.encode().expect("a line")).await;
    agent.until_adds(2).await;
    agent.fake.release.notify_waiters();
    assert_eq!((reply(first).await, reply(second).await), (Reply::Done, Reply::Done));
    agent.stop().await;
}

#[tokio::test]
async fn a_second_agent_takes_over_without_a_gap() {
    let (_folder, path) = folder();
    let old = Agent::start(&path, "old");
    let held = send(&path, &add("held", Duration::from_secs(30)).encode().expect("a line")).await;
    old.until_adds(1).await;

    let new = Agent::start(&path, "new");
    assert_eq!(refused(ask(&path, &status()).await).1, "new");
    old.fake.release.notify_waiters();
    assert_eq!(reply(held).await, Reply::Done);
    old.stop().await;
    // The old one did not take the new one's socket with it.
    assert_eq!(refused(ask(&path, &status()).await).1, "new");
    new.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn no_request_is_lost_while_agents_follow_one_another() {
    let (_folder, path) = folder();
    let mut agent = Agent::start(&path, "agent");
    let (stop, mut stopped) = oneshot::channel();
    let asking = {
        let path = path.clone();
        tokio::spawn(async move {
            let mut asked = 0_u32;
            while stopped.try_recv().is_err() {
                let request = add("web", Duration::from_secs(5));
                assert_eq!(ask(&path, &request).await, Reply::Done);
                asked += 1;
            }
            asked
        })
    };
    for _ in 0..10 {
        let next = Agent::start(&path, "agent");
        tokio::time::sleep(Duration::from_millis(10)).await;
        std::mem::replace(&mut agent, next).stop().await;
    }
    stop.send(()).expect("it asks");
    assert!(asking.await.expect("each request was answered") > 10);
    agent.stop().await;
}

#[tokio::test]
async fn who_waits_in_the_queue_when_it_stops_is_served() {
    let (_folder, path) = folder();
    let socket = CniSocket::bind(&path, nix::unistd::geteuid().as_raw()).expect("a socket");
    let mut waiting = StdStream::connect(&path).expect("a queue");
    waiting.write_all(&status().encode().expect("a line")).expect("sent");
    let fake = Arc::new(Fake { name: "late", ..Fake::default() });
    socket.serve(fake, std::future::ready(())).await;
    let mut line = Vec::new();
    waiting.read_to_end(&mut line).expect("a reply");
    assert_eq!(refused(Reply::decode(&line).expect("a reply")).1, "late");
    assert!(!path.exists());
}

#[tokio::test]
async fn work_that_does_not_end_is_refused_when_the_agent_stops() {
    let (_folder, path) = folder();
    let agent = Agent::start(&path, "one");
    let held = send(&path, &add("held", Duration::from_mins(1)).encode().expect("a line")).await;
    agent.until_adds(1).await;
    let start = Instant::now();
    let (reply, ()) = tokio::join!(reply(held), agent.stop());
    assert_eq!(refused(reply).0, code::AGENT_STOPPING);
    assert!(start.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn what_is_in_the_way_is_named() {
    let (folder, path) = folder();
    fs::write(&path, "mine").expect("a file");
    let bind = |path: &Path| CniSocket::bind(path, 0).expect_err("in the way");
    assert!(matches!(bind(&path), BindError::NotASocket(_)));
    assert_eq!(fs::read_to_string(&path).expect("the file"), "mine");
    let nowhere = folder.path().join("missing/cni.sock");
    let error = bind(&nowhere);
    assert!(matches!(&error, BindError::System { .. }) && error.to_string().contains("missing"));
    // What an agent that died left aside is neither used nor in the way.
    fs::remove_file(&path).expect("removed");
    fs::write(folder.path().join(".cni.sock.0"), "left").expect("a file");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.path().join(".cni.sock.0"), mode).expect("a mode");
    drop(CniSocket::bind(&path, 0).expect("a socket"));
    assert!(!path.exists());
}
