//! `cargo xtask demo`: two nodes with pods, made of network namespaces and cgroups, and Warren
//! shown at work on real connections.
//!
//! Exit code 0 if every check held, 1 if one did not, 130 if a signal came. Everything is taken
//! down in every case; with `--keep`, once Ctrl-C is pressed.

mod checks;
mod keep;
mod kubernetes;
mod narrator;
mod signals;
mod stage;
mod wire;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tests::{Kubernetes, World};

use crate::narrator::Narrator;
use crate::signals::Signals;
use crate::stage::Stage;

#[derive(Parser)]
#[command(about = "Shows Warren at work between two nodes on this machine")]
struct Arguments {
    /// Leave everything up, print commands to try, and wait for Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// On a real Kubernetes with two nodes instead of bare namespaces.
    #[arg(long)]
    kubernetes: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let run = if arguments.kubernetes { on_kubernetes } else { run };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            signals::hold_if_interrupted();
            eprintln!("\nThe demo could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every check held.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let start = Instant::now();
    let mut narrator = Narrator::default();
    narrator::title("Warren: two nodes on this machine");
    let signals = Signals::install()?;
    let world = World::new(2)?;
    let stage = Stage::set(&world, &mut narrator)?;
    checks::run(&stage, &mut narrator)?;
    let good = narrator.summary(start.elapsed());
    if arguments.keep {
        keep::invite(&stage)?;
        signals.wait_for_one();
        println!("\nTaking everything down.");
    }
    Ok(good)
}

/// The same on a cluster.
fn on_kubernetes(arguments: &Arguments) -> anyhow::Result<bool> {
    let start = Instant::now();
    let mut narrator = Narrator::default();
    narrator::title("Warren: a Kubernetes cluster on this machine");
    let signals = Signals::install()?;
    let cluster = Kubernetes::start(2)?;
    let stage = kubernetes::Stage::set(&cluster, &mut narrator)?;
    kubernetes::run(&stage, &mut narrator);
    let good = narrator.summary(start.elapsed());
    if arguments.keep {
        stage.invite()?;
        signals.wait_for_one();
        println!("\nTaking everything down.");
    }
    Ok(good)
}
