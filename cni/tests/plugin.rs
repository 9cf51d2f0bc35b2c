//! The binary as a runtime starts it, with an agent that is a socket in a temporary folder.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cni::{Refusal, Reply, Request, Work};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;\
                    K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1";
const PREVIOUS: &str = r#"{"ips":[{"address":"10.0.0.5/24"}],   "cniVersion":"1.1.0"}"#;

struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("cni.sock")
    }

    fn netconf(&self, timeout_seconds: u64) -> String {
        let socket = self.socket();
        let socket = socket.display();
        format!(
            r#"{{"cniVersion":"1.1.0","name":"pods","type":"warren-cni","socket":"{socket}",
                "passNamespaces":["warren-system"],"timeoutSeconds":{timeout_seconds},
                "cni.dev/valid-attachments":[{{"containerID":"abc","ifname":"eth0"}}],
                "prevResult":{PREVIOUS}}}"#
        )
    }

    /// An agent that gives each of these replies to one request, and then ends.
    fn agent(&self, replies: Vec<Vec<u8>>) -> JoinHandle<Vec<Request>> {
        let listener = UnixListener::bind(self.socket()).expect("a socket");
        thread::spawn(move || {
            replies
                .iter()
                .map(|reply| serve(&listener.accept().expect("a plugin").0, reply))
                .collect()
        })
    }

    fn run(&self, command: &str, args: &str, timeout_seconds: u64) -> Run {
        run(command, args, self.netconf(timeout_seconds).as_bytes())
    }
}

fn serve(mut stream: &UnixStream, reply: &[u8]) -> Request {
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line).expect("a request");
    // A plugin that gave up does not read.
    let _ = stream.write_all(reply);
    Request::decode(&line).expect("a request")
}

struct Run {
    output: Output,
    took: Duration,
}

impl Run {
    fn stdout(&self) -> &str {
        std::str::from_utf8(&self.output.stdout).expect("UTF-8")
    }

    fn stderr(&self) -> &str {
        std::str::from_utf8(&self.output.stderr).expect("UTF-8")
    }

    fn succeeded(&self, stdout: &str) {
        assert!(self.output.status.success(), "{}", self.stderr());
        assert_eq!(self.stdout(), stdout);
    }

