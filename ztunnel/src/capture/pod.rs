//! A captured pod, as the data plane sees it: its namespace, its addresses, and acceptors that
//! yield its connections with their original destination.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ebpf_abi::{Kind, PROXY_MARK, PROXY_MARK_MASK};
use model::{Code, OriginalDst, PodUid, WorkloadKey, canonical_socket};
use netns::{NetnsFd, redirected_from};
use nix::sys::socket::{MsgFlags, getsockopt, send, sockopt};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::external;
use super::listeners::{Pair, ThreadListeners};
use super::pending::{Expected, PendingTests, Token};
use super::programs::Programs;
use super::questions::{DnsCapture, DnsSocket};

/// Pause after an accept that failed for want of memory or descriptors, or for an unknown reason;
/// without it the loop would spin while the connection stays in the queue.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An enrolled pod. Lives as long as somebody relays for it.
pub struct CapturedPod {
    uid: PodUid,
    workload: WorkloadKey,
    dns: DnsCapture,
    namespace: NetnsFd,
    addresses: watch::Receiver<Vec<IpAddr>>,
    redirection: Redirection,
    connections: AtomicUsize,
    without_destination: AtomicU64,
    verified: AtomicBool,
    /// A listener was destroyed; all are to be opened again.
    broken: AtomicBool,
    /// Ends the acceptors of the listeners that are served now.
    serving: Mutex<CancellationToken>,
    stopping: CancellationToken,
    gone: CancellationToken,
}

/// What a new pod is made of.
pub(super) struct PodParts {
    pub(super) uid: PodUid,
    pub(super) workload: WorkloadKey,
    pub(super) dns: DnsCapture,
    pub(super) namespace: NetnsFd,
    pub(super) addresses: watch::Receiver<Vec<IpAddr>>,
    pub(super) redirection: Redirection,
}

/// Who brings a pod's connections to its listeners.
#[derive(Clone)]
pub(super) enum Redirection {
    /// Our own hooks.
    Hooks(Programs),
    /// Rules of somebody else.
    Rules,
}

impl Redirection {
    /// Where a connection of the pod wanted to go.
    fn outbound_dst(&self, stream: &TcpStream) -> Option<SocketAddr> {
        match self {
            // Asked of the accepted socket: the registry's entry goes when the application
            // closes, which a fast client may already have done.
            Self::Hooks(programs) => programs.accepted_dst(stream).ok().flatten(),
            Self::Rules => redirected_from(stream).ok(),
        }
    }

    /// Where a connection that reached the pod wanted to go. `local` is the accepted socket's own.
    fn inbound_dst(&self, stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Hooks(_) => Some(local),
            Self::Rules => redirected_from(stream).ok(),
        }
    }

    /// Whether a connection comes from nobody who was redirected.
    fn is_astray(&self, kind: Kind, stream: &TcpStream, local: SocketAddr) -> bool {
        match self {
            // Nothing that is captured ends on loopback, or comes from the proxy: a process of the
            // pod has dialled the listener itself, or has redirected what was on its way. Served, it
            // would be dialled again where it came in, and so on without end.
            Self::Hooks(_) => {
                local.ip().is_loopback() || (kind == Kind::Plaintext && is_proxys_own(stream))
            }
            // What a process redirects of its own ends on loopback.
            Self::Rules => kind == Kind::Hbone && local.ip().is_loopback(),
        }
    }

    /// Whether a destination is a listener itself.
    fn leads_round(&self, destination: SocketAddr) -> bool {
        match self {
            Self::Hooks(_) => false,
            Self::Rules => external::is_own_port(destination.port()),
        }
    }
}

