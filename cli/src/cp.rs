//! `warren cp`: what a control plane knows.

use std::path::Path;
use std::time::SystemTime;

use admin::ClientError;
use admin::control_plane::{
    Authority, Condition, ControlPlaneClient, Object, Policy, Request, Resource, Response, Root,
    RotationStep, ServedClient, Status,
};
use serde::Serialize;

use crate::args::{CaVerb, CpVerb, Step};
use crate::output::{Format, Output, duration, expiry, or_dash, table};
use crate::{Failed, Finding};

pub(crate) async fn run(
    socket: &Path,
    verb: &CpVerb,
    output: &mut Output,
) -> Result<Finding, Failed> {
    let mut client = ControlPlaneClient::connect(socket).await?;
    match client.call(&request(verb)).await? {
        Response::Status(status) => {
            write(output, &*status, self::status)?;
            Ok(good_if(status.synced && status.problems.is_empty()))
        }
        Response::Policies(policies) => {
            write(output, &policies, |policies| self::policies(policies))?;
            let mut conditions = policies.iter().flat_map(|policy| &policy.conditions);
            Ok(good_if(conditions.all(|condition| condition.status)))
        }
        Response::Objects(objects) => {
            write(output, &objects, |objects| self::objects(objects))?;
            Ok(Finding::Good)
        }
        Response::Clients(clients) => {
            write(output, &clients, |clients| self::clients(clients))?;
            Ok(Finding::Good)
        }
        Response::Resources(resources) => {
            write(output, &resources, |resources| self::resources(resources))?;
            Ok(Finding::Good)
        }
        Response::Authority(authority) => {
            write(output, &*authority, |authority| self::authority(authority, SystemTime::now()))?;
            Ok(good_if(authority.problems.is_empty()))
        }
        // An error was told apart by the client.
        Response::Error(failure) => Err(ClientError::Refused(failure).into()),
    }
}

fn request(verb: &CpVerb) -> Request {
    match verb {
        CpVerb::Status => Request::Status,
        CpVerb::Policies => Request::Policies,
        CpVerb::Objects => Request::Objects,
        CpVerb::Clients => Request::Clients,
        CpVerb::Resources { containing } => Request::Resources { containing: containing.clone() },
        CpVerb::Ca { verb: None } => Request::Authority,
        CpVerb::Ca { verb: Some(CaVerb::Rotate { step, force }) } => Request::Rotate {
            force: *force,
            step: match step {
                Step::Prepare => RotationStep::Prepare,
                Step::Switch => RotationStep::Switch,
                Step::Finish => RotationStep::Finish,
            },
        },
    }
}

fn good_if(is_good: bool) -> Finding {
    if is_good { Finding::Good } else { Finding::Bad }
}

fn write<T: Serialize>(
    output: &mut Output,
    answer: &T,
    render: impl FnOnce(&T) -> String,
) -> Result<(), Failed> {
    match output.format {
        Format::Json => output.json(answer)?,
        Format::Table => output.text(&render(answer))?,
    }
    Ok(())
}

fn status(status: &Status) -> String {
    let row = |label: &str, value: String| vec![label.to_owned(), value];
    let synced = if status.synced { "synced" } else { "not synced yet" };
    let leader = match status.leader {
        Some(true) => "leader: writes status",
        Some(false) => "not the leader",
        None => "writes no status",
    };
    let up = duration(status.uptime_seconds);
    let mut text = table(
        &[],
        vec![
            row("control plane", format!("{}, up {up}, {leader}", status.version)),
            row("source", format!("{}, {synced}, {} objects", status.source, status.objects)),
            row("trust domain", status.trust_domain.clone()),
            row("sent", format!("{} addresses, {} policies", status.addresses, status.policies)),
            row("proxies", status.clients.to_string()),
        ],
    );
    text.push_str(&problems(&status.problems));
    text
}

