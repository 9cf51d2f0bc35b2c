//! Another network: a service there is reached through a gateway, in a tunnel that the gateway cannot
//! read. The test is the gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use hbone_h2::{Incoming, Server, Settings, StreamIo};
use model::{SpiffeId, TrustDomain};
use tests::protocol::{Behaviour, Stream};
use tests::{AgentOptions, Mesh, Namespace, PodSpec, ServiceSpec};
use tls::{Trust, TrustView};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use crate::stage::{Cast, Stage, any, bare, echoes, enrolled, is_reset};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const ECHO: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(5);
const HOSTNAME: &str = "cart.shop.svc.cluster.local";
/// The network of node 2.
const FAR: &str = "far";

fn cast() -> [Cast; 3] {
    [
        enrolled(PodSpec::new(1, "web")),
        enrolled(PodSpec::new(2, "cart")),
        bare(PodSpec::new(2, "gw").namespace("istio-system")),
    ]
}

fn options() -> AgentOptions {
    AgentOptions::default().set_on(2, "NETWORK", FAR)
}

/// A service whose only pod is in the far network; its name is known here, and whose it is.
fn mesh(stage: &Stage, identity: &str) -> Mesh {
    let (cart, gateway) = (stage.pod("cart"), stage.pod("gw"));
    let service = ServiceSpec::new("shop", "cart").vip(VIP).port(80, ECHO).endpoint(cart);
    let address = gateway.ipv4();
    stage
        .mesh()
        .network(cart, FAR)
        .with(
            cart,
            &format!("networkGateway: {{destination: \"/{address}\", hboneMtlsPort: 15008}}"),
        )
        .service(service.subject_alt_name(identity))
}

/// A gateway in a pod's namespace: it takes tunnels, and passes the bytes of each stream to the pod
/// that it leads to.
struct Gateway {
    asked: mpsc::Receiver<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<anyhow::Result<()>>>,
}

impl Gateway {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        let (pod, cart) = (stage.pod("gw"), stage.pod("cart"));
        let port = SocketAddr::from(([0_u16; 8], hbone::HBONE_PORT));
        let listener = pod.netns().within(|| TcpListener::bind(port))??;
        listener.set_nonblocking(true)?;
        let domain = TrustDomain::parse("cluster.local")?;
        let authority = svid::DevCa::open(&stage.world.folder().join("ca"), &domain)?;
        let trust = TrustView::fixed(Trust::of(authority.bundle().clone()));
        let identity = SpiffeId::parse(&pod.identity())?;
        let svid = authority.issue(&identity, Duration::from_mins(10))?;
        let svid = svid.into_svid(&identity, &trust)?;
        let (told, asked) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (namespace, to) = (pod.netns().clone(), cart.at(hbone::HBONE_PORT));
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let (svid, namespace) = (Rc::new(svid), Rc::new(namespace));
                let accepting = async {
                    loop {
                        let (stream, _) = listener.accept().await?;
                        let tunnel =
                            tunnel(stream, svid.clone(), namespace.clone(), to, told.clone());
                        spawn_local(tunnel);
                    }
                };
                tokio::select! {
                    result = accepting => result,
                    _ = stopped => Ok(()),
                }
            })
        };
        let thread = Some(thread::spawn(serve));
        Ok(Self { asked, stop: Some(stop), thread })
    }

    /// What the next stream asked for.
    fn asked(&self) -> anyhow::Result<String> {
        self.asked.recv_timeout(PATIENCE).context("no stream came to the gateway")
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.take();
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => anyhow::bail!("the gateway panicked"),
            None => Ok(()),
        }
    }
}

