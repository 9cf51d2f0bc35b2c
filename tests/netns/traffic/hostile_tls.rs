//! A hostile peer before HTTP/2: whoever is not a workload of the trust domain gets no further, is
//! told nothing, and holds nobody else up.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use rustls::client::Tls13ClientSessionValue;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls_pki_types::ServerName;
use tests::protocol::{Amount, Behaviour};
use tests::{AgentOptions, PodSpec};

use crate::certificates::{Authority, Leaf, nameless};
use crate::peer::Peer;
use crate::stage::{Cast, Stage, any, bare, echoes, enrolled, plain};

const ECHO: u16 = 7000;
/// Of a TLS or HTTP/2 handshake, and of dialling a tunnel.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

fn cast() -> [Cast; 5] {
    [
        enrolled(PodSpec::new(1, "web")),
        plain(PodSpec::new(1, "rogue")),
        enrolled(PodSpec::new(2, "far")),
        enrolled(PodSpec::new(2, "beside")),
        bare(PodSpec::new(2, "hole")),
    ]
}

#[test]
fn strangers_are_refused_in_the_handshake() {
    Stage::play(&AgentOptions::default(), cast(), Stage::mesh, |stage| {
        let server = stage.pod("far").actor()?;
        server.listen(any(ECHO), Behaviour::Echo)?;
        let folder = stage.world.folder().to_owned();
        let peer = Peer::new(&folder, stage.pod("rogue"), stage.pod("far"))?;
        let tunnel = peer.tunnel(&stage.pod("web").identity())?;
        let mut bystander = tunnel.open(stage.pod("far").at(ECHO))?;

        let web = Leaf::of(&stage.pod("web").identity());
        let foreign = "spiffe://elsewhere.example/ns/shop/sa/web";
        let no_uri = Leaf { uris: Vec::new(), dns: vec!["web.shop.svc".into()], ..web.clone() };
        let two = Leaf { uris: [web.uris.clone(), web.uris.clone()].concat(), ..web.clone() };
        let no_spiffe = Leaf::of("https://cluster.local/ns/shop/sa/web");
        let expired = Leaf { expired: true, ..web.clone() };
        let ours = |leaf: &Leaf| peer.authority.client(leaf);
        let alpn = |protocols: &[&[u8]]| -> anyhow::Result<_> {
            let mut config = ours(&web)?;
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Ok(config)
        };
        for (who, config, code) in [
            ("without a URI name", ours(&no_uri)?, "PEER_IDENTITY"),
            ("with two URI names", ours(&two)?, "PEER_IDENTITY"),
            ("with a URI that is no SPIFFE ID", ours(&no_spiffe)?, "PEER_IDENTITY"),
            ("of a foreign trust domain", ours(&Leaf::of(foreign))?, "PEER_IDENTITY"),
            ("expired", ours(&expired)?, "TLS_FAILED"),
            ("of another authority", Authority::untrusted()?.client(&web)?, "TLS_FAILED"),
            ("without a certificate", nameless()?, "TLS_FAILED"),
            ("without ALPN", alpn(&[])?, "TLS_FAILED"),
            ("with the wrong ALPN", alpn(&[b"http/1.1"])?, "TLS_FAILED"),
        ] {
            let watch = stage.watch(2)?;
            let refused = || -> anyhow::Result<()> {
                let local = peer.is_refused(config)?;
                let line = watch.outcome(code, |line| line.source == local.to_string())?;
                ensure!(line.direction == "inbound" && line.path == "hbone", "{line:?}");
                ensure!(line.source_identity.is_empty(), "an identity was believed: {line:?}");
                ensure!(!line.error.is_empty(), "no cause: {line:?}");
                Ok(())
            };
            refused().with_context(|| who.to_owned())?;
            bystander.echoes().with_context(|| format!("beside one {who}"))?;
        }
        for (what, hello, code) in [
            ("TLS 1.2", tls12_hello(), "TLS_FAILED"),
            ("HTTP in the open", b"GET / HTTP/1.1\r\nHost: far\r\n\r\n".to_vec(), "TLS_FAILED"),
        ] {
            let watch = stage.watch(2)?;
            let mut stream = peer.tcp()?;
            let local = stream.local_addr()?;
            stream.write_all(&hello)?;
            let mut answer = Vec::new();
            // An alert and an end, or a reset for what was not read.
            let _ = stream.read_to_end(&mut answer);
            // At most one alert record (RFC 8446, section 6), never a byte of HTTP.
            let alert = answer.is_empty() || (answer[0] == 21 && answer.len() <= 7);
            ensure!(alert, "{what} was answered {answer:x?}");
            watch.outcome(code, |line| line.source == local.to_string()).context(what)?;
        }
        let watch = stage.watch(2)?;
        let local = no_preface(&peer, &web)?;
        watch.outcome("HTTP2_FAILED", |line| line.source == local.to_string())?;
        no_session_is_resumed(&peer, &web)?;
        bystander.echoes()
    });
}

