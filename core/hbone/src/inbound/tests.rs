//! Every short sequence of inputs, against a model that knows only three facts.

use std::net::SocketAddr;
use std::sync::Arc;

use authz::{PolicyStore, authorize};
use model::{Connection, Peer, TrustDomain, Workload, WorkloadKey, WorkloadUid};

use super::*;

const INPUTS: usize = 10;

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
    denial_of(Code::PolicyNoMatch)
}

fn denial_of(code: Code) -> Denial {
    Denial { code, policy: None, rule: None, nearest_miss: None, detail: None }
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
        7 => Input::PodGone,
        8 => Input::Judged(Verdict::Deny(denial_of(Code::PolicyUnknown))),
        _ => Input::HoldElapsed,
    }
}

/// What the model knows of a stream: four facts.
#[expect(clippy::struct_excessive_bools, reason = "each is one fact")]
#[derive(Clone, Copy, Default)]
struct Facts {
    permitted: bool,
    accepted: bool,
    relaying: bool,
    held: bool,
}

/// What a step must do, by the model.
#[derive(Debug, PartialEq, Eq)]
enum Must {
    Nothing,
    Dial,
    Relay,
    Hold,
    Finish,
    Abandon,
    End,
}

impl Facts {
    fn must(self, kind: usize) -> Must {
        match kind {
            0 if !self.permitted => Must::Dial,
            0 if self.held && self.accepted && !self.relaying => Must::Relay,
            0 => Must::Nothing,
            2 if self.permitted && !self.accepted && self.held => Must::Nothing,
            2 if self.permitted && !self.accepted => Must::Relay,
            4 if self.relaying => Must::Finish,
            5 if !self.relaying => Must::Abandon,
            8 if self.held => Must::Nothing,
            8 => Must::Hold,
            9 if !self.held => Must::Nothing,
            _ => Must::End,
        }
    }
}

#[test]
fn exhaustive() {
    const LENGTH: u32 = 5;
    let (store, workload) = (PolicyStore::default(), workload());
    for seed in 0..INPUTS.pow(LENGTH) {
        let (mut state, mut left) = (Stream::Judging, seed);
        let (mut facts, mut ended) = (Facts::default(), false);
        for _ in 0..LENGTH {
            let kind = left % INPUTS;
            left /= INPUTS;
            let must = if ended { Must::Nothing } else { facts.must(kind) };
            let (next, action) = state.step(input(kind, &store, &workload));
            let did = match action {
                Action::Wait if !ended && matches!(next, Stream::Closed) => Must::Finish,
                Action::Wait => Must::Nothing,
                Action::Hold => Must::Hold,
                Action::Dial(_) => Must::Dial,
                Action::Relay => Must::Relay,
                Action::Abandon => Must::Abandon,
                Action::Refuse(_) => {
                    assert!(!facts.relaying, "{seed}");
                    Must::End
                }
                Action::Reset(_) => {
                    assert!(facts.relaying, "{seed}");
                    Must::End
                }
            };
            assert_eq!(did, must, "{seed}, input {kind}");
            facts.permitted |= must == Must::Dial;
            facts.accepted |= !ended && facts.permitted && kind == 2;
            facts.relaying |= must == Must::Relay;
            facts.held = match kind {
                8 => true,
                0 => false,
                _ => facts.held,
            };
            ended |= matches!(must, Must::Finish | Must::Abandon | Must::End);
            assert_eq!(matches!(next, Stream::Closed), ended, "{seed}");
            assert_eq!(next.is_held(), facts.held && !ended, "{seed}");
            state = next;
        }
    }
}

#[test]
fn a_missing_workload_holds_only_who_was_never_allowed() {
    let missing = || Input::Judged(Verdict::Deny(denial_of(Code::WorkloadUnknown)));
    let (held, action) = Stream::Judging.step(missing());
    assert!(held.is_held() && matches!(action, Action::Hold), "{action:?}");
    assert_eq!(refusal(held, Input::HoldElapsed).code, Code::WorkloadUnknown);
    assert_eq!(refusal(Stream::Dialing, missing()).code, Code::WorkloadUnknown);
    assert_eq!(refusal(Stream::Relaying, missing()).code, Code::PolicyRevoked);
}

fn refusal(state: Stream, input: Input) -> Refusal {
    match state.step(input).1 {
        Action::Refuse(refusal) | Action::Reset(refusal) => refusal,
        action @ (Action::Wait
        | Action::Hold
        | Action::Dial(_)
        | Action::Relay
        | Action::Abandon) => panic!("{action:?} is not a refusal"),
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
