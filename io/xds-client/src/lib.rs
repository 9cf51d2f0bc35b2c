//! Drives `core/xds` over gRPC and publishes the state of the mesh.
