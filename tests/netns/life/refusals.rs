//! Enrolments that are refused: each with its stable code, and nothing half attached.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tests::{Agent, AgentOptions, Mesh, PodSpec, World, eventually};

use crate::common::{Footprint, House, Routing, SOON, routing, tail};

/// One request.
#[derive(Clone)]
struct Ask {
    uid: String,
    netns: PathBuf,
    cgroup: PathBuf,
    workload: String,
}

impl Ask {
    fn of(house: &House) -> Self {
        Self {
            uid: house.pod.uid().to_owned(),
            netns: house.pod.netns().path(),
            cgroup: house.pod.cgroup().to_owned(),
            workload: house.pod.workload(),
        }
    }

    fn netns(self, path: impl AsRef<Path>) -> Self {
        Self { netns: path.as_ref().to_owned(), ..self }
    }

    fn cgroup(self, path: impl AsRef<Path>) -> Self {
        Self { cgroup: path.as_ref().to_owned(), ..self }
    }

    fn uid(self, uid: &str) -> Self {
        Self { uid: uid.to_owned(), ..self }
    }

    fn workload(self, workload: &str) -> Self {
        Self { workload: workload.to_owned(), ..self }
    }

    fn send(&self, agent: &Agent) -> anyhow::Result<tests::Answer> {
        let (netns, cgroup) = (self.netns.to_string_lossy(), self.cgroup.to_string_lossy());
        agent.warren(&[
            "pods",
            "enrol",
            "--uid",
            &self.uid,
            "--netns",
            &netns,
            "--cgroup",
            &cgroup,
            "--workload",
            &self.workload,
        ])
    }
}

#[test]
fn refusals_have_codes_and_leave_nothing() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let house = |name| House::new(&world, PodSpec::new(1, name));
    let (taken, free, left, right) =
        (house("taken")?, house("free")?, house("left")?, house("right")?);
    world.set_mesh(&Mesh::new().workloads([&taken.pod, &free.pod]))?;
    let mut agent = world.agent(1, AgentOptions::default())?;
    agent.wait_ready()?;
    agent.enrol(&taken.pod)?;
    let ask = Ask::of(&free);
    let node = world.node(1);
    let mount = tests::cgroup_mount()?;
    let namespace = node.namespace().path();
    // In a container, another process may not look at the host's; then it is no namespace at all.
    let visible = std::fs::File::open("/proc/1/ns/net").is_ok();
    let host = if visible { "NETNS_IS_HOST" } else { "NETNS_INVALID" };
    let cases = [
        ("a path that does not exist", "NETNS_INVALID", ask.clone().netns("/run/netns/nowhere")),
        ("a file", "NETNS_INVALID", ask.clone().netns("/etc/hostname")),
        ("a folder", "NETNS_INVALID", ask.clone().netns("/tmp")),
        ("another kind of namespace", "NETNS_INVALID", ask.clone().netns("/proc/self/ns/uts")),
        ("the host's namespace", host, ask.clone().netns("/proc/1/ns/net")),
        ("the agent's namespace", "NETNS_IS_HOST", ask.clone().netns(namespace)),
        ("another pod's namespace", "NETNS_MISMATCH", ask.clone().netns(taken.pod.netns().path())),
        ("no cgroup there", "CGROUP_INVALID", ask.clone().cgroup(mount.join("nowhere"))),
        ("a folder that is no cgroup", "CGROUP_INVALID", ask.clone().cgroup("/tmp")),
        (
            "a file of a cgroup",
            "CGROUP_INVALID",
            ask.clone().cgroup(free.pod.cgroup().join("cgroup.procs")),
        ),
        (
            "the agent's cgroup",
            "CGROUP_HOLDS_AGENT",
            ask.clone().cgroup(node.cgroup().join("agent")),
        ),
        ("a cgroup above the agent's", "CGROUP_HOLDS_AGENT", ask.clone().cgroup(node.cgroup())),
        ("the root of all cgroups", "CGROUP_HOLDS_AGENT", ask.clone().cgroup(&mount)),
        ("a uid that is taken", "UID_TAKEN", ask.clone().uid(taken.pod.uid())),
        ("a uid that is a path", "BAD_REQUEST", ask.clone().uid("../x")),
        ("a uid with a space", "BAD_REQUEST", ask.clone().uid("a b")),
        ("a uid that is too long", "BAD_REQUEST", ask.clone().uid(&"x".repeat(64))),
        ("an empty uid", "BAD_REQUEST", ask.clone().uid("")),
        ("half a workload", "BAD_REQUEST", ask.clone().workload("shop/free")),
        ("a workload with an empty part", "BAD_REQUEST", ask.clone().workload("shop//free")),
        ("the pod of another uid", "NETNS_TAKEN", Ask::of(&taken).uid("twin")),
        (
            "a cgroup above those of several pods",
            "NETNS_MISMATCH",
            Ask::of(&left).cgroup(above(&world, &[&left, &right])?),
        ),
        // A process-less cgroup of its own, so that only the namespace is taken, and the reverse.
        (
            "a container of an enrolled pod",
            "CGROUP_TAKEN",
            ask.clone().cgroup(empty_below(&taken)?),
        ),
    ];
    let before = Footprint::of(&agent)?;
    for (what, code, ask) in cases {
        let answer = ask.send(&agent)?;
        ensure!(
            answer.status == 1 || code == "BAD_REQUEST" && answer.status == 2,
            "{what}: {answer:?}"
        );
        let named = answer.stderr.contains(code) || answer.status == 2;
        ensure!(named, "{what} should be {code}: {}\n{}", answer.stderr, tail(&agent));
        before.wait(&agent).context(what)?;
        ensure!(routing(&free.pod)? == Routing::None, "{what}: routing is left");
    }
    let pods: Vec<_> = agent.pods()?.into_iter().map(|pod| pod.uid).collect();
    ensure!(pods == [taken.pod.uid()], "{pods:?}");
    free.greet(&taken, "not captured, judged")?;
    // And the pod they were about is as good as new.
    agent.enrol(&free.pod)?;
    free.greet(&taken, "captured")
}

