//! The registry of connections: full, stale, or another pod's, it lets nothing through.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ebpf_abi::{Address, Be16, MAX_TUPLES, Role, TUPLE_LIFETIME_NS, Tuple, TupleKey};
use model::PodUid;
use nix::time::{ClockId, clock_gettime};
use tests::protocol::ConnectOptions;
use tests::{Agent, AgentOptions, Mesh, Pod, PodSpec, World};
use ztunnel::capture::bpf::{Map, Update};
use ztunnel::capture::pins::PinRoot;

use crate::stage::{House, answered, brief, counter, deny_all, reach, ready};

/// A pod's registry, as the agent pinned it.
fn registry(agent: &Agent, pod: &Pod) -> anyhow::Result<Map<TupleKey, Tuple>> {
    let root = agent.setting("WARREN_BPF_PIN_DIR").context("no pin folder")?;
    let pins = PinRoot::open(Path::new(root))?.pod(&PodUid::parse(pod.uid())?);
    Map::open(&pins.map("TUPLES")).context("open the registry")
}

fn tuple(role: Role, opened_ns: u64) -> Tuple {
    let (original, original_port) = (Address::NONE, Be16::default());
    Tuple { role, original_port, reserved: 0, original, opened_ns }
}

fn key(client: SocketAddr, server: SocketAddr) -> TupleKey {
    TupleKey {
        remote: client.ip().into(),
        local: server.ip().into(),
        remote_port: Be16::new(client.port()),
        local_port: Be16::new(server.port()),
    }
}

fn now_ns() -> anyhow::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos())?)
}

#[test]
fn a_pod_that_fills_its_registry_is_refused_and_others_are_not() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let greedy = House::new(&world, PodSpec::new(1, "greedy"))?;
    let other = House::new(&world, PodSpec::new(1, "other"))?;
    let store = House::new(&world, PodSpec::new(1, "store").outside())?;
    world.set_mesh(&Mesh::new().workloads([&greedy.pod, &other.pod]))?;
    let agent = ready(&world, 1, AgentOptions::default())?;
    agent.enrol(&greedy.pod)?;
    agent.enrol(&other.pod)?;
    let served = store.echo(80)?;
    let kept = reach(&greedy.actor, store.pod.at(80), brief())?;

    let tuples = registry(&agent, &greedy.pod)?;
    let filler = |number: u32| key((Ipv4Addr::from_bits(number), 1).into(), store.pod.at(1));
    let mut filled = Vec::new();
    for number in 0..=u32::try_from(MAX_TUPLES)? {
        let key = filler(number);
        match tuples.set(&key, &tuple(Role::NONE, 0), Update::Any) {
            Ok(()) => filled.push(key),
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => break,
            Err(error) => return Err(error.into()),
        }
    }
    // The open connection has no entry any more.
    assert_eq!(filled.len(), MAX_TUPLES, "the bound of the registry");
    for target in store.both(80) {
        let refused = greedy.actor.connect_with(target, brief()).expect_err("the registry is full");
        assert_eq!(refused.errno, Some(libc::ECONNREFUSED), "{target}: {refused}");
    }
    assert_eq!(counter(&agent, &greedy.pod, "tuple_insert_failed")?, 2);
    assert_eq!(counter(&agent, &greedy.pod, "dropped_unregistered")?, 2);
    assert_eq!(kept.exchange(b"still here")?, b"still here", "an open connection broke");
    for target in store.both(80) {
        assert!(answered(&other.actor, target, brief()), "{target}: another pod is affected");
    }
    for key in filled {
        tuples.delete(&key)?;
    }
    assert!(answered(&greedy.actor, store.pod.at(80), brief()), "room again, and yet refused");
    assert_eq!(served.report()?.accepted, 4);
    Ok(())
}

/// Only the pod's own registry counts, only for some seconds, and only for the exact connection.
#[test]
fn a_stale_or_foreign_registration_is_worth_nothing() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let server = House::new(&world, PodSpec::new(1, "server"))?;
    let other = House::new(&world, PodSpec::new(1, "other"))?;
    let client = House::new(&world, PodSpec::new(1, "client").outside())?;
    world.set_mesh(&deny_all(Mesh::new().workloads([&server.pod, &other.pod, &client.pod])))?;
    let agent = ready(&world, 1, AgentOptions::default())?;
    agent.enrol(&server.pod)?;
    agent.enrol(&other.pod)?;
    let served = server.echo(80)?;
    let (own, foreign) = (registry(&agent, &server.pod)?, registry(&agent, &other.pod)?);

    for (target, client_at) in
        [(server.pod.at(80), client.pod.at(0)), (server.pod.at_v6(80), client.pod.at_v6(0))]
    {
        let mut port = 5000;
        let mut attempt =
            |map: &Map<_, _>, role, age_ns: u64, shift: u16| -> anyhow::Result<bool> {
                port += 10;
                let from = SocketAddr::new(client_at.ip(), port);
                let registered = SocketAddr::new(from.ip(), port + shift);
                let opened_ns = now_ns()?.saturating_sub(age_ns);
                map.set(&key(registered, target), &tuple(role, opened_ns), Update::Any)?;
                let options = ConnectOptions { source: Some(from), ..brief() };
                Ok(answered(&client.actor, target, options))
            };
        // The proof that the attempts below would succeed if they counted.
        assert!(attempt(&own, Role::PROXY_TO_APP, 0, 0)?, "{target}: a true registration");
        let stale = TUPLE_LIFETIME_NS + 1;
        assert!(!attempt(&own, Role::PROXY_TO_APP, stale, 0)?, "{target}: stale");
        assert!(!attempt(&own, Role::OUTBOUND, stale, 0)?, "{target}: a stale captured one");
        assert!(!attempt(&own, Role::PROXY_TO_APP, 0, 1)?, "{target}: another port's");
        assert!(!attempt(&own, Role::KUBELET, 0, 0)?, "{target}: a probe's, out of place");
        assert!(!attempt(&foreign, Role::PROXY_TO_APP, 0, 0)?, "{target}: another pod's");
        assert!(!attempt(&foreign, Role::SELF_CALL, 0, 0)?, "{target}: another pod's own call");
    }
    assert_eq!(counter(&agent, &server.pod, "dropped_stale")?, 2);
    assert_eq!(served.report()?.accepted, 2, "a registration was honoured that is void");
    Ok(())
}
