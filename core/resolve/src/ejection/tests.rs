#![expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{ServiceName, Workload};
use proptest::prelude::*;

use super::*;
use crate::tests::workload;

const SECOND: Duration = Duration::from_secs(1);

fn choice(service: &str, port: u16, id: usize) -> Choice {
    let service = ServiceName::parse(service).expect("literal");
    let workload = Arc::new(workload(&format!("shop/w{id}"), &[]));
    Choice { service, port, workload }
}

fn out(ejections: &Ejections, of: &Choice, now: Instant) -> usize {
    ejections.at(now).of(&of.service, of.port).count()
}

/// Every code is an endpoint's fault or not, and a new one has to be thought about here.
#[test]
fn a_policy_a_client_and_this_node_are_no_endpoints_fault() {
    let blamed = [
        Code::HostnameUnresolved,
        Code::ConnectTimeout,
        Code::ConnectRefused,
        Code::ConnectFailed,
        Code::TunnelTimeout,
        Code::TlsFailed,
        Code::TlsTimeout,
        Code::PeerIdentity,
        Code::Http2Failed,
        Code::TunnelLost,
        Code::PeerRefused,
    ];
    let pardoned = [
        Code::Ok,
        // Another endpoint would be under the same policy.
        Code::PolicyDenied,
        Code::PolicyNoMatch,
        Code::PolicyUnreadable,
        Code::PolicyUnknown,
        Code::PolicyDeniedByPeer,
        Code::PolicyNotEnforceable,
        Code::PolicyRevoked,
        Code::WaypointRequired,
        // This node did not know enough to connect.
        Code::NotSynced,
        Code::LookupTimeout,
        Code::NoOriginalDst,
        Code::SourceUnknown,
        Code::WorkloadUnknown,
        Code::IdentityNotReady,
        Code::NoHealthyEndpoint,
        Code::WaypointUnknown,
        Code::GatewayUnknown,
        Code::NoServicePort,
        Code::RouteUnsupported,
        Code::RevocationUnknown,
        // What is revoked may be this node's own.
        Code::CertificateRevoked,
        // The client asked for what cannot be, or left.
        Code::BadMethod,
        Code::BadAuthority,
        Code::HeadTooLarge,
        Code::TooManyStreams,
        Code::DestinationMismatch,
        Code::SelfCall,
        Code::Reset,
        // This node's bounds, its end, its kernel.
        Code::LimitReached,
        Code::Draining,
        Code::PodGone,
        Code::Internal,
    ];
    for code in Code::ALL {
        let (fault, none) = (blamed.contains(code), pardoned.contains(code));
        assert!(fault != none, "{code} is in one of the lists");
        assert_eq!(blames_endpoint(*code), fault, "{code}");
    }
}

#[test]
fn an_ejection_ends_and_the_next_one_is_longer() {
    let (mut ejections, mut now) = (Ejections::default(), Instant::now());
    let choice = choice("shop/a", 80, 1);
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        let until = now + seconds * SECOND;
        assert_eq!(ejections.failed(&choice, 2, now), Failed::Ejected(until), "{seconds}");
        // A failure that was under way changes nothing.
        let late = now + SECOND / 2;
        assert_eq!(ejections.failed(&choice, 2, late), Failed::Out(until));
        assert_eq!(out(&ejections, &choice, now + seconds * SECOND * 3 / 4), 1);
        assert_eq!(out(&ejections, &choice, until), 0);
        now = until;
    }
    // A success forgets, and so does time.
    ejections.succeeded(&choice);
    assert_eq!(ejections.failed(&choice, 2, now), Failed::Ejected(now + SECOND));
    now += SECOND + EJECTION_MEMORY;
    assert_eq!(ejections.failed(&choice, 2, now), Failed::Ejected(now + SECOND));
}

#[test]
fn a_success_ends_an_ejection() {
    let (mut ejections, now) = (Ejections::default(), Instant::now());
    let [one, other] = [1, 2].map(|id| choice("shop/a", 80, id));
    assert_ne!(ejections.failed(&one, 4, now), Failed::Kept);
    assert_ne!(ejections.failed(&other, 4, now), Failed::Kept);
    assert!(ejections.succeeded(&one));
    assert!(!ejections.succeeded(&one), "there is nothing to forget any more");
    assert_eq!(out(&ejections, &one, now), 1);
    assert!(ejections.at(now).holds(&other.service, 80, &other.workload.uid));
    ejections.succeeded(&other);
    assert!(ejections.services.is_empty());
    assert_eq!(out(&ejections, &one, now), 0);
}

