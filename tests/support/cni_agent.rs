//! The part of Istio's CNI agent in the mode `external`: redirects a pod's traffic by rules of
//! netfilter and tells the proxy of it over a Unix socket (ZDS).

use std::collections::BTreeMap;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    listen, recv, send, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use prost::Message;
use proto::zds::workload_request::Payload;
use proto::zds::{AddWorkload, DelWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest};
use proto::zds::{WorkloadResponse, workload_response};

use crate::namespace::Namespace;
use crate::pod::Pod;

/// How long the proxy may take to answer: it opens listeners meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks for a new proxy, or for the end of this one.
const POLL: Duration = Duration::from_millis(50);

/// The rules that are expected in a pod, in the words of nftables.
const RULES: &str = "table inet mesh {
    chain mangle_prerouting {
        type filter hook prerouting priority mangle;
        meta mark and 0xfff == 0x539 ct mark set 0x111
    }
    chain mangle_output {
        type route hook output priority mangle;
        ct mark and 0xfff == 0x111 meta mark set ct mark
    }
    chain nat_prerouting {
        type nat hook prerouting priority dstnat;
        ip saddr 169.254.7.127 accept
        ip daddr != 127.0.0.1 tcp dport != 15008 meta mark and 0xfff != 0x539 redirect to :15006
        ip6 daddr != ::1 tcp dport != 15008 meta mark and 0xfff != 0x539 redirect to :15006
    }
    chain nat_output {
        type nat hook output priority -100;
        ip daddr 169.254.7.127 accept
        meta l4proto tcp meta mark and 0xfff == 0x111 accept
        oifname lo ip daddr != 127.0.0.1 accept
        oifname lo ip6 daddr != ::1 accept
        meta l4proto tcp ip daddr != 127.0.0.1 meta mark and 0xfff != 0x539 redirect to :15001
        meta l4proto tcp ip6 daddr != ::1 meta mark and 0xfff != 0x539 redirect to :15001
    }
}
";
/// Answers to a client's address come back to the proxy's socket.
const ROUTES: [&str; 4] = [
    "rule add fwmark 0x111/0xfff pref 32764 lookup 100",
    "route add local 0.0.0.0/0 dev lo table 100",
    "-6 rule add fwmark 0x111/0xfff pref 32764 lookup 100",
    "-6 route add local ::/0 dev lo table 100",
];

/// Redirects a pod's traffic to the mesh's ports.
pub(crate) fn redirect(pod: &Namespace) -> anyhow::Result<()> {
    nft(pod, RULES)?;
    // `ip -batch` takes no family for each line.
    for route in ROUTES {
        let words: Vec<_> = route.split(' ').collect();
        pod.ip_output(&words)?;
    }
    Ok(())
}

/// Takes the rules away.
pub(crate) fn restore(pod: &Namespace) -> anyhow::Result<()> {
    nft(pod, "delete table inet mesh\n")?;
    for route in ROUTES {
        let words: Vec<_> =
            route.split(' ').map(|word| if word == "add" { "del" } else { word }).collect();
        pod.ip_output(&words)?;
    }
    Ok(())
}

fn nft(namespace: &Namespace, rules: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = namespace.spawn(&mut command)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).context("write rules")?;
    }
    let output = child.wait_with_output().context("wait for nft")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft: {complaint}");
    Ok(())
}

enum Order {
    Add(Pod, Sender<anyhow::Result<()>>),
    Delete(String, Sender<anyhow::Result<()>>),
}

