//! The control plane is away, and the agent starts anew meanwhile.

use std::time::Duration;

use admin::Sync;
use anyhow::ensure;
use proto::security::Action;
use tests::AgentOptions;

use crate::land::{Land, SOON, holds, policy, principal, workload};

/// An agent writes the state within this after a change, three times over.
const LATER: Duration = Duration::from_secs(20);

#[test]
fn traffic_goes_on_by_the_stored_state() -> anyhow::Result<()> {
    let mut land = Land::unsynced(&AgentOptions::default(), |_| {})?;
    // A policy that lets web in and nobody else: what is stored is enforced too.
    let mut shop = workload(&land.shop.pod);
    shop.authorization_policies = vec!["shop/web-only".to_owned()];
    land.xds.update(|update| {
        update.policy(&policy("web-only", Action::Allow, &[&principal(&land.web.pod)]));
        update.workload(shop);
    });
    land.enrol()?;
    holds("web is let in", SOON, || {
        Ok(land.web.greet(&land.shop, "with the control plane").is_ok())
    })?;
    ensure!(land.old.greet(&land.shop, "denied").is_err());
    wait_stored(&land)?;
    land.stop_plane();
    for agent in [&mut land.west, &mut land.east] {
        agent.kill9()?;
        agent.restart()?;
        agent.wait_ready()?;
    }
    holds("the pods are back", SOON, || {
        Ok(land.web.greet(&land.shop, "without the control plane").is_ok())
    })?;
    ensure!(land.old.greet(&land.shop, "denied").is_err(), "the stored policy is not enforced");
    for agent in [&land.west, &land.east] {
        let Sync::Stored { age_seconds } = agent.status()?.config.sync else {
            anyhow::bail!("not by the stored state: {:?}", agent.status()?.config);
        };
        ensure!(age_seconds < 120, "{age_seconds}");
        let text = agent.warren_text(&["status"])?;
        ensure!(text.stdout.contains("stored state"), "{text:?}");
        ensure!(agent.metric("warren_mesh_synced", &[])? > 0.5);
    }
    std::thread::sleep(Duration::from_secs(2));
    ensure!(land.west.metric("warren_xds_staleness_seconds", &[])? >= 1.0);
    land.start_plane()?;
    for agent in [&land.west, &land.east] {
        holds("the control plane is followed again", Duration::from_secs(30), || {
            Ok(agent.status()?.config.sync == Sync::Live { age_seconds: 0 })
        })?;
    }
    land.web.greet(&land.shop, "with the control plane again")
}

/// The state is written some seconds after a change of it.
fn wait_stored(land: &Land) -> anyhow::Result<()> {
    for agent in [&land.west, &land.east] {
        let folder = agent.setting("WARREN_STATE_DIR").unwrap_or_default();
        let file = std::path::Path::new(folder).join("mesh");
        holds("the state is stored", LATER, || Ok(file.exists()))?;
    }
    // The last change may be younger than the file.
    std::thread::sleep(LATER / 3);
    Ok(())
}
