//! What is not known yet: not open, but waited for.

use std::time::{Duration, Instant};

use admin::Sync;
use anyhow::ensure;
use proto::security::{AUTHORIZATION_TYPE, Action};
use tests::{AgentOptions, talk};

use crate::land::{Land, SOON, holds, policy, principal, workload};

#[test]
fn nothing_passes_before_the_state_is_there() -> anyhow::Result<()> {
    let options = AgentOptions::default();
    let land = Land::unsynced(&options, |xds| xds.hold_back(AUTHORIZATION_TYPE))?;
    land.enrol()?;
    let mark = land.west.log_mark();
    // Inbound is denied at once.
    ensure!(land.old.greet(&land.web, "too early").is_err());
    land.west.wait_access(mark, "the denial", |line| {
        line.path == "plaintext" && line.code == "NOT_SYNCED"
    })?;
    // Outbound is held, and then refused.
    let start = Instant::now();
    ensure!(land.web.greet(&land.shop, "too early").is_err());
    ensure!(start.elapsed() > Duration::from_secs(2), "it was not held");
    land.west.wait_access(mark, "the refusal", |line| {
        line.direction == "outbound" && line.code == "NOT_SYNCED"
    })?;
    ensure!(land.west.status()?.config.sync == Sync::Waiting);
    let why = land.west.why("shop/web", "shop/shop:7007")?;
    ensure!(why.route.code.as_deref() == Some("NOT_SYNCED"), "{why:?}");
    // One that is held goes on when the state comes.
    std::thread::scope(|scope| {
        let held = scope.spawn(|| land.web.greet(&land.shop, "held"));
        std::thread::sleep(Duration::from_millis(500));
        land.xds.release(AUTHORIZATION_TYPE);
        held.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    land.old.greet(&land.web, "in time")
}

#[test]
fn a_policy_that_comes_late_is_waited_for() -> anyhow::Result<()> {
    let land = Land::new(&AgentOptions::default())?;
    let open = land.web.connect(&land.shop)?;
    talk(&open, "before")?;
    let mut shop = workload(&land.shop.pod);
    shop.authorization_policies = vec!["shop/late".to_owned()];
    land.xds.update(|update| {
        update.workload(shop);
    });
    holds("the workload names a policy", SOON, || {
        let why = land.east.why("shop/web", "shop/shop:7007")?;
        Ok(why.verdict.is_some_and(|verdict| verdict.code == "POLICY_UNKNOWN"))
    })?;
    let allow = policy("late", Action::Allow, &[&principal(&land.web.pod)]);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| land.web.greet(&land.shop, "held"));
        std::thread::sleep(Duration::from_millis(700));
        talk(&open, "not cut meanwhile")?;
        land.say(&allow);
        held.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    talk(&open, "nor after")?;
    // One that never comes: denied, with its own code.
    land.xds.update(|update| {
        update.remove_policy("shop/late");
    });
    let mark = land.east.log_mark();
    let start = Instant::now();
    holds("it is denied", Duration::from_secs(20), || {
        Ok(land.web.greet(&land.shop, "denied").is_err())
    })?;
    ensure!(start.elapsed() > Duration::from_secs(2), "it was not held");
    land.east.wait_access(mark, "the denial", |line| line.code == "POLICY_UNKNOWN")?;
    Ok(())
}

#[test]
fn what_cannot_be_read_is_refused_by_name_and_the_rest_applies() -> anyhow::Result<()> {
    let land = Land::new(&AgentOptions::default())?;
    let mut wrong = workload(&land.web.pod);
    wrong.uid = "Kubernetes//Pod/shop/wrong".to_owned();
    wrong.name = "wrong".to_owned();
    wrong.addresses = vec![vec![1, 2, 3].into()];
    let mut unreadable = policy("unreadable", Action::Allow, &[&principal(&land.web.pod)]);
    unreadable.action = 77;
    let mut shop = workload(&land.shop.pod);
    shop.authorization_policies = vec!["shop/unreadable".to_owned()];
    land.xds.update(|update| {
        update.workload(wrong).workload(shop).policy(&unreadable);
    });
    holds("both are refused by name", SOON, || {
        let refused = land.xds.refusals().join("\n");
        Ok(refused.contains("Kubernetes//Pod/shop/wrong") && refused.contains("shop/unreadable"))
    })?;
    let plane = land.east.status()?.config.control_plane.unwrap_or_default();
    ensure!(plane.refused.iter().any(|text| text.contains("shop/unreadable")), "{plane:?}");
    // A policy that cannot be read denies what it is bound to.
    let mark = land.east.log_mark();
    ensure!(land.web.greet(&land.shop, "denied").is_err());
    land.east.wait_access(mark, "the denial", |line| line.code == "POLICY_UNREADABLE")?;
    ensure!(land.east.metric("warren_xds_rejected_resources_total", &[])? >= 2.0);
    // The other direction is not concerned.
    land.shop.greet(&land.web, "allowed")
}
