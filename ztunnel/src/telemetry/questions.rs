//! Questions to resolvers: Istio's metrics of its DNS proxy, the results by code, and a log line each at
//! level `debug`.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{ServiceName, Workload, WorkloadKey};
use names::{Kind, Transport};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Series of questions, at about 300 bytes: 15 kinds over two transports for some 60 services of a node.
/// Questions beyond it count under `other`.
const SERIES_MAX: usize = 2000;
/// A series that nobody asked for so long makes room.
const SERIES_IDLE: Duration = Duration::from_hours(1);
/// Upper bounds of the histogram's buckets in seconds, those of Istio.
const BUCKETS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

/// What the resolver had to do with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// Nothing: it was not asked.
    Unasked,
    /// It has answered.
    Answered,
    /// It has not.
    Failed,
}

/// One question and what became of it.
#[derive(Debug)]
pub(crate) struct QuestionReport<'a> {
    /// Who asked.
    pub(crate) source: &'a WorkloadKey,
    /// The same, as far as the mesh knows it.
    pub(crate) workload: Option<&'a Workload>,
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
    pub(crate) transport: Transport,
    /// Whom the application asked.
    pub(crate) resolver: Option<SocketAddr>,
    /// A stable word. There are few.
    pub(crate) result: &'static str,
    pub(crate) upstream: Upstream,
    /// Whose name it was.
    pub(crate) service: Option<&'a ServiceName>,
    /// Addresses that were told.
    pub(crate) addresses: usize,
    pub(crate) took: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Labels {
    kind: Kind,
    transport: Transport,
    service: Arc<str>,
    revision: Arc<str>,
}

impl Labels {
    fn of(report: &QuestionReport<'_>) -> Self {
        let known = |label: fn(&Workload) -> &Arc<str>| {
            let found = report.workload.map(label).filter(|text| !text.is_empty());
            found.cloned().unwrap_or_else(|| "unknown".into())
        };
        Self {
            kind: report.kind,
            transport: report.transport,
            service: known(|workload| &workload.canonical_name),
            revision: known(|workload| &workload.canonical_revision),
        }
    }

    fn pairs(&self) -> [(&'static str, &str); 4] {
        [
            ("request_query_type", self.kind.as_str()),
            ("request_protocol", self.transport.as_str()),
            ("source_canonical_service", &self.service),
            ("source_canonical_revision", &self.revision),
        ]
    }
}

#[derive(Debug)]
struct Series {
    requests: Counter,
    upstream_requests: Counter,
    upstream_failures: Counter,
    upstream_seconds: Histogram,
    touched: Instant,
}

impl Series {
    fn new(now: Instant) -> Self {
        Self {
            requests: Counter::default(),
            upstream_requests: Counter::default(),
            upstream_failures: Counter::default(),
            upstream_seconds: Histogram::new(BUCKETS),
            touched: now,
        }
    }

    fn count(&mut self, report: &QuestionReport<'_>, now: Instant) {
        self.touched = now;
        self.requests.inc();
        match report.upstream {
            Upstream::Unasked => return,
            Upstream::Answered => {}
            Upstream::Failed => {
                self.upstream_failures.inc();
            }
        }
        self.upstream_requests.inc();
        self.upstream_seconds.observe(report.took.as_secs_f64());
    }
}

#[derive(Debug)]
struct Tables {
    series: HashMap<Labels, Series>,
    overflow: Series,
    results: HashMap<&'static str, Counter>,
}

/// All series. A question takes the lock for a look-up: there are few, beside connections.
#[derive(Clone, Debug)]
pub(super) struct Questions(Arc<Mutex<Tables>>);

impl Questions {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let overflow = Series::new(Instant::now());
        let tables = Tables { series: HashMap::new(), overflow, results: HashMap::new() };
        let questions = Self(Arc::new(Mutex::new(tables)));
        registry.register_collector(Box::new(questions.clone()));
        questions
    }

    pub(super) fn asked(&self, report: &QuestionReport<'_>) {
        self.count(report, Instant::now());
        log(report);
    }

    fn count(&self, report: &QuestionReport<'_>, now: Instant) {
        let mut tables = self.0.lock();
        tables.results.entry(report.result).or_default().inc();
        let Tables { series, overflow, .. } = &mut *tables;
        let labels = Labels::of(report);
        if !series.contains_key(&labels) && series.len() >= SERIES_MAX {
            series.retain(|_, series| now.duration_since(series.touched) < SERIES_IDLE);
        }
        if !series.contains_key(&labels) && series.len() >= SERIES_MAX {
            return overflow.count(report, now);
        }
        series.entry(labels).or_insert_with(|| Series::new(now)).count(report, now);
    }
}

type Value = fn(&Series) -> &Counter;

