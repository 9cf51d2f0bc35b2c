//! `ztunnel check --pre`: could an agent work here? Asked before the first start, by the binary, with
//! the settings and the capabilities that the agent will have, because only those count.
//!
//! Nothing is attached, created or written. Programs are loaded and let go, files are looked at, and
//! the API server is asked what we may do. Each check names what it is needed for and what to do.

mod capabilities;
mod cluster;
mod kernel;
mod mode;
mod places;
mod report;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use enrol::redirection::Ability;

use crate::config::{Config, Environment};
use places::Places;
use report::{Check, Kind, Outcome, Report};

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What is checked, and how it is told.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What has to be there before the agent starts
    #[arg(long, required = true)]
    pre: bool,
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Checks everything and tells all of it at once. Exit code 0: an agent can work here; 1: it cannot.
pub fn run(arguments: &Arguments) -> ExitCode {
    let report = Report { kernel: kernel::release(), checks: checks() };
    let text = match arguments.output {
        Format::Table => report.table(),
        Format::Json => report.json(),
    };
    print!("{text}");
    if report.is_ready() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn checks() -> Vec<Check> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let places = Places::read(variable);
    let mut checks = vec![settings(variable("NODE_NAME").is_some())];
    checks.extend(capabilities::checks(places.is_kubernetes));
    let kernel = kernel::checks();
    let works = kernel.iter().all(|check| check.outcome.is_good());
    let works = if works { Ability::Works } else { Ability::Fails };
    checks.extend(kernel);
    checks.push(mode::check(&places, works, variable));
    checks.extend(places.checks());
    if places.is_kubernetes {
        let untaints = variable("WARREN_NODE_TAINT").is_some_and(|value| value == "true");
        let more = if untaints { cluster::NODE_TAINT } else { &[] };
        checks.extend(cluster::checks(variable("NODE_NAME").as_deref(), more));
    }
    checks
}

/// The agent's own reading of its settings; somebody who looks at a bare node has none.
fn settings(is_set: bool) -> Check {
    let outcome = if is_set {
        match Config::read(&Environment::of_process()) {
            Ok(_) => Outcome::Fine,
            Err(errors) => Outcome::Missing(errors.to_string()),
        }
    } else {
        Outcome::Limited("NODE_NAME is not set: checked with the defaults".to_owned())
    };
    Check::new(Kind::Settings, "environment", "everything", outcome)
}
