//! Capture of a pod's questions to its resolvers: the switch, and the agent's datagram sockets in the
//! pod, one for each slot of `ebpf_abi::dns`.
//!
//! A slot stands for one resolver, so the socket that a question comes to tells whom it was for, and its
//! answer has to leave by the same socket.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ebpf_abi::{DNS_PORT, DNS_RESOLVERS, DNS_SLOTS, dns};
use model::canonical_socket;
use netns::{
    Datagram, Family, NetnsFd, SocketError, answer_datagram, own_datagrams, receive_datagram,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio_util::sync::CancellationToken;

use super::listeners::lacks_ipv6;
use super::pod::CapturedPod;

/// Pause after a socket failed for an unknown reason; without it the loop might spin.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// Whether a pod's questions to its resolvers are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsCapture {
    /// They go where they are sent.
    #[default]
    Off,
    /// The agent answers those about the mesh, and passes the others on.
    On,
}

impl DnsCapture {
    /// For serde, which passes a reference.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

impl From<bool> for DnsCapture {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// Ports of the slots' sockets, in the order of [`dns::slot_key`]; zero where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsPorts(pub [u16; DNS_RESOLVERS]);

/// Sockets of a pod's slots that no runtime owns yet.
#[derive(Debug, Default)]
pub(crate) struct SlotSockets(Vec<SlotSocket>);

#[derive(Debug)]
struct SlotSocket {
    slot: u32,
    socket: UdpSocket,
}

impl SlotSockets {
    /// Opens one for each slot, on the ports of `before` if they are free: sockets of the pod may be
    /// connected to them. Without IPv6 in the kernel, its slots have none.
    pub(super) fn open(namespace: &NetnsFd, before: Option<DnsPorts>) -> Result<Self, SocketError> {
        let DnsPorts(before) = before.unwrap_or_default();
        let mut sockets = Vec::with_capacity(DNS_RESOLVERS);
        for family in Family::ALL {
            let kernels = match family {
                Family::V4 => ebpf_abi::Family::V4,
                Family::V6 => ebpf_abi::Family::V6,
            };
            for slot in (0_u32..).take(DNS_SLOTS).map(|slot| dns::slot_key(kernels, slot)) {
                let port = place(slot).and_then(|place| before.get(place)).copied().unwrap_or(0);
                match own_datagrams(namespace, family, port) {
                    Ok(socket) => sockets.push(SlotSocket { slot, socket }),
                    Err(SocketError::Call { cause, .. }) if lacks_ipv6(&cause) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Self(sockets))
    }

    /// Where they are bound.
    pub(super) fn ports(&self) -> io::Result<DnsPorts> {
        let mut ports = DnsPorts::default();
        for SlotSocket { slot, socket } in &self.0 {
            if let Some(port) = place(*slot).and_then(|place| ports.0.get_mut(place)) {
                *port = socket.local_addr()?.port();
            }
        }
        Ok(ports)
    }

    /// Hands them out to `threads` threads, beginning with a thread that depends on the pod: most pods
    /// ask one resolver, and their questions should not all meet on one thread.
    pub(super) fn spread(self, threads: usize, pod: &Arc<CapturedPod>) -> Vec<Vec<DnsSocket>> {
        let serving = pod.serving();
        let mut all: Vec<Vec<DnsSocket>> = (0..threads).map(|_| Vec::new()).collect();
        let inode = usize::try_from(pod.namespace().inode()).unwrap_or(0);
        for (number, SlotSocket { slot, socket }) in self.0.into_iter().enumerate() {
            let thread = inode.wrapping_add(number).checked_rem(threads).unwrap_or(0);
            if let Some(thread) = all.get_mut(thread) {
                thread.push(DnsSocket { slot, socket, pod: pod.clone(), serving: serving.clone() });
            }
        }
        all
    }
}

fn place(slot: u32) -> Option<usize> {
    usize::try_from(slot).ok()
}

/// The socket of one slot. May be sent to the thread that serves it; starts there.
#[derive(Debug)]
pub struct DnsSocket {
    slot: u32,
    socket: UdpSocket,
    pod: Arc<CapturedPod>,
    serving: CancellationToken,
}

/// The socket of one slot at work on one runtime.
#[derive(Debug)]
pub struct RunningDnsSocket {
    slot: u32,
    socket: tokio::net::UdpSocket,
    pod: Arc<CapturedPod>,
    resolver: OnceCell<SocketAddr>,
    serving: CancellationToken,
}

/// A question that a pod sent in a datagram.
#[derive(Debug)]
pub struct Question {
    /// The message.
    pub message: Vec<u8>,
    datagram: Datagram,
}

impl Question {
    /// The application's socket.
    pub fn source(&self) -> SocketAddr {
        canonical_socket(self.datagram.source)
    }
}

impl DnsSocket {
    /// Registers the socket with the runtime of the calling thread.
    pub fn start(self) -> io::Result<RunningDnsSocket> {
        Ok(RunningDnsSocket {
            slot: self.slot,
            socket: tokio::net::UdpSocket::from_std(self.socket)?,
            pod: self.pod,
            resolver: OnceCell::new(),
            serving: self.serving,
        })
    }
}

impl RunningDnsSocket {
    /// The next question; `None` once the pod stops, the socket was replaced, or it is broken for good:
    /// then the watch opens all of them again. `scratch` is room for one datagram, which all sockets of
    /// a thread share; a longer one is lost. Cancel safe.
    pub async fn receive(&self, scratch: &RefCell<Vec<u8>>) -> Option<Question> {
        loop {
            // A socket that was destroyed is not readable, but failed.
            let interest = Interest::READABLE | Interest::ERROR;
            let received = tokio::select! {
                biased;
                () = self.serving.cancelled() => return None,
                received = self.socket.async_io(interest, || {
                    let mut room = scratch.borrow_mut();
                    let datagram = receive_datagram(&self.socket, &mut room)?;
                    let message = room.get(..datagram.length).unwrap_or_default().to_vec();
                    Ok(Question { message, datagram })
                }) => received,
            };
            match received {
                Ok(question) => return Some(question),
                Err(error) if is_broken(&error) => {
                    tracing::error!(pod = %self.pod.uid(), %error, "a socket for questions is broken");
                    self.pod.set_broken();
                    return None;
                }
                Err(error) => {
                    tracing::debug!(pod = %self.pod.uid(), %error, "a question is lost");
                    if error.kind() != io::ErrorKind::InvalidData {
                        tokio::time::sleep(RECEIVE_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Answers a question. Without room the answer is lost, as any datagram may be.
    pub fn answer(&self, question: &Question, answer: &[u8]) -> io::Result<()> {
        answer_datagram(&self.socket, &question.datagram, answer)
    }

    /// The resolver that questions to this socket were for; `None` while no hook has given the slot to
    /// one: a process of the pod has asked the socket itself.
    pub fn resolver(&self) -> Option<SocketAddr> {
        if let Some(known) = self.resolver.get() {
            return Some(*known);
        }
        let cookie = self.pod.namespace().cookie();
        let ip = self.pod.programs()?.resolver(cookie, self.slot).ok().flatten()?;
        Some(*self.resolver.get_or_init(|| SocketAddr::new(ip, DNS_PORT)))
    }
}

/// Whether a privileged process of the pod has destroyed the socket (`ss -K`): it is not bound any more.
fn is_broken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EBADF | libc::ENOTSOCK))
}
