//! What is taken back ends what is open, within a second.

use std::time::Duration;

use anyhow::ensure;
use proto::security::Action;
use tests::{AgentOptions, Mood, has_ended, talk};

use crate::land::{Land, SOON, holds, policy, principal, workload};

/// From the control plane's word, or a changed file, to the end of the connection.
const AT_ONCE: Duration = Duration::from_secs(1);

#[test]
fn a_policy_and_its_attachment_cut_open_connections() -> anyhow::Result<()> {
    let land = Land::new(&AgentOptions::default())?;
    let mut shop = workload(&land.shop.pod);
    // Attaching a policy to a workload counts like a change of the policy.
    let web = principal(&land.web.pod);
    land.say(&policy("not-web", Action::Deny, &[&web]));
    let open = land.web.connect(&land.shop)?;
    talk(&open, "before")?;
    let mark = land.east.log_mark();
    shop.authorization_policies = vec!["shop/not-web".to_owned()];
    land.xds.update(|update| {
        update.workload(shop.clone());
    });
    ensure!(has_ended(&open, AT_ONCE), "the attachment does not cut");
    land.east.wait_access(mark, "the cut", |line| line.code == "POLICY_REVOKED")?;
    ensure!(land.web.greet(&land.shop, "denied").is_err());
    // Taken back, and then the policy itself changes.
    land.say(&policy("not-web", Action::Deny, &["cluster.local/ns/shop/sa/nobody"]));
    holds("it is allowed again", SOON, || Ok(land.web.greet(&land.shop, "allowed").is_ok()))?;
    let open = land.web.connect(&land.shop)?;
    talk(&open, "before")?;
    land.say(&policy("not-web", Action::Deny, &[&web]));
    ensure!(has_ended(&open, AT_ONCE), "the change does not cut");
    Ok(())
}

#[test]
fn a_revoked_certificate_ends_tunnels_and_streams() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("crl.pem");
    let options = AgentOptions::default().set("CRL_PATH", list.display());
    // The list is there before the agents are: without one, every handshake is refused.
    let land = Land::unsynced(&options, |_| {})?;
    land.ca.write_crl(&list)?;
    land.enrol()?;
    holds("the list is read", SOON, || Ok(land.web.greet(&land.shop, "before").is_ok()))?;
    let open = land.web.connect(&land.shop)?;
    let back = land.shop.connect(&land.web)?;
    talk(&open, "before")?;
    talk(&back, "before")?;
    let mark = land.east.log_mark();
    // An agent asks for another certificate in place of a revoked one; this authority gives none.
    land.ca.set_mood(Mood::Refuse);
    land.ca.revoke(&land.web.pod.identity());
    land.ca.write_crl(&list)?;
    // Both directions: as a client its streams end, as a server the tunnels to it.
    ensure!(has_ended(&open, AT_ONCE), "the revoked client's connection lives");
    ensure!(has_ended(&back, AT_ONCE), "the connection to the revoked server lives");
    land.east.wait_access(mark, "the cut", |line| line.code == "CERTIFICATE_REVOKED")?;
    ensure!(land.web.greet(&land.shop, "again").is_err(), "a revoked client gets in");
    ensure!(land.shop.greet(&land.web, "again").is_err(), "a revoked server is called");
    Ok(())
}
