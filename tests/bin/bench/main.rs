//! The benchmarks: `cargo xtask bench quick`, `core` in `decisions`, `control-plane` in `cluster` and `node`.
//!
//! `quick` is the same load directly between pods and through Warren, side by side. Both take the same veth path on the same machine in the same minute: rounds of direct and
//! Warren alternate, and what counts is the ratio within a round. Exit code 1 if any case had
//! errors; figures that come with errors mean nothing.

mod case;
mod cluster;
mod decisions;
mod field;
mod node;
mod report;

use std::process::ExitCode;

use clap::Parser;
use tests::{Teardown, World, binaries};

use crate::case::{CASES, PLACES, WAYS};
use crate::field::Field;
use crate::report::{Environment, Report};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(about = "Measures Warren")]
enum Arguments {
    /// Connections through Warren beside direct ones, every case for a few seconds.
    Quick {
        /// Rounds of direct and Warren.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Seconds that each case is measured in each round, after a warm-up.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Congestion control of every socket: the applications' and the agents'.
        #[arg(long, default_value = "cubic")]
        congestion: String,
        /// Only cases whose name holds this.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// What a large cluster costs the control plane, beside its bounds. Needs no root.
    ControlPlane {
        /// Seconds for which a thousand pods a second change.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Proxies that follow everything.
        #[arg(long, default_value_t = 100)]
        proxies: usize,
    },
    /// What the agent costs a node of Kubernetes, beside its bounds.
    Node {
        /// Only figures of parts whose name holds this: adding, crowd, miss, rollout.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// What the deciding code costs, beside its bounds. Needs no root.
    Core {
        /// Rounds of every figure.
        #[arg(long, default_value_t = 7)]
        rounds: u32,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nThe benchmark could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every case went without an error, or every figure kept its bound.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    match arguments {
        Arguments::Quick { rounds, seconds, congestion, filter } => {
            quick(*rounds, *seconds, congestion, filter)
        }
        Arguments::ControlPlane { seconds, proxies } => cluster::run(*seconds, *proxies),
        Arguments::Node { filter } => node::run(filter),
        Arguments::Core { rounds } => decisions::run(*rounds),
    }
}

fn quick(rounds: u32, seconds: f64, congestion: &str, filter: &str) -> anyhow::Result<bool> {
    end_on_signals()?;
    let world = World::new(2)?;
    let field = Field::set(&world, congestion)?;
    let mut report = Report::new(Environment::read(&world, congestion, rounds, seconds)?);
    println!("{}", report.environment());
    let cases: Vec<_> = CASES.into_iter().filter(|case| case.name.contains(filter)).collect();
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for place in PLACES {
            for case in &cases {
                // Who comes first alternates, so that a machine that slows down harms both.
                let mut ways = WAYS;
                if round % 2 == 0 {
                    ways.reverse();
                }
                for way in ways {
                    let figures = field.measure(place, case, way, seconds)?;
                    report.add(place, case, way, figures);
                }
            }
        }
    }
    println!("\n{}", report.table());
    let folder = binaries()?.with_file_name("bench");
    let path = report.write(&folder)?;
    println!("written to {}", path.display());
    Ok(report.errors() == 0)
}

/// Ctrl-C and SIGTERM take everything down.
fn end_on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let kinds = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
            let [Ok(mut interrupt), Ok(mut terminate)] = kinds else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Teardown::run_for_this_process();
            // As a shell reports an end by SIGINT.
            std::process::exit(130);
        });
    })?;
    Ok(())
}
