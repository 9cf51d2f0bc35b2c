//! Server and client over real sockets in a temporary folder.

use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::stat::{Mode, umask};
use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;

/// An agent whose answers are fixed.
#[derive(Default)]
struct Scripted {
    /// Enrolments begun and ended.
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// An enrolment waits for it.
    go_on: Notify,
}

fn flow(code: &str) -> Response {
    Response::Flow(Box::new(Flow {
        time_unix_ms: 1,
        direction: Direction::Inbound,
        path: Path::Hbone,
        source: Party::default(),
        destination: Party::default(),
        service: None,
        hbone: None,
        code: code.to_owned(),
        policy: None,
        detail: None,
        bytes_sent: 1,
        bytes_received: 2,
        duration_ms: 3,
    }))
}

impl Handler for Scripted {
    type Request = Request;
    type Response = Response;

    async fn handle(&self, request: Request) -> Reply {
        let response = match request {
            Request::Status => {
                Response::Status(Box::new(Status { node: "n1".to_owned(), ..Status::default() }))
            }
            Request::Pods => Response::Pods(vec![Pod::default()]),
            Request::Enrol(enrol) => {
                self.begun.fetch_add(1, Ordering::SeqCst);
                self.go_on.notified().await;
                self.ended.fetch_add(1, Ordering::SeqCst);
                Response::Enrolled(Box::new(Pod { uid: enrol.uid, ..Pod::default() }))
            }
            Request::Unenrol { uid } => {
                Response::Error(Failure::new("NO_SUCH_POD", format!("no pod {uid}")))
            }
            Request::Flows { follow, .. } => {
                let (sender, receiver) = mpsc::channel(FLOW_QUEUE_MAX);
                for event in [flow("OK"), Response::Missed(7), flow("RESET")] {
                    sender.try_send(event).expect("room");
                }
                if follow {
                    tokio::spawn(async move { sender.closed().await });
                }
                return Reply::flows(receiver);
            }
            Request::Why { source, destination } => Response::Why(Box::new(Why {
                explanation: vec![source, destination],
                ..Why::default()
            })),
        };
        Reply::One(response)
    }
}

