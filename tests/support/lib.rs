//! The test world: nodes and pods as network namespaces and cgroups, the agents that run in them,
//! and actors that open real sockets inside the pods. Beside it an API server, [`ApiServer`].
//!
//! Whatever a [`World`] makes carries its [`Prefix`], and one [`Teardown`], which needs nothing but
//! that prefix, removes it: at the end, after a panic, after Ctrl-C, and for a process that died.

mod actor;
mod agent;
mod agent_log;
mod capture;
mod cgroup;
mod cluster;
mod cni_agent;
mod control_plane;
mod enrolling;
mod frames;
mod house;
mod http;
mod kube;
mod manifests;
mod mesh;
mod namespace;
mod node;
mod packet_socket;
mod pattern;
mod plane;
mod pod;
mod prefix;
pub mod protocol;
mod sniffer;
mod teardown;
mod test_api;
mod volume;
mod wait;
mod warren;
mod world;

pub use actor::{Actor, ActorOptions, Connection, HttpAnswer, Listener, Pending, Resolver};
pub use agent::{Agent, AgentOptions};
pub use agent_log::{AccessLine, LogMark};
pub use capture::Capture;
pub use cgroup::mount as cgroup_mount;
pub use cluster::{Asking, Held, KubeNode, Kubernetes, Outage, Questions, Room, SYSTEM};
pub use control_plane::{
    Asked, CONTROL_PLANE_PORT, ControlPlane, IssuedCertificate, Mood, TestCa, TestXds, Update,
    XdsService, policy, principal, workload,
};
pub use enrolling::{CniAnswer, EnrollingNode, Runtime, Sandbox, pod_object, pod_path};
pub use frames::{Frame, TcpSegment};
pub use house::{ECHO_PORT, House, has_ended, talk};
pub use kube::{ApiServer, ApiServerOptions, Cluster, ClusterPlane, ClusterPod, until};
pub use manifests::Manifests;
pub use mesh::{Mesh, ServiceSpec};
pub use namespace::Namespace;
pub use node::Node;
pub use pattern::{Digest, Pattern, length};
pub use plane::Plane;
pub use pod::{Pod, PodSpec};
pub use prefix::Prefix;
pub use protocol::Failure;
pub use sniffer::Sniffer;
pub use teardown::Teardown;
pub use test_api::{ApiAccess, ApiRequest, TestApi, TestApiServer};
pub use volume::Volume;
pub use wait::{binaries, eventually, wait_until};
pub use warren::Answer;
pub use world::World;
