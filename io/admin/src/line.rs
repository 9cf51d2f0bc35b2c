//! Lines of JSON with a bound on their length.

use std::io;

use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

/// Reads up to the next newline, which is left out. `None` at the end of the stream.
///
/// A line longer than `max` bytes is an error of kind `InvalidData`; the stream is then of no
/// further use. Cancel safe only in that nothing is lost if the caller drops the stream too.
pub(crate) async fn read(
    stream: &mut (impl AsyncBufRead + Unpin),
    max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let chunk = stream.fill_buf().await?;
        if chunk.is_empty() {
            // A line without its newline was cut off.
            let cut_off = Err(io::ErrorKind::UnexpectedEof.into());
            return if line.is_empty() { Ok(None) } else { cut_off };
        }
        let newline = chunk.iter().position(|byte| *byte == b'\n');
        let taken = chunk.get(..newline.unwrap_or(chunk.len())).unwrap_or_default();
        if line.len().saturating_add(taken.len()) > max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
        }
        line.extend_from_slice(taken);
        let consumed = taken.len().saturating_add(usize::from(newline.is_some()));
        stream.consume(consumed);
        if newline.is_some() {
            return Ok(Some(line));
        }
    }
}

/// Writes one value and its newline.
pub(crate) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}
