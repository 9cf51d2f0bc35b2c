//! `warren status`.

use std::time::SystemTime;

use admin::{Client, Config, Drain, Identity, Kernel, PodCounts, Status, Sync};

use crate::output::{Format, Output, duration, expiry, moment, table};
use crate::{Failed, Finding};

pub(crate) async fn run(client: &mut Client, output: &mut Output) -> Result<Finding, Failed> {
    let status = client.status().await?;
    match output.format {
        Format::Json => output.json(&status)?,
        Format::Table => output.text(&render(&status, SystemTime::now()))?,
    }
    Ok(if status.degradations().is_empty() { Finding::Good } else { Finding::Bad })
}

fn render(status: &Status, now: SystemTime) -> String {
    let mut rows = vec![
        row("agent", agent(status)),
        row("capture", format!("{}: {}", status.mode, status.mode_reason)),
        row("state", drain(status.drain)),
        row("kernel", kernel(&status.kernel)),
        row("pods", pods(status.pods)),
        row("config", config(&status.config)),
    ];
    let mut label = "limits";
    for limit in &status.mode_limits {
        rows.push(row(std::mem::take(&mut label), limit.clone()));
    }
    if let Some(sync) = sync(status.config.sync) {
        rows.push(row("sync", sync));
    }
    if status.unenforceable_deny == "ignore" {
        // Not the default, and it lets pass what a policy denies.
        let text = "DENY policies that layer 4 cannot check are ignored";
        rows.push(row("policy", text.to_owned()));
    }
    let mut label = "identities";
    for held in &status.identities {
        rows.push(row(std::mem::take(&mut label), identity(held, now)));
    }
    let mut text = table(&[], rows);
    let degradations = status.degradations();
    if !degradations.is_empty() {
        text.push_str("\n\ndegraded:");
        for degradation in degradations {
            text.push_str("\n  ");
            text.push_str(&degradation);
        }
    }
    text
}

fn row(label: &str, value: String) -> Vec<String> {
    vec![label.to_owned(), value]
}

fn agent(status: &Status) -> String {
    let Status { version, node, same_node, uptime_seconds, .. } = status;
    let up = duration(*uptime_seconds);
    format!("{version} on {node}, up {up}, same node {same_node}")
}

fn drain(drain: Drain) -> String {
    match drain {
        Drain::Running => "running".to_owned(),
        Drain::Draining { remaining_seconds, connections } => {
            format!("draining: {connections} connections, {} left", duration(remaining_seconds))
        }
    }
}

fn kernel(kernel: &Kernel) -> String {
    let missing: Vec<_> =
        kernel.features.iter().filter(|f| !f.present).map(|f| f.name.as_str()).collect();
    match missing.as_slice() {
        [] => format!("{}, {} features present", kernel.release, kernel.features.len()),
        missing => format!("{}, missing {}", kernel.release, missing.join(", ")),
    }
}

fn pods(counts: PodCounts) -> String {
    let PodCounts { total, verified, degraded, draining } = counts;
    format!("{total}: {verified} verified, {degraded} degraded, {draining} draining")
}

fn config(config: &Config) -> String {
    let mut text = config.source.clone();
    if let Some(revision) = &config.revision {
        text.push_str(", revision ");
        text.push_str(revision);
    }
    if let Some(loaded) = config.loaded_unix_ms {
        text.push_str(", loaded ");
        text.push_str(&moment(loaded));
    }
    let Config { workloads, services, policies, .. } = config;
    format!("{text}: {workloads} workloads, {services} services, {policies} policies")
}

/// `None` for a file, which is always whole.
fn sync(sync: Sync) -> Option<String> {
    match sync {
        Sync::Waiting => Some("waiting for the control plane; connections are refused".to_owned()),
        Sync::Stored { age_seconds } => {
            Some(format!("stored state, {} old", duration(age_seconds)))
        }
        Sync::Live { age_seconds: 0 } => Some("live".to_owned()),
        Sync::Live { age_seconds } => {
            Some(format!("control plane lost {} ago", duration(age_seconds)))
        }
        Sync::Complete => None,
    }
}

