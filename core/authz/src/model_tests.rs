//! The engine against an evaluator written from the table of the semantics, without its sets,
//! its index or its order of evaluation.

use ipnet::IpNet;
use model::{Code, Connection, PolicyName, SpiffeId};
use proptest::prelude::*;

use crate::policy::{
    Action, Clause, Filter, Match, Mode, Policy, Rule, Scope, ServiceAccount, StringMatch,
};
use crate::settings::{Settings, UnenforceableDeny};
use crate::store::{Binding, PolicyStore, Stored, UnreadablePolicy};
use crate::tests::{ROOT, connection, workload};
use crate::verdict::{DryRunNote, Miss, NearestMiss, Verdict};

/// Does the string fit the pattern?
fn fits(pattern: &StringMatch, text: &str) -> bool {
    match pattern {
        StringMatch::Exact(want) => text == &**want,
        StringMatch::Prefix(want) => text.starts_with(&**want),
        StringMatch::Suffix(want) => text.ends_with(&**want),
        StringMatch::Presence => !text.is_empty(),
    }
}

/// A pattern may be written for the URI or for the URI without its scheme.
fn fits_principal(pattern: &StringMatch, id: &SpiffeId) -> bool {
    let with_scheme = match pattern {
        StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text) => {
            text.starts_with("spiffe://")
        }
        StringMatch::Presence => false,
    };
    fits(pattern, if with_scheme { id.as_str() } else { id.principal() })
}

fn holds<T>(filter: &Filter<T>, fits: impl Fn(&T) -> bool) -> bool {
    let positive = filter.any_of.is_empty() || filter.any_of.iter().any(&fits);
    let negative = filter.none_of.is_empty() || !filter.none_of.iter().any(&fits);
    positive && negative
}

/// Whether a match holds; `None` if layer 4 cannot tell.
fn reference_match(m: &Match, conn: &Connection) -> Option<bool> {
    if m == &Match::default() {
        return None;
    }
    let id = conn.peer.identity().map(model::VerifiedIdentity::id);
    let account = |a: &ServiceAccount| {
        id.is_some_and(|id| *id.namespace() == *a.namespace && *id.service_account() == *a.name)
    };
    Some(
        holds(&m.namespaces, |p| fits(p, id.map_or("", SpiffeId::namespace)))
            && holds(&m.principals, |p| id.is_some_and(|id| fits_principal(p, id)))
            && holds(&m.service_accounts, account)
            && holds(&m.source_ips, |net| net.contains(&conn.source.ip()))
            && holds(&m.destination_ips, |net| net.contains(&conn.destination.ip()))
            && holds(&m.destination_ports, |port| *port == conn.destination.port()),
    )
}

/// Whether a policy matches, taking what layer 4 cannot tell for `unknown`.
fn reference_policy(policy: &Policy, conn: &Connection, unknown: bool) -> bool {
    policy.rules.iter().any(|rule| {
        rule.clauses.iter().all(|clause| {
            let mut matches = clause.matches.iter();
            clause.matches.is_empty()
                || matches.any(|m| reference_match(m, conn).unwrap_or(unknown))
        })
    })
}

/// The policies that judge a workload of `shop`.
fn bound<'p>(policies: &'p [Stored], named: &[PolicyName]) -> Vec<&'p Stored> {
    let applies = |stored: &&Stored| {
        let name = stored.name();
        let (mesh, namespace) = match stored {
            Stored::Policy(p) => (p.scope == Scope::Global, p.scope == Scope::Namespace),
            Stored::Unreadable(p) => (p.binding == Binding::Mesh, p.binding == Binding::Namespace),
        };
        named.contains(name)
            || mesh
            || (namespace && (*name.namespace == *"shop" || *name.namespace == *ROOT))
    };
    policies.iter().filter(applies).collect()
}

/// What the table says.
fn reference(
    policies: &[Stored],
    named: &[PolicyName],
    conn: &Connection,
    unenforceable: UnenforceableDeny,
) -> Code {
    let bound = bound(policies, named);
    let enforced = |action: Action| {
        bound.iter().filter_map(move |stored| match stored {
            Stored::Policy(p) if p.action == action && p.mode == Mode::Enforce => Some(p),
            Stored::Policy(_) | Stored::Unreadable(_) => None,
        })
    };
    if enforced(Action::Deny).any(|p| reference_policy(p, conn, false)) {
        Code::PolicyDenied
    } else if unenforceable == UnenforceableDeny::Deny
        && enforced(Action::Deny).any(|p| reference_policy(p, conn, true))
    {
        Code::PolicyNotEnforceable
    } else if bound.iter().any(|s| matches!(s, Stored::Unreadable(_))) {
        Code::PolicyUnreadable
    } else if named.iter().any(|n| !policies.iter().any(|s| s.name() == n)) {
        Code::PolicyUnknown
    } else if enforced(Action::Allow).count() == 0
        || enforced(Action::Allow).any(|p| reference_policy(p, conn, false))
    {
        Code::Ok
    } else {
        Code::PolicyNoMatch
    }
}

