//! One call of the plugin: from a runtime's variables and input to a question for the agent, and
//! from its reply to what the runtime reads.
//!
//! ADD fails closed: a pod of Kubernetes passes only if the agent says so, or if its namespace is
//! one of those that never are in the mesh. DEL always succeeds, and STATUS whatever the agent says: a
//! kubelet starts no pod on a node whose network is not ready, the agent's own included.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::args::{Args, ArgsError, Kubernetes};
use crate::codes::{code, number, number_of};
use crate::netconf::{NetConf, NetConfError};
use crate::request::{Reply, Request, RequestError, SandboxEnd, SandboxRequest, Work};
use crate::result;
use crate::sandbox::{NetnsPath, SandboxError, SandboxId};
use crate::version::Version;

/// The values of `CNI_COMMAND`.
pub const VERBS: [&str; 6] = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"];
/// DEL waits that long and succeeds: an agent that is away finds out by itself.
const DELETE_WAIT: Duration = Duration::from_secs(2);
/// STATUS waits that long for what goes into a log.
const STATUS_WAIT: Duration = Duration::from_secs(2);
/// How long an agent may be away before ADD and CHECK say so. An agent that is replaced or restarts at once
/// is missed by nobody.
const PATIENCE: Duration = Duration::from_secs(4);
/// The agent gives up that much before the plugin, so that its reason arrives.
const REPLY_MARGIN: Duration = Duration::from_millis(250);

/// The variables that a runtime sets.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub sandbox: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
}

/// What to do for a call.
#[derive(Debug)]
pub enum Step {
    /// Nothing more: this is the answer.
    Answer(Answer),
    /// Ask the agent, then [`Question::answered`].
    Ask(Box<Question>),
}

/// What the runtime reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Standard output: a result, an error object, or nothing.
    pub stdout: Vec<u8>,
    /// The exit code: 0, or 1 with an error object.
    pub exit: u8,
    /// A line for standard error, which runtimes keep in their logs.
    pub log: Option<String>,
}

