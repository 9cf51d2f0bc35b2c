//! Decisions with many policies loaded, and changes of one of them.

use anyhow::Context;
use authz::{
    Action, Clause, Filter, Match, Mode, Policy, PolicyChange, PolicyStore, Question, Rule, Scope,
    Settings, Stored, StringMatch, explain,
};
use model::{PolicyName, SpiffeId, Workload};

use super::{Figure, Unit, nanoseconds_each};

const RULES: u16 = 10;
const MANY: usize = 10_000;
const FEW: usize = 10;
/// The policies of one application: one of its namespace and one that its workload names. With
/// the one of the mesh, three apply.
const EACH: usize = 2;

/// The pods of a full node.
const WORKLOADS: usize = 250;

const DECISION_BOUND: f64 = 2_000.0;
const RATIO_BOUND: f64 = 1.2;
const CHANGE_BOUND: f64 = 2_000_000.0;

pub(crate) fn figures(rounds: u32) -> anyhow::Result<Vec<Figure>> {
    let (many, few) = (store(MANY), store(FEW));
    let workloads: Vec<Workload> = (0..WORKLOADS).map(workload).collect::<Result<_, _>>()?;
    let mut figures = Vec::new();
    for kind in [Kind::Allowed, Kind::Denied, Kind::Missed] {
        let asked = Asked::new(kind)?;
        let one = |store: &PolicyStore| {
            nanoseconds_each(|_| explain(store, &workloads[0], &asked.question()))
        };
        let in_turn =
            |number: usize| explain(&many, &workloads[number % workloads.len()], &asked.question());
        asked.verify(&many, &workloads[0])?;
        asked.verify(&few, &workloads[0])?;
        let (mut with_many, mut ratios, mut turns) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            // Who comes first alternates.
            let (large, small) = if round % 2 == 0 {
                let large = one(&many)?;
                (large, one(&few)?)
            } else {
                let small = one(&few)?;
                (one(&many)?, small)
            };
            with_many.push(large);
            ratios.push(large / small);
            turns.push(nanoseconds_each(in_turn)?);
        }
        let name = |what: &str| format!("decision, {}, {what}", kind.as_str());
        figures.push(time(name("10,000 policies x 10 rules"), with_many, Some(DECISION_BOUND)));
        figures.push(Figure {
            name: name("the same over 10 policies"),
            unit: Unit::Ratio,
            rounds: ratios,
            bound: Some(RATIO_BOUND),
        });
        figures.push(time(name("250 workloads in turn"), turns, kind.bound_in_turn()));
    }
    figures.extend(changes(rounds, &many)?);
    figures.push(compiling(rounds)?);
    Ok(figures)
}

fn time(name: String, rounds: Vec<f64>, bound: Option<f64>) -> Figure {
    Figure { name, unit: Unit::Nanoseconds, rounds, bound }
}

/// A change of one policy, the end of the store before included.
fn changes(rounds: u32, many: &PolicyStore) -> anyhow::Result<Vec<Figure>> {
    let one_namespace: Vec<Stored> = (0..MANY)
        .map(|n| policy(&format!("p{n}"), "shop-0", Scope::Namespace, Action::Allow))
        .collect();
    let crowded = PolicyStore::compile(one_namespace, &Settings::rooted("istio-system"));
    [("", many, "shop-7", "namespace"), (", all in one namespace", &crowded, "shop-0", "p7")]
        .into_iter()
        .map(|(which, store, namespace, name)| {
            let changed = policy(name, namespace, Scope::Namespace, Action::Deny);
            let mut rounds_taken = Vec::new();
            for _ in 0..rounds {
                let mut store = store.clone();
                rounds_taken.push(nanoseconds_each(|_| {
                    store = store.apply(vec![PolicyChange::Set(changed.clone())]);
                })?);
            }
            let name = format!("change of one policy among 10,000{which}");
            Ok(time(name, rounds_taken, Some(CHANGE_BOUND)))
        })
        .collect()
}

/// Everything from nothing, as when an agent starts.
fn compiling(rounds: u32) -> anyhow::Result<Figure> {
    let one = |_| nanoseconds_each(|_| store(MANY));
    let rounds = (0..rounds).map(one).collect::<Result<_, _>>()?;
    Ok(time("building and compiling 10,000 policies x 10 rules".to_owned(), rounds, None))
}

