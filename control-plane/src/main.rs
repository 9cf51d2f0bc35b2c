//! The control plane's binary: parse the settings, build the app, run it, map its end to an exit
//! code. 0: stopped on request. 1: failed. 2: a setting, or a file it names, is wrong.

use std::fs::DirBuilder;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use clap::Parser;
use control_plane::app;
use control_plane::caller::{Account, JoinTokenFile};
use control_plane::config::{Arguments, Config, ServeArguments, TokenVerb, Verb};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const FAILED: u8 = 1;
const WRONG_INPUT: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.verb {
        None => serve(arguments.serve),
        Some(Verb::JoinToken { state_dir, verb }) => match join_token(&state_dir, &verb) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("control-plane: {error:#}");
                ExitCode::from(WRONG_INPUT)
            }
        },
    }
}

fn serve(arguments: ServeArguments) -> ExitCode {
    let format =
        if arguments.log_json { daemon::LogFormat::Json } else { daemon::LogFormat::Plain };
    let log = match daemon::init_logging(&arguments.log, format) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(WRONG_INPUT);
        }
    };
    let config = match Config::new(arguments) {
        Ok(config) => config,
        Err(error) => {
            drop(log);
            eprintln!("{error}");
            return ExitCode::from(WRONG_INPUT);
        }
    };
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if error.is_configuration() { WRONG_INPUT } else { FAILED };
            let error = anyhow::Error::from(error);
            // The log may be lossy and asynchronous; this line must arrive.
            drop(log);
            eprintln!("{error:#}");
            ExitCode::from(code)
        }
    }
}

fn join_token(state_dir: &Path, verb: &TokenVerb) -> anyhow::Result<ExitCode> {
    // As the control plane makes it: it will hold the authority's key.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .with_context(|| format!("cannot create {}", state_dir.display()))?;
    let file = JoinTokenFile::in_folder(state_dir);
    match verb {
        TokenVerb::Create { node, account, ttl } => {
            let account: Account = account.parse()?;
            let token = file.create(node, &account, *ttl, SystemTime::now())?;
            print(&token).context("cannot print the token")?;
        }
        TokenVerb::Revoke { token } => {
            if !file.revoke(token)? {
                eprintln!("control-plane: there is no such token");
                return Ok(ExitCode::from(FAILED));
            }
        }
        TokenVerb::List => {
            for token in file.list()? {
                println!("{}  {}  {}  {}", token.id, token.node, token.account, token.expires);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Into a file without a line's end: an unmodified agent sends the file as it is, and a header
/// cannot hold one.
fn print(token: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(token.as_bytes())?;
    if out.is_terminal() {
        out.write_all(b"\n")?;
    }
    out.flush()
}
