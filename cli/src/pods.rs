//! `warren pods`, `warren pods enrol`, `warren pods unenrol`.

use std::io;
use std::path::{self, Path, PathBuf};
use std::time::SystemTime;

use admin::{Client, Enrol, Pod, PodState};

use crate::args::EnrolArguments;
use crate::output::{Format, Output, expiry, or_dash, table};
use crate::{Failed, Finding};

pub(crate) async fn list(client: &mut Client, output: &mut Output) -> Result<Finding, Failed> {
    let pods = client.pods().await?;
    match output.format {
        Format::Json => output.json(&pods)?,
        Format::Table => output.text(&render(&pods, SystemTime::now()))?,
    }
    Ok(Finding::Good)
}

pub(crate) async fn enrol(
    client: &mut Client,
    output: &mut Output,
    arguments: &EnrolArguments,
) -> Result<Finding, Failed> {
    let pod = client
        .enrol(Enrol {
            uid: arguments.uid.clone(),
            netns: absolute(&arguments.netns)?,
            cgroup: arguments.cgroup.as_deref().map(absolute).transpose()?,
            workload: arguments.workload.clone(),
            probe_ports: arguments.probe_ports.clone(),
            dns: arguments.dns,
        })
        .await?;
    match output.format {
        Format::Json => output.json(&pod)?,
        Format::Table => {
            output.text(&format!("pod {} enrolled: {}", pod.uid, state(&pod.state)))?;
        }
    }
    Ok(match pod.state {
        PodState::Verified => Finding::Good,
        PodState::Pending | PodState::Degraded { .. } | PodState::Draining => Finding::Bad,
    })
}

/// The agent has another working directory, and is another process.
fn absolute(given: &Path) -> io::Result<PathBuf> {
    let absolute = path::absolute(given)?;
    match absolute.strip_prefix("/proc/self") {
        Ok(rest) => Ok(Path::new("/proc").join(std::process::id().to_string()).join(rest)),
        Err(_) => Ok(absolute),
    }
}

pub(crate) async fn unenrol(
    client: &mut Client,
    output: &mut Output,
    uid: &str,
) -> Result<Finding, Failed> {
    client.unenrol(uid).await?;
    match output.format {
        Format::Json => output.json(&serde_json::json!({ "uid": uid }))?,
        Format::Table => output.text(&format!("pod {uid} unenrolled"))?,
    }
    Ok(Finding::Good)
}

const HEADER: [&str; 10] = [
    "UID",
    "WORKLOAD",
    "SOURCE",
    "DESIRED",
    "STATE",
    "IPS",
    "DNS",
    "CONNECTIONS",
    "CERTIFICATE",
    "REASON",
];

fn render(pods: &[Pod], now: SystemTime) -> String {
    if pods.is_empty() {
        return "no pods".to_owned();
    }
    let row = |pod: &Pod| {
        let ips: Vec<_> = pod.ips.iter().map(ToString::to_string).collect();
        let identity = pod.identity.as_ref();
        let expires = identity.and_then(|identity| identity.expires_unix_ms);
        let reason = match &pod.state {
            PodState::Degraded { reason } => Some(reason.as_str()),
            PodState::Pending | PodState::Verified | PodState::Draining => None,
        };
        vec![
            pod.uid.clone(),
            pod.workload.clone(),
            or_dash(pod.source.as_deref()),
            if pod.desired { "enrolled" } else { "removed" }.to_owned(),
            if pod.kernel_verified { "kernel-verified" } else { pod.state.as_str() }.to_owned(),
            or_dash(Some(&ips.join(","))),
            or_dash(pod.dns.then_some("captured")),
            pod.connections.to_string(),
            expires.map_or_else(|| "none".to_owned(), |expires| expiry(expires, now)),
            or_dash(
                why(pod.code.as_deref(), reason)
                    .as_deref()
                    .or_else(|| identity.and_then(|identity| identity.error.as_deref())),
            ),
        ]
    };
    table(&HEADER, pods.iter().map(row).collect())
}

/// The code and what it means here.
fn why(code: Option<&str>, reason: Option<&str>) -> Option<String> {
    match (code, reason) {
        (Some(code), Some(reason)) => Some(format!("{code}: {reason}")),
        (Some(text), None) | (None, Some(text)) => Some(text.to_owned()),
        (None, None) => None,
    }
}

fn state(state: &PodState) -> String {
    match state {
        PodState::Degraded { reason } => format!("degraded: {reason}"),
        PodState::Pending | PodState::Verified | PodState::Draining => state.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use admin::Identity;

    use super::*;

    #[test]
    fn desired_beside_what_the_kernel_says() {
        let pods = [
            Pod {
                uid: "u-1".to_owned(),
                workload: "shop/web/web".to_owned(),
                source: Some("api".to_owned()),
                kernel_verified: true,
                desired: true,
                state: PodState::Verified,
                ips: vec![[10, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()],
                dns: true,
                connections: 12,
                identity: Some(Identity { expires_unix_ms: Some(60_000), ..Identity::default() }),
                ..Pod::default()
            },
            Pod {
                uid: "u-22".to_owned(),
                workload: "shop/cart/cart".to_owned(),
                code: Some("SELF_TEST_FAILED".to_owned()),
                desired: true,
                state: PodState::Degraded { reason: "self-test timed out".to_owned() },
                ..Pod::default()
            },
        ];
        assert_eq!(
            render(&pods, UNIX_EPOCH),
            "UID   WORKLOAD        SOURCE  DESIRED   STATE            IPS               DNS       \
             CONNECTIONS  CERTIFICATE       REASON\n\
             u-1   shop/web/web    api     enrolled  kernel-verified  10.0.0.1,fd00::1  captured  \
             12           expires in 1m 0s  -\n\
             u-22  shop/cart/cart  -       enrolled  degraded         -                 -         \
             0            none              SELF_TEST_FAILED: self-test timed out"
        );
        assert_eq!(render(&[], UNIX_EPOCH), "no pods");
    }

    #[test]
    fn paths_mean_the_same_to_the_agent() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        assert_eq!(absolute(Path::new("/proc/self/ns/net")).expect("path"), Path::new(&own));
        assert_eq!(absolute(Path::new("/run/x")).expect("path"), Path::new("/run/x"));
        assert!(absolute(Path::new("x")).expect("path").is_absolute());
    }
}