/// The agent of a node. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct CniAgent {
    path: PathBuf,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl CniAgent {
    /// Listens.
    pub(crate) fn start(path: PathBuf) -> anyhow::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
            .context("make a socket")?;
        let address = UnixAddr::new(&path).context("name a socket")?;
        bind(listener.as_raw_fd(), &address).context("bind a socket")?;
        listen(&listener, Backlog::new(4)?).context("listen")?;
        let (orders, received) = channel();
        let thread = std::thread::spawn(move || serve(&listener, &received));
        Ok(Self { path, orders: Some(orders), thread: Some(thread) })
    }

    /// Where the proxy dials.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the proxy of a pod; an error is what it answered. Without a proxy, the next one is told.
    pub(crate) fn add(&self, pod: &Pod) -> anyhow::Result<()> {
        self.order(|answer| Order::Add(pod.clone(), answer))
    }

    /// Takes a pod back.
    pub(crate) fn delete(&self, uid: &str) -> anyhow::Result<()> {
        self.order(|answer| Order::Delete(uid.to_owned(), answer))
    }

    fn order(&self, order: impl FnOnce(Sender<anyhow::Result<()>>) -> Order) -> anyhow::Result<()> {
        let (answer, answered) = channel();
        let orders = self.orders.as_ref().context("the CNI agent has ended")?;
        orders.send(order(answer)).map_err(|_| anyhow!("the CNI agent has ended"))?;
        answered.recv().context("the CNI agent has ended")?
    }
}

impl Drop for CniAgent {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until nobody orders any more.
fn serve(listener: &OwnedFd, orders: &Receiver<Order>) {
    let mut pods = BTreeMap::new();
    let mut proxy: Option<OwnedFd> = None;
    loop {
        if let Ok(descriptor) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            let socket = own(descriptor);
            // The newest one counts; one that fails its snapshot comes again.
            proxy = greet(&socket, &pods).ok().map(|()| socket);
        }
        let (order, answer) = match orders.recv_timeout(POLL) {
            Ok(Order::Add(pod, answer)) => {
                pods.insert(pod.uid().to_owned(), pod.clone());
                (add(&pod), answer)
            }
            Ok(Order::Delete(uid, answer)) => {
                pods.remove(&uid);
                ((request(Payload::Del(DelWorkload { uid })), None), answer)
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let (request, namespace) = order;
        let result = match &proxy {
            Some(socket) => tell(socket, &request, namespace.as_ref().map(AsRawFd::as_raw_fd)),
            None => Ok(()),
        };
        let _ = answer.send(result);
    }
}

/// The hello, every pod, and that this was all.
fn greet(socket: &OwnedFd, pods: &BTreeMap<String, Pod>) -> anyhow::Result<()> {
    let timeout = TimeVal::new(ANSWER_TIMEOUT.as_secs().try_into()?, 0);
    setsockopt(socket, sockopt::ReceiveTimeout, &timeout)?;
    let mut buffer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    ensure!(buffer.get(..length) == Some(b"\x08\x01"), "another hello: {:?}", &buffer[..length]);
    for pod in pods.values() {
        let (request, namespace) = add(pod);
        tell(socket, &request, namespace.as_ref().map(AsRawFd::as_raw_fd))?;
    }
    tell(socket, &request(Payload::SnapshotSent(SnapshotSent {})), None)
}

fn add(pod: &Pod) -> (Vec<u8>, Option<OwnedFd>) {
    let info = WorkloadInfo {
        name: pod.name().to_owned(),
        namespace: pod.namespace().to_owned(),
        service_account: pod.account().to_owned(),
    };
    let add = AddWorkload { uid: pod.uid().to_owned(), workload_info: Some(info) };
    let namespace = pod.netns().fd().as_fd().try_clone_to_owned().ok();
    (request(Payload::Add(add)), namespace)
}

fn request(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

/// One message, one answer.
fn tell(socket: &OwnedFd, request: &[u8], descriptor: Option<RawFd>) -> anyhow::Result<()> {
    match descriptor {
        Some(descriptor) => {
            let rights = [descriptor];
            let rights = [ControlMessage::ScmRights(&rights)];
            let parts = [IoSlice::new(request)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, flags, None)?;
        }
        None => {
            send(socket.as_raw_fd(), request, MsgFlags::MSG_NOSIGNAL)?;
        }
    }
    let mut buffer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let answer = WorkloadResponse::decode(buffer.get(..length).unwrap_or_default())?;
    let Some(workload_response::Payload::Ack(ack)) = answer.payload else { bail!("no Ack") };
    ensure!(ack.error.is_empty(), "the proxy refuses: {}", ack.error);
    Ok(())
}

#[expect(unsafe_code, reason = "the kernel has just made this descriptor for this process")]
fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: accept4 returned it, and nobody else has it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptor) }
}
