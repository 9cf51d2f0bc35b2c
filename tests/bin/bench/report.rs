//! Medians, ratios, a table for people and a file for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};

use ::tests::World;
use anyhow::Context;
use serde::Serialize;

use crate::case::{Case, Figures, Place, Unit, Way};

/// What the figures depend on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    kernel: String,
    cores: usize,
    /// Of every socket of the load and of the agents.
    congestion_control: String,
    /// What the kernel would have used.
    congestion_control_of_the_machine: String,
    time_wait_sockets_max: String,
    port_range: String,
    rounds: u32,
    seconds: f64,
}

impl Environment {
    pub(crate) fn read(
        world: &World,
        congestion: &str,
        rounds: u32,
        seconds: f64,
    ) -> anyhow::Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel release")?;
        let node = world.node(1).namespace();
        Ok(Self {
            kernel: kernel.trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            congestion_control: congestion.to_owned(),
            congestion_control_of_the_machine: node.sysctl("ipv4/tcp_congestion_control")?,
            time_wait_sockets_max: node.sysctl("ipv4/tcp_max_tw_buckets")?,
            port_range: node.sysctl("ipv4/ip_local_port_range")?.replace('\t', "-"),
            rounds,
            seconds,
        })
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "kernel {}, {} cores; congestion control {} on every socket (the machine's: {})",
            self.kernel,
            self.cores,
            self.congestion_control,
            self.congestion_control_of_the_machine,
        )?;
        write!(
            f,
            "in every namespace: at most {} sockets in TIME_WAIT, ports {}; {} rounds of {} s",
            self.time_wait_sockets_max, self.port_range, self.rounds, self.seconds,
        )
    }
}

/// Everything measured.
pub(crate) struct Report {
    environment: Environment,
    /// By place and case, in the order of measuring.
    rows: BTreeMap<(Place, usize), Row>,
    order: Vec<&'static str>,
}

struct Row {
    unit: Unit,
    direct: Vec<Figures>,
    warren: Vec<Figures>,
}

/// One case of the file.
#[derive(Serialize)]
struct Entry<'a> {
    place: &'static str,
    case: &'static str,
    unit: &'static str,
    direct_median: f64,
    warren_median: f64,
    ratio_median: f64,
    ratio_min: f64,
    ratio_max: f64,
    errors: u64,
    direct: &'a [Figures],
    warren: &'a [Figures],
}

#[derive(Serialize)]
struct Document<'a> {
    environment: &'a Environment,
    cases: Vec<Entry<'a>>,
}

impl Report {
    pub(crate) fn new(environment: Environment) -> Self {
        Self { environment, rows: BTreeMap::new(), order: Vec::new() }
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(crate) fn add(&mut self, place: Place, case: &Case, way: Way, figures: Figures) {
        let known = self.order.iter().position(|name| *name == case.name);
        let index = known.unwrap_or_else(|| {
            self.order.push(case.name);
            self.order.len() - 1
        });
        let row = self.rows.entry((place, index)).or_insert_with(|| Row {
            unit: case.unit,
            direct: Vec::new(),
            warren: Vec::new(),
        });
        match way {
            Way::Direct => row.direct.push(figures),
            Way::Warren => row.warren.push(figures),
        }
    }

    /// Operations that failed, in all cases together.
    pub(crate) fn errors(&self) -> u64 {
        self.rows.values().map(Row::errors).sum()
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<11} {:<6} {:>13} {:>13}  {:<19} {:>17} {:>13} {:>7}\n",
            "PLACE",
            "CASE",
            "DIRECT",
            "WARREN",
            "WARREN / DIRECT",
            "p99 DIRECT/WARREN",
            "AGENT CPU",
            "ERRORS"
        );
        for ((place, case), row) in &self.rows {
            let [low, middle, high] = spread(&row.ratios());
            let (direct, warren) =
                (median_of(&row.direct, row.unit), median_of(&row.warren, row.unit));
            let p99 = |figures: &[Figures]| spread(&map(figures, |f| f.p99_us))[1];
            let (tails, cost) = match row.unit {
                Unit::Operations => (
                    format!("{:.0}/{:.0} us", p99(&row.direct), p99(&row.warren)),
                    format!("{:.0} us/op", row.cpu_cost()),
                ),
                Unit::Bytes => ("-".to_owned(), format!("{:.2} s/GB", row.cpu_cost())),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<11} {:<6} {:>13} {:>13}  {:<19} {tails:>17} {cost:>13} {:>7}",
                place.as_str(),
                self.order[*case],
                rate(direct, row.unit),
                rate(warren, row.unit),
                format!("{middle:.2} [{low:.2}-{high:.2}]"),
                row.errors(),
            );
        }
        text
    }

    /// Writes `quick.json` into a folder.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let cases = self.rows.iter().map(|((place, case), row)| {
            let [ratio_min, ratio_median, ratio_max] = spread(&row.ratios());
            Entry {
                place: place.as_str(),
                case: self.order[*case],
                unit: match row.unit {
                    Unit::Operations => "operations/s",
                    Unit::Bytes => "bytes/s",
                },
                direct_median: median_of(&row.direct, row.unit),
                warren_median: median_of(&row.warren, row.unit),
                ratio_median,
                ratio_min,
                ratio_max,
                errors: row.errors(),
                direct: &row.direct,
                warren: &row.warren,
            }
        });
        let document = Document { environment: &self.environment, cases: cases.collect() };
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let path = folder.join("quick.json");
        let text = serde_json::to_string_pretty(&document).context("write the figures")?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Row {
    /// Warren's rate over the direct one, round by round.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.direct.iter().zip(&self.warren);
        pairs
            .map(|(direct, warren)| {
                let base = direct.rate(self.unit);
                if base > 0.0 { warren.rate(self.unit) / base } else { 0.0 }
            })
            .collect()
    }

    fn errors(&self) -> u64 {
        self.direct.iter().chain(&self.warren).map(|figures| figures.errors).sum()
    }

    fn cpu_cost(&self) -> f64 {
        spread(&map(&self.warren, |figures| figures.cpu_cost(self.unit)))[1]
    }
}

fn map(figures: &[Figures], value: impl Fn(&Figures) -> f64) -> Vec<f64> {
    figures.iter().map(value).collect()
}

fn median_of(figures: &[Figures], unit: Unit) -> f64 {
    spread(&map(figures, |figures| figures.rate(unit)))[1]
}

/// Least, median and greatest; zeros of nothing.
pub(crate) fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match (sorted.len() % 2, middle.checked_sub(1)) {
        (0, Some(below)) => f64::midpoint(sorted[below], sorted[middle]),
        (0, None) => 0.0,
        _ => sorted[middle],
    };
    let end = |value: Option<&f64>| value.copied().unwrap_or(0.0);
    [end(sorted.first()), median, end(sorted.last())]
}

fn rate(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Operations => format!("{value:.0} op/s"),
        Unit::Bytes => format!("{:.2} Gbit/s", value * 8.0 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_between_the_ends() {
        for (values, expected) in [
            (&[][..], [0.0, 0.0, 0.0]),
            (&[3.0][..], [3.0, 3.0, 3.0]),
            (&[3.0, 1.0][..], [1.0, 2.0, 3.0]),
            (&[9.0, 1.0, 2.0][..], [1.0, 2.0, 9.0]),
        ] {
            let found = spread(values);
            assert!(
                found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9),
                "{values:?}: {found:?}"
            );
        }
    }
}
