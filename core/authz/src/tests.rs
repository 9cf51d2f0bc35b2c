//! Table cases, all through one `check`.

use std::net::SocketAddr;
use std::sync::Arc;

use model::{
    Connection, Network, Peer, PolicyName, SpiffeId, TrustDomain, VerifiedIdentity, Workload,
    WorkloadKey, WorkloadUid,
};

use crate::policy::{
    Action, Clause, Filter, Match, Mode, Policy, Rule, Scope, ServiceAccount, StringMatch,
};
use crate::settings::{Settings, UnenforceableDeny};
use crate::store::{Binding, PolicyStore, Stored, UnreadablePolicy};
use crate::verdict::Verdict;
use crate::{AllowReason, authorize};

pub(crate) const ROOT: &str = "istio-system";

pub(crate) fn workload(policies: &[&str]) -> Workload {
    let policies = policies.iter().map(|key| PolicyName::parse(key).expect("literal"));
    Workload {
        uid: WorkloadUid("Kubernetes//Pod/shop/cart-1".into()),
        key: WorkloadKey::parse("shop/cart-1/cart").expect("literal"),
        trust_domain: TrustDomain::default(),
        addresses: Vec::new(),
        network: Network::default(),
        protocol: model::TunnelProtocol::Hbone,
        network_mode: model::NetworkMode::Standard,
        node: Arc::from(""),
        cluster: Arc::from("Kubernetes"),
        canonical_name: Arc::from(""),
        canonical_revision: Arc::from(""),
        workload_type: model::WorkloadType::Pod,
        workload_name: Arc::from(""),
        health: model::Health::Healthy,
        locality: model::Locality::default(),
        policies: policies.collect(),
        services: model::ServedServices::default(),
        capacity: 1,
        native_tunnel: false,
        waypoint: None,
        network_gateway: None,
        application_tunnel: None,
        hostname: None,
    }
}

/// `principal` is the identity without its scheme; `None` is plaintext.
pub(crate) fn connection(principal: Option<&str>, source: &str, port: u16) -> Connection {
    Connection {
        source: source.parse().expect("literal"),
        peer: principal.map_or(Peer::Plaintext, |principal| {
            let id = SpiffeId::parse(&format!("spiffe://{principal}")).expect("literal");
            Peer::Verified(VerifiedIdentity::assertion(id))
        }),
        destination: SocketAddr::from(([10, 0, 0, 2], port)),
    }
}

const WEB: &str = "cluster.local/ns/shop/sa/web";

fn web() -> Connection {
    connection(Some(WEB), "10.0.0.1:40000", 80)
}

fn plaintext() -> Connection {
    connection(None, "10.0.0.1:40000", 80)
}

fn policy(key: &str, scope: Scope, action: Action, rules: Vec<Rule>) -> Policy {
    let name = PolicyName::parse(key).expect("literal");
    Policy { name, scope, action, mode: Mode::Enforce, rules }
}

fn allow(key: &str, rules: Vec<Rule>) -> Stored {
    Stored::Policy(policy(key, Scope::Namespace, Action::Allow, rules))
}

fn deny(key: &str, rules: Vec<Rule>) -> Stored {
    Stored::Policy(policy(key, Scope::Namespace, Action::Deny, rules))
}

fn dry_run(stored: Stored) -> Stored {
    match stored {
        Stored::Policy(policy) => Stored::Policy(Policy { mode: Mode::DryRun, ..policy }),
        Stored::Unreadable(_) => panic!("an unreadable policy has no mode"),
    }
}

fn scoped(stored: Stored, scope: Scope) -> Stored {
    match stored {
        Stored::Policy(policy) => Stored::Policy(Policy { scope, ..policy }),
        Stored::Unreadable(_) => panic!("an unreadable policy has a binding"),
    }
}

