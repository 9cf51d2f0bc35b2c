//! `warren`: asks the agent of this node, over its admin socket; `cp` asks a control plane in the same
//! way, `check` runs the agent's binary, `policy` asks nobody.
//!
//! One file a verb; `output` writes. Exit codes are an interface: 0 ok, 1 a check failed or the
//! agent said no, 2 wrong usage or a wrong file, 3 the agent cannot be reached.

mod args;
mod check;
mod cp;
mod flows;
mod output;
mod pods;
mod policy;
mod status;
mod why;

use std::io;
use std::process::ExitCode;

use admin::{Client, ClientError};
use clap::Parser;

use crate::args::{Arguments, PodsVerb, PolicyVerb, Verb};
use crate::output::Output;

const CHECK_FAILED: u8 = 1;
const WRONG_INPUT: u8 = 2;
const UNREACHABLE: u8 = 3;

/// Why a verb did not come to its end.
#[derive(Debug)]
enum Failed {
    /// The agent refused, or was not there.
    Agent(ClientError),
    /// The agent's binary could not be asked.
    NoAgent(String),
    /// Files say nothing that can be tested; every mistake of each.
    Input(Vec<String>),
    /// Nobody reads what is written.
    Output(io::Error),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Agent(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// What a verb found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Good,
    Bad,
}

fn main() -> ExitCode {
    // Wrong usage ends here with 2, help and version with 0.
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("warren: cannot start: {error}");
            return ExitCode::from(CHECK_FAILED);
        }
    };
    match runtime.block_on(run(&arguments)) {
        Ok(Finding::Good) => ExitCode::SUCCESS,
        Ok(Finding::Bad) => ExitCode::from(CHECK_FAILED),
        // `warren flows | head` is not a failure.
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(Failed::Output(error)) => {
            eprintln!("warren: cannot write: {error}");
            ExitCode::from(CHECK_FAILED)
        }
        Err(Failed::Input(mistakes)) => {
            for mistake in mistakes {
                eprintln!("{mistake}");
            }
            ExitCode::from(WRONG_INPUT)
        }
        Err(Failed::NoAgent(why)) => {
            eprintln!("warren: {why}");
            ExitCode::from(UNREACHABLE)
        }
        Err(Failed::Agent(error)) => {
            eprintln!("warren: {error}");
            ExitCode::from(if error.is_unreachable() { UNREACHABLE } else { CHECK_FAILED })
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Finding, Failed> {
    let mut output = Output::stdout(arguments.output);
    let agent = async || Client::connect(&arguments.socket).await;
    match &arguments.verb {
        Verb::Status => status::run(&mut agent().await?, &mut output).await,
        Verb::Pods { verb: None } => pods::list(&mut agent().await?, &mut output).await,
        Verb::Pods { verb: Some(PodsVerb::Enrol(enrol)) } => {
            pods::enrol(&mut agent().await?, &mut output, enrol).await
        }
        Verb::Pods { verb: Some(PodsVerb::Unenrol { uid }) } => {
            pods::unenrol(&mut agent().await?, &mut output, uid).await
        }
        Verb::Flows { follow, limit } => {
            flows::run(&mut agent().await?, &mut output, *follow, *limit).await
        }
        Verb::Why { source, destination } => {
            why::run(&mut agent().await?, &mut output, source, destination).await
        }
        Verb::Check { pre: _, agent } => check::run(agent.as_deref(), output.format).await,
        Verb::Cp { cp_socket, verb } => cp::run(cp_socket, verb, &mut output).await,
        Verb::Policy { verb: PolicyVerb::Test { files } } => policy::test(&mut output, files),
    }
}
