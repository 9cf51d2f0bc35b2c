//! Table cases, most of them through one `check`.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Asking, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use model::{
    Health, HealthPolicy, IpFamilies, LoadBalancing, Locality, Network, NetworkMode, Service,
    ServiceAddress, ServiceName, TrustDomain, TunnelProtocol, Visibility, Workload, WorkloadKey,
    WorkloadType, WorkloadUid,
};
use resolve::Snapshot;

use super::*;
use crate::addresses::ADDRESSES_MAX;

pub(crate) const HERE: &str = "here";

/// A pod of namespace `shop`, or of the one before the `/`.
pub(crate) fn pod(name: &str, addresses: &[&str], services: &[&str]) -> Workload {
    let key = if name.contains('/') { name.to_owned() } else { format!("shop/{name}") };
    let serves = |name: &&str| (ServiceName::parse(name).expect("literal"), Vec::new());
    Workload {
        uid: WorkloadUid(format!("Kubernetes//Pod/{key}").into()),
        key: WorkloadKey::parse(&format!("{key}/sa")).expect("literal"),
        trust_domain: TrustDomain::default(),
        addresses: addresses.iter().map(|ip| ip.parse().expect("literal")).collect(),
        network: Network(HERE.into()),
        protocol: TunnelProtocol::Hbone,
        network_mode: NetworkMode::Standard,
        node: "".into(),
        cluster: "Kubernetes".into(),
        canonical_name: "".into(),
        canonical_revision: "".into(),
        workload_type: WorkloadType::Pod,
        workload_name: "".into(),
        health: Health::Healthy,
        locality: Locality::default(),
        policies: Vec::new(),
        services: services.iter().map(serves).collect(),
        capacity: 1,
        native_tunnel: false,
        waypoint: None,
        network_gateway: None,
        application_tunnel: None,
        hostname: None,
    }
}