fn unreadable(key: &str, binding: Binding) -> Stored {
    let name = PolicyName::parse(key).expect("literal");
    Stored::Unreadable(UnreadablePolicy { name, binding, cause: "bad prefix".to_owned() })
}

/// One rule with one clause with these alternatives.
fn rule(matches: Vec<Match>) -> Rule {
    Rule { clauses: vec![Clause { matches }] }
}

fn one(match_: Match) -> Vec<Rule> {
    vec![rule(vec![match_])]
}

fn anything() -> Vec<Rule> {
    vec![Rule::default()]
}

fn any<T>(values: Vec<T>) -> Filter<T> {
    Filter { any_of: values, none_of: Vec::new() }
}

fn none<T>(values: Vec<T>) -> Filter<T> {
    Filter { any_of: Vec::new(), none_of: values }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn prefix(text: &str) -> StringMatch {
    StringMatch::Prefix(text.into())
}

fn suffix(text: &str) -> StringMatch {
    StringMatch::Suffix(text.into())
}

fn principals(filter: Filter<StringMatch>) -> Match {
    Match { principals: filter, ..Match::default() }
}

fn namespaces(filter: Filter<StringMatch>) -> Match {
    Match { namespaces: filter, ..Match::default() }
}

fn accounts(filter: Filter<ServiceAccount>) -> Match {
    Match { service_accounts: filter, ..Match::default() }
}

fn account(namespace: &str, name: &str) -> ServiceAccount {
    ServiceAccount { namespace: namespace.into(), name: name.into() }
}

fn source_ips(filter: Filter<&str>) -> Match {
    let parse = |texts: Vec<&str>| texts.iter().map(|t| t.parse().expect("literal")).collect();
    Match {
        source_ips: Filter { any_of: parse(filter.any_of), none_of: parse(filter.none_of) },
        ..Match::default()
    }
}

fn ports(filter: Filter<u16>) -> Match {
    Match { destination_ports: filter, ..Match::default() }
}

/// The verdict and every dry-run note, one a line.
#[track_caller]
fn check_named(named: &[&str], policies: Vec<Stored>, conn: &Connection, expected: &str) {
    let store = PolicyStore::compile(policies, &Settings::rooted(ROOT));
    let decision = authorize(&store, &workload(named), conn);
    let mut lines = vec![match decision.verdict {
        Verdict::Allow(permit) => {
            assert_eq!(permit.destination(), conn.destination);
            assert_eq!(permit.source(), conn.source);
            format!("allow: {}", permit.reason())
        }
        Verdict::Deny(denial) => format!("{}: {denial}", denial.code),
    }];
    lines.extend(decision.dry_run.iter().map(ToString::to_string));
    assert_eq!(lines.join("\n"), expected);
}

#[track_caller]
fn check(policies: Vec<Stored>, conn: &Connection, expected: &str) {
    check_named(&[], policies, conn, expected);
}

/// Whether a single ALLOW policy with that match admits the connection.
#[track_caller]
fn check_match(match_: &Match, conn: &Connection, expected: bool) {
    let store =
        PolicyStore::compile(vec![allow("shop/a", one(match_.clone()))], &Settings::rooted(ROOT));
    let decision = authorize(&store, &workload(&[]), conn);
    let matched = matches!(
        &decision.verdict,
        Verdict::Allow(permit) if matches!(permit.reason(), AllowReason::PolicyMatched { .. })
    );
    assert_eq!(matched, expected, "{match_:?} on {conn:?}: {decision:?}");
}

const NO_ALLOW: &str = "allow: no ALLOW policy applies";

#[test]
fn no_policy_allows() {
    check(vec![], &plaintext(), NO_ALLOW);
}

#[test]
fn deny_wins_over_allow() {
    let policies = || {
        vec![
            deny("shop/d", one(ports(none(vec![443])))),
            allow("shop/a", one(ports(none(vec![8080])))),
        ]
    };
    check(policies(), &plaintext(), "POLICY_DENIED: denied by rule 0 of shop/d");
    let secure = connection(None, "10.0.0.1:40000", 443);
    check(policies(), &secure, "allow: allowed by rule 0 of shop/a");
}

#[test]
fn empty_levels_of_a_policy() {
    check(
        vec![allow("shop/a", vec![])],
        &web(),
        "POLICY_NO_MATCH: ALLOW policies apply, and none matched; \
         shop/a has no rules and so allows nothing",
    );
    check(vec![deny("shop/d", vec![])], &web(), NO_ALLOW);
    check(vec![allow("shop/a", anything())], &web(), "allow: allowed by rule 0 of shop/a");
    check(vec![deny("shop/d", anything())], &web(), "POLICY_DENIED: denied by rule 0 of shop/d");
    let empty_clause = || vec![rule(vec![])];
    check(vec![allow("shop/a", empty_clause())], &web(), "allow: allowed by rule 0 of shop/a");
    check(
        vec![deny("shop/d", empty_clause())],
        &web(),
        "POLICY_DENIED: denied by rule 0 of shop/d",
    );
}

#[test]
fn a_match_layer_4_cannot_check_never_allows_and_always_denies() {
    check(
        vec![allow("shop/a", one(Match::default()))],
        &web(),
        "POLICY_NO_MATCH: ALLOW policies apply, and none matched; \
         rule 0 of shop/a has a condition that layer 4 cannot check",
    );
    let unenforceable = "POLICY_NOT_ENFORCEABLE: rule 0 of shop/d has a condition that layer 4 \
                         cannot check, and so denies";
    check(vec![deny("shop/d", one(Match::default()))], &web(), unenforceable);
    // Its sibling clause still has to match.
    let both = |port| {
        vec![Rule {
            clauses: vec![
                Clause { matches: vec![Match::default()] },
                Clause { matches: vec![ports(any(vec![port]))] },
            ],
        }]
    };
    check(vec![deny("shop/d", both(80))], &web(), unenforceable);
    check(vec![deny("shop/d", both(81))], &web(), NO_ALLOW);
    // Beside one that matches, the rule matches in its own right.
    let beside = vec![rule(vec![Match::default(), ports(any(vec![80]))])];
    check(vec![allow("shop/a", beside.clone())], &web(), "allow: allowed by rule 0 of shop/a");
    check(vec![deny("shop/d", beside)], &web(), DENIED);
}

const DENIED: &str = "POLICY_DENIED: denied by rule 0 of shop/d";

#[test]
fn a_deny_that_was_checked_is_the_better_reason() {
    let rules = vec![rule(vec![Match::default()]), rule(vec![ports(any(vec![80]))])];
    check(vec![deny("shop/d", rules)], &web(), "POLICY_DENIED: denied by rule 1 of shop/d");
    let policies = vec![deny("shop/c", one(Match::default())), deny("shop/d", anything())];
    check(policies, &web(), DENIED);
}

#[test]
fn an_unenforceable_deny_can_be_ignored_as_istio_does() {
    let settings =
        Settings { unenforceable_deny: UnenforceableDeny::Ignore, ..Settings::rooted(ROOT) };
    let says = |policies: Vec<Stored>| {
        let store = PolicyStore::compile(policies, &settings);
        let decision = authorize(&store, &workload(&[]), &web());
        match decision.verdict {
            Verdict::Allow(permit) => permit.reason().to_string(),
            Verdict::Deny(denial) => denial.code.to_string(),
        }
    };
    assert_eq!(says(vec![deny("shop/d", one(Match::default()))]), "no ALLOW policy applies");
    let rules = vec![rule(vec![Match::default()]), rule(vec![ports(any(vec![80]))])];
    assert_eq!(says(vec![deny("shop/d", rules)]), "POLICY_DENIED");
    assert_eq!(says(vec![allow("shop/a", one(Match::default()))]), "POLICY_NO_MATCH");
}

#[test]
fn a_principal_of_an_alias_is_one_of_ours() {
    let domain = |name: &str| model::TrustDomain::parse(name).expect("literal");
    let settings = Settings {
        trust_domain_aliases: vec![domain("old.local"), domain("older.local")],
        ..Settings::rooted(ROOT)
    };
    let admits = |pattern: &StringMatch, peer: &str| {
        let conn = connection(Some(peer), "10.0.0.1:1", 80);
        let says = |filter: Filter<StringMatch>| {
            let policies = vec![allow("shop/a", one(principals(filter)))];
            let store = PolicyStore::compile(policies, &settings);
            matches!(authorize(&store, &workload(&[]), &conn).verdict, Verdict::Allow(_))
        };
        let positive = says(any(vec![pattern.clone()]));
        assert_eq!(says(none(vec![pattern.clone()])), !positive, "{pattern} on {peer}");
        positive
    };
    let ours = ["cluster.local/ns/shop/sa/web", "old.local/ns/shop/sa/web"];
    for pattern in [
        exact("cluster.local/ns/shop/sa/web"),
        exact("old.local/ns/shop/sa/web"),
        exact("spiffe://older.local/ns/shop/sa/web"),
        prefix("old.local/ns/shop/"),
        prefix("older"),
        suffix("old.local/ns/shop/sa/web"),
    ] {
        for peer in ours {
            assert!(admits(&pattern, peer), "{pattern} on {peer}");
        }
        assert!(!admits(&pattern, "example.org/ns/shop/sa/web"), "{pattern}");
    }
    for peer in ours {
        assert!(!admits(&exact("example.org/ns/shop/sa/web"), peer), "{peer}");
    }
}

#[test]
fn rules_or_clauses_and_matches_or_types_and_values_or() {
    let pair = |port, namespace| Match {
        destination_ports: any(vec![port]),
        namespaces: any(vec![exact(namespace)]),
        ..Match::default()
    };
    check_match(&pair(80, "shop"), &web(), true);
    check_match(&pair(81, "shop"), &web(), false);
    check_match(&pair(80, "x"), &web(), false);
    check_match(&ports(any(vec![1, 2, 80])), &web(), true);
    let hit = || Clause { matches: vec![pair(1, "x"), pair(80, "shop")] };
    let miss = || Clause { matches: vec![pair(1, "shop"), pair(80, "x")] };
    let rules = |clauses| vec![Rule { clauses: vec![miss()] }, Rule { clauses }];
    check(
        vec![deny("shop/d", rules(vec![hit(), hit()]))],
        &web(),
        "POLICY_DENIED: denied by rule 1 of shop/d",
    );
    check(vec![deny("shop/d", rules(vec![hit(), miss()]))], &web(), NO_ALLOW);
}

#[test]
fn positive_and_negative_of_one_type() {
    let filter = |any_of: &[u16], none_of: &[u16]| {
        ports(Filter { any_of: any_of.to_vec(), none_of: none_of.to_vec() })
    };
    check_match(&filter(&[80], &[]), &web(), true);
    check_match(&filter(&[], &[80]), &web(), false);
    check_match(&filter(&[80], &[80]), &web(), false);
    check_match(&filter(&[80], &[81]), &web(), true);
    check_match(&filter(&[81], &[82]), &web(), false);
}

#[test]
fn string_patterns() {
    for (pattern, on_web, on_plaintext) in [
        (exact("shop"), true, false),
        (exact("sho"), false, false),
        (exact(""), false, true),
        (prefix("sh"), true, false),
        (prefix(""), true, true),
        (suffix("op"), true, false),
        (suffix(""), true, true),
        (StringMatch::Presence, true, false),
    ] {
        check_match(&namespaces(any(vec![pattern.clone()])), &web(), on_web);
        check_match(&namespaces(any(vec![pattern.clone()])), &plaintext(), on_plaintext);
        check_match(&namespaces(none(vec![pattern.clone()])), &web(), !on_web);
        check_match(&namespaces(none(vec![pattern])), &plaintext(), !on_plaintext);
    }
}

#[test]
fn principals_in_both_forms() {
    for (pattern, on_web) in [
        (exact(WEB), true),
        (exact("spiffe://cluster.local/ns/shop/sa/web"), true),
        (exact("spiffe://spiffe://cluster.local/ns/shop/sa/web"), false),
        (exact("cluster.local/ns/shop/sa/we"), false),
        (prefix("cluster.local/ns/shop/"), true),
        (prefix("spiffe://cluster.local/ns/shop/"), true),
        (prefix("spiffe://"), true),
        (prefix("/ns/shop"), false),
        (suffix("/sa/web"), true),
        (suffix("spiffe://cluster.local/ns/shop/sa/web"), true),
        (suffix("spiffe://local/ns/shop/sa/web"), false),
        (StringMatch::Presence, true),
        (prefix(""), true),
        (suffix(""), true),
    ] {
        // A peer without identity matches no value, and so every negative one.
        check_match(&principals(any(vec![pattern.clone()])), &web(), on_web);
        check_match(&principals(none(vec![pattern.clone()])), &web(), !on_web);
        check_match(&principals(any(vec![pattern.clone()])), &plaintext(), false);
        check_match(&principals(none(vec![pattern])), &plaintext(), true);
    }
}

#[test]
fn service_accounts_ignore_the_trust_domain() {
    let foreign = connection(Some("example.org/ns/shop/sa/web"), "10.0.0.1:1", 80);
    for (value, expected) in [
        (account("shop", "web"), true),
        (account("shop", "x"), false),
        (account("x", "web"), false),
    ] {
        check_match(&accounts(any(vec![value.clone()])), &web(), expected);
        check_match(&accounts(any(vec![value.clone()])), &foreign, expected);
        check_match(&accounts(none(vec![value.clone()])), &web(), !expected);
        check_match(&accounts(any(vec![value.clone()])), &plaintext(), false);
        check_match(&accounts(none(vec![value])), &plaintext(), true);
    }
}

#[test]
fn addresses_are_blocks_with_mapped_ones_folded() {
    let from = |source: &str| connection(Some(WEB), source, 80);
    for (block, source, expected) in [
        ("10.0.0.0/8", "10.255.0.1:1", true),
        ("10.0.0.1/32", "10.0.0.1:1", true),
        ("10.0.0.1/32", "10.0.0.2:1", false),
        ("10.0.0.0/8", "[::ffff:10.0.0.1]:1", true),
        ("::ffff:10.0.0.0/104", "10.0.0.1:1", true),
        ("0.0.0.0/0", "[fd00::1]:1", false),
        ("::/0", "10.0.0.1:1", false),
        ("fd00::/8", "[fd00::1]:1", true),
    ] {
        check_match(&source_ips(any(vec![block])), &from(source), expected);
        check_match(&source_ips(none(vec![block])), &from(source), !expected);
    }
    let to = |block: &str| Match {
        destination_ips: any(vec![block.parse().expect("literal")]),
        ..Match::default()
    };
    check_match(&to("10.0.0.2/32"), &web(), true);
    check_match(&to("10.0.0.1/32"), &web(), false);
}

#[test]
fn scopes() {
    let denies = |scope, key: &str| vec![scoped(deny(key, anything()), scope)];
    let denied = |key: &str| format!("POLICY_DENIED: denied by rule 0 of {key}");
    check(denies(Scope::Namespace, "shop/d"), &web(), &denied("shop/d"));
    check(denies(Scope::Namespace, "other/d"), &web(), NO_ALLOW);
    check(denies(Scope::Global, "other/d"), &web(), &denied("other/d"));
    check(denies(Scope::Namespace, "istio-system/d"), &web(), &denied("istio-system/d"));
    check(denies(Scope::WorkloadSelector, "shop/d"), &web(), NO_ALLOW);
    check(denies(Scope::WorkloadSelector, "istio-system/d"), &web(), NO_ALLOW);
    let static_strict = || denies(Scope::WorkloadSelector, "istio-system/strict");
    check_named(&["istio-system/strict"], static_strict(), &web(), &denied("istio-system/strict"));
    check_named(&["other/d"], denies(Scope::Namespace, "other/d"), &web(), &denied("other/d"));
    // Without a root namespace, its policies are like any other's.
    let store =
        PolicyStore::compile(denies(Scope::Namespace, "istio-system/d"), &Settings::default());
    let decision = authorize(&store, &workload(&[]), &web());
    assert!(matches!(decision.verdict, Verdict::Allow(_)), "{decision:?}");
}

#[test]
fn peer_authentication_as_the_control_plane_converts_it() {
    // STRICT.
    let strict = || {
        let rules = one(principals(none(vec![StringMatch::Presence])));
        scoped(deny("istio-system/strict", rules), Scope::WorkloadSelector)
    };
    let named = ["istio-system/strict"];
    check_named(&named, vec![strict()], &web(), NO_ALLOW);
    check_named(
        &named,
        vec![strict()],
        &plaintext(),
        "POLICY_DENIED: denied by rule 0 of istio-system/strict",
    );
    // Permissive port 80 under STRICT.
    let exception = || {
        deny(
            "shop/exception",
            vec![Rule {
                clauses: vec![
                    Clause { matches: vec![ports(none(vec![80]))] },
                    Clause { matches: vec![principals(none(vec![StringMatch::Presence]))] },
                ],
            }],
        )
    };
    check(vec![exception()], &plaintext(), NO_ALLOW);
    check(
        vec![exception()],
        &connection(None, "10.0.0.1:1", 81),
        "POLICY_DENIED: denied by rule 0 of shop/exception",
    );
}

#[test]
fn what_is_not_understood_denies_its_scope() {
    let text = |key| format!("POLICY_UNREADABLE: policy {key} cannot be read: bad prefix");
    check(vec![unreadable("shop/u", Binding::Namespace)], &web(), &text("shop/u"));
    check(vec![unreadable("other/u", Binding::Namespace)], &web(), NO_ALLOW);
    check(vec![unreadable("other/u", Binding::Mesh)], &web(), &text("other/u"));
    let root = || vec![unreadable("istio-system/u", Binding::Namespace)];
    check(root(), &web(), &text("istio-system/u"));
    check(vec![unreadable("shop/u", Binding::Workload)], &web(), NO_ALLOW);
    let bound = || vec![unreadable("shop/u", Binding::Workload), allow("shop/a", anything())];
    check_named(&["shop/u"], bound(), &web(), &text("shop/u"));
}

#[test]
fn an_unknown_policy_denies() {
    let text = "POLICY_UNKNOWN: the workload names policy shop/u, which this node does not have";
    check_named(&["shop/u"], vec![], &web(), text);
    check_named(&["shop/u"], vec![allow("shop/a", anything())], &web(), text);
    // A clear no is the better reason.
    check_named(
        &["shop/u"],
        vec![deny("shop/d", anything())],
        &web(),
        "POLICY_DENIED: denied by rule 0 of shop/d",
    );
}

#[test]
fn two_policies_of_one_name_are_one_unreadable() {
    let twice = vec![
        scoped(allow("shop/a", anything()), Scope::WorkloadSelector),
        allow("shop/a", anything()),
    ];
    let text = "POLICY_UNREADABLE: policy shop/a cannot be read: two policies have this name";
    check(twice, &web(), text);
}

#[test]
fn dry_run_only_leaves_notes() {
    check(
        vec![dry_run(deny("shop/d", anything()))],
        &web(),
        "allow: no ALLOW policy applies\ndry run: rule 0 of shop/d would deny",
    );
    check(
        vec![dry_run(allow("shop/a", anything()))],
        &web(),
        "allow: no ALLOW policy applies\ndry run: rule 0 of shop/a would allow",
    );
    check(
        vec![dry_run(allow("shop/a", one(ports(any(vec![81])))))],
        &web(),
        "allow: no ALLOW policy applies\ndry run: no ALLOW policy would match; \
         rule 0 of shop/a destinationPorts: got 80, want 81",
    );
    check(
        vec![dry_run(deny("shop/d", one(Match::default())))],
        &web(),
        "allow: no ALLOW policy applies\ndry run: rule 0 of shop/d has a condition that layer 4 \
         cannot check, and so would deny",
    );
    // Where something denied, ALLOW policies have no say.
    let would_allow = || dry_run(allow("shop/a", anything()));
    let would_not = || dry_run(allow("shop/b", vec![]));
    check(vec![would_allow(), would_not(), deny("shop/d", anything())], &web(), DENIED);
    check(
        vec![would_not(), unreadable("shop/u", Binding::Mesh)],
        &web(),
        "POLICY_UNREADABLE: policy shop/u cannot be read: bad prefix",
    );
    // With an enforced ALLOW, a dry-run one that does not match changes nothing.
    check(
        vec![dry_run(allow("shop/a", vec![])), allow("shop/b", anything())],
        &web(),
        "allow: allowed by rule 0 of shop/b",
    );
    let many = (0..40).map(|n| dry_run(deny(&format!("shop/d{n}"), anything()))).collect();
    let store = PolicyStore::compile(many, &Settings::rooted(ROOT));
    let decision = authorize(&store, &workload(&[]), &web());
    assert_eq!(decision.dry_run.len(), crate::DRY_RUN_NOTES_MAX);
    // A workload that names a policy twice is told once.
    let named = scoped(dry_run(deny("shop/d", anything())), Scope::WorkloadSelector);
    check_named(
        &["shop/d", "shop/d"],
        vec![named],
        &web(),
        "allow: no ALLOW policy applies\ndry run: rule 0 of shop/d would deny",
    );
}

#[test]
fn nearest_miss_names_the_rule_and_the_condition() {
    let far = rule(vec![Match {
        namespaces: any(vec![exact("x")]),
        destination_ports: any(vec![1]),
        ..Match::default()
    }]);
    let near = rule(vec![Match {
        namespaces: any(vec![exact("shop")]),
        principals: any(vec![exact("cluster.local/ns/shop/sa/cart")]),
        ..Match::default()
    }]);
    let policies =
        || vec![allow("shop/a", vec![]), allow("shop/b", vec![far.clone(), near.clone()])];
    check(
        policies(),
        &web(),
        "POLICY_NO_MATCH: ALLOW policies apply, and none matched; rule 1 of shop/b matched \
         namespaces, but principals: got \"cluster.local/ns/shop/sa/web\", \
         want \"cluster.local/ns/shop/sa/cart\"",
    );
    check(
        policies(),
        &plaintext(),
        "POLICY_NO_MATCH: ALLOW policies apply, and none matched; rule 0 of shop/b \
         namespaces: got no identity (plaintext), want \"x\" (also failed: destinationPorts)",
    );
    let mixed = one(source_ips(Filter {
        any_of: vec!["10.0.0.1/32", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"],
        none_of: vec!["10.0.0.0/24"],
    }));
    check(
        vec![allow("shop/a", mixed)],
        &web(),
        "POLICY_NO_MATCH: ALLOW policies apply, and none matched; rule 0 of shop/a sourceIps: \
         got 10.0.0.1, want 10.0.0.1/32 or 10.1.0.0/16 or 10.2.0.0/16 (1 more) \
         and not 10.0.0.0/24",
    );
}
