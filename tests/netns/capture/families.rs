//! A pod without IPv6 works on IPv4, and troubles nobody.

use tests::{AgentOptions, Mesh, PodSpec, World};

use crate::stage::{House, answered, brief, reach, ready};

#[test]
fn a_pod_without_ipv6_works_on_ipv4_and_its_node_goes_on() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let old = House::new(&world, PodSpec::new(1, "old-fashioned"))?;
    let dual = House::new(&world, PodSpec::new(1, "dual"))?;
    let store = House::new(&world, PodSpec::new(1, "store").outside())?;
    old.pod.netns().set_sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    old.pod.netns().set_sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    world.set_mesh(&Mesh::new().workloads([&old.pod, &dual.pod, &store.pod]))?;
    let agent = ready(&world, 1, AgentOptions::default())?;
    let enrolled = agent.enrol(&old.pod)?;
    assert_eq!(enrolled.state, admin::PodState::Verified, "{enrolled:?}");
    assert_eq!(enrolled.ips, [old.pod.ipv4()]);
    let enrolled = agent.enrol(&dual.pod)?;
    assert_eq!(enrolled.ips, [dual.pod.ipv4(), dual.pod.ipv6()]);
    for house in [&old, &dual, &store] {
        house.actor.listen(([0, 0, 0, 0], 80).into(), tests::protocol::Behaviour::Echo)?;
    }
    dual.actor.listen(dual.pod.at_v6(80), tests::protocol::Behaviour::Echo)?;
    store.actor.listen(store.pod.at_v6(80), tests::protocol::Behaviour::Echo)?;
    // In and out, in the mesh and beyond.
    for (from, to) in [(&old, &dual), (&dual, &old), (&old, &store), (&store, &old)] {
        let target = to.pod.at(80);
        let what = format!("{} calls {target}", from.pod.name());
        let connection = reach(&from.actor, target, brief());
        connection.unwrap_or_else(|error| panic!("{what}: {error:#}")).close()?;
    }
    for target in [dual.pod.at_v6(80), store.pod.at_v6(80)] {
        let refused = old.actor.connect_with(target, brief()).expect_err("it has no IPv6");
        assert!(refused.errno.is_some(), "{target}: {refused}");
    }
    for target in store.both(80) {
        assert!(answered(&dual.actor, target, brief()), "the other pod cannot call {target}");
    }
    assert!(answered(&store.actor, dual.pod.at_v6(80), brief()), "the other pod's IPv6");
    let status = agent.status()?;
    assert_eq!((status.pods.verified, status.pods.degraded), (2, 0), "{status:?}");
    assert!(status.degradations().is_empty(), "{:?}", status.degradations());
    Ok(())
}
