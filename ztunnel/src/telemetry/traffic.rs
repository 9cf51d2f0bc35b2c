//! Istio's `istio_tcp_*` metrics, with bounded and expiring series.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::{Bytes, DialledService, Direction, Endpoint, Outcome, Path, SpiffeId};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// Series kept: about 1 KiB each, so 10 MB. Beyond it, connections are counted in one series whose
/// labels are all `other`.
const SERIES_MAX: usize = 10_000;
/// A series without open connections that nothing touched for this long is forgotten.
const SERIES_IDLE: Duration = Duration::from_hours(1);
/// With a full table, new label sets look through it for idle series at most this often: it takes
/// milliseconds, during which no connection of any thread can open. Until then they are `other`.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// The values of one label set.
#[derive(Debug, Default)]
pub(super) struct Series {
    opened: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Byte counters of one open connection, and of the series it belongs to.
#[derive(Debug)]
pub(crate) struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    series: Arc<Series>,
}

impl Counters {
    /// Counts bytes from the client to the server.
    pub(crate) fn add_request(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.series.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes from the server to the client.
    pub(crate) fn add_response(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.series.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The connection's bytes so far.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

/// The label set of Istio's traffic metrics. Absent values are `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels {
    reporter: &'static str,
    source: Side,
    destination: Side,
    service: Option<DialledService>,
    response_flags: &'static str,
    security: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Side {
    workload: Option<WorkloadLabels>,
    principal: Option<SpiffeId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct WorkloadLabels {
    name: Arc<str>,
    namespace: Arc<str>,
    canonical_name: Arc<str>,
    canonical_revision: Arc<str>,
    cluster: Arc<str>,
    region: Arc<str>,
    zone: Arc<str>,
}

impl Labels {
    fn of(outcome: &Outcome) -> Self {
        Self {
            reporter: outcome.direction.reporter(),
            source: Side::of(&outcome.source),
            destination: Side::of(&outcome.destination),
            service: outcome.service.clone(),
            response_flags: outcome.code.response_flags(),
            security: match outcome.path {
                Path::Hbone => "mutual_tls",
                // Same-node: both identities are proven, but there is no TLS to tell of (ADR 0006).
                Path::Local | Path::Passthrough | Path::Plaintext | Path::Dns => UNKNOWN,
            },
        }
    }

    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let mut pairs = vec![("reporter", self.reporter)];
        self.source.pairs(&SOURCE, &mut pairs);
        let (service, namespace, name) = match &self.service {
            Some(DialledService { name, short_name }) => {
                (&*name.hostname, &*name.namespace, known(Some(short_name)))
            }
            None => (UNKNOWN, UNKNOWN, UNKNOWN),
        };
        pairs.push(("destination_service", service));
        pairs.push(("destination_service_namespace", namespace));
        pairs.push(("destination_service_name", name));
        self.destination.pairs(&DESTINATION, &mut pairs);
        pairs.push(("request_protocol", "tcp"));
        pairs.push(("response_flags", self.response_flags));
        pairs.push(("connection_security_policy", self.security));
        self.source.locality(&["source_region", "source_zone"], &mut pairs);
        self.destination.locality(&["destination_region", "destination_zone"], &mut pairs);
        pairs
    }
}

const UNKNOWN: &str = "unknown";
pub(super) const SOURCE: [&str; 8] = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
];
const DESTINATION: [&str; 8] = [
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
];

impl Side {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        Self {
            workload: endpoint.workload.as_ref().map(|w| WorkloadLabels {
                name: if w.workload_name.is_empty() {
                    w.key.name.clone()
                } else {
                    w.workload_name.clone()
                },
                namespace: w.key.namespace.clone(),
                canonical_name: w.canonical_name.clone(),
                canonical_revision: w.canonical_revision.clone(),
                cluster: w.cluster.clone(),
                region: w.locality.region.clone(),
                zone: w.locality.zone.clone(),
            }),
            principal: endpoint.identity.clone(),
        }
    }

    pub(super) fn pairs<'a>(
        &'a self,
        names: &[&'static str; 8],
        pairs: &mut Vec<(&'static str, &'a str)>,
    ) {
        let workload = self.workload.as_ref();
        let canonical = known(workload.map(|w| &w.canonical_name));
        let revision = known(workload.map(|w| &w.canonical_revision));
        let values = [
            known(workload.map(|w| &w.name)),
            canonical,
            revision,
            known(workload.map(|w| &w.namespace)),
            self.principal.as_ref().map_or(UNKNOWN, SpiffeId::as_str),
            canonical,
            revision,
            known(workload.map(|w| &w.cluster)),
        ];
        pairs.extend(names.iter().copied().zip(values));
    }

    fn locality<'a>(&'a self, names: &[&'static str; 2], pairs: &mut Vec<(&'static str, &'a str)>) {
        let Some(workload) = &self.workload else { return };
        let values = [&*workload.region, &*workload.zone];
        pairs.extend(names.iter().copied().zip(values).filter(|(_, value)| !value.is_empty()));
    }
}

fn known(value: Option<&Arc<str>>) -> &str {
    match value {
        Some(value) if !value.is_empty() => value,
        Some(_) | None => UNKNOWN,
    }
}

#[derive(Debug)]
struct Entry {
    series: Arc<Series>,
    touched: Instant,
}

impl Entry {
    fn in_use(&self, now: Instant) -> bool {
        Arc::strong_count(&self.series) > 1 || now.duration_since(self.touched) < SERIES_IDLE
    }
}

/// The series by label set.
#[derive(Debug, Default)]
struct Table {
    series: HashMap<Labels, Entry>,
    /// When a connection last looked for series to forget.
    swept: Option<Instant>,
}

impl Table {
    /// The series of a label set; `None` when there is no room for another.
    fn series(&mut self, labels: Labels, now: Instant) -> Option<Arc<Series>> {
        if let Some(entry) = self.series.get_mut(&labels) {
            entry.touched = now;
            return Some(entry.series.clone());
        }
        if self.series.len() >= SERIES_MAX {
            let due = self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP_EVERY);
            if due {
                self.sweep(now);
            }
            if self.series.len() >= SERIES_MAX {
                return None;
            }
        }
        let series = Arc::<Series>::default();
        self.series.insert(labels, Entry { series: series.clone(), touched: now });
        Some(series)
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        self.series.retain(|_, entry| entry.in_use(now));
    }
}

