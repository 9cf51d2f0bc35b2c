//! Every short sequence of inputs, against a model that knows only three facts.

use std::net::SocketAddr;
use std::sync::Arc;

use authz::{PolicyStore, authorize};
use model::{Connection, Peer, TrustDomain, Workload, WorkloadKey, WorkloadUid};

use super::*;

const INPUTS: usize = 8;

fn workload() -> Workload {
    Workload {
        uid: WorkloadUid("w".into()),
        key: WorkloadKey::parse("shop/cart-1/cart").expect("literal"),
        trust_domain: TrustDomain::default(),
        addresses: Vec::new(),
        network: model::Network::default(),
        protocol: model::TunnelProtocol::Hbone,
        network_mode: model::NetworkMode::Standard,
        node: Arc::from(""),
        cluster: Arc::from(""),
        canonical_name: Arc::from(""),
        canonical_revision: Arc::from(""),
        workload_type: model::WorkloadType::Pod,
        workload_name: Arc::from(""),
        health: model::Health::Healthy,
        locality: model::Locality::default(),
        policies: Vec::new(),
        services: model::ServedServices::default(),
        capacity: 1,
        native_tunnel: false,
        waypoint: None,
        network_gateway: None,
        application_tunnel: None,
        hostname: None,
    }
}

fn denial() -> Denial {
    Denial { code: Code::PolicyNoMatch, policy: None, rule: None, nearest_miss: None, detail: None }
}

fn input(kind: usize, store: &PolicyStore, workload: &Workload) -> Input {
    let address: SocketAddr = ([10, 0, 0, 1], 80).into();
    let connection = Connection { source: address, peer: Peer::Plaintext, destination: address };
    match kind {
        0 => Input::Judged(authorize(store, workload, &connection).verdict),
        1 => Input::Judged(Verdict::Deny(denial())),
        2 => Input::Dialed,
        3 => Input::DialFailed(Code::ConnectRefused),
        4 => Input::Relayed,
        5 => Input::PeerGone,
        6 => Input::DrainElapsed,
        _ => Input::PodGone,
    }
}

#[test]
fn exhaustive() {
    const LENGTH: u32 = 5;
    let (store, workload) = (PolicyStore::default(), workload());
    for seed in 0..INPUTS.pow(LENGTH) {
        let (mut state, mut left) = (Stream::Judging, seed);
        let (mut permitted, mut relaying, mut ended) = (false, false, false);
        for _ in 0..LENGTH {
            let kind = left % INPUTS;
            left /= INPUTS;
            let must_dial = !ended && kind == 0 && !permitted;
            let must_relay = !ended && kind == 2 && permitted && !relaying;
            let must_abandon = !ended && kind == 5 && !relaying;
            let finishes = !ended && kind == 4 && relaying;
            let must_end = !ended && kind != 0 && !must_relay && !must_abandon && !finishes;
            let (next, action) = state.step(input(kind, &store, &workload));
            assert_eq!(matches!(action, Action::Dial(_)), must_dial, "{seed}");
            assert_eq!(matches!(action, Action::Relay), must_relay, "{seed}");
            assert_eq!(matches!(action, Action::Abandon), must_abandon, "{seed}");
            assert_eq!(matches!(action, Action::Refuse(_)), must_end && !relaying, "{seed}");
            assert_eq!(matches!(action, Action::Reset(_)), must_end && relaying, "{seed}");
            permitted |= must_dial;
            relaying |= must_relay;
            ended |= must_end || must_abandon || finishes;
            assert_eq!(matches!(next, Stream::Closed), ended, "{seed}");
            state = next;
        }
    }
}

fn refusal(state: Stream, input: Input) -> Refusal {
    match state.step(input).1 {
        Action::Refuse(refusal) | Action::Reset(refusal) => refusal,
        action @ (Action::Wait | Action::Dial(_) | Action::Relay | Action::Abandon) => {
            panic!("{action:?} is not a refusal")
        }
    }
}

#[test]
fn refusals_carry_the_reason() {
    let deny = || Input::Judged(Verdict::Deny(denial()));
    let refused = refusal(Stream::Judging, deny());
    assert_eq!((refused.code, refused.status()), (Code::PolicyNoMatch, 401));
    assert_eq!(refused.denial, Some(denial()));
    let revoked = refusal(Stream::Relaying, deny());
    assert_eq!((revoked.code, revoked.denial), (Code::PolicyRevoked, Some(denial())));
    for (state, input, code) in [
        (Stream::Dialing, Input::DialFailed(Code::ConnectTimeout), Code::ConnectTimeout),
        (Stream::Judging, Input::DrainElapsed, Code::Draining),
        (Stream::Relaying, Input::PodGone, Code::PodGone),
        (Stream::Relaying, Input::PeerGone, Code::TunnelLost),
        (Stream::Judging, Input::Dialed, Code::Internal),
    ] {
        let refusal = refusal(state, input);
        assert_eq!((refusal.code, refusal.status()), (code, 503));
    }
}
