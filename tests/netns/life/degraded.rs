//! One broken pod is shown with its reason and costs no other pod anything; and a pod whose cgroup
//! admits no process is none of the broken ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tests::{PodSpec, wait_until};

use crate::common::{
    Footprint, House, Routing, SOON, Town, names, pins, routing, state, wait_degraded,
    wait_verified, within,
};

#[test]
fn a_pod_that_cannot_be_proved_is_refused_or_degraded_and_harms_nobody() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, near, shop, world, .. } = town;
        // Not enrolled yet: refused, without a trace.
        let bare = House::new(world, PodSpec::new(1, "bare"))?;
        let before = Footprint::of(west)?;
        bare.pod.netns().ip(&["addr flush dev eth0"])?;
        let answer = west.warren(&words(&bare))?;
        ensure!(answer.status == 1 && answer.stderr.contains("NO_ADDRESS"), "{answer:?}");
        bare.pod.netns().ip(&[format!("addr add {}/32 dev eth0", bare.pod.ipv4())])?;
        // Self-test connections are to the pod's own address, which nothing may reach now.
        bare.pod.netns().ip(&unreachable(&bare))?;
        let answer = west.warren(&words(&bare))?;
        ensure!(answer.status == 1 && answer.stderr.contains("SELF_TEST_FAILED"), "{answer:?}");
        let gone = || state(west, bare.pod.uid()).is_ok_and(|state| state.is_none());
        ensure!(wait_until(SOON, gone), "`warren pods` still shows a refused pod");
        ensure!(routing(&bare.pod)? == Routing::None, "routing is {:?}", routing(&bare.pod)?);
        before.wait(west)?;
        near.greet(shop, "a neighbour")?;
        // Enrolled and then broken: degraded when it is tested again, and shut when its listeners
        // cannot be reached.
        web.pod.netns().ip(&unreachable(web))?;
        web.pod.netns().ip(&["addr add 10.1.200.1/32 dev eth0"])?;
        let reason = wait_degraded(west, web.pod.uid())?;
        ensure!(reason.contains("connection to"), "{reason}");
        let status = west.warren(&["status"])?;
        ensure!(status.status == 1, "`warren status` says all is well");
        near.greet(shop, "a neighbour")?;
        // The next agent starts with it all the same.
        west.kill9()?;
        west.restart()?;
        west.wait_ready()?;
        wait_degraded(west, web.pod.uid())?;
        wait_verified(west, &near.pod)?;
        near.greet(shop, "a neighbour, after a restart")?;
        ensure!(pins(west, web.pod.uid()).exists(), "a degraded pod lost its hooks");
        web.pod.netns().ip(&["rule del pref 5"])?;
        wait_verified(west, &web.pod)?;
        web.greet(shop, "mended")
    })
}

/// Forbids routes to the pod's own address, before the table that has it is asked.
fn unreachable(house: &House) -> [String; 3] {
    [
        "rule add pref 10 lookup local".to_owned(),
        "rule del pref 0".to_owned(),
        format!("rule add pref 5 to {} prohibit", house.pod.ipv4()),
    ]
}

fn words(house: &House) -> Vec<&'static str> {
    // Leaked on purpose: some bytes in a test.
    let words = tests::Agent::enrolment(&house.pod).into_iter();
    words.map(|word| &*Box::leak(word.into_boxed_str())).collect()
}

#[test]
fn a_cgroup_with_delegated_controllers_is_tested_through_a_leaf() -> anyhow::Result<()> {
    within(Town::new()?, |town| {
        let Town { west, web, shop, east, world, .. } = town;
        let mount = tests::cgroup_mount()?;
        let world_cgroup = mount.join(world.prefix().to_string());
        let _delegated = Delegated::along(&[&mount, &world_cgroup, web.pod.cgroup()])?;
        // What the test is about: the pod's own cgroup takes no process any more.
        let pid = web.actor.pid().to_string();
        let refused = fs::write(web.pod.cgroup().join("cgroup.procs"), &pid);
        ensure!(refused.is_err(), "the pod's cgroup admits processes");
        west.enrol(&web.pod)?;
        east.enrol(&shop.pod)?;
        let mark = west.log_mark();
        web.greet(shop, "captured")?;
        west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        // After a restart it is proved again, and the temporary leaf is gone each time.
        west.kill9()?;
        west.restart()?;
        west.wait_ready()?;
        wait_verified(west, &web.pod)?;
        let below = names(web.pod.cgroup()).into_iter().filter(|name| name.contains("warren"));
        let below: Vec<_> = below.collect();
        ensure!(below.is_empty(), "left below the pod's cgroup: {below:?}");
        web.greet(shop, "captured still")?;
        west.unenrol(&web.pod)
    })
}

/// A controller that is handed down a path of cgroups. Taken back when dropped, deepest first.
struct Delegated {
    controller: String,
    by: Vec<PathBuf>,
}

impl Delegated {
    fn along(path: &[&Path]) -> anyhow::Result<Self> {
        let root = path.first().context("no path")?;
        let offered = fs::read_to_string(root.join("cgroup.controllers"))?;
        let Some(controller) = offered.split_whitespace().next() else {
            bail!("cgroup2 has no controller here that could be delegated");
        };
        let mut delegated = Self { controller: controller.to_owned(), by: Vec::new() };
        for folder in path {
            let file = folder.join("cgroup.subtree_control");
            let before = fs::read_to_string(&file)?;
            if before.split_whitespace().any(|name| name == controller) {
                continue;
            }
            fs::write(&file, format!("+{controller}"))
                .with_context(|| format!("delegate {controller} in {}", folder.display()))?;
            delegated.by.push(file);
        }
        Ok(delegated)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for file in self.by.iter().rev() {
            if let Err(error) = fs::write(file, format!("-{}", self.controller)) {
                eprintln!("{} keeps {}: {error}", file.display(), self.controller);
            }
        }
    }
}