    fn failed(&self, number: u32, code: &str) {
        assert_eq!(self.output.status.code(), Some(1), "{}", self.stderr());
        let start = format!(r#"{{"cniVersion":"1.1.0","code":{number},"msg":"{code}","details":""#);
        assert!(self.stdout().starts_with(&start), "{}", self.stdout());
        assert!(self.stderr().starts_with("warren-cni: "), "{}", self.stderr());
        assert_eq!(self.stderr().lines().count(), 1, "{}", self.stderr());
    }
}

fn run(command: &str, args: &str, netconf: &[u8]) -> Run {
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_warren-cni"))
        .env_clear()
        .envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "abc"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", args),
            ("CNI_PATH", "/opt/cni/bin"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin");
    // It may end before it has read all.
    let _ = child.stdin.take().expect("its input").write_all(netconf);
    let output = child.wait_with_output().expect("its output");
    Run { output, took: start.elapsed() }
}

#[test]
fn add_hands_the_result_on_when_the_agent_is_done() {
    let node = Node::new();
    let agent = node.agent(vec![Reply::Done.encode()]);
    node.run("ADD", ARGS, 30).succeeded(PREVIOUS);
    let request = agent.join().expect("an agent").remove(0);
    assert!(request.wait > Duration::from_secs(28) && request.wait < Duration::from_secs(30));
    let Work::Add(sandbox) = request.work else { panic!("{:?}", request.work) };
    assert_eq!(sandbox.netns.as_path(), Path::new("/run/netns/x"));
    assert_eq!(sandbox.addresses, ["10.0.0.5".parse::<std::net::IpAddr>().expect("an address")]);
}

#[test]
fn add_and_check_fail_with_the_agents_reason() {
    let node = Node::new();
    let refusal = Refusal::new("IDENTITY_CONFLICT", "two pods have 10.0.0.5");
    let agent = node.agent(vec![Reply::Refused(refusal).encode(); 2]);
    for command in ["ADD", "CHECK"] {
        let run = node.run(command, ARGS, 30);
        run.failed(100, "IDENTITY_CONFLICT");
        assert!(run.stderr().contains("shop/web-0") && run.stderr().contains("two pods"));
    }
    agent.join().expect("an agent");
}

#[test]
fn without_an_agent_only_passing_namespaces_start() {
    let node = Node::new();
    let started = node.run("ADD", "IgnoreUnknown=1;K8S_POD_NAMESPACE=warren-system", 30);
    started.succeeded(PREVIOUS);
    assert!(started.took < Duration::from_secs(2), "{:?}", started.took);
    node.run("ADD", "", 30).succeeded(PREVIOUS);

    let refused = node.run("ADD", ARGS, 1);
    refused.failed(11, "AGENT_AWAY");
    assert!(refused.stdout().contains("not started outside the mesh"));
    assert!(refused.took < Duration::from_secs(3), "{:?}", refused.took);
    node.run("CHECK", ARGS, 1).failed(11, "AGENT_AWAY");
    // Or the kubelet would not start the agent.
    node.run("STATUS", "", 1).succeeded("");
    node.run("GC", "", 30).failed(11, "AGENT_AWAY");
    let deleted = node.run("DEL", ARGS, 30);
    deleted.succeeded("");
    assert!(deleted.took < Duration::from_secs(2), "{:?}", deleted.took);

    // A file on which nobody listens is no agent either.
    drop(UnixListener::bind(node.socket()).expect("a socket"));
    node.run("ADD", ARGS, 1).failed(11, "AGENT_AWAY");
}

#[test]
fn an_agent_that_comes_back_soon_is_waited_for() {
    let node = Node::new();
    thread::scope(|scope| {
        let run = scope.spawn(|| node.run("ADD", ARGS, 30));
        thread::sleep(Duration::from_millis(500));
        // The first ends in the middle of its work, as one that is replaced by force.
        let agent = node.agent(vec![Vec::new(), b"{\"version\":1,".to_vec(), Reply::Done.encode()]);
        run.join().expect("a run").succeeded(PREVIOUS);
        assert_eq!(agent.join().expect("an agent").len(), 3);
    });
}

#[test]
fn an_agent_that_does_not_answer_is_waited_for_no_longer_than_told() {
    let node = Node::new();
    let address = UnixAddr::new(&node.socket()).expect("a path");
    let new_socket = || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket")
    };
    let listener = new_socket();
    bind(listener.as_raw_fd(), &address).expect("bound");
    listen(&listener, Backlog::new(3).expect("a number")).expect("it listens");
    let slow = node.run("ADD", ARGS, 1);
    slow.failed(11, "AGENT_SLOW");
    assert!(slow.took >= Duration::from_secs(1) && slow.took < Duration::from_secs(3));
    let deleted = node.run("DEL", ARGS, 30);
    deleted.succeeded("");
    assert!(deleted.took < Duration::from_secs(4), "{:?}", deleted.took);

    // Nor when not even its queue has room, and the plugin cannot connect.
    let mut queued = Vec::new();
    let full = loop {
        let client = new_socket();
        match connect(client.as_raw_fd(), &address) {
            Ok(()) => queued.push(client),
            Err(error) => break error,
        }
    };
    assert_eq!(full, nix::Error::EAGAIN);
    let slow = node.run("ADD", ARGS, 1);
    slow.failed(11, "AGENT_SLOW");
    assert!(slow.took < Duration::from_secs(3), "{:?}", slow.took);
}

#[test]
fn what_is_no_reply_fails_the_pod() {
    let node = Node::new();
    let long = vec![b'a'; 100_000];
    let agent = node.agent(vec![b"HTTP/1.1 400 Bad Request\r\n".to_vec(), long]);
    for _ in 0..2 {
        node.run("ADD", ARGS, 30).failed(101, "AGENT_UNREADABLE");
    }
    agent.join().expect("an agent");
}

#[test]
fn status_and_gc_ask_the_agent() {
    let node = Node::new();
    let not_ready = Reply::Refused(Refusal::new("NOT_SYNCED", "no mesh yet")).encode();
    let done = Reply::Done.encode();
    let agent = node.agent(vec![done.clone(), not_ready, done]);
    node.run("STATUS", "", 30).succeeded("");
    let told = node.run("STATUS", "", 30);
    told.succeeded("");
    assert!(told.stderr().contains("NOT_SYNCED"), "{}", told.stderr());
    node.run("GC", "", 30).succeeded("");
    let asked = agent.join().expect("an agent");
    let Work::Gc(valid) = &asked[2].work else { panic!("{:?}", asked[2].work) };
    assert_eq!(valid[0].sandbox.as_str(), "abc");
}

#[test]
fn version_needs_nothing_and_nonsense_is_told() {
    let versions = concat!(
        r#"{"cniVersion":"1.0.0","#,
        r#""supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
    );
    run("VERSION", "", br#"{"cniVersion":"1.0.0"}"#).succeeded(versions);
    run("ADD", ARGS, b"nonsense").failed(6, "NETCONF_UNREADABLE");
    run("ADD", ARGS, &vec![b' '; 2 * cni::NETCONF_BYTES_MAX]).failed(5, "NETCONF_UNREADABLE");
    run("MOVE", ARGS, b"{}").failed(4, "ARGS_INVALID");
    run("DEL", ARGS, b"nonsense").succeeded("");
}