#[test]
fn at_most_one_in_two() {
    for (endpoints, ejected) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
        let (mut ejections, now) = (Ejections::default(), Instant::now());
        for id in 0..endpoints {
            ejections.failed(&choice("shop/a", 80, id), endpoints, now);
        }
        assert_eq!(out(&ejections, &choice("shop/a", 80, 0), now), ejected, "{endpoints}");
    }
}

#[test]
fn ports_and_services_are_apart() {
    let (mut ejections, now) = (Ejections::default(), Instant::now());
    ejections.failed(&choice("shop/a", 80, 1), 2, now);
    for (service, port, expected) in [("shop/a", 80, 1), ("shop/a", 81, 0), ("shop/b", 80, 0)] {
        assert_eq!(out(&ejections, &choice(service, port, 1), now), expected, "{service} {port}");
    }
}

#[test]
fn bounds_hold() {
    let (mut ejections, now) = (Ejections::default(), Instant::now());
    let many = 100 * EJECTIONS_PER_SERVICE_MAX;
    for id in 0..EJECTIONS_PER_SERVICE_MAX {
        assert_ne!(ejections.failed(&choice("shop/a", 80, id), many, now), Failed::Kept);
    }
    let further = choice("shop/a", 80, many);
    assert_eq!(ejections.failed(&further, many, now), Failed::Kept);
    // One whose ejection has ended gives way.
    assert_ne!(ejections.failed(&further, many, now + SECOND), Failed::Kept);
    assert_eq!(ejections.services.values().map(Vec::len).sum::<usize>(), EJECTIONS_PER_SERVICE_MAX);

    let mut ejections = Ejections::default();
    let of = |id: usize| choice(&format!("shop/s{id}"), 80, 1);
    for id in 0..EJECTED_SERVICES_MAX {
        assert_ne!(ejections.failed(&of(id), 2, now), Failed::Kept);
    }
    assert_eq!(ejections.failed(&of(EJECTED_SERVICES_MAX), 2, now), Failed::Kept);
    assert_ne!(ejections.failed(&of(EJECTED_SERVICES_MAX), 2, now + SECOND), Failed::Kept);
    assert_eq!(ejections.services.len(), 1);
}

/// One step of a history: a failure or a success of one of six endpoints, then some time.
type Step = (usize, bool, u32);

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(500)
    })]

    #[test]
    fn never_more_than_the_share_and_never_for_ever(
        endpoints in 1..6_usize,
        steps in prop::collection::vec((0..6_usize, any::<bool>(), 0..40_u32), 0..60),
    ) {
        let (mut ejections, mut now) = (Ejections::default(), Instant::now());
        let mut good: BTreeSet<usize> = BTreeSet::new();
        let steps: Vec<Step> = steps;
        for (id, fails, seconds) in steps {
            let id = id % endpoints;
            let one = choice("shop/a", 80, id);
            if fails {
                ejections.failed(&one, endpoints, now);
                good.remove(&id);
            } else {
                ejections.succeeded(&one);
                good.insert(id);
            }
            let all: Vec<_> = (0..endpoints).map(|id| choice("shop/a", 80, id)).collect();
            let is_out = |one: &Choice, now| ejections.at(now).holds(&one.service, 80, &one.workload.uid);
            let gone = all.iter().filter(|one| is_out(one, now)).count();
            prop_assert!(gone <= endpoints / EJECTED_ONE_IN, "{gone} of {endpoints}");
            prop_assert!(!good.iter().any(|id| is_out(&all[*id], now)));
            prop_assert!(!all.iter().any(|one| is_out(one, now + EJECTION_MAX)));
            now += seconds * SECOND;
        }
    }
}

#[test]
fn a_choice_is_as_equal_as_its_parts() {
    let one = choice("shop/a", 80, 1);
    assert_eq!(one, choice("shop/a", 80, 1));
    let other = Workload { capacity: 7, ..workload("shop/w1", &[]) };
    assert_ne!(one, Choice { workload: Arc::new(other), ..one.clone() });
}