/// All series.
#[derive(Clone, Debug)]
pub(super) struct Traffic(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    overflow: Arc<Series>,
    open: [AtomicU64; 2],
}

impl Traffic {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let traffic = Self(Arc::default());
        registry.register_collector(Box::new(traffic.clone()));
        traffic
    }

    pub(super) fn opened(&self, outcome: &Outcome) -> Counters {
        let series = self.series(outcome);
        series.opened.fetch_add(1, Ordering::Relaxed);
        self.open(outcome.direction).fetch_add(1, Ordering::Relaxed);
        Counters { sent: AtomicU64::new(0), received: AtomicU64::new(0), series }
    }

    pub(super) fn closed(&self, outcome: &Outcome, counters: &Counters) {
        counters.series.closed.fetch_add(1, Ordering::Relaxed);
        self.open(outcome.direction).fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, outcome: &Outcome) {
        self.series(outcome).failed.fetch_add(1, Ordering::Relaxed);
    }

    fn open(&self, direction: Direction) -> &AtomicU64 {
        let [outbound, inbound] = &self.0.open;
        match direction {
            Direction::Outbound => outbound,
            Direction::Inbound => inbound,
        }
    }

    fn series(&self, outcome: &Outcome) -> Arc<Series> {
        let labels = Labels::of(outcome);
        let series = self.0.table.lock().series(labels, Instant::now());
        series.unwrap_or_else(|| self.0.overflow.clone())
    }
}

type Value = fn(&Series) -> &AtomicU64;

