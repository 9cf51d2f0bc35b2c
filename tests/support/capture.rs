//! What a sniffer has seen, and questions about it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, ensure};

use crate::frames::{Frame, TcpSegment};

/// First bytes of a TLS record: handshake or application data, of version 3.x.
const TLS_RECORDS: [[u8; 2]; 2] = [[0x16, 0x03], [0x17, 0x03]];

/// Captured frames, in order.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    pub(crate) frames: Vec<Frame>,
    /// Frames that the kernel or this program had no room for.
    pub(crate) lost: u64,
}

impl Capture {
    /// The frames.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Frames missing from it. A claim that something did *not* pass needs 0.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether any one frame holds these bytes.
    #[must_use]
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.frames.iter().any(|frame| find(&frame.bytes, needle))
    }

    /// Whether the bytes of any TCP connection, put in order, hold these, across segments too.
    #[must_use]
    pub fn tcp_payload_contains(&self, needle: &[u8]) -> bool {
        self.streams().values().any(|stream| find(stream, needle))
    }

    /// The TCP segments.
    pub fn segments(&self) -> impl Iterator<Item = TcpSegment<'_>> {
        self.frames.iter().filter_map(Frame::tcp)
    }

    /// Payload bytes to or from a port.
    #[must_use]
    pub fn payload_of_port(&self, port: u16) -> u64 {
        let of_port =
            self.segments().filter(|s| s.source.port() == port || s.destination.port() == port);
        of_port.map(|segment| crate::length(segment.payload.len())).sum()
    }

    /// Segments to each port, the connections' answers not counted.
    #[must_use]
    pub fn segments_by_destination_port(&self) -> BTreeMap<u16, u64> {
        let mut counts = BTreeMap::new();
        for segment in self.segments() {
            *counts.entry(segment.destination.port()).or_default() += 1;
        }
        counts
    }

    /// Segments to or from a port that begin with a TLS record.
    #[must_use]
    pub fn tls_records_of_port(&self, port: u16) -> usize {
        let of_port =
            self.segments().filter(|s| s.source.port() == port || s.destination.port() == port);
        of_port.filter(|s| TLS_RECORDS.iter().any(|start| s.payload.starts_with(start))).count()
    }

    /// The payload of each direction of each connection, in order and without repetitions. Bytes
    /// that were not captured are left out.
    #[must_use]
    pub fn streams(&self) -> BTreeMap<(SocketAddr, SocketAddr), Vec<u8>> {
        let mut all: BTreeMap<_, Vec<TcpSegment<'_>>> = BTreeMap::new();
        for segment in self.segments().filter(|s| s.syn || !s.payload.is_empty()) {
            all.entry((segment.source, segment.destination)).or_default().push(segment);
        }
        all.into_iter().map(|(pair, segments)| (pair, in_order(segments))).collect()
    }

    /// Writes it for Wireshark and tcpdump (the classic pcap format, Ethernet).
    pub fn write_pcap(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut out = BufWriter::new(file);
        let mut write = |fields: &[u32]| {
            fields.iter().try_for_each(|field| out.write_all(&field.to_ne_bytes()))
        };
        // Magic, version 2.4, zone, accuracy, snap length, link type.
        let version = u32::from_ne_bytes(pair(2, 4));
        write(&[0xa1b2_c3d4, version, 0, 0, 0x0004_0000, 1]).context("write a pcap header")?;
        for frame in &self.frames {
            let at = frame.at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
            let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
            let lengths = [number(frame.bytes.len()), number(frame.length)];
            for field in [seconds, at.subsec_micros(), lengths[0], lengths[1]] {
                out.write_all(&field.to_ne_bytes()).context("write a pcap record")?;
            }
            out.write_all(&frame.bytes).context("write a pcap record")?;
        }
        out.flush().context("write the pcap file")?;
        ensure!(path.exists(), "the pcap file is gone");
        Ok(())
    }
}

/// Two 16-bit fields of a pcap header, in the machine's order.
fn pair(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}

fn in_order(mut segments: Vec<TcpSegment<'_>>) -> Vec<u8> {
    // Sequence numbers wrap: positions count from the SYN or, without one, from the first seen.
    let start = segments.iter().find(|s| s.syn).map(|s| s.sequence.wrapping_add(1));
    let start = start.or_else(|| segments.first().map(|s| s.sequence)).unwrap_or(0);
    segments.retain(|segment| !segment.payload.is_empty());
    segments.sort_by_key(|segment| segment.sequence.wrapping_sub(start));
    let (mut stream, mut next) = (Vec::new(), 0_u32);
    for segment in segments {
        let at = segment.sequence.wrapping_sub(start);
        let known = usize::try_from(next.saturating_sub(at)).unwrap_or(usize::MAX);
        let fresh = segment.payload.get(known..).unwrap_or_default();
        stream.extend_from_slice(fresh);
        let end = at.saturating_add(u32::try_from(segment.payload.len()).unwrap_or(u32::MAX));
        next = next.max(end);
    }
    stream
}

fn find(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// A frame of IPv4 and TCP from port 1000 to port 2000.
    fn frame(sequence: u32, flags: u8, payload: &[u8]) -> Frame {
        let mut bytes = vec![0; 12];
        bytes.extend([0x08, 0x00, 0x45, 0]);
        let total = u16::try_from(40 + payload.len()).expect("a short payload");
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(1000_u16.to_be_bytes());
        bytes.extend(2000_u16.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        Frame { at: SystemTime::UNIX_EPOCH, length: bytes.len(), bytes }
    }

    #[test]
    fn streams_are_put_in_order() {
        // Out of order, repeated, overlapping, and with a sequence number that wraps.
        let first = u32::MAX - 1;
        let frames = vec![
            frame(first, 2, b""),
            frame(first.wrapping_add(5), 16, b"ret"),
            frame(first.wrapping_add(1), 16, b"a se"),
            frame(first.wrapping_add(1), 16, b"a secr"),
        ];
        let capture = Capture { frames, lost: 0 };
        let (pair, stream) = capture.streams().pop_first().expect("one direction");
        assert_eq!((pair.0.port(), pair.1.port()), (1000, 2000));
        assert_eq!(stream, b"a secret".get(..6).map(|s| [s, b"t"].concat()).unwrap_or_default());
        assert!(capture.tcp_payload_contains(b"secr"));
        assert!(!capture.contains(b"secret"));
        assert_eq!(capture.payload_of_port(2000), 13);
    }

    #[test]
    fn tls_is_recognised_by_its_record_header() {
        let frames = vec![frame(1, 16, &[0x17, 3, 3, 0, 1, 9]), frame(7, 16, b"GET / HTTP/1.1")];
        let capture = Capture { frames, lost: 0 };
        assert_eq!(capture.tls_records_of_port(2000), 1);
    }
}
