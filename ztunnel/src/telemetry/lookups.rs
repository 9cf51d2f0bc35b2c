//! `istio_on_demand_dns`: host names of workloads that were looked up for a connection.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use model::{Endpoint, Workload};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use super::traffic::{SOURCE, Side};

/// Series kept. Beyond it, look-ups are counted in one whose labels are all `other`.
const SERIES_MAX: usize = 1000;
const OTHER: &str = "other";

/// Look-ups by client and name.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookups(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    series: HashMap<(Side, Arc<str>), u64>,
    other: u64,
}

impl Lookups {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let lookups = Self::default();
        registry.register_collector(Box::new(lookups.clone()));
        lookups
    }

    /// Counts one.
    pub(super) fn count(&self, source: &Arc<Workload>, hostname: &Arc<str>) {
        let identity = source.identity().ok();
        let client = Endpoint { address: None, workload: Some(source.clone()), identity };
        let labels = (Side::of(&client), hostname.clone());
        let mut table = self.0.lock();
        let room = table.series.len() < SERIES_MAX;
        match table.series.get_mut(&labels) {
            Some(count) => *count += 1,
            None if room => {
                table.series.insert(labels, 1);
            }
            None => table.other += 1,
        }
    }
}

impl Collector for Lookups {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let table = self.0.lock();
        let mut family = encoder.encode_descriptor(
            "istio_on_demand_dns",
            "Host names of workloads that were looked up for a connection",
            None,
            MetricType::Counter,
        )?;
        for ((client, hostname), count) in &table.series {
            let mut labels = Vec::with_capacity(SOURCE.len() + 1);
            client.pairs(&SOURCE, &mut labels);
            labels.push(("hostname", hostname));
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        if table.other > 0 {
            let mut labels: Vec<_> = SOURCE.iter().map(|name| (*name, OTHER)).collect();
            labels.push(("hostname", OTHER));
            ConstCounter::new(table.other).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_bounded_and_named_as_istio_does() {
        let mut registry = Registry::default();
        let lookups = Lookups::register(&mut registry);
        let mesh = "workloads: [{name: web, namespace: shop, workloadIps: [], canonicalName: web}]";
        let mesh = local_config::parse("mesh", mesh, &local_config::Defaults::default());
        let source = Arc::new(mesh.expect("a mesh").workloads.remove(0));
        for n in 0..=SERIES_MAX {
            lookups.count(&source, &format!("host-{n}.example.org").into());
        }
        lookups.count(&source, &"host-0.example.org".into());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let line = "istio_on_demand_dns_total{source_workload=\"web\",\
            source_canonical_service=\"web\",source_canonical_revision=\"unknown\",\
            source_workload_namespace=\"shop\",\
            source_principal=\"spiffe://cluster.local/ns/shop/sa/default\",source_app=\"web\",\
            source_version=\"unknown\",source_cluster=\"Kubernetes\",\
            hostname=\"host-0.example.org\"} 2\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("hostname=\"other\"} 1\n"));
        let series = text.lines().filter(|line| line.starts_with("istio_on_demand_dns_total"));
        assert_eq!(series.count(), SERIES_MAX + 1);
    }
}
