//! `cargo xtask bench node`: what the agent costs a node on Kubernetes, beside its bounds.
//!
//! Agents run as in their DaemonSet, pods are network namespaces and cgroups, and the API server, the
//! control plane and the runtime are the tests' own on the same two cores: times are upper bounds. Needs
//! root. Exit code 1 if a figure misses its bound.

mod adding;
mod cost;
mod crowd;
mod miss;
mod rollout;

use std::time::Duration;

use crate::decisions::{Figure, Unit, publish};

type Source = fn() -> anyhow::Result<Vec<Figure>>;

/// The parts, by name.
const SOURCES: [(&str, Source); 4] = [
    ("adding", adding::figures),
    ("crowd", crowd::figures),
    ("miss", miss::figures),
    ("rollout", rollout::figures),
];

/// Measures everything, prints the table and writes `node.json`.
pub(crate) fn run(filter: &str) -> anyhow::Result<bool> {
    crate::end_on_signals()?;
    let mut figures = Vec::new();
    for (_, source) in SOURCES.iter().filter(|(name, _)| name.contains(filter)) {
        figures.extend(source()?);
    }
    publish("node", &figures)
}

/// A duration, once or in rounds.
fn time(name: &str, rounds: &[Duration], bound: Option<Duration>) -> Figure {
    let nanoseconds = |duration: &Duration| duration.as_secs_f64() * 1e9;
    Figure {
        name: name.to_owned(),
        unit: Unit::Nanoseconds,
        rounds: rounds.iter().map(nanoseconds).collect(),
        bound: bound.as_ref().map(nanoseconds),
    }
}

/// Anything that is measured once.
fn single(name: &str, unit: Unit, value: f64, bound: Option<f64>) -> Figure {
    Figure { name: name.to_owned(), unit, rounds: vec![value], bound }
}

/// A count that has to stay zero.
fn none_of(name: &str, count: u64) -> anyhow::Result<Figure> {
    Ok(single(name, Unit::Count, f64::from(u32::try_from(count)?), Some(0.0)))
}
