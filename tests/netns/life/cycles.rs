//! Many enrolments through `warren` leave an agent as it was: descriptors, maps, pins, records,
//! cgroups; and what a killed agent left in a pod's registry goes too.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::eventually;
use ztunnel::capture::bpf::Map;

use crate::common::{Footprint, Town, names, pins, wait_left, wait_verified, within};

const CYCLES: u32 = 50;
/// Connections that are open when an agent is killed.
const HELD: u64 = 20;
/// A registration counts for 10 s; then the next look of the agent removes what nobody owns.
const SWEPT: Duration = Duration::from_secs(20);

#[test]
fn fifty_enrolments_and_a_crash_leave_an_agent_as_it_was() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, near, shop, old, world, .. } = town;
        // Connections of the agent's own that are open while it crashes.
        let (held, failures) = old.actor.hold(web.pod.at(crate::common::PORT), HELD)?;
        ensure!(failures.is_empty(), "{failures:?}");
        let path = pins(west, web.pod.uid()).join("TUPLES");
        let registered = || -> anyhow::Result<usize> {
            let map = Map::<ebpf_abi::TupleKey, ebpf_abi::Tuple>::open(&path)?;
            Ok(map.keys()?.len())
        };
        let accepted = || Ok((registered()? == 0).then_some(()));
        eventually("none is registered any more, since they are accepted", SWEPT, accepted)?;
        west.kill9()?;
        west.restart()?;
        west.wait_ready()?;
        wait_verified(west, &web.pod)?;
        for connection in held {
            connection.close()?;
        }
        // Meanwhile, another pod comes and goes.
        let mut settled = None;
        for cycle in 1..=CYCLES {
            west.unenrol(&near.pod).with_context(|| format!("cycle {cycle}"))?;
            wait_left(west, &near.pod).with_context(|| format!("cycle {cycle}"))?;
            if cycle == 2 {
                settled = Some(Footprint::of(west)?);
            }
            if cycle == CYCLES {
                break;
            }
            west.enrol(&near.pod).with_context(|| format!("cycle {cycle}"))?;
            if cycle % 10 == 0 {
                near.greet(shop, "captured").with_context(|| format!("cycle {cycle}"))?;
            }
        }
        // Tunnels of the last greeting close when they have been idle for ten seconds.
        let settled = settled.context("two cycles")?;
        settled.wait_for(west, SWEPT)?;
        let cgroups = [near.pod.cgroup().to_owned(), world.node(1).cgroup().to_owned()];
        let left: Vec<_> = cgroups.iter().flat_map(|folder| names(folder)).collect();
        let left: Vec<_> =
            left.into_iter().filter(|n| n.starts_with("warren-self-test-")).collect();
        ensure!(left == ["warren-self-test-node-1"], "cgroups are left: {left:?}");
        eventually("the orphaned registrations are swept", SWEPT, || {
            let left = registered()?;
            ensure!(left == 0, "{left} are left");
            Ok(Some(()))
        })?;
        west.enrol(&near.pod)?;
        near.greet(shop, "and once more")
    })
}
