//! Metrics that Istio lacks: outcomes by code, and gauges read when scraped.

use std::fmt;

use model::{Code, Direction, Outcome, Path};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

const DIRECTIONS: [Direction; 2] = [Direction::Outbound, Direction::Inbound];
const PATHS: [Path; 5] = [Path::Hbone, Path::Local, Path::Passthrough, Path::Plaintext, Path::Dns];

/// `warren_connections_total{direction, path, code}`: the label sets are few and known.
#[derive(Clone, Debug)]
pub(super) struct Codes(Vec<Counter>);

impl Codes {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let counters = (0..DIRECTIONS.len() * PATHS.len() * Code::ALL.len())
            .map(|_| Counter::default())
            .collect();
        let codes = Self(counters);
        registry.register_collector(Box::new(codes.clone()));
        codes
    }

    pub(super) fn count(&self, outcome: &Outcome) {
        if let Some(counter) = self.0.get(index(outcome.direction, outcome.path, outcome.code)) {
            counter.inc();
        }
    }

    fn labels() -> impl Iterator<Item = (Direction, Path, Code)> {
        DIRECTIONS.into_iter().flat_map(|direction| {
            PATHS
                .into_iter()
                .flat_map(move |path| Code::ALL.iter().map(move |code| (direction, path, *code)))
        })
    }
}

/// The place of a label set in [`Codes::labels`].
fn index(direction: Direction, path: Path, code: Code) -> usize {
    let direction = match direction {
        Direction::Outbound => 0,
        Direction::Inbound => 1,
    };
    let path = match path {
        Path::Hbone => 0,
        Path::Local => 1,
        Path::Passthrough => 2,
        Path::Plaintext => 3,
        Path::Dns => 4,
    };
    (direction * PATHS.len() + path) * Code::ALL.len() + code.index()
}

impl Collector for Codes {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "warren_connections",
            "Connections that ended or were refused, by stable code",
            None,
            MetricType::Counter,
        )?;
        for ((direction, path, code), counter) in Self::labels().zip(&self.0) {
            if counter.get() > 0 {
                let labels = [
                    ("direction", direction.as_str()),
                    ("path", path.as_str()),
                    ("code", code.as_str()),
                ];
                counter.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// A label set and its value.
pub(crate) type Reading = (Vec<(&'static str, String)>, u64);

/// What a metric's values do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grow.
    Counter,
    /// Go up and down.
    Gauge,
}

/// One metric that is computed when somebody looks.
pub(crate) struct Readings {
    /// What its values do.
    pub kind: Kind,
    /// Metric name.
    pub name: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Label sets and values.
    pub read: Box<dyn Fn() -> Vec<Reading> + Send + Sync>,
}

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readings").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let mut family = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (labels, value) in (self.read)() {
            let encoder = family.encode_family(&labels)?;
            match self.kind {
                Kind::Counter => ConstCounter::new(value).encode(encoder)?,
                Kind::Gauge => ConstGauge::new(value).encode(encoder)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_a_counter_of_its_own() {
        let codes = Codes::register(&mut Registry::default());
        assert_eq!(Codes::labels().count(), codes.0.len());
        for (place, (direction, path, code)) in Codes::labels().enumerate() {
            assert_eq!(index(direction, path, code), place);
            codes.count(&Outcome::new(direction, path, code));
            assert_eq!(codes.0[place].get(), 1);
        }
    }
}
