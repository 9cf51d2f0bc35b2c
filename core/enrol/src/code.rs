//! Why a pod is not captured: one value for log, `warren pods`, event and CNI answer.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)+) => {
        /// Why a pod is not captured, or a request was refused. The text is an interface: it never
        /// changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// Every code, for documentation and tests.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

codes! {
    /// A CNI agent told of the pod without its network namespace, and it is not served.
    NetnsUnknown = "NETNS_UNKNOWN";
    /// The uid is enrolled already.
    UidTaken = "UID_TAKEN";
    /// The path is not a network namespace.
    NetnsInvalid = "NETNS_INVALID";
    /// It is the host's or the agent's namespace.
    NetnsIsHost = "NETNS_IS_HOST";
    /// Another pod is enrolled with it.
    NetnsTaken = "NETNS_TAKEN";
    /// A process of the cgroup lives in another namespace.
    NetnsMismatch = "NETNS_MISMATCH";
    /// The path is not a cgroup of the unified hierarchy.
    CgroupInvalid = "CGROUP_INVALID";
    /// It holds the agent or the kubelet, or is theirs.
    CgroupHoldsAgent = "CGROUP_HOLDS_AGENT";
    /// It is, contains or lies in another enrolled pod's.
    CgroupTaken = "CGROUP_TAKEN";
    /// The pod has no usable address yet.
    NoAddress = "NO_ADDRESS";
    /// The node has no room for another pod.
    NodeFull = "NODE_FULL";
    /// Listeners, routing or hooks could not be made.
    AttachFailed = "ATTACH_FAILED";
    /// A connection of the self-test was not captured.
    SelfTestFailed = "SELF_TEST_FAILED";
    /// The record could not be written.
    RecordFailed = "RECORD_FAILED";
    /// No such pod.
    UnknownPod = "UNKNOWN_POD";
    /// Another request for the pod is in progress.
    Busy = "BUSY";
    /// What the kernel shows of the pod contradicts what the API server says of it.
    IdentityConflict = "IDENTITY_CONFLICT";
    /// The API server says that it runs, and the kernel does not show it.
    PodNotFound = "POD_NOT_FOUND";
    /// Nothing of it runs yet.
    NotStarted = "NOT_STARTED";
    /// There was no certificate in time.
    IdentityNotReady = "IDENTITY_NOT_READY";
    /// The API server could not be asked.
    ApiAway = "API_AWAY";
    /// It was not done in time.
    TooLate = "TOO_LATE";
    /// The pod was deleted meanwhile.
    PodGone = "POD_GONE";
    /// A check found a pod that should be captured, and is not.
    NotCaptured = "NOT_CAPTURED";
    /// Hooks are attached, and something else is not as it should be.
    Degraded = "DEGRADED";
    /// The API server has the say about this pod, and says otherwise.
    ApiDecides = "API_DECIDES";
    /// The redirection annotation could not be changed.
    AnnotationFailed = "ANNOTATION_FAILED";
    /// A switch could not be read, or the kernel has no room for it.
    SwitchIgnored = "SWITCH_IGNORED";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal, with its cause for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// The stable reason.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_documentation() {
        let page = include_str!("../../../docs/enrolment.md");
        for code in Code::ALL {
            assert!(page.contains(&format!("`{code}`")), "{code}");
        }
    }

    #[test]
    fn texts_are_unique_and_shouting() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(texts.iter().all(|t| t.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')));
    }
}