/// A ClientHello without `supported_versions`: no more than TLS 1.2 (RFC 5246, section 7.4.1.2).
fn tls12_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session; ECDHE with ECDSA or RSA and AES-128-GCM; no compression.
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    // supported_groups: P-256; signature_algorithms: ecdsa_secp256r1_sha256, rsa_pss_sha256.
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4],
        &[0, 11, 0, 2, 1, 0],
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'],
    ]
    .concat();
    let with_length = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
        [&length[..], bytes].concat()
    };
    body.extend(with_length(&extensions));
    let handshake = [&[1, 0][..], &with_length(&body)].concat();
    [&[22, 3, 1][..], &with_length(&handshake)].concat()
}

/// A workload of the mesh that speaks HTTP/1.1 inside TLS.
fn no_preface(peer: &Peer, web: &Leaf) -> anyhow::Result<SocketAddr> {
    let (stream, local) = peer.tls(&Arc::new(peer.authority.client(web)?))?;
    peer.writes(stream, &b"GET / HTTP/1.1\r\nHost: far\r\n\r\n".repeat(10))?;
    Ok(local)
}

/// Counts the tickets it is given.
#[derive(Debug, Default)]
struct Tickets(AtomicUsize, Mutex<Vec<Tls13ClientSessionValue>>);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.lock().push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.1.lock().pop()
    }
}

/// A resumed session would not run the verifier.
fn no_session_is_resumed(peer: &Peer, web: &Leaf) -> anyhow::Result<()> {
    let tickets = Arc::<Tickets>::default();
    let mut config = peer.authority.client(web)?;
    config.resumption = Resumption::store(tickets.clone());
    let config = Arc::new(config);
    for _ in 0..2 {
        let (stream, _) = peer.tls(&config)?;
        let kind = stream.get_ref().1.handshake_kind();
        ensure!(kind == Some(rustls::HandshakeKind::Full), "the handshake was {kind:?}");
        // The server's settings come after any ticket: once they are here, so would it be.
        peer.reads(stream, 9)?;
    }
    let given = tickets.0.load(Ordering::Relaxed);
    ensure!(given == 0, "the server gave {given} session tickets");
    Ok(())
}

