//! Labels and annotations that are read, by what they mean.

/// Label: the waypoint of an object, or of everything in a namespace.
pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// Label beside it: the waypoint's namespace.
pub(crate) const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// Label: a second waypoint that takes a part of the traffic.
pub(crate) const CANARY: &str = "istio.io/use-waypoint-canary";
/// Label beside it: its namespace.
pub(crate) const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
/// Annotation beside it: the part, in percent.
pub(crate) const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
/// Label of a gateway or its class: which traffic it takes.
pub(crate) const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// Annotation of a gateway or its class: how its pods take what was tunnelled to them.
pub(crate) const INBOUND_BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";
/// Label: ingress gateways send through the waypoint.
pub(crate) const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";
/// Label of what was made for a gateway: which gateway.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label of what was made for a gateway: by whom.
pub(crate) const GATEWAY_MANAGED: &str = "gateway.istio.io/managed";
/// Values of [`GATEWAY_MANAGED`] of waypoints and of gateways between networks.
pub(crate) const MANAGED_WAYPOINTS: [&str; 2] =
    ["istio.io-mesh-controller", "istio.io-eastwest-controller"];

/// Annotation of a gateway: the service account of its pods.
pub(crate) const GATEWAY_ACCOUNT: &str = "gateway.istio.io/service-account";
/// Class of gateways that are elsewhere, and who implements it.
pub(crate) const REMOTE_CLASS: &str = "istio-remote";
pub(crate) const REMOTE_CONTROLLER: &str = "istio.io/unmanaged-gateway";
/// Class of gateways between networks, and who implements it.
pub(crate) const EAST_WEST_CLASS: &str = "istio-east-west";
pub(crate) const EAST_WEST_CONTROLLER: &str = "istio.io/eastwest-controller";

/// Annotation of a pod: its traffic is captured.
pub(crate) const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Label of a workload: tunnels that it ends itself.
pub(crate) const TUNNEL: &str = "networking.istio.io/tunnel";
/// Labels for telemetry, the first that is there.
pub(crate) const CANONICAL_NAME: [&str; 3] =
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
/// Labels for telemetry, the first that is there.
pub(crate) const CANONICAL_REVISION: [&str; 3] =
    ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
/// Label of a pod: the hash that its `ReplicaSet`'s name ends with.
pub(crate) const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// Label of a node.
pub(crate) const REGION: &str = "topology.kubernetes.io/region";
/// Label of a node.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of a node.
pub(crate) const SUBZONE: &str = "topology.istio.io/subzone";
/// Label of the root namespace: the network of this cluster's addresses. Of a gateway: the network
/// behind it.
pub(crate) const NETWORK: &str = "topology.istio.io/network";

/// Label of a slice: its service.
pub(crate) const SLICE_SERVICE: &str = "kubernetes.io/service-name";
/// Annotation of a service, an entry or a namespace.
pub(crate) const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
/// Label of an entry: `false` opts out of automatic addresses.
pub(crate) const AUTOALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";
/// Annotation of an entry: how a waypoint dials several addresses.
pub(crate) const CONNECT_STRATEGY: &str = "istio.io/connect-strategy";
/// Value of it that only a waypoint can follow.
pub(crate) const RACE_FIRST: &str = "RACE_FIRST_TCP_CONNECT";
/// Label: the revision that an object is for.
pub(crate) const REVISION: &str = "istio.io/rev";
/// Label that an API server gives every namespace: its name.
pub(crate) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
