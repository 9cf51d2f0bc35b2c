//! A mesh file that changes under open connections: wrong ones change nothing, right ones count at
//! once, also for what is open.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::{Agent, LogMark, eventually};

use crate::common::{SOON, Town, apply, has_ended, talk, wait_verified, within};

/// A file is looked at four times a second; the rest is for a busy machine.
const RELOAD: Duration = Duration::from_secs(1);

#[test]
fn a_wrong_file_keeps_the_last_good_state_and_is_shown() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let good = town.mesh().to_string();
        let Town { west, web, shop, world, .. } = town;
        ensure!(west.warren(&["status"])?.status == 0, "something is wrong from the start");
        let open = web.connect(shop)?;
        let revision = west.status()?.config.revision;
        let wrong = good.replacen("protocol: HBONE", "protocol: PIGEON", 1);
        for (what, text, named) in [
            ("a wrong value", wrong.as_str(), "protocol"),
            ("half a file", "workloads: [", "mesh.yaml:"),
            ("an unknown key", "wrokloads: []\n", "wrokloads"),
        ] {
            world.set_mesh_text(text)?;
            let error = eventually("the error is shown", SOON, || {
                let error = west.status()?.config.last_error;
                Ok(error.filter(|error| error.contains(named)))
            });
            let error = error.context(what)?;
            ensure!(error.contains("mesh.yaml:"), "{what}: {error}");
            let status = west.warren_text(&["status"])?;
            ensure!(status.status == 1 && status.stdout.contains(named), "{what}: {status:?}");
            ensure!(west.status()?.config.revision == revision, "{what} was taken");
            talk(&open, "still open").context(what)?;
            web.greet(shop, "still known").context(what)?;
        }
        let start = Instant::now();
        world.set_mesh_text(&good)?;
        let mended = || Ok(west.status()?.config.last_error.is_none().then_some(()));
        eventually("the corrected file is taken", SOON, mended)?;
        let took = start.elapsed();
        ensure!(took < RELOAD, "it took {took:?}");
        ensure!(west.warren(&["status"])?.status == 0, "still degraded");
        ensure!(west.status()?.config.revision > revision, "the revision stays");
        talk(&open, "still open")?;
        Ok(())
    })
}

#[test]
fn a_policy_change_cuts_what_is_open() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let mesh = town.mesh();
        let Town { west, east, web, near, shop, old, world } = &*town;
        let open = [
            ("hbone", web.connect(shop)?),
            ("local", web.connect(near)?),
            ("plaintext", old.connect(near)?),
        ];
        let all_talk = |when: &str| {
            open.iter()
                .try_for_each(|(path, c)| talk(c, when).with_context(|| format!("{path} {when}")))
        };
        all_talk("before")?;
        // A change that does not concern them.
        let other = mesh.clone().policy(
            "name: other\nnamespace: shop\nscope: Namespace\naction: Deny\nrules:\n\
             - - - destinationPorts: [9]\n",
        );
        apply(town, &other.to_string())?;
        all_talk("after another policy")?;
        let (west_mark, east_mark) = (west.log_mark(), east.log_mark());
        let start = Instant::now();
        world.set_mesh(&mesh.clone().policy(&format!(
            "name: none\nnamespace: shop\nscope: Namespace\naction: Deny\nrules:\n\
             - - - destinationPorts: [{}]\n",
            crate::common::PORT
        )))?;
        for (path, connection) in open {
            ensure!(has_ended(&connection), "{path} lives on");
            connection.close()?;
        }
        let took = start.elapsed();
        ensure!(took < RELOAD, "it took {took:?}");
        let revoked = |agent: &Agent, mark: LogMark, path: &str| {
            agent.wait_access(mark, &format!("that {path} was revoked"), |line| {
                let inbound = line.direction == "inbound" && line.policy == "shop/none";
                line.path == path && inbound && line.code == "POLICY_REVOKED"
            })
        };
        revoked(east, east_mark, "hbone")?;
        revoked(west, west_mark, "local")?;
        revoked(west, west_mark, "plaintext")?;
        ensure!(web.greet(shop, "x").is_err(), "a new connection passes");
        ensure!(old.greet(near, "x").is_err(), "a new connection passes");
        world.set_mesh(&mesh)?;
        eventually("the policy is gone", SOON, || Ok(web.greet(shop, "as before").ok()))
    })
}

#[test]
fn a_workload_that_is_removed_or_renamed_loses_its_tunnels() -> anyhow::Result<()> {
    within(Town::enrolled()?, |town| {
        let mesh = town.mesh().to_string();
        let Town { web, near, shop, old, .. } = &*town;
        let without = |pods: [&tests::Pod; 3]| tests::Mesh::new().workloads(pods).to_string();
        // The account of one pod, in its own block.
        let renamed = |name: &str| {
            mesh.replace(&format!("serviceAccount: {name}\n"), "serviceAccount: somebody\n")
        };
        for (what, text) in [
            ("the server is removed", without([&web.pod, &near.pod, &old.pod])),
            ("the client is removed", without([&shop.pod, &near.pod, &old.pod])),
            ("the server is somebody else", renamed("shop")),
            ("the client is somebody else", renamed("web")),
        ] {
            let open = web.connect(shop)?;
            talk(&open, "before").context(what)?;
            apply(town, &text).context(what)?;
            let start = Instant::now();
            ensure!(has_ended(&open), "{what}: the connection lives on");
            ensure!(start.elapsed() < RELOAD, "{what}: it took {:?}", start.elapsed());
            open.close()?;
            let new = web.greet(shop, "not in a tunnel of the old identity");
            ensure!(new.is_err(), "{what}: a new connection passes");
            apply(town, &mesh)?;
            let again = || Ok(web.greet(shop, "as before").ok());
            eventually("it is known again", SOON, again).context(what)?;
        }
        wait_verified(&town.west, &web.pod)?;
        wait_verified(&town.east, &shop.pod)
    })
}
