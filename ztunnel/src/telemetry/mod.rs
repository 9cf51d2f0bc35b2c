//! One outcome per connection, emitted once: an access-log line, metrics and a flow event. Questions to
//! resolvers have metrics and a log line of their own.

mod access_log;
mod ejections;
mod flows;
mod lookups;
mod metrics;
mod open;
mod questions;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use model::{Code, Outcome, ServiceName, Workload};
use prometheus_client::registry::Registry;
use resolve::Choice;

pub(crate) use ejections::Ejection;
pub(crate) use flows::{Flow, FlowRing};
pub(crate) use metrics::{Kind, Reading, Readings};
pub(crate) use open::{OpenConnection, OpenGuard};
pub(crate) use questions::{QuestionReport, Upstream};
pub(crate) use traffic::Counters;

/// Where every stage reports. Shared by all threads.
#[derive(Debug)]
pub(crate) struct Telemetry {
    traffic: traffic::Traffic,
    codes: metrics::Codes,
    lookups: lookups::Lookups,
    ejections: ejections::Ejections,
    questions: questions::Questions,
    flows: FlowRing,
    open: open::OpenConnections,
}

impl Telemetry {
    /// Registers the metrics.
    #[must_use]
    pub(crate) fn new(registry: &mut Registry) -> Self {
        Self {
            traffic: traffic::Traffic::register(registry),
            codes: metrics::Codes::register(registry),
            lookups: lookups::Lookups::register(registry),
            ejections: ejections::Ejections::register(registry),
            questions: questions::Questions::register(registry),
            flows: FlowRing::default(),
            open: open::OpenConnections::default(),
        }
    }

    /// Counts a connection as open and returns what its bytes are counted with.
    #[must_use]
    pub(crate) fn opened(&self, outcome: &Outcome) -> Counters {
        self.traffic.opened(outcome)
    }

    /// Lists a connection among the open ones until the guard is dropped.
    pub(crate) fn enter(&self, outcome: &Outcome, original_dst: SocketAddr) -> Option<OpenGuard> {
        self.open.enter(outcome, original_dst)
    }

    /// The open connections, in no particular order.
    pub(crate) fn open(&self) -> Vec<Arc<OpenConnection>> {
        self.open.list()
    }

    /// Reports a question to a resolver.
    pub(crate) fn asked(&self, report: &QuestionReport<'_>) {
        self.questions.asked(report);
    }

    /// Reports a finished or refused connection. `counters` are those of [`Self::opened`], or
    /// `None` if it never was.
    pub(crate) fn finished(&self, mut outcome: Outcome, counters: Option<&Counters>) {
        match counters {
            Some(counters) => {
                outcome.bytes = counters.bytes();
                self.traffic.closed(&outcome, counters);
            }
            None => self.traffic.failed(&outcome),
        }
        self.codes.count(&outcome);
        access_log::write(&outcome);
        self.flows.push(Flow { at: SystemTime::now(), outcome: Arc::new(outcome) });
    }

    /// Counts a look-up of a workload's host name.
    pub(crate) fn looked_up(&self, source: &Arc<Workload>, hostname: &Arc<str>) {
        self.lookups.count(source, hostname);
    }

    /// An endpoint is left alone until then, because a connection to it ended for that reason.
    pub(crate) fn ejected(&self, choice: &Choice, code: Code, until: Instant) {
        self.ejections.ejected(choice, code, until, Instant::now());
    }

    /// An endpoint that was left alone takes connections again.
    pub(crate) fn recovered(&self, choice: &Choice) {
        self.ejections.recovered(choice);
    }

    /// The endpoints of a service that some thread leaves alone now.
    pub(crate) fn ejections_of(&self, service: &ServiceName) -> Vec<Ejection> {
        self.ejections.of(service, Instant::now())
    }

    /// The recent flows.
    pub(crate) fn flows(&self) -> &FlowRing {
        &self.flows
    }
}
