//! From a packet to a captured connection: eBPF hooks, listeners in the pod, enrolment.
//!
//! `bpf`, `programs`, `pins`, `hooks`, `root` and `probe` are the kernel's side: what is attached where.
//! `node`, `enrol`, `live`, `adopt`, `watch` and `leave` are a pod's life, from request to cleanup, `moving` from
//! one kind of hooks to the other;
//! `succession` gives all pods to the next agent.
//! `external` serves pods that somebody else redirects, without hooks; `capturing` is one or the other.
//! `pod` and `questions` are what the data plane gets of it: acceptors that yield connections, and
//! sockets that yield questions to resolvers.

mod adopt;
mod agent_cgroup;
pub mod bpf;
mod capturing;
mod cgroup_child;
mod enrol;
mod enrolled;
mod external;
mod ground;
mod home;
pub mod hooks;
mod host;
mod kubelet;
mod leave;
mod listeners;
mod live;
mod moving;
mod node;
mod pending;
pub mod pins;
mod pod;
pub mod probe;
pub mod programs;
mod questions;
mod records;
mod root;
pub mod self_test;
mod succession;
mod view;
mod watch;

pub use self::enrol::{EnrolCode, EnrolError, EnrolRequest};
pub use adopt::AdoptAllError;
pub use agent_cgroup::{AgentCgroup, Cgroup, CgroupError};
pub use capturing::{Capturing, Prepared};
pub use enrolled::Enrolled;
pub use external::{Connection, External, ExternalConfig};
pub use host::{HostError, HostView, Process};
pub(crate) use host::{kubelet_roots, pod_folders};
pub use leave::Rest;
pub use live::AttachError;
pub use moving::CannotMove;
pub use node::{Candidate, Capture, CaptureConfig, CaptureError, PodEvent, Status};
pub use pod::{
    Accepted, Acceptor, Captured, CapturedPod, OpenConnection, Queued, Refused, RunningAcceptor,
    ThreadAcceptors,
};
pub use questions::{DnsCapture, DnsPorts, DnsSocket, Question, RunningDnsSocket};
pub use records::{Progress, Record, RecordError, RecordedCgroup, Records};
pub use succession::Incumbent;
pub use view::{HooksView, PodView};