impl std::fmt::Debug for CapturedPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CapturedPod").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl CapturedPod {
    pub(super) fn new(parts: PodParts) -> Self {
        let gone = CancellationToken::new();
        let stopping = gone.child_token();
        Self {
            uid: parts.uid,
            workload: parts.workload,
            dns: parts.dns,
            namespace: parts.namespace,
            addresses: parts.addresses,
            redirection: parts.redirection,
            connections: AtomicUsize::new(0),
            without_destination: AtomicU64::new(0),
            verified: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            serving: Mutex::new(stopping.child_token()),
            stopping,
            gone,
        }
    }

    /// The pod instance.
    pub fn uid(&self) -> &PodUid {
        &self.uid
    }

    /// Which workload it is.
    pub fn workload(&self) -> &WorkloadKey {
        &self.workload
    }

    /// Whether its questions to resolvers are captured.
    pub fn dns(&self) -> DnsCapture {
        self.dns
    }

    /// The programs, if the hooks are ours.
    pub(super) fn programs(&self) -> Option<&Programs> {
        match &self.redirection {
            Redirection::Hooks(programs) => Some(programs),
            Redirection::Rules => None,
        }
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &NetnsFd {
        &self.namespace
    }

    /// Its global unicast addresses, those of the lowest interface first.
    pub fn addresses(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.addresses.clone()
    }

    /// Cancelled when no more connections are accepted. Those that are open go on.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Cancelled when the pod no longer exists: its connections end.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Counts a connection as open until the guard is dropped. Every relay for the pod holds one.
    pub fn track(self: &Arc<Self>) -> OpenConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// Connections that are tracked now.
    pub fn open_connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether its self-test has passed, and nothing was found wrong since.
    pub fn is_verified(&self) -> bool {
        self.verified.load(Ordering::Relaxed)
    }

    pub(super) fn set_verified(&self, verified: bool) {
        self.verified.store(verified, Ordering::Relaxed);
    }

    /// Whether a listener was found broken since this was asked last.
    pub(super) fn take_broken(&self) -> bool {
        self.broken.swap(false, Ordering::Relaxed)
    }

    /// Notes that the listeners are to be opened again.
    pub(crate) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Ends the acceptors and sockets that are made now, when the pod stops or these are replaced.
    pub(super) fn serving(&self) -> CancellationToken {
        self.serving.lock().clone()
    }

    /// Makes acceptors from now on belong to new listeners; the result ends those of the old ones.
    pub(super) fn renew_listeners(&self) -> CancellationToken {
        let next = self.stopping.child_token();
        std::mem::replace(&mut *self.serving.lock(), next)
    }

    /// Connections refused because no original destination was recorded.
    pub fn without_destination(&self) -> u64 {
        self.without_destination.load(Ordering::Relaxed)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.addresses.borrow().contains(&ip)
    }
}

/// Proof that a connection is counted.
#[derive(Debug)]
pub struct OpenConnection(Arc<CapturedPod>);

