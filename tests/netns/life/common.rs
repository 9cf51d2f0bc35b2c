//! What the tests of this suite share: a mesh of two nodes, and what an agent leaves in a pod, on
//! bpffs and in its run folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use admin::PodState;
use anyhow::{Context, ensure};
use netns::{MarkRouting, MarkSysctls};
use tests::{Agent, AgentOptions, Connection, Mesh, Pod, PodSpec, World, wait_until};
pub(crate) use tests::{ECHO_PORT as PORT, House, talk};

/// Within this, the agent has noticed what changed and repaired it.
pub(crate) const SOON: Duration = Duration::from_secs(6);
/// The agent's routing in a pod: the numbers are an interface to operators.
const ROUTING: MarkRouting = MarkRouting {
    mark: ebpf_abi::PROXY_MARK,
    mask: ebpf_abi::PROXY_MARK_MASK,
    table: 0x5752,
    priority: 100,
};

/// Two nodes with an agent each. On the first `web` and `near`, on the second `shop`, all echoing
/// on [`PORT`]; and `old` on the first, outside the mesh. Nothing is enrolled yet.
pub(crate) struct Town {
    pub(crate) west: Agent,
    pub(crate) east: Agent,
    pub(crate) web: House,
    pub(crate) near: House,
    pub(crate) shop: House,
    pub(crate) old: House,
    /// Last: everything above lives in it.
    pub(crate) world: World,
}

impl Town {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with(&AgentOptions::default())
    }

    pub(crate) fn with(options: &AgentOptions) -> anyhow::Result<Self> {
        let world = World::new(2)?;
        let house = |spec| House::new(&world, spec);
        let (web, near) = (house(PodSpec::new(1, "web"))?, house(PodSpec::new(1, "near"))?);
        let shop = house(PodSpec::new(2, "shop"))?;
        let old = house(PodSpec::new(1, "old").outside())?;
        world.set_mesh(&Mesh::new().workloads([&web.pod, &near.pod, &shop.pod, &old.pod]))?;
        let (mut west, mut east) =
            (world.agent(1, options.clone())?, world.agent(2, options.clone())?);
        west.wait_ready()?;
        east.wait_ready()?;
        Ok(Self { west, east, web, near, shop, old, world })
    }

    /// With `web`, `near` and `shop` enrolled.
    pub(crate) fn enrolled() -> anyhow::Result<Self> {
        Self::enrolled_with(&AgentOptions::default())
    }

    pub(crate) fn enrolled_with(options: &AgentOptions) -> anyhow::Result<Self> {
        let town = Self::with(options)?;
        town.west.enrol(&town.web.pod)?;
        town.west.enrol(&town.near.pod)?;
        town.east.enrol(&town.shop.pod)?;
        Ok(town)
    }

    /// The mesh of this town.
    pub(crate) fn mesh(&self) -> Mesh {
        Mesh::new().workloads([&self.web.pod, &self.near.pod, &self.shop.pod, &self.old.pod])
    }
}

/// Whether a connection has ended, cleanly or not, within a bounded time.
pub(crate) fn has_ended(connection: &Connection<'_>) -> bool {
    tests::has_ended(connection, SOON)
}

/// What an agent has left in a pod's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routing {
    /// Rule, route and sysctls.
    Whole,
    /// Nothing, and the sysctls as before.
    None,
    Partial,
}

pub(crate) fn routing(pod: &Pod) -> anyhow::Result<Routing> {
    let state = ROUTING.inspect(pod.netns().fd())?;
    Ok(match (state.ipv4, state.ipv6, state.sysctls) {
        (true, true, MarkSysctls::ALL) => Routing::Whole,
        (false, false, MarkSysctls { accept: false, reflect_ipv4: false, reflect_ipv6: false }) => {
            Routing::None
        }
        _ => Routing::Partial,
    })
}

/// The folder of a pod's pins.
pub(crate) fn pins(agent: &Agent, uid: &str) -> PathBuf {
    layout(agent).join("pods").join(uid)
}

/// Where this layout's pins are.
pub(crate) fn layout(agent: &Agent) -> PathBuf {
    let root = agent.setting("WARREN_BPF_PIN_DIR").unwrap_or_default();
    Path::new(root).join(format!("v{}", ebpf_abi::LAYOUT))
}

pub(crate) fn record(agent: &Agent, uid: &str) -> PathBuf {
    agent.run_dir().join("pods").join(format!("{uid}.json"))
}

/// Names in a folder, sorted; empty if there is none.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// All that is there because pods are enrolled: what must be the same after a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Pinned pods.
    pins: Vec<String>,
    records: Vec<String>,
    /// Entries of the node's outer maps.
    registered: Vec<usize>,
    /// Descriptors of the agent by kind: `bpf-map`, `bpf-prog`, `bpf_link`, `socket`, …
    descriptors: Vec<(String, usize)>,
}

impl Footprint {
    pub(crate) fn of(agent: &Agent) -> anyhow::Result<Self> {
        let maps = ["POD_TUPLES", "POD_PREFIXES", "POD_SETTINGS", "POD_COUNTERS"];
        let registered = maps.map(|name| {
            let path = layout(agent).join("shared").join(name);
            let map = ztunnel::capture::bpf::Map::<u64, u32>::open(&path);
            map.and_then(|map| map.keys()).map(|keys| keys.len()).context(name)
        });
        Ok(Self {
            pins: names(&layout(agent).join("pods")),
            records: names(&agent.run_dir().join("pods")),
            registered: registered.into_iter().collect::<anyhow::Result<_>>()?,
            descriptors: descriptors(agent)?,
        })
    }

