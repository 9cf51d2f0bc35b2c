//! What another implementation's node sees of ours: the test is the far end of a tunnel.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, ensure};
use http::Response;
use model::{SpiffeId, TrustDomain};
use rustls::server::Acceptor;
use rustls::{NamedGroup, ProtocolVersion};
use tests::{AgentOptions, PodSpec, ServiceSpec};
use tls::{Trust, TrustView};
use tokio::runtime::Runtime;

use crate::stage::{Cast, Stage, bare, ends_with_reset, enrolled};

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(5);
const VIP: &str = "10.96.0.1";

fn cast() -> [Cast; 2] {
    [enrolled(PodSpec::new(1, "web")), bare(PodSpec::new(2, "foreign"))]
}

/// The far end: pod `foreign`, which no agent has.
struct FarEnd {
    runtime: Runtime,
    listener: TcpListener,
    authority: svid::DevCa,
}

/// What a tunnel's first stream said, and whose tunnel it was.
struct Heard {
    authority: String,
    headers: http::HeaderMap,
    client: String,
}

impl FarEnd {
    fn new(stage: &Stage) -> anyhow::Result<Self> {
        let pod = stage.pod("foreign");
        let any = SocketAddr::from(([0_u16; 8], hbone::HBONE_PORT));
        let listener = pod.netns().within(|| TcpListener::bind(any))??;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let domain = TrustDomain::parse("cluster.local")?;
        let authority = svid::DevCa::open(&stage.world.folder().join("ca"), &domain)?;
        Ok(Self { runtime, listener, authority })
    }

    /// Takes one tunnel as `identity` and answers its first stream with `status`; then it ends.
    fn serve(&self, identity: &str, status: u16) -> anyhow::Result<Heard> {
        let trust = TrustView::fixed(Trust::of(self.authority.bundle().clone()));
        let identity = SpiffeId::parse(identity)?;
        let svid = self.authority.issue(&identity, Duration::from_mins(10))?;
        let svid = svid.into_svid(&identity, &trust)?;
        let serve = async {
            let listener = tokio::net::TcpListener::from_std(self.listener.try_clone()?)?;
            let (stream, _) = listener.accept().await?;
            look_at_hello(&stream).await?;
            let (stream, client) = tls::accept(stream, &svid, PATIENCE).await?;
            let session = stream.get_ref().1;
            ensure!(session.protocol_version() == Some(ProtocolVersion::TLSv1_3), "not TLS 1.3");
            ensure!(session.alpn_protocol() == Some(b"h2"), "not h2");
            let group =
                session.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
            ensure!(group == Some(NamedGroup::X25519MLKEM768), "the key exchange is {group:?}");
            let mut connection = h2::server::handshake(stream).await?;
            let first = connection.accept().await.context("the tunnel ended without a stream")?;
            let (request, mut respond) = first?;
            ensure!(request.method() == http::Method::CONNECT, "{request:?}");
            let uri = request.uri();
            ensure!(uri.scheme().is_none() && uri.path_and_query().is_none(), "{uri:?}");
            let authority = uri.authority().context("no authority")?.to_string();
            let headers = request.headers().clone();
            respond.send_response(Response::builder().status(status).body(())?, true)?;
            connection.graceful_shutdown();
            // Sends what is queued; the client ends it.
            let _ = tokio::time::timeout(PATIENCE, connection.accept()).await;
            Ok(Heard { authority, headers, client: client.identity.id().to_string() })
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE * 2, serve).await })?
    }
}

/// The ClientHello, without taking it from the socket: no server name, h2 alone, and the hybrid
/// group offered.
async fn look_at_hello(stream: &tokio::net::TcpStream) -> anyhow::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    for _ in 0..200 {
        let read = stream.peek(&mut buffer).await?;
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &buffer[..read])?;
        let accepted = acceptor.accept().map_err(|(error, _)| error)?;
        if let Some(accepted) = accepted {
            let hello = accepted.client_hello();
            ensure!(hello.server_name().is_none(), "a server name: {:?}", hello.server_name());
            let alpn: Vec<_> = hello.alpn().into_iter().flatten().collect();
            ensure!(alpn == [b"h2"], "ALPN {alpn:?}");
            let groups = hello.named_groups().unwrap_or_default();
            ensure!(groups.first() == Some(&NamedGroup::X25519MLKEM768), "groups {groups:?}");
            return Ok(());
        }
        // The hybrid key share does not fit into one segment.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    anyhow::bail!("no whole ClientHello came")
}

