//! A hostile peer inside a tunnel: a workload of the mesh that breaks the rules. What it asks is
//! refused with a code, and neither the other streams of its tunnel nor other tunnels notice.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::Method;
use tests::protocol::{Behaviour, ConnectOptions};
use tests::{AgentOptions, Mesh, PodSpec, eventually};

use crate::peer::{Frame, Peer, Raw, Tunnel, connect_frame, frame};
use crate::stage::{Cast, SOON, Stage, any, enrolled, plain};

const ECHO: u16 = 7000;
const FORBIDDEN: u16 = 7001;
const SINK: u16 = 9000;
const STUCK: u16 = 9002;

fn cast() -> [Cast; 4] {
    [
        enrolled(PodSpec::new(1, "web")),
        plain(PodSpec::new(1, "rogue")),
        enrolled(PodSpec::new(2, "far")),
        enrolled(PodSpec::new(2, "beside")),
    ]
}

fn mesh(stage: &Stage) -> Mesh {
    stage.mesh().policy(&format!(
        "name: not-there\nnamespace: shop\nscope: Namespace\naction: Deny\nrules:\n\
         - - - destinationPorts: [{FORBIDDEN}]\n"
    ))
}

fn play(test: impl FnOnce(&Stage, &Peer, &str) -> anyhow::Result<()>) {
    Stage::play(&AgentOptions::default(), cast(), mesh, |stage| {
        let servers = [stage.pod("far").actor()?, stage.pod("beside").actor()?];
        for server in &servers {
            server.listen(any(ECHO), Behaviour::Echo)?;
            server.listen(any(FORBIDDEN), Behaviour::Echo)?;
        }
        let folder = stage.world.folder().to_owned();
        let peer = Peer::new(&folder, stage.pod("rogue"), stage.pod("far"))?;
        test(stage, &peer, &stage.pod("web").identity())
    });
}

#[test]
fn bad_requests_are_refused_one_by_one() {
    play(|stage, peer, web| {
        let far = stage.pod("far");
        let tunnel = peer.tunnel(web)?;
        let mut bystander = tunnel.open(far.at(ECHO))?;
        let ip = far.ipv4();
        let long = format!("{}.example:80", "a".repeat(300));
        let elsewhere = stage.pod("beside").at(ECHO).to_string();
        let connects = [
            (format!("{ip}"), 400, "BAD_AUTHORITY"),
            (format!("{ip}:0"), 400, "BAD_AUTHORITY"),
            (format!("{ip}:+80"), 400, "BAD_AUTHORITY"),
            (format!("{ip}:080"), 400, "BAD_AUTHORITY"),
            ("10.2.0.256:80".to_owned(), 400, "BAD_AUTHORITY"),
            ("2130706433:80".to_owned(), 400, "BAD_AUTHORITY"),
            (long, 400, "BAD_AUTHORITY"),
            (elsewhere, 400, "DESTINATION_MISMATCH"),
            (format!("127.0.0.1:{ECHO}"), 400, "DESTINATION_MISMATCH"),
            (format!("[::1]:{ECHO}"), 400, "DESTINATION_MISMATCH"),
            (format!("0.0.0.0:{ECHO}"), 400, "DESTINATION_MISMATCH"),
            (format!("far.shop.svc.cluster.local:{ECHO}"), 400, "DESTINATION_MISMATCH"),
            (format!("{ip}:{}", hbone::HBONE_PORT), 503, "SELF_CALL"),
            (format!("{ip}:{FORBIDDEN}"), 401, "POLICY_DENIED"),
        ];
        let of_tunnel = tunnel.local.to_string();
        for (authority, status, code) in &connects {
            let watch = stage.watch(2)?;
            let refused = || -> anyhow::Result<()> {
                let answer = tunnel.connect(authority, &[])?;
                ensure!(answer.status == *status, "answered {}", answer.status);
                ensure!(answer.headers.get("baggage").is_none(), "it was told who is there");
                let line = watch.outcome(code, |line| line.source == of_tunnel)?;
                ensure!(line.source_identity == web, "{line:?}");
                // The address is another pod's: an identity proves no workload.
                ensure!(line.source_workload.is_empty(), "{line:?}");
                Ok(())
            };
            refused().with_context(|| format!("CONNECT {authority}"))?;
            bystander.echoes().with_context(|| format!("beside CONNECT {authority}"))?;
        }
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            let watch = stage.watch(2)?;
            let answer =
                tunnel.request(method.clone(), &format!("http://{}/", far.at(ECHO)), &[])?;
            ensure!(answer.status == 400, "{method} was answered {}", answer.status);
            watch.outcome("BAD_METHOD", |line| line.source == of_tunnel)?;
            bystander.echoes()?;
        }
        headers_change_nothing(stage, &tunnel, far.at(ECHO))?;
        bystander.echoes()
    });
}

