//! A tunnel inside a tunnel: client, gateway and workload over real sockets and mutual TLS.

mod support;

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use hbone::{Baggage, ConnectHead};
use hbone_h2::{
    HboneStream, Incoming, Inner, InnerError, OpenError, OpenedInside, Server, Settings,
    StreamError, StreamIo, Tunnel,
};
use model::{Code, Network, SpiffeId};
use support::{Serving, head, held, local, pattern, read, read_to_end, svids, write};
use tls::{Svid, TlsError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/web";
const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/east-west";
const WORKLOAD: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1024 * 1024;

/// What waits for connections behind the gateway.
#[derive(Clone, Copy)]
enum Behind {
    /// A workload that speaks HBONE.
    Workload,
    /// Something that closes them.
    Closes,
    /// Something that does not say a word.
    Silent,
    /// A workload that reads no more once TLS stands.
    Frozen,
}

struct World {
    svid: Svid,
    tunnel: Tunnel,
    /// The workload's end of each inner tunnel.
    workload: Mutex<mpsc::UnboundedReceiver<Serving>>,
    /// How each relay of the gateway ended.
    relays: Mutex<mpsc::UnboundedReceiver<bool>>,
    /// Dropping all that the gateway has.
    gateway: AbortHandle,
}

impl World {
    async fn new(behind: Behind) -> Self {
        let [svid, gateway, workload] = svids([CLIENT, GATEWAY, WORKLOAD]);
        let far = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let far_address = far.local_addr().expect("address");
        let (inner_tunnels, workload_end) = mpsc::unbounded_channel();
        spawn_local(async move {
            let workload = Rc::new(workload);
            loop {
                let (socket, _) = far.accept().await.expect("accepts");
                spawn_local(answer(behind, socket, workload.clone(), inner_tunnels.clone()));
            }
        });
        let near = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let near_address = near.local_addr().expect("address");
        let (told, relays) = mpsc::unbounded_channel();
        let gateway = spawn_local(async move {
            let (socket, _) = near.accept().await.expect("accepts");
            let (stream, _) = tls::accept(socket, &gateway, SOON).await.expect("TLS");
            let server = Server::handshake(stream, &Settings::default()).await.expect("HTTP/2");
            relay_streams(server, far_address, told).await;
        });
        let socket = TcpStream::connect(near_address).await.expect("connects");
        let expected = [SpiffeId::parse(GATEWAY).expect("literal")];
        let (stream, _) = tls::connect(socket, &svid, &expected, SOON).await.expect("TLS");
        let (tunnel, mut driver) =
            Tunnel::handshake(stream, &Settings::default()).await.expect("HTTP/2");
        spawn_local(
            async move { while !matches!(driver.next().await, hbone_h2::Event::Closed(_)) {} },
        );
        let gateway = gateway.abort_handle();
        let (workload, relays) = (Mutex::new(workload_end), Mutex::new(relays));
        Self { svid, tunnel, workload, relays, gateway }
    }

    async fn outer(&self) -> HboneStream {
        let head = ConnectHead::to(hbone::Authority::parse("cart.shop:80").expect("literal"));
        self.tunnel.open(&head).await.expect("the gateway opens").stream
    }

    /// Opens a tunnel inside `outer`, with these bounds.
    async fn inside(
        &self,
        outer: HboneStream,
        expected: &[&str],
        bounds: Duration,
    ) -> Result<OpenedInside, InnerError> {
        let expected: Vec<_> =
            expected.iter().map(|id| SpiffeId::parse(id).expect("literal")).collect();
        let inner = Inner {
            svid: &self.svid,
            expected: &expected,
            settings: &Settings::default(),
            handshake_timeout: bounds,
            answer_timeout: bounds,
        };
        let head = ConnectHead { forwarded_network: Some(Network("net1".into())), ..head() };
        inner.open(outer, &head).await
    }

    async fn refused(&self, expected: &[&str], bounds: Duration) -> InnerError {
        match self.inside(self.outer().await, expected, bounds).await {
            Ok(_) => panic!("opened"),
            Err(error) => error,
        }
    }

    /// The next inner tunnel at the workload, and its first stream.
    async fn accept(&self) -> Far {
        let mut serving = self.workload.lock().await.recv().await.expect("a tunnel");
        let (head, responder) = serving.connect().await;
        assert_eq!(head.forwarded_network, Some(Network("net1".into())));
        let baggage = Baggage { namespace: "shop".into(), ..Baggage::default() };
        let stream = responder.accept(&baggage).expect("accepts");
        Far { stream, serving }
    }

    /// Both ends of a stream through both tunnels, with all that moves it.
    async fn open(&self) -> (HboneStream, Far) {
        let outer = self.outer().await;
        let (opened, far) = tokio::join!(self.inside(outer, &[WORKLOAD], SOON), self.accept());
        let opened = opened.expect("opens");
        assert_eq!(opened.peer.identity.id().as_str(), WORKLOAD);
        assert_eq!(&*opened.baggage.namespace, "shop");
        spawn_local(opened.driver.run());
        (opened.stream, far)
    }

    /// How the gateway's next relay ended: in order or not.
    async fn relayed(&self) -> bool {
        let mut relays = self.relays.lock().await;
        timeout(SOON, relays.recv()).await.expect("soon").expect("a relay")
    }
}

/// The workload's end.
struct Far {
    stream: HboneStream,
    serving: Serving,
}

async fn answer(
    behind: Behind,
    socket: TcpStream,
    svid: Rc<Svid>,
    tunnels: mpsc::UnboundedSender<Serving>,
) {
    match behind {
        Behind::Closes => drop(socket),
        Behind::Silent => {
            let _held = socket;
            std::future::pending::<()>().await;
        }
        Behind::Frozen => {
            let _held = tls::accept(socket, &svid, SOON).await.expect("TLS");
            std::future::pending::<()>().await;
        }
        Behind::Workload => {
            // A client that does not like our certificate, or gives up, ends it here.
            let Ok((stream, peer)) = tls::accept(socket, &svid, SOON).await else { return };
            assert_eq!(peer.identity.id().as_str(), CLIENT);
            let server = Server::handshake(stream, &Settings::default()).await.expect("HTTP/2");
            let _ = tunnels.send(Serving::new(server));
        }
    }
}

/// A gateway: every stream becomes a connection, and its bytes pass unread.
async fn relay_streams(
    mut server: Server<tls::TlsStream<TcpStream>>,
    to: std::net::SocketAddr,
    told: mpsc::UnboundedSender<bool>,
) {
    let mut relays = tokio::task::JoinSet::new();
    while let Some(incoming) = server.next().await {
        let Incoming::Connect(_, responder) = incoming else { panic!("refused") };
        let told = told.clone();
        relays.spawn_local(async move {
            let mut socket = TcpStream::connect(to).await.expect("connects");
            let stream = responder.accept(&Baggage::default()).expect("accepts");
            let relayed = copy_bidirectional(&mut StreamIo::from(stream), &mut socket).await;
            let _ = told.send(relayed.is_ok());
        });
    }
}

async fn echo(mut stream: HboneStream) {
    while let Some(bytes) = read(&mut stream, usize::MAX).await.expect("reads") {
        write(&mut stream, bytes).await.expect("writes");
    }
    stream.finish().expect("finishes");
}

#[test]
fn bytes_pass_both_ways_and_all_ends_are_in_order() {
    local(async {
        let world = World::new(Behind::Workload).await;
        for len in [0, 1, 70_000, 3 * MIB] {
            let (mut near, Far { stream, serving }) = world.open().await;
            let echo = spawn_local(echo(stream));
            let (data, mut got) = (pattern(len, len), Vec::new());
            let mut left = data.clone();
            while got.len() < len {
                let now = left.split_to(left.len().min(64 * 1024));
                write(&mut near, now).await.expect("writes");
                let part = read(&mut near, usize::MAX).await.expect("reads");
                got.extend_from_slice(&part.expect("more"));
            }
            near.finish().expect("finishes");
            assert_eq!(read(&mut near, 1).await, Ok(None));
            assert!(got == data, "{len}");
            echo.await.expect("echo");
            drop(near);
            // The inner tunnel ends with its stream, and the gateway sees no reset.
            assert_eq!(serving.task.await.expect("served"), None);
            assert!(world.relayed().await);
        }
    });
}

#[test]
fn either_side_may_end_first() {
    local(async {
        let world = World::new(Behind::Workload).await;
        for client_first in [true, false] {
            let (near, Far { stream: far, serving: _serving }) = world.open().await;
            let (mut first, mut second) = if client_first { (near, far) } else { (far, near) };
            write(&mut first, Bytes::from_static(b"question")).await.expect("writes");
            first.finish().expect("finishes");
            assert_eq!(read_to_end(&mut second).await.expect("reads"), b"question");
            let answer = pattern(9 * MIB, 5);
            let sent = answer.clone();
            let writer = spawn_local(async move {
                write(&mut second, sent).await.expect("writes");
                second.finish().expect("finishes");
                second
            });
            assert!(read_to_end(&mut first).await.expect("reads") == answer);
            writer.await.expect("writer");
        }
    });
}

/// The client is done before its last bytes have passed the gateway: they must not be overtaken.
#[test]
fn the_last_bytes_are_not_cut_off() {
    local(async {
        let world = World::new(Behind::Workload).await;
        let (mut near, Far { stream: mut far, serving: _serving }) = world.open().await;
        far.finish().expect("finishes");
        assert_eq!(read(&mut near, 1).await, Ok(None));
        let data = pattern(MIB, 3);
        let sent = data.clone();
        let writer = spawn_local(async move {
            write(&mut near, sent).await.expect("writes");
            near.finish().expect("finishes");
        });
        assert!(read_to_end(&mut far).await.expect("complete") == data);
        writer.await.expect("writer");
        drop(far);
        assert!(world.relayed().await);
    });
}

#[test]
fn a_reset_passes_both_tunnels() {
    local(async {
        let world = World::new(Behind::Workload).await;
        for client_resets in [true, false] {
            for by_drop in [true, false] {
                let (near, Far { stream: far, serving: _serving }) = world.open().await;
                let (mut one, mut other) = if client_resets { (near, far) } else { (far, near) };
                write(&mut one, Bytes::from_static(b"partial")).await.expect("writes");
                assert_eq!(read(&mut other, 99).await.expect("reads").expect("bytes"), "partial");
                if by_drop {
                    drop(one);
                } else {
                    one.reset();
                }
                let error = timeout(SOON, read(&mut other, 99)).await.expect("soon");
                assert_eq!(error.expect_err("reset"), StreamError::Reset(Reason::CANCEL));
            }
        }
    });
}

/// A reader that stands still stops its writer within bounds, and nobody else.
#[test]
fn a_slow_reader_holds_back_its_own_writer_only() {
    local(async {
        let world = World::new(Behind::Workload).await;
        let (mut slow_near, Far { stream: mut slow_far, serving: _slow }) = world.open().await;
        let (mut near, Far { stream: far, serving: _serving }) = world.open().await;
        let data = pattern(24 * MIB, 9);
        let sent = data.clone();
        let writer = spawn_local(async move {
            write(&mut slow_near, sent).await.expect("writes");
            slow_near.finish().expect("finishes");
            slow_near
        });
        // What a stream may have in flight, and not a byte more.
        let window = usize::try_from(Settings::default().stream_window).expect("small");
        while held(&slow_far) < window {
            assert_eq!(poll_fn(|cx| slow_far.poll_fill(cx)).await, Ok(true));
        }
        let more = timeout(Duration::from_millis(200), poll_fn(|cx| slow_far.poll_fill(cx))).await;
        assert!(more.is_err(), "{more:?}");
        assert!(!writer.is_finished());
        spawn_local(echo(far));
        for n in 0..50 {
            let question = pattern(1000 + n, n);
            write(&mut near, question.clone()).await.expect("writes");
            let mut got = Vec::new();
            while got.len() < question.len() {
                let part = read(&mut near, usize::MAX).await.expect("reads");
                got.extend_from_slice(&part.expect("more"));
            }
            assert!(got == question);
        }
        assert!(read_to_end(&mut slow_far).await.expect("reads") == data);
        writer.await.expect("writer");
    });
}

#[test]
fn only_an_expected_workload_is_accepted() {
    local(async {
        let world = World::new(Behind::Workload).await;
        for expected in [&[GATEWAY][..], &[]] {
            let error = world.refused(expected, SOON).await;
            assert_eq!(error.code(), Code::PeerIdentity, "{error:?}");
            assert!(matches!(error, InnerError::Tls(TlsError::PeerIdentity(_))), "{error:?}");
        }
    });
}

#[test]
fn each_layer_tells_its_own_failure() {
    local(async {
        let short = Duration::from_millis(300);
        for (behind, bounds, code, text) in [
            (Behind::Closes, SOON, Code::TlsFailed, "TLS handshake through the gateway"),
            (Behind::Silent, short, Code::TlsTimeout, "TLS handshake through the gateway"),
            (
                Behind::Frozen,
                short,
                Code::TunnelTimeout,
                "the workload behind the gateway did not answer CONNECT within 300ms",
            ),
        ] {
            let world = World::new(behind).await;
            let error = world.refused(&[WORKLOAD], bounds).await;
            assert_eq!((error.code(), error.to_string().as_str()), (code, text), "{error:?}");
        }
    });
}

#[test]
fn a_refusal_of_the_workload_is_its_own() {
    local(async {
        let world = World::new(Behind::Workload).await;
        let refuse = async {
            let mut serving = world.workload.lock().await.recv().await.expect("a tunnel");
            let (_, responder) = serving.connect().await;
            responder.refuse(401);
            serving
        };
        let (error, _serving) = tokio::join!(world.refused(&[WORKLOAD], SOON), refuse);
        assert!(matches!(error, InnerError::Open(OpenError::Status(401))), "{error:?}");
        assert_eq!(error.code(), Code::PolicyDeniedByPeer);
    });
}

#[test]
fn a_lost_gateway_is_told_from_a_lost_workload() {
    local(async {
        // While the inner tunnel is made.
        let world = World::new(Behind::Silent).await;
        let outer = world.outer().await;
        let lose = async { world.gateway.abort() };
        let (opened, ()) = tokio::join!(world.inside(outer, &[WORKLOAD], SOON), lose);
        let Err(error) = opened else { panic!("opened") };
        assert!(matches!(error, InnerError::Outer(_)), "{error:?}");
        assert_eq!(error.code(), Code::TunnelLost);
        // While it carries a stream.
        let world = World::new(Behind::Workload).await;
        let (mut near, Far { stream: _far, serving: _serving }) = world.open().await;
        world.gateway.abort();
        let error = timeout(SOON, read(&mut near, 1)).await.expect("soon").expect_err("lost");
        assert!(error.to_string().contains("the stream below: the tunnel was lost"), "{error}");
        assert_eq!(error.code(), Code::TunnelLost);
        // And only the workload's end of it.
        let world = World::new(Behind::Workload).await;
        let (mut near, Far { stream: far, serving }) = world.open().await;
        drop(far);
        serving.task.abort();
        let error = timeout(SOON, read(&mut near, 1)).await.expect("soon").expect_err("lost");
        assert!(!error.to_string().contains("the stream below"), "{error}");
        let again = timeout(SOON, poll_fn(|cx| near.poll_fill(cx))).await.expect("soon");
        assert!(again.is_err(), "it stays so");
    });
}
