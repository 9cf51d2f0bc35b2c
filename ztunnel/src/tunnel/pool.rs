//! The tunnels of one thread. `hbone::PoolMachine` decides; this owns the sockets.
//!
//! A dial is a task of its own: a caller that gives up harms nobody who waits for the same tunnel,
//! and a slow peer delays only those who want that peer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hbone::{Baggage, Checkout, Close, ConnectHead, PoolLimits, PoolMachine, TunnelId};
use hbone_h2::{HboneStream, Opened, Settings, Tunnel};
use model::{Code, VerifiedIdentity};
use netns::NetnsFd;
use tls::{PeerChain, Svid, Trust, VerifiedPeer};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::TunnelOptions;
use super::inner::Behind;
use super::outbound::{TunnelError, TunnelKey, dial};
use crate::config;

/// Look-ups in the pool for one stream: a pooled tunnel may have died since it was last used, and
/// those who wait for a dial may find its tunnel full. After that the connection fails with the last
/// tunnel's reason.
const TRIES: usize = 16;
/// Tunnels dialled for one stream. A peer that refuses our certificate says so only after our
/// handshake has ended, so without a bound each connection would dial for ever.
const DIALS: usize = 2;

/// How long the far node may take to answer a CONNECT: it judges and dials the application, which
/// is bounded by 10 s there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a tunnel without streams may take to say goodbye (GOAWAY, then TLS's close_notify). A peer
/// that reads nothing is left without.
const GOODBYE: Duration = Duration::from_secs(1);

/// What becomes of a dial: nothing yet, or its end.
type DialEnd = Option<Result<(), TunnelError>>;

/// The pool. Clones share it.
#[derive(Clone)]
pub(crate) struct Tunnels(Rc<Inner>);

struct Inner {
    options: TunnelOptions,
    machine: RefCell<PoolMachine<TunnelKey>>,
    tunnels: RefCell<HashMap<TunnelId, Open>>,
    dials: RefCell<HashMap<TunnelId, Dialling>>,
    /// The drivers of all tunnels, those that say goodbye included.
    drivers: RefCell<JoinSet<()>>,
    /// The next idle tunnel may be due earlier than before.
    changed: Notify,
    /// How the last tunnel ended that ended out of order, for the report of those who wanted it.
    last_end: RefCell<Option<(SocketAddr, String)>>,
}

/// The driver ends the tunnel in order when this is dropped.
struct Open {
    tunnel: Tunnel,
    peer: VerifiedPeer,
    driver: AbortHandle,
    _wanted: oneshot::Sender<()>,
}

struct Dialling {
    end: watch::Receiver<DialEnd>,
    task: AbortHandle,
}

/// A stream with the slot it takes in its tunnel.
pub(crate) struct PooledStream {
    stream: HboneStream,
    peer: VerifiedPeer,
    /// Of a stream in a tunnel of its own: that of the gateway around it.
    around: Option<PeerChain>,
    baggage: Baggage,
    /// None for a stream in a tunnel of its own.
    slot: Option<Slot>,
}

impl PooledStream {
    /// Who is on the other side.
    pub(crate) fn peer(&self) -> &VerifiedIdentity {
        &self.peer.identity
    }

    pub(super) fn peer_chain(&self) -> &PeerChain {
        &self.peer.chain
    }

    /// The chains it is trusted by: the peer's, and that of a gateway on the way.
    pub(crate) fn chains(&self) -> Vec<PeerChain> {
        std::iter::once(&self.peer.chain).chain(&self.around).cloned().collect()
    }

    /// What is told about the workload that the stream leads to.
    pub(crate) fn baggage(&self) -> &Baggage {
        &self.baggage
    }

    /// The stream, and the slot to hold for as long as it lives.
    pub(crate) fn into_parts(self) -> (HboneStream, Option<Slot>) {
        (self.stream, self.slot)
    }

    /// A stream in a tunnel of its own.
    pub(super) fn inside(
        (stream, baggage): (HboneStream, Baggage),
        peer: VerifiedPeer,
        around: PeerChain,
    ) -> Self {
        Self { stream, peer, around: Some(around), baggage, slot: None }
    }
}

/// One stream's place in a tunnel; dropping it frees the place.
pub(crate) struct Slot {
    pool: Tunnels,
    id: TunnelId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.0.machine.borrow_mut().stream_closed(self.id, Instant::now());
        self.pool.after_input();
    }
}

impl Tunnels {
    pub(crate) fn new(limits: &config::PoolLimits, options: TunnelOptions) -> Self {
        let limits = PoolLimits {
            streams_per_tunnel: u32::try_from(limits.streams_per_tunnel).unwrap_or(u32::MAX),
            idle: limits.idle,
            ..PoolLimits::default()
        };
        Self(Rc::new(Inner {
            options,
            machine: RefCell::new(PoolMachine::new(limits)),
            tunnels: RefCell::default(),
            dials: RefCell::default(),
            drivers: RefCell::default(),
            changed: Notify::new(),
            last_end: RefCell::default(),
        }))
    }

