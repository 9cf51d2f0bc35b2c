//! The access log: one line per connection, with the field names of Istio's ztunnel plus `code`,
//! `policy` and `path`.

use model::{Code, Outcome, Side};

// The braces are tracing's: without them `target` and dotted names are ambiguous to its macros.
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
                dst.service = $outcome.service.as_ref().map(|s| display(&s.name.hostname)),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt;
    use std::sync::Arc;
    use std::time::Duration;

    use model::{Bytes, DialledService, Direction, Path, PolicyName, ServiceName, SpiffeId};
    use parking_lot::Mutex;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;

    #[derive(Default)]
    struct Fields(BTreeMap<String, String>);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.insert(field.name().to_owned(), format!("{value:?}"));
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            self.0.insert(field.name().to_owned(), value.to_owned());
        }
    }

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Keeper(Arc<Mutex<Vec<(Level, Fields)>>>);

    impl Subscriber for Keeper {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            assert_eq!(event.metadata().target(), "access");
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.0.lock().push((*event.metadata().level(), fields));
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn written(outcome: &Outcome) -> (Level, BTreeMap<String, String>) {
        let keeper = Keeper::default();
        tracing::subscriber::with_default(keeper.clone(), || write(outcome));
        let mut lines = std::mem::take(&mut *keeper.0.lock());
        assert_eq!(lines.len(), 1, "one line per connection");
        let (level, Fields(fields)) = lines.remove(0);
        (level, fields)
    }

    #[test]
    fn each_class_of_code_has_its_level_and_message() {
        let (complete, denied, failed) =
            ("connection complete", "connection denied", "connection failed");
        for (code, level, message, tells_error) in [
            (Code::Ok, Level::INFO, complete, false),
            (Code::Reset, Level::INFO, complete, true),
            (Code::Draining, Level::INFO, complete, true),
            (Code::PodGone, Level::INFO, complete, true),
            (Code::PolicyNoMatch, Level::WARN, denied, true),
            (Code::PolicyRevoked, Level::WARN, denied, true),
            (Code::TunnelLost, Level::ERROR, failed, true),
            (Code::ConnectRefused, Level::ERROR, failed, true),
            (Code::LimitReached, Level::ERROR, failed, true),
        ] {
            let mut outcome = Outcome::new(Direction::Inbound, Path::Hbone, code);
            outcome.detail = Some("the cause".to_owned());
            let (got, fields) = written(&outcome);
            assert_eq!((got, &*fields["message"]), (level, message), "{code}");
            assert_eq!(fields["code"], code.as_str());
            let error = tells_error.then_some("the cause");
            assert_eq!(fields.get("error").map(String::as_str), error, "{code}");
        }
    }

    #[test]
    fn fields_have_the_names_of_istio() {
        let mut outcome = Outcome::new(Direction::Outbound, Path::Hbone, Code::PolicyDeniedByPeer);
        outcome.source.address = Some(([10, 0, 0, 1], 4000).into());
        outcome.source.identity = SpiffeId::parse("spiffe://td/ns/a/sa/b").ok();
        outcome.destination.address = Some(([10, 0, 0, 2], 80).into());
        outcome.hbone = Some(([10, 0, 0, 2], 15008).into());
        outcome.service = ServiceName::parse("a/b.svc")
            .map(|name| DialledService { name, short_name: "b".into() });
        outcome.policy = Some(PolicyName::new("a", "p"));
        outcome.bytes = Bytes { sent: 1, received: 2 };
        outcome.duration = Duration::from_millis(1500);
        let (_, fields) = written(&outcome);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            fields,
            [
                ("bytes_recv", "2"),
                ("bytes_sent", "1"),
                ("code", "POLICY_DENIED_BY_PEER"),
                ("direction", "outbound"),
                ("dst.addr", "10.0.0.2:80"),
                ("dst.hbone_addr", "10.0.0.2:15008"),
                ("dst.service", "b.svc"),
                ("duration", "1500ms"),
                ("message", "connection denied"),
                ("path", "hbone"),
                ("policy", "a/p"),
                ("src.addr", "10.0.0.1:4000"),
                ("src.identity", "spiffe://td/ns/a/sa/b"),
            ]
        );
    }
}