const FAMILIES: [(&str, &str, Value); 5] = [
    ("istio_tcp_connections_opened", "Connections opened", |s| &s.opened),
    ("istio_tcp_connections_closed", "Connections closed", |s| &s.closed),
    ("istio_tcp_connections_failed", "Connections that could not be opened", |s| &s.failed),
    ("istio_tcp_sent_bytes", "Bytes from the server to the client", |s| &s.sent),
    ("istio_tcp_received_bytes", "Bytes from the client to the server", |s| &s.received),
];

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        // Copied out, so that a slow scrape never holds up a connection.
        let mut all: Vec<(Labels, Arc<Series>)> = {
            let mut table = self.0.table.lock();
            table.sweep(Instant::now());
            table.series.iter().map(|(labels, e)| (labels.clone(), e.series.clone())).collect()
        };
        all.sort_by(|(a, _), (b, _)| a.pairs().cmp(&b.pairs()));
        for (name, help, value) in FAMILIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, series) in &all {
                let count = value(series).load(Ordering::Relaxed);
                if count > 0 {
                    family
                        .encode_family(&labels.pairs())?
                        .encode_counter::<[(&str, &str); 0], _, u64>(&count, None)?;
                }
            }
            let overflow = value(&self.0.overflow).load(Ordering::Relaxed);
            if overflow > 0 {
                family
                    .encode_family(&[("reporter", "other")])?
                    .encode_counter::<[(&str, &str); 0], _, u64>(&overflow, None)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "istio_tcp_sockets_open",
            "Open connections",
            None,
            MetricType::Gauge,
        )?;
        for direction in [Direction::Outbound, Direction::Inbound] {
            let open = self.open(direction).load(Ordering::Relaxed);
            let labels = [("reporter", direction.reporter())];
            family.encode_family(&labels)?.encode_gauge(&open)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use model::{Code, ServiceName};

    use super::*;

    fn outcome(principal: usize) -> Outcome {
        let mut outcome = Outcome::new(Direction::Outbound, Path::Hbone, Code::Ok);
        let identity = format!("spiffe://td/ns/a/sa/s{principal}");
        outcome.source.identity = Some(SpiffeId::parse(&identity).expect("literal"));
        outcome
    }

    fn label<'a>(labels: &'a Labels, name: &str) -> &'a str {
        let pairs = labels.pairs();
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value).expect("a label")
    }

    #[test]
    fn the_security_policy_is_a_value_of_istio() {
        for (path, value) in [
            (Path::Hbone, "mutual_tls"),
            (Path::Local, "unknown"),
            (Path::Passthrough, "unknown"),
            (Path::Plaintext, "unknown"),
            (Path::Dns, "unknown"),
        ] {
            let labels = Labels::of(&Outcome::new(Direction::Inbound, path, Code::Ok));
            assert_eq!(label(&labels, "connection_security_policy"), value);
        }
    }

    /// The host name of an external service says nothing about its short name.
    #[test]
    fn a_service_has_the_short_name_it_was_given() {
        let mut outcome = outcome(0);
        for (short, value) in [("cart", "cart"), ("", "unknown")] {
            let name = ServiceName::parse("shop/www.example.org").expect("literal");
            outcome.service = Some(DialledService { name, short_name: short.into() });
            let labels = Labels::of(&outcome);
            assert_eq!(label(&labels, "destination_service"), "www.example.org");
            assert_eq!(label(&labels, "destination_service_namespace"), "shop");
            assert_eq!(label(&labels, "destination_service_name"), value);
        }
        outcome.service = None;
        assert_eq!(label(&Labels::of(&outcome), "destination_service_name"), "unknown");
    }

    #[test]
    fn a_full_table_is_looked_through_once_a_minute() {
        let mut table = Table::default();
        let start = Instant::now();
        let first = table.series(Labels::of(&outcome(0)), start).expect("room");
        for principal in 1..SERIES_MAX {
            assert!(table.series(Labels::of(&outcome(principal)), start).is_some());
        }
        let mut new = SERIES_MAX;
        let mut another = |table: &mut Table, now| {
            new += 1;
            table.series(Labels::of(&outcome(new)), now)
        };
        let almost = start + SERIES_IDLE.saturating_sub(SWEEP_EVERY / 2);
        assert!(another(&mut table, almost).is_none());
        assert_eq!(table.swept, Some(almost));
        // All but the held one are idle by now, but nobody looks yet.
        assert!(another(&mut table, start + SERIES_IDLE).is_none());
        assert_eq!(table.swept, Some(almost));
        assert!(another(&mut table, almost + SWEEP_EVERY).is_some());
        assert_eq!(table.series.len(), 2, "the one in use and the new one");
        let again = table.series(Labels::of(&outcome(0)), start + SERIES_IDLE);
        assert!(again.is_some_and(|series| Arc::ptr_eq(&series, &first)));
    }
}
