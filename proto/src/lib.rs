//! Messages of the public interfaces that Warren speaks; generated from the `.proto` files beside
//! this crate's manifest. Only `core/xds` gives the mesh's messages a meaning.

/// Delta discovery (`envoy.service.discovery.v3`).
pub mod discovery {
    /// Method of the one stream that carries every type.
    pub const DELTA_METHOD: &str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

    pub use crate::generated::envoy::service::discovery::v3::*;
}

/// Workloads and services (`istio.workload`).
pub mod workload {
    /// Type of the resources of workload discovery.
    pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";

    pub use crate::generated::istio::workload::*;
}

/// Authorization policies (`istio.security`).
pub mod security {
    /// Type of the resources of policy discovery.
    pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";

    pub use crate::generated::istio::security::*;
}

/// The certificate API (`istio.v1.auth`).
pub mod citadel {
    /// The one method.
    pub const CREATE_METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
    /// Key of the request's metadata under which a node's agent names whom it asks for.
    pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

    pub use crate::generated::istio::v1::auth::*;
}

/// Pods of a node, told by Istio's CNI agent (`istio.workload.zds`).
pub mod zds {
    pub use crate::generated::istio::workload::zds::*;
}

/// The generator's modules mirror the packages, because its code refers to them by position.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "generated"
)]
mod generated {
    pub mod envoy {
        pub mod service {
            pub mod discovery {
                pub mod v3 {
                    include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.rs"));
                }
            }
        }
    }

    pub mod istio {
        pub mod security {
            include!(concat!(env!("OUT_DIR"), "/istio.security.rs"));
        }

        pub mod v1 {
            pub mod auth {
                include!(concat!(env!("OUT_DIR"), "/istio.v1.auth.rs"));
            }
        }

        pub mod workload {
            include!(concat!(env!("OUT_DIR"), "/istio.workload.rs"));

            pub mod zds {
                include!(concat!(env!("OUT_DIR"), "/istio.workload.zds.rs"));
            }
        }
    }
}

#[cfg(test)]
mod golden;
