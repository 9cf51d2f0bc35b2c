//! `warren-cni`: the chained CNI plugin that holds a pod until it is captured.
//!
//! A runtime starts it for each sandbox, with `CNI_*` variables and a network configuration on
//! standard input. What to do is decided in `core/cni`; here are the variables, the streams and the
//! agent's socket. It is linked statically and uses no runtime: it must work on any node.

mod agent;

use std::env;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cni::{Answer, Environment, NETCONF_BYTES_MAX, Step, plan, unreadable};

/// A runtime writes the configuration before it waits for the plugin. One that does not is refused.
const INPUT_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let environment = environment();
    let answer = match input() {
        Ok(netconf) => match plan(&environment, &netconf) {
            Step::Answer(answer) => answer,
            Step::Ask(question) => {
                let reply = agent::ask(&question);
                question.answered(reply)
            }
        },
        Err(error) => unreadable(&environment, &error.to_string()),
    };
    give(&answer)
}

fn environment() -> Environment {
    // What is not UTF-8 gets replacement characters, which no name may have.
    let variable = |name| Some(env::var_os(name)?.to_string_lossy().into_owned());
    Environment {
        command: variable("CNI_COMMAND"),
        sandbox: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        args: variable("CNI_ARGS"),
    }
}

/// Reads standard input to its end, its bound, or the timeout.
fn input() -> io::Result<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    // Ends with the process at the latest.
    thread::Builder::new().spawn(move || {
        let max = u64::try_from(NETCONF_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
        let mut netconf = Vec::new();
        let read = io::stdin().lock().take(max).read_to_end(&mut netconf);
        // Nobody listens after the timeout.
        let _ = sender.send(read.map(|_| netconf));
    })?;
    let netconf = receiver.recv_timeout(INPUT_TIMEOUT).map_err(|_| {
        let message = format!("it did not end within {} s", INPUT_TIMEOUT.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, message)
    })??;
    if netconf.len() > NETCONF_BYTES_MAX {
        let message = format!("it has more than {NETCONF_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(netconf)
}

fn give(answer: &Answer) -> ExitCode {
    if let Some(line) = &answer.log {
        // A log that is not read is no reason to fail.
        let _ = writeln!(io::stderr(), "{line}");
    }
    let mut stdout = io::stdout().lock();
    // A result that is not read is none: then nothing was held or passed.
    match stdout.write_all(&answer.stdout).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::from(answer.exit),
        Err(_) => ExitCode::FAILURE,
    }
}