fn problems(problems: &[String]) -> String {
    let lines = problems.iter().map(|problem| format!("\n  {problem}"));
    if problems.is_empty() {
        String::new()
    } else {
        format!("\n\nwrong:{}", lines.collect::<String>())
    }
}

fn policies(policies: &[Policy]) -> String {
    let row = |policy: &Policy| {
        vec![
            policy.namespace.clone(),
            policy.name.clone(),
            policy.kind.clone(),
            policy.action.clone(),
            policy.enforced.clone(),
            conditions(&policy.conditions),
        ]
    };
    let header = ["NAMESPACE", "NAME", "KIND", "ACTION", "ENFORCED", "STATUS"];
    table(&header, policies.iter().map(row).collect())
}

fn conditions(conditions: &[Condition]) -> String {
    let describe = |condition: &Condition| {
        let sign = if condition.status { "" } else { "not " };
        let text = format!("{sign}{} ({})", condition.kind, condition.reason);
        if condition.message.is_empty() { text } else { format!("{text}: {}", condition.message) }
    };
    or_dash(Some(&conditions.iter().map(describe).collect::<Vec<_>>().join("; ")))
}

fn objects(objects: &[Object]) -> String {
    let row = |object: &Object| {
        vec![
            object.name.clone(),
            conditions(&object.conditions),
            or_dash(Some(&object.problems.join("; "))),
        ]
    };
    table(&["OBJECT", "STATUS", "WRONG"], objects.iter().map(row).collect())
}

fn clients(clients: &[ServedClient]) -> String {
    let row = |client: &ServedClient| {
        vec![
            client.id.clone(),
            or_dash(Some(&client.node)),
            or_dash(Some(&client.address)),
            or_dash(Some(&client.types.join(", "))),
            client.pending.to_string(),
            client.refused.to_string(),
        ]
    };
    let header = ["PROXY", "NODE", "FROM", "SUBSCRIBED", "PENDING", "REFUSED"];
    table(&header, clients.iter().map(row).collect())
}

fn resources(resources: &[Resource]) -> String {
    let row = |resource: &Resource| {
        vec![
            resource.kind.clone(),
            resource.name.clone(),
            or_dash(Some(&resource.aliases.join(", "))),
            resource.version.clone(),
        ]
    };
    let header = ["TYPE", "NAME", "ALIASES", "VERSION"];
    table(&header, resources.iter().map(row).collect())
}

fn authority(authority: &Authority, now: SystemTime) -> String {
    let mut text = table(
        &[],
        vec![
            vec!["authority".to_owned(), authority.source.clone()],
            vec!["rotation".to_owned(), authority.rotation.clone()],
        ],
    );
    text.push_str("\n\n");
    text.push_str(&roots(&authority.roots, now));
    if !authority.waiting_for.is_empty() {
        text.push_str("\n\nthe old root is still needed by:");
        for waiting in &authority.waiting_for {
            text.push_str("\n  ");
            text.push_str(waiting);
        }
    }
    text.push_str(&problems(&authority.problems));
    text
}

/// Each root, and below it what signs under it.
fn roots(roots: &[Root], now: SystemTime) -> String {
    let rows = roots.iter().flat_map(|root| {
        let part = match (root.signs, root.next) {
            (true, _) => "signs",
            (false, true) => "next",
            (false, false) => "believed",
        };
        let own = vec![
            root.fingerprint.clone(),
            part.to_owned(),
            expiry(root.expires_unix_ms, now),
            root.certificates.to_string(),
            root.holders.to_string(),
        ];
        let below = root.chain.iter().map(|below| {
            let validity = expiry(below.expires_unix_ms, now);
            let (fingerprint, part) = (below.fingerprint.clone(), "intermediate".to_owned());
            vec![fingerprint, part, validity, String::new(), String::new()]
        });
        [own].into_iter().chain(below).collect::<Vec<_>>()
    });
    let header = ["CERTIFICATE", "USE", "VALIDITY", "LIVE UNDER IT", "HOLDERS"];
    table(&header, rows.collect())
}
