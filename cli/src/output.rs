//! Writing: tables for people, JSON for programs.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

impl Format {
    /// As it is given on a command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
        }
    }
}

/// Where answers are written.
pub(crate) struct Output {
    pub(crate) format: Format,
    stream: Box<dyn Write>,
}

impl Output {
    pub(crate) fn stdout(format: Format) -> Self {
        Self { format, stream: Box::new(io::stdout()) }
    }

    /// Writes text, and a newline if it has none.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            self.stream.write_all(b"\n")?;
        }
        self.stream.flush()
    }

    /// Writes a whole answer as JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.text(&text)
    }

    /// Writes one of many answers as one line of JSON.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        self.text(&text)
    }
}

/// A table without lines: each row on one line, columns two spaces apart.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `-` for nothing.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// A moment, as RFC 3339 in UTC.
pub(crate) fn moment(unix_ms: u64) -> String {
    let nanos = i128::from(unix_ms).saturating_mul(1_000_000);
    let moment = time::OffsetDateTime::from_unix_timestamp_nanos(nanos);
    let text = moment.ok().and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix_ms} ms"))
}

/// A duration with its two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// How far a moment is from now.
pub(crate) fn expiry(expires_unix_ms: u64, now: SystemTime) -> String {
    let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let expires = u128::from(expires_unix_ms);
    let seconds = |ms: u128| u64::try_from(ms / 1000).unwrap_or(u64::MAX);
    match expires.checked_sub(now_ms) {
        Some(left) => format!("expires in {}", duration(seconds(left))),
        None => format!("expired {} ago", duration(seconds(now_ms.saturating_sub(expires)))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "0s"),
            (61, "1m 1s"),
            (3_600, "1h 0m"),
            (90_000, "1d 1h"),
            (u64::MAX, "213503982334601d 7h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(expiry(4_600_000, now), "expires in 1h 0m");
        assert_eq!(expiry(940_000, now), "expired 1m 0s ago");
        assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(moment(u64::MAX), format!("{} ms", u64::MAX));
    }

    #[test]
    fn columns_line_up() {
        let rows =
            vec![vec!["a".to_owned(), "long".to_owned()], vec!["bcd".to_owned(), String::new()]];
        assert_eq!(table(&["X", "Y"], rows), "X    Y\na    long\nbcd");
    }
}
