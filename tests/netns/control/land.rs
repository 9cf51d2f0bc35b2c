//! Two nodes under one control plane.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use proto::security::Authorization;
use tests::{
    Agent, AgentOptions, ControlPlane, House, PodSpec, TestCa, TestXds, World, eventually,
};
pub(crate) use tests::{policy, principal, workload};

/// Within this, what the control plane said is in force on the nodes.
pub(crate) const SOON: Duration = Duration::from_secs(6);

/// Two nodes with an agent each, `web` on the first and `shop` on the second, both enrolled; and
/// `old` on the first, outside the mesh.
pub(crate) struct Land {
    pub(crate) west: Agent,
    pub(crate) east: Agent,
    pub(crate) web: House,
    pub(crate) shop: House,
    pub(crate) old: House,
    pub(crate) ca: TestCa,
    pub(crate) xds: TestXds,
    /// `None` while it is away.
    pub(crate) plane: Option<ControlPlane>,
    /// Run folders on a file system in memory, where keys are kept.
    _memory: Memory,
    /// Last: everything above lives in it.
    pub(crate) world: World,
}

/// A folder in memory; removed when dropped.
struct Memory(PathBuf);

impl Drop for Memory {
    fn drop(&mut self) {
        // What is left there is a few files in memory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Land {
    /// With both pods enrolled and everything synced.
    pub(crate) fn new(options: &AgentOptions) -> anyhow::Result<Self> {
        let land = Self::unsynced(options, |_| {})?;
        land.enrol()?;
        Ok(land)
    }

    /// Before anything is enrolled; `first` may change what the control plane says.
    pub(crate) fn unsynced(
        options: &AgentOptions,
        first: impl FnOnce(&TestXds),
    ) -> anyhow::Result<Self> {
        let world = World::new(2)?;
        let house = |spec| House::new(&world, spec);
        let (web, old) = (house(PodSpec::new(1, "web"))?, house(PodSpec::new(1, "old").outside())?);
        let shop = house(PodSpec::new(2, "shop"))?;
        let (ca, xds) = (TestCa::new()?, TestXds::new());
        xds.update(|update| {
            for house in [&web, &shop, &old] {
                update.workload(workload(&house.pod));
            }
        });
        first(&xds);
        let plane = start_plane(&world, &ca, &xds)?;
        let memory = Memory(PathBuf::from(format!("/dev/shm/{}", world.prefix())));
        let agent = |number: u8| -> anyhow::Result<Agent> {
            let folder = memory.0.join(format!("node-{number}"));
            std::fs::create_dir_all(&folder).context("make a run folder in memory")?;
            let options = options.clone().under_control_plane();
            world.agent(number, options.set("WARREN_RUN_DIR", folder.display()))
        };
        let (west, east) = (agent(1)?, agent(2)?);
        Ok(Self { west, east, web, shop, old, ca, xds, plane: Some(plane), _memory: memory, world })
    }

    /// Enrols `web` and `shop` as soon as the agents take requests.
    pub(crate) fn enrol(&self) -> anyhow::Result<()> {
        for (agent, house) in [(&self.west, &self.web), (&self.east, &self.shop)] {
            holds("the agent answers", SOON, || Ok(agent.status().is_ok()))?;
            agent.enrol(&house.pod)?;
        }
        Ok(())
    }

    /// The control plane goes away with all its connections.
    pub(crate) fn stop_plane(&mut self) {
        self.plane = None;
    }

    /// It comes back, with what it knew.
    pub(crate) fn start_plane(&mut self) -> anyhow::Result<()> {
        ensure!(self.plane.is_none(), "it is there already");
        self.plane = Some(start_plane(&self.world, &self.ca, &self.xds)?);
        Ok(())
    }

    /// Changes what the control plane says.
    pub(crate) fn say(&self, policy: &Authorization) {
        self.xds.update(|update| {
            update.policy(policy);
        });
    }
}

fn start_plane(world: &World, ca: &TestCa, xds: &TestXds) -> anyhow::Result<ControlPlane> {
    let namespaces = world.nodes().iter().map(tests::Node::namespace);
    ControlPlane::start(ControlPlane::listen_in(namespaces)?, ca, xds)
}

/// Waits until something holds.
pub(crate) fn holds(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    eventually(what, timeout, || Ok(condition()?.then_some(())))
}
