//! A pair of HBONE ends on one thread, and blocking-style access to a stream.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "a module of each test file")]

use std::future::poll_fn;
use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;
use hbone::{Authority, Baggage, ConnectHead};
use hbone_h2::{
    Driver, Event, HboneStream, Incoming, Responder, Server, Settings, StreamError, Tunnel,
};
use model::{Code, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tls::{Svid, Trust, TrustBundle, TrustView};
use tokio::io::{AsyncRead, AsyncWrite, duplex};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// Runs a test as the node proxy runs: one thread, tasks that are not `Send`.
pub fn local<F: Future<Output = ()>>(test: F) {
    run(false, test);
}

/// The same under a clock that jumps ahead when all tasks wait.
pub fn paused<F: Future<Output = ()>>(test: F) {
    run(true, test);
}

fn run<F: Future<Output = ()>>(paused: bool, test: F) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(paused).build().expect("runtime");
    LocalSet::new().block_on(&runtime, test);
}

/// Certificates of one new authority.
pub fn svids<const N: usize>(identities: [&str; N]) -> [Svid; N] {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).expect("root").der().clone();
    let issuer = Issuer::new(params, key);
    identities.map(|uri| {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().expect("ASCII"))];
        let leaf = params.signed_by(&key, &issuer).expect("leaf").der().clone();
        let bundle = TrustBundle::new(TrustDomain::default(), [root.clone()]).expect("bundle");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let trust = TrustView::fixed(Trust::of(bundle.clone()));
        Svid::new(vec![leaf], key.into(), bundle, &trust).expect("svid")
    })
}

pub fn head() -> ConnectHead {
    ConnectHead::to(Authority::parse("10.0.2.7:8080").expect("literal"))
}

/// What the serving task is told.
#[derive(Debug)]
pub enum Order {
    /// Send GOAWAY.
    Shutdown,
    /// Answer nothing any more, but keep the connection.
    Freeze,
}

/// The serving end.
pub struct Serving {
    pub incoming: mpsc::UnboundedReceiver<Incoming>,
    /// Ends with why the tunnel ended, if not in order.
    pub task: JoinHandle<Option<(Code, String)>>,
    pub orders: mpsc::UnboundedSender<Order>,
}

impl Serving {
    pub fn new<S: AsyncRead + AsyncWrite + Unpin + 'static>(server: Server<S>) -> Self {
        let (send, incoming) = mpsc::unbounded_channel();
        let (orders, receive) = mpsc::unbounded_channel();
        let task = spawn_local(serve(server, send, receive));
        Self { incoming, task, orders }
    }

    /// The next request, which must be a good one.
    pub async fn connect(&mut self) -> (ConnectHead, Responder) {
        match self.incoming.recv().await.expect("a request") {
            Incoming::Connect(head, responder) => (head, responder),
            Incoming::Refused(error) => panic!("{error}"),
        }
    }
}

/// What the client's driver has to say.
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// The next event other than the peer's bound on streams.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let event = tokio::time::timeout(Duration::from_mins(1), self.0.recv());
            match event.await.expect("an event") {
                Some(Event::PeerStreams(_)) => {}
                other => return other,
            }
        }
    }
}

/// A tunnel whose two ends are driven by tasks.
pub struct Pair {
    pub tunnel: Tunnel,
    pub events: Events,
    pub client: JoinHandle<()>,
    pub server: Serving,
}

impl Pair {
    pub async fn new() -> Self {
        let (near, far) = duplex(64 * 1024);
        Self::over(near, far, &Settings::default()).await
    }

    pub async fn over<C, S>(near: C, far: S, settings: &Settings) -> Self
    where
        C: AsyncRead + AsyncWrite + Unpin + 'static,
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (tunnel, server) =
            tokio::join!(Tunnel::handshake(near, settings), Server::handshake(far, settings));
        let (tunnel, driver) = tunnel.expect("client");
        let (told, events) = mpsc::unbounded_channel();
        let client = spawn_local(drive(driver, told));
        Self {
            tunnel,
            events: Events(events),
            client,
            server: Serving::new(server.expect("server")),
        }
    }

    /// Opens a stream while the other end accepts it.
    pub async fn open(&mut self) -> (HboneStream, HboneStream) {
        let head = head();
        let accept = async {
            let (_, responder) = self.server.connect().await;
            responder.accept(&Baggage::default()).expect("accepts")
        };
        let (near, far) = tokio::join!(self.tunnel.open(&head), accept);
        (near.expect("opens").stream, far)
    }
}

async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    mut driver: Driver<S>,
    events: mpsc::UnboundedSender<Event>,
) {
    loop {
        let event = driver.next().await;
        let last = matches!(event, Event::Closed(_));
        // A test that does not look at events has dropped the receiver.
        let _ = events.send(event);
        if last {
            return;
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut server: Server<S>,
    incoming: mpsc::UnboundedSender<Incoming>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Option<(Code, String)> {
    loop {
        tokio::select! {
            next = server.next() => match next {
                Some(request) => {
                    if incoming.send(request).is_err() {
                        return None;
                    }
                }
                None => return server.error().map(|error| (error.code(), error.to_string())),
            },
            Some(order) = orders.recv() => match order {
                Order::Shutdown => server.shutdown(),
                Order::Freeze => std::future::pending().await,
            },
        }
    }
}

/// The next bytes, at most `max`; `None` at the end.
pub async fn read(stream: &mut HboneStream, max: usize) -> Result<Option<Bytes>, StreamError> {
    loop {
        if !stream.buffered().is_empty() {
            let bytes = stream.buffered();
            let bytes = Bytes::copy_from_slice(&bytes[..bytes.len().min(max)]);
            stream.consume(bytes.len());
            return Ok(Some(bytes));
        }
        if !poll_fn(|cx| stream.poll_fill(cx)).await? {
            return Ok(None);
        }
    }
}

pub async fn read_to_end(stream: &mut HboneStream) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(bytes) = read(stream, usize::MAX).await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

pub async fn write(stream: &mut HboneStream, mut data: Bytes) -> Result<(), StreamError> {
    while !data.is_empty() {
        let want = data.len().min(256 * 1024);
        let n = poll_fn(|cx| stream.poll_capacity(cx, want)).await?;
        stream.send(data.split_to(n))?;
    }
    Ok(())
}

/// Takes out what has arrived, again and again, and passes nothing on: a stalled reader.
pub async fn stall(stream: &mut HboneStream) -> Result<(), StreamError> {
    loop {
        if !poll_fn(|cx| stream.poll_fill(cx)).await? {
            return Ok(());
        }
    }
}

/// Bytes taken out and not passed on.
pub fn held(stream: &HboneStream) -> usize {
    let mut slices = [IoSlice::new(&[]); 1000];
    let filled = stream.buffered_slices(&mut slices);
    assert!(filled < slices.len(), "there may be more");
    slices[..filled].iter().map(|slice| slice.len()).sum()
}

/// Bytes that betray reordering and loss.
pub fn pattern(len: usize, seed: usize) -> Bytes {
    (0..len).map(|at| u8::try_from((at * 31 + at / 251 + seed) % 256).expect("mod 256")).collect()
}