/// `vips` are `address` or `address@network`.
pub(crate) fn service(name: &str, vips: &[&str]) -> Service {
    let vip = |text: &&str| {
        let (net, network) = text.split_once('@').unwrap_or((text, HERE));
        let net = net.parse().unwrap_or_else(|_| net.parse::<IpAddr>().expect("literal").into());
        ServiceAddress { network: Network(network.into()), net }
    };
    Service {
        name: ServiceName::parse(name).expect("literal"),
        short_name: "".into(),
        addresses: vips.iter().map(vip).collect(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::default(),
        canonical: false,
        visibility: Visibility::default(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
    }
}

fn mesh() -> Snapshot {
    let headless = "shop/db.shop.svc.cluster.local";
    let sick = Workload { health: Health::Unhealthy, ..pod("db-2", &["10.0.0.12"], &[headless]) };
    let away = Workload {
        network: Network("away".into()),
        ..pod("db-3", &["10.0.0.13"], &[headless, "shop/gone.shop.svc.cluster.local"])
    };
    let idle = Workload { capacity: 0, ..pod("db-4", &["10.0.0.14"], &[headless]) };
    let early = "shop/early.shop.svc.cluster.local";
    let starting =
        Workload { health: Health::Unhealthy, ..pod("early-0", &["10.0.0.20"], &[early]) };
    let four = "shop/four.shop.svc.cluster.local";
    let workloads = vec![
        pod("db-0", &["10.0.0.10", "fd00::10"], &[headless]),
        pod("db-1", &["10.0.0.11"], &[headless]),
        pod("db-web", &["10.0.0.15"], &[headless]),
        pod("bank/db-0", &["10.0.0.16"], &[headless]),
        sick,
        away,
        idle,
        starting,
        pod("four-0", &["10.0.0.30", "fd00::30"], &[four]),
        pod("entry-0", &["10.0.0.40"], &["shop/static.example.org"]),
    ];
    let hidden = Service {
        visibility: Visibility::Namespace,
        ..service("bank/vault.bank.svc.cluster.local", &["10.1.0.9"])
    };
    let early_service = Service {
        load_balancing: LoadBalancing {
            health: HealthPolicy::AllowAll,
            ..LoadBalancing::default()
        },
        ..service(early, &[])
    };
    let four_service = Service { ip_families: IpFamilies::V4, ..service(four, &[]) };
    let services = vec![
        service("shop/cart.shop.svc.cluster.local", &["10.1.0.1"]),
        service("bank/cart.bank.svc.cluster.local", &["10.1.0.2", "fd01::2"]),
        service("shop/v6.shop.svc.cluster.local", &["fd01::3"]),
        service("shop/far.shop.svc.cluster.local", &["10.1.0.4@away"]),
        service("shop/both.shop.svc.cluster.local", &["10.1.0.5@away", "10.1.0.6"]),
        service("shop/block.shop.svc.cluster.local", &["10.2.0.0/16"]),
        service(headless, &[]),
        service("shop/gone.shop.svc.cluster.local", &[]),
        early_service,
        four_service,
        hidden,
        service("shop/api.example.org", &["10.3.0.1"]),
        service("shop/static.example.org", &[]),
        service("shop/*.example.org", &["10.3.0.2"]),
        service("shop/*.deep.example.org", &["10.3.0.3"]),
        // One host name in three namespaces.
        service("a/twice.example.com", &["10.4.0.1"]),
        Service { canonical: true, ..service("b/twice.example.com", &["10.4.0.2"]) },
        service("shop/twice.example.com", &["10.4.0.3"]),
        service("c/thrice.example.com", &["10.4.0.4"]),
        service("d/thrice.example.com", &["10.4.0.5"]),
    ];
    Snapshot::build(workloads, services)
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Asking::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

pub(crate) fn ask(snapshot: &Snapshot, namespace: &str, message: &[u8]) -> Answer {
    ask_by(snapshot, namespace, message, Transport::Udp, 7)
}

pub(crate) fn ask_by(
    snapshot: &Snapshot,
    namespace: &str,
    message: &[u8],
    transport: Transport,
    random: u64,
) -> Answer {
    let network = Network(HERE.into());
    let client = Client { namespace, network: &network };
    let domain = ClusterDomain::default();
    answer(snapshot, &Query { message, transport, client, domain: &domain, random })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only addresses are told")]
fn told(message: &Message) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = message
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::A(ip) => IpAddr::from(ip.0),
            RData::AAAA(ip) => IpAddr::from(ip.0),
            other => panic!("{other:?}"),
        })
        .collect();
    addresses.sort_unstable();
    addresses
}

fn replied(answer: Answer) -> (Message, Reply) {
    let Answer::Reply(reply) = answer else { panic!("forwarded") };
    (Message::from_vec(&reply.message).expect("a message"), reply)
}

/// Asks from namespace `shop`. `None`: forwarded.
#[track_caller]
fn check(name: &str, kind: RecordType, expected: Option<&[&str]>) {
    check_in("shop", name, kind, expected);
}

#[track_caller]
fn check_in(namespace: &str, name: &str, kind: RecordType, expected: Option<&[&str]>) {
    let request = question(name, kind);
    let answer = ask(&mesh(), namespace, &request.to_vec().expect("encodes"));
    let Some(expected) = expected else {
        assert_eq!(answer, Answer::Forward, "{name} {kind}");
        return;
    };
    let (message, reply) = replied(answer);
    let mut expected: Vec<IpAddr> =
        expected.iter().map(|ip| ip.parse().expect("literal")).collect();
    expected.sort_unstable();
    assert_eq!(told(&message), expected, "{name} {kind}");
    assert_eq!(reply.addresses, expected.len());
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert_eq!(message.queries, request.queries, "the question comes back as it was");
    for record in &message.answers {
        assert!(record.name.eq_case(request.queries[0].name()), "{name}");
        assert_eq!((record.ttl, record.dns_class), (30, DNSClass::IN));
    }
}

use RecordType::{A, AAAA};

#[test]
fn service_names_and_their_abbreviations() {
    let cart: Option<&[&str]> = Some(&["10.1.0.1"]);
    let others: Option<&[&str]> = Some(&["10.1.0.2"]);
    for name in [
        "cart.shop.svc.cluster.local.",
        "Cart.SHOP.svc.Cluster.Local.",
        "cart.shop.svc.",
        "cart.shop.",
        "cart.",
    ] {
        check(name, A, cart);
    }
    for name in ["cart.bank.svc.cluster.local.", "cart.bank.svc.", "cart.bank."] {
        check(name, A, others);
    }
    check_in("bank", "cart.", A, others);
    for name in [
        "cart.other.svc.cluster.local.",
        "cart.svc.cluster.local.",
        "cart.shop.cluster.local.",
        "cart.shop.pod.",
        "shop.svc.cluster.local.",
        "svc.cluster.local.",
        "cluster.local.",
        "local.",
        "unknown.",
        ".",
        // What a search list makes of a name on the way is not the mesh's.
        "api.example.org.shop.svc.cluster.local.",
        "cart.shop.shop.svc.cluster.local.",
        "cart.shop.svc.cluster.local.shop.svc.cluster.local.",
    ] {
        check(name, A, None);
    }
    check_in("empty", "cart.", A, None);
}

#[test]
fn a_family_that_a_service_lacks_is_an_empty_answer() {
    check("cart.shop.", AAAA, Some(&[]));
    check("v6.shop.", A, Some(&[]));
    check("v6.shop.", AAAA, Some(&["fd01::3"]));
    check("cart.bank.", AAAA, Some(&["fd01::2"]));
    check("api.example.org.", AAAA, Some(&[]));
    check("db-1.db.shop.svc.cluster.local.", AAAA, Some(&[]));
}

#[test]
fn addresses_of_other_networks_and_blocks_are_not_told() {
    check("far.shop.", A, None);
    check("both.shop.", A, Some(&["10.1.0.6"]));
    check("block.shop.", A, None);
}

#[test]
fn hidden_services_have_names_in_their_namespace_only() {
    for name in ["vault.bank.svc.cluster.local.", "vault.bank."] {
        check_in("bank", name, A, Some(&["10.1.0.9"]));
        check(name, A, None);
    }
}

#[test]
fn headless_services_stand_for_their_endpoints() {
    let all: Option<&[&str]> = Some(&["10.0.0.10", "10.0.0.11", "10.0.0.15", "10.0.0.16"]);
    check("db.shop.svc.cluster.local.", A, all);
    check("db.", A, all);
    check("db.", AAAA, Some(&["fd00::10"]));
    // Nobody is well here, or near: the resolver knows better.
    check("gone.shop.", A, None);
    check("early.shop.", A, Some(&["10.0.0.20"]));
    check("four.shop.", A, Some(&["10.0.0.30"]));
    check("four.shop.", AAAA, Some(&[]));
    check("static.example.org.", A, None);
}

#[test]
fn pods_of_stateful_sets_have_names_below_their_service() {
    for name in [
        "db-0.db.shop.svc.cluster.local.",
        "DB-0.db.shop.svc.cluster.local.",
        "db-0.db.shop.svc.",
        "db-0.db.shop.",
        "db-0.db.",
    ] {
        check(name, A, Some(&["10.0.0.10"]));
    }
    check("db-1.db.", A, Some(&["10.0.0.11"]));
    for name in [
        // Sick, in another network, without capacity, not there, no ordinal, of another service.
        "db-2.db.",
        "db-3.db.",
        "db-4.db.",
        "db-9.db.",
        "db-web.db.",
        "early-0.db.",
        // A service with an address of its own names no pods.
        "cart-0.cart.shop.svc.cluster.local.",
        "x.db-0.db.shop.svc.cluster.local.",
    ] {
        check(name, A, None);
    }
    check("early-0.early.", A, Some(&["10.0.0.20"]));
    check_in("bank", "db-0.db.", A, None);
}

#[test]
fn entries_and_wildcards_the_longest_first() {
    check("api.example.org.", A, Some(&["10.3.0.1"]));
    check("www.example.org.", A, Some(&["10.3.0.2"]));
    check("a.b.example.org.", A, Some(&["10.3.0.2"]));
    check("a.deep.example.org.", A, Some(&["10.3.0.3"]));
    check("deep.example.org.", A, Some(&["10.3.0.2"]));
    check("*.example.org.", A, Some(&["10.3.0.2"]));
    for name in ["example.org.", "org.", "badexample.org.", "example.org.uk."] {
        check(name, A, None);
    }
}

#[test]
fn of_one_name_in_several_namespaces_the_clients_own_counts() {
    check("twice.example.com.", A, Some(&["10.4.0.3"]));
    check_in("a", "twice.example.com.", A, Some(&["10.4.0.1"]));
    check_in("elsewhere", "twice.example.com.", A, Some(&["10.4.0.2"]));
    check("thrice.example.com.", A, Some(&["10.4.0.4"]));
    check_in("d", "thrice.example.com.", A, Some(&["10.4.0.5"]));
}

/// A name, and what makes a plain question another message; a record to add comes with it.
type Change = (&'static str, fn(&mut Message, Record));

#[test]
fn everything_but_a_plain_question_for_addresses_is_forwarded() {
    use RecordType as T;
    for kind in [T::ANY, T::CNAME, T::HTTPS, T::MX, T::NS, T::PTR, T::SOA, T::SRV, T::TXT] {
        check("cart.shop.", kind, None);
    }
    check("_http._tcp.cart.shop.svc.cluster.local.", RecordType::SRV, None);
    let plain = question("cart.shop.", A);
    let record = || {
        let name = Name::from_ascii("cart.shop.").expect("a name");
        Record::from_rdata(name, 1, RData::A(std::net::Ipv4Addr::new(10, 0, 0, 1).into()))
    };
    let cases: [Change; 9] = [
        ("a response", |m, _| m.metadata.message_type = MessageType::Response),
        ("an update", |m, _| m.metadata.op_code = OpCode::Update),
        ("a notify", |m, _| m.metadata.op_code = OpCode::Notify),
        ("two questions", |m, _| m.queries.push(m.queries[0].clone())),
        ("no question", |m, _| m.queries.clear()),
        ("an answer", |m, r| m.answers.push(r)),
        ("an authority", |m, r| m.authorities.push(r)),
        ("an additional record", |m, r| m.additionals.push(r)),
        ("another class", |m, _| {
            m.queries[0].set_query_class(DNSClass::CH);
        }),
    ];
    let mesh = mesh();
    for (what, change) in cases {
        let mut message = plain.clone();
        change(&mut message, record());
        let bytes = message.to_vec().expect("encodes");
        assert_eq!(ask(&mesh, "shop", &bytes), Answer::Forward, "{what}");
    }
    let bytes = plain.to_vec().expect("encodes");
    assert_ne!(ask(&mesh, "shop", &bytes), Answer::Forward);
    for length in 0..bytes.len() {
        assert_eq!(ask(&mesh, "shop", &bytes[..length]), Answer::Forward, "cut to {length}");
    }
    let long = [&bytes[..], &[0]].concat();
    assert_eq!(ask(&mesh, "shop", &long), Answer::Forward, "something after the message");
    let mut later = plain.clone();
    later.set_edns(Edns::new()).edns.as_mut().expect("set").set_version(1);
    let bytes = later.to_vec().expect("encodes");
    assert_eq!(ask(&mesh, "shop", &bytes), Answer::Forward, "an unknown version of EDNS");
}

#[test]
fn the_header_answers_the_header() {
    let mut request = question("cart.shop.", A);
    request.metadata.checking_disabled = true;
    request.metadata.authentic_data = true;
    let (reply, told) = replied(ask(&mesh(), "shop", &request.to_vec().expect("encodes")));
    let metadata = reply.metadata;
    assert_eq!(metadata.id, 0x1234);
    assert_eq!(metadata.message_type, MessageType::Response);
    assert!(metadata.authoritative && metadata.recursion_desired && metadata.recursion_available);
    assert!(metadata.checking_disabled && !metadata.authentic_data && !metadata.truncation);
    assert_eq!(reply.edns, None, "nobody asked for EDNS");
    assert_eq!(told.service.to_string(), "shop/cart.shop.svc.cluster.local");
}

#[test]
fn edns_is_answered_with_edns() {
    for dnssec_ok in [false, true] {
        let mut request = question("cart.shop.", A);
        let mut edns = Edns::new();
        edns.set_max_payload(1232).set_dnssec_ok(dnssec_ok);
        request.set_edns(edns);
        let (reply, _) = replied(ask(&mesh(), "shop", &request.to_vec().expect("encodes")));
        let edns = reply.edns.expect("EDNS");
        assert_eq!((edns.version(), edns.max_payload()), (0, DATAGRAM_BYTES_MAX));
        assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
        assert!(edns.options().as_ref().is_empty());
    }
}

fn crowd(count: u32) -> Snapshot {
    let name = "shop/crowd.shop.svc.cluster.local";
    let member = |index: u32| {
        let v4 = std::net::Ipv4Addr::from_bits(0x0a00_0000 + index).to_string();
        let v6 = std::net::Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(index)).to_string();
        pod(&format!("crowd-{index}"), &[&v4, &v6], &[name])
    };
    Snapshot::build((0..count).map(member).collect(), vec![service(name, &[])])
}

#[test]
fn a_reply_is_as_long_as_its_way_allows() {
    let base = question("crowd.shop.", A).to_vec().expect("encodes").len();
    let fit = |most: usize, edns: usize, record: usize| (most - base - edns) / record;
    for (kind, record) in [(A, 16), (AAAA, 28)] {
        for (count, transport, payload, expected) in [
            (5, Transport::Udp, None, None),
            (100, Transport::Udp, None, Some(fit(512, 0, record))),
            (100, Transport::Udp, Some(100), Some(fit(512, 11, record))),
            (100, Transport::Udp, Some(1232), Some(fit(1232, 11, record))),
            (500, Transport::Udp, Some(65_535), Some(fit(4096, 11, record))),
            (500, Transport::Tcp, None, None),
            (500, Transport::Tcp, Some(512), None),
        ] {
            let context = format!("{count} {kind} {transport:?} {payload:?}");
            let snapshot = crowd(count);
            let mut request = question("crowd.shop.", kind);
            if let Some(payload) = payload {
                let mut edns = Edns::new();
                edns.set_max_payload(payload);
                request.set_edns(edns);
            }
            let bytes = request.to_vec().expect("encodes");
            let (message, reply) = replied(ask_by(&snapshot, "shop", &bytes, transport, 1));
            let all = usize::try_from(count).expect("fits");
            assert_eq!(reply.addresses, expected.unwrap_or(all).min(all), "{context}");
            assert_eq!(message.answers.len(), reply.addresses, "{context}");
            assert_eq!(message.metadata.truncation, reply.addresses < all, "{context}");
            assert_eq!(message.edns.is_some(), payload.is_some(), "{context}");
        }
    }
}

#[test]
fn a_large_crowd_is_told_in_part_and_each_member_sometimes() {
    let snapshot = crowd(1500);
    let bytes = question("crowd.shop.", AAAA).to_vec().expect("encodes");
    let mut seen = std::collections::BTreeSet::new();
    let mut first = std::collections::BTreeSet::new();
    for random in 0..20 {
        let (message, reply) =
            replied(ask_by(&snapshot, "shop", &bytes, Transport::Tcp, random * 0x1234_5678_9abc));
        assert_eq!(reply.addresses, ADDRESSES_MAX);
        let told = told(&message);
        let distinct: std::collections::BTreeSet<_> = told.iter().copied().collect();
        assert_eq!(distinct.len(), ADDRESSES_MAX, "no address comes twice");
        seen.extend(told);
        first.extend(message.answers.first().map(|record| record.data.to_string()));
    }
    assert_eq!(seen.len(), 1500);
    assert!(first.len() > 10, "{first:?}");
}

#[test]
fn a_failure_repeats_the_question_where_there_is_one() {
    let mut request = question("www.example.net.", RecordType::SRV);
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    request.set_edns(edns);
    let reply = servfail(&request.to_vec().expect("encodes")).expect("a reply");
    let reply = Message::from_vec(&reply).expect("a message");
    assert_eq!((reply.metadata.id, &reply.queries), (0x1234, &request.queries));
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(!reply.metadata.authoritative && reply.metadata.recursion_desired);
    assert!(reply.edns.is_some_and(|edns| edns.flags().dnssec_ok));

    let update = [0xab, 0xcd, 0x28, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let reply = servfail(&update).expect("a reply");
    assert_eq!(reply, [0xab, 0xcd, 0xa8, 2, 0, 0, 0, 0, 0, 0, 0, 0]);

    assert_eq!(servfail(&update[..11]), None);
    let mut response = update;
    response[2] |= 0x80;
    assert_eq!(servfail(&response), None, "a response is not replied to");
}

#[test]
fn questions_are_named_for_reports() {
    let bytes = |message: Message| message.to_vec().expect("encodes");
    let of = |message: Message| {
        let question = Question::read(&bytes(message));
        (question.kind.as_str(), question.name)
    };
    assert_eq!(of(question("a.b.", A)), ("A", "a.b.".to_owned()));
    assert_eq!(of(question("a.b.", RecordType::SRV)), ("SRV", "a.b.".to_owned()));
    assert_eq!(of(question("a.b.", RecordType::from(4711))), ("other", "a.b.".to_owned()));
    let mut update = question("zone.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(of(update), ("UPDATE", "zone.".to_owned()));
    for message in [&[][..], &[0; 11], &[0; 12], &[0xff; 40]] {
        assert_eq!(Question::read(message).name, "");
    }
}