impl OpenConnection {
    /// The pod.
    pub fn pod(&self) -> &Arc<CapturedPod> {
        &self.0
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A captured connection.
#[derive(Debug)]
pub struct Captured {
    /// The accepted socket.
    pub stream: TcpStream,
    /// The client, never v4-mapped.
    pub peer: SocketAddr,
    /// Where the client wanted to go. For incoming connections, the pod's address and port.
    pub original_dst: OriginalDst,
}

/// A connection that was refused before anything could be known about it; it is already closed.
#[derive(Debug)]
pub struct Refused {
    /// The client.
    pub peer: SocketAddr,
    /// The accepted socket's own address.
    pub local: SocketAddr,
    /// Why.
    pub code: Code,
}

/// What an acceptor yields.
#[derive(Debug)]
pub enum Accepted {
    /// A connection to serve.
    Connection(Captured),
    /// One to report.
    Refused(Refused),
}

/// The acceptors of one data-plane thread for one pod. May be sent to that thread; starts there.
#[derive(Debug)]
pub struct ThreadAcceptors {
    /// The pod's own connections.
    pub outbound: Acceptor,
    /// HBONE from other nodes.
    pub hbone: Acceptor,
    /// Everything else that arrives.
    pub plaintext: Acceptor,
    /// Questions in datagrams: those slots of the pod that this thread serves.
    pub dns: Vec<DnsSocket>,
}

impl ThreadAcceptors {
    pub(super) fn new(
        listeners: ThreadListeners,
        dns: Vec<DnsSocket>,
        pod: &Arc<CapturedPod>,
        pending: &PendingTests,
    ) -> Self {
        let serving = pod.serving();
        let acceptor = |kind, listeners| Acceptor {
            listeners,
            serving: serving.clone(),
            door: Door { kind, pod: Arc::clone(pod), pending: pending.clone() },
        };
        Self {
            outbound: acceptor(Kind::Outbound, listeners.outbound),
            hbone: acceptor(Kind::Hbone, listeners.hbone),
            plaintext: acceptor(Kind::Plaintext, listeners.plaintext),
            dns,
        }
    }
}

/// Listening sockets that no runtime owns yet.
#[derive(Debug)]
pub struct Acceptor {
    listeners: Pair,
    serving: CancellationToken,
    door: Door,
}

/// An acceptor at work on one runtime.
#[derive(Debug)]
pub struct RunningAcceptor {
    v4: TcpListener,
    v6: Option<TcpListener>,
    serving: CancellationToken,
    door: Door,
}

/// What was queued at listeners that no new connection comes to. They close when it is dropped.
#[derive(Debug)]
pub struct Queued {
    listeners: Vec<std::net::TcpListener>,
    door: Door,
}

/// Tells what came in.
#[derive(Debug)]
struct Door {
    kind: Kind,
    pod: Arc<CapturedPod>,
    pending: PendingTests,
}

impl Acceptor {
    /// Registers the listeners with the runtime of the calling thread.
    pub fn start(self) -> io::Result<RunningAcceptor> {
        Ok(RunningAcceptor {
            v4: TcpListener::from_std(self.listeners.v4)?,
            v6: self.listeners.v6.map(TcpListener::from_std).transpose()?,
            serving: self.serving,
            door: self.door,
        })
    }
}

impl RunningAcceptor {
    /// The pod whose connections these are.
    pub fn pod(&self) -> &Arc<CapturedPod> {
        &self.door.pod
    }

    /// The next connection; `None` once the pod stops, its listeners were replaced, or this one is
    /// broken for good: then the watch opens all of them again. Self-test connections are answered here and
    /// never seen outside. Cancel safe: a connection that was not yielded is closed, or stays queued.
    pub async fn accept(&mut self) -> Option<Accepted> {
        let uid = &self.door.pod.uid;
        loop {
            let accepted = tokio::select! {
                // What is queued still is for `into_queued`.
                biased;
                () = self.serving.cancelled() => return None,
                accepted = self.v4.accept() => accepted,
                accepted = accept_optional(self.v6.as_ref()) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if let Some(accepted) = self.door.classify(stream, canonical_socket(peer)) {
                        return Some(accepted);
                    }
                }
                Err(error) => match Fault::of(&error) {
                    Fault::Connection => {}
                    Fault::Passing => {
                        tracing::warn!(pod = %uid, %error, "cannot accept connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    Fault::Listener => {
                        tracing::error!(pod = %uid, %error, "a listener is broken");
                        self.door.pod.set_broken();
                        return None;
                    }
                },
            }
        }
    }

    /// Ends accepting: yields what the kernel has queued already, without waiting for more. Closing
    /// would reset it, although its clients believe that they are connected.
    pub fn into_queued(self) -> Queued {
        let listeners = std::iter::once(self.v4).chain(self.v6);
        // One that cannot leave the runtime is closed, with what it has.
        let listeners = listeners.filter_map(|listener| listener.into_std().ok()).collect();
        Queued { listeners, door: self.door }
    }
}

impl Iterator for Queued {
    type Item = Accepted;

    fn next(&mut self) -> Option<Accepted> {
        loop {
            // Asked of the kernel: the runtime may not know yet what came last.
            let accepted = self.listeners.last()?.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, peer))
            });
            match accepted {
                Ok((stream, peer)) => {
                    if let Some(accepted) = self.door.classify(stream, canonical_socket(peer)) {
                        return Some(accepted);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.listeners.pop();
                }
                Err(error) => match Fault::of(&error) {
                    Fault::Connection => {}
                    Fault::Passing => {
                        let uid = &self.door.pod.uid;
                        tracing::warn!(pod = %uid, %error, "queued connections are lost");
                        self.listeners.pop();
                    }
                    Fault::Listener => {
                        self.listeners.pop();
                    }
                },
            }
        }
    }
}