struct Agent {
    _folder: tempfile::TempDir,
    path: PathBuf,
    handler: Arc<Scripted>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Agent {
    fn start() -> Self {
        Self::start_for(Uid::effective().as_raw())
    }

    fn start_for(owner: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let server = Server::bind(&path, owner).expect("bind");
        let handler = Arc::new(Scripted::default());
        let (stop, stopped) = oneshot::channel();
        let serving = server.serve(handler.clone(), async {
            let _ = stopped.await;
        });
        let task = tokio::spawn(serving);
        Self { _folder: folder, path, handler, stop: Some(stop), task }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.expect("connect")
    }

    async fn stop(&mut self) {
        self.stop.take().expect("once").send(()).expect("serving");
        (&mut self.task).await.expect("no panic");
    }
}

fn enrol(uid: &str) -> Enrol {
    Enrol {
        uid: uid.to_owned(),
        netns: "/proc/1/ns/net".into(),
        cgroup: Some("/sys/fs/cgroup/x".into()),
        workload: "a/b/c".to_owned(),
        probe_ports: vec![8080],
        dns: None,
    }
}

/// Everything the agent says to these bytes until it hangs up or `lines` lines are there.
async fn say(agent: &Agent, bytes: &[u8], lines: usize) -> String {
    let mut stream = UnixStream::connect(&agent.path).await.expect("connect");
    stream.write_all(bytes).await.expect("write");
    let mut heard: Vec<u8> = Vec::new();
    while heard.split(|byte| *byte == b'\n').count() <= lines {
        if stream.read_buf(&mut heard).await.expect("read") == 0 {
            break;
        }
    }
    String::from_utf8(heard).expect("text")
}

#[tokio::test]
async fn one_connection_asks_many_questions() {
    let mut agent = Agent::start();
    let mut client = agent.client().await;
    assert_eq!(client.status().await.expect("status").node, "n1");
    assert_eq!(client.pods().await.expect("pods").len(), 1);
    agent.handler.go_on.notify_one();
    assert_eq!(client.enrol(enrol("u1")).await.expect("enrolled").uid, "u1");
    let refused = client.unenrol("u2").await.expect_err("no such pod");
    assert_eq!(refused.to_string(), "NO_SUCH_POD: no pod u2");
    assert!(!refused.is_unreachable());
    assert_eq!(client.why("a", "b:1").await.expect("why").explanation, ["a", "b:1"]);
    agent.stop().await;
}

#[tokio::test]
async fn flows_end_or_are_followed() {
    let mut agent = Agent::start();
    let mut client = agent.client().await;
    for follow in [false, true] {
        client.send(&Request::Flows { follow, limit: Some(2) }).await.expect("sent");
        let Response::Flow(flow) = client.next().await.expect("a flow") else { panic!("a flow") };
        assert_eq!(flow.code, "OK");
        assert_eq!(client.next().await.expect("missed"), Response::Missed(7));
        assert!(matches!(client.next().await, Ok(Response::Flow(_))));
        if !follow {
            assert_eq!(client.next().await.expect("the end"), Response::End);
        }
    }
    // Stopping ends a stream that is being followed, and says so.
    agent.stop().await;
    let end = client.next().await.expect_err("stopping");
    assert!(matches!(end, ClientError::Refused(failure) if failure.code == Failure::STOPPING));
    assert!(client.next().await.expect_err("closed").is_unreachable());
}

#[tokio::test]
async fn what_is_not_a_request_is_refused_and_the_next_one_served() {
    let agent = Agent::start();
    for bad in [
        "",
        "{}",
        "nonsense",
        "{\"verb\":\"reboot\"}",
        "{\"verb\":\"unenrol\"}",
        "{\"verb\":\"unenrol\",\"uid\":\"a\",\"force\":true}",
        "{\"verb\":\"enrol\",\"uid\":\"a\",\"netns\":\"/\",\"cgroup\":\"/\",\"workload\":\"w\",\"x\":1}",
        "\u{0}",
    ] {
        let answers = say(&agent, format!("{bad}\n{{\"verb\":\"status\"}}\n").as_bytes(), 2).await;
        let lines: Vec<_> = answers.lines().collect();
        assert_eq!(lines.len(), 2, "{bad}: {answers}");
        assert!(lines[0].contains("BAD_REQUEST"), "{bad}: {answers}");
        assert!(lines[1].contains("\"node\":\"n1\""), "{bad}: {answers}");
    }
}

#[tokio::test]
async fn a_request_too_long_ends_the_connection() {
    let agent = Agent::start();
    let answers = say(&agent, &vec![b'x'; 64 * 1024 + 1], 2).await;
    assert!(answers.contains("at most 65536 bytes"), "{answers}");
    assert_eq!(answers.lines().count(), 1);
}

#[tokio::test]
async fn the_wire_is_an_interface() {
    let status = serde_json::to_string(&Request::Status).expect("json");
    assert_eq!(status, "{\"verb\":\"status\"}");
    let request = serde_json::to_string(&Request::Enrol(enrol("u"))).expect("json");
    assert_eq!(
        request,
        "{\"verb\":\"enrol\",\"uid\":\"u\",\"netns\":\"/proc/1/ns/net\",\
         \"cgroup\":\"/sys/fs/cgroup/x\",\"workload\":\"a/b/c\",\"probe_ports\":[8080]}"
    );
    let parse = serde_json::from_str::<Request>;
    assert_eq!(
        parse("{\"verb\":\"flows\"}").expect("defaults"),
        Request::Flows { follow: false, limit: None }
    );
    let agent = Agent::start();
    let answer = say(&agent, b"{\"verb\":\"unenrol\",\"uid\":\"u\"}\n", 1).await;
    assert_eq!(
        answer,
        "{\"kind\":\"error\",\"body\":{\"code\":\"NO_SUCH_POD\",\"message\":\"no pod u\"}}\n"
    );
    let degraded = PodState::Degraded { reason: "r".to_owned() };
    assert_eq!(
        serde_json::to_string(&degraded).expect("json"),
        "{\"state\":\"degraded\",\"reason\":\"r\"}"
    );
}

#[tokio::test]
async fn others_than_the_owner_are_not_served() {
    let agent = Agent::start_for(Uid::effective().as_raw().wrapping_add(1));
    let error = agent.client().await.status().await.expect_err("not the owner");
    assert!(error.is_unreachable(), "{error}");
}

#[tokio::test]
async fn connections_are_bounded() {
    let agent = Agent::start();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut client = agent.client().await;
        client.status().await.expect("served");
        held.push(client);
    }
    let busy = agent.client().await.status().await.expect_err("one too many");
    assert!(matches!(busy, ClientError::Refused(failure) if failure.code == Failure::BUSY));
    held.pop();
    // The slot comes back once the server has seen the hang-up.
    for attempt in 0.. {
        match agent.client().await.status().await {
            Ok(_) => break,
            Err(error) if attempt > 100 => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[tokio::test]
async fn a_request_runs_to_its_end_without_its_client() {
    let mut agent = Agent::start();
    let mut client = agent.client().await;
    client.send(&Request::Enrol(enrol("u"))).await.expect("sent");
    while agent.handler.begun.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(client);
    agent.handler.go_on.notify_one();
    agent.stop().await;
    assert_eq!(agent.handler.ended.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_socket_is_private_from_its_first_moment() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let before = umask(Mode::empty());
    let server = Server::bind(&path, 0);
    umask(before);
    let server = server.expect("bind");
    let found = path.symlink_metadata().expect("there");
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o777, 0o600);
    drop(server);
    assert!(!path.exists(), "removed on drop");
}

#[tokio::test]
async fn only_a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let bind = |path: &std::path::Path| Server::bind(path, 0);
    // Stale: bound once, nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
    assert!(path.exists());
    let first = bind(&path).expect("the stale one is replaced");
    // In use: the first answers.
    let error = bind(&path).expect_err("in use");
    assert!(matches!(error, BindError::InUse(_)), "{error}");
    // Another socket in its place is left alone by the first's end.
    std::fs::remove_file(&path).expect("remove");
    let second = bind(&path).expect("bind");
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());

    std::fs::write(&path, "precious").expect("write");
    assert!(matches!(bind(&path), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    std::fs::remove_file(&path).expect("remove");
    // A link is not followed.
    symlink(folder.path().join("elsewhere"), &path).expect("link");
    assert!(matches!(bind(&path), Err(BindError::NotASocket(_))));
    let nowhere = folder.path().join("no/folder/admin.sock");
    assert!(matches!(bind(&nowhere), Err(BindError::System { .. })));
    let long = folder.path().join("x".repeat(120));
    assert!(matches!(bind(&long), Err(BindError::System { .. })));
}

#[tokio::test]
async fn two_agents_that_start_at_once_do_not_share_a_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    for _ in 0..20 {
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        let tries: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                tokio::task::spawn_blocking(move || Server::bind(&path, 0))
            })
            .collect();
        let mut bound = Vec::new();
        for attempt in tries {
            match attempt.await.expect("no panic") {
                Ok(server) => bound.push(server),
                Err(error) => assert!(matches!(error, BindError::InUse(_)), "{error}"),
            }
        }
        assert_eq!(bound.len(), 1);
    }
}

