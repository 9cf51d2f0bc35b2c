//! The authenticated gRPC channel to a control plane.
