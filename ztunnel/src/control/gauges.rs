//! Metrics that are read from others when somebody looks.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::SystemTime;

use daemon::ErrorCounter;
use prometheus_client::registry::Registry;

use crate::capture::Capture;
use crate::discovery::Source;
use crate::mesh::Sync;
use crate::telemetry::{Kind, Reading, Readings};

/// Registers them all.
pub(crate) fn register_gauges(
    registry: &mut Registry,
    capture: &Capture,
    mesh: &Source,
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
    register_control_plane(registry, mesh);
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
