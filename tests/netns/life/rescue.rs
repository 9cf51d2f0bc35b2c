//! What could not be done at once: an enrolment that cannot be undone, a pod that cannot be adopted,
//! a pod of which the kernel tells nothing. Each is shown with its reason, stays shut, and is put
//! right when the reason has passed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};
use tests::{Agent, AgentOptions, PodSpec, eventually, wait_until};

use crate::common::{
    Footprint, House, Routing, SOON, Town, pins, record, routing, state, wait_degraded,
    wait_verified, within,
};

/// The agent tries again every ten seconds.
const RETRIED: Duration = Duration::from_secs(30);

/// The rollback of a failed enrolment fails too: hooks may be on, so the pod does not vanish from the
/// table. Un-enrolling it is the way out, as often as it takes.
#[test]
fn an_enrolment_that_cannot_be_undone_is_shown_until_it_is() -> anyhow::Result<()> {
    // So that what a neighbour used is not taken for a leak.
    let brief_tunnels = AgentOptions::default().set("POOL_UNUSED_RELEASE_TIMEOUT", "1s");
    within(Town::enrolled_with(&brief_tunnels)?, |town| {
        let Town { west, near, shop, world, .. } = town;
        let bare = House::new(world, PodSpec::new(1, "bare"))?;
        let before = Footprint::of(west)?;
        // What the self-test sends is lost, so that the enrolment waits for it, and then fails.
        let lose = "nft add table inet lossy && \
            nft 'add chain inet lossy input { type filter hook input priority 0; policy drop; }'";
        let (status, _, error) = bare.actor.shell(lose)?;
        ensure!(status == 0, "{error}");
        let words = Agent::enrolment(&bare.pod);
        let mut enrolling =
            west.warren_follow(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        // A folder among the pins cannot be removed like them.
        let pins = pins(west, bare.pod.uid());
        let obstacle = pins.join("obstacle");
        let placed = || Ok(fs::create_dir(&obstacle).ok());
        eventually("the pod has pins", SOON, placed)?;
        let reason = wait_degraded(west, bare.pod.uid())?;
        let status = enrolling.wait()?;
        ensure!(status.code() == Some(1), "the enrolment ended with {status}");
        ensure!(
            reason.contains("enrolment failed, and") && reason.contains("obstacle"),
            "{reason}"
        );
        let again = west.warren(&["pods", "unenrol", bare.pod.uid()])?;
        ensure!(again.status == 1 && again.stderr.contains("obstacle"), "{again:?}");
        wait_degraded(west, bare.pod.uid())?;
        ensure!(record(west, bare.pod.uid()).exists(), "nothing remembers the pod");
        near.greet(shop, "a neighbour")?;
        fs::remove_dir(&obstacle)?;
        west.unenrol(&bare.pod)?;
        let gone = || state(west, bare.pod.uid()).is_ok_and(|state| state.is_none());
        ensure!(wait_until(SOON, gone), "`warren pods` still shows it");
        ensure!(!pins.exists(), "pins are left");
        ensure!(routing(&bare.pod)? == Routing::None, "routing is {:?}", routing(&bare.pod)?);
        before.wait(west)?;
        bare.actor.shell("nft delete table inet lossy")?;
        west.enrol(&bare.pod)?;
        near.greet(&bare, "enrolled in the end").map(drop).or_else(|error| {
            // Nobody put it into the mesh's file: it is judged, and unknown.
            let text = format!("{error:#}");
            ensure!(text.contains("ECONNRESET"), "{text}");
            Ok(())
        })
    })
}

/// The path of a pod's namespace is gone for a while, and its cgroup tells nothing: that is no proof
/// that the pod is gone. It stays captured; a new agent shuts it, and adopts it when it can.
#[test]
fn a_pod_that_cannot_be_looked_at_is_kept_and_adopted_later() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, near, shop, old, .. } = town;
        let events = web.pod.cgroup().join("cgroup.events");
        let silent = Hidden::by(&events, Path::new("/dev/null"))?;
        let nameless = Nameless::make(web)?;
        let reason = wait_degraded(west, web.pod.uid())?;
        ensure!(reason.contains("its processes cannot be told"), "{reason}");
        let mark = west.log_mark();
        web.greet(shop, "captured still")?;
        west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        // Processes are in it, so the pod is there.
        drop(silent);
        wait_verified(west, &web.pod)?;
        west.kill9()?;
        west.restart()?;
        west.wait_ready()?;
        let reason = wait_degraded(west, web.pod.uid())?;
        ensure!(reason.contains("is not the network namespace that was enrolled"), "{reason}");
        for (what, failure) in [("in", old.connect(web).err()), ("out", web.connect(old).err())] {
            let message = failure.map(|failure| failure.message);
            ensure!(message.as_deref() == Some("ECONNREFUSED"), "{what}: {message:?}");
        }
        near.greet(shop, "a neighbour")?;
        drop(nameless);
        let adopted = || {
            state(west, web.pod.uid()).is_ok_and(|state| state == Some(admin::PodState::Verified))
        };
        ensure!(wait_until(RETRIED, adopted), "nobody tried to adopt it again");
        let mark = west.log_mark();
        web.greet(shop, "captured again")?;
        west.wait_access(mark, "a tunnel", |line| line.path == "hbone" && line.code == "OK")?;
        Ok(())
    })
}

/// A file under another one, until this is dropped.
struct Hidden(PathBuf);

impl Hidden {
    fn by(path: &Path, cover: &Path) -> anyhow::Result<Self> {
        mount(Some(cover), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("hide {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = umount(&self.0) {
            eprintln!("{} stays hidden: {error}", self.0.display());
        }
    }
}

/// A pod whose namespace lives and has no name, until this is dropped.
struct Nameless<'a>(&'a House);

impl<'a> Nameless<'a> {
    fn make(house: &'a House) -> anyhow::Result<Self> {
        umount2(&house.pod.netns().path(), MntFlags::MNT_DETACH)
            .context("take a namespace's name away")?;
        Ok(Self(house))
    }
}

impl Drop for Nameless<'_> {
    fn drop(&mut self) {
        let namespace = format!("/proc/{}/ns/net", self.0.actor.pid());
        let path = self.0.pod.netns().path();
        let nothing = None::<&str>;
        let named = mount(Some(&*namespace), &path, nothing, MsFlags::MS_BIND, nothing);
        if let Err(error) = named {
            eprintln!("{} stays without a name: {error}", path.display());
        }
    }
}
