//! `warren why`.

use admin::{Client, Why, WhyRoute, WhyVerdict};

use crate::output::{Format, Output, table};
use crate::{Failed, Finding};

pub(crate) async fn run(
    client: &mut Client,
    output: &mut Output,
    source: &str,
    destination: &str,
) -> Result<Finding, Failed> {
    let why = client.why(source, destination).await?;
    match output.format {
        Format::Json => output.json(&why)?,
        Format::Table => output.text(&render(source, destination, &why))?,
    }
    Ok(if why.passes() { Finding::Good } else { Finding::Bad })
}

fn render(source: &str, destination: &str, why: &Why) -> String {
    let answer = if why.passes() { "would pass" } else { "would not pass" };
    let mut rows = route(&why.route);
    if let Some(found) = &why.verdict {
        rows.extend(verdict(found, why.decided_here));
    }
    let mut text = format!("{source} -> {destination} {answer}\n\n{}", table(&[], rows));
    if !why.explanation.is_empty() {
        text.push('\n');
        for line in &why.explanation {
            text.push_str("\n  ");
            text.push_str(line);
        }
    }
    text
}

fn row(label: &str, value: impl Into<String>) -> Vec<String> {
    vec![label.to_owned(), value.into()]
}

fn route(route: &WhyRoute) -> Vec<Vec<String>> {
    let code = route.code.as_ref().map_or_else(String::new, |code| format!(", {code}"));
    let mut rows = vec![row("route", format!("{}{code}", route.kind))];
    for (label, value) in [
        ("service", route.service.clone()),
        ("workload", route.workload.clone()),
        ("address", route.address.map(|address| address.to_string())),
        ("tunnel", route.tunnel.map(|address| address.to_string())),
        ("detail", route.detail.clone()),
    ] {
        rows.extend(value.map(|value| row(label, value)));
    }
    rows
}

fn verdict(verdict: &WhyVerdict, decided_here: bool) -> Vec<Vec<String>> {
    let answer = if verdict.allowed { "allow" } else { "deny" };
    let mut rows = vec![row("verdict", format!("{answer}, {}", verdict.code))];
    let rule = verdict.rule.map_or_else(String::new, |rule| format!(", rule {rule}"));
    rows.extend(verdict.policy.as_ref().map(|policy| row("policy", format!("{policy}{rule}"))));
    rows.extend(verdict.nearest_miss.as_ref().map(|miss| row("nearest", miss.as_str())));
    rows.extend(verdict.dry_run.iter().map(|note| row("dry run", note.as_str())));
    let side = if decided_here {
        "by this node, which runs the server"
    } else {
        "as this node sees it; the server's node decides"
    };
    rows.push(row("decided", side));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_explains_itself() {
        let why = Why {
            route: WhyRoute {
                kind: "hbone".to_owned(),
                address: Some(([10, 0, 0, 2], 8080).into()),
                tunnel: Some(([10, 0, 0, 2], 15008).into()),
                workload: Some("shop/cart/cart".to_owned()),
                service: Some("shop/cart.svc".to_owned()),
                ..WhyRoute::default()
            },
            verdict: Some(WhyVerdict {
                allowed: false,
                code: "POLICY_NO_MATCH".to_owned(),
                nearest_miss: Some("rule 0 of shop/a principals: got x, want y".to_owned()),
                dry_run: vec!["dry run: rule 0 of shop/b would deny".to_owned()],
                ..WhyVerdict::default()
            }),
            decided_here: false,
            explanation: vec!["10.1.0.1 is a virtual address of shop/cart.svc".to_owned()],
        };
        assert_eq!(
            render("shop/web", "10.1.0.1:80", &why),
            "shop/web -> 10.1.0.1:80 would not pass\n\n\
             route     hbone\n\
             service   shop/cart.svc\n\
             workload  shop/cart/cart\n\
             address   10.0.0.2:8080\n\
             tunnel    10.0.0.2:15008\n\
             verdict   deny, POLICY_NO_MATCH\n\
             nearest   rule 0 of shop/a principals: got x, want y\n\
             dry run   dry run: rule 0 of shop/b would deny\n\
             decided   as this node sees it; the server's node decides\n\n  \
             10.1.0.1 is a virtual address of shop/cart.svc"
        );
    }

    #[test]
    fn a_route_to_nowhere_does_not_pass() {
        let refused = WhyRoute {
            kind: "refused".to_owned(),
            code: Some("NO_SERVICE_PORT".to_owned()),
            ..WhyRoute::default()
        };
        let why = Why { route: refused, ..Why::default() };
        assert_eq!(
            render("a", "b:1", &why),
            "a -> b:1 would not pass\n\nroute  refused, NO_SERVICE_PORT"
        );
        let passes = Why {
            route: WhyRoute { kind: "passthrough".to_owned(), ..WhyRoute::default() },
            ..Why::default()
        };
        assert_eq!(render("a", "b:1", &passes), "a -> b:1 would pass\n\nroute  passthrough");
    }
}
