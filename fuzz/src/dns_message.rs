//! A DNS message of a pod: whatever it holds, what is answered is a reply to it, and no longer than its
//! way allows.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use model::{IpFamilies, LoadBalancing, Network, Service, ServiceAddress, ServiceName, Visibility};
use names::{Answer, Client, ClusterDomain, Header, Query, Question, Transport, answer, servfail};
use resolve::Snapshot;

static MESH: LazyLock<Snapshot> = LazyLock::new(|| {
    let service = |name: &str, addresses: &[IpAddr]| Service {
        name: ServiceName::parse(name).expect("literal"),
        short_name: "".into(),
        addresses: addresses
            .iter()
            .map(|ip| ServiceAddress::host(Network::default(), *ip))
            .collect(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::default(),
        canonical: false,
        visibility: Visibility::default(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
    };
    let few = [IpAddr::from([10, 1, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])];
    let many: Vec<IpAddr> = (0..200).map(|n| IpAddr::from([10, 2, 0, n])).collect();
    let services = vec![service("shop/a.shop.svc.cluster.local", &few), service("shop/*.b", &many)];
    Snapshot::build(Vec::new(), services)
});

libfuzzer_sys::fuzz_target!(|input: (bool, u64, &[u8])| {
    let (stream, random, message) = input;
    let transport = if stream { Transport::Tcp } else { Transport::Udp };
    let (network, domain) = (Network::default(), ClusterDomain::default());
    let client = Client { namespace: "shop", network: &network };
    let query = Query { message, transport, client, domain: &domain, random };
    if let Answer::Reply(reply) = answer(&MESH, &query) {
        let asked = Header::read(message).expect("what is answered has a header");
        let told = Header::read(&reply.message).expect("a reply has a header");
        assert!(told.response && told.id == asked.id);
        assert_eq!((told.questions, usize::from(told.answers)), (1, reply.addresses));
        if transport == Transport::Udp {
            assert!(reply.message.len() <= usize::from(names::DATAGRAM_BYTES_MAX));
        }
        assert_eq!(Question::read(&reply.message).name, Question::read(message).name);
    }
    if let Some(reply) = servfail(message) {
        assert_eq!(reply[..2], message[..2]);
        assert!(reply.len() <= message.len().max(Header::BYTES) + 11);
    }
    let _ = Question::read(message);
});
