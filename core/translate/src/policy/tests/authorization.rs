//! Authorization policies: what is sent, what is said, and what an agent decides by it.

use super::*;

const KIND: Kind = Kind::AuthorizationPolicy;

fn ap(spec: &str) -> Object {
    policy("AuthorizationPolicy", "shop", "p", spec)
}

/// What is sent for one policy, and what is said about it.
fn converted(settings: &Settings, object: &Object) -> (Option<String>, Condition) {
    let follower = Follower::with(settings, std::slice::from_ref(object));
    follower.store(settings);
    let condition = follower.conditions.into_values().flatten().next().expect("a condition");
    (follower.policies.values().next().map(shown), condition)
}

fn rules_of(settings: &Settings, spec: &str) -> Result<String, String> {
    let (sent, condition) = converted(settings, &ap(spec));
    let sent = sent.expect("sent");
    let (_, rules) = sent.split_once(": ").expect("rules");
    if condition.status { Ok(rules.to_owned()) } else { Err(condition.message.to_string()) }
}

/// Every attribute there is, each in a rule of its own.
#[test]
fn allow_with_every_attribute() {
    let text = r"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: cfg}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: [principal, principal-prefix-*, '*-suffix', '*'],
      notPrincipals: [not-principal, not-prefix-*, '*-not-suffix', '*']}}]
  - from: [{source: {serviceAccounts: [ns/sa, sa-only], notServiceAccounts: [ns/not, not-only]}}]
  - from: [{source: {requestPrincipals: ['*'], notRequestPrincipals: ['*']}}]
  - from: [{source: {namespaces: [ns, ns-*, '*-ns', '*'], notNamespaces: [not, no-*, '*-no', '*']}}]
  - from: [{source: {ipBlocks: [1.2.3.4, 5.6.0.0/16], notIpBlocks: [2.2.3.4, 6.6.7.8/16]}}]
  - from: [{source: {remoteIpBlocks: [1.2.3.4], notRemoteIpBlocks: [2.2.3.4]}}]
  - to: [{operation: {methods: [GET], notMethods: [POST]}}]
  - to: [{operation: {hosts: [exact.com], notHosts: ['*']}}]
  - to: [{operation: {ports: ['80', '90'], notPorts: ['800', '900']}}]
  - to: [{operation: {paths: [/a/*], notPaths: ['*/b']}}]
  - when: [{key: 'request.headers[x]', values: [a], notValues: [b]}]
  - when: [{key: source.ip, values: [10.10.10.10, 'fd00::/8'], notValues: ['::ffff:9.0.0.0/104']}]
  - when: [{key: remote.ip, values: [10.10.10.10]}]
  - when: [{key: source.namespace, values: [ns, ns-*], notValues: ['*-no', '*']}]
  - when: [{key: source.principal, values: [principal], notValues: ['*-not']}]
  - when: [{key: request.auth.principal, values: [a]}]
  - when: [{key: request.auth.audiences, values: [a]}]
  - when: [{key: request.auth.presenter, values: [a]}]
  - when: [{key: 'request.auth.claims[iss]', values: [a]}]
  - when: [{key: 'request.auth.claims[a][b]', values: [a]}]
  - when: [{key: destination.ip, values: [10.10.10.10], notValues: [90.168.10.0/24]}]
  - when: [{key: destination.port, values: ['91'], notValues: ['9001']}]
  - when: [{key: connection.sni, values: [a]}]
  - when: [{key: 'experimental.envoy.filters.a.b[c]', values: [a]}]
  - {}
";
    let (sent, condition) = converted(&settings(), &objects(text)[0]);
    let rules = [
        "id principal,principal-prefix-*,*-suffix,*; \
         !id not-principal,not-prefix-*,*-not-suffix,*",
        "sa ns/sa,cfg/sa-only; !sa ns/not,cfg/not-only",
        "ns ns,ns-*,*-ns,*; !ns not,no-*,*-no,*",
        "ip 1.2.3.4/32,5.6.0.0/16; !ip 2.2.3.4/32,6.6.0.0/16",
        "port 80,90; !port 800,900",
        "ip 10.10.10.10/32,fd00::/8; !ip 9.0.0.0/8",
        "ns ns,ns-*; !ns *-no,*",
        "id principal; !id *-not",
        "to 10.10.10.10/32; !to 90.168.10.0/24",
        "port 91; !port 9001",
        "everything",
    ];
    let expected = format!("cfg/allow ALLOW NAMESPACE: {}", rules.join(" | "));
    assert_eq!(sent.expect("sent"), expected);
    assert_eq!((condition.status, condition.reason), (false, "UnsupportedValue"));
    for named in [
        "rules[2].from[0].source.requestPrincipals cannot be checked at layer 4",
        "rules[2].from[0].source.notRequestPrincipals",
        "rules[5].from[0].source.remoteIpBlocks",
        "rules[6].to[0].operation.notMethods",
        "rules[7].to[0].operation.hosts",
        "rules[9].to[0].operation.paths",
        "rules[10].when[0] (request.headers[x])",
        "rules[12].when[0] (remote.ip)",
        "more: the ALLOW rules with it are left out, so less is allowed than was written",
    ] {
        assert!(condition.message.contains(named), "{named}: {}", condition.message);
    }
}

/// The rules of Istio's cases that mix what layer 4 can check with what it cannot.
const MIXED: &str = "rules: [
  {from: [{source: {principals: [mix], requestPrincipals: [mix], namespaces: [mix]}}],
   to: [{operation: {ports: ['80']}}]},
  {from: [{source: {principals: [mix], namespaces: [mix]}}],
   to: [{operation: {ports: ['80'], methods: [mix]}}]},
  {from: [{source: {principals: [only-l4], namespaces: [only-l4-ns]}}],
   to: [{operation: {ports: ['80']}}]},
  {from: [{source: {requestPrincipals: [l7]}}], to: [{operation: {paths: [/l7], methods: [l7]}}]},
  {when: [{key: source.namespace, values: [mix]}, {key: connection.sni, values: [mix]}]},
  {when: [{key: source.namespace, values: [when-l4]},
          {key: source.ip, values: [10.10.10.10], notValues: [20.20.20.20]}]},
  {when: [{key: connection.sni, values: [l7]}, {key: 'request.headers[x]', values: [l7]}]}]";

#[test]
fn rules_that_mix_layers() {
    let clean = "port 80 & ns only-l4-ns; id only-l4";
    let when = "ns when-l4 & ip 10.10.10.10/32; !ip 20.20.20.20/32";
    let (sent, condition) = converted(&settings(), &ap(&format!("{{{MIXED}}}")));
    assert_eq!(sent.expect("sent"), format!("shop/p ALLOW NAMESPACE: {clean} | {when}"));
    assert!(condition.message.ends_with("less is allowed than was written"), "{condition:?}");

    // One that was not checked denies everything, in every proxy.
    let (sent, condition) = converted(&settings(), &ap(&format!("{{action: DENY, {MIXED}}}")));
    let all = "everything";
    let rules = [all, all, clean, all, all, when, all].join(" | ");
    assert_eq!(sent.expect("sent"), format!("shop/p DENY NAMESPACE: {rules}"));
    assert!(condition.message.ends_with("it denies everything in its scope"), "{condition:?}");
}

/// Istio's list of cases; where it says less or enforces less, the difference is meant.
#[test]
fn what_is_said() {
    let l4 = "from: [{source: {principals: [trust/ns/echo-1234/]}}]";
    let to_http = "to: [{operation: {ports: [http]}}]";
    let not_request = "{from: [{source: {notRequestPrincipals: [a/b]}}]}";
    let foo = "{from: [{source: {principals: [cluster.local/ns/foo/sa/bar]}}]}";
    let sent_foo = "id cluster.local/ns/foo/sa/bar";
    // Specification; what is sent, if anything; the reason; the whole message.
    let denies = "it denies everything in its scope";
    let cases: &[(String, Option<&str>, &str, String)] = &[
        (
            format!("{{rules: [{{{l4}}}]}}"),
            Some("ALLOW NAMESPACE: id trust/ns/echo-1234/"),
            "Accepted",
            "nodes enforce it as it is written".into(),
        ),
        (
            format!("{{rules: [{{{l4}, {to_http}}}]}}"),
            Some("ALLOW NAMESPACE: "),
            "UnsupportedValue",
            "rules[0].to[0].operation.ports[0] \"http\" is not a port number: no ALLOW rule is \
             left, so it allows nothing and denies everything in its scope that no other policy \
             allows"
                .into(),
        ),
        (
            format!("{{action: AUDIT, rules: [{{{l4}, {to_http}}}]}}"),
            None,
            "UnsupportedValue",
            "action AUDIT is not known to nodes: it has no effect on nodes".into(),
        ),
        (
            format!("{{action: CUSTOM, provider: {{name: x}}, rules: [{{{l4}}}]}}"),
            Some("DENY NAMESPACE: everything"),
            "UnsupportedValue",
            format!("action CUSTOM asks an extension, and nodes ask none: {denies}"),
        ),
        (
            "{rules: [{from: [{source: {requestPrincipals: [a/b]}}], \
             to: [{operation: {methods: [GET]}}], \
             when: [{key: request.auth.presenter, values: [x]}]}]}"
                .into(),
            Some("ALLOW NAMESPACE: "),
            "UnsupportedValue",
            "rules[0].to[0].operation.methods cannot be checked at layer 4, \
             rules[0].from[0].source.requestPrincipals cannot be checked at layer 4, \
             rules[0].when[0] (request.auth.presenter) cannot be checked at layer 4: no ALLOW \
             rule is left, so it allows nothing and denies everything in its scope that no other \
             policy allows"
                .into(),
        ),
        (
            format!("{{action: DENY, rules: [{foo}]}}"),
            Some("DENY NAMESPACE: id cluster.local/ns/foo/sa/bar"),
            "Accepted",
            "nodes enforce it as it is written".into(),
        ),
        (
            format!("{{action: DENY, rules: [{not_request}]}}"),
            Some("DENY NAMESPACE: everything"),
            "UnsupportedValue",
            format!(
                "rules[0].from[0].source.notRequestPrincipals cannot be checked at layer 4: \
                 {denies}"
            ),
        ),
        (
            "{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/foo/sa/bar], \
             notRequestPrincipals: [a/b]}}]}]}"
                .into(),
            Some("DENY NAMESPACE: everything"),
            "UnsupportedValue",
            format!(
                "rules[0].from[0].source.notRequestPrincipals cannot be checked at layer 4: \
                 {denies}"
            ),
        ),
        (
            format!("{{action: DENY, rules: [{not_request}, {foo}]}}"),
            Some("DENY NAMESPACE: everything | id cluster.local/ns/foo/sa/bar"),
            "UnsupportedValue",
            format!(
                "rules[0].from[0].source.notRequestPrincipals cannot be checked at layer 4: \
                 {denies}"
            ),
        ),
        (
            format!("{{action: DENY, rules: [{{}}, {not_request}]}}"),
            Some("DENY NAMESPACE: everything | everything"),
            "UnsupportedValue",
            format!(
                "rules[1].from[0].source.notRequestPrincipals cannot be checked at layer 4: \
                 {denies}"
            ),
        ),
        (
            "{action: DENY, rules: [{from: [{source: {principals: \
             [cluster.local/ns/foo/sa/bar]}}], when: [{key: 'request.headers[x]', values: [s]}]}]}"
                .into(),
            Some("DENY NAMESPACE: everything"),
            "UnsupportedValue",
            format!("rules[0].when[0] (request.headers[x]) cannot be checked at layer 4: {denies}"),
        ),
        (
            "{action: DENY, rules: [{from: [{source: {principals: \
             [cluster.local/ns/foo/sa/bar]}}], to: [{operation: {methods: [GET]}}]}]}"
                .into(),
            Some("DENY NAMESPACE: everything"),
            "UnsupportedValue",
            format!("rules[0].to[0].operation.methods cannot be checked at layer 4: {denies}"),
        ),
    ];
    assert_eq!(
        rules_of(&settings(), &format!("{{action: DENY, rules: [{foo}]}}")).as_deref(),
        Ok(sent_foo)
    );
    for (spec, sent, reason, message) in cases {
        let object = ap(spec);
        let (found, condition) = converted(&settings(), &object);
        let sent = sent.map(|sent| format!("shop/p {sent}"));
        assert_eq!((found, condition.reason), (sent, *reason), "{spec}");
        assert_eq!(&*condition.message, message, "{spec}");
        assert_eq!(condition.status, *reason == "Accepted", "{spec}");
        assert_eq!(review(&object, &settings()).is_ok(), *reason == "Accepted", "{spec}");
    }
}

/// What is no value of its kind is not skipped: skipping it would change who is meant.
#[test]
fn values_that_are_none() {
    let source = |field: &str| format!("from: [{{source: {{{field}}}}}]");
    let rules = [
        "to: [{operation: {ports: ['80', '0']}}]".to_owned(),
        "to: [{operation: {notPorts: ['+80']}}]".to_owned(),
        "to: [{operation: {ports: ['65536']}}]".to_owned(),
        "to: [{operation: {ports: ['8000-9000']}}]".to_owned(),
        "to: [{operation: {}}]".to_owned(),
        "to: [{operation: {ports: ['80']}}, {}]".to_owned(),
        "to: [{operation: {ports: ['80'], colours: [red]}}]".to_owned(),
        "to: [{operation: {ports: ['80']}, unless: x}]".to_owned(),
        source(""),
        source("principals: []"),
        source("ipBlocks: [10.0.0.0/33]"),
        source("ipBlocks: [10.0.0]"),
        source("notIpBlocks: ['']"),
        source("ipBlocks: ['::ffff:10.0.0.0/90']"),
        source("namespaces: [a/b]"),
        source("namespaces: ['a*b']"),
        source("namespaces: ['*a*']"),
        source("principals: ['']"),
        source("principals: ['cluster.local/ns/*/sa/x']"),
        source("principals: ['**']"),
        source("notPrincipals: ['a b']"),
        source("serviceAccounts: [a/b/c]"),
        source("serviceAccounts: [/b]"),
        source("serviceAccounts: ['a/*']"),
        source("trustDomains: [a/b]"),
        source("trustDomains: ['*.org']"),
        source("trustDomains: [A.org]"),
        source("trustDomains: [a], principals: [b/ns/x/sa/y]"),
        source("trustDomains: [a], principals: ['*/sa/y']"),
        source(&format!(
            "trustDomains: [{}], principals: [{}]",
            vec!["a"; 300].join(", "),
            vec!["a/ns/x/sa/y"; 300].join(", ")
        )),
        source("moods: [good], namespaces: [a]"),
        source(&format!("principals: ['{}']", "a".repeat(3000))),
        "when: [{key: source.ip}]".to_owned(),
        "when: [{key: source.ip, values: [x]}]".to_owned(),
        "when: [{key: source.trustDomain, values: ['*x']}]".to_owned(),
        "when: [{key: source.serviceAccount, values: ['a/b/c']}]".to_owned(),
        "when: [{key: destination.port, values: [http]}]".to_owned(),
        "when: [{key: destination.labels, values: [x]}]".to_owned(),
        "when: [{values: [x]}]".to_owned(),
        "when: [{key: source.ip, values: [10.0.0.1], mode: x}]".to_owned(),
        "unless: 7".to_owned(),
    ];
    for rule in &rules {
        let fine = "{to: [{operation: {ports: ['443']}}]}";
        let allow = ap(&format!("{{rules: [{{{rule}}}, {fine}]}}"));
        let (sent, condition) = converted(&settings(), &allow);
        assert_eq!(sent.as_deref(), Some("shop/p ALLOW NAMESPACE: port 443"), "{rule}");
        assert!(condition.message.starts_with("rules[0]."), "{rule}: {}", condition.message);
        let reasons = review(&allow, &settings()).expect_err(rule);
        assert!(condition.message.starts_with(&reasons[0]), "{rule}: {reasons:?}");
        let deny = ap(&format!("{{action: DENY, rules: [{fine}, {{{rule}}}]}}"));
        let (sent, condition) = converted(&settings(), &deny);
        assert_eq!(sent.as_deref(), Some("shop/p DENY NAMESPACE: port 443 | everything"), "{rule}");
        assert!(!condition.status, "{rule}");
    }
}

#[test]
fn trust_domains_and_accounts_are_principals() {
    let source = |field: &str| format!("{{rules: [{{from: [{{source: {{{field}}}}}]}}]}}");
    let when = |condition: &str| format!("{{rules: [{{when: [{{{condition}}}]}}]}}");
    for (spec, rules) in [
        (source("trustDomains: [a.org, b*, '*']"), "id a.org/*,b*,*"),
        (
            source("notTrustDomains: [a.org], notPrincipals: [b/ns/x/sa/y]"),
            "!id b/ns/x/sa/y,a.org/*",
        ),
        (
            source("trustDomains: [a.org], principals: ['*', a.org/ns/x/sa/y, b/ns/x/sa/y, a*]"),
            "id a.org/*,a.org/ns/x/sa/y",
        ),
        (
            source("trustDomains: [a], principals: ['a/ns/x/*', '*/ns/x/sa/y']"),
            "id a/ns/x/*,a/ns/x/sa/y",
        ),
        (when("key: source.trustDomain, values: [a], notValues: [b*]"), "id a/*; !id b*"),
        (
            when("key: source.serviceAccount, values: [a, x/b], notValues: [c]"),
            "sa shop/a,x/b; !sa shop/c",
        ),
        (
            source("principals: ['spiffe://a/ns/x/sa/y', '*spiffe://a/ns/x/sa/z', 'spiffe://a/*']"),
            "id a/ns/x/sa/y,a/ns/x/sa/z,a/*",
        ),
    ] {
        assert_eq!(rules_of(&settings(), &spec).as_deref(), Ok(rules), "{spec}");
    }
}

#[test]
fn principals_are_written_for_every_name_of_the_trust_domain() {
    let settings = settings_of("new.org", &["old", "new.org"]);
    let source = |field: &str| format!("{{rules: [{{from: [{{source: {{{field}}}}}]}}]}}");
    for (field, rules) in [
        ("principals: [old/ns/a/sa/b]", "id old/ns/a/sa/b,new.org/ns/a/sa/b"),
        ("principals: [old/ns/a/sa/b, new.org/ns/a/sa/b]", "id old/ns/a/sa/b,new.org/ns/a/sa/b"),
        ("principals: [other/ns/a/sa/b]", "id other/ns/a/sa/b"),
        ("notPrincipals: ['new.org/ns/a/*']", "!id new.org/ns/a/*,old/ns/a/*"),
        ("principals: ['*/ns/a/sa/b', '*']", "id */ns/a/sa/b,*"),
        ("principals: ['*.org/ns/a/sa/b']", "id *.org/ns/a/sa/b,new.org/ns/a/sa/b,old/ns/a/sa/b"),
        ("principals: ['ol*']", "id ol*,new.org/*,old/*"),
        // Both its own and ours.
        (
            "principals: [cluster.local/ns/a/sa/b]",
            "id cluster.local/ns/a/sa/b,new.org/ns/a/sa/b,old/ns/a/sa/b",
        ),
        ("trustDomains: [old]", "id old/*,new.org/*"),
        ("notTrustDomains: [new.org]", "!id new.org/*,old/*"),
        ("trustDomains: [cluster.local]", "id cluster.local/*"),
        (
            "trustDomains: [old], principals: [new.org/ns/a/sa/b]",
            "id old/ns/a/sa/b,new.org/ns/a/sa/b",
        ),
    ] {
        let found = rules_of(&settings, &source(field)).expect("accepted");
        let sorted = |text: &str| {
            let (kind, values) = text.split_once(' ').expect("values");
            let mut values: Vec<&str> = values.split(',').collect();
            values.sort_unstable();
            format!("{kind} {}", values.join(","))
        };
        assert_eq!(sorted(&found), sorted(rules), "{field}");
    }
    // One name only: cluster.local is still ours.
    let settings = settings_of("new.org", &[]);
    let found = rules_of(&settings, &source("principals: ['cluster.local/*']"));
    assert_eq!(found.as_deref(), Ok("id cluster.local/*,new.org/*"));
    let found = rules_of(&settings, &source("principals: ['new*', '*org/ns/a/sa/b']"));
    assert_eq!(found.as_deref(), Ok("id new*,*org/ns/a/sa/b"));
}

/// An agent that knows the aliases and one that does not decide the same.
#[test]
fn an_agent_needs_no_list_of_aliases() {
    let aliased = settings_of("new.org", &["old"]);
    let principals = [
        "new.org/ns/a/sa/b",
        "old/ns/a/sa/b",
        "old/ns/a/sa/bb",
        "older/ns/a/sa/b",
        "x.org/ns/a/sa/b",
        "old/ns/b/sa/a",
    ];
    let patterns = principals.iter().flat_map(|whole| {
        let cuts = (1..whole.len()).flat_map(|at| {
            let (start, end) = whole.split_at(at);
            [format!("{start}*"), format!("*{end}")]
        });
        cuts.chain([(*whole).to_owned(), "*".to_owned()])
    });
    let workload = workload("shop", &[]);
    for pattern in patterns {
        let object =
            ap(&format!("{{rules: [{{from: [{{source: {{principals: ['{pattern}']}}}}]}}]}}"));
        let store = |of: &Settings, aliases: &[TrustDomain]| {
            let follower = Follower::with(of, std::slice::from_ref(&object));
            follower.store(&Settings { trust_domain_aliases: aliases.to_vec(), ..of.clone() })
        };
        let expanded = store(&aliased, &[]);
        let knowing = store(&settings_of("new.org", &[]), &aliased.trust_domain_aliases);
        for principal in principals {
            let from = mutual(principal, 80);
            let found = admits(&expanded, &workload, &from);
            assert_eq!(found, admits(&knowing, &workload, &from), "{pattern}: {principal}");
        }
    }
}

#[test]
fn scopes_and_what_workloads_name() {
    // Namespace and specification; scope; whether a pod with the label, in the policy's namespace
    // and in another, names it.
    for (namespace, spec, scope, own, other) in [
        ("shop", "{}", "NAMESPACE", false, false),
        ("shop", "{selector: {matchLabels: {}}}", "NAMESPACE", false, false),
        ("shop", "{selector: {matchLabels: {app: a}}}", "WORKLOAD_SELECTOR", true, false),
        ("shop", "{selector: {matchLabels: {app: a, x: z}}}", "WORKLOAD_SELECTOR", true, false),
        ("shop", "{selector: {matchLabels: {app: b}}}", "WORKLOAD_SELECTOR", false, false),
        ("istio-system", "{}", "GLOBAL", false, false),
        ("istio-system", "{selector: {matchLabels: {x: z}}}", "WORKLOAD_SELECTOR", true, true),
    ] {
        let object = policy("AuthorizationPolicy", namespace, "p", spec);
        let follower = Follower::with(&settings(), std::slice::from_ref(&object));
        let name = format!("{namespace}/p");
        let sent = shown(&follower.policies[&*name]);
        assert_eq!(sent, format!("{name} ALLOW {scope}: "), "{spec}");
        let pod = labels(&[("app", "a"), ("x", "z"), ("empty", "")]);
        let names = |namespace| !follower.index.bound(namespace, &pod).is_empty();
        assert_eq!((names(namespace), names("elsewhere")), (own, other), "{namespace} {spec}");
    }
}

/// What cannot be read denies what it is bound to, as far as that can be told.
#[test]
fn what_cannot_be_read_denies() {
    let selector = "selector: {matchLabels: {app: a}}";
    // Namespace, specification; whether workloads with the label, others of the namespace, and
    // others elsewhere are reached.
    for (namespace, spec, reached, reason) in [
        ("shop", format!("{{{selector}, action: MAYBE}}"), [false, true, true], "Unreadable"),
        ("shop", format!("{{{selector}, rules: 7}}"), [false, true, true], "Unreadable"),
        ("shop", "{rules: 7}".to_owned(), [false, false, true], "Unreadable"),
        ("shop", "{selector: 7}".to_owned(), [false, false, true], "Unreadable"),
        ("shop", "{targetRefs: 7}".to_owned(), [false, false, true], "Unreadable"),
        ("istio-system", "{rules: 7}".to_owned(), [false, false, false], "Unreadable"),
        ("istio-system", "{selector: 7}".to_owned(), [false, false, false], "Unreadable"),
        ("istio-system", format!("{{{selector}, rules: 7}}"), [false, true, true], "Unreadable"),
        // Read, and not understood.
        (
            "shop",
            format!("{{{selector}, rules: [{{}}], mood: x}}"),
            [false, true, true],
            "UnsupportedValue",
        ),
        (
            "shop",
            "{selector: {matchLabels: {app: a}, matchExpressions: []}, rules: [{}]}".to_owned(),
            [false, true, true],
            "UnsupportedValue",
        ),
        (
            "shop",
            format!("{{{selector}, targetRefs: [{{kind: Service, name: x}}], rules: [{{}}]}}"),
            [false, true, true],
            "UnsupportedValue",
        ),
        (
            "shop",
            format!("{{{selector}, action: CUSTOM}}"),
            [false, true, true],
            "UnsupportedValue",
        ),
        // A waypoint's, whatever it says; nodes say nothing about it.
        ("shop", "{targetRef: {kind: Service, name: x}, rules: 7}".to_owned(), [true; 3], ""),
        ("shop", "{action: AUDIT, mood: x}".to_owned(), [true; 3], "UnsupportedValue"),
    ] {
        let object = policy("AuthorizationPolicy", namespace, "p", &spec);
        let allow_all = ["shop", "istio-system", "elsewhere"]
            .map(|namespace| policy("AuthorizationPolicy", namespace, "all", "{rules: [{}]}"));
        let mut all = allow_all.to_vec();
        all.push(object.clone());
        let follower = Follower::with(&settings(), &all);
        let id = mutual("cluster.local/ns/x/sa/y", 80);
        let found = [("shop", "a"), ("shop", "b"), ("elsewhere", "b")]
            .map(|(namespace, app)| follower.admits(namespace, &labels(&[("app", app)]), &id));
        assert_eq!(found, reached, "{namespace} {spec}");
        assert!(review(&object, &settings()).is_err(), "{spec}");
        if reason.is_empty() {
            assert!(!follower.conditions.contains_key(&object.key()), "{spec}");
            continue;
        }
        let condition = follower.condition(KIND, namespace, "p");
        assert_eq!((condition.status, condition.reason), (false, reason), "{spec}");
    }
}

#[test]
fn dry_runs() {
    let object = |value: &str, spec: &str| {
        objects(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, \
             namespace: shop, annotations: {{istio.io/dry-run: '{value}'}}}}\nspec: {spec}\n"
        ))
        .remove(0)
    };
    let without = settings();
    let with = Settings { dry_run: true, ..settings() };
    for (settings, value, spec, sent, message) in [
        (&with, "true", "{rules: [{}]}", Some("ALLOW dry NAMESPACE: everything"), "nodes enforce"),
        (&with, "T", "{action: DENY}", Some("DENY dry NAMESPACE: "), "nodes enforce"),
        (&with, "false", "{}", Some("ALLOW NAMESPACE: "), "nodes enforce"),
        (&with, "", "{}", Some("ALLOW NAMESPACE: "), "nodes enforce"),
        (
            &with,
            "yes",
            "{rules: [{}]}",
            Some("DENY NAMESPACE: everything"),
            "metadata.annotations[istio.io/dry-run] \"yes\" is not true or false: it denies",
        ),
        (&with, "true", "{rules: 7}", Some("DENY dry NAMESPACE: everything"), "spec.rules: "),
        (
            &with,
            "1",
            "{action: CUSTOM}",
            Some("DENY dry NAMESPACE: everything"),
            "action CUSTOM asks an extension, and nodes ask none: in this dry run it would deny",
        ),
        (
            &without,
            "true",
            "{}",
            None,
            "is a dry run, which this mesh does not send to nodes: it has no",
        ),
        (&without, "false", "{}", Some("ALLOW NAMESPACE: "), "nodes enforce"),
    ] {
        let (found, condition) = converted(settings, &object(value, spec));
        assert_eq!(found, sent.map(|sent| format!("shop/p {sent}")), "{value} {spec}");
        assert!(condition.message.starts_with(message), "{}", condition.message);
    }
}

