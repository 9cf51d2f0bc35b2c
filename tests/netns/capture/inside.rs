//! What stays inside a pod is the application's own business: no proxy, no policy.

use std::net::SocketAddr;

use tests::protocol::Behaviour;
use tests::{Actor, ActorOptions, AgentOptions, LogMark, Mesh, PodSpec, World};

use crate::stage::{House, answered, brief, counter, deny_all, ready};

#[test]
fn calls_inside_a_pod_do_not_pass_the_proxy() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let house = House::new(&world, PodSpec::new(1, "house"))?;
    world.set_mesh(&deny_all(Mesh::new().workload(&house.pod)))?;
    let agent = ready(&world, 1, AgentOptions::default())?;
    agent.enrol(&house.pod)?;
    let (v4, v6) = (|port| house.pod.at(port), |port| house.pod.at_v6(port));
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let local6 = |port| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
    let listeners = [
        house.echo(80)?,
        house.actor.listen(local(81), Behaviour::Echo)?,
        house.actor.listen(local6(82), Behaviour::Echo)?,
        house.actor.listen(v4(83), Behaviour::Echo)?,
        house.actor.listen(v6(84), Behaviour::Echo)?,
    ];
    let unspecified = [([0, 0, 0, 0], 80).into(), ([0_u16; 8], 80).into()];
    let calls = [local(80), local6(80), local(81), local6(82), v4(80), v6(80), v4(83), v6(84)];
    let before = counter(&agent, &house.pod, "steered_plaintext")?;
    let mark = agent.log_mark();
    for target in calls.into_iter().chain(unspecified) {
        assert!(answered(&house.actor, target, brief()), "the pod cannot call itself at {target}");
    }

    // A process of the node in the pod's namespace, as `kubectl port-forward` has it.
    let forwarder = {
        // The cgroup is made with a first process of it.
        drop(world.node(1).actor("runtime")?);
        Actor::start(
            "port-forward",
            &ActorOptions {
                namespace: house.pod.netns().clone(),
                cgroup: world.node(1).cgroup().join("runtime"),
                capabilities: None,
                hidden: Vec::new(),
            },
        )?
    };
    for target in [local(80), local6(80), local(81), local6(82)] {
        assert!(answered(&forwarder, target, brief()), "{target} cannot be forwarded");
    }
    let reports = listeners.map(|listener| listener.report());
    let accepted = reports.into_iter().map(|report| report.map(|report| report.accepted));
    assert_eq!(accepted.collect::<Result<Vec<_>, _>>()?, [8, 2, 2, 1, 1]);
    assert_eq!(counter(&agent, &house.pod, "steered_plaintext")?, before, "the proxy was asked");
    assert_eq!(agent.access_log(mark).len(), 0, "{:?}", agent.access_log(mark));

    // The same process at the pod's address is no part of the pod: it is judged.
    for target in [v4(80), v6(80)] {
        assert!(!answered(&forwarder, target, brief()), "{target} was not judged");
        let line = agent.wait_access(LogMark::default(), "the refusal", |line| {
            line.destination == target.to_string()
        })?;
        assert_eq!((&*line.path, &*line.code), ("plaintext", "POLICY_NO_MATCH"), "{line:?}");
    }
    assert_eq!(listeners[0].report()?.accepted, 8);
    Ok(())
}