/// What becomes of the connection.
#[derive(Clone, Copy)]
enum Kind {
    /// The last rule of the last ALLOW matches.
    Allowed,
    /// The last rule of the DENY matches.
    Denied,
    /// Nothing matches; the nearest miss is looked for and described.
    Missed,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Missed => "no match",
        }
    }

    /// For workloads in turn, whose policies are mostly in no cache of the core.
    fn bound_in_turn(self) -> Option<f64> {
        match self {
            Self::Allowed | Self::Denied => Some(DECISION_BOUND),
            // Describing the nearest miss reads what the operator wrote, all over the memory.
            Self::Missed => None,
        }
    }
}

struct Asked {
    kind: Kind,
    identity: SpiffeId,
    port: u16,
}

impl Asked {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        let (account, port) = match kind {
            Kind::Allowed => ("caller-9-2", 8000 + RULES - 1),
            Kind::Denied => ("caller-9-2", 9000 + RULES - 1),
            Kind::Missed => ("caller-9-9", 8000 + RULES - 1),
        };
        let identity = format!("spiffe://cluster.local/ns/named/sa/{account}");
        Ok(Self { kind, identity: SpiffeId::parse(&identity)?, port })
    }

    fn question(&self) -> Question<'_> {
        Question {
            source: [10, 1, 2, 3].into(),
            identity: Some(&self.identity),
            destination: ([10, 0, 0, 2], self.port).into(),
        }
    }

    /// That the figure measures what it says.
    fn verify(&self, store: &PolicyStore, workload: &Workload) -> anyhow::Result<()> {
        let (result, _) = explain(store, workload, &self.question());
        let said = match &result {
            Ok(reason) => format!("allowed {:?} {:?}", reason.policy(), reason.rule()),
            Err(denial) => format!("{} {:?}", denial.code, denial.rule),
        };
        let last = usize::from(RULES - 1);
        let right = match self.kind {
            Kind::Allowed => result.is_ok_and(|reason| reason.rule() == Some(last)),
            Kind::Denied => result.is_err_and(|denial| denial.rule == Some(last)),
            Kind::Missed => result.is_err_and(|denial| denial.nearest_miss.is_some()),
        };
        right.then_some(()).with_context(|| format!("the decision is another one: {said}"))
    }
}

/// One DENY of the mesh, and two ALLOWs for each of many applications.
fn store(policies: usize) -> PolicyStore {
    let mut stored = vec![policy("mesh", "istio-system", Scope::Namespace, Action::Deny)];
    for application in 0..(policies - 1).div_ceil(EACH) {
        let namespace = format!("shop-{application}");
        stored.push(policy("namespace", &namespace, Scope::Namespace, Action::Allow));
        stored.push(policy("named", &namespace, Scope::WorkloadSelector, Action::Allow));
    }
    stored.truncate(policies);
    PolicyStore::compile(stored, &Settings::rooted("istio-system"))
}

/// Ten rules, each with a port, a block of addresses and three principals.
fn policy(name: &str, namespace: &str, scope: Scope, action: Action) -> Stored {
    let first_port = match action {
        Action::Allow => 8000,
        Action::Deny => 9000,
    };
    // The policy that the workload names is judged last; its callers are others.
    let callers = if action == Action::Deny { "named" } else { name };
    let rule = |number: u16| {
        let principal = |caller: u16| {
            let text = format!("cluster.local/ns/{callers}/sa/caller-{number}-{caller}");
            StringMatch::Exact(text.into())
        };
        let from = Match {
            principals: any((0..3).map(principal).collect()),
            source_ips: any(vec!["10.0.0.0/8".parse().unwrap_or_default()]),
            ..Match::default()
        };
        let to = Match { destination_ports: any(vec![first_port + number]), ..Match::default() };
        Rule { clauses: vec![Clause { matches: vec![from] }, Clause { matches: vec![to] }] }
    };
    let name = PolicyName::new(namespace, name);
    Stored::Policy(Policy {
        name,
        scope,
        action,
        mode: Mode::Enforce,
        rules: (0..RULES).map(rule).collect(),
    })
}

fn any<T>(any_of: Vec<T>) -> Filter<T> {
    Filter { any_of, none_of: Vec::new() }
}

fn workload(application: usize) -> anyhow::Result<Workload> {
    let text = format!(
        "workloads: [{{name: cart, namespace: shop-{application}, workloadIps: [10.0.0.2], \
         authorizationPolicies: [shop-{application}/named]}}]"
    );
    let defaults = local_config::Defaults::default();
    let config = local_config::parse("bench", &text, &defaults)?;
    config.workloads.into_iter().next().context("one workload")
}
