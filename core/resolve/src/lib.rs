//! Where does a connection go? From the address an application dialled to a [`Route`].
//!
//! Pure: the state is an immutable [`Snapshot`], randomness is an argument, and every dead end is
//! a [`Route::Refused`] with its code.
//!
//! **One address has one meaning**, decided here and nowhere else, most specific first:
//! 1. a virtual address of a service that the client may see;
//! 2. an address of a workload;
//! 3. the narrowest address block of a service that the client may see (one of the client's own
//!    namespace before any other);
//! 4. nothing the mesh knows: plain TCP to where the application wanted.
//!
//! Of several services with one virtual address, one of the client's namespace wins, then the
//! canonical one, then the first by name. Of several workloads with one address, a Kubernetes pod
//! wins, then one that speaks HBONE, then the first by uid.
//!
//! **What comes in for a pod stays there**: [`inbound_target`] finds the port, and how the
//! application is handed the connection; [`require_waypoint`] tells who went past a waypoint.
//!
//! Not here yet: waypoints, gateways to other networks, application tunnels, host names.

mod balance;
mod inbound;
mod route;
mod snapshot;
mod vip;

pub use inbound::{
    Arrival, Asked, Handover, InboundQuery, InboundRefusal, InboundTarget, RequireWaypoint,
    TunnelAddress, inbound_target, plaintext_target, require_waypoint,
};
pub use route::{MESH_PORTS, Query, Route, SameNode, resolve};
pub use snapshot::{Change, Snapshot};

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
