//! Where a CNI agent redirects by rules: what becomes of a pod whose rules somebody takes off.

use std::time::Duration;

use admin::PodState;
use anyhow::ensure;
use tests::{AgentOptions, wait_until};

use crate::common::{Town, state, wait_degraded, within};

/// A proof is made every ten seconds.
const PROVED: Duration = Duration::from_secs(15);

#[test]
fn a_pod_whose_rules_are_taken_off_is_degraded_until_they_are_back() -> anyhow::Result<()> {
    let options = AgentOptions::default().behind_cni_agent();
    within(Town::enrolled_with(&options)?, |town| {
        let Town { west, web, near, shop, .. } = town;
        near.greet(shop, "redirected")?;
        west.take_rules_off(&web.pod)?;
        let degraded = || matches!(state(west, web.pod.uid()), Ok(Some(PodState::Degraded { .. })));
        ensure!(wait_until(PROVED, degraded), "a pod that nobody redirects counts as verified");
        let reason = wait_degraded(west, web.pod.uid())?;
        ensure!(reason.starts_with("NOT_CAPTURED: a connection to "), "{reason}");
        ensure!(west.warren(&["status"])?.status == 1, "`warren status` says all is well");
        near.greet(shop, "a neighbour")?;
        west.put_rules_on(&web.pod)?;
        let verified = || matches!(state(west, web.pod.uid()), Ok(Some(PodState::Verified)));
        ensure!(wait_until(PROVED, verified), "a pod that is redirected again stays degraded");
        web.greet(shop, "redirected again")
    })
}
