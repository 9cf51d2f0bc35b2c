//! Questions of pods to their resolvers: what the mesh owns is answered, everything else comes to the
//! resolver that was asked, byte for byte, and its answers come back so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, ensure};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tests::protocol::Behaviour;
use tests::{Actor, AgentOptions, PodSpec, Resolver, ServiceSpec, eventually};
use ztunnel::capture::bpf::Map;

use crate::stage::{SOON, Stage, any, bare, enrolled, stranger};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1));
const ENTRY: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 240, 0, 7));
const HTTP: u16 = 8080;

fn cast() -> [crate::stage::Cast; 6] {
    [
        bare(PodSpec::new(1, "app")),
        enrolled(PodSpec::new(1, "other")),
        enrolled(PodSpec::new(2, "web-0")),
        stranger(PodSpec::new(2, "first")),
        stranger(PodSpec::new(2, "second")),
        stranger(PodSpec::new(2, "nobody")),
    ]
}

fn options() -> AgentOptions {
    AgentOptions::default().set("RUST_LOG", "info,dns=debug")
}

/// Runs a test with `app` enrolled so that its questions are captured, and `other` not.
fn play(test: impl FnOnce(&mut Stage) -> anyhow::Result<()>) {
    play_with(&options(), test);
}

fn play_with(options: &AgentOptions, test: impl FnOnce(&mut Stage) -> anyhow::Result<()>) {
    let mesh = |stage: &Stage| {
        let web = stage.pod("web-0");
        stage
            .mesh()
            .service(
                ServiceSpec::new("shop", "web").vip(VIP).vip(VIP6).port(80, HTTP).endpoint(web),
            )
            .service(ServiceSpec::new("shop", "crowd").port(80, HTTP).endpoint(web))
            .service(
                ServiceSpec::new("shop", "entry").host("db.example.com").vip(ENTRY).port(80, HTTP),
            )
    };
    Stage::play(options, cast(), mesh, |stage| {
        let app = stage.agent(1).enrol_with(stage.pod("app"), &["--dns"])?;
        ensure!(app.dns && app.state == admin::PodState::Verified, "{app:?}");
        test(stage)
    });
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x4d2, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("encodes")
}

/// How a question travels.
#[derive(Clone, Copy, Debug)]
enum Way {
    Datagram,
    Connected,
    Stream,
}

const WAYS: [Way; 3] = [Way::Datagram, Way::Connected, Way::Stream];

/// Asks a resolver, and checks that the application sees just that resolver.
fn ask(app: &Actor, resolver: SocketAddr, message: &[u8], way: Way) -> anyhow::Result<Vec<u8>> {
    match way {
        Way::Datagram => {
            let (answer, source, _) = app.ask(resolver, message, false)?;
            ensure!(source == resolver, "{source} answered instead of {resolver}");
            Ok(answer)
        }
        Way::Connected => {
            let (answer, source, peer) = app.ask(resolver, message, true)?;
            ensure!(source == resolver && peer == Some(resolver), "{source} {peer:?}");
            Ok(answer)
        }
        Way::Stream => {
            let connection = app.connect(resolver)?;
            ensure!(connection.peer() == Some(resolver), "{:?}", connection.peer());
            let length = u16::try_from(message.len()).context("a short message")?;
            connection.send(&[&length.to_be_bytes()[..], message].concat())?;
            let length: [u8; 2] = connection.receive(2)?[..].try_into().context("a length")?;
            let answer = connection.receive(usize::from(u16::from_be_bytes(length)))?;
            connection.close()?;
            Ok(answer)
        }
    }
}

fn addresses(answer: &[u8]) -> anyhow::Result<Vec<IpAddr>> {
    let message = Message::from_vec(answer).context("an answer")?;
    let metadata = message.metadata;
    ensure!(
        metadata.response_code == ResponseCode::NoError && metadata.authoritative,
        "{metadata}"
    );
    #[expect(clippy::wildcard_enum_match_arm, reason = "only addresses are told")]
    let address = |data: &RData| match data {
        RData::A(ip) => Ok(IpAddr::from(ip.0)),
        RData::AAAA(ip) => Ok(IpAddr::from(ip.0)),
        other => anyhow::bail!("{other:?}"),
    };
    message.answers.iter().map(|record| address(&record.data)).collect()
}