/// A question for the agent.
#[derive(Debug)]
pub struct Question {
    verb: Verb,
    version: Version,
    /// The pod or sandbox, for the log.
    subject: String,
    socket: PathBuf,
    work: Work,
    wait: Duration,
    patience: Duration,
    /// What ADD prints when all is well.
    result: Vec<u8>,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nobody answers on the socket, or whoever did is gone; with the cause.
    Away(String),
    /// Time is up.
    Slow,
    /// What came is no reply; with the cause.
    Unreadable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// An error as the specification has it.
#[derive(Debug)]
struct Failure {
    version: Version,
    number: u32,
    code: String,
    message: String,
}

/// Says what to do for a call. Total: whatever comes in, there is an answer.
#[must_use]
pub fn plan(environment: &Environment, netconf: &[u8]) -> Step {
    let verb = match Verb::of(environment) {
        Ok(verb) => verb,
        Err(failure) => return Step::Answer(failure.answer("call")),
    };
    match prepare(verb, environment, netconf) {
        Ok(step) => step,
        Err(failure) => Step::Answer(conclude(verb, failure, verb.as_str())),
    }
}

/// The answer when the configuration could not be read from standard input, or was too long.
#[must_use]
pub fn unreadable(environment: &Environment, cause: &str) -> Answer {
    let message = format!("the network configuration cannot be read: {cause}");
    let failure =
        Failure::new(Version::NEWEST, number::IO_FAILURE, code::NETCONF_UNREADABLE, message);
    match Verb::of(environment) {
        Ok(verb) => conclude(verb, failure, verb.as_str()),
        Err(failure) => failure.answer("call"),
    }
}

/// DEL succeeds in any case: a sandbox that cannot be deleted blocks its pod for ever, and the agent
/// forgets sandboxes that are gone by itself.
fn conclude(verb: Verb, failure: Failure, what: &str) -> Answer {
    match verb {
        Verb::Del => failure.noted(what),
        Verb::Add | Verb::Check | Verb::Gc | Verb::Status | Verb::Version => failure.answer(what),
    }
}

fn prepare(verb: Verb, environment: &Environment, netconf: &[u8]) -> Result<Step, Failure> {
    if verb == Verb::Version {
        return Ok(Step::Answer(versions(netconf)));
    }
    let netconf = NetConf::parse(netconf).map_err(Failure::from)?;
    let version = netconf.version;
    if version < verb.since() {
        let message = format!("{} is not in version {version} of CNI", verb.as_str());
        let number = number::INCOMPATIBLE_VERSION;
        return Err(Failure::new(version, number, code::VERSION_UNSUPPORTED, message));
    }
    match verb {
        Verb::Add | Verb::Check => hold(verb, environment, &netconf),
        Verb::Del => delete(environment, &netconf),
        Verb::Gc => Ok(collect(netconf)),
        Verb::Status => Ok(Question::new(verb, &netconf, "node", Work::Status).step()),
        Verb::Version => Ok(Step::Answer(Answer::nothing())),
    }
}

/// ADD and CHECK.
fn hold(verb: Verb, environment: &Environment, netconf: &NetConf<'_>) -> Result<Step, Failure> {
    let version = netconf.version;
    let Some(previous) = netconf.previous else {
        let message = format!(
            "there is no prevResult: {} must come after the plugin that makes the network",
            crate::PLUGIN
        );
        return Err(Failure::new(version, number::INVALID_NETCONF, code::NOT_CHAINED, message));
    };
    let result = if verb == Verb::Add { previous.as_bytes().to_vec() } else { Vec::new() };
    let pass = |result| Ok(Step::Answer(Answer { stdout: result, ..Answer::nothing() }));
    let pod = match pod(environment).map_err(|error| Failure::args(version, &error))? {
        // Not a pod of Kubernetes: nothing that could be in the mesh.
        Args::Elsewhere => return pass(result),
        Args::Kubernetes(pod) => pod,
    };
    if netconf.passes(&pod) {
        return pass(result);
    }
    let request = sandbox(environment, &pod, previous, version)?;
    let subject = format!("{}/{} in sandbox {}", request.namespace, request.name, request.sandbox);
    let work = if verb == Verb::Add { Work::Add(request) } else { Work::Check(request) };
    Ok(Question { result, ..Question::new(verb, netconf, &subject, work) }.step())
}

fn sandbox(
    environment: &Environment,
    pod: &Kubernetes,
    previous: &str,
    version: Version,
) -> Result<SandboxRequest, Failure> {
    let args = |error: ArgsError| Failure::args(version, &error);
    let of_runtime = |error: SandboxError| Failure::environment(version, &error);
    let addresses = result::addresses(previous).map_err(|error| {
        let number = number::INVALID_NETCONF;
        Failure::new(version, number, code::NETCONF_INVALID, error.to_string())
    })?;
    Ok(SandboxRequest {
        uid: pod.uid().map_err(args)?,
        namespace: pod.namespace.clone(),
        name: pod.name().map_err(args)?,
        sandbox: SandboxId::new(environment.sandbox.clone().unwrap_or_default())
            .map_err(of_runtime)?,
        netns: NetnsPath::new(environment.netns.clone().unwrap_or_default()).map_err(of_runtime)?,
        addresses,
    })
}

fn delete(environment: &Environment, netconf: &NetConf<'_>) -> Result<Step, Failure> {
    let sandbox = SandboxId::new(environment.sandbox.clone().unwrap_or_default())
        .map_err(|error| Failure::environment(netconf.version, &error))?;
    // Deleting must work with whatever is left of a sandbox, so its pod is only a hint.
    let uid = match pod(environment) {
        Ok(Args::Elsewhere) => return Ok(Step::Answer(Answer::nothing())),
        Ok(Args::Kubernetes(pod)) if netconf.passes(&pod) => {
            return Ok(Step::Answer(Answer::nothing()));
        }
        Ok(Args::Kubernetes(pod)) => pod.uid().ok(),
        Err(_) => None,
    };
    let subject = format!("sandbox {sandbox}");
    let work = Work::Delete(SandboxEnd { sandbox, uid });
    Ok(Question::new(Verb::Del, netconf, &subject, work).step())
}

fn collect(mut netconf: NetConf<'_>) -> Step {
    // An absent list is not an empty one, which would end every pod.
    let Some(valid) = netconf.valid.take() else {
        let log = format!("{}: GC: nothing is collected: no list of what is valid", crate::PLUGIN);
        return Step::Answer(Answer { log: Some(log), ..Answer::nothing() });
    };
    let subject = format!("all but {} attachments", valid.len());
    Question::new(Verb::Gc, &netconf, &subject, Work::Gc(valid)).step()
}

fn pod(environment: &Environment) -> Result<Args, ArgsError> {
    Args::parse(environment.args.as_deref().unwrap_or_default())
}

/// VERSION, in the version of the caller where that is one of ours.
fn versions(netconf: &[u8]) -> Answer {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        cni_version: &'static str,
        supported_versions: [&'static str; Version::ALL.len()],
    }
    let version = NetConf::parse(netconf).map_or(Version::NEWEST, |netconf| netconf.version);
    let supported_versions = Version::ALL.map(Version::as_str);
    let versions = Versions { cni_version: version.as_str(), supported_versions };
    Answer { stdout: json(&versions), ..Answer::nothing() }
}

impl NetConf<'_> {
    fn passes(&self, pod: &Kubernetes) -> bool {
        self.pass_namespaces.iter().any(|namespace| namespace == pod.namespace.as_str())
    }
}

