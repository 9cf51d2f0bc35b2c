//! `cargo xtask bench core`: what the deciding code costs, each figure beside its bound.
//!
//! One thread, no sockets, no root. Times are CPU time of that thread, so that a busy machine
//! does not count against the code. A figure counts by its median over the rounds; exit code 1 if
//! one misses its bound.

mod machine;
mod policy;
mod push;
mod routes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::report::spread;

/// Measures its figures in that many rounds.
type Source = fn(u32) -> anyhow::Result<Vec<Figure>>;

/// Who measures what. Routes come first: the memory that they take is seen best in a process that
/// freed nothing yet.
const SOURCES: [Source; 4] = [routes::figures, push::figures, machine::figures, policy::figures];

/// Operations of one round are repeated until they took this long, so that the clock's resolution
/// does not matter.
const ROUND_NANOSECONDS: u64 = 20_000_000;

/// One measured figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What was measured, and on how much.
    pub(crate) name: String,
    pub(crate) unit: Unit,
    /// One value a round.
    pub(crate) rounds: Vec<f64>,
    /// The most that the median may be; none where it is only told.
    pub(crate) bound: Option<f64>,
}

/// What values are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    Nanoseconds,
    Ratio,
    Mebibytes,
    Count,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds if value < 10_000.0 => format!("{value:.0} ns"),
            Self::Nanoseconds if value < 1e7 => format!("{:.1} µs", value / 1e3),
            Self::Nanoseconds => format!("{:.1} ms", value / 1e6),
            Self::Ratio if value < 0.1 => format!("{value:.4}x"),
            Self::Ratio => format!("{value:.2}x"),
            Self::Mebibytes if value < 100.0 => format!("{value:.1} MiB"),
            Self::Mebibytes => format!("{value:.0} MiB"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

impl Figure {
    fn missed(&self) -> bool {
        let median = spread(&self.rounds)[1];
        // What was not measured is missed.
        self.rounds.is_empty() || self.bound.is_some_and(|bound| median > bound)
    }

    fn verdict(&self) -> &'static str {
        match (self.missed(), self.bound) {
            (true, _) => "MISSED",
            (false, Some(_)) => "ok",
            (false, None) => "-",
        }
    }

    fn row(&self) -> String {
        let [low, median, high] = spread(&self.rounds).map(|value| self.unit.show(value));
        let bound = self.bound.map_or_else(|| "-".to_owned(), |bound| self.unit.show(bound));
        let verdict = self.verdict();
        format!("{:<58} {median:>10}  {low:>10} {high:>10}  {bound:>10}  {verdict}", self.name)
    }
}

/// CPU time of this thread so far.
pub(crate) fn cpu_nanoseconds() -> anyhow::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the CPU clock")?;
    let seconds = u64::try_from(time.tv_sec()).context("the CPU clock is negative")?;
    let nanoseconds = u64::try_from(time.tv_nsec()).context("the CPU clock is negative")?;
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// Nanoseconds of one operation; `operation` gets the number of each. Repeats it for a round.
pub(crate) fn nanoseconds_each<T>(mut operation: impl FnMut(usize) -> T) -> anyhow::Result<f64> {
    let (mut done, mut batch) = (0_usize, 1_usize);
    let start = cpu_nanoseconds()?;
    loop {
        for number in done..done.saturating_add(batch) {
            std::hint::black_box(operation(std::hint::black_box(number)));
        }
        done = done.saturating_add(batch);
        let took = cpu_nanoseconds()?.saturating_sub(start);
        if took >= ROUND_NANOSECONDS {
            #[expect(
                clippy::cast_precision_loss,
                clippy::as_conversions,
                reason = "both are small"
            )]
            return Ok(took as f64 / done as f64);
        }
        batch = batch.saturating_mul(2);
    }
}

/// Measures everything, prints the table and writes `core.json`. Whether every bound was kept.
pub(crate) fn run(rounds: u32) -> anyhow::Result<bool> {
    let mut figures = Vec::new();
    println!("CPU time of one thread, {rounds} rounds\n");
    println!("{}", header());
    for source in SOURCES {
        for figure in source(rounds)? {
            println!("{}", figure.row());
            figures.push(figure);
        }
    }
    conclude("core", &figures)
}

/// Prints the figures of another benchmark and writes them. Whether every bound was kept.
pub(crate) fn publish(name: &str, figures: &[Figure]) -> anyhow::Result<bool> {
    println!("\n{}", header());
    for figure in figures {
        println!("{}", figure.row());
    }
    conclude(name, figures)
}

fn header() -> String {
    format!("{:<58} {:>10}  {:>10} {:>10}  {:>10}", "FIGURE", "MEDIAN", "LEAST", "MOST", "BOUND")
}

fn conclude(name: &str, figures: &[Figure]) -> anyhow::Result<bool> {
    let path = write(name, figures)?;
    println!("\nwritten to {}", path.display());
    let missed = figures.iter().filter(|figure| figure.missed()).count();
    if missed > 0 {
        println!("{missed} of {} figures missed their bounds", figures.len());
    }
    Ok(missed == 0 && !figures.is_empty())
}

/// Beside the binaries, as `bench quick` does.
fn write(name: &str, figures: &[Figure]) -> anyhow::Result<PathBuf> {
    let folder = ::tests::binaries()?.with_file_name("bench");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(format!("{name}.json"));
    write_to(&path, figures)?;
    Ok(path)
}

fn write_to(path: &Path, figures: &[Figure]) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(figures).context("write the figures")?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_misses_its_bound_by_its_median() {
        let figure = |rounds: &[f64], bound| Figure {
            name: "one".to_owned(),
            unit: Unit::Nanoseconds,
            rounds: rounds.to_vec(),
            bound,
        };
        for (rounds, bound, verdict) in [
            (&[1.0, 2.0, 9.0][..], Some(2.0), "ok"),
            (&[1.0, 3.0, 3.0], Some(2.0), "MISSED"),
            (&[9.0], None, "-"),
            (&[], Some(2.0), "MISSED"),
        ] {
            assert_eq!(figure(rounds, bound).verdict(), verdict, "{rounds:?}");
        }
    }

    #[test]
    fn values_are_shown_in_their_unit() {
        for (unit, value, text) in [
            (Unit::Nanoseconds, 999.6, "1000 ns"),
            (Unit::Nanoseconds, 20_000.0, "20.0 µs"),
            (Unit::Nanoseconds, 2e7, "20.0 ms"),
            (Unit::Ratio, 1.204, "1.20x"),
            (Unit::Ratio, 0.0047, "0.0047x"),
            (Unit::Mebibytes, 12.64, "12.6 MiB"),
            (Unit::Mebibytes, 512.6, "513 MiB"),
            (Unit::Count, 0.0, "0"),
        ] {
            assert_eq!(unit.show(value), text);
        }
    }
}
