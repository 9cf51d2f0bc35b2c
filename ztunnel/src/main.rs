//! The node proxy's binary: parse the configuration, build the app, run it, map its end to an exit
//! code. 0: stopped on request. 1: failed. 2: the configuration or a file it names is wrong. 75: another
//! agent has its place.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ztunnel::app::{self, End};
use ztunnel::capture::self_test;
use ztunnel::check;
use ztunnel::config::{self, Config, Environment};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of an agent that another one has replaced, `EX_TEMPFAIL` of sysexits.h. A supervisor that
/// starts it again would have it take the place back, and so on: `deploy/systemd` prevents that.
const REPLACED: u8 = 75;

#[derive(Parser)]
#[command(name = "ztunnel", version, about = "Warren's node proxy")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node proxy (the default).
    Proxy,
    /// Look whether the agent could work here, with its settings and capabilities; changes nothing.
    /// Exit code 1 if something is missing.
    Check(check::Arguments),
    /// Print the table of settings in Markdown.
    Settings,
    /// Connect through a pod's own hooks; the agent runs this for every pod it enrols.
    #[command(hide = true)]
    SelfTest(self_test::Arguments),
}

fn main() -> ExitCode {
    match Cli::parse().command.unwrap_or(Command::Proxy) {
        Command::Proxy => proxy(),
        Command::Check(arguments) => check::run(&arguments),
        Command::Settings => {
            print!("{}", config::markdown());
            ExitCode::SUCCESS
        }
        Command::SelfTest(arguments) => self_test::run(&arguments),
    }
}

fn proxy() -> ExitCode {
    let config = match Config::read(&Environment::of_process()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    let log = match daemon::init_logging(&config.log_filter, config.log_format) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match app::run(config, &log) {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        Ok(End::Replaced) => ExitCode::from(REPLACED),
        Err(error) => {
            let code = if error.is_configuration() { 2 } else { 1 };
            let error = anyhow::Error::from(error);
            // The log may be lossy and asynchronous; this line must arrive.
            drop(log);
            eprintln!("{error:#}");
            ExitCode::from(code)
        }
    }
}
