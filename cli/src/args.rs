//! The command line. What can be wrong without asking the agent is wrong usage.

use std::path::PathBuf;

use admin::{Subject, Target};
use clap::{Args, Parser, Subcommand, ValueEnum};
use model::{PodUid, WorkloadKey};

use crate::output::Format;

/// Operates the Warren agent of this node, and tests policies without one.
#[derive(Debug, Parser)]
#[command(
    name = "warren",
    version,
    after_help = "Exit codes: 0 ok, 1 a check failed or the agent refused, 2 wrong usage or file, \
                  3 the agent cannot be reached."
)]
pub(crate) struct Arguments {
    /// The agent's admin socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "WARREN_ADMIN_SOCKET",
        default_value = admin::DEFAULT_SOCKET
    )]
    pub(crate) socket: PathBuf,
    /// How to write the answer
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Is the agent well? Exit code 1 if something is degraded
    Status,
    /// Pods in the mesh: what is wanted, and what the kernel says
    Pods {
        #[command(subcommand)]
        verb: Option<PodsVerb>,
    },
    /// The last connections, oldest first
    Flows {
        /// Then every further one, until interrupted
        #[arg(short, long)]
        follow: bool,
        /// At most that many past ones
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// What would become of a connection, and why? Exit code 1 if it would not pass
    Why {
        /// The client: NAMESPACE/NAME, a pod's uid, or an IP address
        #[arg(value_name = "SRC", value_parser = subject)]
        source: String,
        /// The server: an IP address, NAMESPACE/NAME or a host name, and the port dialled
        #[arg(value_name = "DST:PORT", value_parser = target)]
        destination: String,
    },
    /// Could an agent work here? Before anything is attached, and without a change. Exit code 1 if
    /// something is missing
    Check {
        /// What has to be there before the agent starts
        #[arg(long, required = true)]
        pre: bool,
        /// The agent's binary, which looks; without this, the one beside this program
        #[arg(long, value_name = "PATH")]
        agent: Option<PathBuf>,
    },
    /// The control plane of this machine or pod, over its own socket
    Cp {
        /// The control plane's socket
        #[arg(
            long,
            global = true,
            value_name = "PATH",
            env = "WARREN_CP_SOCKET",
            default_value = admin::control_plane::DEFAULT_SOCKET
        )]
        cp_socket: PathBuf,
        #[command(subcommand)]
        verb: CpVerb,
    },
    /// Policies, without an agent
    Policy {
        #[command(subcommand)]
        verb: PolicyVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CpVerb {
    /// Is it well? Exit code 1 if something is wrong
    Status,
    /// Each policy, where it is enforced and what became of it. Exit code 1 if one was not accepted
    Policies,
    /// Objects with something to say about them: conditions and mistakes
    Objects,
    /// The proxies that are served
    Clients,
    /// What is sent to proxies
    Resources {
        /// Only those whose name has this in it
        #[arg(value_name = "TEXT", default_value = "")]
        containing: String,
    },
    /// The certificate authority and its roots
    Ca {
        #[command(subcommand)]
        verb: Option<CaVerb>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaVerb {
    /// Go one step of the root's rotation
    Rotate {
        /// Which one: prepare, then switch, then finish
        #[arg(value_enum)]
        step: Step,
        /// Leave behind whoever is left behind: after a key was stolen
        #[arg(long)]
        force: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Step {
    /// Make the new root and tell it to everybody
    Prepare,
    /// Sign under it
    Switch,
    /// Forget the old one; refused while somebody still needs it
    Finish,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Does every connection of the files get its verdict? Exit code 1 if one does not, 2 if a file
    /// is wrong
    Test {
        /// A file of cases, or a folder of them (*.yaml); may be given several times
        #[arg(short, long = "file", value_name = "FILE_OR_DIR", required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PodsVerb {
    /// Take a running pod into the mesh
    Enrol(EnrolArguments),
    /// Let a pod go; its open connections are left alone
    Unenrol {
        /// The pod's uid
        #[arg(value_parser = pod_uid)]
        uid: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EnrolArguments {
    /// The instance of the pod: letters, digits and -, at most 63
    #[arg(long, value_parser = pod_uid)]
    pub(crate) uid: String,
    /// Its network namespace
    #[arg(long, value_name = "PATH")]
    pub(crate) netns: PathBuf,
    /// Its cgroup; not needed where `warren status` says that capture is ebpf-root
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    /// The workload it is
    #[arg(long, value_name = "NAMESPACE/NAME/SERVICE_ACCOUNT", value_parser = workload)]
    pub(crate) workload: String,
    /// A port that the kubelet probes without identity; may be given several times
    #[arg(long = "probe-port", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) probe_ports: Vec<u16>,
    /// Capture its DNS questions, or not; without this, as the agent is set
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub(crate) dns: Option<bool>,
}

fn pod_uid(text: &str) -> Result<String, model::PodUidError> {
    PodUid::parse(text).map(|uid| uid.as_str().to_owned())
}

fn workload(text: &str) -> Result<String, model::WorkloadKeyError> {
    WorkloadKey::parse(text).map(|key| key.to_string())
}

fn subject(text: &str) -> Result<String, admin::SubjectError> {
    Subject::parse(text).map(|subject| subject.to_string())
}

fn target(text: &str) -> Result<String, admin::SubjectError> {
    Target::parse(text).map(|target| target.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_usage_needs_no_agent() {
        for (line, good) in [
            ("status", true),
            ("status --socket /x -o json", true),
            ("-o yaml status", false),
            ("pods", true),
            ("pods unenrol a-1", true),
            ("pods unenrol ../x", false),
            ("pods enrol --uid a --netns n --cgroup c --workload a/b/c", true),
            (
                "pods enrol --uid a --netns n --cgroup c --workload a/b/c --probe-port 1 --probe-port 2",
                true,
            ),
            ("pods enrol --uid a --netns n --cgroup c --workload a/b", false),
            ("pods enrol --uid a --netns n --cgroup c --workload a/b/c --probe-port 0", false),
            // By its names, where hooks are on the root; the agent refuses it elsewhere.
            ("pods enrol --uid a --netns n --workload a/b/c", true),
            ("pods enrol --uid a --cgroup c --workload a/b/c", false),
            ("flows -f -n 3", true),
            ("flows -n -1", false),
            ("why shop/web 10.0.0.1:80", true),
            ("why 10.0.0.1 [fd00::1]:80", true),
            ("policy test -f x", true),
            ("policy test -f x --file y -o json", true),
            ("policy test", false),
            ("policy", false),
            ("cp policies --cp-socket /x -o json", true),
            ("cp ca", true),
            ("cp ca rotate prepare", true),
            ("cp ca rotate finish --force", true),
            ("cp ca rotate", false),
            ("cp resources cart", true),
            ("check --pre", true),
            ("check --pre --agent /x -o json", true),
            ("check", false),
            ("cp", false),
            ("why shop/web 10.0.0.1", false),
            ("why a/b/c 10.0.0.1:80", false),
            ("", false),
            ("reboot", false),
        ] {
            let words = std::iter::once("warren").chain(line.split_whitespace());
            let parsed = Arguments::try_parse_from(words);
            assert_eq!(parsed.is_ok(), good, "{line}: {parsed:?}");
            if let Err(error) = parsed {
                assert_eq!(error.exit_code(), 2, "{line}");
            }
        }
    }
}