#[tokio::test]
async fn nobody_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let error = Client::connect(&path).await.expect_err("nobody");
    assert!(error.is_unreachable());
    assert!(error.to_string().contains("admin.sock"), "{error}");
}

#[test]
fn a_flow_is_an_outcome() {
    let outcome = model::Outcome {
        direction: model::Direction::Outbound,
        path: model::Path::Local,
        source: model::Endpoint::default(),
        destination: model::Endpoint {
            address: Some(([10, 0, 0, 1], 80).into()),
            workload: None,
            identity: model::SpiffeId::parse("spiffe://td/ns/a/sa/b").ok(),
        },
        service: model::ServiceName::parse("a/b.svc")
            .map(|name| model::DialledService { name, short_name: "b".into() }),
        hbone: None,
        code: model::Code::PolicyNoMatch,
        policy: Some(model::PolicyName::new("a", "p")),
        detail: Some("near".to_owned()),
        bytes: model::Bytes { sent: 1, received: 2 },
        duration: Duration::from_millis(1500),
    };
    let flow = Flow::new(&outcome, UNIX_EPOCH + Duration::from_secs(7));
    assert_eq!(
        serde_json::to_string(&flow).expect("json"),
        "{\"time_unix_ms\":7000,\"direction\":\"outbound\",\"path\":\"local\",\
         \"source\":{\"address\":null,\"workload\":null,\"namespace\":null,\"identity\":null},\
         \"destination\":{\"address\":\"10.0.0.1:80\",\"workload\":null,\"namespace\":null,\
         \"identity\":\"spiffe://td/ns/a/sa/b\"},\
         \"service\":\"a/b.svc\",\"hbone\":null,\"code\":\"POLICY_NO_MATCH\",\"policy\":\"a/p\",\
         \"detail\":\"near\",\"bytes_sent\":1,\"bytes_received\":2,\"duration_ms\":1500}"
    );
}
