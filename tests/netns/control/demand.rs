//! On demand: the control plane is asked for what a connection needs, and only for that.

use std::time::{Duration, Instant};

use anyhow::ensure;
use proto::workload::ADDRESS_TYPE;
use tests::AgentOptions;

use crate::land::{Land, SOON, holds};

#[test]
fn a_connection_asks_and_an_answer_that_does_not_come_refuses() -> anyhow::Result<()> {
    let options = AgentOptions::default().set("XDS_ON_DEMAND", "true");
    // The workloads of a node are sent to it unasked; here they are asked for like any other.
    let land = Land::new(&options)?;
    let names = || -> Vec<String> {
        let asked = land.xds.asked();
        asked.into_iter().flat_map(|a| a.request.resource_names_subscribe).collect()
    };
    holds("web's own workload is known", SOON, || Ok(land.west.status()?.config.workloads >= 1))?;
    land.web.greet(&land.shop, "asked for")?;
    let shop = format!("/{}", land.shop.pod.ipv4());
    ensure!(names().contains(&shop), "{shop} was not asked for: {:?}", names());
    // A word that it does not exist is passthrough; the same from outside stays plaintext.
    let old = format!("/{}", land.old.pod.ipv4());
    land.web.greet(&land.old, "outside the mesh")?;
    ensure!(names().contains(&old), "{old} was not asked for");
    // No word is no answer.
    land.xds.hold_back(ADDRESS_TYPE);
    let (mark, start) = (land.west.log_mark(), Instant::now());
    let nobody = std::net::SocketAddr::from(([10, 255, 255, 1], 80));
    ensure!(land.web.actor.connect(nobody).and_then(|c| c.exchange(b"x")).is_err());
    land.west.wait_access(mark, "the refusal", |line| line.code == "LOOKUP_TIMEOUT")?;
    ensure!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    Ok(())
}