    /// Opens a stream, in a tunnel that stands or in a new one; if that leads to a gateway, in a
    /// tunnel of its own inside it.
    pub(crate) async fn open(
        &self,
        key: TunnelKey,
        namespace: &NetnsFd,
        svid: &Arc<Svid>,
        (head, behind): (&ConnectHead, Option<Behind<'_>>),
    ) -> Result<PooledStream, TunnelError> {
        let outer = self.open_pooled(key, namespace, svid, head).await?;
        match behind {
            None => Ok(outer),
            Some(behind) => self.open_behind(outer, svid, head, behind).await,
        }
    }

    async fn open_pooled(
        &self,
        key: TunnelKey,
        namespace: &NetnsFd,
        svid: &Arc<Svid>,
        head: &ConnectHead,
    ) -> Result<PooledStream, TunnelError> {
        let mut last = TunnelError::Refused(Code::TunnelLost);
        let mut dials = 0;
        for _ in 0..TRIES {
            let checkout = self.0.machine.borrow_mut().checkout(&key, Instant::now());
            self.after_input();
            match checkout {
                Checkout::Use(id) => {
                    let slot = Slot { pool: self.clone(), id };
                    let Some((tunnel, peer)) = self.tunnel(id) else {
                        self.lost(id);
                        continue;
                    };
                    let opening = tokio::time::timeout(ANSWER_TIMEOUT, tunnel.open(head));
                    let opened = match opening.await {
                        Ok(opened) => opened.map_err(TunnelError::from),
                        Err(_) => Err(TunnelError::NoAnswer(ANSWER_TIMEOUT)),
                    };
                    match opened {
                        Ok(Opened { stream, baggage }) => {
                            let slot = Some(slot);
                            return Ok(PooledStream { stream, peer, around: None, baggage, slot });
                        }
                        Err(error @ TunnelError::NotTaken(_)) => {
                            // No byte of the connection was sent: another tunnel may take it.
                            self.0.machine.borrow_mut().going_away(id);
                            last = error;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Checkout::Dial(id) => {
                    if dials == DIALS {
                        // Made, and ended before it took a stream: the peer refuses us.
                        self.0.machine.borrow_mut().dial_failed(id);
                        return Err(self.last_end(&key).unwrap_or(last));
                    }
                    dials += 1;
                    let end = self.start_dial(id, key.clone(), namespace, svid);
                    dialled(end).await?;
                }
                Checkout::Join(id) => {
                    let end = self.0.dials.borrow().get(&id).map(|dial| dial.end.clone());
                    match end {
                        Some(end) => dialled(end).await?,
                        None => self.0.machine.borrow_mut().dial_failed(id),
                    }
                }
                Checkout::Refuse(code) => return Err(TunnelError::Refused(code)),
            }
        }
        Err(last)
    }

    /// Resolves when an idle tunnel may be due.
    pub(crate) async fn idle_due(&self) {
        loop {
            let due = self.0.machine.borrow().next_sweep();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => return,
                () = self.0.changed.notified() => {}
            }
        }
    }

    /// Closes tunnels that were idle for long enough.
    pub(crate) fn sweep(&self) {
        self.0.machine.borrow_mut().sweep(Instant::now());
        self.after_input();
    }

    /// Closes, with their streams, the tunnels that `gone` names.
    pub(crate) fn retire(&self, gone: impl Fn(&TunnelKey) -> bool) {
        self.0.machine.borrow_mut().retire(gone);
        self.after_input();
    }

    /// No new streams in tunnels to peers that are not trusted any more. The connections in them end
    /// by themselves, each with its report.
    pub(crate) fn leave_distrusted(&self, trust: &Trust) {
        let distrusted: Vec<_> = {
            let tunnels = self.0.tunnels.borrow();
            let of_distrusted =
                |(_, open): &(&TunnelId, &Open)| trust.check_chain(&open.peer.chain).is_err();
            tunnels.iter().filter(of_distrusted).map(|(id, _)| *id).collect()
        };
        for id in distrusted {
            self.0.machine.borrow_mut().going_away(id);
        }
        self.after_input();
    }

    /// Tunnels close with their last stream.
    pub(crate) fn drain(&self) {
        self.0.machine.borrow_mut().drain();
        self.after_input();
    }

    /// Closes everything. Returns when every peer has been told, or [`GOODBYE`] is over.
    pub(crate) async fn close_all(&self) {
        self.retire(|_| true);
        let mut drivers = self.0.drivers.take();
        while drivers.join_next().await.is_some() {}
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.0.options.settings
    }

    fn tunnel(&self, id: TunnelId) -> Option<(Tunnel, VerifiedPeer)> {
        let tunnels = self.0.tunnels.borrow();
        tunnels.get(&id).map(|open| (open.tunnel.clone(), open.peer.clone()))
    }

    fn start_dial(
        &self,
        id: TunnelId,
        key: TunnelKey,
        namespace: &NetnsFd,
        svid: &Arc<Svid>,
    ) -> watch::Receiver<DialEnd> {
        let (sender, end) = watch::channel(None);
        let address = key.address;
        let dialling = dial(key, namespace.clone(), svid.clone(), self.0.options.clone());
        let pool = self.clone();
        let task = tokio::task::spawn_local(async move {
            let result = dialling.await;
            pool.0.dials.borrow_mut().remove(&id);
            let result = match result {
                Ok((tunnel, driver, peer)) => {
                    let streams = tunnel.peer_streams();
                    let wanted = pool.0.machine.borrow_mut().dialled(id, streams, Instant::now());
                    if wanted {
                        let (wanted, unwanted) = oneshot::channel();
                        let driving = pool.clone().drive(id, address, driver, unwanted);
                        let driver = pool.spawn_driver(driving);
                        let open = Open { tunnel, peer, driver, _wanted: wanted };
                        pool.0.tunnels.borrow_mut().insert(id, open);
                    }
                    Ok(())
                }
                Err(error) => {
                    pool.0.machine.borrow_mut().dial_failed(id);
                    Err(error)
                }
            };
            pool.after_input();
            sender.send_replace(Some(result));
        });
        let task = task.abort_handle();
        self.0.dials.borrow_mut().insert(id, Dialling { end: end.clone(), task });
        end
    }

    fn spawn_driver(&self, driving: impl Future<Output = ()> + 'static) -> AbortHandle {
        let mut drivers = self.0.drivers.borrow_mut();
        // Those that have ended.
        while drivers.try_join_next().is_some() {}
        drivers.spawn_local(driving)
    }

    /// Runs a tunnel until it ends. HTTP/2 ends it in order when nobody holds the tunnel any more.
    async fn drive(
        self,
        id: TunnelId,
        address: SocketAddr,
        mut driver: hbone_h2::Driver,
        unwanted: oneshot::Receiver<()>,
    ) {
        let mut late = pin!(async {
            // Nothing is ever sent: the other end is dropped.
            let _ = unwanted.await;
            tokio::time::sleep(GOODBYE).await;
        });
        loop {
            let event = tokio::select! {
                biased;
                event = driver.next() => event,
                () = &mut late => return,
            };
            match event {
                hbone_h2::Event::GoingAway => {
                    self.0.machine.borrow_mut().going_away(id);
                    self.after_input();
                }
                hbone_h2::Event::PeerStreams(limit) => {
                    self.0.machine.borrow_mut().peer_limit(id, limit);
                }
                hbone_h2::Event::Stalled => self.0.machine.borrow_mut().stalled(id),
                hbone_h2::Event::Resumed => self.0.machine.borrow_mut().resumed(id),
                hbone_h2::Event::Closed(cause) => {
                    if let Some(cause) = cause {
                        tracing::debug!(%address, %cause, "a tunnel ended");
                        *self.0.last_end.borrow_mut() = Some((address, cause));
                    }
                    self.lost(id);
                    return;
                }
            }
        }
    }

    fn last_end(&self, key: &TunnelKey) -> Option<TunnelError> {
        let end = self.0.last_end.borrow();
        let (address, cause) = end.as_ref()?;
        (*address == key.address).then(|| TunnelError::Lost(cause.clone()))
    }

    fn lost(&self, id: TunnelId) {
        self.0.machine.borrow_mut().lost(id);
        self.0.tunnels.borrow_mut().remove(&id);
        self.after_input();
    }

    /// Does what the machine wants done.
    fn after_input(&self) {
        loop {
            let Some(close) = self.0.machine.borrow_mut().poll_close() else { break };
            let (Close::InOrder(id) | Close::AtOnce(id)) = close;
            if let Some(dial) = self.0.dials.borrow_mut().remove(&id) {
                // Those who wait see the sender go.
                dial.task.abort();
            }
            let open = self.0.tunnels.borrow_mut().remove(&id);
            if let Some(open) = open
                && close == Close::AtOnce(id)
            {
                open.driver.abort();
            }
        }
        self.0.changed.notify_one();
    }
}

/// Waits for the end of a dial.
async fn dialled(mut end: watch::Receiver<DialEnd>) -> Result<(), TunnelError> {
    match end.wait_for(Option::is_some).await {
        Ok(result) => result.clone().unwrap_or(Ok(())),
        // The dial was abandoned: the pod has left or the destination has changed.
        Err(_) => Err(TunnelError::Refused(Code::PodGone)),
    }
}