/// How far a rule is from matching: failed conditions, then those that hold, negated.
fn reference_distance(rule: &Rule, conn: &Connection) -> (isize, isize) {
    let parts = |m: &Match| {
        [
            Match { namespaces: m.namespaces.clone(), ..Match::default() },
            Match { principals: m.principals.clone(), ..Match::default() },
            Match { service_accounts: m.service_accounts.clone(), ..Match::default() },
            Match { source_ips: m.source_ips.clone(), ..Match::default() },
            Match { destination_ips: m.destination_ips.clone(), ..Match::default() },
            Match { destination_ports: m.destination_ports.clone(), ..Match::default() },
        ]
    };
    let of_match = |m: &Match| {
        let held: Vec<bool> =
            parts(m).iter().filter_map(|part| reference_match(part, conn)).collect();
        let count = |wanted| held.iter().filter(|held| **held == wanted).count();
        (!held.is_empty()).then(|| (count(false).cast_signed(), -count(true).cast_signed()))
    };
    let of_clause = |clause: &Clause| {
        // Of equally many failures the first counts, however many hold.
        let nearest = clause.matches.iter().filter_map(of_match).min_by_key(|(failed, _)| *failed);
        nearest.unwrap_or((isize::from(!clause.matches.is_empty()), 0))
    };
    rule.clauses.iter().map(of_clause).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

/// Whether no rule of the ALLOW policies is nearer than the one that is named.
fn is_nearest(miss: &NearestMiss, bound: &[&Stored], conn: &Connection) -> bool {
    let allows = bound.iter().filter_map(|stored| match stored {
        Stored::Policy(p) if p.action == Action::Allow && p.mode == Mode::Enforce => Some(p),
        Stored::Policy(_) | Stored::Unreadable(_) => None,
    });
    let distances = allows.flat_map(|policy| {
        let rules = policy.rules.iter().enumerate();
        rules.map(|(index, rule)| (&policy.name, index, reference_distance(rule, conn)))
    });
    let distances: Vec<_> = distances.collect();
    let least = distances.iter().map(|(_, _, distance)| distance).min();
    let named = match &miss.miss {
        Miss::NoRules => return distances.is_empty(),
        Miss::NotEnforceable { rule } => *rule,
        Miss::Type(miss) => miss.rule,
    };
    distances.iter().any(|(name, index, distance)| {
        **name == miss.policy && *index == named && Some(distance) == least
    })
}

// A small alphabet, so that conditions meet often.
fn pattern(words: &'static [&'static str]) -> impl Strategy<Value = StringMatch> {
    let word = || prop::sample::select(words);
    prop_oneof![
        3 => word().prop_map(|w| StringMatch::Exact(w.into())),
        2 => (word(), 0..40_usize).prop_map(|(w, n)| {
            StringMatch::Prefix(w.get(..n).unwrap_or(w).into())
        }),
        2 => (word(), 0..40_usize).prop_map(|(w, n)| {
            StringMatch::Suffix(w.get(n..).unwrap_or(w).into())
        }),
        1 => Just(StringMatch::Presence),
    ]
}

const NAMESPACES: &[&str] = &["shop", "shopping", "bank"];
const PRINCIPALS: &[&str] = &[
    "cluster.local/ns/shop/sa/web",
    "spiffe://cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shopping/sa/web",
    "td/ns/bank/sa/teller",
    "spiffe://td/ns/bank/sa/teller",
];

fn filter<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Filter<T>> {
    // Mostly unconstrained: with six types, a match would otherwise hardly ever match.
    let values = prop::collection::vec(value, 0..3);
    (values, 0..8_u8).prop_map(|(values, which)| match which {
        0 | 1 => Filter { any_of: values, none_of: Vec::new() },
        2 => Filter { any_of: Vec::new(), none_of: values },
        3 => Filter { any_of: values.clone(), none_of: values.into_iter().skip(1).collect() },
        _ => Filter::default(),
    })
}

fn net() -> impl Strategy<Value = IpNet> {
    prop::sample::select(vec!["10.0.0.0/8", "10.0.0.1/32", "10.1.0.0/16", "::/0", "fd00::/8"])
        .prop_map(|text| text.parse().expect("literal"))
}

