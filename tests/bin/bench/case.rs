//! What is measured: cases, places, ways.

use serde::{Deserialize, Serialize};

/// A kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The load generator's mode.
    pub(crate) mode: &'static str,
    pub(crate) connections: u32,
    pub(crate) unit: Unit,
}

/// What a case counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Operations,
    Bytes,
}

/// One and 32 kept connections with one request at a time on each; a connection for each request,
/// eight at a time; one bulk stream each way.
pub(crate) const CASES: [Case; 5] = [
    Case { name: "rr1", mode: "rr", connections: 1, unit: Unit::Operations },
    Case { name: "rr32", mode: "rr", connections: 32, unit: Unit::Operations },
    Case { name: "crr8", mode: "crr", connections: 8, unit: Unit::Operations },
    Case { name: "push1", mode: "push", connections: 1, unit: Unit::Bytes },
    Case { name: "pull1", mode: "pull", connections: 1, unit: Unit::Bytes },
];

/// Where the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    SameNode,
    CrossNode,
}

pub(crate) const PLACES: [Place; 2] = [Place::SameNode, Place::CrossNode];

impl Place {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SameNode => "same node",
            Self::CrossNode => "cross node",
        }
    }
}

/// How the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Between pods that are not enrolled.
    Direct,
    /// Between enrolled pods.
    Warren,
}

pub(crate) const WAYS: [Way; 2] = [Way::Direct, Way::Warren];

/// One measurement.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Figures {
    pub(crate) operations_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) errors: u64,
    /// Of all agents, while the load ran, warm-up included.
    pub(crate) agents_cpu_seconds: f64,
    /// How long that was.
    pub(crate) elapsed_seconds: f64,
}

impl Figures {
    /// What is compared.
    pub(crate) fn rate(&self, unit: Unit) -> f64 {
        match unit {
            Unit::Operations => self.operations_per_second,
            Unit::Bytes => self.bytes_per_second,
        }
    }

    /// The agents' CPU for each operation (µs) or each 10^9 bytes (s). The rate is taken to hold
    /// through the warm-up too.
    pub(crate) fn cpu_cost(&self, unit: Unit) -> f64 {
        let scale = match unit {
            Unit::Operations => 1e6,
            Unit::Bytes => 1e9,
        };
        let amount = self.rate(unit) * self.elapsed_seconds;
        if amount > 0.0 { self.agents_cpu_seconds * scale / amount } else { 0.0 }
    }
}