impl Question {
    fn new(verb: Verb, netconf: &NetConf<'_>, subject: &str, work: Work) -> Self {
        let (wait, patience) = match verb {
            Verb::Del => (DELETE_WAIT, Duration::ZERO),
            Verb::Status => (STATUS_WAIT.min(netconf.timeout), Duration::ZERO),
            Verb::Gc => (netconf.timeout, Duration::ZERO),
            Verb::Add | Verb::Check | Verb::Version => (netconf.timeout, PATIENCE),
        };
        Self {
            verb,
            version: netconf.version,
            subject: subject.to_owned(),
            socket: netconf.socket.clone(),
            work,
            wait,
            patience: patience.min(wait),
            result: Vec::new(),
        }
    }

    fn step(self) -> Step {
        Step::Ask(Box::new(self))
    }

    /// Where the agent listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How long all attempts together may take.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Within that time from the start, an agent that is away is asked again. What is asked may be
    /// asked twice.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The line to send when `left` is left of the time.
    pub fn line(&self, left: Duration) -> Result<Vec<u8>, RequestError> {
        let wait = left.saturating_sub(REPLY_MARGIN);
        Request { wait, work: self.work.clone() }.encode()
    }

    /// What the runtime reads.
    #[must_use]
    pub fn answered(self, reply: Result<Reply, Silence>) -> Answer {
        let (number, code, message) = match reply {
            Ok(Reply::Done) => return Answer { stdout: self.result, ..Answer::nothing() },
            Ok(Reply::Refused(refusal)) => {
                (number_of(&refusal.code), refusal.code, refusal.message)
            }
            Err(silence) => self.unanswered(&silence),
        };
        let failure = Failure { version: self.version, number, code, message };
        let what = format!("{} {}", self.verb.as_str(), self.subject);
        match self.verb {
            // Pods of the namespaces that pass can be added, and one of them is the agent that is missing.
            Verb::Status => failure.noted(&what),
            Verb::Add | Verb::Del | Verb::Check | Verb::Gc | Verb::Version => {
                conclude(self.verb, failure, &what)
            }
        }
    }

