//! The objects of a cluster that a mesh is made from, as values.
//!
//! Only what Warren reads of each kind, so that a hundred thousand pods fit into memory: fields that
//! nobody here looks at are skipped while decoding. Unknown *values* are errors, unknown *fields* are
//! not; where an unknown field could make a policy weaker than it was written, it is kept by name
//! ([`authorization_policy`]). The same types are decoded from an API server's JSON and from a
//! folder's YAML ([`manifest`]).

pub mod authorization_policy;
pub mod endpoint_slice;
pub mod gateway;
pub mod manifest;
pub mod mesh_config;
pub mod meta;
pub mod namespace;
pub mod node;
pub mod object;
pub mod peer_authentication;
pub mod pod;
pub mod readable;
pub mod request_authentication;
pub mod selector;
pub mod service;
pub mod service_entry;
pub mod workload_entry;
mod yaml;

pub use authorization_policy::AuthorizationPolicy;
pub use endpoint_slice::EndpointSlice;
pub use gateway::{Gateway, GatewayClass};
pub use mesh_config::MeshConfig;
pub use meta::{Labels, Meta, ObjectName, Owner, Text};
pub use namespace::Namespace;
pub use node::Node;
pub use object::{Kind, Object, ObjectKey, Undecodable};
pub use peer_authentication::PeerAuthentication;
pub use pod::Pod;
pub use readable::{Readable, Unreadable};
pub use request_authentication::RequestAuthentication;
pub use selector::{LabelSelector, WorkloadSelector};
pub use service::Service;
pub use service_entry::ServiceEntry;
pub use workload_entry::WorkloadEntry;
