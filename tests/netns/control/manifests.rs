//! The program `control-plane` over a folder of manifests, between two nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::{Agent, AgentOptions, House, Plane, PodSpec, World, eventually, talk};

/// What agents ask for, and so how long a step of a root's rotation has to wait.
const LIFE: Duration = Duration::from_secs(12);
/// A step of the rotation is allowed once every certificate was renewed; then there is some slack.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// From a change in the folder to its effect at an agent: a bound for a loaded machine. How long it
/// takes on a quiet one, the demo tells.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the start of a control plane until agents have come back to it: they back off meanwhile.
const RETURN_TIMEOUT: Duration = Duration::from_secs(20);

const DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {action: DENY, rules: [{}]}
";

/// A client and a server on two nodes, under a control plane.
struct Town {
    web: House,
    shop: House,
    plane: Plane,
    /// Kept because dropping them ends the agents.
    _agents: [Agent; 2],
}

impl Town {
    fn build(world: &World, options: &AgentOptions) -> anyhow::Result<Self> {
        let mut plane = Plane::start(world, &[])?;
        let web = House::new(world, PodSpec::new(1, "web"))?;
        let shop = House::new(world, PodSpec::new(2, "shop"))?;
        plane.manifests().pods([&web.pod, &shop.pod])?;
        plane.wait_ready()?;
        let options = || plane.options(options.clone());
        let mut agents = [world.agent(1, options())?, world.agent(2, options())?];
        for (agent, house) in agents.iter_mut().zip([&web, &shop]) {
            agent.wait_ready()?;
            agent.enrol(&house.pod)?;
        }
        Ok(Self { web, shop, plane, _agents: agents })
    }

    /// Whether web reaches shop, until it does or does not.
    fn expect(&self, reaches: bool, within: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let what = if reaches { "web reaches shop" } else { "web is refused" };
        eventually(what, within, || {
            Ok((self.web.greet(&self.shop, "are you there").is_ok() == reaches).then_some(()))
        })?;
        Ok(start.elapsed())
    }

    /// Takes a step of the root's rotation as soon as it is allowed, under load.
    fn rotate(&self, step: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            self.web.greet(&self.shop, step).with_context(|| format!("before {step}"))?;
            let answer = self.plane.warren(&["ca", "rotate", step])?;
            if answer.status == 0 {
                return Ok(());
            }
            ensure!(answer.stderr.contains("ROOT_IN_USE"), "{step}: {answer:?}");
            ensure!(Instant::now() < deadline, "{step} is still refused: {}", answer.stderr);
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

#[test]
fn a_folder_decides_and_a_control_plane_that_is_away_changes_nothing() -> anyhow::Result<()> {
    let world = World::new(2)?;
    let mut town = Town::build(&world, &AgentOptions::default())?;
    town.web.greet(&town.shop, "hello")?;

    town.plane.manifests().write("policy.yaml", DENY)?;
    town.expect(false, EFFECT_TIMEOUT)?;
    // A file that cannot be read leaves in force what it said before.
    town.plane.manifests().write("policy.yaml", "apiVersion: [")?;
    let wrong = eventually("the file is named", EFFECT_TIMEOUT, || {
        let answer = town.plane.warren(&["status"])?;
        Ok((answer.status == 1 && answer.stdout.contains("policy.yaml")).then_some(answer.stdout))
    })?;
    ensure!(wrong.contains("document 1"), "{wrong}");
    ensure!(town.web.greet(&town.shop, "still refused").is_err(), "the policy was forgotten");
    town.plane.manifests().remove("policy.yaml")?;
    town.expect(true, EFFECT_TIMEOUT)?;

    let kept = town.web.connect(&town.shop)?;
    talk(&kept, "before")?;
    town.plane.kill9()?;
    town.web.greet(&town.shop, "without a control plane")?;
    town.plane.manifests().write("policy.yaml", DENY)?;
    talk(&kept, "meanwhile")?;
    town.plane.restart()?;
    town.plane.wait_ready()?;
    town.expect(false, RETURN_TIMEOUT)?;
    // One node refuses already; the other may still wait before it tries again.
    eventually("both nodes are served", RETURN_TIMEOUT, || {
        let served = town.plane.warren(&["clients"])?.stdout;
        Ok((served.contains("node-1") && served.contains("node-2")).then_some(()))
    })
}

#[test]
fn the_root_of_a_control_plane_rotates_by_steps_without_a_failed_connection() -> anyhow::Result<()>
{
    let world = World::new(2)?;
    let options = AgentOptions::default()
        .set("SECRET_TTL", format!("{}s", LIFE.as_secs()))
        .set("POOL_UNUSED_RELEASE_TIMEOUT", "300ms");
    let town = Town::build(&world, &options)?;
    let kept = town.web.connect(&town.shop)?;
    talk(&kept, "at first")?;
    let roots = || -> anyhow::Result<usize> {
        let answer = town.plane.warren(&["ca", "-o", "json"])?;
        Ok(answer.json["roots"].as_array().context("no roots")?.len())
    };
    ensure!(roots()? == 1, "not one root");
    let early = town.plane.warren(&["ca", "rotate", "switch"])?;
    ensure!(early.status == 1 && early.stderr.contains("NOT_NOW"), "{early:?}");
    town.rotate("prepare")?;
    ensure!(roots()? == 2, "the new root is not told");
    let hasty = town.plane.warren(&["ca", "rotate", "switch"])?;
    ensure!(hasty.stderr.contains("ROOT_IN_USE"), "nobody was left behind: {hasty:?}");
    town.rotate("switch")?;
    town.rotate("finish")?;
    ensure!(roots()? == 1, "the old root is still told");
    town.web.greet(&town.shop, "under the new root")?;
    talk(&kept, "still here")?;
    Ok(())
}