fn identity(identity: &Identity, now: SystemTime) -> String {
    let expiry = identity.expires_unix_ms.map(|expires| expiry(expires, now));
    format!("{} {}", identity.id, expiry.unwrap_or_else(|| "has no certificate yet".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use admin::{ControlPlane, Feature};

    use super::*;

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            node: "node-a".to_owned(),
            mode: "ebpf".to_owned(),
            mode_code: "POD_CGROUPS".to_owned(),
            mode_reason: "pods have cgroups".to_owned(),
            mode_limits: Vec::new(),
            same_node: "relay".to_owned(),
            uptime_seconds: 7_380,
            kernel: Kernel {
                release: "6.12.0".to_owned(),
                features: vec![Feature { name: "sk_lookup".to_owned(), present: true }],
            },
            pods: PodCounts { total: 2, verified: 2, degraded: 0, draining: 0 },
            config: Config {
                source: "/etc/mesh.yaml".to_owned(),
                revision: Some("a1b2".to_owned()),
                loaded_unix_ms: Some(1_700_000_000_000),
                last_error: None,
                policies: 3,
                workloads: 4,
                services: 1,
                ..Config::default()
            },
            unenforceable_deny: "deny".to_owned(),
            identities: vec![
                Identity {
                    id: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
                    expires_unix_ms: Some(1_700_003_600_000),
                    error: None,
                },
                Identity {
                    id: "spiffe://cluster.local/ns/shop/sa/cart".to_owned(),
                    ..Identity::default()
                },
            ],
            drain: Drain::Running,
            problems: Vec::new(),
        }
    }

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    #[test]
    fn a_good_one() {
        assert_eq!(
            render(&status(), UNIX_EPOCH + NOW),
            "agent       0.1.0 on node-a, up 2h 3m, same node relay\n\
             capture     ebpf: pods have cgroups\n\
             state       running\n\
             kernel      6.12.0, 1 features present\n\
             pods        2: 2 verified, 0 degraded, 0 draining\n\
             config      /etc/mesh.yaml, revision a1b2, loaded 2023-11-14T22:13:20Z: \
             4 workloads, 1 services, 3 policies\n\
             identities  spiffe://cluster.local/ns/shop/sa/web expires in 1h 0m\n            \
             spiffe://cluster.local/ns/shop/sa/cart has no certificate yet"
        );
    }

    #[test]
    fn a_degraded_one() {
        let mut bad = status();
        bad.pods.degraded = 1;
        bad.config.last_error = Some("mesh.yaml:1:1: unknown key".to_owned());
        bad.kernel.features.push(Feature { name: "mptcp".to_owned(), present: false });
        bad.identities[1].error = Some("no entropy".to_owned());
        bad.unenforceable_deny = "ignore".to_owned();
        bad.config.sync = Sync::Stored { age_seconds: 90 };
        bad.config.control_plane = Some(ControlPlane {
            last_error: Some("connecting to https://istiod:15012".to_owned()),
            refused: vec!["shop/cart.svc: port 70000".to_owned()],
            ..ControlPlane::default()
        });
        bad.mode = "ebpf-root".to_owned();
        bad.mode_limits = vec!["no nested namespaces".to_owned(), "cost".to_owned()];
        bad.drain = Drain::Draining { remaining_seconds: 5, connections: 2 };
        let text = render(&bad, UNIX_EPOCH + NOW);
        assert!(text.contains("state       draining: 2 connections, 5s left\n"), "{text}");
        assert!(text.contains("kernel      6.12.0, missing mptcp\n"), "{text}");
        assert!(text.contains("capture     ebpf-root: pods have cgroups\n"), "{text}");
        assert!(text.contains("limits      no nested namespaces\n            cost\n"), "{text}");
        assert!(text.contains("sync        stored state, 1m 30s old\n"), "{text}");
        assert!(text.contains("policy      DENY policies that layer 4 cannot check"), "{text}");
        assert!(
            text.ends_with(
                "\n\ndegraded:\n  1 degraded pods; see `warren pods`\n  \
                 configuration not reloaded: mesh.yaml:1:1: unknown key\n  \
                 the state is stale: stored 90 s ago\n  \
                 no control plane: connecting to https://istiod:15012\n  \
                 refused: shop/cart.svc: port 70000\n  \
                 spiffe://cluster.local/ns/shop/sa/cart: no entropy\n  the kernel has no mptcp"
            ),
            "{text}"
        );
    }
}
