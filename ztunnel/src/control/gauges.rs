//! Metrics that are read from others when somebody looks.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use daemon::ErrorCounter;
use enrol::Standing;
use prometheus_client::registry::Registry;
use svid::SvidStore;

use crate::capture::Capturing;
use crate::discovery::Source;
use crate::enrolment::EnrolmentView;
use crate::mesh::Sync;
use crate::telemetry::{Kind, Reading, Readings};

/// Registers them all.
pub(crate) fn register_gauges(
    registry: &mut Registry,
    capture: &Capturing,
    mesh: &Source,
    svids: &SvidStore,
    dropped_lines: ErrorCounter,
) {
    let pods = capture.clone();
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_pods",
        help: "Enrolled pods by state",
        read: Box::new(move || {
            let mut states = BTreeMap::new();
            for pod in pods.pods() {
                *states.entry(pod.status.as_str()).or_insert(0) += 1;
            }
            labelled("state", states)
        }),
    }));
    let pods = capture.clone();
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_capture_events",
        help: "Counts of the eBPF programs, all pods together",
        read: Box::new(move || {
            let mut sums = BTreeMap::new();
            for (name, value) in pods.counters().unwrap_or_default() {
                *sums.entry(name).or_insert(0) += value;
            }
            for pod in pods.pods() {
                for (name, value) in pod.counters {
                    *sums.entry(name).or_insert(0) += value;
                }
            }
            labelled("event", sums)
        }),
    }));
    let source = mesh.clone();
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_mesh_reload_failed",
        help: "1 while the newest mesh state is not in force",
        read: Box::new(move || {
            let failed = source.status().last_error.is_some();
            vec![(Vec::new(), u64::from(failed))]
        }),
    }));
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_log_lines_dropped",
        help: "Log lines dropped because the writer could not keep up",
        read: Box::new(move || {
            let dropped = u64::try_from(dropped_lines.dropped_lines()).unwrap_or(u64::MAX);
            vec![(Vec::new(), dropped)]
        }),
    }));
    register_certificates(registry, svids);
    register_control_plane(registry, mesh);
    register_stored(registry, mesh);
}

/// How enrolment on Kubernetes stands. Nothing is told before it runs.
pub(crate) fn register_enrolment(
    registry: &mut Registry,
    enrolment: &Arc<OnceLock<EnrolmentView>>,
) {
    let told = Arc::clone(enrolment);
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_enrolment_gap_pods",
        help: "Pods that should be captured, run, and are not proved to be",
        read: Box::new(move || {
            let gap = told.get().map(|view| view.told().gap());
            gap.map(|gap| (Vec::new(), count(gap))).into_iter().collect()
        }),
    }));
    let told = Arc::clone(enrolment);
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_enrolment_pods",
        help: "Pods of this node by how their enrolment stands",
        read: Box::new(move || {
            let Some(view) = told.get() else { return Vec::new() };
            let told = view.told();
            let counted = |standing| (Standing::as_str(standing), count(told.count(standing)));
            labelled("state", Standing::ALL.map(counted))
        }),
    }));
    let told = Arc::clone(enrolment);
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_enrolment_watch_age_seconds",
        help: "For how long the API server was not followed, by resource; 0 while it is",
        read: Box::new(move || {
            let Some(view) = told.get() else { return Vec::new() };
            labelled("resource", view.told().behind.ages())
        }),
    }));
    register_plugin(registry, enrolment);
}

/// The CNI plugin: its answers and its place on the node.
fn register_plugin(registry: &mut Registry, enrolment: &Arc<OnceLock<EnrolmentView>>) {
    type Read = fn(&EnrolmentView) -> Vec<Reading>;
    const METRICS: [(Kind, &str, &str, Read); 4] = [
        (
            Kind::Counter,
            "warren_cni_requests",
            "Requests of the CNI plugin by verb and code; OK for what was done",
            |view| {
                let answers = view.answers().into_iter();
                let reading = |(verb, code, count): (&str, String, u64)| {
                    (vec![("verb", verb.to_owned()), ("code", code)], count)
                };
                answers.map(reading).collect()
            },
        ),
        (
            Kind::Counter,
            "warren_cni_starts_outside",
            "Pods that started outside the mesh because their namespace fails open, by code",
            |view| labelled("code", view.starts_outside()),
        ),
        (
            Kind::Gauge,
            "warren_cni_installed",
            "1 while the CNI plugin and its chain are in their place on the node",
            |view| {
                let plugin = view.plugin().map(|(installed, _)| (Vec::new(), u64::from(installed)));
                plugin.into_iter().collect()
            },
        ),
        (
            Kind::Counter,
            "warren_cni_repairs",
            "Times that somebody else had changed the plugin or its chain, and it was put back",
            |view| view.plugin().map(|(_, repairs)| (Vec::new(), repairs)).into_iter().collect(),
        ),
    ];
    for (kind, name, help, read) in METRICS {
        let told = Arc::clone(enrolment);
        let read = Box::new(move || told.get().map(read).unwrap_or_default());
        registry.register_collector(Box::new(Readings { kind, name, help, read }));
    }
}

fn count(pods: usize) -> u64 {
    u64::try_from(pods).unwrap_or(u64::MAX)
}

/// Of all identities together: a label for each would be a series for each workload.
fn register_certificates(registry: &mut Registry, svids: &SvidStore) {
    let store = svids.clone();
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_certificate_expiry_seconds",
        help: "Time until the first of the certificates in use expires; none without one",
        read: Box::new(move || {
            let in_use = store.list().into_iter().filter_map(|status| status.current);
            soonest(in_use.map(|svid| svid.not_after()), SystemTime::now())
        }),
    }));
    let store = svids.clone();
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_identities_without_certificate",
        help: "Identities of this node's pods that have no certificate, or none that is valid",
        read: Box::new(move || {
            let without = store.list().iter().filter(|status| status.current.is_none()).count();
            vec![(Vec::new(), u64::try_from(without).unwrap_or(u64::MAX))]
        }),
    }));
}

