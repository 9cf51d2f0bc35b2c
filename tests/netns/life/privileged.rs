//! What a privileged process of a pod destroys, and what a pod reaches of itself through the mesh.

use std::process::{Command, Stdio};

use anyhow::ensure;
use tests::{AgentOptions, ServiceSpec, wait_until};

use crate::common::{PORT, SOON, Town, apply, talk, wait_verified, within};

/// The kernel looks a socket up by its address to destroy it, which the pod's hooks answer: so it is
/// one of the plaintext listeners that goes.
/// In tier soak, because the attack itself does not always succeed: the kernel finds the socket that
/// `ss -K` names through our own `sk_lookup`, which may name another. A failure that says "no listener
/// was destroyed" is that.
#[test]
fn soak_a_destroyed_listener_is_opened_again() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let Town { west, web, near, shop, old, .. } = town;
        let logged = |what: &str| {
            std::fs::read_to_string(west.log_path()).unwrap_or_default().matches(what).count()
        };
        for round in 1..=2 {
            old.greet(web, "before")?;
            let mut destroy = Command::new("ss");
            destroy.args(["-K", "--tcp", "state", "listening"]).stdout(Stdio::null());
            let status = web.pod.netns().spawn(&mut destroy)?.wait()?;
            ensure!(status.success(), "ss -K failed: {status}");
            let noticed = wait_until(SOON, || logged("a listener is broken") >= round);
            ensure!(noticed, "round {round}: no listener was destroyed");
            let mended = wait_until(SOON, || logged("pod is verified") >= round);
            ensure!(mended, "round {round}: the pod was not verified again");
            old.greet(web, "inbound again")?;
            web.greet(shop, "outbound as before")?;
            near.greet(web, "inbound from the mesh")?;
        }
        let spins = logged("a listener is broken");
        ensure!(spins <= 8, "{spins} notices: the acceptor goes on with a broken listener");
        wait_verified(west, &web.pod)
    })
}

#[test]
fn a_pod_reaches_itself_over_a_tunnel() -> anyhow::Result<()> {
    let options = AgentOptions::default().set("WARREN_SAME_NODE", "tunnel");
    within(Town::enrolled_with(&options)?, |town| {
        let Town { west, web, near, .. } = &*town;
        let vip = "10.96.0.77".parse()?;
        let service = ServiceSpec::new(web.pod.namespace(), "web").vip(vip).port(80, PORT);
        apply(town, &town.mesh().service(service.endpoint(&web.pod)).to_string())?;
        web.greet(near, "another pod of the node")?;
        let mark = west.log_mark();
        let connection = web.actor.connect((vip, 80).into())?;
        talk(&connection, "itself")?;
        connection.close()?;
        for direction in ["outbound", "inbound"] {
            let line = west.wait_access(mark, direction, |line| line.direction == direction)?;
            ensure!(line.path == "hbone", "{direction}: went by {}", line.path);
        }
        Ok(())
    })
}