fn a_match() -> impl Strategy<Value = Match> {
    let account =
        (prop::sample::select(NAMESPACES), prop::sample::select(vec!["web", "teller"])).prop_map(
            |(namespace, name)| ServiceAccount { namespace: namespace.into(), name: name.into() },
        );
    (
        filter(pattern(NAMESPACES)),
        filter(pattern(PRINCIPALS)),
        filter(account),
        filter(net()),
        filter(net()),
        filter(prop::sample::select(vec![80_u16, 81, 443])),
    )
        .prop_map(|(namespaces, principals, service_accounts, source, destination, ports)| {
            Match {
                namespaces,
                principals,
                service_accounts,
                source_ips: source,
                destination_ips: destination,
                destination_ports: ports,
            }
        })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let clause = prop::collection::vec(a_match(), 0..3).prop_map(|matches| Clause { matches });
    let rule = prop::collection::vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    prop::collection::vec(rule, 0..3)
}

fn stored() -> impl Strategy<Value = Stored> {
    let scope =
        prop::sample::select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector]);
    let parts = (
        prop::sample::select(vec!["shop", "bank", ROOT]),
        scope,
        prop::sample::select(vec![Action::Allow, Action::Allow, Action::Deny]),
        prop::sample::select(vec![Mode::Enforce, Mode::Enforce, Mode::DryRun]),
        rules(),
        0..20_u8,
    );
    parts.prop_map(|(namespace, scope, action, mode, rules, readable)| {
        let name = PolicyName::new(namespace, "");
        if readable == 0 {
            let cause = String::new();
            Stored::Unreadable(UnreadablePolicy { name, binding: scope.into(), cause })
        } else {
            Stored::Policy(Policy { name, scope, action, mode, rules })
        }
    })
}

/// Policies with different names.
fn policies() -> impl Strategy<Value = Vec<Stored>> {
    prop::collection::vec(stored(), 0..6).prop_map(|mut policies| {
        for (index, stored) in policies.iter_mut().enumerate() {
            let name = match stored {
                Stored::Policy(policy) => &mut policy.name,
                Stored::Unreadable(policy) => &mut policy.name,
            };
            name.name = format!("p{index}").into();
        }
        policies
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn agrees_with_the_reference(
        policies in policies(),
        named in prop::collection::vec(
            (prop::sample::select(vec!["shop", "bank", ROOT]), 0..8_u8), 0..3),
        principal in prop::option::of(prop::sample::select(vec![
            "cluster.local/ns/shop/sa/web", "cluster.local/ns/shopping/sa/web",
            "td/ns/bank/sa/teller",
        ])),
        source in prop::sample::select(vec!["10.0.0.1:9", "10.1.2.3:9", "192.0.2.1:9", "[fd00::1]:9"]),
        port in prop::sample::select(vec![80_u16, 81, 443]),
        unenforceable_deny in prop::sample::select(vec![
            UnenforceableDeny::Deny, UnenforceableDeny::Ignore,
        ]),
    ) {
        let conn = connection(principal, source, port);
        // Mostly names that exist, now and then one that does not.
        let named: Vec<PolicyName> = named
            .into_iter()
            .map(|(namespace, index)| match policies.get(usize::from(index)) {
                Some(stored) => stored.name().clone(),
                None => PolicyName::new(namespace, "absent"),
            })
            .filter(|name| &*name.name != "absent" || policies.len() % 3 == 0)
            .collect();
        let mut workload = workload(&[]);
        workload.policies.clone_from(&named);
        let expected = reference(&policies, &named, &conn, unenforceable_deny);
        let store = PolicyStore::compile(
            policies.clone(),
            &Settings { unenforceable_deny, ..Settings::rooted(ROOT) },
        );
        let decision = crate::authorize(&store, &workload, &conn);
        let code = match &decision.verdict {
            Verdict::Allow(_) => Code::Ok,
            Verdict::Deny(denial) => denial.code,
        };
        prop_assert_eq!(code, expected, "{:?}", decision);
        if let Verdict::Deny(denial) = &decision.verdict {
            // Every refusal explains itself.
            prop_assert_eq!(
                denial.nearest_miss.is_some(),
                denial.code == Code::PolicyNoMatch,
                "{}", denial
            );
            if let Some(miss) = &denial.nearest_miss {
                prop_assert!(is_nearest(miss, &bound(&policies, &named), &conn), "{}", denial);
            }
        }
        for note in &decision.dry_run {
            if let DryRunNote::WouldDeny { policy, code, .. } = note {
                let noted = policies.iter().any(|stored| matches!(
                    stored,
                    Stored::Policy(p) if p.name == *policy && p.mode == Mode::DryRun
                        && p.action == Action::Deny
                        && reference_policy(p, &conn, *code == Code::PolicyNotEnforceable)
                ));
                prop_assert!(noted, "{} without cause", note);
            }
        }
    }
}