/// A node does not read policies of that size.
#[test]
fn a_policy_that_is_too_large_denies() {
    assert_eq!(POLICY_BYTES_MAX, xds::POLICY_BYTES_MAX);
    let principals: Vec<String> = (0..30_000)
        .map(|number| format!("new.org/ns/a-namespace-with-a-name/sa/account-{number}"))
        .collect();
    let spec =
        format!("{{rules: [{{from: [{{source: {{principals: [{}]}}}}]}}]}}", principals.join(", "));
    let (sent, condition) = converted(&settings_of("new.org", &[]), &ap(&spec));
    assert_eq!(sent.as_deref(), Some("shop/p DENY NAMESPACE: everything"));
    assert!(condition.message.contains("more than the 1048576 that a node reads"), "{condition:?}");
}

/// A name from a file can be any text. None stands for another policy, and none is unreadable.
#[test]
fn names_that_are_none_are_escaped() {
    let object =
        policy("AuthorizationPolicy", "istio-system", "istio_converted_static_strict", "{}");
    let (sent, _) = converted(&settings(), &object);
    let name = "istio-system/istio%5Fconverted%5Fstatic%5Fstrict";
    assert_eq!(sent, Some(format!("{name} ALLOW GLOBAL: ")));
    let object =
        policy("AuthorizationPolicy", "shop", "a/b %", "{selector: {matchLabels: {x: z}}}");
    let follower = Follower::with(&settings(), &[object]);
    let bound = follower.index.bound("shop", &labels(&[("x", "z")]));
    assert_eq!(bound, [Text::from("shop/a%2Fb%20%25")]);
    follower.store(&settings());
    // Long ones that differ at their ends.
    let long = |end: &str| {
        let name = format!("{}{end}", "n".repeat(3000));
        policy("AuthorizationPolicy", "shop", &name, "{action: DENY, rules: [{}]}")
    };
    let follower = Follower::with(&settings(), &[long("a"), long("b")]);
    assert_eq!(follower.policies.len(), 2);
    assert!(follower.policies.keys().all(|name| name.len() < 253), "{:?}", follower.policies);
    assert!(!follower.admits("shop", &labels(&[]), &plain(80)));
}