impl Door {
    fn classify(&self, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        let local = canonical_socket(stream.local_addr().ok()?);
        let redirection = &self.pod.redirection;
        let refuse = |code| {
            reset(&stream);
            Some(Accepted::Refused(Refused { peer, local, code }))
        };
        if redirection.is_astray(self.kind, &stream, local) {
            return refuse(Code::SelfCall);
        }
        let original = match self.kind {
            Kind::Outbound => redirection.outbound_dst(&stream),
            Kind::Plaintext => redirection.inbound_dst(&stream, local),
            Kind::Hbone => Some(local),
        };
        let Some(original) = original else {
            self.pod.without_destination.fetch_add(1, Ordering::Relaxed);
            return refuse(Code::NoOriginalDst);
        };
        let original_dst = canonical_socket(original);
        if redirection.leads_round(original_dst) && self.pod.is_own(original_dst.ip()) {
            return refuse(Code::SelfCall);
        }
        let namespace = self.pod.namespace.inode();
        let destination = original_dst;
        let expected = match self.kind {
            Kind::Outbound => Some(Expected::Outbound { namespace, destination }),
            Kind::Plaintext => Some(Expected::Inbound { namespace, destination }),
            Kind::Hbone => None,
        };
        if let Some(expected) = expected
            && self.pod.is_own(peer.ip())
            && let Some(token) = self.pending.recognise(&expected)
        {
            answer(&stream, &token);
            return None;
        }
        let original_dst = OriginalDst(original_dst);
        Some(Accepted::Connection(Captured { stream, peer, original_dst }))
    }
}

async fn accept_optional(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// What a failed accept says (accept(2), "Error handling" and "ERRORS").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The peer gave up while it was queued; the next one may be fine.
    Connection,
    /// No memory, no descriptors, or unknown: tried again after [`ACCEPT_PAUSE`].
    Passing,
    /// The socket listens no more: a privileged process of the pod has destroyed it (`ss -K`).
    Listener,
}

impl Fault {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(
                libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::ECONNRESET
                | libc::ETIMEDOUT
                | libc::EINTR
                | libc::EAGAIN,
            ) => Self::Connection,
            Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP) => Self::Listener,
            Some(_) | None => Self::Passing,
        }
    }
}

/// Answers a self-test. Not through the runtime, which does not know yet that a new socket is
/// writable: sixteen bytes always fit an empty send buffer. If not, the test fails, as it should.
fn answer(stream: &TcpStream, token: &Token) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = send(stream.as_raw_fd(), token, flags);
}

/// Whether the proxy sent the SYN: an accepted socket has its mark then (`tcp_fwmark_accept`), and
/// no socket of a pod may set that.
fn is_proxys_own(stream: &TcpStream) -> bool {
    getsockopt(stream, sockopt::Mark)
        .is_ok_and(|mark| mark & PROXY_MARK_MASK == PROXY_MARK & PROXY_MARK_MASK)
}

/// Makes the coming close a reset, so that the client does not take it for an empty answer.
fn reset(stream: &TcpStream) {
    // A socket that is gone needs no reset.
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_concern_one_connection_is_tried_again_at_once() {
        for (errno, expected) in [
            (libc::ECONNABORTED, Fault::Connection),
            (libc::EPROTO, Fault::Connection),
            (libc::EAGAIN, Fault::Connection),
            (libc::EMFILE, Fault::Passing),
            (libc::ENOMEM, Fault::Passing),
            (libc::EPERM, Fault::Passing),
            (libc::EIO, Fault::Passing),
            (libc::EINVAL, Fault::Listener),
            (libc::EBADF, Fault::Listener),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Fault::of(&error), expected, "{error}");
        }
        assert_eq!(Fault::of(&io::Error::other("no errno")), Fault::Passing);
    }
}
