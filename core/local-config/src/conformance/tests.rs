//! What a file of cases may say.

use super::*;

/// One situation with one ALLOW, and one case with further keys.
fn file(case: &str) -> String {
    format!(
        "situations:
- name: web only
  workload: {{name: cart, namespace: shop, workloadIps: [10.0.0.2]}}
  policies:
  - {{name: a, namespace: shop, scope: Namespace, action: Allow,
     rules: [[[{{namespaces: [!Exact web]}}]]]}}
  cases:
  - {case}
"
    )
}

/// The differences of the only case, or the errors of the file.
fn outcome(text: &str) -> String {
    match parse("cases.yaml", text).as_deref() {
        Ok([case]) => {
            let differences = case.differences(&case.judge());
            differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        Ok(cases) => format!("{} cases", cases.len()),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn a_case_is_right_or_says_what_differs() {
    let web = "peer: spiffe://td/ns/web/sa/x";
    for (case, expected) in [
        (format!("{{name: c, {web}, expect: {{code: OK, policy: shop/a, rule: 0}}}}"), ""),
        (
            format!("{{name: c, {web}, expect: {{code: OK}}}}"),
            "policy: expected -, got shop/a\nrule: expected -, got 0",
        ),
        (
            "{name: c, peer: plaintext, expect: {code: OK, policy: shop/a, rule: 0}}".to_owned(),
            "code: expected OK, got POLICY_NO_MATCH\npolicy: expected shop/a, got -\n\
             rule: expected 0, got -",
        ),
        ("{name: c, peer: plaintext, expect: {code: POLICY_NO_MATCH}}".to_owned(), ""),
        (
            "{name: c, peer: plaintext, expect: {code: POLICY_NO_MATCH, nearestMiss: x}}"
                .to_owned(),
            "nearestMiss: expected x, got rule 0 of shop/a namespaces: got no identity \
             (plaintext), want \"web\"",
        ),
        (
            "{name: c, peer: plaintext, expect: {code: POLICY_NO_MATCH, dryRun: [a, b]}}"
                .to_owned(),
            "dryRun: expected a; b, got -",
        ),
    ] {
        assert_eq!(outcome(&file(&case)), expected, "{case}");
    }
}

#[test]
fn a_case_knows_its_name_and_line() {
    let cases = parse("f", &file("{name: c, peer: plaintext, expect: {code: OK}}")).expect("valid");
    assert_eq!((cases[0].name.as_str(), cases[0].line), ("web only: c", 8));
}

#[test]
fn mistakes_name_file_line_field_and_cause() {
    for (text, expected) in [
        (
            file("{name: c, peer: plaintext, expect: {code: DENIED}}"),
            "cases.yaml:8:47: situations[0].cases[0].expect.code: expected OK, POLICY_DENIED, \
             POLICY_NOT_ENFORCEABLE, POLICY_UNREADABLE, POLICY_UNKNOWN or POLICY_NO_MATCH \
             (got \"DENIED\")",
        ),
        (
            file("{name: c, peer: web, expect: {code: OK}}"),
            "cases.yaml:8:21: situations[0].cases[0].peer: \"web\" is not \
             spiffe://<trust domain>/ns/<namespace>/sa/<account>",
        ),
        (
            file("{name: c, peer: plaintext, port: 80, expect: {code: OK}}"),
            "cases.yaml:8:32: situations[0].cases[0].port: unknown key",
        ),
        (
            file("{name: c, peer: plaintext}"),
            "cases.yaml:8:5: situations[0].cases[0].expect: missing",
        ),
        (
            file(
                "{name: c, peer: plaintext, source: x, destination: 10.0.0.1, expect: {code: OK}}",
            ),
            "cases.yaml:8:40: situations[0].cases[0].source: expected an IP address (got \"x\")\n\
             cases.yaml:8:56: situations[0].cases[0].destination: expected address:port \
             (got \"10.0.0.1\")",
        ),
        (
            file(
                "{name: c, peer: plaintext, expect: {code: POLICY_NO_MATCH}}\n  \
                 - {name: c, peer: plaintext, expect: {code: POLICY_NO_MATCH}}",
            ),
            "cases.yaml:9:5: situations[0].cases[1].name: the same as that of \
             situations[0].cases[0] (got \"web only: c\")",
        ),
        ("situations: []".to_owned(), "cases.yaml:1:1: situations: no cases"),
        ("{}".to_owned(), "cases.yaml:1:1: situations: missing"),
    ] {
        assert_eq!(outcome(&text), expected, "{text}");
    }
}

#[test]
fn a_file_names_peers_and_its_workload_once() {
    let text = "
peers: {web: spiffe://td/ns/web/sa/x}
workload: {name: cart, namespace: shop, workloadIps: []}
situations:
- name: s
  policies:
  - {name: a, namespace: shop, scope: Namespace, action: Deny, rules: [[]]}
  cases: [{name: c, peer: web, expect: {code: POLICY_DENIED, policy: shop/a, rule: 0}}]
- name: elsewhere
  workload: {name: cart, namespace: bank, workloadIps: []}
  cases: [{name: c, peer: wep, expect: {code: OK}}]
";
    let error = "cases.yaml:11:27: situations[1].cases[0].peer: \"wep\" is not \
                 spiffe://<trust domain>/ns/<namespace>/sa/<account>";
    assert_eq!(outcome(text), error);
    assert_eq!(outcome(&text.replace("wep", "plaintext")), "2 cases");
}

#[test]
fn settings_and_unreadable_policies_are_read_strictly() {
    let file = |lines: &str| {
        format!(
            "situations:
- name: s
  workload: {{name: cart, namespace: shop, workloadIps: []}}
{lines}
  cases: [{{name: c, peer: plaintext, expect: {{code: OK}}}}]
"
        )
    };
    for (lines, expected) in [
        ("  settings: {rootNamespace: \"\", unenforceableDeny: ignore}", ""),
        ("  settings: {trustDomain: a, trustDomainAliases: [b, c.d]}", ""),
        (
            "  settings: {unenforceableDeny: maybe}",
            "cases.yaml:4:33: situations[0].settings.unenforceableDeny: expected one of deny, \
             ignore (got \"maybe\")",
        ),
        (
            "  settings: {trustDomainAliases: [A]}",
            "cases.yaml:4:35: situations[0].settings.trustDomainAliases[0]: \"A\" is not a valid \
             trust domain",
        ),
        (
            "  unreadable: [{name: u, namespace: shop, binding: Namespace, cause: bad prefix}]",
            "code: expected OK, got POLICY_UNREADABLE\npolicy: expected -, got shop/u",
        ),
        (
            "  unreadable: [{name: u, namespace: shop, binding: Pod, cause: bad prefix}]",
            "cases.yaml:4:52: situations[0].unreadable[0].binding: expected one of Workload, \
             Namespace, Mesh (got \"Pod\")",
        ),
    ] {
        assert_eq!(outcome(&file(lines)), expected, "{lines}");
    }
}