#[test]
fn what_the_mesh_owns_is_answered_and_all_else_is_forwarded_verbatim() {
    answers_and_forwards(&options());
}

#[test]
fn so_it_is_with_hooks_on_the_root() {
    answers_and_forwards(&options().on_root());
}

fn answers_and_forwards(options: &AgentOptions) {
    play_with(options, |stage| {
        let app = stage.pod("app").actor()?;
        let (first, second) = (stage.pod("first").actor()?, stage.pod("second").actor()?);
        let (one, two) = (first.resolve(any(53), "first")?, second.resolve(any(53), "second")?);
        owned_names(stage, &app, &one).context("owned names")?;
        other_names(stage, &app, &one).context("other names")?;
        several_resolvers(stage, &app, &two).context("several resolvers")?;
        no_resolver(stage, &app).context("no resolver")?;
        reports(stage, &app).context("reports")?;
        Ok(())
    });
}

fn owned_names(stage: &Stage, app: &Actor, resolver: &Resolver<'_>) -> anyhow::Result<()> {
    let pod = stage.pod("first");
    let web = stage.pod("web-0");
    for (name, kind, expected) in [
        ("web.shop.svc.cluster.local.", RecordType::A, vec![VIP]),
        ("web.shop.svc.cluster.local.", RecordType::AAAA, vec![VIP6]),
        ("Web.", RecordType::A, vec![VIP]),
        ("db.example.com.", RecordType::A, vec![ENTRY]),
        ("db.example.com.", RecordType::AAAA, vec![]),
        ("crowd.shop.", RecordType::A, vec![web.ipv4()]),
        ("crowd.shop.", RecordType::AAAA, vec![web.ipv6()]),
        ("web-0.crowd.shop.svc.cluster.local.", RecordType::A, vec![web.ipv4()]),
    ] {
        let message = bytes(&question(name, kind));
        for to in [pod.at(53), pod.at_v6(53)] {
            for way in WAYS {
                let context = || format!("{name} {kind} of {to} by {way:?}");
                let answer = ask(app, to, &message, way).with_context(context)?;
                let told = addresses(&answer).with_context(context)?;
                ensure!(told == expected, "{}: {told:?}", context());
            }
        }
    }
    ensure!(resolver.asked()?.is_empty(), "nothing came to the resolver");
    // And what was told leads there.
    let server = web.actor()?;
    server.listen(any(HTTP), Behaviour::Http { name: "web".to_owned() })?;
    let answer = app.http_get(SocketAddr::new(VIP, 80), "/", "")?;
    ensure!(answer.status == 200 && answer.field("server") == "web", "{answer:?}");
    Ok(())
}

