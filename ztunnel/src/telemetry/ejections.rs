//! Endpoints that are left alone because their connections failed: a counter, a line in the log, and what
//! `warren why` says of them. Each thread of the data path ejects on its own; here is what any of them
//! knows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use model::{Code, ServiceName, WorkloadKey, WorkloadUid};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use resolve::Choice;

/// Ejections that are remembered, at about 200 bytes. Beyond it those that have ended make room; if none
/// has, a further one is only counted.
const REMEMBERED_MAX: usize = 4096;
/// Lines of the log within [`LINES_PERIOD`]. Ejections beyond are at level `debug`.
const LINES_MAX: u32 = 10;
/// The period that lines are counted in.
const LINES_PERIOD: Duration = Duration::from_secs(10);

/// One endpoint that some thread leaves alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ejection {
    /// Which.
    pub(crate) workload: WorkloadKey,
    /// The service's port that it is left alone for.
    pub(crate) port: u16,
    /// Why.
    pub(crate) code: Code,
    /// For how long from now on.
    pub(crate) left: Duration,
}

/// What any thread has ejected.
#[derive(Debug)]
pub(super) struct Ejections {
    total: Counter,
    table: Mutex<Table>,
}

type Place = (ServiceName, u16, WorkloadUid);

#[derive(Debug, Default)]
struct Table {
    out: HashMap<Place, Out>,
    lines: u32,
    period: Option<Instant>,
}

#[derive(Debug)]
struct Out {
    workload: WorkloadKey,
    code: Code,
    until: Instant,
}

impl Ejections {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let total = Counter::default();
        registry.register(
            "warren_ejections",
            "Endpoints that a thread left alone for a while because connections to them failed",
            total.clone(),
        );
        Self { total, table: Mutex::default() }
    }

    /// An endpoint is left alone until then.
    pub(super) fn ejected(&self, choice: &Choice, code: Code, until: Instant, now: Instant) {
        self.total.inc();
        let seconds = until.duration_since(now).as_secs_f64();
        let Choice { service, port, workload } = choice;
        let mut table = self.table.lock();
        if table.has_line(now) {
            tracing::info!(
                %service, port, endpoint = %workload.key, %code, seconds,
                "endpoint is left alone for a while"
            );
        } else {
            tracing::debug!(
                %service, port, endpoint = %workload.key, %code, seconds,
                "endpoint is left alone for a while"
            );
        }
        table.remember(choice, Out { workload: workload.key.clone(), code, until }, now);
    }

    /// A connection to an endpoint was established on a thread that had it ejected.
    pub(super) fn recovered(&self, choice: &Choice) {
        self.table.lock().out.remove(&place(choice));
    }

    /// The endpoints of a service that are left alone, sorted.
    pub(super) fn of(&self, service: &ServiceName, now: Instant) -> Vec<Ejection> {
        let table = self.table.lock();
        let out = table.out.iter().filter(|((of, ..), out)| of == service && out.until > now);
        let mut found: Vec<_> = out
            .map(|((_, port, _), out)| Ejection {
                workload: out.workload.clone(),
                port: *port,
                code: out.code,
                left: out.until.duration_since(now),
            })
            .collect();
        found.sort_by(|a, b| (&a.workload, a.port).cmp(&(&b.workload, b.port)));
        found
    }
}

impl Table {
    fn has_line(&mut self, now: Instant) -> bool {
        if self.period.is_none_or(|begun| now.duration_since(begun) >= LINES_PERIOD) {
            (self.period, self.lines) = (Some(now), 0);
        }
        self.lines += 1;
        self.lines <= LINES_MAX
    }

    fn remember(&mut self, choice: &Choice, out: Out, now: Instant) {
        let place = place(choice);
        if self.out.len() >= REMEMBERED_MAX && !self.out.contains_key(&place) {
            self.out.retain(|_, out| out.until > now);
            if self.out.len() >= REMEMBERED_MAX {
                return;
            }
        }
        self.out.insert(place, out);
    }
}

fn place(choice: &Choice) -> Place {
    (choice.service.clone(), choice.port, choice.workload.uid.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use local_config::Defaults;
    use model::Workload;

    use super::*;

    fn choice(service: &str, number: usize) -> Choice {
        let mesh = "workloads: [{name: cart, namespace: shop, workloadIps: [10.0.0.1]}]";
        let mesh = local_config::parse("mesh", mesh, &Defaults::default()).expect("a mesh");
        let workload = mesh.workloads.into_iter().next().expect("a workload");
        let uid = WorkloadUid(format!("uid-{number}").into());
        Choice {
            service: ServiceName::parse(service).expect("literal"),
            port: 80,
            workload: Arc::new(Workload { uid, ..workload }),
        }
    }

    #[test]
    fn an_ejection_is_told_until_it_ends_or_the_endpoint_is_well() {
        let ejections = Ejections::register(&mut Registry::default());
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let [one, other, foreign] =
            [("shop/a", 1), ("shop/a", 2), ("shop/b", 3)].map(|(name, id)| choice(name, id));
        ejections.ejected(&one, Code::ConnectRefused, now + second, now);
        ejections.ejected(&other, Code::TunnelTimeout, now + 3 * second, now);
        ejections.ejected(&foreign, Code::ConnectRefused, now + 3 * second, now);
        let told = |now| -> Vec<_> {
            let of = ejections.of(&one.service, now);
            of.into_iter().map(|ejection| (ejection.code, ejection.left)).collect()
        };
        assert_eq!(told(now).len(), 2);
        assert_eq!(told(now + second), [(Code::TunnelTimeout, 2 * second)]);
        ejections.recovered(&other);
        assert!(told(now + second).is_empty());
        assert_eq!(ejections.total.get(), 3);
    }

    #[test]
    fn table_and_log_are_bounded() {
        let ejections = Ejections::register(&mut Registry::default());
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        for number in 0..=REMEMBERED_MAX {
            let choice = choice("shop/a", number);
            ejections.ejected(&choice, Code::ConnectRefused, now + second, now);
        }
        assert_eq!(ejections.table.lock().out.len(), REMEMBERED_MAX);
        assert!(!ejections.table.lock().has_line(now));
        let later = now + LINES_PERIOD;
        assert!(ejections.table.lock().has_line(later));
        ejections.ejected(&choice("shop/b", 0), Code::ConnectRefused, later + second, later);
        assert_eq!(ejections.table.lock().out.len(), 1);
    }
}