    fn unanswered(&self, silence: &Silence) -> (u32, String, String) {
        let socket = self.socket.display();
        let (number, code, mut message) = match silence {
            Silence::Away(cause) => {
                let message = format!("Warren's agent does not answer on {socket}: {cause}.");
                (number::TRY_AGAIN, code::AGENT_AWAY, message)
            }
            Silence::Slow => {
                let seconds = self.wait.as_secs_f32();
                let message = format!("Warren's agent gave no answer within {seconds} s.");
                (number::TRY_AGAIN, code::AGENT_SLOW, message)
            }
            Silence::Unreadable(cause) => {
                let message = format!("What answers on {socket} is not this agent: {cause}.");
                (number::UNREADABLE_ANSWER, code::AGENT_UNREADABLE, message)
            }
        };
        if self.verb == Verb::Add {
            message.push_str(
                " The pod is not started outside the mesh; this is tried again by itself. Look at \
                 the agent's pod on this node (DaemonSet ztunnel).",
            );
        }
        (number, code.to_owned(), message)
    }
}

impl Answer {
    fn nothing() -> Self {
        Self { stdout: Vec::new(), exit: 0, log: None }
    }
}

impl Verb {
    fn of(environment: &Environment) -> Result<Self, Failure> {
        let message = match environment.command.as_deref() {
            Some("ADD") => return Ok(Self::Add),
            Some("DEL") => return Ok(Self::Del),
            Some("CHECK") => return Ok(Self::Check),
            Some("GC") => return Ok(Self::Gc),
            Some("STATUS") => return Ok(Self::Status),
            Some("VERSION") => return Ok(Self::Version),
            Some(other) => format!("CNI_COMMAND is {other:?}, not one of {}", VERBS.join(", ")),
            None => "CNI_COMMAND is not set: this is a plugin for container runtimes".to_owned(),
        };
        Err(Failure::new(Version::NEWEST, number::INVALID_ENVIRONMENT, code::ARGS_INVALID, message))
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The version that brought it.
    fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }
}

impl Failure {
    fn new(version: Version, number: u32, code: &str, message: String) -> Self {
        Self { version, number, code: code.to_owned(), message }
    }

    fn args(version: Version, error: &ArgsError) -> Self {
        Self::new(version, number::INVALID_ENVIRONMENT, code::ARGS_INVALID, error.to_string())
    }

    fn environment(version: Version, error: &SandboxError) -> Self {
        Self::new(version, number::INVALID_ENVIRONMENT, code::ARGS_INVALID, error.to_string())
    }

    fn line(&self, what: &str) -> String {
        format!("{}: {what}: {}: {}", crate::PLUGIN, self.code, self.message)
    }

    /// Success, and the reason in the runtime's log.
    fn noted(&self, what: &str) -> Answer {
        Answer { log: Some(self.line(what)), ..Answer::nothing() }
    }

    fn answer(self, what: &str) -> Answer {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Error<'a> {
            cni_version: &'static str,
            code: u32,
            msg: &'a str,
            details: &'a str,
        }
        let error = Error {
            cni_version: self.version.as_str(),
            code: self.number,
            msg: &self.code,
            details: &self.message,
        };
        Answer { stdout: json(&error), exit: 1, log: Some(self.line(what)) }
    }
}

impl From<NetConfError> for Failure {
    fn from(error: NetConfError) -> Self {
        let (number, code) = match &error {
            NetConfError::Unreadable(_) => (number::UNDECODABLE, code::NETCONF_UNREADABLE),
            NetConfError::Version(_) => (number::INCOMPATIBLE_VERSION, code::VERSION_UNSUPPORTED),
            NetConfError::Invalid(_)
            | NetConfError::Socket(_)
            | NetConfError::Timeout(_)
            | NetConfError::Attachment(_) => (number::INVALID_NETCONF, code::NETCONF_INVALID),
        };
        Self::new(Version::NEWEST, number, code, error.to_string())
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers are JSON")
}

#[cfg(test)]
mod tests;