/// Serves one tunnel until it ends.
async fn tunnel(
    stream: tokio::net::TcpStream,
    svid: Rc<tls::Svid>,
    namespace: Rc<Namespace>,
    to: SocketAddr,
    told: mpsc::Sender<String>,
) {
    let Ok((stream, _)) = tls::accept(stream, &svid, PATIENCE).await else { return };
    let Ok(mut server) = Server::handshake(stream, &Settings::default()).await else { return };
    while let Some(incoming) = server.next().await {
        let Incoming::Connect(head, responder) = incoming else { continue };
        let _ = told.send(head.authority.to_string());
        let namespace = namespace.clone();
        spawn_local(async move {
            let connected = namespace.within(|| TcpStream::connect_timeout(&to, PATIENCE));
            let Ok(Ok(socket)) = connected else { return responder.refuse(503) };
            let socket =
                socket.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(socket));
            let (Ok(mut socket), Ok(stream)) =
                (socket, responder.accept(&hbone::Baggage::default()))
            else {
                return;
            };
            // How it ends is for the two others to tell.
            let _ = tokio::io::copy_bidirectional(&mut StreamIo::from(stream), &mut socket).await;
        });
    }
}

#[test]
fn a_service_of_another_network_is_reached_through_its_gateway() {
    let mesh = |stage: &Stage| mesh(stage, &stage.pod("cart").identity());
    Stage::play(&options(), cast(), mesh, |stage| {
        let mut gateway = Gateway::start(stage)?;
        let (cart, web) = (stage.pod("cart"), stage.pod("web"));
        let server = cart.actor()?;
        server.listen(any(ECHO), Behaviour::Echo)?;
        let client = web.actor()?;
        let service = SocketAddr::new(VIP, 80);

        let watches = [stage.watch(1)?, stage.watch(2)?];
        // Half-closes pass both tunnels.
        echoes(&client, service)?;
        ensure!(gateway.asked()? == format!("{HOSTNAME}:80"), "not asked for the service");
        let line = watches[0].outcome("OK", |line| line.direction == "outbound")?;
        ensure!(line.tunnel == stage.pod("gw").at(15008).to_string(), "{line:?}");
        ensure!(line.destination_identity == cart.identity(), "{line:?}");
        ensure!(line.destination_workload == "cart", "{line:?}");
        // There, the address is the gateway's; who it was, the certificate and the baggage say.
        let line = watches[1].outcome("OK", |line| line.direction == "inbound")?;
        ensure!(line.source.starts_with(&format!("{}:", stage.pod("gw").ipv4())), "{line:?}");
        ensure!(line.source_identity == web.identity(), "{line:?}");
        ensure!(line.source_workload == "web", "{line:?}");
        ensure!(line.service == HOSTNAME, "{line:?}");

        // Many at once share the outer tunnel; each has an inner one.
        let (held, failures) = client.hold(service, 20)?;
        ensure!(failures.is_empty(), "{failures:?}");
        for (number, connection) in held.iter().enumerate() {
            let words = format!("number {number}");
            ensure!(connection.exchange(words.as_bytes())? == words.as_bytes(), "{words}");
        }
        for connection in held {
            connection.close()?;
        }
        let upload = Stream { bytes: 3_000_000, seed: 7 };
        let transfer = client.transfer(service, upload)?;
        ensure!(transfer.received == 3_000_000, "{transfer:?}");
        ensure!(transfer.received_digest == transfer.sent_digest, "other bytes: {transfer:?}");

        // Without the gateway there is no way.
        gateway.stop()?;
        let watch = stage.watch(1)?;
        is_reset(&client, service)?;
        // Of the connections before, some may end only now.
        watch.outcome("CONNECT_REFUSED", |line| {
            line.direction == "outbound" && line.bytes_recv == 0
        })?;
        Ok(())
    });
}

#[test]
fn whoever_the_gateway_chooses_must_be_the_service() {
    let mesh = |stage: &Stage| mesh(stage, "spiffe://cluster.local/ns/shop/sa/somebody-else");
    Stage::play(&options(), cast(), mesh, |stage| {
        let mut gateway = Gateway::start(stage)?;
        let watch = stage.watch(1)?;
        is_reset(&stage.pod("web").actor()?, SocketAddr::new(VIP, 80))?;
        let line = watch.outcome("PEER_IDENTITY", |line| line.direction == "outbound")?;
        ensure!(line.error.starts_with("TLS handshake through the gateway"), "{line:?}");
        ensure!(line.error.contains(&stage.pod("cart").identity()), "{line:?}");
        gateway.stop()
    });
}
