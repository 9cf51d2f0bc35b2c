//! `warren`: asks the agent of this node, over its admin socket.
//!
//! One file a verb; `output` writes. Exit codes are an interface: 0 ok, 1 a check failed or the
//! agent said no, 2 wrong usage, 3 the agent cannot be reached.

mod args;
mod flows;
mod output;
mod pods;
mod status;
mod why;

use std::io;
use std::process::ExitCode;

use admin::{Client, ClientError};
use clap::Parser;

use crate::args::{Arguments, PodsVerb, Verb};
use crate::output::Output;

const CHECK_FAILED: u8 = 1;
const UNREACHABLE: u8 = 3;

/// Why a verb did not come to its end.
#[derive(Debug)]
enum Failed {
    /// The agent refused, or was not there.
    Agent(ClientError),
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
        Err(Failed::Agent(error)) => {
            eprintln!("warren: {error}");
            ExitCode::from(if error.is_unreachable() { UNREACHABLE } else { CHECK_FAILED })
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Finding, Failed> {
    let mut client = Client::connect(&arguments.socket).await?;
    let mut output = Output::stdout(arguments.output);
    match &arguments.verb {
        Verb::Status => status::run(&mut client, &mut output).await,
        Verb::Pods { verb: None } => pods::list(&mut client, &mut output).await,
        Verb::Pods { verb: Some(PodsVerb::Enrol(enrol)) } => {
            pods::enrol(&mut client, &mut output, enrol).await
        }
        Verb::Pods { verb: Some(PodsVerb::Unenrol { uid }) } => {
            pods::unenrol(&mut client, &mut output, uid).await
        }
        Verb::Flows { follow, limit } => {
            flows::run(&mut client, &mut output, *follow, *limit).await
        }
        Verb::Why { source, destination } => {
            why::run(&mut client, &mut output, source, destination).await
        }
    }
}
