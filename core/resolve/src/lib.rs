//! Where does a connection go? From the address an application dialled to a [`Route`].
//!
//! Pure: the state is an immutable [`Snapshot`], randomness and time are arguments, and every dead
//! end is a [`Route::Refused`] with its code.
//!
//! **One address has one meaning**, decided here and nowhere else, most specific first:
//! 1. a virtual address of a service that the client may see;
//! 2. an address of a workload;
//! 3. the narrowest address block of a service that the client may see (one of the client's own
//!    namespace before any other);
//! 4. nothing the mesh knows: plain TCP to where the application wanted. Where the snapshot holds
//!    only what was asked for ([`Extent::Asked`]), this and a block are asked for first.
//!
//! Of several services with one virtual address, one of the client's namespace wins, then the
//! canonical one, then the first by name. Of several workloads with one address, a Kubernetes pod
//! wins, then one that speaks HBONE, then the first by uid.
//!
//! **What the address means decides about waypoints**: a service's connections take the service's
//! waypoint and never those of its endpoints, a workload's address takes the workload's. A client
//! that is that waypoint goes past it. A waypoint that is named but not known refuses. Then, for a
//! service, the endpoint: in this network straight to it; in another, through its gateway.
//!
//! **What comes in for a pod stays there**: [`inbound_target`] finds the port, and how the
//! application is handed the connection; [`require_waypoint`] tells who went past a waypoint.

mod balance;
mod change;
mod claims;
mod ejection;
mod endpoints;
mod gateway;
mod inbound;
mod lookup;
mod preference;
mod random;
mod route;
mod sequence;
mod sharded;
mod site;
mod snapshot;
mod texts;
mod trip;
mod vip;

pub use change::Change;
pub use ejection::{
    Choice, EJECTED_ONE_IN, EJECTED_SERVICES_MAX, EJECTION_FIRST, EJECTION_MAX, EJECTION_MEMORY,
    EJECTIONS_PER_SERVICE_MAX, Ejected, Ejections, Failed, blames_endpoint,
};
pub use inbound::{
    Arrival, Asked, Handover, InboundQuery, InboundRefusal, InboundTarget, RequireWaypoint,
    TunnelAddress, inbound_target, plaintext_target, require_waypoint, service_behind,
};
pub use lookup::Lookup;
pub use route::{Extent, MESH_PORTS, Query, Resource, Route, SameNode};
pub use snapshot::Snapshot;
pub use trip::resolve;

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
