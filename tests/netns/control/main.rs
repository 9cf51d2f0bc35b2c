//! Agents under a control plane: a test server that speaks delta xDS and Istio's certificate API,
//! on real sockets.

mod authority;
mod demand;
mod dump;
mod land;
mod manifests;
mod revocation;
mod rotation;
mod staleness;
mod sync;
