//! Proxies on a connection's way: waypoints, gateways to other networks, tunnels in applications.

use std::fmt;
use std::num::NonZeroU16;

use crate::{NetworkAddress, ServiceName};

/// Where a waypoint or a gateway to another network is reached (`istio.workload.GatewayAddress`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// What is dialled.
    pub destination: GatewayDestination,
    /// Port of its HBONE tunnel; a service's port, which may lead to another one of its endpoints.
    pub hbone_port: NonZeroU16,
}

/// A gateway by address or by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// An address of a workload or a service.
    Address(NetworkAddress),
    /// A service, by namespace and host name.
    Service(ServiceName),
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.destination {
            GatewayDestination::Address(address) => write!(f, "{address}:{}", self.hbone_port),
            GatewayDestination::Service(name) => write!(f, "{name}:{}", self.hbone_port),
        }
    }
}

/// One of several waypoints of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub gateway: Gateway,
    /// Its share relative to its siblings; 0 takes none.
    pub weight: u32,
}

/// How an application wants to be handed what came through the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// What precedes the bytes.
    pub protocol: ApplicationProtocol,
    /// The port that takes all of it, whatever the client asked for; `None`: the asked one.
    pub port: Option<NonZeroU16>,
}

/// What precedes the bytes of a connection to an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ApplicationProtocol {
    /// Nothing.
    #[default]
    None,
    /// A PROXY protocol v2 header with the client's address and identity.
    Proxy,
}