fn soonest(ends: impl Iterator<Item = SystemTime>, now: SystemTime) -> Vec<Reading> {
    let left = ends.min().map(|end| end.duration_since(now).unwrap_or_default().as_secs());
    left.map(|left| (Vec::new(), left)).into_iter().collect()
}

/// The control plane's last state on disk.
fn register_stored(registry: &mut Registry, mesh: &Source) {
    type Read = fn(&xds_client::StoredStatus) -> Option<u64>;
    const METRICS: [(Kind, &str, &str, Read); 4] = [
        (
            Kind::Counter,
            "warren_stored_state_ignored",
            "Stored states that were not used: damaged, foreign, or writable by others",
            |stored| Some(stored.ignored),
        ),
        (
            Kind::Counter,
            "warren_stored_state_failures",
            "Times that storing the state failed",
            |stored| Some(stored.failures),
        ),
        (Kind::Gauge, "warren_stored_state_bytes", "Size of the stored state", |stored| {
            Some(stored.bytes)
        }),
        (
            Kind::Gauge,
            "warren_stored_state_age_seconds",
            "Time since the stored state was written or confirmed; none without one",
            |stored| {
                let age = SystemTime::now().duration_since(stored.as_of?);
                Some(age.unwrap_or_default().as_secs())
            },
        ),
    ];
    for (kind, name, help, read) in METRICS {
        let source = mesh.clone();
        let stored = move || source.status().control_plane.map(|status| status.stored);
        registry.register_collector(Box::new(Readings {
            kind,
            name,
            help,
            read: Box::new(move || {
                let value = stored().filter(|stored| stored.path.is_some()).and_then(|s| read(&s));
                value.map(|value| (Vec::new(), value)).into_iter().collect()
            }),
        }));
    }
}

/// What is known of a control plane.
fn register_control_plane(registry: &mut Registry, mesh: &Source) {
    let source = mesh.clone();
    let status = move || source.status().control_plane;
    let add = |registry: &mut Registry,
               kind: Kind,
               name: &'static str,
               help: &'static str,
               read: fn(&xds_client::Status) -> Vec<Reading>| {
        let status = status.clone();
        registry.register_collector(Box::new(Readings {
            kind,
            name,
            help,
            read: Box::new(move || status().map(|status| read(&status)).unwrap_or_default()),
        }));
    };
    let single = |value| vec![(Vec::new(), value)];
    add(
        registry,
        Kind::Counter,
        "istio_xds_connection_terminations",
        "Connections to the control plane that ended, by reason",
        |status| {
            let counts = xds_client::TERMINATIONS.iter().zip(status.terminations);
            labelled("reason", counts.map(|(reason, count)| (reason.as_str(), count)))
        },
    );
    add(
        registry,
        Kind::Counter,
        "istio_xds_message",
        "Responses of the control plane, by type",
        |status| by_url(status, |messages| messages.count),
    );
    add(
        registry,
        Kind::Counter,
        "istio_xds_message_bytes",
        "Bytes of the control plane's responses, by type",
        |status| by_url(status, |messages| messages.bytes),
    );
    add(
        registry,
        Kind::Counter,
        "warren_xds_rejected_resources",
        "Resources of the control plane that were refused",
        |status| vec![(Vec::new(), status.rejected_total)],
    );
    add(
        registry,
        Kind::Counter,
        "warren_xds_refused_messages",
        "Responses of the control plane that were refused as a whole",
        |status| vec![(Vec::new(), status.refused)],
    );
    add(
        registry,
        Kind::Counter,
        "warren_xds_nacks",
        "Responses of the control plane that were refused, in part or as a whole",
        |status| vec![(Vec::new(), status.nacks)],
    );
    add(
        registry,
        Kind::Counter,
        "warren_xds_lookups_timed_out",
        "Look-ups on demand that the control plane did not answer in time",
        |status| vec![(Vec::new(), status.lookups_timed_out)],
    );
    add(
        registry,
        Kind::Gauge,
        "warren_xds_staleness_seconds",
        "How old the state may be; 0 while the control plane is followed",
        |status| vec![(Vec::new(), status.staleness(SystemTime::now()).as_secs())],
    );
    let source = mesh.clone();
    registry.register_collector(Box::new(Readings {
        kind: Kind::Gauge,
        name: "warren_mesh_synced",
        help: "1 once there is a complete state to decide by",
        read: Box::new(move || single(u64::from(source.current().sync != Sync::Waiting))),
    }));
}

fn by_url(status: &xds_client::Status, value: fn(&xds_client::Messages) -> u64) -> Vec<Reading> {
    let messages = [
        (xds::Kind::Address.url(), &status.addresses),
        (xds::Kind::Authorization.url(), &status.authorizations),
    ];
    labelled("url", messages.map(|(url, messages)| (url, value(messages))))
}

fn labelled<K: Display>(
    name: &'static str,
    values: impl IntoIterator<Item = (K, u64)>,
) -> Vec<Reading> {
    values.into_iter().map(|(key, value)| (vec![(name, key.to_string())], value)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_soonest_end_counts_and_what_is_over_is_zero() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let told = |ends: &[u64]| -> Vec<u64> {
            let readings = soonest(ends.iter().map(|end| at(*end)), now);
            readings.into_iter().map(|(_, value)| value).collect()
        };
        assert_eq!(told(&[1_300, 1_060, 4_600]), [60]);
        assert_eq!(told(&[900, 1_060]), [0]);
        assert!(told(&[]).is_empty());
    }
}
