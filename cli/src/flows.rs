//! `warren flows`.

use admin::{Client, ClientError, Direction, Flow, Party, Request, Response};

use crate::output::{Format, Output, moment, or_dash};
use crate::{Failed, Finding};

pub(crate) async fn run(
    client: &mut Client,
    output: &mut Output,
    follow: bool,
    limit: Option<usize>,
) -> Result<Finding, Failed> {
    client.send(&Request::Flows { follow, limit }).await?;
    if output.format == Format::Table {
        output.text(&header())?;
    }
    loop {
        let response = client.next().await?;
        if response == Response::End {
            return Ok(Finding::Good);
        }
        match (&response, output.format) {
            (Response::Flow(flow), Format::Table) => output.text(&line(flow))?,
            (Response::Flow(flow), Format::Json) => output.json_line(flow)?,
            (Response::Missed(count), Format::Table) => {
                output.text(&format!("({count} connections missed: reading too slowly)"))?;
            }
            (Response::Missed(count), Format::Json) => {
                output.json_line(&serde_json::json!({ "missed": count }))?;
            }
            _ => return Err(ClientError::Unexpected.into()),
        }
    }
}

/// Columns of fixed width: the next line is not known yet. A longer value moves the rest.
fn columns(cells: [&str; 9]) -> String {
    let [time, direction, path, source, destination, code, bytes, duration, detail] = cells;
    let line = format!(
        "{time:<24}  {direction:<8}  {path:<11}  {source:<34}  {destination:<34}  {code:<20}  \
         {bytes:>17}  {duration:>8}  {detail}"
    );
    line.trim_end().to_owned()
}

fn header() -> String {
    columns([
        "TIME",
        "SIDE",
        "PATH",
        "SOURCE",
        "DESTINATION",
        "CODE",
        "RECEIVED/SENT",
        "MS",
        "DETAIL",
    ])
}

fn line(flow: &Flow) -> String {
    let direction = match flow.direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    };
    let policy = flow.policy.as_ref().map(|policy| format!("policy {policy}"));
    let service = flow.service.as_ref().map(|service| format!("service {service}"));
    let details = [flow.detail.clone(), policy, service];
    let detail: Vec<_> = details.into_iter().flatten().collect();
    columns([
        &moment(flow.time_unix_ms),
        direction,
        flow.path.as_str(),
        &party(&flow.source),
        &party(&flow.destination),
        &flow.code,
        &format!("{}/{}", flow.bytes_received, flow.bytes_sent),
        &flow.duration_ms.to_string(),
        &detail.join("; "),
    ])
}

/// `namespace/name@address`, as far as it is known.
fn party(party: &Party) -> String {
    let address = party.address.map(|address| address.to_string());
    match (&party.namespace, &party.workload, &address) {
        (Some(namespace), Some(name), Some(address)) => format!("{namespace}/{name}@{address}"),
        (Some(namespace), Some(name), None) => format!("{namespace}/{name}"),
        _ => or_dash(address.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use admin::Path;

    use super::*;

    #[test]
    fn one_line_a_connection() {
        let flow = Flow {
            time_unix_ms: 1_700_000_000_123,
            direction: Direction::Inbound,
            path: Path::Hbone,
            source: Party {
                address: Some(([10, 0, 0, 1], 40000).into()),
                workload: Some("web".to_owned()),
                namespace: Some("shop".to_owned()),
                identity: None,
            },
            destination: Party { address: Some(([10, 0, 0, 2], 80).into()), ..Party::default() },
            service: Some("shop/cart.svc".to_owned()),
            hbone: None,
            code: "POLICY_NO_MATCH".to_owned(),
            policy: Some("shop/a".to_owned()),
            detail: Some("near".to_owned()),
            bytes_sent: 10,
            bytes_received: 2000,
            duration_ms: 15,
        };
        let (header, line) = (header(), line(&flow));
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "2023-11-14T22:13:20.123Z inbound hbone shop/web@10.0.0.1:40000 10.0.0.2:80 \
             POLICY_NO_MATCH 2000/10 15 near; policy shop/a; service shop/cart.svc"
        );
        assert_eq!(header.find("CODE"), line.find("POLICY_NO_MATCH"));
        assert_eq!(header.find("DETAIL"), line.find("near"));
        assert_eq!(party(&Party::default()), "-");
    }
}