#[test]
fn the_wire_format_is_istios() {
    let mesh = |stage: &Stage| {
        let vip = VIP.parse().expect("an address");
        let service = ServiceSpec::new("shop", "foreign").vip(vip).port(80, PORT);
        stage.mesh().service(service.endpoint(stage.pod("foreign")))
    };
    Stage::play(&AgentOptions::default(), cast(), mesh, |stage| {
        let far = FarEnd::new(stage)?;
        let (web, foreign) = (stage.pod("web"), stage.pod("foreign"));
        let client = web.actor()?;
        let vip = SocketAddr::new(VIP.parse()?, 80);
        for (target, authority, host) in [
            (foreign.at(PORT), foreign.at(PORT), ""),
            (foreign.at_v6(PORT), foreign.at_v6(PORT), ""),
            (vip, foreign.at(PORT), ";host=foreign.shop.svc.cluster.local"),
        ] {
            let watch = stage.watch(1)?;
            let connection = client.connect(target)?;
            let heard = far.serve(&foreign.identity(), 401).with_context(|| target.to_string())?;
            let Heard { authority: said, headers, client: identity } = heard;
            ensure!(said == authority.to_string(), "the authority is {said}");
            ensure!(identity == web.identity(), "the client is {identity}");
            let header = |name: &str| {
                let value = headers.get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let baggage = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,\
                           k8s.pod.name=web,service.name=web";
            let said = header("baggage");
            let rest =
                said.strip_prefix(baggage).map(|rest| rest.is_empty() || rest.starts_with(','));
            ensure!(rest == Some(true), "baggage: {said}");
            let own =
                SocketAddr::new(connection.local().ip().to_canonical(), connection.local().port());
            let forwarded = format!("for=\"{own}\"{host}");
            ensure!(header("forwarded") == forwarded, "forwarded: {}", header("forwarded"));
            traceparent(&header("traceparent"))?;
            let known = ["baggage", "forwarded", "traceparent"];
            let unknown: Vec<_> = headers.keys().filter(|k| !known.contains(&k.as_str())).collect();
            ensure!(unknown.is_empty(), "unknown headers: {unknown:?}");
            ends_with_reset(&connection)?;
            watch.outcome("POLICY_DENIED_BY_PEER", |line| line.direction == "outbound")?;
        }

        // Another refusal, and a server that is not who it should be.
        let watch = stage.watch(1)?;
        let connection = client.connect(foreign.at(PORT))?;
        far.serve(&foreign.identity(), 503)?;
        ends_with_reset(&connection)?;
        watch.outcome("PEER_REFUSED", |line| line.direction == "outbound")?;
        let watch = stage.watch(1)?;
        let connection = client.connect(foreign.at(PORT))?;
        let taken = far.serve(&web.identity(), 200);
        ensure!(taken.is_err(), "a client spoke to the wrong server");
        ends_with_reset(&connection)?;
        let line = watch.outcome("PEER_IDENTITY", |line| line.direction == "outbound")?;
        ensure!(line.error.contains(&web.identity()), "{line:?}");
        Ok(())
    });
}

/// `00-<32 hex digits>-<16>-<2>`, not all zeros (W3C Trace Context, section 3.2).
fn traceparent(value: &str) -> anyhow::Result<()> {
    let parts: Vec<_> = value.split('-').collect();
    let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
    let hex = parts
        .iter()
        .all(|part| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    let some = parts.iter().skip(1).take(2).all(|part| part.bytes().any(|b| b != b'0'));
    ensure!(lengths == [2, 32, 16, 2] && hex && some && parts[0] == "00", "traceparent: {value:?}");
    Ok(())
}