const FAMILIES: [(&str, &str, Value); 3] = [
    ("istio_dns_requests", "Questions of captured pods", |s| &s.requests),
    ("istio_dns_upstream_requests", "Questions that a resolver was asked", |s| {
        &s.upstream_requests
    }),
    ("istio_dns_upstream_failures", "Questions that no resolver answered", |s| {
        &s.upstream_failures
    }),
];

const OTHER: [(&str, &str); 4] = [
    ("request_query_type", "other"),
    ("request_protocol", "other"),
    ("source_canonical_service", "other"),
    ("source_canonical_revision", "other"),
];

impl Collector for Questions {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let tables = self.0.lock();
        let mut all: Vec<_> =
            tables.series.iter().map(|(labels, series)| (labels.pairs(), series)).collect();
        all.sort_by_key(|(pairs, _)| *pairs);
        all.push((OTHER, &tables.overflow));
        for (name, help, value) in FAMILIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, series) in &all {
                if value(series).get() > 0 {
                    value(series).encode(family.encode_family(labels)?)?;
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "istio_dns_upstream_request_duration_seconds",
            "How long a resolver took",
            None,
            MetricType::Histogram,
        )?;
        for (labels, series) in &all {
            if series.upstream_requests.get() > 0 {
                series.upstream_seconds.encode(family.encode_family(labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "warren_dns_questions",
            "Questions of captured pods, by stable result",
            None,
            MetricType::Counter,
        )?;
        let mut results: Vec<_> = tables.results.iter().collect();
        results.sort_by_key(|(result, _)| **result);
        for (result, counter) in results {
            counter.encode(family.encode_family(&[("result", *result)])?)?;
        }
        Ok(())
    }
}

// The braces are tracing's: without them `target` and dotted names are ambiguous to its macros.
fn log(report: &QuestionReport<'_>) {
    tracing::debug!(
        target: "dns",
        {
            src.workload = &*report.source.name,
            src.namespace = &*report.source.namespace,
            query = report.kind.as_str(),
            domain = report.name,
            protocol = report.transport.as_str(),
            resolver = report.resolver.map(tracing::field::display),
            result = report.result,
            service = report.service.map(tracing::field::display),
            endpoints = report.addresses,
            duration = format_args!("{}us", report.took.as_micros()),
        },
        "question"
    );
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    fn report(source: &WorkloadKey, kind: Kind, upstream: Upstream) -> QuestionReport<'_> {
        QuestionReport {
            source,
            workload: None,
            kind,
            name: "a.",
            transport: Transport::Udp,
            resolver: None,
            result: match upstream {
                Upstream::Unasked => "ANSWERED",
                Upstream::Answered => "FORWARDED",
                Upstream::Failed => "DNS_UPSTREAM_TIMEOUT",
            },
            upstream,
            service: None,
            addresses: 0,
            took: Duration::from_millis(2),
        }
    }

    fn key() -> WorkloadKey {
        WorkloadKey::parse("a/b/c").expect("literal")
    }

    #[test]
    fn families_have_the_names_and_labels_of_istio() {
        let mut registry = Registry::default();
        let questions = Questions::register(&mut registry);
        let key = key();
        for upstream in [Upstream::Unasked, Upstream::Answered, Upstream::Failed] {
            questions.asked(&report(&key, Kind::A, upstream));
        }
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("encodes");
        let labels = "{request_query_type=\"A\",request_protocol=\"udp\",\
            source_canonical_service=\"unknown\",source_canonical_revision=\"unknown\"}";
        for line in [
            format!("istio_dns_requests_total{labels} 3"),
            format!("istio_dns_upstream_requests_total{labels} 2"),
            format!("istio_dns_upstream_failures_total{labels} 1"),
            format!("istio_dns_upstream_request_duration_seconds_count{labels} 2"),
            "warren_dns_questions_total{result=\"ANSWERED\"} 1".to_owned(),
            "warren_dns_questions_total{result=\"DNS_UPSTREAM_TIMEOUT\"} 1".to_owned(),
            "warren_dns_questions_total{result=\"FORWARDED\"} 1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("\"other\""), "nothing has overflowed\n{text}");
    }

    #[test]
    fn a_full_table_counts_under_other_until_series_are_idle() {
        let questions = Questions::register(&mut Registry::default());
        let start = Instant::now();
        let key = key();
        for number in 0..SERIES_MAX {
            let labels = Labels {
                service: number.to_string().into(),
                ..Labels::of(&report(&key, Kind::A, Upstream::Unasked))
            };
            questions.0.lock().series.insert(labels, Series::new(start));
        }
        let one = report(&key, Kind::Srv, Upstream::Unasked);
        questions.count(&one, start);
        assert_eq!(questions.0.lock().overflow.requests.get(), 1);
        questions.count(&one, start + SERIES_IDLE);
        assert_eq!(questions.0.lock().overflow.requests.get(), 1);
        assert_eq!(questions.0.lock().series.len(), 1);
    }
}