/// Headers are for telemetry: whatever they say, the connection passes and is told apart.
fn headers_change_nothing(
    stage: &Stage,
    tunnel: &Tunnel<'_>,
    echo: SocketAddr,
) -> anyhow::Result<()> {
    let zeros = format!("00-{}-{}-00", "0".repeat(32), "0".repeat(16));
    ensure!(zeros.len() == 55, "another length");
    let no_dashes = format!("00-{}", "0".repeat(52));
    let long = vec![b'k'; 50_000];
    let many = b"k8s.namespace.name=admin,".repeat(2000);
    let forged = b"k8s.namespace.name=admin,k8s.deployment.name=root,service.name=bank";
    let hostile: [(&'static str, &[u8]); 12] = [
        ("traceparent", zeros.as_bytes()),
        ("traceparent", no_dashes.as_bytes()),
        ("traceparent", b"\xff\xfe"),
        ("traceparent", b""),
        ("baggage", &long),
        ("baggage", &many),
        ("baggage", b"\x80\x81=,;;==,\xff"),
        ("baggage", forged),
        ("forwarded", b"for=\"[::1"),
        ("forwarded", b"for=127.0.0.1:1;host=bank.shop.svc.cluster.local;for=10.0.0.1"),
        ("forwarded", b";;;host=;;=\"\\\""),
        ("x-forwarded-network", b"another"),
    ];
    for (name, value) in hostile {
        let watch = stage.watch(2)?;
        let open = || -> anyhow::Result<()> {
            let answer = tunnel.connect(&echo.to_string(), &[(name, value)])?;
            let mut stream = answer.stream.with_context(|| format!("{}", answer.status))?;
            stream.echoes()?;
            stream.finish()?;
            ensure!(stream.receive(1, SOON)?.is_empty(), "more than the echo");
            let line = watch.outcome("OK", |line| line.source == tunnel.local.to_string())?;
            ensure!(line.service.is_empty() && line.source_workload.is_empty(), "{line:?}");
            Ok(())
        };
        let start = &value[..value.len().min(60)];
        open().with_context(|| format!("{name}: {}", String::from_utf8_lossy(start)))?;
    }
    Ok(())
}

#[test]
fn what_is_too_much_is_refused_and_the_rest_goes_on() {
    play(|stage, peer, web| {
        let far = stage.pod("far");
        let other = peer.tunnel(web)?;
        let mut elsewhere = other.open(far.at(ECHO))?;
        let tunnel = peer.tunnel(web)?;
        let mut bystander = tunnel.open(far.at(ECHO))?;
        oversized_headers(stage, &tunnel, far.at(ECHO)).context("oversized headers")?;
        bystander.echoes().context("beside oversized headers")?;
        too_many_streams(stage, peer, web, far.at(ECHO)).context("too many streams")?;
        reset_flood(stage, peer, web, far.at(ECHO)).context("a flood of resets")?;
        bystander.echoes().context("another tunnel of the same peer")?;
        elsewhere.echoes()
    });
}

/// RFC 6585, section 5: the request is too large, the tunnel is not at fault.
fn oversized_headers(stage: &Stage, tunnel: &Tunnel<'_>, echo: SocketAddr) -> anyhow::Result<()> {
    let watch = stage.watch(2)?;
    let large = vec![b'k'; 80_000];
    let answer = tunnel.connect(&echo.to_string(), &[("baggage", &large)]);
    let refused = answer.as_ref().is_ok_and(|answer| answer.status == 431);
    ensure!(refused, "answered {:?}", answer.map(|a| a.status));
    watch.outcome("HEAD_TOO_LARGE", |line| line.source == tunnel.local.to_string())?;
    Ok(())
}

/// 200 at once; more are not taken (REFUSED_STREAM: another tunnel may take them).
fn too_many_streams(stage: &Stage, peer: &Peer, web: &str, echo: SocketAddr) -> anyhow::Result<()> {
    const STREAMS: u32 = 200;
    const REFUSED_STREAM: u32 = 7;
    let mut raw = peer.raw(web)?;
    let ids = (0..STREAMS).map(|n| 2 * n + 1);
    let all: Vec<_> = ids.flat_map(|id| connect_frame(id, &echo.to_string())).collect();
    raw.send(&all)?;
    eventually("200 streams are open", SOON, || {
        let open = raw.count(|frame| frame.kind == Frame::HEADERS);
        Ok((open == 200).then_some(()))
    })?;
    let watch = stage.watch(2)?;
    let one_more = 2 * STREAMS + 1;
    raw.send(&connect_frame(one_more, &echo.to_string()))?;
    let refused =
        raw.wait_for("a refusal", |f| f.kind == Frame::RST_STREAM && f.stream == one_more)?;
    ensure!(refused.error() == Some(REFUSED_STREAM), "{refused:?}");
    let line = watch.outcome("TOO_MANY_STREAMS", |line| line.source == raw.local.to_string())?;
    ensure!(line.source_identity == web, "{line:?}");
    echoes_raw(&mut raw, 1).context("the first stream")?;
    echoes_raw(&mut raw, one_more - 2).context("the last stream")
}

fn echoes_raw(raw: &mut Raw<'_>, stream: u32) -> anyhow::Result<()> {
    raw.send(&frame(0, 0, stream, b"still there?"))?;
    let echo = |f: &Frame| f.kind == 0 && f.stream == stream && f.payload == b"still there?";
    let echoed = raw.wait_for("an echo", echo).map(|_| ());
    echoed.with_context(|| format!("{:?}", raw.of_stream(stream)))
}

/// Streams that are reset as fast as they are opened (CVE-2023-44487): the tunnel ends, and it
/// alone.
fn reset_flood(stage: &Stage, peer: &Peer, web: &str, echo: SocketAddr) -> anyhow::Result<()> {
    const ENHANCE_YOUR_CALM: u32 = 11;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let watch = stage.watch(2)?;
    let mut raw = peer.raw(web)?;
    let both = |id| {
        [connect_frame(id, &echo.to_string()), frame(Frame::RST_STREAM, 0, id, &CANCEL)].concat()
    };
    let flood: Vec<_> = (0..5000).flat_map(|n| both(2 * n + 1)).collect();
    // It may be cut off before it has all been sent.
    let _ = raw.send(&flood);
    let end =
        raw.wait_for("the tunnel ends", |f| f.kind == Frame::GOAWAY || f.kind == Frame::END)?;
    if end.kind == Frame::GOAWAY {
        ensure!(end.error() == Some(ENHANCE_YOUR_CALM), "{end:?}");
    }
    let line = watch.outcome("HTTP2_FAILED", |line| {
        line.source == raw.local.to_string() && line.code == "HTTP2_FAILED"
    })?;
    ensure!(line.source_identity == web, "{line:?}");
    Ok(())
}

/// Pain 30: a long stream of one-byte frames beside an application that does not read. The tunnel
/// lives, every byte arrives, and other streams do not notice.
#[test]
fn tiny_frames_beside_a_stalled_reader_lose_no_tunnel() {
    const FRAMES: u64 = 200_000;
    const PATIENCE: Duration = Duration::from_secs(20);
    play(|stage, peer, web| {
        let far = stage.pod("far");
        let server = far.actor()?;
        let sink = server.listen(any(SINK), Behaviour::Sink)?;
        let stuck = Behaviour::Duplex { bytes: 0, seed: 0, read_bytes_per_second: 1 };
        server.listen(any(STUCK), stuck)?;
        let tunnel = peer.tunnel(web)?;
        let mut bystander = tunnel.open(far.at(ECHO))?;
        let mut stalled = tunnel.open(far.at(STUCK))?;
        // More than every window and socket buffer on its way: it stalls.
        for _ in 0..32 {
            stalled.send(&vec![0; 1 << 20])?;
        }
        bystander.echoes().context("beside a stalled reader")?;
        let mut tiny = tunnel.open(far.at(SINK))?;
        for n in 0..FRAMES {
            tiny.send(b"x")?;
            if n % 20_000 == 0 {
                bystander.echoes().with_context(|| format!("after {n} tiny frames"))?;
            }
        }
        tiny.finish()?;
        let answer = tiny.receive(200, PATIENCE)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(answer.starts_with(&format!("{FRAMES} ")), "the server counted {answer:?}");
        ensure!(sink.report()?.accepted == 1, "{:?}", sink.report()?);
        bystander.echoes().context("after all tiny frames")?;
        let rss = stage.agent(2).rss_bytes()?;
        ensure!(rss < 100 << 20, "the agent takes {} MiB", rss >> 20);
        // A client of the mesh finds everything as it was.
        let client = stage.pod("web").actor()?;
        let options = ConnectOptions::default();
        let connection = client.connect_with(far.at(ECHO), options)?;
        ensure!(connection.exchange(b"x")? == b"x", "no echo");
        Ok(())
    });
}