fn other_names(stage: &Stage, app: &Actor, resolver: &Resolver<'_>) -> anyhow::Result<()> {
    let pod = stage.pod("first");
    let mut update = question("zone.example.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let mut edns = question("unknown.example.", RecordType::A);
    let mut options = Edns::new();
    options.set_max_payload(1232).set_dnssec_ok(true);
    edns.set_edns(options);
    let odd = [&[0xbe, 0xef, 0x4f, 0xff][..], &[0xff; 40]].concat();
    let messages = [
        ("an unknown name", bytes(&question("unknown.example.", RecordType::A))),
        ("SRV of an owned name", bytes(&question("_http._tcp.web.shop.", RecordType::SRV))),
        ("TXT of an owned name", bytes(&question("web.shop.", RecordType::TXT))),
        ("UPDATE", bytes(&update)),
        ("EDNS", bytes(&edns)),
        ("no message but a header", odd),
    ];
    let mut seen = resolver.asked()?.len();
    for (what, message) in &messages {
        for to in [pod.at(53), pod.at_v6(53)] {
            for way in WAYS {
                let context = || format!("{what} to {to} by {way:?}");
                let answer = ask(app, to, message, way).with_context(context)?;
                let mut expected = message.clone();
                expected[2] |= 0x80;
                expected.extend_from_slice(b"first");
                ensure!(answer == expected, "{}: {answer:?}", context());
                let asked = resolver.asked()?;
                ensure!(asked.len() == seen + 1, "{}: {asked:?}", context());
                seen = asked.len();
                let (source, question) = &asked[seen - 1];
                ensure!(question == message, "{}: {question:?}", context());
                let own =
                    if to.is_ipv4() { stage.pod("app").ipv4() } else { stage.pod("app").ipv6() };
                ensure!(source.ip().to_canonical() == own, "{}: {source}", context());
            }
        }
    }
    Ok(())
}

fn several_resolvers(stage: &Stage, app: &Actor, second: &Resolver<'_>) -> anyhow::Result<()> {
    let unknown = bytes(&question("unknown.example.", RecordType::A));
    let owned = bytes(&question("web.shop.", RecordType::A));
    let (one, two) = (stage.pod("first").at(53), stage.pod("second").at(53));
    let before = second.asked()?.len();
    let questions: [(SocketAddr, &[u8]); 4] =
        [(one, &unknown), (two, &unknown), (two, &owned), (one, &unknown)];
    let answers = app.ask_all(&questions)?;
    let from = |resolver: SocketAddr, mark: &str| {
        let marked = |(source, answer): &&(SocketAddr, Vec<u8>)| {
            *source == resolver && answer.ends_with(mark.as_bytes())
        };
        answers.iter().filter(marked).count()
    };
    ensure!((from(one, "first"), from(two, "second")) == (2, 1), "{answers:?}");
    let own = answers.iter().find(|(source, answer)| {
        *source == two && addresses(answer).is_ok_and(|told| told == [VIP])
    });
    ensure!(own.is_some(), "{answers:?}");
    ensure!(second.asked()?.len() == before + 1, "only one question came to the second");
    Ok(())
}

fn no_resolver(stage: &Stage, app: &Actor) -> anyhow::Result<()> {
    let message = question("unknown.example.", RecordType::A);
    for to in [stage.pod("nobody").at(53), stage.pod("nobody").at_v6(53)] {
        for way in WAYS {
            let answer = ask(app, to, &bytes(&message), way).with_context(|| format!("{to}"))?;
            let answer = Message::from_vec(&answer).context("an answer")?;
            ensure!(answer.metadata.response_code == ResponseCode::ServFail, "{answer:?}");
            ensure!(answer.metadata.id == message.metadata.id, "{answer:?}");
            ensure!(answer.queries == message.queries, "{answer:?}");
        }
    }
    Ok(())
}

fn reports(stage: &Stage, app: &Actor) -> anyhow::Result<()> {
    let agent = stage.agent(1);
    let watch = stage.watch(1)?;
    let owned = bytes(&question("web.shop.", RecordType::A));
    let unknown = bytes(&question("unknown.example.", RecordType::SRV));
    let mark = agent.log().len();
    ask(app, stage.pod("first").at(53), &owned, Way::Datagram)?;
    ask(app, stage.pod("first").at(53), &unknown, Way::Stream)?;
    ask(app, stage.pod("nobody").at(53), &unknown, Way::Datagram)?;
    let labels = |kind: &str, protocol: &str| {
        [format!("request_query_type=\"{kind}\""), format!("request_protocol=\"{protocol}\"")]
    };
    for (name, kind, protocol, rise) in [
        ("istio_dns_requests_total", "A", "udp", 1.0),
        ("istio_dns_upstream_requests_total", "A", "udp", 0.0),
        ("istio_dns_requests_total", "SRV", "tcp", 1.0),
        ("istio_dns_upstream_requests_total", "SRV", "tcp", 1.0),
        ("istio_dns_upstream_request_duration_seconds_count", "SRV", "tcp", 1.0),
        ("istio_dns_upstream_failures_total", "SRV", "udp", 1.0),
    ] {
        let labels = labels(kind, protocol);
        let labels = [labels[0].as_str(), &labels[1], "source_canonical_service=\"app\""];
        let rose = watch.rise(name, &labels)?;
        ensure!((rose - rise).abs() < 0.5, "{name} {labels:?} rose by {rose}");
    }
    let failed = watch.rise("warren_dns_questions_total", &["DNS_UPSTREAM_UNREACHABLE"])?;
    ensure!((failed - 1.0).abs() < 0.5, "{failed}");
    eventually("the log tells of the questions", SOON, || {
        let lines = agent.log();
        let found = lines.iter().skip(mark).any(|line| {
            let text = line.to_string();
            ["\"dns\"", "web.shop.", "ANSWERED", "\"app\""].iter().all(|part| text.contains(part))
        });
        Ok(found.then_some(()))
    })?;
    // A stream of questions is a connection like any other.
    watch.outcome("OK", |line| {
        line.path == "dns" && line.destination == stage.pod("first").at(53).to_string()
    })?;
    Ok(())
}

#[test]
fn without_the_switch_a_pods_questions_are_left_alone() {
    play(|stage| {
        let other = stage.pod("other").actor()?;
        let resolver = stage.pod("first").actor()?;
        let resolver = resolver.resolve(any(53), "first")?;
        let owned = bytes(&question("web.shop.svc.cluster.local.", RecordType::A));
        for (number, way) in WAYS.into_iter().enumerate() {
            for (index, to) in
                [stage.pod("first").at(53), stage.pod("first").at_v6(53)].into_iter().enumerate()
            {
                let answer = ask(&other, to, &owned, way)?;
                ensure!(answer.ends_with(b"first"), "{way:?} {to}");
                ensure!(resolver.asked()?.len() == 2 * number + index + 1, "{way:?} {to}");
            }
        }
        let pods = stage.agent(1).pods()?;
        let dns = |name: &str| {
            let uid = stage.pod(name).uid();
            pods.iter()
                .find(|pod| pod.uid == uid)
                .map(|pod| (pod.dns, pod.counters["dns_captured"]))
        };
        ensure!(dns("other") == Some((false, 0)), "{pods:?}");
        ensure!(dns("app") == Some((true, 0)), "{pods:?}");
        Ok(())
    });
}

/// Where the agent's sockets for the pod's questions are.
fn ports(stage: &Stage) -> anyhow::Result<[u16; ebpf_abi::DNS_RESOLVERS]> {
    let root = stage.agent(1).setting("WARREN_BPF_PIN_DIR").context("a folder of pins")?;
    let layout = Path::new(root).join(format!("v{}", ebpf_abi::LAYOUT));
    let path = layout.join("pods").join(stage.pod("app").uid()).join("SETTINGS");
    let map: Map<u32, ebpf_abi::Settings> = Map::open(&path).context("open the settings")?;
    let settings = map.get(&0).context("read the settings")?.context("one element")?;
    ensure!(settings.dns_ports.iter().all(|port| *port != 0), "{settings:?}");
    Ok(settings.dns_ports)
}

#[test]
fn without_an_agent_questions_fail_and_with_the_next_they_are_answered() {
    wait_for_an_agent(&options());
}

#[test]
fn so_they_do_with_hooks_on_the_root() {
    wait_for_an_agent(&options().on_root());
}

fn wait_for_an_agent(options: &AgentOptions) {
    play_with(options, |stage| {
        let app = stage.pod("app").actor()?;
        let resolver = stage.pod("first").actor()?;
        let resolver = resolver.resolve(any(53), "first")?;
        let to = stage.pod("first").at(53);
        let (owned, unknown) = (
            bytes(&question("web.shop.", RecordType::A)),
            bytes(&question("unknown.example.", RecordType::A)),
        );
        ask(&app, to, &unknown, Way::Connected)?;
        ensure!(resolver.asked()?.len() == 1);

        let before = ports(stage)?;
        stage.agent_mut(1).kill9()?;
        let failed = app.ask(to, &unknown, true).expect_err("nobody is there");
        ensure!(failed.errno == Some(libc::ECONNREFUSED), "{failed}");
        ensure!(resolver.asked()?.len() == 1, "nothing is passed by");

        stage.agent_mut(1).restart()?;
        stage.agent_mut(1).wait_ready()?;
        let pods = stage.agent(1).pods()?;
        let pod = pods.iter().find(|pod| pod.uid == stage.pod("app").uid());
        ensure!(
            pod.is_some_and(|pod| pod.dns && pod.state == admin::PodState::Verified),
            "{pods:?}"
        );
        // Sockets of the pod may be connected to these.
        ensure!(ports(stage)? == before, "other ports than {before:?}");
        for way in WAYS {
            ensure!(addresses(&ask(&app, to, &owned, way)?)? == [VIP], "{way:?}");
        }
        ask(&app, to, &unknown, Way::Datagram)?;
        ensure!(resolver.asked()?.len() == 2);

        // Un-enrolled, it asks by itself.
        stage.agent(1).unenrol(stage.pod("app"))?;
        for way in [Way::Datagram, Way::Connected] {
            let answer = ask(&app, to, &owned, way)?;
            ensure!(answer.ends_with(b"first"), "{way:?}");
        }
        Ok(())
    });
}
