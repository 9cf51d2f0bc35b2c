//! The access log: one line per connection, with the field names of Istio's ztunnel plus `code`,
//! `policy` and `path`.

use model::{Code, Outcome, Side};

macro_rules! line {
    ($level:ident, $outcome:ident, $message:tt $(, $extra:ident)*) => {{
        let (src, dst) = (&$outcome.source, &$outcome.destination);
        tracing::$level!(
            target: "access",
            {
            src.addr = src.address.map(display),
            src.workload = src.workload.as_ref().map(|w| display(&w.key.name)),
            src.namespace = src.workload.as_ref().map(|w| display(&w.key.namespace)),
            src.identity = src.identity.as_ref().map(display),
            src.cluster = src.workload.as_ref().map(|w| display(&w.cluster)),
            dst.addr = dst.address.map(display),
            dst.hbone_addr = $outcome.hbone.map(display),
            dst.service = $outcome.service.as_ref().map(|s| display(&s.hostname)),
            dst.workload = dst.workload.as_ref().map(|w| display(&w.key.name)),
            dst.namespace = dst.workload.as_ref().map(|w| display(&w.key.namespace)),
            dst.identity = dst.identity.as_ref().map(display),
            dst.cluster = dst.workload.as_ref().map(|w| display(&w.cluster)),
            direction = $outcome.direction.as_str(),
            path = $outcome.path.as_str(),
            code = $outcome.code.as_str(),
            policy = $outcome.policy.as_ref().map(display),
            bytes_sent = $outcome.bytes.sent,
            bytes_recv = $outcome.bytes.received,
            duration = format_args!("{}ms", $outcome.duration.as_millis()),
            $($extra = $outcome.detail.as_deref(),)*
            },
            $message
        );
    }};
}

/// Writes the line of one connection.
pub(super) fn write(outcome: &Outcome) {
    match outcome.code.side() {
        Side::None => line!(info, outcome, "connection complete"),
        Side::Policy => line!(warn, outcome, "connection denied", error),
        // The applications' own doing, and ours on request: no error.
        _ if matches!(outcome.code, Code::Reset | Code::Draining | Code::PodGone) => {
            line!(info, outcome, "connection complete", error);
        }
        Side::Peer | Side::Workload | Side::Us => {
            line!(error, outcome, "connection failed", error);
        }
    }
}