/// Peers that say nothing hold a bounded number of places for a bounded time, and nobody else up.
/// All of them wait out the agent's own timeouts, so they wait together.
#[test]
fn silent_peers_time_out_and_hold_nobody_up() {
    /// More handshakes than one source may have under way, and than one pod.
    const FLOOD: usize = 300;
    const WAITERS: u64 = 20;
    // One thread, so that all waiters want the same tunnel of the same pool.
    let options = AgentOptions::default().set("ZTUNNEL_WORKER_THREADS", 1);
    Stage::play(&options, cast(), Stage::mesh, |stage| {
        let (far, beside, hole) = (stage.pod("far"), stage.pod("beside"), stage.pod("hole"));
        let servers = [far.actor()?, beside.actor()?];
        for server in &servers {
            server.listen(any(ECHO), Behaviour::Echo)?;
        }
        let folder = stage.world.folder().to_owned();
        let peer = Peer::new(&folder, stage.pod("rogue"), far)?;
        let web = stage.pod("web").identity();
        let tunnel = peer.tunnel(&web)?;
        let mut bystander = tunnel.open(far.at(ECHO))?;
        let client = stage.pod("web").actor()?;
        echoes(&client, beside.at(ECHO))?;

        // A destination that answers nothing at all.
        let drop = format!("route replace blackhole {}/32", hole.ipv4());
        stage.world.node(2).namespace().ip(&[drop])?;
        let sniffer = stage.world.sniff_wire(1)?;
        let (here, there) = (stage.watch(1)?, stage.watch(2)?);
        let start = Instant::now();
        let (waiters, failures) = client.hold(hole.at(ECHO), WAITERS)?;
        ensure!(failures.is_empty(), "{failures:?}");
        // TLS that stalls in its first message, and HTTP/2 that stalls in its preface.
        let mut stalled = peer.tcp()?;
        stalled.write_all(&[22, 3, 1, 2])?;
        let (_preface, of_preface) =
            peer.tls(&Arc::new(peer.authority.client(&Leaf::of(&web))?))?;
        // Those beyond the bound may be reset before they look at their socket.
        let silent: Vec<_> = (0..FLOOD).filter_map(|_| peer.tcp().ok()).collect();
        ensure!(!silent.is_empty(), "no connection opened at all");
        let refused = there.outcome("LIMIT_REACHED", |line| line.code == "LIMIT_REACHED")?;
        ensure!(refused.error.contains("handshakes"), "{refused:?}");
        bystander.echoes().context("a stream beside the flood")?;
        echoes(&client, beside.at(ECHO)).context("another pod beside the flood")?;
        echoes(&client, far.at(ECHO)).context("another source's new tunnel to the same pod")?;
        let early = start.elapsed();
        ensure!(early < AGENT_TIMEOUT / 2, "others were held up: {early:?}");

        for waiter in &waiters {
            let end = waiter.receive_within(Amount::All(1), AGENT_TIMEOUT * 2);
            let reset = end.as_ref().is_err_and(|end| end.errno == Some(libc::ECONNRESET));
            ensure!(reset, "a waiter saw no reset but {end:?}");
        }
        let took = start.elapsed();
        ensure!(took > AGENT_TIMEOUT * 9 / 10, "too early: {took:?}");
        ensure!(took < AGENT_TIMEOUT + Duration::from_secs(3), "waiters queued up: {took:?}");
        here.outcome("TUNNEL_TIMEOUT", |line| line.code == "TUNNEL_TIMEOUT")?;
        let timeouts = here.rise("warren_connections_total", &["code=\"TUNNEL_TIMEOUT\""])?;
        ensure!((timeouts - f64::from(u32::try_from(WAITERS)?)).abs() < 0.5, "{timeouts} timeouts");
        let capture = sniffer.stop()?;
        let dials: std::collections::BTreeSet<_> = capture
            .segments()
            .filter(|s| s.syn && s.destination == hole.at(hbone::HBONE_PORT))
            .map(|s| s.source)
            .collect();
        ensure!(dials.len() == 1, "{WAITERS} connections dialled from {dials:?}");

        let local = stalled.local_addr()?.to_string();
        there.outcome("TLS_TIMEOUT", |line| line.source == local)?;
        there.outcome("HTTP2_FAILED", |line| line.source == of_preface.to_string())?;
        let over = tests::wait_until(Duration::from_secs(5), || {
            peer.tunnel(&web).and_then(|t| t.open(far.at(ECHO))?.echoes()).is_ok()
        });
        ensure!(over, "the pod takes no tunnels after the flood");
        bystander.echoes().context("the same tunnel after the flood")?;
        Ok(())
    });
}
