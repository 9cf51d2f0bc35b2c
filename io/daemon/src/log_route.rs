//! `POST /logging`, as `istioctl ztunnel-config log` asks: what is logged, and changes of it.

use http::StatusCode;
use tracing::level_filters::LevelFilter;

use crate::http_port::Reply;
use crate::logging::LogFilter;

/// Longest query; a longer one is refused.
const QUERY_BYTES_MAX: usize = 1024;
const USAGE: &str = "POST /logging                       what is logged\n\
     POST /logging?level=LEVEL           log everything from this level on\n\
     POST /logging?level=SCOPE:LEVEL,…   the same for scopes\n\
     POST /logging?reset                 log as at the start\n";

/// Answers a query. What cannot be read changes nothing.
#[must_use]
pub fn log_reply(filter: &LogFilter, query: &str) -> Reply {
    let refused = |why: &str| Reply::text(StatusCode::BAD_REQUEST, format!("{why}\n{USAGE}"));
    let changed = match (query, query.strip_prefix("level=")) {
        _ if query.len() > QUERY_BYTES_MAX => return refused("the query is too long"),
        ("", _) => Ok(()),
        ("reset", _) => filter.reset(),
        (_, Some(levels)) => match directives(levels) {
            Some(directives) => filter.set(&directives),
            None => return refused("that is no level"),
        },
        (_, None) => return refused("that is not asked like this"),
    };
    match changed {
        Ok(()) if query.is_empty() => {}
        Ok(()) => tracing::info!(filter = filter.now(), "what is logged was changed"),
        Err(error) => return refused(&error.to_string()),
    }
    Reply::text(StatusCode::OK, format!("current log level is {}\n", filter.now()))
}

/// `SCOPE:LEVEL,…` as directives of `RUST_LOG`. Scopes have `::` within.
fn directives(levels: &str) -> Option<String> {
    let directive = |item: &str| {
        let (scope, level) = match item.rsplit_once(':') {
            Some((scope, level)) => (Some(scope), level),
            None => (None, item),
        };
        // A filter takes any word for a scope: a misspelt level would silence everything.
        let named = level.bytes().all(|b| b.is_ascii_alphabetic()) && !level.is_empty();
        let level: LevelFilter = level.parse().ok().filter(|_| named)?;
        let is_scope = |scope: &str| {
            !scope.is_empty()
                && scope
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-'))
        };
        match scope {
            Some(scope) => is_scope(scope).then(|| format!("{scope}={level}")),
            None => Some(level.to_string()),
        }
    };
    let directives: Option<Vec<_>> = levels.split(',').map(directive).collect();
    Some(directives?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_scopes_become_directives() {
        for (levels, expected) in [
            ("debug", Some("debug")),
            ("off", Some("off")),
            ("access:info,ztunnel::capture:trace", Some("access=info,ztunnel::capture=trace")),
            ("info,dns:debug", Some("info,dns=debug")),
            ("loud", None),
            ("access:", None),
            (":info", None),
            ("a=b:info", None),
            ("", None),
        ] {
            assert_eq!(directives(levels).as_deref(), expected, "{levels}");
        }
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let filter = LogFilter::fixed("info");
        let ask = |query: &str| {
            let reply = log_reply(&filter, query);
            (reply.status == StatusCode::OK, reply.body)
        };
        assert_eq!(ask(""), (true, "current log level is info\n".to_owned()));
        assert_eq!(ask("level=debug"), (true, "current log level is debug\n".to_owned()));
        let long = format!("level={}", "debug,".repeat(300));
        for wrong in ["level=loud", "level=", "levels=info", &long] {
            let (good, text) = ask(wrong);
            assert!(!good && text.contains("POST /logging"), "{wrong}: {text}");
            assert_eq!(filter.now(), "debug");
        }
        assert_eq!(ask("reset"), (true, "current log level is info\n".to_owned()));
    }
}
