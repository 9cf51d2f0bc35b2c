//! An agent's log: JSON lines in a file, the access log among them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Lines of a log printed when a test fails.
const FAILURE_LINES: usize = 40;

/// A place in a log, from [`crate::Agent::log_mark`].
#[derive(Clone, Copy, Debug, Default)]
pub struct LogMark(pub(crate) u64);

/// One line of the access log.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AccessLine {
    /// `connection complete`, `connection denied` or `connection failed`.
    pub message: String,
    /// The client's address.
    #[serde(rename = "src.addr")]
    pub source: String,
    /// The client's workload.
    #[serde(rename = "src.workload")]
    pub source_workload: String,
    /// The client's SPIFFE identity, if it was proved.
    #[serde(rename = "src.identity")]
    pub source_identity: String,
    /// The server's address.
    #[serde(rename = "dst.addr")]
    pub destination: String,
    /// The tunnel's address.
    #[serde(rename = "dst.hbone_addr")]
    pub tunnel: String,
    /// The service that was dialled.
    #[serde(rename = "dst.service")]
    pub service: String,
    /// The server's workload.
    #[serde(rename = "dst.workload")]
    pub destination_workload: String,
    /// The server's SPIFFE identity.
    #[serde(rename = "dst.identity")]
    pub destination_identity: String,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// `hbone`, `local`, `passthrough` or `plaintext`.
    pub path: String,
    /// The stable code.
    pub code: String,
    /// The decisive policy.
    pub policy: String,
    /// The nearest miss, or the cause of a failure.
    pub error: String,
    /// From the server to the client.
    pub bytes_sent: u64,
    /// From the client to the server.
    pub bytes_recv: u64,
}

/// The log file.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
}

impl LogFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it to append: a restarted agent goes on in the same file.
    pub(crate) fn append(&self) -> std::io::Result<File> {
        File::options().create(true).append(true).open(&self.path)
    }

    pub(crate) fn mark(&self) -> LogMark {
        LogMark(fs::metadata(&self.path).map_or(0, |metadata| metadata.len()))
    }

    pub(crate) fn text_since(&self, mark: LogMark) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(mark.0))?;
            file.read_to_end(&mut text)
        });
        // A log that does not exist yet is an empty one.
        read.map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// The lines that are JSON objects. Others come from before logging starts, or from a panic.
    pub(crate) fn lines_since(&self, mark: LogMark) -> Vec<Value> {
        let text = self.text_since(mark);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(crate) fn access_since(&self, mark: LogMark) -> Vec<AccessLine> {
        let lines = self.lines_since(mark).into_iter();
        let access = lines.filter(|line| line["scope"] == "access");
        access.filter_map(|line| serde_json::from_value(without_nulls(line)).ok()).collect()
    }

    /// The end of the log, for a failure's report.
    pub(crate) fn tail(&self) -> String {
        let text = self.text_since(LogMark::default());
        let lines: Vec<_> = text.lines().collect();
        let start = lines.len().saturating_sub(FAILURE_LINES);
        lines[start..].join("\n")
    }
}

/// A field that is logged as null is absent.
fn without_nulls(mut line: Value) -> Value {
    if let Some(fields) = line.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    line
}
