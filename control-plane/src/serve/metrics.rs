//! What is counted. Names are Istio's where it has them; counters end in `_total`, as OpenMetrics
//! wants.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use xds::server::ResourceType;

use crate::caller::{RefusalCode, Refusals};

/// A label with one of three values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    r#type: &'static str,
}

impl Type {
    fn of(kind: ResourceType) -> Self {
        Self { r#type: kind.label() }
    }
}

/// Counters of everything that is served. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) streams: Gauge,
    refused: Counter,
    refusals: Refusals,
    connection_refusals: Refusals,
    pub(super) connections: Gauge,
    connections_refused: Counter,
    pub(super) handshakes_failed: Counter,
    pushes: Family<Type, Counter>,
    bytes: Family<Type, Counter>,
    rejects: Counter,
    push_time: Family<Type, Histogram, fn() -> Histogram>,
    convergence: Histogram,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            streams: Gauge::default(),
            refused: Counter::default(),
            refusals: Refusals::default(),
            connection_refusals: Refusals::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            handshakes_failed: Counter::default(),
            pushes: Family::default(),
            bytes: Family::default(),
            rejects: Counter::default(),
            push_time: Family::new_with_constructor(short),
            convergence: short(),
        };
        metrics.refusals.register(registry, "warren_cp_discovery_refusals");
        metrics.connection_refusals.register(registry, "warren_cp_connection_refusals");
        let Self { streams, refused, connections, connections_refused, handshakes_failed, .. } =
            metrics.clone();
        registry.register("pilot_xds", "Streams of discovery that are open", streams);
        registry.register("pilot_xds_pushes", "Responses sent", metrics.pushes.clone());
        registry.register("pilot_xds_push_bytes", "Bytes of responses", metrics.bytes.clone());
        let help = "Responses of which a client refused something";
        registry.register("pilot_total_xds_rejects", help, metrics.rejects.clone());
        let help = "Seconds that writing a response took";
        registry.register("pilot_xds_push_time", help, metrics.push_time.clone());
        let help = "Seconds from a change until a client had taken it in";
        registry.register("pilot_proxy_convergence_time", help, metrics.convergence.clone());
        let help = "Callers of discovery that were refused";
        registry.register("pilot_xds_refused_callers", help, refused);
        registry.register("pilot_connections", "Connections that are open", connections);
        let help = "Connections closed because there are too many, or nobody used them";
        registry.register("pilot_connections_refused", help, connections_refused);
        let help = "TLS handshakes that failed";
        registry.register("pilot_handshakes_failed", help, handshakes_failed);
        metrics
    }

    pub(super) fn pushed(&self, kind: ResourceType, bytes: usize, took: Duration) {
        self.pushes.get_or_create(&Type::of(kind)).inc();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.get_or_create(&Type::of(kind)).inc_by(bytes);
        self.push_time.get_or_create(&Type::of(kind)).observe(took.as_secs_f64());
    }

    /// A caller or a stream of discovery was refused.
    pub(super) fn refused(&self, code: RefusalCode) {
        self.refused.inc();
        self.refusals.count(code);
    }

    /// A connection was closed.
    pub(super) fn connection_refused(&self, code: RefusalCode) {
        self.connections_refused.inc();
        self.connection_refusals.count(code);
    }

    pub(super) fn rejected(&self) {
        self.rejects.inc();
    }

    pub(super) fn converged(&self, after: Duration) {
        self.convergence.observe(after.as_secs_f64());
    }
}

/// From 0.1 ms to some 13 s.
fn short() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}