/// A cgroup that holds the processes of several pods, each in one of its own.
fn above(world: &World, houses: &[&House]) -> anyhow::Result<PathBuf> {
    let path = tests::cgroup_mount()?.join(world.prefix().to_string()).join("above");
    std::fs::create_dir(&path)?;
    for house in houses {
        let below = path.join(house.pod.name());
        std::fs::create_dir(&below)?;
        std::fs::write(below.join("cgroup.procs"), house.actor.pid().to_string())?;
    }
    Ok(path)
}

/// A cgroup without processes below a pod's.
fn empty_below(house: &House) -> anyhow::Result<PathBuf> {
    let path = house.pod.cgroup().join("empty");
    std::fs::create_dir(&path)?;
    Ok(path)
}

#[test]
fn a_workload_that_nobody_knows_is_captured_and_refused_until_it_is_known() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let web = House::new(&world, PodSpec::new(1, "web"))?;
    let old = House::new(&world, PodSpec::new(1, "old").outside())?;
    world.set_mesh(&Mesh::new().workloads([&old.pod]))?;
    let mut agent = world.agent(1, AgentOptions::default())?;
    agent.wait_ready()?;
    agent.enrol(&web.pod)?;
    let mark = agent.log_mark();
    let failure = web.greet(&old, "unknown").expect_err("nobody knows the client");
    ensure!(format!("{failure:#}").contains("ECONNRESET"), "{failure:#}");
    agent.wait_access(mark, "the unknown source", |line| line.code == "SOURCE_UNKNOWN")?;
    let failure = old.greet(&web, "unknown").expect_err("nobody knows the server");
    ensure!(format!("{failure:#}").contains("ECONNRESET"), "{failure:#}");
    agent.wait_access(mark, "the unknown server", |line| line.code == "WORKLOAD_UNKNOWN")?;
    world.set_mesh(&Mesh::new().workloads([&web.pod, &old.pod]))?;
    eventually("it is known", SOON, || Ok(web.greet(&old, "known").ok()))?;
    old.greet(&web, "known")?;
    let issued = || Ok(agent.pods()?.iter().any(|pod| pod.identity.is_some()).then_some(()));
    eventually("it has a certificate", SOON, issued)
}
