//! Log output in the two layouts of Istio's ztunnel: tab-separated text and flat JSON lines.
//!
//! Lines go through a bounded queue to their own thread. A full queue drops lines and counts them:
//! a slow disk must never stall a connection.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines that may wait for the writing thread: at 300 bytes a line, 3 MB. Later lines are dropped
/// and counted.
const LINES_MAX: usize = 10_000;

/// Layout of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `time level scope message key=value`, tab-separated.
    #[default]
    Plain,
    /// One JSON object a line: `level`, `time`, `scope`, `message`, then the fields.
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter cannot be parsed.
    #[error("log filter {filter:?}: {cause}")]
    Filter {
        /// The refused filter.
        filter: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A subscriber is installed already.
    #[error("installing the log subscriber: {0}")]
    Install(String),
}

/// Keeps the writing thread alive; dropping it flushes what is queued.
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
    filter: LogFilter,
}

/// What is logged; it can be changed while the process runs. Clones change the same.
#[derive(Clone)]
pub struct LogFilter(Arc<Inner>);

struct Inner {
    first: String,
    now: Mutex<String>,
    reload: Box<Reload>,
}

type Reload = dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync;

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&*self.0.now.lock()).finish()
    }
}

impl LogFilter {
    fn new(first: &str, reload: Box<Reload>) -> Self {
        Self(Arc::new(Inner { first: first.to_owned(), now: Mutex::new(first.to_owned()), reload }))
    }

    /// One that changes nothing but what it says.
    #[cfg(test)]
    pub(crate) fn fixed(first: &str) -> Self {
        Self::new(first, Box::new(|_| Ok(())))
    }

    /// In `RUST_LOG` syntax.
    #[must_use]
    pub fn now(&self) -> String {
        self.0.now.lock().clone()
    }

    /// Logs by this filter from now on. One that cannot be parsed changes nothing.
    pub fn set(&self, filter: &str) -> Result<(), LoggingError> {
        let parsed = parse(filter)?;
        let mut now = self.0.now.lock();
        (self.0.reload)(parsed).map_err(LoggingError::Install)?;
        filter.clone_into(&mut now);
        Ok(())
    }

    /// Logs as at the start.
    pub fn reset(&self) -> Result<(), LoggingError> {
        self.set(&self.0.first)
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::try_new(filter)
        .map_err(|e| LoggingError::Filter { filter: filter.to_owned(), cause: e.to_string() })
}

impl LogGuard {
    /// A reader of the number of lines dropped because the queue was full.
    #[must_use]
    pub fn dropped_lines(&self) -> ErrorCounter {
        self.dropped.clone()
    }

    /// What is logged.
    #[must_use]
    pub fn filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

/// Starts logging to standard output with a filter in `RUST_LOG` syntax.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<LogGuard, LoggingError> {
    let parsed = parse(filter)?;
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .finish(std::io::stdout());
    let dropped = writer.error_counter();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(writer)
        .event_format(Layout(format))
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    subscriber.try_init().map_err(|e| LoggingError::Install(e.to_string()))?;
    let reload = Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()));
    Ok(LogGuard { _worker: worker, dropped, filter: LogFilter::new(filter, reload) })
}

struct Layout(LogFormat);

impl<S, N> FormatEvent<S, N> for Layout
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        let level = meta.level().as_str().to_ascii_lowercase();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message");
        let time = OffsetDateTime::now_utc().format(&Rfc3339).map_err(|_| fmt::Error)?;
        match self.0 {
            LogFormat::Json => {
                let mut line = Map::new();
                line.insert("level".into(), Value::from(level));
                line.insert("time".into(), Value::from(time));
                line.insert("scope".into(), Value::from(meta.target()));
                line.extend(message.map(|message| ("message".to_owned(), message)));
                line.extend(fields.0);
                writeln!(out, "{}", Value::Object(line))
            }
            LogFormat::Plain => {
                write!(out, "{time}\t{level}\t{}", meta.target())?;
                if let Some(message) = message {
                    write!(out, "\t{}", Plain(&message))?;
                }
                for (key, value) in &fields.0 {
                    write!(out, "\t{key}={}", Plain(value))?;
                }
                writeln!(out)
            }
        }
    }
}

/// A value in plain layout: bare where that is unambiguous, quoted where it is not, so that no
/// peer-supplied text can forge a field or a line.
struct Plain<'a>(&'a Value);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str() {
            Some(text) if text.chars().any(|c| c.is_control() || c == '"') => write!(f, "{text:?}"),
            Some(text) => f.write_str(text),
            None => self.0.fmt(f),
        }
    }
}

/// Collects an event's fields in the order they are declared.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), Value::from(format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // The chain of causes, outermost first; a message never repeats its cause.
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.0.insert(field.name().to_owned(), Value::from(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_cannot_forge_a_line() {
        assert_eq!(Plain(&Value::from("a b")).to_string(), "a b");
        assert_eq!(Plain(&Value::from("a\tcode=OK\n")).to_string(), r#""a\tcode=OK\n""#);
        assert_eq!(Plain(&Value::from(3)).to_string(), "3");
    }
}