    /// Waits until an agent has no larger footprint; what it has instead otherwise.
    pub(crate) fn wait(&self, agent: &Agent) -> anyhow::Result<()> {
        self.wait_for(agent, SOON)
    }

    pub(crate) fn wait_for(&self, agent: &Agent, timeout: Duration) -> anyhow::Result<()> {
        let mut last = Self::default();
        let same = wait_until(timeout, || {
            last = Self::of(agent).unwrap_or_default();
            last.is_within(self)
        });
        ensure!(same, "left behind:\n{last:?}\ninstead of\n{self:?}");
        Ok(())
    }

    /// Fewer descriptors are no difference: one of a request may have been open for the first look.
    fn is_within(&self, limit: &Self) -> bool {
        let allowed = |kind: &str| {
            limit.descriptors.iter().find(|(other, _)| other == kind).map_or(0, |(_, count)| *count)
        };
        (&self.pins, &self.records, &self.registered)
            == (&limit.pins, &limit.records, &limit.registered)
            && self.descriptors.iter().all(|(kind, count)| *count <= allowed(kind))
    }
}

/// Open descriptors of an agent, counted by what they are.
fn descriptors(agent: &Agent) -> anyhow::Result<Vec<(String, usize)>> {
    let pid = agent.pid().context("the agent does not run")?;
    // Threads keep their way home; how many there are is the runtime's business.
    let home = fs::read_link(format!("/proc/{pid}/ns/net"))?;
    let mut counts = std::collections::BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // One may close while this looks.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if target == home {
            continue;
        }
        let target = target.to_string_lossy().into_owned();
        let kind = target.split([':', '[']).next().unwrap_or_default();
        let kind = if kind == "anon_inode" { target.as_str() } else { kind };
        *counts.entry(kind.to_owned()).or_insert(0) += 1;
    }
    Ok(counts.into_iter().collect())
}

/// How `warren pods` shows a pod; `None` if it does not.
pub(crate) fn state(agent: &Agent, uid: &str) -> anyhow::Result<Option<PodState>> {
    Ok(agent.pods()?.into_iter().find(|pod| pod.uid == uid).map(|pod| pod.state))
}

pub(crate) fn wait_verified(agent: &Agent, pod: &Pod) -> anyhow::Result<()> {
    wait_state(agent, pod.uid(), "verified", |state| state == &Some(PodState::Verified)).map(|_| ())
}

/// Waits until a pod is degraded; its reason.
pub(crate) fn wait_degraded(agent: &Agent, uid: &str) -> anyhow::Result<String> {
    let degraded = |state: &Option<PodState>| matches!(state, Some(PodState::Degraded { .. }));
    match wait_state(agent, uid, "degraded", degraded)? {
        Some(PodState::Degraded { reason }) => Ok(reason),
        other => anyhow::bail!("{uid} is {other:?}"),
    }
}

pub(crate) fn wait_state(
    agent: &Agent,
    uid: &str,
    what: &str,
    wanted: impl Fn(&Option<PodState>) -> bool,
) -> anyhow::Result<Option<PodState>> {
    let mut last = None;
    let reached = wait_until(SOON, || {
        last = state(agent, uid).unwrap_or_default();
        wanted(&last)
    });
    ensure!(reached, "{uid} should be {what} and is {last:?}\n{}", tail(agent));
    Ok(last)
}

/// Replaces the mesh and waits until both agents have taken it.
pub(crate) fn apply(town: &Town, text: &str) -> anyhow::Result<()> {
    let revisions = || -> anyhow::Result<_> {
        Ok((town.west.status()?.config.revision, town.east.status()?.config.revision))
    };
    let before = revisions()?;
    town.world.set_mesh_text(text)?;
    tests::eventually("both agents take the new mesh", SOON, || {
        let now = revisions()?;
        Ok((now.0 != before.0 && now.1 != before.1).then_some(()))
    })
}

/// Waits until nothing of a pod is left: pins, record, row, routing.
pub(crate) fn wait_left(agent: &Agent, pod: &Pod) -> anyhow::Result<()> {
    wait_state(agent, pod.uid(), "gone", Option::is_none)?;
    ensure!(!pins(agent, pod.uid()).exists(), "pins of {} are left", pod.name());
    ensure!(!record(agent, pod.uid()).exists(), "the record of {} is left", pod.name());
    ensure!(routing(pod)? == Routing::None, "routing of {} is {:?}", pod.name(), routing(pod)?);
    Ok(())
}

/// The end of an agent's log, for messages.
pub(crate) fn tail(agent: &Agent) -> String {
    let text = fs::read_to_string(agent.log_path()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let start = lines.len().saturating_sub(30);
    format!("--- {}\n{}", agent.node().name(), lines[start..].join("\n"))
}

/// Runs a test; the ends of the agents' logs come with its error.
pub(crate) fn within(
    mut town: Town,
    test: impl FnOnce(&mut Town) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let result = test(&mut town);
    result.with_context(|| format!("{}\n{}", tail(&town.west), tail(&town.east)))
}