/// Specifications, and who passes them.
type Case<'c> = (&'c [&'c str], &'c [(From<'c>, bool)]);

#[test]
fn what_an_agent_decides() {
    let api = "cluster.local/ns/shop/sa/api";
    let web = "cluster.local/ns/web/sa/web";
    let old = "old/ns/web/sa/web";
    let deny_port = "{action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]}";
    let web_on_80 = "{rules: [{from: [{source: {namespaces: [web]}}], \
                     to: [{operation: {ports: ['80']}}]}]}";
    let deny_methods = "{action: DENY, rules: [{from: [{source: {namespaces: [web]}}], \
                        to: [{operation: {methods: [DELETE]}}]}]}";
    let not_web = "{action: DENY, rules: [{from: [{source: {notTrustDomains: [cluster.local]}}]}]}";
    let cases: &[Case<'_>] = &[
        (&[], &[(plain(80), true), (mutual(web, 9000), true)]),
        (&[deny_port], &[(plain(80), true), (plain(9000), false), (mutual(web, 9000), false)]),
        (
            &[web_on_80],
            &[
                (mutual(web, 80), true),
                (mutual(web, 81), false),
                (mutual(api, 80), false),
                (mutual(old, 80), true),
                (plain(80), false),
            ],
        ),
        (&["{}"], &[(mutual(web, 80), false)]),
        (&["{}", web_on_80], &[(mutual(web, 80), true)]),
        (&["{rules: [{}]}", deny_port], &[(plain(80), true), (plain(9000), false)]),
        (&[deny_methods], &[(mutual(web, 80), false), (mutual(api, 80), false)]),
        (&[not_web], &[(mutual(web, 80), true), (mutual(old, 80), false), (plain(80), false)]),
        (&["{action: AUDIT, rules: [{}]}"], &[(plain(80), true)]),
        (
            &["{rules: [{from: [{source: {trustDomains: [cluster.local], \
                 principals: ['*/ns/web/sa/web']}}]}]}"],
            &[(mutual(web, 80), true), (mutual(old, 80), false), (mutual(api, 80), false)],
        ),
        (
            &["{rules: [{from: [{source: {serviceAccounts: [api]}}, \
                 {source: {ipBlocks: [10.0.0.1/32]}}]}]}"],
            &[
                (mutual(api, 80), true),
                (From { ip: "10.9.9.9", ..mutual(api, 80) }, true),
                (From { ip: "10.9.9.9", ..mutual(web, 80) }, false),
                (plain(80), true),
            ],
        ),
    ];
    for (specs, connections) in cases {
        let objects: Vec<Object> = specs
            .iter()
            .enumerate()
            .map(|(at, spec)| policy("AuthorizationPolicy", "shop", &format!("p{at}"), spec))
            .collect();
        let follower = Follower::with(&settings(), &objects);
        for (from, is_admitted) in *connections {
            let found = follower.admits("shop", &labels(&[]), from);
            assert_eq!(found, *is_admitted, "{specs:?}: {from:?}");
        }
    }
}

#[test]
fn nodes_have_nothing_to_say_about_policies_of_waypoints() {
    for kind in ["AuthorizationPolicy", "RequestAuthentication"] {
        let object = policy(kind, "shop", "p", "{targetRef: {kind: Service, name: test}}");
        let follower = Follower::with(&settings(), std::slice::from_ref(&object));
        assert!(follower.policies.is_empty() && follower.conditions.is_empty(), "{kind}");
        assert_eq!(review(&object, &settings()), Ok(()));
    }
}

#[test]
fn request_authentications_do_nothing_on_nodes() {
    for (spec, reason, is_fine) in
        [("{}", "UnsupportedValue", true), ("{selector: 7}", "Unreadable", false)]
    {
        let object = policy("RequestAuthentication", "shop", "p", spec);
        let (sent, condition) = converted(&settings(), &object);
        assert_eq!((sent, condition.reason, condition.status), (None, reason, false));
        assert_eq!(review(&object, &settings()).is_ok(), is_fine, "{spec}");
    }
}
