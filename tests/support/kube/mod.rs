//! A real API server for tests: kube-apiserver and etcd as processes of this machine, on loopback
//! ports of their own, and the objects that tests make in it.
//!
//! There are no nodes and no controllers: a pod stays as it was written until a test writes its
//! status, and what a controller would do a test does itself.

mod api_server;
mod cluster;
mod credentials;
mod objects;
mod plane;
mod process;
mod store;

pub use api_server::{ApiServer, ApiServerOptions};
pub use cluster::Cluster;
pub(crate) use credentials::Credentials;
pub use objects::{ClusterPod, until};
pub use plane::ClusterPlane;
