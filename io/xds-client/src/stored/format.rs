//! The stored state as bytes: a first line that names the format, one line of JSON about the whole,
//! the resources as they were sent, and a checksum. No part is used unless all of it is right.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use prost::Message;
use prost::bytes::{Buf, Bytes};
use proto::discovery::Resource;
use serde::{Deserialize, Serialize};
use xds::Record;

/// The first line. Another format has another number.
const FIRST_LINE: &[u8] = b"warren mesh state 1\n";
/// Longest second line, in bytes.
const HEADER_BYTES_MAX: usize = 4096;
/// Length of count and checksum.
const TRAILER_BYTES: usize = 16;

/// About the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Which control plane it is from, and what it was asked for.
    pub(crate) origin: String,
    /// When it was written, in milliseconds since 1970.
    pub(crate) written_ms: u64,
}

impl Header {
    pub(crate) fn written_at(&self) -> SystemTime {
        let since = Duration::from_millis(self.written_ms);
        SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Why bytes are not a stored state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// Something else, or of another version.
    #[error("is not in this version's format")]
    Foreign,
    /// Cut off, or changed since.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
}

/// Reads a state. Payloads are slices of `bytes`.
pub(crate) fn decode(mut bytes: Bytes) -> Result<(Header, Vec<Record>), FormatError> {
    if !bytes.starts_with(FIRST_LINE) {
        return Err(FormatError::Foreign);
    }
    let Some(end) = bytes.len().checked_sub(TRAILER_BYTES) else {
        return Err(FormatError::Damaged("it is cut off"));
    };
    let mut trailer = bytes.split_off(end);
    let (count, checksum) = (trailer.get_u64_le(), trailer.get_u64_le());
    if Checksum::of(&bytes) != checksum {
        return Err(FormatError::Damaged("the checksum differs"));
    }
    bytes.advance(FIRST_LINE.len());
    let line = bytes.iter().take(HEADER_BYTES_MAX).position(|byte| *byte == b'\n');
    let line = bytes.split_to(line.ok_or(FormatError::Damaged("there is no header"))?);
    let header = serde_json::from_slice(&line);
    let header = header.map_err(|_| FormatError::Damaged("the header cannot be read"))?;
    bytes.advance(1);
    let mut records = Vec::new();
    while bytes.has_remaining() {
        let resource = Resource::decode_length_delimited(&mut bytes);
        let resource = resource.map_err(|_| FormatError::Damaged("a resource cannot be read"))?;
        let record = Record::from_resource(resource);
        records.push(record.ok_or(FormatError::Damaged("a resource is of another type"))?);
    }
    // A checksum over nothing but zeros may be right by accident; the count then is not.
    if u64::try_from(records.len()) != Ok(count) {
        return Err(FormatError::Damaged("the number of resources differs"));
    }
    Ok((header, records))
}

/// Writes a state, piece by piece.
#[derive(Debug)]
pub(crate) struct Encoder<W> {
    out: W,
    checksum: Checksum,
    count: u64,
    bytes: u64,
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(out: W, header: &Header) -> io::Result<Self> {
        let mut encoder = Self { out, checksum: Checksum::default(), count: 0, bytes: 0 };
        encoder.put(FIRST_LINE)?;
        let mut line = serde_json::to_vec(header)?;
        line.push(b'\n');
        if line.len() > HEADER_BYTES_MAX {
            return Err(io::Error::other("the control plane's name is too long"));
        }
        encoder.put(&line)?;
        Ok(encoder)
    }

    /// One resource. A record of one that is gone adds nothing.
    pub(crate) fn record(&mut self, record: Record) -> io::Result<()> {
        let Some(resource) = record.into_resource() else { return Ok(()) };
        self.count += 1;
        self.put(&resource.encode_length_delimited_to_vec())
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the end, and returns what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        let (count, checksum) = (self.count.to_le_bytes(), self.checksum.0.to_le_bytes());
        self.out.write_all(&count)?;
        self.out.write_all(&checksum)?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.add(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.out.write_all(bytes)
    }
}

/// FNV-1a of 64 bits: against damage, not against people; the file is root's.
#[derive(Debug)]
struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    fn of(bytes: &[u8]) -> u64 {
        let mut checksum = Self::default();
        checksum.add(bytes);
        checksum.0
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use xds::{Kind, RecordBody};

    use super::*;

    fn record(kind: Kind, name: &str) -> Record {
        let body = RecordBody {
            version: "v".to_owned(),
            aliases: vec!["/10.0.0.1".to_owned()],
            bytes: Bytes::from(name.to_owned().into_bytes()),
        };
        Record { kind, name: name.to_owned(), body: Some(body) }
    }

    fn header() -> Header {
        Header { origin: "https://istiod:15012".to_owned(), written_ms: 1_700_000_000_000 }
    }

    fn written(records: &[Record]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), &header()).expect("in memory");
        for record in records {
            encoder.record(record.clone()).expect("in memory");
        }
        encoder.finish().expect("in memory")
    }

    fn two() -> [Record; 2] {
        [record(Kind::Address, "w1"), record(Kind::Authorization, "shop/p")]
    }

    #[test]
    fn what_is_written_is_read() {
        let gone = Record { body: None, ..record(Kind::Address, "w2") };
        let [first, second] = two();
        let bytes = written(&[first.clone(), gone, second.clone()]);
        assert_eq!(decode(bytes.into()), Ok((header(), vec![first, second])));
        assert_eq!(decode(written(&[]).into()), Ok((header(), vec![])));
        let since = Duration::from_secs(1_700_000_000);
        assert_eq!(header().written_at(), SystemTime::UNIX_EPOCH + since);
    }

    #[test]
    fn no_damage_goes_unnoticed() {
        let whole = written(&two());
        for length in 0..whole.len() {
            assert!(decode(Bytes::copy_from_slice(&whole[..length])).is_err(), "{length} bytes");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(decode(bytes.into()).is_err(), "bit {bit} of byte {at}");
            }
        }
        let longer = [&whole[..], b"\0"].concat();
        assert!(decode(longer.into()).is_err());
        let later = [&b"warren mesh state 2\n"[..], &whole[FIRST_LINE.len()..]].concat();
        assert_eq!(decode(later.into()), Err(FormatError::Foreign));
    }
}
