//! The mesh vocabulary: the nouns every other crate speaks.
//!
//! Nothing here decides anything. Types are parsed once, at the edge, into values that cannot be
//! wrong; wire formats (protobuf, YAML) stop before they reach this crate.

mod address;
mod causes;
mod code;
mod connection;
mod gateway;
mod identity;
mod outcome;
mod served;
mod service;
mod workload;

pub use address::{Network, NetworkAddress, OriginalDst, canonical_ip, canonical_socket};
pub use causes::causes;
pub use code::{Code, Side};
pub use connection::{Connection, Direction, Path, Peer};
pub use gateway::{
    ApplicationProtocol, ApplicationTunnel, Gateway, GatewayDestination, WeightedWaypoint,
};
pub use identity::{IdentityError, SpiffeId, TrustDomain, VerifiedIdentity};
pub use outcome::{Bytes, Endpoint, Outcome};
pub use served::ServedServices;
pub use service::{
    DialledService, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, PortMapping, Scope,
    Service, ServiceAddress, ServiceName, Visibility,
};
pub use workload::{
    Health, Locality, NetworkMode, PodUid, PodUidError, PolicyName, TunnelProtocol, Workload,
    WorkloadKey, WorkloadKeyError, WorkloadType, WorkloadUid,
};
