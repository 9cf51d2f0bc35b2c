//! Passive health: endpoints that refused connections are left alone for a while.
//!
//! One value for each thread of the data path, so it needs no lock; what one thread learns, the
//! others learn on their own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Code, ServiceName, Workload, WorkloadUid};

/// How long the first ejection of an endpoint lasts; each further one lasts twice as long.
pub const EJECTION_FIRST: Duration = Duration::from_secs(1);
/// How long an ejection lasts at most.
pub const EJECTION_MAX: Duration = Duration::from_secs(30);
/// One in so many endpoints of a service's port may be ejected at a time; for a further one,
/// connections are tried. So the only endpoint is never ejected, nor are all of several.
pub const EJECTED_ONE_IN: usize = 2;
/// Most endpoints of one service that are remembered, for all its ports. At the bound, the one
/// whose ejection ended first is forgotten; if none has ended, no further one is ejected.
pub const EJECTIONS_PER_SERVICE_MAX: usize = 64;
/// Most services with remembered endpoints, about 10 MiB in all. At the bound, services whose
/// ejections have all ended are forgotten; if there are none, no further one is ejected.
pub const EJECTED_SERVICES_MAX: usize = 1024;
/// How long after its end an ejection makes the next one longer. A success forgets it at once.
pub const EJECTION_MEMORY: Duration = Duration::from_mins(2);

/// Which endpoint of a service's port a connection was given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// The endpoint.
    pub workload: Arc<Workload>,
}

/// Endpoints that lately refused connections.
#[derive(Debug, Default)]
pub struct Ejections {
    services: HashMap<ServiceName, Vec<Ejection>>,
}

#[derive(Debug)]
struct Ejection {
    port: u16,
    workload: WorkloadUid,
    /// Ejections since the last success.
    times: u32,
    until: Instant,
}

/// What became of a report of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The endpoint is ejected until then.
    Ejected(Instant),
    /// It was ejected before, until then.
    Out(Instant),
    /// A bound keeps it in place.
    Kept,
}

/// Whether another endpoint would likely have done better than one whose connection ended for this
/// reason: not where a policy spoke, where the client gave up, or where this node is what failed.
#[must_use]
pub fn blames_endpoint(code: Code) -> bool {
    matches!(
        code,
        Code::ConnectTimeout
            | Code::ConnectRefused
            | Code::ConnectFailed
            | Code::HostnameUnresolved
            | Code::TunnelTimeout
            | Code::TunnelLost
            | Code::TlsFailed
            | Code::TlsTimeout
            | Code::PeerIdentity
            | Code::Http2Failed
            | Code::PeerRefused
    )
}

impl Ejections {
    /// A connection to that endpoint was refused, or timed out. `endpoints` is how many serve the
    /// port, see [`Snapshot::endpoint_count`](crate::Snapshot::endpoint_count).
    ///
    /// A failure of an endpoint that is ejected already changes nothing: the connection is older.
    pub fn failed(&mut self, choice: &Choice, endpoints: usize, now: Instant) -> Failed {
        if !self.services.contains_key(&choice.service)
            && self.services.len() >= EJECTED_SERVICES_MAX
        {
            self.services.retain(|_, ejections| ejections.iter().any(|one| one.until > now));
            if self.services.len() >= EJECTED_SERVICES_MAX {
                return Failed::Kept;
            }
        }
        let known = self.services.entry(choice.service.clone()).or_default();
        let failed = eject(known, choice, endpoints, now);
        if known.is_empty() {
            self.services.remove(&choice.service);
        }
        failed
    }

    /// A connection to that endpoint was established: whatever it did before is forgotten. Whether there
    /// was anything.
    pub fn succeeded(&mut self, choice: &Choice) -> bool {
        // Cheap where nothing is ejected, which is nearly always.
        let Some(ejections) = self.services.get_mut(&choice.service) else { return false };
        let before = ejections.len();
        ejections.retain(|ejection| !ejection.is_of(choice));
        let forgotten = ejections.len() < before;
        if ejections.is_empty() {
            self.services.remove(&choice.service);
        }
        forgotten
    }

    /// Those that are ejected at that moment.
    #[must_use]
    pub fn at(&self, now: Instant) -> Ejected<'_> {
        Ejected((!self.services.is_empty()).then_some((self, now)))
    }
}

fn eject(known: &mut Vec<Ejection>, choice: &Choice, endpoints: usize, now: Instant) -> Failed {
    known.retain(|ejection| {
        now.checked_duration_since(ejection.until).is_none_or(|past| past < EJECTION_MEMORY)
    });
    let place = known.iter().position(|ejection| ejection.is_of(choice));
    if let Some(ejection) = place.and_then(|place| known.get(place))
        && ejection.until > now
    {
        return Failed::Out(ejection.until);
    }
    let out = known.iter().filter(|e| e.port == choice.port && e.until > now).count();
    if out >= endpoints / EJECTED_ONE_IN {
        return Failed::Kept;
    }
    let mut ejection = match place {
        Some(place) => known.swap_remove(place),
        None => Ejection {
            port: choice.port,
            workload: choice.workload.uid.clone(),
            times: 0,
            until: now,
        },
    };
    if known.len() >= EJECTIONS_PER_SERVICE_MAX {
        let ended = known.iter().enumerate().filter(|(_, ejection)| ejection.until <= now);
        match ended.min_by_key(|(_, ejection)| ejection.until).map(|(place, _)| place) {
            Some(place) => drop(known.swap_remove(place)),
            None => return Failed::Kept,
        }
    }
    let length = EJECTION_FIRST.saturating_mul(2_u32.saturating_pow(ejection.times));
    ejection.until = now + length.min(EJECTION_MAX);
    ejection.times = ejection.times.saturating_add(1);
    let until = ejection.until;
    known.push(ejection);
    Failed::Ejected(until)
}

impl Ejection {
    fn is_of(&self, choice: &Choice) -> bool {
        self.port == choice.port && self.workload == choice.workload.uid
    }
}

/// The endpoints that are ejected at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ejected<'e>(Option<(&'e Ejections, Instant)>);

impl<'e> Ejected<'e> {
    /// None are.
    pub const NONE: Self = Self(None);

    /// The ejected endpoints of a service's port.
    pub(crate) fn of(
        self,
        service: &ServiceName,
        port: u16,
    ) -> impl Iterator<Item = &'e WorkloadUid> {
        let known = self
            .0
            .and_then(|(ejections, now)| ejections.services.get(service).map(|known| (known, now)));
        known.into_iter().flat_map(move |(known, now)| {
            let out = known.iter().filter(move |e| e.port == port && e.until > now);
            out.map(|ejection| &ejection.workload)
        })
    }

    pub(crate) fn holds(self, service: &ServiceName, port: u16, workload: &WorkloadUid) -> bool {
        self.of(service, port).any(|out| out == workload)
    }
}

#[cfg(test)]
mod tests;
